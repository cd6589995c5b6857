"""Batches of validation rows, and the check that none of these is trained on unawares."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.forward_passes import Inputs


class ValidationBatches:
    """Batches of trusted rows; draw i is a function of the seed and i alone, so that a resumed run sees the same.

    Rows are drawn in passes over all of them, so that batches have the classes in the shares of the validation set, which
    should be the target's.

    Args:
        inputs: a tensor ``(M, ...)``, or a tuple or mapping of such.
        labels: ``(M,)`` or ``(M, K)``.
        batch: rows of a draw; all of them where there are fewer.
        balanced: draw as many rows of each class instead, where every class matters as much whatever its share. On a target
            of other shares this shifts the labels.
        classes: whether labels are classes, of which there must be two.

    Raises:
        DataError: parts are no tensors or differ in length, or there are no rows or one class only.
    """

    def __init__(
        self,
        inputs: Inputs,
        labels: Tensor,
        batch: int,
        seed: int,
        *,
        balanced: bool = False,
        classes: bool = True,
    ) -> None:
        parts = [inputs] if isinstance(inputs, Tensor) else inputs.values() if isinstance(inputs, Mapping) else inputs
        odd = next(
            (type(part).__name__ for part in (labels, *parts) if not isinstance(part, Tensor) or not part.dim()), ""
        )
        if odd:
            raise DataError(f"validation: holds a {odd} without rows of its own; give tensors of as many rows")
        if not len(labels) or any(len(part) != len(labels) for part in parts):
            raise DataError(
                f"validation: {len(labels)} labels, inputs of {[len(part) for part in parts]} rows; give as many of both"
            )
        if batch < 1:
            raise ConfigError(f"validation batch: is {batch}; must be at least 1")
        if balanced and not classes:
            raise ConfigError("balanced: needs labels that are classes; set it to false")
        self._inputs, self._labels, self._seed = inputs, labels, seed
        self._batch, self._balanced = min(batch, len(labels)), balanced
        kinds = (labels.argmax(1) if labels.dim() == 2 else labels).cpu().numpy() if classes else np.arange(2)
        if len(np.unique(kinds)) < 2:
            raise DataError(f"validation: all rows are of class {kinds[0]}; give rows of two classes at least")
        self._members = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]

    def __len__(self) -> int:
        return len(self._labels)

    def __call__(self, draw: int) -> tuple[Inputs, Tensor]:
        """Inputs and labels of a draw."""
        rows = torch.from_numpy(self._balanced_rows(draw) if self._balanced else self._rows(draw))
        return rows_of(self._inputs, rows), self._labels[rows.to(self._labels.device)]

    def _rows(self, draw: int) -> np.ndarray:
        count, first = len(self._labels), draw * self._batch
        passes = range(first // count, (first + self._batch - 1) // count + 1)
        orders = [seeds.stream(self._seed, "validation", turn).permutation(count) for turn in passes]
        start = first - count * passes[0]
        return cast(np.ndarray, np.concatenate(orders)[start : start + self._batch])

    def _balanced_rows(self, draw: int) -> np.ndarray:
        """As many of each class as fit, the rest of classes in turn; within a class with replacement."""
        random = seeds.stream(self._seed, "validation", "balanced", draw)
        turn = (draw * self._batch + np.arange(self._batch)) % len(self._members)
        sizes = np.array([len(rows) for rows in self._members])
        starts = np.cumsum(sizes) - sizes
        places = (random.random(self._batch) * sizes[turn]).astype(int)
        return cast(np.ndarray, np.concatenate(self._members)[starts[turn] + places])


def rows_of(inputs: Inputs, rows: Tensor) -> Inputs:
    """Some rows of a tensor, or of each tensor of a tuple or mapping."""
    if isinstance(inputs, Tensor):
        return inputs[rows.to(inputs.device)]
    if isinstance(inputs, Mapping):
        return {name: cast(Tensor, rows_of(part, rows)) for name, part in inputs.items()}
    return tuple(rows_of(part, rows) for part in inputs)


def leaked(training: Tensor, validation: Tensor) -> Tensor:
    """Which training rows, ``(n,)``, have the content of some validation row. Both ``(rows, ...)`` of one type."""
    known = {row.tobytes() for row in _contents(validation)}
    return torch.tensor([row.tobytes() in known for row in _contents(training)], dtype=torch.bool)


def check_leakage(training: Tensor, validation: Tensor, trusted: Tensor | None = None) -> int:
    """The number of validation rows among those trained on, all of which must be named as trusted.

    Args:
        trusted: ``(n,)``, training rows that are validation rows on purpose.

    Raises:
        DataError: others are among them; the message says how many.
    """
    found = leaked(training, validation)
    unnamed = found if trusted is None else found & ~trusted.cpu()
    if unnamed.any():
        raise DataError(
            f"validation: {int(unnamed.sum())} of {len(training)} training rows are also validation rows, the first is row "
            f"{int(unnamed.nonzero()[0])}; take them out, or name them as trusted"
        )
    return int(found.sum())


def _contents(rows: Tensor) -> np.ndarray:
    array = rows.detach().cpu().numpy().reshape(len(rows), int(np.prod(rows.shape[1:])))
    # Zero of either sign is the same content.
    return np.ascontiguousarray(array + 0.0 if array.dtype.kind == "f" else array)
