"""Quotes without HTTP: the equilibrium's numbers, in cents that never cost the builder."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rayworks.core.errors import DataError
from rayworks.systems.regulation.config import AuctionSection
from rayworks.systems.regulation.design import make_design
from rayworks.systems.regulation.exported import ExportedDesign, write_export
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve
from serve.apps.regulation_quotes import Quotes
from serve.apps.regulation_schemas import QuoteBody

UNIT = 100_000_000
PUBLISHED = Quotes(None, UNIT)


def body(value: Any, share: Any, price: Any = None) -> QuoteBody:
    return QuoteBody(value=value, share=share, price=price)


def export(folder: Path, curve: PriceCurve, **auction: Any) -> Quotes:
    section = AuctionSection(**auction)
    exported = ExportedDesign(make_design(section, curve), section)
    write_export(exported, lambda name, data: (folder / name).write_bytes(data))
    return Quotes(str(folder), UNIT)


def test_the_papers_design_is_quoted_without_an_export() -> None:
    found = PUBLISHED.quote(body(80_000_000, "0.4"))
    design = make_design(AuctionSection(), published_curve())
    assert (found.design, found.mode, found.price_cents) == ("published", "paper", 50_000_000)
    assert (found.deployment_value_cents, found.premium_worth_cents) == (48_000_000, 32_000_000)
    exact = float(design.equilibrium.bid(0.32))
    assert exact * UNIT <= found.bid_cents < exact * UNIT + 1
    assert found.win_probability == float(design.equilibrium.win(0.32))
    assert found.interim_utility_cents == pytest.approx(0.48e8 + 0.32e8 * found.win_probability - exact * UNIT, abs=1)
    assert found.participate
    assert found.compliance == pytest.approx(float(design.curve.compliance(exact)), abs=1e-7)
    assert found.threshold == pytest.approx(0.5894578)


@settings(deadline=None)
@given(st.integers(0, UNIT), st.decimals(0, "0.5", places=6))
def test_bids_are_never_below_the_price_and_entry_never_costs(value: int, share: Decimal) -> None:
    found = PUBLISHED.quote(body(value, share))
    assert found.price_cents <= found.bid_cents <= UNIT
    assert found.compliance >= found.threshold
    assert found.deployment_value_cents + found.premium_worth_cents == value
    assert found.interim_utility_cents >= 0 or not found.participate
    assert found.participate or found.interim_utility_cents <= 0
    design = make_design(AuctionSection(), published_curve())
    deployment, worth = value * (1 - float(share)) / UNIT, value * float(share) / UNIT
    if abs(found.interim_utility_cents) > 2:
        assert found.participate == bool(design.equilibrium.participates(deployment, worth))


def test_an_export_is_quoted_as_it_was_solved(tmp_path: Path) -> None:
    auction = {"distribution": "beta22", "price": 0.1, "mode": "fixed_point", "premium_scale": 1.5, "group_size": 3}
    quotes = export(tmp_path, PriceCurve.identity(), **auction)
    found = quotes.quote(body(60_000_000, 0.25))
    assert (found.design, found.mode, found.price_cents, found.threshold) == ("export", "fixed_point", 10_000_000, 0.1)
    assert (found.deployment_value_cents, found.premium_worth_cents) == (45_000_000, 22_500_000)
    expected = make_design(AuctionSection(**auction), PriceCurve.identity()).equilibrium.bid(0.225)
    assert found.bid == pytest.approx(float(expected), abs=1e-8)
    assert found.compliance == found.bid


def test_another_price_is_solved_anew_with_its_threshold() -> None:
    found = PUBLISHED.quote(body(90_000_000, 0.5, 0.7))
    design = make_design(AuctionSection(price=0.7), published_curve())
    assert (found.price, found.price_cents, found.threshold) == (0.7, 70_000_000, design.rules.threshold)
    assert found.bid == pytest.approx(float(design.equilibrium.bid(0.45)), abs=1e-8)
    with pytest.raises(DataError, match=r"price: .*0\.05 is outside"):
        PUBLISHED.quote(body(90_000_000, 0.5, 0.05))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((UNIT + 1, 0.4), "value: 100000001 is above"),
        ((1, "0.500001"), "share: 0.500001 is above 0.5"),
    ],
)
def test_what_the_design_is_not_for_is_refused(fields: tuple[Any, ...], words: str) -> None:
    with pytest.raises(DataError, match=words):
        PUBLISHED.quote(body(*fields))


@pytest.mark.parametrize(
    "fields",
    [(1.5, 0.4), ("1", 0.4), (True, 0.4), (-1, 0.4), (1, "half"), (1, "NaN"), (1, -0.1), (1, 0.1, 0), (1, 0.1, 1)],
)
def test_money_is_whole_and_shares_are_numbers(fields: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError):
        body(*fields)


def test_missing_and_broken_exports(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none"):
        Quotes(str(tmp_path / "none"), UNIT)
    for content in ("{", "[]", '{"auction": {}, "values": null, "curve": {}}'):
        (tmp_path / "design.json").write_text(content)
        with pytest.raises(DataError, match="is not the export of a finished regulation run"):
            Quotes(str(tmp_path), UNIT)
