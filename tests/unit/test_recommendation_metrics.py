"""Metrics at worked examples and at the edges; what they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.recommendation.measures.estimates import Bootstrap
from rayworks.systems.recommendation.measures.metrics import (
    NEVER,
    Binning,
    Ties,
    accuracy,
    auc,
    auc_difference,
    auc_interval,
    bce,
    best_threshold,
    by_step,
    ece,
    hit_rate,
    ndcg,
    ranks,
    reliability,
)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and probabilities, often tied."""
    size = draw(st.integers(1, 40))
    source = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 3, 10, 10**9]))
    return (source.random(size) < 0.6).astype(int), source.integers(0, levels + 1, size) / levels


@given(predictions())
@settings(deadline=None, max_examples=150)
def test_auc_counts_pairs(data: tuple[np.ndarray, np.ndarray]) -> None:
    outcome, score = data
    accepted, rejected = score[outcome == 1], score[outcome == 0]
    wins = [(a > b) + 0.5 * (a == b) for a in accepted for b in rejected]
    assert auc(outcome, score) == pytest.approx(np.mean(wins) if wins else np.nan, nan_ok=True)
    assert auc(1 - outcome, -score) == pytest.approx(auc(outcome, score), nan_ok=True)


@given(predictions(), st.integers(1, 12), st.sampled_from(["mass", "width"]))
@settings(deadline=None, max_examples=250)
def test_calibration_is_its_loop(data: tuple[np.ndarray, np.ndarray], bins: int, binning: Binning) -> None:
    outcome, probability = data
    size = len(outcome)
    members: dict[int, list[int]] = {}
    for row in range(size):
        smaller = sum(bool(other < probability[row]) for other in probability)
        mass, width = smaller * bins // size, min(int(probability[row] * bins), bins - 1)
        members.setdefault(mass if binning == "mass" else width, []).append(row)
    rows = [members[code] for code in sorted(members)]
    found = reliability(outcome, probability, bins, binning)
    assert found.count.tolist() == [len(one) for one in rows]
    np.testing.assert_allclose(found.prediction, [probability[one].mean() for one in rows])
    np.testing.assert_allclose(found.outcome, [outcome[one].mean() for one in rows])
    error = sum(len(one) / size * abs(probability[one].mean() - outcome[one].mean()) for one in rows)
    assert found.calibration_error == pytest.approx(error, abs=1e-12)
    assert ece(outcome, probability, bins, binning) == found.calibration_error


@given(predictions())
@settings(deadline=None, max_examples=150)
def test_no_threshold_is_better_than_the_best(data: tuple[np.ndarray, np.ndarray]) -> None:
    outcome, probability = data
    best = best_threshold(outcome, probability)
    every = [accuracy(outcome, probability, t) for t in [*np.unique(probability), NEVER]]
    assert accuracy(outcome, probability, best) == max(every)
    assert max(every) >= accuracy(outcome, probability, 0.0)


@given(predictions(), st.integers(1, 5))
@settings(deadline=None, max_examples=80)
def test_the_step_table_is_each_step_alone(data: tuple[np.ndarray, np.ndarray], steps: int) -> None:
    outcome, probability = data
    step = (np.arange(len(outcome)) * 7) % steps + 3
    table = by_step(step, outcome, probability, 0.4)
    assert table.step.tolist() == sorted(set(step.tolist()))
    for row, one in enumerate(table.step):
        y, p = outcome[step == one], probability[step == one]
        alone = (len(y), y.mean(), p.mean(), auc(y, p), bce(y, p), accuracy(y, p, 0.4))
        found = [getattr(table, name)[row] for name in ("count", "outcome", "prediction", "auc", "bce", "accuracy")]
        np.testing.assert_allclose(found, alone)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["half", "worst"]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_ranks_are_counted_item_by_item(seed: int, ties: Ties, sparse: bool) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.integers(-3, 4, (5, 8)).astype(float)
    target, seen = draw.integers(0, 8, 5), draw.random((5, 8)) < 0.3
    before = scores.copy()
    found = ranks(scores, target, np.nonzero(seen) if sparse else seen, ties)
    for row in range(5):
        rank = 1.0
        for item in range(8):
            if item != target[row] and not seen[row, item]:
                gap = scores[row, item] - scores[row, target[row]]
                rank += 1 if gap > 0 else (gap == 0) * (0.5 if ties == "half" else 1)
        assert found[row] == rank
    np.testing.assert_array_equal(scores, before)
    for k in (1, 3, 8):
        assert hit_rate(found, k) == pytest.approx(np.mean([r <= k for r in found]))
        assert ndcg(found, k) == pytest.approx(np.mean([1 / np.log2(r + 1) if r <= k else 0 for r in found]))


def test_seen_items_leave_the_ranking_even_where_all_scores_are_negative() -> None:
    """Defect 7 of the paper's code: a score of 0 for seen items puts them first."""
    scores = np.array([[-5.0, -1.0, -2.0, -3.0]])
    assert ranks(scores, np.array([0]), np.array([[False, True, True, False]])).tolist() == [2]
    assert ranks(scores, np.array([1]), np.array([[False, True, True, False]])).tolist() == [1]


def test_a_constant_model_gets_the_middle_rank_or_the_last() -> None:
    flat, target = np.zeros((1, 9)), np.array([4])
    assert ranks(flat, target).tolist() == [5]
    assert ranks(flat, target, ties="worst").tolist() == [9]


def test_bce_cuts_certainty_at_a_ten_millionth() -> None:
    assert bce(np.array([1, 0]), np.array([1.0, 0.0])) == pytest.approx(1e-7)
    assert bce(np.array([0]), np.array([1.0])) == pytest.approx(-np.log(1e-7))
    assert bce(np.array([1, 0]), np.array([0.5, 0.25])) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    single = np.array([1.0], np.float32)
    assert bce(np.array([0]), single) == pytest.approx(-np.log(1e-7))


def test_a_calibrated_forecast_has_no_error() -> None:
    outcome = np.r_[np.ones(20), np.zeros(80), np.ones(70), np.zeros(30)]
    probability = np.repeat([0.2, 0.7], 100)
    assert ece(outcome, probability) == pytest.approx(0, abs=1e-12)
    assert ece(outcome, 1 - probability, binning="width") == pytest.approx(0.6 * 0.5 + 0.4 * 0.5, abs=0.11)
    drawn = np.random.default_rng(0).random(60)
    assert reliability(np.zeros(60), drawn).count.tolist() == [4] * 15


def test_best_threshold_at_the_ends() -> None:
    assert best_threshold(np.array([1, 1]), np.array([0.3, 0.4])) == 0.3
    assert best_threshold(np.array([0, 0]), np.array([0.3, 1.0])) == NEVER
    assert best_threshold(np.array([0, 1, 1]), np.array([0.3, 0.6, 0.8])) == 0.6


def assert_interval_is_naive(user: np.ndarray | None) -> None:
    draw = np.random.default_rng(5)
    outcome = (draw.random(40) < 0.5).astype(int)
    first, second = draw.integers(0, 9, (2, 40)) + 2.0 * outcome
    owner = np.arange(40) if user is None else user
    bootstrap = Bootstrap(30, 2)
    ones, gaps = [], []
    for counts in np.concatenate(list(bootstrap.counts(len(np.unique(owner))))):
        rows = np.concatenate([np.tile(np.flatnonzero(owner == u), n) for u, n in enumerate(counts)])
        one, two = auc(outcome[rows], first[rows]), auc(outcome[rows], second[rows])
        ones.append(one)
        gaps.append(one - two)
    found = auc_interval(outcome, first, bootstrap, user)
    assert (found.value, found.low, found.high) == pytest.approx(
        (auc(outcome, first), *np.quantile(ones, (0.025, 0.975)))
    )
    gap = auc_difference(outcome, first, second, bootstrap, user)
    assert gap.value == pytest.approx(auc(outcome, first) - auc(outcome, second))
    assert (gap.standard_error, gap.low) == pytest.approx((np.std(gaps, ddof=1), np.quantile(gaps, 0.025)))


@pytest.mark.parametrize("users", [None, 12])
def test_auc_intervals_resample_users(users: int | None) -> None:
    assert_interval_is_naive(None if users is None else np.arange(40) * 7 % users)


def test_paired_differences_are_tighter_than_their_parts() -> None:
    draw = np.random.default_rng(1)
    outcome = draw.random(2000) < 0.5
    first = outcome + draw.normal(size=2000)
    second = first + 0.1 * draw.normal(size=2000)
    bootstrap = Bootstrap(100, 0)
    gap, one = auc_difference(outcome, first, second, bootstrap), auc_interval(outcome, first, bootstrap)
    assert gap.standard_error < 0.3 * one.standard_error


def test_outcomes_alike_have_no_auc() -> None:
    assert np.isnan(auc(np.ones(3), np.arange(3)))
    found = auc_interval(np.ones(3), np.arange(3), Bootstrap(5))
    assert np.isnan(found.value) and np.isnan(found.low)


def test_what_has_no_metric_is_refused() -> None:
    good = np.array([0, 1])
    with pytest.raises(DataError, match="outcome has 0 rows"):
        auc(np.array([]), np.array([]))
    with pytest.raises(DataError, match="outcome has 2 rows and the scores 3"):
        auc(good, np.zeros(3))
    with pytest.raises(DataError, match="outcome 2 of row 1 is neither 0 nor 1"):
        bce(np.array([0, 2]), np.array([0.5, 0.5]))
    with pytest.raises(DataError, match="score nan of row 0 is not a number"):
        auc(good, np.array([np.nan, 0.5]))
    with pytest.raises(DataError, match=r"probability 1.5 of row 1 is not between 0 and 1"):
        bce(good, np.array([0.5, 1.5]))
    with pytest.raises(DataError, match="user has 3 rows where 2 are due"):
        auc_interval(good, good, Bootstrap(2), np.zeros(3))
    with pytest.raises(ConfigError, match="bins is 0"):
        ece(good, good, 0)
    with pytest.raises(DataError, match=r"target has shape \(3,\) and scores \(2, 4\)"):
        ranks(np.zeros((2, 4)), np.zeros(3, int))
    with pytest.raises(DataError, match="target has an item outside the 4"):
        ranks(np.zeros((1, 4)), np.array([4]))
    with pytest.raises(DataError, match="NaN, or -inf at a target"):
        ranks(np.array([[0.0, np.nan]]), np.array([0]))
