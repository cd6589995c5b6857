"""The order of pairs in an epoch: the curriculum's properties of the specification."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from rayworks.systems.reasoning.config import CurriculumSection
from rayworks.systems.reasoning.learning.curriculum import kendall_tau, normalised, order

QUESTIONS = [f"q{number // 3}" for number in range(60)]
RNG = np.random.default_rng(0)
GAPS, PREDICTIONS = RNG.choice([0.5, 0.75, 1.0], 60), RNG.normal(size=60)


def ordered(
    gaps: np.ndarray = GAPS, predictions: np.ndarray = PREDICTIONS, epoch: int = 0, **changes: Any
) -> list[int]:
    return order(CurriculumSection(**changes), gaps, predictions, QUESTIONS, batch=8, seed=3, epoch=epoch)


@pytest.mark.parametrize("kind", ["both", "reward", "prediction", "shuffled"])
@pytest.mark.parametrize("normalise", ["minmax", "zscore", "rank"])
@pytest.mark.parametrize("per_batch", [None, 1])
def test_an_order_is_a_permutation(kind: str, normalise: str, per_batch: int | None) -> None:
    for direction, sign, combination in itertools.product(("ascending", "descending"), "+-", ("sum", "mean")):
        found = ordered(
            order=kind,
            normalise=normalise,
            per_batch=per_batch,
            direction=direction,
            sign=sign,
            combination=combination,
        )
        assert sorted(found) == list(range(60))


def test_without_weight_the_prediction_gap_does_not_matter() -> None:
    reward = ordered(order="reward")
    assert ordered(order="both", balance=0.0) == reward == ordered(predictions=-PREDICTIONS, order="reward", epoch=5)
    assert np.all(np.diff(GAPS[reward]) <= 0)
    assert ordered(order="both", balance=1.0, combination="mean") == ordered(order="prediction")


@pytest.mark.parametrize("normalise", ["minmax", "zscore", "rank"])
def test_scale_and_shift_of_the_reward_do_not_matter(normalise: str) -> None:
    assert ordered(normalise=normalise) == ordered(gaps=3.0 * GAPS + 7.0, normalise=normalise)


def test_directions_and_signs() -> None:
    falling = ordered(order="prediction")
    assert np.all(np.diff(PREDICTIONS[falling]) <= 0)
    assert np.all(np.diff(PREDICTIONS[ordered(order="prediction", direction="ascending")]) >= 0)
    assert np.all(np.diff(PREDICTIONS[ordered(order="prediction", sign="-")]) >= 0)
    assert ordered(order="shuffled") != ordered(order="shuffled", epoch=1)


def test_ties_are_broken_the_same_way_in_every_epoch() -> None:
    tied = np.ones(60)
    first = ordered(gaps=tied, order="reward")
    assert first == ordered(gaps=tied, order="reward", epoch=4) != list(range(60))


def test_few_pairs_of_a_question_stand_in_a_batch() -> None:
    found = ordered(per_batch=1)
    for start in range(0, 48, 8):
        batch = [QUESTIONS[place] for place in found[start : start + 8]]
        assert len(set(batch)) == len(batch)


def most_of_one(found: list[int], questions: list[str], batch: int) -> Counter[str]:
    """By question, its most pairs in any batch."""
    most: Counter[str] = Counter()
    for start in range(0, len(found), batch):
        most |= Counter(questions[place] for place in found[start : start + batch])
    return most


def test_no_batch_holds_more_of_a_question_than_it_must() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        batch, batches, most = (int(rng.integers(1, high)) for high in (9, 9, 4))
        questions = [f"q{number}" for number in rng.zipf(1.7, batch * batches) % 9]
        found = order(
            CurriculumSection(order="reward", per_batch=most),
            rng.normal(size=len(questions)),
            np.zeros(len(questions)),
            questions,
            batch=batch,
            seed=0,
            epoch=0,
        )
        assert sorted(found) == list(range(len(questions)))
        for question, held in most_of_one(found, questions, batch).items():
            assert held <= max(most, -(-questions.count(question) // batches))


@pytest.mark.parametrize(
    ("questions", "batch", "expected"),
    [("BCDEAAAA", 2, 1), ("BCDEFAAAA", 2, 1), ("AAAAAABC", 4, 3), ("BCAAAAAAA", 4, 3), ("ABCDEAB", 4, 1)],
)
def test_pairs_that_come_last_are_spread_too(questions: str, batch: int, expected: int) -> None:
    falling = -np.arange(len(questions))
    section = CurriculumSection(order="reward", per_batch=1)
    found = order(section, falling, falling * 0, list(questions), batch=batch, seed=0, epoch=0)
    assert sorted(found) == list(range(len(questions)))
    assert max(most_of_one(found, list(questions), batch).values()) == expected


@pytest.mark.parametrize("values", [np.zeros(3), np.full(4, 0.1 + 0.2), np.array([1.0])])
def test_equal_values_have_no_scale(values: np.ndarray) -> None:
    assert all(np.all(np.isfinite(normalised(values, kind))) for kind in ("minmax", "zscore", "rank"))
    assert np.ptp(normalised(values, "minmax")) == np.ptp(normalised(values, "zscore")) == 0


def test_kendall_tau_by_counting_pairs() -> None:
    one, other = RNG.permutation(30).tolist(), RNG.permutation(30).tolist()
    place = [{item: at for at, item in enumerate(ranking)} for ranking in (one, other)]
    signs = [
        np.sign((place[0][a] - place[0][b]) * (place[1][a] - place[1][b]))
        for a, b in itertools.combinations(range(30), 2)
    ]
    assert kendall_tau(one, other) == pytest.approx(np.mean(signs))
    assert (kendall_tau(one, one), kendall_tau(one, one[::-1])) == (pytest.approx(1.0), pytest.approx(-1.0))
