"""Labelled examples of clients, and their scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError

Labels = NDArray[np.int64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Images or feature vectors with one label each. A client may hold none.

    Raises:
        DataError: shapes do not fit, a label or group has no name, or a feature is not a number in [0, 1].
    """

    inputs: NDArray[Any]
    """uint8 (n, channels, height, width), or float32 (n, features) in [0, 1]."""
    labels: Labels
    """(n,), each below the number of classes."""
    classes: tuple[str, ...]
    """Names of the K labels."""
    groups: Labels | None = None
    """(n,): the natural client of each example, where the data have such."""
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images = self.inputs.dtype == np.uint8 and self.inputs.ndim == 4
        if not images and not (self.inputs.dtype == np.float32 and self.inputs.ndim == 2):
            raise DataError(
                f"inputs: are {self.inputs.dtype} {self.inputs.shape}; give uint8 (n, channels, height, width) or float32 "
                "(n, features)"
            )
        if 0 in self.inputs.shape[1:]:
            raise DataError(f"inputs: an example of shape {self.shape} holds nothing; give at least one value")
        _check_codes("labels", self.labels, len(self.inputs), len(self.classes))
        if self.groups is not None:
            _check_codes("groups", self.groups, len(self.inputs), len(self.group_names))
        if not images and not np.all((self.inputs >= 0) & (self.inputs <= 1)):
            raise DataError("inputs: features must be numbers in [0, 1]; fill what is missing and rescale")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.inputs.shape[1:]

    def take(self, indices: Indices) -> "Examples":
        """The chosen examples, in that order."""
        groups = None if self.groups is None else self.groups[indices]
        return Examples(self.inputs[indices], self.labels[indices], self.classes, groups, self.group_names)

    def counts(self) -> NDArray[np.int64]:
        """(K,): examples of each label."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)


def scaled(inputs: NDArray[Any]) -> NDArray[np.float32]:
    """The same shape as float32 in [0, 1]: bytes are divided by 255, features stay as they are."""
    values = inputs.astype(np.float32)
    return values / np.float32(255) if inputs.dtype == np.uint8 else values


def encoded(values: Sequence[Any] | NDArray[Any]) -> tuple[Labels, tuple[str, ...]]:
    """Codes (n,) and the sorted names behind them."""
    names, codes = np.unique(np.asarray(values), return_inverse=True)
    return codes.reshape(-1).astype(np.int64), tuple(str(name) for name in names)


def _check_codes(name: str, codes: Labels, examples: int, names: int) -> None:
    if codes.shape != (examples,) or codes.dtype != np.int64:
        raise DataError(f"{name}: are {codes.dtype} {codes.shape}; give int64 ({examples},), one for each example")
    if examples and not (codes.min() >= 0 and codes.max() < names):
        raise DataError(f"{name}: must lie in 0..{names - 1}, but some are {codes.min()} or {codes.max()}; mend them")
