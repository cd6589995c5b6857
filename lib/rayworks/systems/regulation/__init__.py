"""The auction that pays model builders for safety (auction-based regulation, arXiv 2410.01871).

Builders spend on compliance before they know whether it pays; those who clear a threshold may deploy, compete in random
pairs, and the safer of each pair gets a premium. Bids solve the all-pay auction exactly, with a certificate of what a builder
could gain by leaving them; the mechanism is a pure function with an audit, and its design can be tuned.
"""

from typing import TYPE_CHECKING

from rayworks.core.registry import SystemSpec, on_demand
from rayworks.systems.regulation.config import Config

if TYPE_CHECKING:
    from rayworks.systems.regulation.equilibrium import Auction
    from rayworks.systems.regulation.price_curve import published_curve
    from rayworks.systems.regulation.simulation import exact_curves
    from rayworks.systems.regulation.solving import solve
    from rayworks.systems.regulation.value_distributions import UniformValues

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

__getattr__ = on_demand(
    __name__,
    {
        "Auction": "equilibrium",
        "UniformValues": "value_distributions",
        "exact_curves": "simulation",
        "published_curve": "price_curve",
        "solve": "solving",
    },
)

__all__ = ["SPEC", "Auction", "Config", "UniformValues", "exact_curves", "published_curve", "solve"]
