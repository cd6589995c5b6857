"""Labels: their form, their ties, and the six sets rebuilt from simulated evidence."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.answering.profiles import trend_test
from rayworks.systems.difficulty.item_response.linking import Link
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.labels.label_builders import EVIDENCE, from_attempts, from_responses, from_solve_rates
from rayworks.systems.difficulty.labels.label_form import bin_probabilities, common_scale, drift, label
from rayworks.systems.difficulty.labels.solve_rates import expected_rate
from tests.published_points import PUBLISHED_POINTS
from tests.simulated_responses import simulated

COLUMNS = [
    "item",
    "unnorm_rating",
    "unnorm_rating_std",
    "rating",
    "rating_std",
    "rating_quantile",
    "bin",
    "bin_probability",
    "evidence",
]


def labelled(value: list[float], std: float = 0.1, **options: Any) -> pd.DataFrame:
    names = np.array([f"i{n}" for n in range(len(value))], dtype=object)
    found = label(names, np.array(value), np.full(len(value), std), np.full(len(value), 9), {"method": "m"}, **options)
    assert found.provenance["method"] == "m"
    return found.table


def test_labels_have_their_schema_and_scale() -> None:
    found = labelled([3.0, -1.0, 1.0, 0.0, 7.0], bins=5)
    assert list(found.columns) == [*COLUMNS, *(f"p_bin_{n}" for n in range(5))]
    assert found["item"].tolist() == ["i0", "i1", "i2", "i3", "i4"], "the order of the caller"
    assert found["rating"].tolist() == pytest.approx([0.5, 0, 0.25, 0.125, 1])
    assert found["rating_std"].tolist() == pytest.approx([0.1 / 8] * 5)
    assert found["rating_quantile"].tolist() == pytest.approx([0.8, 0.2, 0.6, 0.4, 1.0])
    assert found["bin"].tolist() == [3, 0, 2, 1, 4]


def test_ties_are_broken_by_the_item_not_by_the_row() -> None:
    names, value = np.array(["c", "a", "b"], dtype=object), np.array([0.5, 0.5, 0.9])
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        found = label(names[order], value[order], np.ones(3), np.ones(3), {}, bins=3).table
        assert found["item"].tolist() == names[order].tolist()
        assert found.set_index("item")["bin"].to_dict() == {"a": 0, "c": 1, "b": 2}


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=40).filter(lambda v: max(v) - min(v) > 1e-3),
    st.floats(1e-3, 3),
    st.integers(2, 8),
)
def test_chances_of_bins_sum_to_one_and_ranks_are_all_there(value: list[float], std: float, bins: int) -> None:
    found = labelled(value, std, bins=bins).sort_values("rating_quantile")
    chances = found[[f"p_bin_{n}" for n in range(bins)]].to_numpy()
    np.testing.assert_allclose(chances.sum(1), 1)
    assert (chances >= 0).all()
    np.testing.assert_allclose(found["rating_quantile"], np.arange(1, len(value) + 1) / len(value))
    assert found["rating"].is_monotonic_increasing and found["bin"].is_monotonic_increasing
    assert found["rating"].iloc[0] == 0 and found["rating"].iloc[-1] == 1
    assert found["bin"].value_counts().max() - len(value) / bins <= 1


def test_chances_of_bins_are_normal_areas() -> None:
    found = bin_probabilities(np.array([0.3]), np.array([0.5]), np.array([-1.0, 0.0, 1.0]))
    edges = norm.cdf([-1.0, 0.0, 1.0], 0.3, 0.5)
    assert found[0] == pytest.approx([edges[0], edges[1] - edges[0], edges[2] - edges[1], 1 - edges[2]])
    sure = bin_probabilities(np.array([0.3]), np.array([0.0]), np.array([0.0]))
    assert sure[0] == pytest.approx([0, 1])


def test_the_percentile_scale_ignores_outliers() -> None:
    value = [*np.linspace(0, 1, 999), 500.0]
    plain, robust = labelled(value), labelled(value, normalisation="percentile")
    assert plain["rating"].iloc[500] < 0.01 < 0.4 < robust["rating"].iloc[500]
    assert robust["rating"].iloc[-1] == 1


@pytest.mark.parametrize("name", PUBLISHED_POINTS)
def test_published_points_have_the_shape_of_our_labels(name: str) -> None:
    """Rating rises with the quantile and differs from it; min-max puts both ends at 0 and 1, quantiles run to 1."""
    points = np.array(PUBLISHED_POINTS[name])
    assert (np.diff(points[:, :2], axis=0) > 0).all()
    assert np.abs(points[:, 1] - points[:, 0]).max() > 0.04
    assert ((points[:, :2] > 0) & (points[:, :2] <= 1)).all()
    # A set whose raw values run along the published curve gets the published ratings back.
    quantile = np.arange(1, 1001) / 1000
    raw = np.interp(quantile, [0.001, *points[:, 0], 1.0], [0.0, *points[:, 1], 1.0])
    found = labelled((200 + 3000 * raw).tolist())
    at = np.searchsorted(found["rating_quantile"].to_numpy(), points[:, 0] - 1e-9)
    assert found["rating"].to_numpy()[at] == pytest.approx(points[:, 1], abs=2e-3)


@pytest.mark.parametrize(
    ("value", "std", "message"),
    [
        ([0.0, float("inf")], 0.1, "item i1 has difficulty inf"),
        ([0.0, 1.0], float("nan"), r"item i0 has difficulty 0\.0 \+- nan"),
    ],
)
def test_what_has_no_scale_is_refused(value: list[float], std: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        labelled(value, std)


@pytest.mark.parametrize("value", [[1.0], [1.0, 1.0]])
@pytest.mark.parametrize("normalisation", ["minmax", "percentile"])
def test_items_of_one_difficulty_have_labels_that_say_nothing(value: list[float], normalisation: str) -> None:
    names = np.array([f"i{n}" for n in range(len(value))])
    count = np.ones(len(value))
    options: dict[str, Any] = {"bins": 3, "normalisation": normalisation}
    found = label(names, np.array(value), 0.3 * count, count, {}, **options)
    assert found.table["rating"].tolist() == [0.5] * len(value)
    assert found.table["rating_std"].tolist() == [0.5] * len(value)
    assert "says nothing" in found.provenance["scale"]


def test_the_common_scale_says_so_in_its_name() -> None:
    found = label(np.array(["a", "b"]), np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.ones(2), {})
    table = common_scale(found, Link(2.0, -1.0, np.zeros(0), "shared-solvers"))
    assert table["shared_solver_difficulty"].tolist() == [1.0, 3.0]
    assert table["shared_solver_difficulty_std"].tolist() == pytest.approx([0.2, 0.4])
    assert "shared_solver_difficulty" not in found.table


def test_drift_names_the_item_that_moved_most() -> None:
    names = np.array(list("abcd"))
    before = label(names, np.array([0.0, 1, 2, 3]), np.full(4, 0.1), np.ones(4), {})
    after = label(names[1:], np.array([1.0, 2.6, 3.05]), np.full(3, 0.1), np.ones(3), {})
    found = drift(before, after)
    assert (found.items, found.item) == (3, "c")
    assert found.largest == pytest.approx(0.6 / np.hypot(0.1, 0.1))
    with pytest.raises(DataError, match="share 0 items"):
        drift(before, label(np.array(["x", "y"]), np.array([0.0, 1]), np.ones(2), np.ones(2), {}))


def test_every_set_has_its_evidence() -> None:
    assert {f"E2H-{name}".lower() for name in EVIDENCE} == {name.lower() for name in PUBLISHED_POINTS}


def test_model_responses_become_labels_that_fall_with_accuracy() -> None:
    """GSM8K, ARC, Winogrande: with no missing cell the 1PL's order is exactly that of the mean accuracy."""
    data = simulated(0, subjects=400, items=60, population_sd=1.5)
    found = from_responses(data.responses, bins=4)
    table = found.table.sort_values("unnorm_rating").set_index("item")
    accuracy = pd.Series(data.responses.solve_rates(), data.responses.items).loc[table.index]
    steps = np.diff(accuracy.to_numpy())
    assert (steps <= 1e-12).all()
    different = steps < -1e-12
    assert (np.diff(table["unnorm_rating"])[different] > 0).all()
    assert (table["evidence"] == 400).all()
    truth = pd.Series(data.truth.difficulty, data.responses.items).loc[table.index]
    assert spearmanr(table["rating"], truth).statistic > 0.98
    assert found.provenance["method"] == "1PL mml"
    assert from_responses(data.responses, FitOptions(model="2PL")).provenance["method"] == "2PL mml"
    cells = table["unnorm_rating"].loc[data.responses.items].to_numpy()[data.responses.item]
    assert trend_test(cells, data.responses.score) < 1e-6


def test_solve_rates_become_labels() -> None:
    """AMC: ratings rise with the problem number and from contest to contest."""
    b = np.concatenate([np.linspace(-2, 1.0, 25), np.linspace(1.2, 3.5, 15)])
    rates = pd.DataFrame(
        {
            "item": [f"AMC10-{n:02d}" for n in range(1, 26)] + [f"AIME-{n:02d}" for n in range(1, 16)],
            "population": ["AMC10"] * 25 + ["AIME"] * 15,
            "solve_rate": np.round(np.concatenate([expected_rate(b[:25]), expected_rate(b[25:], 1.5, 0.7)]), 2),
            "solvers": 5000,
        }
    )
    found = from_solve_rates(rates, {"AMC10": (0.0, 1.0), "AIME": (1.5, 0.7)}).table.set_index("item")
    assert found["rating"].loc["AMC10-25"] < found["rating"].loc["AIME-01"]
    assert spearmanr(found["rating"].loc[rates["item"]], b).statistic > 0.995
    assert found["unnorm_rating"].loc[rates["item"]].to_numpy() == pytest.approx(b, abs=0.12)


def attempts(seed: int, problems: int = 40, contestants: int = 300) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    draw = np.random.default_rng(seed)
    difficulty = pd.Series(draw.normal(1600, 400, problems), [f"p{n:02d}" for n in range(problems)])
    rating = pd.Series(draw.normal(1500, 300, contestants), [f"c{n:03d}" for n in range(contestants)])
    rows = []
    for number, (problem, hard) in enumerate(difficulty.items()):
        for contestant in draw.choice(rating.index, 120, replace=False):
            p = 1 / (1 + 10 ** ((hard - rating[contestant]) / 400))
            rows.append((problem, contestant, bool(draw.random() < p), f"2024-{number % 4 + 1:02d}"))
    table = pd.DataFrame(rows, columns=["problem", "contestant", "solved", "period"])
    known = pd.DataFrame({"contestant": rating.index, "rating": rating.to_numpy(), "deviation": 60.0})
    return table, known, difficulty


@pytest.mark.parametrize(("mode", "slope", "error"), [("converged", 1.0, 0.1), ("chronological", 0.85, 0.15)])
def test_attempts_become_labels(mode: str, slope: float, error: float) -> None:
    """Codeforces, Lichess: problems are rated against contestants of known rating."""
    table, known, difficulty = attempts(0)
    found = from_attempts(table, known, mode=mode).table.set_index("item").loc[difficulty.index]
    assert spearmanr(found["rating"], difficulty).statistic > 0.95
    fitted = np.polyfit(difficulty, found["unnorm_rating"], 1)[0]
    assert fitted == pytest.approx(slope, abs=error)
    assert (found["evidence"] == 120).all()
    if mode == "converged":
        z = (found["unnorm_rating"] - difficulty) / found["unnorm_rating_std"]
        assert np.sqrt(np.mean(z**2)) == pytest.approx(1, abs=0.3), "its deviations are calibrated"


def test_rows_in_any_order_give_the_same_labels() -> None:
    table, known, _ = attempts(1, problems=8)
    straight = from_attempts(table, known, mode="chronological").table
    shuffled = from_attempts(table.sample(frac=1, random_state=0), known, mode="chronological").table
    pd.testing.assert_frame_equal(
        straight.set_index("item"), shuffled.set_index("item").loc[straight["item"]], rtol=1e-5
    )


def test_the_switch_counts_problems_not_tried_as_lost() -> None:
    table = pd.DataFrame(
        {
            "problem": ["p1", "p1", "p2", "p3"],
            "contestant": ["a", "b", "a", "c"],
            "solved": [True, False, True, True],
            "period": [1, 1, 1, 2],
        }
    )
    known = pd.DataFrame({"contestant": ["a", "b", "c"], "rating": 1500.0, "deviation": 60.0})
    plain = from_attempts(table, known).table.set_index("item")
    counted = from_attempts(table, known, unattempted_unsolved=True).table.set_index("item")
    assert plain["evidence"].to_dict() == {"p1": 2, "p2": 1, "p3": 1}
    assert counted["evidence"].to_dict() == {"p1": 2, "p2": 2, "p3": 1}
    assert counted["unnorm_rating"]["p2"] > plain["unnorm_rating"]["p2"]


def test_bad_attempts_are_refused_by_name() -> None:
    table, known, _ = attempts(2, problems=3, contestants=150)
    for changed, others, message in (
        (table.drop(columns="solved"), known, "attempts: have no column solved"),
        (table, known.drop(columns="deviation"), "contestants: have no column deviation"),
        (table, known.iloc[1:], "'c000' is unknown; add it to the contestants"),
        (table, pd.concat([known, known.iloc[:1]]), "'c000' is given twice"),
        (table.assign(solved=2.0), known, r"solved: is 2\.0 in attempt 0"),
        (table.assign(period=None), known, "attempts: row 1 has no period"),
    ):
        with pytest.raises(DataError, match=message):
            from_attempts(changed, others)


def test_the_bin_of_an_item_is_one_it_may_be_in() -> None:
    items = np.array(["a", "b", "c"])
    found = label(items, np.array([0.0, 0.0, 1.0]), np.full(3, 0.05), np.full(3, 9), {}, bins=5).table
    assert (found["bin_probability"] > 0.45).all()
    assert found.filter(like="p_bin_").sum(axis=1).to_numpy() == pytest.approx(1)
