"""The order of harm: intervals that hold as often as they say, operations that are told apart, and those that are not."""

from typing import Any

import numpy as np
import pytest

from rayworks.systems.augmentation.harm import COLUMNS, Harm
from rayworks.systems.augmentation.training.tally import BINS, MEASURES

NAMES = tuple("abcdef")


def seed_of(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a seed found of the scores of each operation's views, in two bins of strength."""
    found = np.zeros((len(scores), BINS, COLUMNS))
    for place, values in enumerate(scores.values()):
        for at, part in enumerate(np.array_split(values, 2)):
            found[place, at] = len(part), part.sum(), len(part), 0, (part**2).sum()
    return {"names": list(scores), "by_operation": found.tolist()}


def seeds(random: np.random.Generator, count: int, harmful: float, views: int = 40) -> Harm:
    """Operations of one mean but the first; seeds differ as a whole, and each operation in each."""
    found = []
    for _ in range(count):
        whole, own = random.normal(0, 1), random.normal(0, 0.1, len(NAMES))
        means = 1 + whole + own + np.array([-harmful, *[0] * (len(NAMES) - 1)])
        found.append(seed_of({name: random.normal(mean, 0.2, views) for name, mean in zip(NAMES, means, strict=True)}))
    return Harm(found)


def test_columns_are_those_of_the_tally() -> None:
    assert COLUMNS == MEASURES


@pytest.mark.parametrize("count", [2, 5])
def test_of_equal_operations_one_pair_in_twenty_is_told_apart(count: int) -> None:
    random = np.random.default_rng(count)
    told = [seeds(random, count, 0.0).told_apart("b", "e") for _ in range(600)]
    assert np.mean(told) == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 600) ** 0.5)


def test_intervals_over_seeds_hold_the_mean_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(9), []
    for _ in range(600):
        low, high = seeds(random, 3, 0.0).interval("c") or (0.0, 0.0)
        held.append(low <= 1 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=4 * (0.05 * 0.95 / 600) ** 0.5)


def test_a_harmful_operation_is_told_from_all_others_by_two_seeds() -> None:
    found = seeds(np.random.default_rng(1), 2, 1.0)
    told = found.others_told()
    assert next(iter(found.scores)) == "a" and told["a"] == 5
    assert all(1 <= told[name] <= 3 for name in "bcdef")


def test_with_one_seed_intervals_are_of_its_views() -> None:
    random = np.random.default_rng(2)
    one, other = random.normal(-1, 1, 400), random.normal(1, 1, 100)
    found = Harm([seed_of({"good": other, "bad": one, "once": np.array([3.0])})])
    low, high = found.interval("bad") or (0.0, 0.0)
    error = one.std(ddof=1) / 20
    assert (low, high) == pytest.approx((one.mean() - 1.96 * error, one.mean() + 1.96 * error))
    assert list(found.scores) == ["bad", "good", "once"]
    assert found.told_apart("good", "bad") and found.interval("once") is None and not found.told_apart("once", "bad")
    assert found.by_strength()["good"][:2] == pytest.approx([other[:50].mean(), other[50:].mean()])
    assert np.isnan(found.by_strength()["good"][2:]).all()
    assert found.mean_score == pytest.approx(np.concatenate([one, other, [3.0]]).mean())


def test_seeds_and_operations_that_were_not_seen() -> None:
    """A seed whose engine never began, an operation that one seed drew, and one that no seed drew."""
    random = np.random.default_rng(3)
    begun = [{name: random.normal(place, 0.1, 20) for place, name in enumerate("ab")} for _ in range(2)]
    never: dict[str, Any] = {"names": [], "by_operation": []}
    empty = np.zeros(0)
    found = Harm([seed_of({**begun[0], "none": empty}), never, seed_of({**begun[1], "none": empty})])
    assert list(found.scores) == ["a", "b"] and found.others_told() == {"a": 1, "b": 1}
    partly = Harm([seed_of({**begun[0], "c": begun[0]["b"]}), seed_of(begun[1])])
    assert partly.others_told() == dict.fromkeys("abc", 0), "no two seeds with all of them"
    assert partly.interval("c") is not None
    assert Harm([]).scores == {} and Harm([never]).mean_score == 0


def test_agreement_with_trainings_on_each_alone() -> None:
    found = Harm([seed_of({name: np.array([place, place + 1.0]) for place, name in enumerate(NAMES)})])
    losses = {name: -float(place) for place, name in enumerate(NAMES)}
    assert found.agreement(losses) == pytest.approx(1)
    assert found.agreement({name: -loss for name, loss in losses.items()}) == pytest.approx(-1)
    assert found.agreement(dict.fromkeys(NAMES, 1.0)) is None and found.agreement({"a": 1.0, "b": 2.0}) is None
