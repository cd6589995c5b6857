"""Moving averages of the gains of each source row, over all its views: a wrong label is wrong in every view."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rayworks.core.errors import DataError

_distinct: Callable[..., tuple[Tensor, Tensor]] = torch.unique


class GainAverages:
    """A table of gains by source row, filled as rows are seen.

    Args:
        sources: rows of the table; ids are 0 to this less 1.
        share: of the earlier gains in the average.
    """

    def __init__(self, sources: int, share: float) -> None:
        self._sources, self._share = sources, share
        self._table: Tensor | None = None
        self._seen = torch.zeros(sources, dtype=torch.bool)

    def check(self, ids: Tensor | None, rows: int) -> None:
        """Raise a :class:`DataError` where a batch of so many rows has no source ids, or others than the table's."""
        if ids is None:
            raise DataError(
                "sources: the batch has no source ids, by which gains are averaged; collate with SourceRows, or set "
                "gain_average to 0"
            )
        whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
        fits = whole and ids.shape == (rows,) and (not rows or 0 <= int(ids.min()) <= int(ids.max()) < self._sources)
        if not fits:
            raise DataError(
                f"sources: ids {ids.flatten().tolist()[:3]}... of {len(ids)} for {rows} rows; give each row a whole number "
                f"of 0 to {self._sources - 1}"
            )

    def smoothed(self, gains: Tensor, ids: Tensor) -> Tensor:
        """``share * table + (1 - share) * gains`` of each view, ``(B, K)``; the table takes the mean over a row's views.

        Raises:
            DataError: an id is none of the table's.
        """
        self.check(ids, len(gains))
        ids = ids.to(gains.device).long()
        if self._table is None:
            self._table = gains.new_zeros(self._sources, gains.shape[1])
        self._table, self._seen = self._table.to(gains), self._seen.to(gains.device)
        known = self._seen[ids][:, None]
        rows, place = _distinct(ids, return_inverse=True)
        counts = torch.zeros_like(rows, dtype=gains.dtype).index_add_(0, place, torch.ones_like(gains[:, 0]))
        means = torch.zeros_like(self._table[rows]).index_add_(0, place, gains) / counts[:, None]
        smoothed = torch.where(known, torch.lerp(gains, self._table[ids], self._share), gains)
        mixed = torch.lerp(means, self._table[rows], self._share)
        self._table[rows] = torch.where(self._seen[rows][:, None], mixed, means)
        self._seen[rows] = True
        return smoothed

    def state_dict(self) -> dict[str, Any]:
        """The table, and which rows were seen."""
        return {"table": None if self._table is None else self._table.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._table, self._seen = state["table"], state["seen"].clone()
