"""A design as the config states it: its auction, its rules, its equilibrium, and one round of it with a certificate."""

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from rayworks.core.errors import DataError
from rayworks.core.tables import SUFFIXES, read_table, suffix_of
from rayworks.systems.regulation import value_distributions
from rayworks.systems.regulation.certificate import certify, winning_chance
from rayworks.systems.regulation.config import LARGEST_SCALE, AuctionSection, CertificateSection
from rayworks.systems.regulation.contests import bye_probability
from rayworks.systems.regulation.equilibrium import Auction, Equilibrium, Mode
from rayworks.systems.regulation.mechanism import Rules
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.simulation import play_round
from rayworks.systems.regulation.solving import solve

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?"
COLUMN = "value"
"""Of a file of values."""
SCALE_STEP = 3.0
"""By which the search for a premium within a budget widens, up to the largest scale."""


@dataclass(frozen=True)
class Design:
    """What the regulator publishes, solved."""

    equilibrium: Equilibrium
    rules: Rules
    curve: PriceCurve

    @property
    def auction(self) -> Auction:
        """The auction with its price and premium."""
        return self.equilibrium.auction


def make_design(
    section: AuctionSection, curve: PriceCurve, distribution: value_distributions.ValueDistribution | None = None
) -> Design:
    """The price from the threshold or the reverse, the premium from its budget, and the bids.

    Args:
        curve: what compliance costs.
        distribution: of total value, in place of the one that the settings name.

    Raises:
        DataError: price or threshold is outside the curve's range, the budget out of reach, or no value reaches the
            price.
    """
    try:
        if section.price is None:
            assert section.threshold is not None
            price, threshold = float(curve.cost(section.threshold)), section.threshold
        else:
            price, threshold = section.price, float(curve.compliance(section.price))
    except DataError as error:
        name = "auction.threshold" if section.price is None else "auction.price"
        raise DataError(f"{name}: {error}, or set price.curve: identity") from None
    published = section.model_dump(include=set(Auction.__dataclass_fields__) - {"distribution", "price"})
    auction = Auction(distribution or value_distribution(section.distribution), price, **published)
    rules = Rules(threshold, section.group_size, section.prizes, section.tie, section.bye)
    return Design(solved(auction, section.mode, section.premium_budget), rules, curve)


def value_distribution(text: str) -> value_distributions.ValueDistribution:
    """The distribution that a config names.

    Raises:
        DataError: it is none of those known, or a file without usable values.
    """
    if text == "uniform":
        return value_distributions.UniformValues()
    if text == "beta22":
        return value_distributions.SymmetricBetaValues()
    shape = re.fullmatch(rf"beta\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)", text)
    if shape:
        return value_distributions.BetaValues(float(shape[1]), float(shape[2]))
    if not suffix_of(text):
        raise DataError(f"distribution {text!r}: unknown; uniform, beta22, beta(A,B), or a {', '.join(SUFFIXES)} file")
    table = read_table(text, "distribution", keep_default_na=True)
    if COLUMN not in table:
        found = ", ".join(map(str, table.columns))
        raise DataError(f"distribution {text}: has no column {COLUMN!r}; its columns are {found}")
    column = pd.to_numeric(table[COLUMN], errors="coerce")
    return value_distributions.SampleValues(column.to_numpy(dtype=float), name=Path(text).stem)


def expected_premiums(equilibrium: Equilibrium) -> float:
    """Worth of all premiums given to those who enter and win, per builder of the whole population."""
    entering = equilibrium.entrants()
    if not entering.participation > 0:
        return 0.0
    return entering.total(entering.z * winning_chance(equilibrium, entering))


@lru_cache(maxsize=16)
def solved(auction: Auction, mode: Mode, budget: float | None) -> Equilibrium:
    """The equilibrium; repetitions of a design in one process solve it once, unless its distribution is read from a file.

    Under a budget it is that of the ``premium_scale`` at which premiums are expected to be worth so much per builder, to a
    ten-thousandth: some ten solutions, each found from the last.

    Raises:
        DataError: so much, or so little, cannot be spent.
    """
    if budget is None:
        return solve(auction, mode)
    found: Equilibrium | None = None

    def excess(log_scale: float) -> float:
        nonlocal found
        found = solve(replace(auction, premium_scale=float(np.exp(log_scale))), mode, found)
        return expected_premiums(found) - budget

    step = np.log(SCALE_STEP) if excess(0.0) < 0 else -np.log(SCALE_STEP)
    low, high = 0.0, step
    while excess(high) * step < 0:
        low, high = high, high + step
        if abs(high) > np.log(LARGEST_SCALE):
            raise DataError(
                f"auction.premium_budget {budget:g}: neither {LARGEST_SCALE:g} times the paper's premiums nor a part of them "
                "comes to that; choose another"
            )
    root = optimize.brentq(excess, low, high, xtol=1e-4)
    return solve(replace(auction, premium_scale=float(np.exp(root))), mode, found)


def measure_design(design: Design, grid: CertificateSection, builders: int, seed: int) -> dict[str, Any]:
    """One round and the certificates of a design, as plain values."""
    equilibrium, auction = design.equilibrium, design.auction
    played = play_round(equilibrium, design.curve, design.rules, builders, seed)
    premise = certify(equilibrium, "premise", grid.types, grid.deviations)
    entrants = certify(equilibrium, "entrants", grid.types, grid.deviations)
    entering = equilibrium.entrants()
    return {
        "round": {
            **{name: value for name, value in vars(played).items() if name != "outcome"},
            "compliance_gain": played.compliance_gain,
            "participation_compliance": played.participation_compliance,
        },
        "certificates": {"premise": premise.as_dict(), "entrants": entrants.as_dict()},
        "builders": auction.builders,
        "left_over": entrants.left_over,
        "no_group": bye_probability(entering.participation, auction.builders, auction.group_size, "redraw"),
        "price": auction.price,
        "threshold": design.rules.threshold,
        "premium_scale": auction.premium_scale,
        "participation": entering.participation,
        "mean_bid": entering.mean(equilibrium.bid(entering.z)) if entering.participation > 0 else 0.0,
        "premiums": expected_premiums(equilibrium),
        "pool": equilibrium.pool if equilibrium.pool < float("inf") else None,
        "rounds": equilibrium.rounds,
    }
