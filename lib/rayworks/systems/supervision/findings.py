"""The numbers of a run: accuracies over seeds, gains with intervals, and the share of the gap that is recovered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.core.bootstrap import t_interval
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.pupils import CHOSEN, EASY_TRUTH, TRUTH, pupils

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Gain:
    """A difference of accuracies on the same test examples, over seeds."""

    mean: float
    by_seed: tuple[float, ...]
    over_seeds: tuple[float | None, float | None]
    """Student's t over seeds, in which splits, experts and students differ; None where there is one seed."""
    over_rows: tuple[float, float]
    """Bootstrap over the examples that are tested in any seed, each with all its tests: seeds share a pool."""

    same: bool
    """Whether every test example has the same mark from both, so that there is no difference to find an interval of."""

    @property
    def low(self) -> float:
        """The lower of both intervals' lower ends."""
        first = self.over_seeds[0]
        return self.over_rows[0] if first is None else min(first, self.over_rows[0])

    @property
    def high(self) -> float:
        """The higher of both intervals' upper ends."""
        last = self.over_seeds[1]
        return self.over_rows[1] if last is None else max(last, self.over_rows[1])

    def __str__(self) -> str:
        if self.same:
            return "same marks"
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def students(results: Results, name: str) -> list[np.ndarray]:
    """Marks of a student, 1 right and 0 wrong, one array per seed."""
    return [_marks(test["students"][name]) for test in results["tests"]]


def teachers(results: Results, name: str) -> list[np.ndarray]:
    """Marks of an ensemble on the test examples."""
    return [_marks(test["teachers"][name]) for test in results["tests"]]


def easy(results: Results, name: str) -> float | None:
    """Accuracy of a student or an ensemble on the easy test, over seeds; None where there is none."""
    found = [test.get("easy", {}).get(name) for test in results["tests"]]
    return None if None in found else float(np.mean(found))


def mean(marks: Sequence[np.ndarray]) -> float:
    """Accuracy, over seeds."""
    return float(np.mean([one.mean() for one in marks]))


def gain(
    config: Config, results: Results, after: Sequence[np.ndarray], before: Sequence[np.ndarray], name: str
) -> Gain:
    """By how much more is right, test example by test example, and its intervals."""
    section = config.experiment
    pairs = [a - b for a, b in zip(after, before, strict=True)]
    by_seed = [float(one.mean()) for one in pairs]
    average, *ends = t_interval(by_seed, section.confidence)
    rows = [np.array(test["rows"]) for test in results["tests"]]
    pool = np.unique(np.concatenate(rows))
    values, there = np.zeros((2, len(pairs), len(pool)))
    for number, (one, tested) in enumerate(zip(pairs, rows, strict=True)):
        places = np.searchsorted(pool, tested)
        values[number, places], there[number, places] = one, 1.0
    drawn = seeds.stream(config.run.seed, "report", name)
    counts = drawn.multinomial(len(pool), np.full(len(pool), 1 / len(pool)), section.resamples).astype(float)
    means = (counts @ values.T) / np.maximum(counts @ there.T, 1.0)
    tail = (1 - section.confidence) / 2
    low, high = np.quantile(means.mean(axis=1), [tail, 1 - tail])
    same = not any(one.any() for one in pairs)
    return Gain(average, tuple(by_seed), (ends[0], ends[1]), (float(low), float(high)), same)


def gains(config: Config, results: Results) -> dict[str, Gain]:
    """Of every student over the single-taught one."""
    single = students(results, "single")
    names = [pupil.name for pupil in pupils(config, results["students"]) if pupil.name != "single"]
    return {name: gain(config, results, students(results, name), single, name) for name in names}


def over_bagging(config: Config, results: Results) -> Gain | None:
    """Of the student of boosting over that of bagging; None where either was not taught."""
    if not {"ensemble", "bagging"} <= set(results["students"]):
        return None
    return gain(config, results, students(results, "ensemble"), students(results, "bagging"), "over bagging")


def recovered_share(
    student: Sequence[np.ndarray], weak: Sequence[np.ndarray], ceiling: Sequence[np.ndarray]
) -> tuple[float | None, str]:
    """(student - weak) / (ceiling - weak), and why there is none.

    None where ceiling and weak are less than two standard errors apart: the quotient would be noise.
    """
    gaps = [c - w for c, w in zip(ceiling, weak, strict=True)]
    gap = float(np.mean([one.mean() for one in gaps]))
    error = float(np.sqrt(sum(one.var(ddof=1) / len(one) for one in gaps if len(one) > 1))) / len(gaps)
    if gap < 2 * error or gap <= 0:
        if gap < -2 * error:
            return (
                None,
                f"on true labels the student is weaker than one weak expert, by {-gap:.3f}; take a stronger student",
            )
        return None, f"ceiling and weak differ by {gap:.3f}, less than two standard errors ({error:.3f} each)"
    return (mean(student) - mean(weak)) / gap, ""


def headline(config: Config, results: Results, found: Mapping[str, Gain]) -> dict[str, float | None]:
    """The numbers that a reader compares between runs.

    Args:
        found: of :func:`gains`.
    """
    taught = results["students"]
    single, weak, ceiling = students(results, "single"), teachers(results, "boosting@1"), students(results, TRUTH)
    ensemble = students(results, "ensemble") if "ensemble" in taught else None
    gained, bagged = found.get("ensemble"), over_bagging(config, results)
    several = config.experiment.seeds > 1
    reference = [facts["reference_accuracy_hard"] for facts in results["facts"]]
    correlations = [test["correlation"] for test in results["tests"] if test["correlation"] is not None]
    return {
        "weak_accuracy": mean(weak),
        "ensemble_accuracy": mean(teachers(results, f"boosting@{CHOSEN}")),
        "student_single": mean(single),
        "student_ensemble": mean(ensemble) if ensemble else None,
        "student_on_easy_truth": mean(students(results, EASY_TRUTH)),
        "ceiling": mean(ceiling),
        "recovered_share": recovered_share(ensemble or single, weak, ceiling)[0],
        "gain_over_single": gained.mean if gained else None,
        # One seed says nothing of how much seeds differ.
        "gain_over_single_low": gained.low if gained and several else None,
        "gain_over_bagging": bagged.mean if bagged else None,
        "gain_over_bagging_low": bagged.low if bagged and several else None,
        "reference_accuracy_hard": None if None in reference else float(np.mean(reference)),
        "error_correlation": float(np.mean(correlations)) if correlations else None,
    }


def _marks(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(float) - ord("0")
