"""The export: the design that Serve quotes from."""

import json
from dataclasses import dataclass
from pathlib import Path

from rayworks.core.exports import Write, reading
from rayworks.systems.regulation.config import AuctionSection
from rayworks.systems.regulation.design import Design, make_design
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.value_distributions import SampleValues

DESIGN = "design.json"


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
