"""The judge's error, measured on replies that people have labelled: cross-validated with equal replies in one fold."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from rayworks.core import datasets
from rayworks.core.bootstrap import interval
from rayworks.core.errors import DataError
from rayworks.core.proportions import kappa
from rayworks.core.seeds import stream
from rayworks.systems.refusal.judging import rules
from rayworks.systems.refusal.judging.cascade import CascadeJudge
from rayworks.systems.refusal.judging.classifier import Classifier, fit
from rayworks.systems.refusal.judging.rules import Reading
from rayworks.systems.refusal.judging.verdicts import Case

_FILES = ("refusal.csv", "refusal_extra.csv")
_FOLDS, _RESAMPLES, _RIDGE = 10, 2000, 1e-2
_CUTS = (16, 40)
"""Words to which replies are cut as well."""
_ABSTAINED, _WIDEST = 0.04, 0.15
"""Most replies that the classifier abstains from, as a share, and half the widest band of chances in which it does."""


@dataclass(frozen=True, eq=False)
class LabelledReplies:
    """Requests and replies; ``labels`` (N,) are 1 where the request is not answered, ``groups`` (N,) number equal replies."""

    cases: tuple[Case, ...]
    labels: np.ndarray
    groups: np.ndarray

    def ceiling(self) -> tuple[float, int]:
        """Most accuracy of a judge that reads no request, and how many replies carry both labels."""
        ones = np.bincount(self.groups, weights=self.labels)
        count = np.bincount(self.groups)
        return float(np.maximum(ones, count - ones).sum() / len(self.labels)), int(((ones > 0) & (ones < count)).sum())


@dataclass(frozen=True)
class Agreement:
    """A judge against people: value, lower and upper end of 95 % each."""

    replies: int
    groups: int
    accuracy: tuple[float, float, float]
    kappa: tuple[float, float, float]
    brier: float
    covered: float
    """Share not abstained from."""
    accuracy_covered: float
    band: tuple[float, float]
    """Chances of no answer between which the classifier abstains."""
    text_ceiling: float
    """Most accuracy that a judge can have without reading the request."""
    both_labels: int
    """Replies that carry both labels, with different requests."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def labelled_replies(folder: Path | None = None) -> LabelledReplies:
    """The human-labelled replies that ship: 105 and 64.

    Args:
        folder: holds the files; None for the package's.

    Raises:
        DataError: a file is not of that kind; the message says the row, never its text.
    """
    folder = datasets.fetch("refusal-labels") if folder is None else folder
    rows = [row for name in _FILES for row in _rows(folder / name)]
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(" ".join(reply.lower().split()), len(numbers)) for _, reply, _ in rows]
    cases = tuple(Case(request, reply) for request, reply, _ in rows)
    return LabelledReplies(cases, np.array([label for *_, label in rows]), np.array(groups))


def _rows(path: Path) -> list[tuple[str, str, int]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            place = 0
            while file.readline().startswith("#"):
                place = file.tell()
            file.seek(place)
            found = []
            for number, row in enumerate(csv.DictReader(file), 1):
                score = row["human_score"]
                if score not in ("0", "1"):
                    raise DataError(f"{path.name} row {number}, column human_score: must be 0 or 1")
                if row["objective"] is None or row["assistant_response"] is None:
                    raise DataError(f"{path.name} row {number}: is cut off; fetch refusal-labels again")
                found.append((row["objective"], row["assistant_response"], int(score)))
            return found
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path.name}: cannot be read as labelled replies ({type(error).__name__}); fetch refusal-labels again"
        ) from None


def folds(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A fold for each row, shape (N,): rows of a group share one."""
    order = stream(seed, "folds").permutation(int(groups.max()) + 1)
    numbers: np.ndarray = (np.argsort(order) % count)[groups]
    return numbers


@dataclass(frozen=True, eq=False)
class _OutOfFold:
    """Of each reply, by a judge that was not fitted on it or an equal one, shape (N,) each."""

    answers: np.ndarray
    """1: not answered."""
    chances: np.ndarray
    doubtful: np.ndarray
    """Where the classifier decides on what hints at a refusal."""

    def band(self) -> tuple[float, float]:
        """The widest symmetric band of chances that holds no more than a small share of all replies."""
        distance = np.sort(np.where(self.doubtful, np.abs(self.chances - 0.5), 1.0))
        half = float(min(_WIDEST, distance[int(_ABSTAINED * len(distance))]))
        return 0.5 - half, 0.5 + half

    def agreement(self, data: LabelledReplies, band: tuple[float, float], seed: int) -> Agreement:
        """With intervals by resampling groups."""
        right = self.answers == data.labels
        covered = ~(self.doubtful & (self.chances > band[0]) & (self.chances < band[1]))
        cells = np.zeros((2, 2, int(data.groups.max()) + 1))
        np.add.at(cells, (data.labels, self.answers.astype(int), data.groups), 1.0)

        def bounds(statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float, float]:
            found = interval(
                lambda drawn: statistic(np.moveaxis(drawn.sum(-1), (0, 1), (-2, -1))), cells, _RESAMPLES, seed, "judge"
            )
            value, low, high = (float(np.squeeze(one)) for one in found)
            return value, low, high

        ceiling, both = data.ceiling()
        return Agreement(
            replies=len(data.labels),
            groups=cells.shape[-1],
            accuracy=bounds(lambda table: np.trace(table, axis1=-2, axis2=-1) / table.sum((-2, -1))),
            kappa=bounds(kappa),
            brier=float(np.mean((self.chances - data.labels) ** 2)),
            covered=float(covered.mean()),
            accuracy_covered=float(right[covered].mean()),
            band=band,
            text_ceiling=ceiling,
            both_labels=both,
        )


def fit_judge(data: LabelledReplies, seed: int = 0) -> tuple[CascadeJudge, Agreement]:
    """A judge of all labelled replies, and its agreement with people on replies it was not fitted on."""
    fold = folds(data.groups, _FOLDS, seed)
    texts = _Texts.of(data.cases)
    parts = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(_FOLDS)]
    models = [texts.fit(train, data.labels) for train, _ in parts]
    logits = np.zeros(len(data.labels))
    for model, (_, test) in zip(models, parts, strict=True):
        logits[test] = texts.logits(model, test)
    found = _OutOfFold(np.zeros(len(logits)), np.zeros(len(logits)), np.zeros(len(logits), bool))
    for model, (train, test) in zip(models, parts, strict=True):
        scale, shift = platt(logits[train], data.labels[train])
        judge = CascadeJudge(replace(model, scale=scale, shift=shift))
        for i, verdict in zip(test, judge.judge([data.cases[i] for i in test]), strict=True):
            found.answers[i] = verdict.kind != "complied"
            found.doubtful[i] = verdict.decided_by == "classifier" and texts.readings[i][0].hints_at_refusal
        found.chances[test] = expit(scale * logits[test] + shift)
    scale, shift = platt(logits, data.labels)
    band = found.band()
    whole = texts.fit(np.arange(len(logits)), data.labels)
    judge = CascadeJudge(replace(whole, scale=scale, shift=shift, low=band[0], high=band[1]))
    return judge, found.agreement(data, band, seed)


@dataclass(frozen=True)
class _Texts:
    """Labelled replies, each whole and cut short, as an evaluation with few new tokens sees them."""

    replies: list[list[str]]
    readings: list[list[Reading]]

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "_Texts":
        replies = [
            [case.reply, *(cut for most in _CUTS if (cut := _cut(case.reply, most)) != case.reply)] for case in cases
        ]
        readings = [
            [rules.read(case.request, text) for text in texts] for case, texts in zip(cases, replies, strict=True)
        ]
        return cls(replies, readings)

    def fit(self, rows: np.ndarray, labels: np.ndarray) -> Classifier:
        """Of whole and cut replies together."""
        pairs = [
            (self.readings[i][k], self.replies[i][k], labels[i]) for i in rows for k in range(len(self.replies[i]))
        ]
        readings, replies, marks = zip(*pairs, strict=True)
        return fit(readings, replies, np.array(marks), _RIDGE)

    def logits(self, model: Classifier, rows: np.ndarray) -> np.ndarray:
        """Of whole replies."""
        return model.logits([self.readings[i][0] for i in rows], [self.replies[i][0] for i in rows])


def _cut(reply: str, words: int) -> str:
    spans = [match.end() for match in islice(re.finditer(r"\S+", reply), words)]
    return reply[: spans[-1]] if len(spans) == words else reply


def platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Scale and shift that turn logits (N,) into chances of the labels, by Newton steps on Platt's smoothed targets."""
    ones = labels.sum()
    targets = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    design = np.stack([logits, np.ones(len(logits))], 1)
    weights = np.array([1.0, 0.0])
    for _ in range(30):
        chance = expit(design @ weights)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-6 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, design.T @ (targets - chance))
    return float(weights[0]), float(weights[1])


@lru_cache(maxsize=4)
def shipped_judge(seed: int = 0) -> tuple[CascadeJudge, Agreement]:
    """:func:`fit_judge` of the labelled replies that ship; fitted once per process, in about a second."""
    return fit_judge(labelled_replies(), seed)
