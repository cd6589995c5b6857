"""The measured price of safety: rows, rates and gaps by hand, a run that depends on its seed alone, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rayworks.core.errors import DataError
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.price_points import gap_trend, points_from_gaps
from rayworks.systems.regulation.safety_training import equalised_odds_gap, measure, rates
from rayworks.systems.regulation.training_table import TrainingOptions, draw_rows, read_table


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> TrainingOptions:
    """Loans of two towns: in the north income decides, in the south savings do."""
    random = np.random.default_rng(0)
    income, savings = random.normal(size=(2, 3000))
    town = np.where(random.random(3000) < 0.5, "north", "south")
    good = np.where(town == "north", income, savings) + random.normal(0, 0.3, 3000) > 0
    path = tmp_path_factory.mktemp("loans") / "loans.csv"
    trade = random.choice(["baker", "smith"], 3000)
    table = {"income": income, "savings": savings, "trade": trade, "town": town, "repaid": np.where(good, "yes", "no")}
    pd.DataFrame(table).to_csv(path, index=False)
    return TrainingOptions(
        source=str(path),
        label="repaid",
        positive="yes",
        group="town",
        majority="north",
        minority="south",
        dropped=("trade",),
        group_visible=True,
        majority_rows=600,
        validation_rows=60,
        test_rows=250,
        hidden=16,
        epochs=15,
    )


def test_rates_and_gap_by_hand() -> None:
    """Majority: 3 of 4 positives found, 1 of 2 negatives taken; minority: 1 of 2 and 0 of 3. Gap 25 + 50 points."""
    label = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0], bool)
    predicted = np.array([1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0], bool)
    true_positive, false_positive = rates(predicted, label, np.arange(11) >= 6)
    assert (true_positive, false_positive) == ((0.75, 0.5), (0.5, 0.0))
    assert equalised_odds_gap(true_positive, false_positive) == pytest.approx(75)


def test_an_even_share_makes_the_model_even(options: TrainingOptions) -> None:
    """A town with a rule of its own is served badly from few rows, and as well as the other from as many."""
    outcomes = [measure(options, share, seed) for share in (0.05, 0.2, 0.5) for seed in range(4)]
    share, gap = (np.array([getattr(outcome, name) for outcome in outcomes]) for name in ("share", "gap"))
    assert gap_trend(share, gap).falls
    assert gap[share == 0.05].mean() > 3 * gap[share == 0.5].mean()
    curve = PriceCurve.fit(points_from_gaps(share, gap, resamples=200), "isotonic")
    assert curve.warning == ""
    assert float(curve.compliance(0.4)) < float(curve.compliance(1.0)) == 1
    for outcome in outcomes:
        assert outcome.gap == equalised_odds_gap(outcome.true_positive_rate, outcome.false_positive_rate)
        right = np.array([outcome.true_positive_rate, 1 - np.array(outcome.false_positive_rate)])
        assert outcome.accuracy == pytest.approx(right.mean())


def test_a_run_depends_on_its_seed_alone(options: TrainingOptions) -> None:
    few = replace(options, epochs=2)
    first = measure(few, 0.2, 0)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert measure(few, 0.2, 1) != replace(first, seed=1)
    assert measure(few, 0.2, 0) == first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("hidden", [0, 16])
def test_the_logistic_model_is_a_network_without_a_hidden_layer(options: TrainingOptions, hidden: int) -> None:
    assert measure(replace(options, hidden=hidden), 0.5, 0).accuracy > 0.7


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_rows_are_drawn_as_the_protocol_says(options: TrainingOptions, share: float) -> None:
    table = read_table(options)
    split, even = draw_rows(table, options, share, 0), draw_rows(table, options, 0.5, 0)

    def cells(rows: np.ndarray) -> list[int]:
        return list(np.bincount(2 * table.minority[rows] + table.label[rows], minlength=4))

    minority = round(share * 600 / (1 - share) / 2)
    assert cells(split.training) == [300, 300, minority, minority]
    assert cells(split.validation)[:2] == [30, 30]
    assert cells(split.validation)[2] == round(share * 60 / (1 - share) / 2)
    assert cells(split.test) == [250] * 4
    every = np.concatenate([split.training, split.validation, split.test])
    assert len(np.unique(every)) == len(every)
    assert set(split.test) == set(even.test)
    assert set(split.training) <= set(even.training)
    assert set(split.validation) <= set(even.validation)
    assert set(draw_rows(table, options, share, 1).test) != set(split.test)


def test_labels_may_be_as_frequent_as_in_the_groups(options: TrainingOptions) -> None:
    table = read_table(options)
    natural = replace(options, balanced_labels=False, majority_rows=400)
    split = draw_rows(table, natural, 0.5, 0)
    for in_minority in (False, True):
        rate = table.label[table.minority == in_minority].mean()
        rows = split.training[table.minority[split.training] == in_minority]
        assert table.label[rows].mean() == pytest.approx(rate, abs=2 / 400)
    assert table.label[split.test].mean() == 0.5


def test_the_census_has_what_the_defaults_name() -> None:
    options = TrainingOptions()
    table = read_table(options)
    assert len(table.inputs) == 48_842
    assert (table.minority & table.label).sum() == 1_769
    assert (~table.minority & table.label).sum() == 9_918
    visible = read_table(replace(options, group_visible=True))
    assert visible.inputs.shape[1] == table.inputs.shape[1] + 2
    outcome = measure(replace(options, epochs=1), 0.5, 0)
    assert outcome.accuracy > 0.7


def test_missing_numbers_are_average_and_missing_labels_left_out(options: TrainingOptions, tmp_path: Path) -> None:
    frame = pd.read_csv(options.source)
    frame.loc[:9, "income"] = np.nan
    frame.loc[10:19, "income"] = np.inf
    frame.loc[20:29, "repaid"] = None
    frame.loc[30:39, "town"] = None
    frame.to_parquet(tmp_path / "loans.parquet")
    table = read_table(replace(options, source=str(tmp_path / "loans.parquet")))
    assert len(table.inputs) == 2980
    assert np.isfinite(table.inputs).all()
    assert table.numeric == 2
    np.testing.assert_allclose(table.inputs[:20, 0], table.inputs[20:, 0].mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"source": "nowhere.csv"}, r"price.source 'nowhere.csv': cannot be read"),
        (
            {"source": "census"},
            r"price.source 'census': is neither adult nor a .csv, .tsv, .csv.gz, .jsonl, .parquet file",
        ),
        ({"label": "paid"}, r"price.label: .* has no column 'paid'; it has income, savings"),
        ({"group": "village"}, r"price.group: .* has no column 'village'"),
        ({"dropped": ("age",)}, r"price.dropped: .* has no column 'age'"),
        ({"dropped": ("income", "savings", "trade", "town")}, r"price.dropped: leaves no column"),
        ({"minority": "west"}, r"price.minority: no row of .* has town 'west'; it has"),
        ({"minority": "north"}, r"price.minority: is 'north' like price.majority"),
        ({"positive": "maybe"}, r"price.positive: 'maybe' is the repaid of all or no rows"),
        ({"majority_rows": 5000}, r"price.majority_rows: 2780 rows of repaid not yes among town north are needed"),
        ({"majority_rows": 10}, r"price.shares: 0.05 leaves no row of repaid not yes among town south in training"),
    ],
)
def test_what_can_not_be_measured_is_refused(options: TrainingOptions, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure(replace(options, **changed), 0.05, 0)


@pytest.mark.parametrize("share", [0.0, 0.51, float("nan")])
def test_a_share_is_that_of_a_minority(options: TrainingOptions, share: float) -> None:
    with pytest.raises(DataError, match=r"price.shares: .* is not a minority's share"):
        measure(options, share, 0)


def test_no_runs_make_no_points() -> None:
    with pytest.raises(DataError, match="at least one"):
        points_from_gaps(np.zeros(0), np.zeros(0))
    assert points_from_gaps(np.array([0.5]), np.array([4.0])).safety.tolist() == [1.0]
