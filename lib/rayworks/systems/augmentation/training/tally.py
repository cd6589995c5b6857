"""What the engine thought of each source row, of each operation at each strength, and of each class."""

from typing import Any

import torch
from torch import Tensor

from rayworks.systems.augmentation.engine.saflex import Weighed
from rayworks.systems.augmentation.upstream.views import Views

BINS = 5
"""Bins of the strength, of equal width."""
MEASURES = 5
"""Kept of each operation and bin."""


class Tally:
    """Sums over the views that were weighed, and the worst and the best view of each row.

    Args:
        sources: number of source rows.
        classes: number of classes.
    """

    def __init__(self, sources: int, classes: int) -> None:
        self.names: tuple[str, ...] = ()
        """Of the operations, in the order in which they were first seen."""
        self.by_source = torch.zeros(sources, 2, dtype=torch.float64)
        """Views and sum of weights of each row."""
        self.gains = torch.zeros(sources, classes)
        """Sum of the gains of each label of each row."""
        self.by_operation = torch.zeros(0, BINS, MEASURES, dtype=torch.float64)
        """Views, sums of scores and weights, the number dropped and the sum of squared scores, of each operation and bin."""
        self.by_class = torch.zeros(classes, classes, dtype=torch.float64)
        """Sum of weight times learned label, by the largest entry of the upstream label."""
        self.extremes = torch.zeros(2, sources, 3, dtype=torch.float64)
        """Score, step and place in the batch of the worst and of the best view of each row."""
        self.extremes[0, :, 0], self.extremes[1, :, 0] = torch.inf, -torch.inf

    def add(self, views: Views, sources: Tensor, weighed: Weighed, step: int) -> None:
        """Count a batch in which the engine acted: its views, and the number of its step.

        Args:
            sources: ``(B,)``, the row of each view.
        """
        assert weighed.own is not None
        scores = weighed.loss.scores(weighed.upstream, weighed.outputs, weighed.own).cpu()
        weights, learned, upstream = weighed.weights.cpu(), weighed.labels.cpu(), weighed.upstream.cpu()
        ones, dropped = torch.ones_like(scores), (weights == 0).to(scores)
        columns = torch.stack([ones, scores, weights, dropped, scores.square()], 1).double()
        bins = (views.strengths * BINS).long().clamp_max(BINS - 1)
        places = self._places(views.names)[views.operations]
        self.by_operation.view(-1, MEASURES).index_add_(0, places * BINS + bins, columns)
        self.by_source.index_add_(0, sources, columns[:, [0, 2]])
        self.gains.index_add_(0, sources, weighed.own.cpu().float())
        self.by_class.index_add_(0, upstream.argmax(1), (weights[:, None] * learned).double())
        self._note_extremes(sources, scores.double(), step)

    def find(self, wrong: Tensor, given: Tensor) -> float:
        """Area under the curve of the mean score for finding wrong rows ``(n,)``, the first n; NaN without both kinds.

        Rows of equal score count half.

        Args:
            given: their labels ``(n,)``.
        """
        seen = self.by_source[: len(wrong), 0] > 0
        scores = self.scores(given)[seen]
        bad, good = scores[wrong[seen]], scores[~wrong[seen]].sort().values
        if not len(bad) or not len(good):
            return float("nan")
        above = len(good) - torch.searchsorted(good, bad, right=True)
        equal = torch.searchsorted(good, bad, right=True) - torch.searchsorted(good, bad)
        return float((above + equal / 2).sum() / (len(bad) * len(good)))

    def scores(self, given: Tensor) -> Tensor:
        """Mean gain of the labels that the first rows have, ``(n,)``; NaN where a row was never weighed.

        What they are mixed with in a view does not count.
        """
        seen = self.by_source[: len(given), 0]
        return self.gains[: len(given)].gather(1, given[:, None])[:, 0].double() / seen.where(seen > 0, torch.nan)

    def suggested(self, given: Tensor) -> Tensor:
        """The label of the largest mean gain of each of the first rows whose given one, ``(n,)``, scores below 0."""
        return torch.where(self.scores(given) < 0, self.gains[: len(given)].argmax(1), given)

    def furthest(self, count: int, most: int) -> list[list[tuple[int, float, int, int]]]:
        """The worst views, and the best, of as many different of the first rows: row, score, step and place in the batch."""
        found = []
        for side, sign in enumerate((1.0, -1.0)):
            order = (sign * self.extremes[side, :count, 0]).argsort(stable=True)[:most]
            rows = [(int(row), *self.extremes[side, row].tolist()) for row in order]
            found.append(
                [(row, score, int(step), int(place)) for row, score, step, place in rows if abs(score) < 1e300]
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from."""
        return {"names": list(self.names), **{name: getattr(self, name).clone() for name in _PARTS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.names = tuple(state["names"])
        for name in _PARTS:
            setattr(self, name, state[name].cpu().clone())

    def _places(self, names: tuple[str, ...]) -> Tensor:
        new = tuple(name for name in names if name not in self.names)
        if new:
            self.names += new
            self.by_operation = torch.cat([self.by_operation, self.by_operation.new_zeros(len(new), BINS, MEASURES)])
        return torch.tensor([self.names.index(name) for name in names])

    def _note_extremes(self, sources: Tensor, scores: Tensor, step: int) -> None:
        places = torch.arange(len(scores), dtype=torch.float64)
        for kept, sign in zip(self.extremes, (1.0, -1.0), strict=True):
            order = (sign * scores).argsort(descending=True, stable=True)
            better = order[sign * scores[order] < sign * kept[sources[order], 0]]
            # Of several views of a row the furthest is written last.
            for_rows = torch.stack([scores[better], torch.full_like(scores[better], step), places[better]], 1)
            kept[sources[better]] = for_rows


_PARTS = ("by_source", "gains", "by_operation", "by_class", "extremes")
