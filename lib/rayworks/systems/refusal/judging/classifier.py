"""A small classifier of replies: ridge logistic regression on the rules' features and hashed words of the opening."""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.special import expit

from rayworks.core.errors import DataError
from rayworks.systems.refusal.judging.rules import Reading

BITS = 13
_OPENING, _WORDS = 300, 40
"""Characters and words of a reply whose n-grams are hashed."""
_BIAS = 3.0
"""Of the constant column: as large as this, the ridge leaves it all but free."""
_WORD = re.compile(r"[a-z][a-z']+")
_FORMAT = 1
_NUMBERS = ("bias", "scale", "shift", "low", "high")


@lru_cache(maxsize=1 << 16)
def _slot(gram: str) -> int:
    return zlib.crc32(gram.encode()) & ((1 << BITS) - 1)


def hashed(replies: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashed words and pairs of words of the openings, as sparse rows of unit length: row, column, value, shape (E,) each."""
    rows, columns = [], []
    for number, reply in enumerate(replies):
        words = _WORD.findall(reply[:_OPENING].lower().replace("’", "'"))[:_WORDS]
        slots = [_slot(gram) for gram in (*words, *map(" ".join, pairwise(words)))]
        rows += [number] * len(slots)
        columns += slots
    keys, counts = np.unique(np.array(rows, np.int64) * (1 << BITS) + np.array(columns, np.int64), return_counts=True)
    row, column = keys >> BITS, keys & ((1 << BITS) - 1)
    length = np.sqrt(np.bincount(row, weights=counts**2.0, minlength=len(replies)))
    return row, column, counts / length[row]


@dataclass(frozen=True, eq=False)
class Classifier:
    """The chance that a request is not answered.

    ``dense`` (D,) weighs the rules' features and ``sparse`` (2**BITS,) the hashed words; ``scale`` and ``shift`` calibrate
    the sum of both and ``bias``. Chances between ``low`` and ``high`` are too near the middle to decide by.
    """

    dense: np.ndarray
    sparse: np.ndarray
    bias: float
    scale: float = 1.0
    shift: float = 0.0
    low: float = 0.5
    high: float = 0.5

    def logits(self, readings: Sequence[Reading], replies: Sequence[str]) -> np.ndarray:
        """Of the replies, before calibration, shape (N,)."""
        if not readings:
            return np.zeros(0)
        row, column, value = hashed(replies)
        found = np.bincount(row, weights=value * self.sparse[column], minlength=len(replies))
        logits: np.ndarray = found + np.array([reading.features() for reading in readings]) @ self.dense + self.bias
        return logits

    def probabilities(self, readings: Sequence[Reading], replies: Sequence[str]) -> np.ndarray:
        """Calibrated, shape (N,)."""
        found: np.ndarray = expit(self.scale * self.logits(readings, replies) + self.shift)
        return found

    def save(self, folder: Path) -> None:
        """Write ``classifier.npz`` and ``classifier.json``."""
        np.savez(folder / "classifier.npz", dense=self.dense, sparse=self.sparse)
        numbers = {"format": _FORMAT, "bits": BITS} | {name: getattr(self, name) for name in _NUMBERS}
        (folder / "classifier.json").write_text(json.dumps(numbers, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """What :meth:`save` wrote.

        Raises:
            DataError: it is missing, broken or of another format.
        """
        try:
            numbers = json.loads((folder / "classifier.json").read_text())
            with np.load(folder / "classifier.npz", allow_pickle=False) as arrays:
                dense, sparse = arrays["dense"], arrays["sparse"]
            if (numbers["format"], numbers["bits"]) != (_FORMAT, BITS) or sparse.shape != (1 << BITS,):
                raise ValueError("another format")
            return cls(dense, sparse, *(float(numbers[name]) for name in _NUMBERS))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"classifier {folder}: cannot be read ({error}); export the judge again") from None


def fit(readings: Sequence[Reading], replies: Sequence[str], labels: np.ndarray, ridge: float) -> Classifier:
    """Ridge logistic regression by Newton steps in the dual: few rows, many columns.

    Args:
        labels: 1 where the request is not answered, shape (N,).
        ridge: penalty per row.
    """
    dense = np.array([reading.features() for reading in readings])
    row, column, value = hashed(replies)
    matrix = np.zeros((len(replies), dense.shape[1] + (1 << BITS) + 1))
    matrix[:, : dense.shape[1]] = dense
    matrix[row, dense.shape[1] + column] = value
    matrix[:, -1] = _BIAS
    weights = matrix.T @ ridge_dual(matrix @ matrix.T, labels, ridge)
    return Classifier(weights[: dense.shape[1]], weights[dense.shape[1] : -1], float(_BIAS * weights[-1]))


def ridge_dual(gram: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
    """Weights (N,) of the rows by ridge logistic regression, of their products (N, N): those of columns are their sum."""
    logits, labels = np.zeros(len(labels)), np.asarray(labels, float)
    for _ in range(12):
        chance = expit(logits)
        variance = np.maximum(chance * (1 - chance), 1e-4)
        penalty = len(labels) * ridge * np.diag(1 / variance)
        dual: np.ndarray = np.linalg.solve(gram + penalty, logits + (labels - chance) / variance)
        logits = gram @ dual
    return dual
