"""Pipelines by name: operations of each kind of data, policies of kornia, or the user's own function."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rayworks.core.errors import ConfigError
from rayworks.systems.augmentation.upstream import images, tables, texts
from rayworks.systems.augmentation.upstream.views import Upstream, Views, identity, mixed_up, of_function

OPERATIONS_OF = {
    "images": (*images.OPERATIONS, "mixup", "cutmix"),
    "table": ("identity", "noise", "mixup", "cutmix", "smote"),
    "texts": texts.TEXT_OPERATIONS,
}
"""Kind of data to its operations."""
USUAL_OF = {"images": images.USUAL, "table": ("identity", "noise"), "texts": texts.TEXT_OPERATIONS}
"""Those that are taken where none is named."""
POLICIES = ("rand-augment", "auto-augment")


def operations_of(kind: str, operations: Sequence[str]) -> tuple[str, ...]:
    """The operations asked for, or the usual ones of the kind.

    Raises:
        ConfigError: one is unknown.
    """
    unknown = [name for name in operations if name not in OPERATIONS_OF[kind]]
    if unknown:
        raise ConfigError(
            f"upstream.operations: {unknown[0]!r} is none of {kind}; choose of {', '.join(OPERATIONS_OF[kind])}"
        )
    return tuple(operations) or USUAL_OF[kind]


def upstream_of(
    name: str, kind: str, operations: Sequence[str], *, strength: float, steps: int, alpha: float
) -> Upstream:
    """A pipeline of images or tables.

    Args:
        name: ``operations``, a policy of kornia, or ``module:function``.
        alpha: of the Beta distribution of what mixes two samples.

    Raises:
        ConfigError: there is no such pipeline for this kind of data.
    """
    if name in POLICIES:
        if kind != "images":
            raise ConfigError(f"upstream.name: {name} is for images, not for {kind}; take operations")
        return images.kornia_policy(name, max(1, round(30 * strength)), steps)
    if name != "operations":
        return of_function(name)
    chosen = operations_of(kind, operations)
    mixers = images.cut_and_mixed if kind == "images" else tables.columns_swapped
    each: dict[str, Callable[[], Upstream]] = {
        "mixup": lambda: partial(mixed_up, alpha=alpha),
        "cutmix": lambda: partial(mixers, alpha=alpha),
        "noise": lambda: tables.noisy(strength),
        "smote": lambda: tables.between_neighbours,
        "identity": lambda: identity,
    }
    alone = [one for one in chosen if kind == "images" and one in images.OPERATIONS]
    parts = [each[one]() for one in chosen if one not in alone]
    if alone:
        return any_of([images.random_operations(alone, strength, steps), *parts], [len(alone), *[1] * len(parts)])
    return any_of(parts, [1] * len(parts))


def any_of(parts: Sequence[Upstream], shares: Sequence[float]) -> Upstream:
    """One of several pipelines for each row, drawn in these shares; each sees the whole batch, among which it may mix."""
    if len(parts) == 1:
        return parts[0]
    chances = np.asarray(shares, float) / sum(shares)

    def augment(inputs: Tensor, labels: Tensor, random: np.random.Generator) -> Views:
        made = [part(inputs, labels, random) for part in parts]
        names = tuple(dict.fromkeys(name for one in made for name in one.names))
        turn = torch.from_numpy(random.choice(len(parts), len(inputs), p=chances))
        rows = torch.arange(len(inputs))
        numbers = [torch.tensor([names.index(name) for name in one.names])[one.operations] for one in made]

        def chosen(values: list[Tensor]) -> Tensor:
            return torch.stack(values)[turn, rows]

        return Views(
            chosen([one.inputs for one in made]),
            chosen([one.labels for one in made]),
            rows,
            chosen(numbers),
            chosen([one.strengths for one in made]),
            names,
        )

    return augment
