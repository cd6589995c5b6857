"""Which samples are trained on, trusted, selected by and tested on, and which labels are made wrong on purpose."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.augmentation.data.samples import Samples

TEST_SHARE = 0.2
"""Of a source without test samples of its own."""


@dataclass(frozen=True)
class Part:
    """Some samples. Inputs ``(n, ...)``, float32; for texts, see :attr:`rows`."""

    inputs: Tensor
    labels: Tensor
    """``(n,)`` int64."""
    rows: np.ndarray
    """``(n,)``, their places in the source, such as of texts."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """Four parts that share no sample."""

    training: Part
    """With the labels that are trained on, some of them wrong."""
    wrong: Tensor
    """``(n,)``, which of these."""
    trusted: Part
    """Validation samples, whose labels are right: what gains are measured by."""
    selection: Part
    """A second hold-out, by which arms are chosen."""
    test: Part
    classes: tuple[str, ...]
    left_out: int = 0
    """Rows that were drawn for training or as trusted ones, whose content is also among those that they are measured by."""


def split(
    samples: Samples,
    seed: int,
    *,
    training: int | None,
    trusted: int,
    selection: int,
    test: int | None = None,
    noise: float = 0.0,
    duplicates: bool = False,
) -> Splits:
    """Disjoint random parts, each with the classes in their shares; a function of the seed.

    Rows of tables are brought to mean 0 and spread 1 by the training part. Inputs of texts are their places in the source.

    Args:
        training: samples to train on; None: all that are left.
        test: samples to test on; None: the source's own, or a fifth.
        noise: share of the training labels that become another class, uniformly.
        duplicates: keep rows for training, or as trusted ones, whose content is also in another part, as is usual in tables
            of few values; false: leave them out.

    Raises:
        DataError: there are fewer samples than that, or a part has no sample.
    """
    if not 0 <= noise < 1:
        raise DataError(f"data.noise: is {noise}; must lie in [0, 1)")
    count, own = len(samples.labels), samples.test
    held_out = (own or round(TEST_SHARE * count)) if test is None else test
    tested = (
        _stratified(samples.labels, np.arange(count - own, count), held_out, seed, "test")
        if own
        else _stratified(samples.labels, np.arange(count), held_out, seed, "test")
    )
    left = np.setdiff1d(np.arange(count - own), tested)
    parts = {"test": tested}
    wanted = {"trusted": trusted, "selection": selection, "training": training}
    for name, size in wanted.items():
        parts[name] = left if size is None else _stratified(samples.labels, left, size, seed, name)
        left = np.setdiff1d(left, parts[name])
    empty = [name for name, rows in parts.items() if not len(rows) and name != "selection"]
    if empty:
        raise DataError(f"data: nothing is left for the part {empty[0]} of {count} samples; give more, or ask for less")
    sizes = {name: len(parts[name]) for name in ("training", "trusted")}
    if not duplicates:
        _leave_out_duplicates(samples.inputs, parts)
    for name, size in sizes.items():
        if len(parts[name]) < size and len(np.unique(samples.labels[parts[name]])) < 2:
            raise DataError(
                f"data.{name}: {size - len(parts[name])} of {size} rows have the content of rows in other parts and are left "
                f"out; the {len(parts[name])} left are not of two classes; set data.duplicates to keep all, or give more"
            )
    left_out = sum(size - len(parts[name]) for name, size in sizes.items())
    inputs = _standardised(samples, parts["training"])
    made = {name: Part(inputs[rows], torch.from_numpy(samples.labels[rows]), rows) for name, rows in parts.items()}
    labels, wrong = mislabelled(made["training"].labels, len(samples.classes), noise, seed)
    given = replace(made["training"], labels=labels)
    return Splits(given, wrong, made["trusted"], made["selection"], made["test"], samples.classes, left_out)


def _leave_out_duplicates(inputs: np.ndarray, parts: dict[str, np.ndarray]) -> None:
    """Trusted rows whose content is measured by, and training rows whose content is in any other part, in place."""

    def contents(rows: np.ndarray) -> list[object]:
        # Zero of either sign is the same content.
        return inputs[rows].tolist() if inputs.ndim == 1 else [(row + 0.0).tobytes() for row in inputs[rows]]

    held = {*contents(parts["test"]), *contents(parts["selection"])}
    for name in ("trusted", "training"):
        own = contents(parts[name])
        parts[name] = parts[name][np.array([one not in held for one in own], bool)]
        held |= set(own)


def mislabelled(labels: Tensor, classes: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Labels of which a share, drawn one by one, is another class; and which these are."""
    random = seeds.stream(seed, "label noise")
    wrong = torch.from_numpy(random.random(len(labels)) < share)
    others = (labels + torch.from_numpy(random.integers(1, classes, len(labels)))) % classes
    return torch.where(wrong, others, labels), wrong


def _stratified(labels: np.ndarray, rows: np.ndarray, size: int, seed: int, name: str) -> np.ndarray:
    """Sorted rows, of which each class keeps its share to within one sample."""
    if size > len(rows):
        raise DataError(f"data.{name}: {size} samples are asked for, {len(rows)} are left; ask for less")
    order = seeds.stream(seed, "split", name).permutation(rows)
    order = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels[order])
    starts = np.cumsum(sizes) - sizes
    kinds = labels[order]
    ranks = (np.arange(len(order)) - starts[kinds] + 0.5) / sizes[kinds]
    return np.sort(order[np.argsort(ranks, kind="stable")[:size]])


def standardisation(samples: Samples, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread ``(columns,)`` of some rows of a table; of other kinds, nothing."""
    if samples.kind != "table":
        return np.zeros(0), np.zeros(0)
    part = samples.inputs[rows].astype(np.float64)
    return part.mean(0), part.std(0) + 1e-9


def standardised(rows: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Rows of a table as they are trained on, within ten spreads."""
    found: np.ndarray = ((rows - mean) / spread).clip(-10, 10).astype(np.float32)
    return found


def _standardised(samples: Samples, training: np.ndarray) -> Tensor:
    if samples.kind == "texts":
        return torch.arange(len(samples.labels))
    if samples.kind == "images":
        return torch.from_numpy(samples.inputs)
    return torch.from_numpy(standardised(samples.inputs, *standardisation(samples, training)))
