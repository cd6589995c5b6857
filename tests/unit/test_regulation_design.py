"""A design from its settings, its budget, its file, and what the settings refuse."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.regulation.config import AuctionSection, CertificateSection, Config
from rayworks.systems.regulation.design import (
    expected_premiums,
    make_design,
    measure_design,
    value_distribution,
)
from rayworks.systems.regulation.exported import DESIGN, ExportedDesign, read_export, write_export
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve

GRID = CertificateSection(types=201, deviations=201)


def test_price_and_threshold_name_each_other() -> None:
    curve = published_curve()
    by_price = make_design(AuctionSection(price=0.5), curve)
    assert by_price.rules.threshold == pytest.approx(0.590, abs=1e-3)
    by_threshold = make_design(AuctionSection(price=None, threshold=by_price.rules.threshold), curve)
    assert by_threshold.auction.price == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("mode", ["paper", "fixed_point"])
def test_a_budget_sets_the_premium(mode: str) -> None:
    section = AuctionSection(price=0.4, premium_budget=0.03, group_size=3, mode=mode)
    design = make_design(section, PriceCurve.identity())
    assert expected_premiums(design.equilibrium) == pytest.approx(0.03, rel=1e-3)
    measured = measure_design(design, GRID, 100_000, seed=0)
    assert measured["round"]["premium_paid"] == pytest.approx(0.03, rel=0.03)
    assert measured["premium_scale"] == design.auction.premium_scale
    with pytest.raises(DataError, match=r"auction\.premium_budget 500:"):
        make_design(AuctionSection(price=0.9, premium_budget=500), PriceCurve.identity())


def test_more_budget_brings_more_in() -> None:
    found = [
        make_design(AuctionSection(price=0.5, premium_budget=budget, mode="fixed_point"), PriceCurve.identity())
        for budget in (0.005, 0.02, 0.08)
    ]
    taking_part = [design.equilibrium.entrants().participation for design in found]
    assert taking_part == sorted(taking_part)


def test_a_design_survives_its_file(tmp_path: Path) -> None:
    values = tmp_path / "values.csv"
    pd.DataFrame({"value": np.linspace(0.05, 1, 200)}).to_csv(values, index=False)
    section = AuctionSection(
        distribution=str(values), price=None, threshold=0.6, premium_budget=0.02, group_size=3, prizes=2
    )
    design = make_design(section, published_curve(resamples=10))
    write_export(ExportedDesign(design, section), lambda name, data: (tmp_path / name).write_bytes(data))
    values.unlink()
    again = read_export(tmp_path).design
    z = np.linspace(0, design.auction.top, 50)
    np.testing.assert_allclose(again.equilibrium.bid(z), design.equilibrium.bid(z), atol=1e-9)
    assert again.rules.threshold == pytest.approx(0.6, abs=1e-12)
    assert replace(again.rules, threshold=0.6) == design.rules
    written = json.loads((tmp_path / DESIGN).read_text())
    (tmp_path / DESIGN).write_text(json.dumps({**written, "auction": {"price": 2}}))
    with pytest.raises(DataError, match="is not the export of a finished regulation run"):
        read_export(tmp_path)


@pytest.mark.parametrize(
    ("distribution", "words"),
    [
        ("normal", "unknown"),
        ("beta(0, 2)", "a > 0"),
        ("nowhere.csv", "cannot be read"),
    ],
)
def test_distributions_that_are_none(distribution: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        value_distribution(distribution)


def test_files_of_values_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "values.csv"
    for table, words in (
        ({"worth": [0.1, 0.2]}, "has no column 'value'"),
        ({"value": [0.1, -0.2]}, "row 1 has mass below zero"),
        ({"value": [0.1, "much"]}, "row 1"),
        ({"value": [0.1, 3.0]}, "value 3 in row 1 must lie"),
        ({"value": [0.1]}, "at least two"),
    ):
        pd.DataFrame(table).to_csv(path, index=False)
        with pytest.raises(DataError, match=words):
            value_distribution(str(path))


def test_a_price_off_the_curve_is_refused_with_the_field() -> None:
    with pytest.raises(DataError, match=r"auction\.price: .*outside"):
        make_design(AuctionSection(price=0.05), published_curve())
    with pytest.raises(DataError, match=r"auction\.threshold: .*outside"):
        make_design(AuctionSection(price=None, threshold=0.2), published_curve())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auction.price": 1.0}, "auction.price"),
        ({"auction.price": 0}, "auction.price"),
        ({"auction.threshold": 0.6}, "set one and the other to null"),
        ({"auction.group_size": 1}, "auction.group_size"),
        ({"auction.prizes": 2}, "leaves no contest"),
        ({"auction.cap": 0.3}, "auction.cap"),
        ({"scope.stages": ["curves"]}, "design is missing"),
        ({"scope.stages": ["design"], "price.curve": "measured"}, "needs the stage price"),
        ({"price.shares": [0.1, 0.2, 0.7]}, "price.shares"),
        ({"noise.levels": [-0.1]}, "noise.levels"),
        ({"stress.rings": [1.5]}, "stress.rings"),
        ({"price.positive": True}, "price.positive"),
    ],
)
def test_settings_that_can_not_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.resolve(Config, overrides=settings)
