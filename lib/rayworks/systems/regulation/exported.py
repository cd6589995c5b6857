"""The export: the design that Serve quotes from, and its curves as tables."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.exports import Write, reading
from rayworks.systems.regulation.config import AuctionSection
from rayworks.systems.regulation.design import Design, make_design
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.value_distributions import SampleValues

DESIGN, BIDS, CURVES = "design.json", "bids.csv", "curves.csv"
LISTED = 1001
"""Types whose bids are listed, equally spaced."""


@dataclass(frozen=True)
class ExportedDesign:
    """Contents of an export."""

    design: Design
    section: AuctionSection
    """The settings that it was solved from."""


def write_export(exported: ExportedDesign, write: Write) -> None:
    """Write ``design.json``; ``values`` holds the points of a sample distribution, whose file may be gone later."""
    auction = exported.design.auction
    solved = {"price": auction.price, "premium_scale": auction.premium_scale}
    settings = exported.section.model_dump(mode="json") | solved | {"threshold": None, "premium_budget": None}
    distribution = auction.distribution
    described = {
        "auction": settings,
        "values": distribution.points.tolist() if isinstance(distribution, SampleValues) else None,
        "curve": exported.design.curve.to_dict(),
    }
    write(DESIGN, json.dumps(described, indent=2).encode())


def bids_csv(design: Design) -> bytes:
    """Per worth of the premium: bid, chance of a prize, rent, and the total value above which the type enters."""
    equilibrium = design.equilibrium
    z = np.linspace(0, design.auction.top, LISTED)
    columns = [z, equilibrium.bid(z), equilibrium.win(z), equilibrium.rent(z), equilibrium.entry_value(z)]
    names = ("premium_worth", "bid", "win_probability", "rent", "enters_above_value")
    return _csv(names, list(np.column_stack(columns).tolist()))


def curves_csv(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float | None]]]]) -> bytes:
    """Both mechanisms against the price, under each distribution, exact and drawn; an empty cell is a mean over nobody."""
    rows: list[list[Any]] = []
    names: tuple[str, ...] = ()
    for distribution, kinds in curves.items():
        for kind, columns in kinds.items():
            names = tuple(columns)
            rows += [[distribution, kind, *values] for values in zip(*columns.values(), strict=True)]
    return _csv(("distribution", "by", *names), rows)


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([names, *rows])
    return written.getvalue().encode()


def read_export(folder: str | Path) -> ExportedDesign:
    """Read what :func:`write_export` wrote, and solve it again.

    Raises:
        DataError: the file is missing, damaged, or no design.
    """
    with reading(folder, "regulation") as path:
        described = json.loads((path / DESIGN).read_text())
        section = AuctionSection.model_validate(described["auction"])
        values = described["values"]
        distribution = None if values is None else SampleValues(values, name=Path(section.distribution).stem)
        return ExportedDesign(make_design(section, PriceCurve.from_dict(described["curve"]), distribution), section)
