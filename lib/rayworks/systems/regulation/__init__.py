"""The auction that pays model builders for safety (auction-based regulation, arXiv 2410.01871).

Builders spend on compliance before they know whether it pays; those who clear a threshold may deploy, compete in random
pairs, and the safer of each pair gets a premium. Bids solve the all-pay auction exactly, with a certificate of what a builder
could gain by leaving them; the mechanism is a pure function with an audit, and its design can be tuned.
"""

from rayworks.core.registry import SystemSpec
from rayworks.systems.regulation.config import Config

SPEC = SystemSpec(
    name="regulation",
    title="Auction-based regulation: builders paid for safety",
    paper="arXiv 2410.01871",
    config=Config,
    system="rayworks.systems.regulation.system:RegulationSystem",
    smoke={
        "run.name": "smoke",
        "price.seeds": 3,
        "learning.rounds": 1000,
        "noise.rounds": 200,
    },
    headline=(
        "participation_auction",
        "participation_reserve",
        "mean_bid_auction",
        "compliance_gain",
        "exploitability",
        "certificate_grid",
    ),
    optional_headline=("participation_compliance", "premium_paid", "compliance_auction", "compliance_spend"),
    figures=(
        "bids.png",
        "participation.png",
        "regret.png",
        "price_of_safety.png",
        "learning.png",
        "stress.png",
    ),
    needs=("adult",),
)

__all__ = ["SPEC", "Config"]
