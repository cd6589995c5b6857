"""Which operations help and which harm, by the scores of their views: in which order, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from rayworks.core.bootstrap import t_interval

Values = Mapping[str, Any]
CONFIDENCE = 0.95
COLUMNS = 5
"""Views, sums of scores, of weights and of the number dropped, and of squares of scores; see :class:`~.tally.Tally`."""


class Harm:
    """Scores of views of each operation over the trainings of an engine, one a seed.

    Args:
        trained: what was found by each seed: ``names`` of operations, and ``by_operation``, sums by bin of strength.
    """

    def __init__(self, trained: Sequence[Values]) -> None:
        self._seeds = [
            {name: np.array(bins) for name, bins in zip(one["names"], one["by_operation"], strict=True)}
            for one in trained
        ]

    @cached_property
    def scores(self) -> dict[str, float]:
        """Mean over the seeds that saw it of the mean score of each operation's views, the most harmful first."""
        names = dict.fromkeys(name for one in self._seeds for name, bins in one.items() if bins[:, 0].sum() > 0)
        means = {name: float(np.mean(self._means(name))) for name in names}
        return dict(sorted(means.items(), key=lambda pair: pair[1]))

    @cached_property
    def sums(self) -> dict[str, np.ndarray]:
        """``(bins, 5)`` of each operation over all seeds, the most harmful first; see :data:`COLUMNS`."""
        return {name: np.sum([one[name] for one in self._seeds if name in one], axis=0) for name in self.scores}

    @property
    def mean_score(self) -> float:
        """Of all views; 0 without any."""
        whole = sum((bins.sum(0) for bins in self.sums.values()), np.zeros(COLUMNS))
        return float(whole[1] / whole[0]) if whole[0] else 0.0

    def by_strength(self) -> dict[str, np.ndarray]:
        """Mean score of each operation, the most harmful first, in bins of strength; NaN where there was no view."""
        with np.errstate(invalid="ignore"):
            return {name: bins[:, 1] / bins[:, 0] for name, bins in self.sums.items()}

    def interval(self, name: str) -> tuple[float, float] | None:
        """95 % interval of an operation's mean score; None without two views.

        Of several seeds Student's t over them; of one, of its views as if they were independent, for that training alone.
        """
        _, low, high = t_interval(self._means(name), CONFIDENCE)
        if low is not None and high is not None:
            return low, high
        error = self._error_of_views(name)
        return None if error is None else (self.scores[name] - 1.96 * error, self.scores[name] + 1.96 * error)

    def told_apart(self, one: str, other: str) -> bool:
        """Whether the 95 % interval of the difference of two mean scores, of this pair alone, leaves out zero.

        Over seeds differences are paired, and their spread is that of all operations pooled, since a few seeds say little of
        the spread of one pair; of one seed see :meth:`interval`.
        """
        apart = abs(self.scores[one] - self.scores[other])
        if self._pooled is not None:
            return bool(apart > self._pooled)
        first, second = self._error_of_views(one), self._error_of_views(other)
        if len(self._seeds) > 1 or first is None or second is None:
            return False
        return apart > 1.96 * math.hypot(first, second)

    def others_told(self) -> dict[str, int]:
        """Of each operation, how many others it is told apart from."""
        found = dict.fromkeys(self.scores, 0)
        for one, other in combinations(self.scores, 2):
            apart = self.told_apart(one, other)
            found[one] += apart
            found[other] += apart
        return found

    def agreement(self, losses: Mapping[str, float]) -> float | None:
        """Spearman's correlation of the order with that of losses of trainings on each operation alone; None of fewer than
        three, or where all tie.
        """
        names = [name for name in self.scores if name in losses]
        scores, gains = [self.scores[name] for name in names], [-losses[name] for name in names]
        if len(names) < 3 or 1 in (len(set(scores)), len(set(gains))):
            return None
        from scipy.stats import spearmanr

        return float(spearmanr(scores, gains).statistic)

    @cached_property
    def _pooled(self) -> float | None:
        """The difference of two means at which its interval begins to leave out zero; None of fewer than two seeds."""
        whole = [one for one in self._seeds if all(name in one and one[name][:, 0].sum() > 0 for name in self.scores)]
        seeds, operations = len(whole), len(self.scores)
        if seeds < 2 or operations < 2:
            return None
        from scipy.special import stdtrit

        table = np.array([[_mean(one[name]) for name in self.scores] for one in whole])
        rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
        freedom = (seeds - 1) * (operations - 1)
        error = np.sqrt((rest**2).sum() / freedom * 2 / seeds)
        return float(stdtrit(freedom, (1 + CONFIDENCE) / 2) * error)

    def _means(self, name: str) -> list[float]:
        return [_mean(one[name]) for one in self._seeds if name in one and one[name][:, 0].sum() > 0]

    def _error_of_views(self, name: str) -> float | None:
        views, score, _, _, squares = self.sums[name].sum(0)
        if views < 2:
            return None
        variance = max(0.0, squares / views - (score / views) ** 2) * views / (views - 1)
        return float(np.sqrt(variance / views))


def _mean(bins: np.ndarray) -> float:
    return float(bins[:, 1].sum() / bins[:, 0].sum())
