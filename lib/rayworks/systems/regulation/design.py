"""A design as the config states it: its auction, its rules, its equilibrium, and one round of it with a certificate."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import optimize

from rayworks.core.errors import DataError
from rayworks.systems.regulation.certificate import certify
from rayworks.systems.regulation.config import AuctionSection, CertificateSection
from rayworks.systems.regulation.equilibrium import Auction, Equilibrium, solve
from rayworks.systems.regulation.mechanism import Rules
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.simulation import Round, play_round
from rayworks.systems.regulation.value_laws import BetaLaw, SampleLaw, SymmetricBetaLaw, UniformLaw, ValueLaw

COLUMN = "value"
"""Of a file of values."""
LARGEST_SCALE = 100.0


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


def make_design(section: AuctionSection, curve: PriceCurve, law: ValueLaw | None = None) -> Design:
    """The price from the threshold or the reverse, the premium from its budget, and the bids.

    Args:
        section: the settings.
        curve: what compliance costs.
        law: of total value, in place of the one that the settings name.

    Raises:
        DataError: price or threshold is outside the curve's range, the budget out of reach, or the law without such values.
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
    auction = Auction(
        law=law or value_law(section.law),
        price=price,
        largest_share=section.largest_share,
        premium_scale=section.premium_scale,
        group_size=section.group_size,
        prizes=section.prizes,
        tie=section.tie,
        cap=section.cap,
    )
    if section.premium_budget is not None:
        auction = _within_budget(auction, section)
    rules = Rules(threshold, section.group_size, section.prizes, section.tie, section.bye)
    return Design(solve(auction, section.mode), rules, curve)


def value_law(text: str) -> ValueLaw:
    """The law that a config names.

    Raises:
        DataError: it is none of those known, or a file without usable values.
    """
    if text == "uniform":
        return UniformLaw()
    if text == "beta22":
        return SymmetricBetaLaw()
    shape = re.fullmatch(r"beta\(\s*([0-9.]+)\s*,\s*([0-9.]+)\s*\)", text)
    if shape:
        return BetaLaw(float(shape[1]), float(shape[2]))
    path = Path(text).expanduser()
    if path.suffix not in (".csv", ".parquet"):
        raise DataError(f"law {text!r}: unknown; uniform, beta22, beta(A,B), or a .csv or .parquet file")
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"law {text}: can not be read ({' '.join(str(error).split())[:200]})") from None
    if COLUMN not in table:
        raise DataError(f"law {text}: has no column {COLUMN!r}; its columns are {', '.join(map(str, table.columns))}")
    column = pd.to_numeric(table[COLUMN], errors="coerce")
    return SampleLaw(column.to_numpy(dtype=float), name=path.stem)


def expected_premiums(equilibrium: Equilibrium) -> float:
    """Worth of all premiums given, per builder of the whole population."""
    entering = equilibrium.entrants()
    if not entering.participation > 0:
        return 0.0
    return entering.total(entering.z * equilibrium.win(entering.z))


def _within_budget(auction: Auction, section: AuctionSection) -> Auction:
    budget = section.premium_budget
    assert budget is not None

    def excess(scale: float) -> float:
        return expected_premiums(solve(replace(auction, premium_scale=scale), section.mode)) - budget

    high = 1.0
    while excess(high) < 0:
        high *= 2
        if high > LARGEST_SCALE:
            raise DataError(
                f"auction.premium_budget {budget:g}: can not be spent, even premiums worth {LARGEST_SCALE:g} times the "
                "paper's come to less; lower it"
            )
    low = high
    while excess(low) > 0:
        low /= 2
    return replace(auction, premium_scale=float(optimize.brentq(excess, low, high, xtol=1e-10)))


def measure_design(design: Design, grid: CertificateSection, builders: int, seed: int) -> dict[str, Any]:
    """One round and the certificates of a design, as plain values."""
    played = play_round(design.equilibrium, design.curve, design.rules, builders, seed)
    premise = certify(design.equilibrium, "premise", grid.types, grid.deviations)
    entrants = certify(design.equilibrium, "entrants", grid.types, grid.deviations)
    entering = design.equilibrium.entrants()
    return {
        "round": round_as_dict(played),
        "certificates": {"premise": premise.as_dict(), "entrants": entrants.as_dict()},
        "price": design.auction.price,
        "threshold": design.rules.threshold,
        "premium_scale": design.auction.premium_scale,
        "participation": entering.participation,
        "mean_bid": entering.mean(design.equilibrium.bid(entering.z)) if entering.participation > 0 else 0.0,
        "premiums": expected_premiums(design.equilibrium),
        "pool": design.equilibrium.pool if design.equilibrium.pool < float("inf") else None,
        "rounds": design.equilibrium.rounds,
    }


def round_as_dict(played: Round) -> dict[str, Any]:
    """The numbers of a round, without its outcome."""
    values = {name: value for name, value in vars(played).items() if name != "outcome"}
    return {
        **values,
        "compliance_gain": played.compliance_gain,
        "participation_compliance": played.participation_compliance,
    }


def write_design(design: Design, section: AuctionSection) -> dict[str, Any]:
    """The design as JSON; of a sample law, whose file need not be there any more, ``values`` holds the points."""
    auction = design.auction
    resolved = {**section.model_dump(mode="json"), "price": auction.price, "threshold": None, "premium_budget": None}
    law = auction.law
    return {
        "auction": {**resolved, "premium_scale": auction.premium_scale, "law": law.name},
        "values": law.points.tolist() if isinstance(law, SampleLaw) else None,
        "curve": design.curve.to_dict(),
    }


def read_design(values: Mapping[str, Any]) -> Design:
    """The design that :func:`write_design` wrote, solved again.

    Raises:
        DataError: it is not one.
    """
    try:
        section = AuctionSection.model_validate(values["auction"])
        law = None if values["values"] is None else SampleLaw(values["values"], name=section.law)
        return make_design(section, PriceCurve.from_dict(values["curve"]), law)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"design: is not one that a run exported ({' '.join(str(error).split())}); run it again"
        ) from None
