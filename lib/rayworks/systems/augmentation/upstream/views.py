"""Views of a batch, and what made each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user


@dataclass(frozen=True)
class Views:
    """Augmented samples.

    Raises:
        DataError: parts differ in length, or an operation has no name.
    """

    inputs: Tensor
    """``(V, ...)``, as the inputs they were made of."""
    labels: Tensor
    """``(V, K)``, distributions."""
    sources: Tensor
    """``(V,)``, place of the row in the batch."""
    operations: Tensor
    """``(V,)``, indices into :attr:`names`."""
    strengths: Tensor
    """``(V,)``, in [0, 1]."""
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = (self.inputs, self.labels, self.sources, self.operations, self.strengths)
        if len({len(part) for part in parts}) > 1:
            raise DataError(
                f"views: inputs, labels, sources, operations and strengths are {[len(part) for part in parts]}; give as many "
                "of each, a source id with every view"
            )
        if not ((self.strengths >= 0) & (self.strengths <= 1)).all() or bool((self.sources < 0).any()):
            raise DataError("views: a strength is outside [0, 1], or a source below 0; mend the pipeline")
        if len(self.operations) and not 0 <= int(self.operations.min()) <= int(self.operations.max()) < len(self.names):
            raise DataError(f"views: an operation is none of the {len(self.names)} named ones; name it")


Upstream = Callable[[Tensor, Tensor, np.random.Generator], Views]
"""From inputs ``(B, ...)``, labels ``(B, K)`` and a random generator to views."""
Drawn = Callable[[Tensor, np.random.Generator], Views]
"""From places ``(B,)`` among the training and then the trusted rows to views of them, on the CPU."""


def views(
    inputs: Tensor,
    labels: Tensor,
    operations: Tensor | int = 0,
    strengths: Tensor | float = 0.0,
    names: tuple[str, ...] = ("identity",),
) -> Views:
    """One view of each row, in order; one operation or strength stands for all."""
    count = len(inputs)
    operation = operations if isinstance(operations, Tensor) else torch.full((count,), operations)
    strength = strengths if isinstance(strengths, Tensor) else torch.full((count,), float(strengths))
    return Views(inputs, labels, torch.arange(count), operation, strength.float(), names)


def identity(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
    """The rows themselves."""
    return views(inputs, labels)


def of_function(name: str) -> Upstream:
    """The user's own upstream, ``module:function``, of :data:`Upstream`'s arguments, which returns :class:`Views`.

    Raises:
        ConfigError: it cannot be imported or called.
        DataError: when called, it returns something else.
    """
    function = of_the_user("upstream.name", name, "is no upstream and no module:function; name one of them")
    if not callable(function):
        raise ConfigError(f"upstream.name: {name!r} is a {type(function).__name__}; name a function")

    def checked(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
        found = function(inputs, labels, random)
        if not isinstance(found, Views):
            raise DataError(f"upstream.name: {name!r} returned a {type(found).__name__}; return Views")
        return found

    return checked


def mixing(random: np.random.Generator, rows: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Shares ``(rows,)`` of each row, from Beta(alpha, alpha), and the row ``(rows,)`` it is mixed with.

    Raises:
        ConfigError: alpha is not above 0.
    """
    if not alpha > 0:
        raise ConfigError(f"alpha: is {alpha}; must be above 0")
    return torch.from_numpy(random.beta(alpha, alpha, rows)).float(), torch.from_numpy(random.permutation(rows))


def mixed_up(inputs: Tensor, labels: Tensor, random: np.random.Generator, alpha: float = 1.0) -> Views:
    """MixUp (Zhang et al. 2018): ``lam x_i + (1 - lam) x_j``, labels alike; the strength is ``2 min(lam, 1 - lam)``."""
    share, other = mixing(random, len(inputs), alpha)
    wide = share.view(-1, *[1] * (inputs.dim() - 1))
    blended = wide * inputs + (1 - wide) * inputs[other]
    return views(blended, _mixed(labels, share, other), 0, 2 * torch.minimum(share, 1 - share), ("mixup",))


def _mixed(labels: Tensor, share: Tensor, other: Tensor) -> Tensor:
    return share[:, None] * labels + (1 - share[:, None]) * labels[other]
