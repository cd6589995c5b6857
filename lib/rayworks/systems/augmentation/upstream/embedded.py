"""Texts as vectors, and views of them: made once, since a sentence encoder is dearer than the network behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core import seeds
from rayworks.systems.augmentation.upstream.texts import TEXT_OPERATIONS, text_views
from rayworks.systems.augmentation.upstream.views import Views

Encoder = Callable[[Sequence[str]], np.ndarray]
"""From texts to vectors ``[texts, features]``."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of views of the same rows, one array of each pass over them."""

    vectors: np.ndarray
    """``(passes, rows, features)`` float32."""
    operations: np.ndarray
    """``(passes,)``, indices into :data:`TEXT_OPERATIONS`."""
    strengths: np.ndarray
    """``(passes, rows)``."""

    def views(self, labels: Tensor, classes: int, operation: str = "") -> list[Views]:
        """Each pass as views of rows with these labels, or those of one operation alone."""
        wanted = [operation in ("", TEXT_OPERATIONS[number]) for number in self.operations]
        targets, rows = F.one_hot(labels, classes).float(), torch.arange(len(labels))
        return [
            Views(
                torch.from_numpy(self.vectors[turn]),
                targets,
                rows,
                torch.full((len(labels),), int(self.operations[turn])),
                torch.from_numpy(self.strengths[turn]).float(),
                TEXT_OPERATIONS,
            )
            for turn in np.flatnonzero(wanted)
        ]


def embedded(
    texts: Sequence[str], encoder: Encoder, seed: int, operations: Sequence[str], strength: float, passes: int
) -> Embedded:
    """As many passes over all texts by each operation, one by ``identity``; a function of the seed."""
    found: list[tuple[np.ndarray, int, np.ndarray]] = []
    for operation in dict.fromkeys(operations):
        for turn in range(1 if operation == "identity" else passes):
            made = text_views(texts, seeds.stream(seed, "texts", operation, turn), (operation,), strength)
            strengths = made.strengths * (operation != "identity")
            found.append((encoder(made.texts), TEXT_OPERATIONS.index(operation), strengths))
    vectors, numbers, strengths = zip(*found, strict=True)
    return Embedded(np.stack(vectors), np.array(numbers), np.stack(strengths))
