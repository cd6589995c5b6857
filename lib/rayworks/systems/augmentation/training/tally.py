"""What the engine thought of each source row, and of each operation at each strength."""

from typing import Any

import torch
from torch import Tensor

from rayworks.systems.augmentation.engine.saflex import Weighed
from rayworks.systems.augmentation.upstream.views import Views

BINS = 5
"""Bins of the strength, of equal width."""


class Tally:
    """Sums over the views that were weighed.

    Args:
        sources: number of source rows.
        names: of the operations.
    """

    def __init__(self, sources: int, names: tuple[str, ...]) -> None:
        self.names = names
        self.by_source = torch.zeros(sources, 3, dtype=torch.float64)
        """Views, sum of scores of the upstream label, sum of weights of each row."""
        self.by_operation = torch.zeros(len(names), BINS, 4, dtype=torch.float64)
        """The same and the number dropped, of each operation and bin."""

    def add(self, views: Views, sources: Tensor, weighed: Weighed) -> None:
        """Count a batch in which the engine acted."""
        if weighed.gains is None:
            return
        scores = weighed.loss.scores(weighed.upstream, weighed.outputs.detach(), weighed.gains)
        columns = torch.stack([torch.ones_like(scores), scores, weighed.weights, (weighed.weights == 0).to(scores)], 1)
        bins = (views.strengths * BINS).long().clamp_max(BINS - 1)
        flat = self.by_operation.view(-1, 4)
        flat.index_add_(0, views.operations * BINS + bins, columns.double())
        self.by_source.index_add_(0, sources, columns[:, :3].double())

    def find(self, wrong: Tensor) -> float:
        """Area under the curve of the mean score for finding wrong rows ``(n,)``, the first n; NaN without both kinds.

        Rows of equal score count half.
        """
        seen = self.by_source[: len(wrong), 0] > 0
        scores = (self.by_source[: len(wrong), 1] / self.by_source[: len(wrong), 0])[seen]
        bad, good = scores[wrong[seen]], scores[~wrong[seen]].sort().values
        if not len(bad) or not len(good):
            return float("nan")
        above = len(good) - torch.searchsorted(good, bad, right=True)
        equal = torch.searchsorted(good, bad, right=True) - torch.searchsorted(good, bad)
        return float((above + equal / 2).sum() / (len(bad) * len(good)))

    def harm(self) -> dict[str, float]:
        """Mean score of the upstream label by operation, the most harmful first; only those that were seen."""
        sums = self.by_operation.sum(1)
        means = {name: float(row[1] / row[0]) for name, row in zip(self.names, sums, strict=True) if row[0] > 0}
        return dict(sorted(means.items(), key=lambda pair: pair[1]))

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from."""
        return {"source": self.by_source.clone(), "operation": self.by_operation.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.by_source, self.by_operation = state["source"].clone(), state["operation"].clone()
