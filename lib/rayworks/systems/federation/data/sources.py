"""Load training and held-out examples: a known data set, a file, or one from the hub."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rayworks.core import datasets, pictures, seeds
from rayworks.core.errors import DataError
from rayworks.systems.federation.config import DataSection
from rayworks.systems.federation.data.examples import Examples, Indices, Labels, encoded
from rayworks.systems.federation.data.reviews import reviews

HELD_OUT = 0.2
"""Share of the examples that is held out of a set that has no test examples of its own."""
Split = tuple[Examples, Examples | None]


def read(data: DataSection, seed: int) -> tuple[Examples, Examples]:
    """Training and held-out examples, cut to ``train_examples`` and ``test_examples``.

    A set without held-out examples is split 80 to 20; splits and cuts keep the shares of the labels and depend on the
    seed alone.

    Raises:
        DataError: the source is unknown, cannot be read, or is empty.
    """
    train, test = _reader(data)(data)
    if test is None:
        held = stratified(train.labels, round(HELD_OUT * len(train)), seeds.stream(seed, "data", "held-out"))
        train, test = train.take(np.setdiff1d(np.arange(len(train)), held)), train.take(held)
    if not len(train) or not len(test):
        raise DataError(
            f"data.source {data.source!r}: {len(train)} training and {len(test)} held-out examples; give more"
        )
    return _cut(train, data.train_examples, seed, "train"), _cut(test, data.test_examples, seed, "test")


def check_source(data: DataSection) -> None:
    """Look for what :func:`read` would read, without reading it.

    Raises:
        DataError: the source is unknown, or the file does not exist.
    """
    _reader(data)
    if data.source.endswith(".npz") and not Path(data.source).expanduser().is_file():
        raise DataError(f"data.source {data.source!r}: does not exist; give the path of an .npz file")


def stratified(labels: Labels, count: int, generator: np.random.Generator) -> Indices:
    """Sorted indices of ``count`` random examples; each label keeps its share to within one example."""
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    of_order = labels[order]
    ranks = (np.arange(len(labels)) - starts[of_order] + 0.5) / sizes[of_order]
    return np.sort(order[np.argsort(ranks, kind="stable")[:count]]).astype(np.int64)


def _cut(examples: Examples, count: int | None, seed: int, name: str) -> Examples:
    if count is None or count >= len(examples):
        return examples
    return examples.take(stratified(examples.labels, count, seeds.stream(seed, "data", name)))


def _reader(data: DataSection) -> Callable[[DataSection], Split]:
    if data.source in _READERS:
        return _READERS[data.source]
    if data.source.startswith("hub:"):
        return _hub
    if data.source.endswith(".npz"):
        return _arrays
    raise DataError(
        f"data.source {data.source!r}: unknown; give {', '.join(_READERS)}, an .npz file, or hub:OWNER/NAME"
    )


def idx_pair(folder: Path, prefix: str, classes: tuple[str, ...]) -> Examples:
    """See :func:`rayworks.core.pictures.idx_pair`."""
    return Examples(*pictures.idx_pair(folder, prefix, classes))


def cifar10_task(path: Path) -> Examples:
    """See :func:`rayworks.core.pictures.cifar10_task`."""
    return Examples(*pictures.cifar10_task(path))


def _mnist(name: str, classes: tuple[str, ...]) -> Callable[[DataSection], Split]:
    def reader(_: DataSection) -> Split:
        folder = datasets.fetch(name)
        return idx_pair(folder, "train", classes), idx_pair(folder, "t10k", classes)

    return reader


_READERS: dict[str, Callable[[DataSection], Split]] = {
    "digits": lambda data: (Examples(*pictures.digits(datasets.fetch("digits"))), None),
    "mnist": _mnist("mnist", pictures.DIGITS),
    "fashion-mnist": _mnist("fashion-mnist", pictures.GARMENTS),
    "cifar10-test": lambda data: (cifar10_task(datasets.fetch("cifar10-test")), None),
    "clothing-departments": lambda data: (reviews(data.review_label), None),
}


def _arrays(data: DataSection) -> Split:
    """An .npz file of ``inputs``, ``labels`` and, if natural clients are known, ``groups``."""
    path = Path(data.source).expanduser()
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"data.source {data.source!r}: cannot be read ({reason}); mend the path or file") from None
    missing = [name for name in ("inputs", "labels") if name not in arrays]
    if missing:
        raise DataError(f"data.source {data.source!r}: has no array {missing[0]!r}; store inputs, labels and groups")
    inputs = arrays["inputs"]
    if inputs.dtype == np.uint8 and inputs.ndim == 3:
        inputs = inputs[:, None]
    if inputs.dtype.kind == "f":
        inputs = inputs.astype(np.float32)
    labels, classes = encoded(arrays["labels"])
    groups, names = encoded(arrays["groups"]) if "groups" in arrays else (None, ())
    return Examples(inputs, labels, classes, groups, names), None


def _hub(data: DataSection) -> Split:
    """``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG`` with an image column and a class label."""
    splits = pictures.hub_pictures(data.source)
    held_out = next((splits[key] for key in ("test", "validation") if key in splits), None)
    return Examples(*splits["train"]), None if held_out is None else Examples(*held_out)
