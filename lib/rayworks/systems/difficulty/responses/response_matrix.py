"""Responses as a linear operator: sums over subjects or items, one byte per cell when dense, coordinates when sparse.

The estimators ask two things of the data only: log-likelihoods of all subjects at all ability nodes, and expected counts
of all items at all nodes. Both are products of a subjects x items matrix with a thin dense one.
"""

from collections.abc import Iterator
from copy import copy
from typing import Protocol

import numpy as np
from scipy.sparse import csr_matrix

from rayworks.systems.difficulty.responses.response_store import Responses

ALL = slice(None)
Rows = slice | np.ndarray
"""Subjects by slice or position."""
BLOCK = 1024
"""Subjects converted from bytes to floats at a time: the only memory beyond the bytes."""
DENSE_FROM = 0.08
"""Observed share above which bytes take less room and time than coordinates."""
POSTERIOR_BLOCK = 4096
"""Subjects whose posterior over the ability nodes is held at a time."""
FEW_UNSEEN = 0.04
"""Unobserved share below which subtracting those cells is faster than a product over all."""


class ResponseMatrix(Protocol):
    """Weighted scores ``Y = w y`` and weights ``M = w`` of a subjects x items table."""

    @property
    def shape(self) -> tuple[int, int]:
        """Subjects, items."""

    @property
    def is_complete(self) -> bool:
        """Whether every weight is 1."""

    @property
    def group(self) -> np.ndarray | None:
        """Population of each subject by position, shape (J,); None where all are of one."""

    def subject_scores(self, values: np.ndarray) -> np.ndarray:
        """``Y @ values``: items x K to subjects x K."""

    def subject_counts(self, values: np.ndarray) -> np.ndarray:
        """``M @ values``; of a complete table one row, the same for all subjects."""

    def item_scores(self, values: np.ndarray) -> np.ndarray:
        """``Y.T @ values``: subjects x K to items x K."""

    def item_counts(self, values: np.ndarray) -> np.ndarray:
        """``M.T @ values``; of a complete table one row, the same for all items."""

    def dense(self, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray]:
        """``Y`` and ``M`` of some subjects as float arrays; memory is subjects x items."""

    def part(self, rows: Rows) -> "ResponseMatrix":
        """Some of the subjects."""


class ByteMatrix:
    """0, 1 and -1 for unobserved, one byte per cell; few unobserved cells are kept as coordinates too."""

    def __init__(self, codes: np.ndarray, group: np.ndarray | None = None) -> None:
        self.codes = np.ascontiguousarray(codes, dtype=np.int8)
        self.group = group
        self._unseen: csr_matrix | None = None
        self.shape = (self.codes.shape[0], self.codes.shape[1])
        unseen = np.flatnonzero(self.codes < 0)
        self.is_complete = not len(unseen)
        if len(unseen) < FEW_UNSEEN * self.codes.size:
            rows, columns = np.unravel_index(unseen, self.codes.shape)
            self._unseen = csr_matrix((np.ones(len(unseen)), (rows, columns)), shape=self.codes.shape)

    def subject_scores(self, values: np.ndarray) -> np.ndarray:
        """``Y @ values``."""
        return np.concatenate([(part == 1).astype(float) @ values for _, part in self._blocks()])

    def subject_counts(self, values: np.ndarray) -> np.ndarray:
        """``M @ values``."""
        total = np.asarray(values.sum(0, keepdims=True))
        if self.is_complete:
            return total
        if self._unseen is not None:
            return np.asarray(total - self._unseen @ values)
        return np.concatenate([(part >= 0).astype(float) @ values for _, part in self._blocks()])

    def item_scores(self, values: np.ndarray) -> np.ndarray:
        """``Y.T @ values``."""
        return np.asarray(sum((part == 1).astype(float).T @ values[rows] for rows, part in self._blocks()))

    def item_counts(self, values: np.ndarray) -> np.ndarray:
        """``M.T @ values``."""
        total = np.asarray(values.sum(0, keepdims=True))
        if self.is_complete:
            return total
        if self._unseen is not None:
            return np.asarray(total - self._unseen.T @ values)
        return np.asarray(sum((part >= 0).astype(float).T @ values[rows] for rows, part in self._blocks()))

    def dense(self, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray]:
        """``Y`` and ``M``."""
        codes = self.codes[rows]
        return (codes == 1).astype(float), (codes >= 0).astype(float)

    def part(self, rows: Rows) -> "ByteMatrix":
        """Some of the subjects."""
        return ByteMatrix(self.codes[rows], None if self.group is None else self.group[rows])

    def _blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(self.codes), BLOCK):
            yield slice(start, start + BLOCK), self.codes[start : start + BLOCK]


class SparseMatrix:
    """Any scores and weights, as coordinates: 24 bytes per observed cell."""

    def __init__(
        self,
        subject: np.ndarray,
        item: np.ndarray,
        score: np.ndarray,
        weight: np.ndarray,
        shape: tuple[int, int],
        group: np.ndarray | None = None,
    ) -> None:
        self.group = group
        self._scored = csr_matrix((weight * score, (subject, item)), shape=shape)
        self._seen = csr_matrix((weight, (subject, item)), shape=shape)
        self.shape = shape
        self.is_complete = len(score) == shape[0] * shape[1] and bool(np.all(weight == 1))

    def subject_scores(self, values: np.ndarray) -> np.ndarray:
        """``Y @ values``."""
        return np.asarray(self._scored @ values)

    def subject_counts(self, values: np.ndarray) -> np.ndarray:
        """``M @ values``."""
        return values.sum(0, keepdims=True) if self.is_complete else np.asarray(self._seen @ values)

    def item_scores(self, values: np.ndarray) -> np.ndarray:
        """``Y.T @ values``."""
        return np.asarray(self._scored.T @ values)

    def item_counts(self, values: np.ndarray) -> np.ndarray:
        """``M.T @ values``."""
        return values.sum(0, keepdims=True) if self.is_complete else np.asarray(self._seen.T @ values)

    def dense(self, rows: slice = ALL) -> tuple[np.ndarray, np.ndarray]:
        """``Y`` and ``M``."""
        return self._scored[rows].toarray(), self._seen[rows].toarray()

    def part(self, rows: Rows) -> "SparseMatrix":
        """Some of the subjects."""
        found = copy(self)
        found._scored, found._seen = self._scored[rows], self._seen[rows]
        found.shape = (found._seen.shape[0], self.shape[1])
        found.group = None if self.group is None else self.group[rows]
        return found


def in_blocks(matrix: ResponseMatrix) -> list[tuple[slice, ResponseMatrix]]:
    """The matrix as parts of few enough subjects for an array of subjects x nodes: views of bytes, copies of coordinates."""
    if matrix.shape[0] <= POSTERIOR_BLOCK:
        return [(ALL, matrix)]
    slices = [slice(start, start + POSTERIOR_BLOCK) for start in range(0, matrix.shape[0], POSTERIOR_BLOCK)]
    return [(rows, matrix.part(rows)) for rows in slices]


def as_matrix(responses: Responses) -> ResponseMatrix:
    """The smaller of the two representations that holds the responses exactly."""
    group = None if responses.groups is None else responses.groups.member
    if responses.is_binary and responses.density >= DENSE_FROM:
        codes = np.full(responses.shape, -1, dtype=np.int8)
        codes[responses.subject, responses.item] = responses.score
        return ByteMatrix(codes, group)
    return SparseMatrix(responses.subject, responses.item, responses.score, responses.weight, responses.shape, group)
