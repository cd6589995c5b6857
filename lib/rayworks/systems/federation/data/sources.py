"""Load training and held-out examples: a known data set, a file, or one from the hub."""

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core import datasets, seeds
from rayworks.core.errors import DataError
from rayworks.systems.federation.config import DataSection
from rayworks.systems.federation.data.examples import Examples, Indices, Labels, encoded
from rayworks.systems.federation.data.reviews import reviews

HELD_OUT = 0.2
"""Share of the examples that is held out of a set that has no test examples of its own."""
DIGITS = tuple("0123456789")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
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


def digits(path: Path) -> Examples:
    """The 8x8 digits: rows of 64 greys 0..16 and the digit, as gzipped comma-separated text."""
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    greys = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
    return Examples(greys.reshape(-1, 1, 8, 8), table[:, -1].copy(), DIGITS)


def idx_pair(folder: Path, prefix: str, classes: tuple[str, ...]) -> Examples:
    """Images and labels in the IDX format of MNIST, gzipped or not.

    Raises:
        DataError: a file is missing or holds something else.
    """
    images = idx_array(folder, f"{prefix}-images-idx3-ubyte")
    labels = idx_array(folder, f"{prefix}-labels-idx1-ubyte")
    return Examples(images[:, None], labels.astype(np.int64), classes)


def idx_array(folder: Path, name: str) -> NDArray[np.uint8]:
    """One IDX file of bytes: two zeros, type 8, rank, big-endian sizes, values.

    Raises:
        DataError: missing, or not such a file.
    """
    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        raw = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"data.source: {plain} cannot be read ({error}); fetch the data set again") from None
    rank = raw[3] if raw[:3] == b"\x00\x00\x08" and len(raw) > 3 else 0
    sizes = np.frombuffer(raw, ">u4", rank, 4) if len(raw) >= 4 + 4 * rank else np.zeros(0, ">u4")
    if not rank or len(sizes) < rank or len(raw) != 4 + 4 * rank + int(np.prod(sizes, dtype=np.int64)):
        raise DataError(f"data.source: {plain} is not a whole IDX file of bytes; fetch the data set again")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(sizes.astype(int))


def cifar10_task(path: Path) -> Examples:
    """The task file of BIG-bench: base64 PNG images with the scores of the ten class names.

    Raises:
        DataError: pillow is missing, or the file is something else.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError("data.source cifar10-test: needs pillow; pip install rayworks[federation]") from None
    try:
        entries = json.loads(path.read_text())["examples"]
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(e["input"]))).convert("RGB")) for e in entries]
        names = [max(entry["target_scores"], key=entry["target_scores"].get) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"data.source cifar10-test: {path} cannot be read ({error}); fetch it again") from None
    labels, classes = encoded(names)
    return Examples(_stacked("cifar10-test", pictures), labels, classes)


def _mnist(name: str, classes: tuple[str, ...]) -> Callable[[DataSection], Split]:
    def reader(_: DataSection) -> Split:
        folder = datasets.fetch(name)
        return idx_pair(folder, "train", classes), idx_pair(folder, "t10k", classes)

    return reader


_READERS: dict[str, Callable[[DataSection], Split]] = {
    "digits": lambda data: (digits(datasets.fetch("digits")), None),
    "mnist": _mnist("mnist", DIGITS),
    "fashion-mnist": _mnist("fashion-mnist", GARMENTS),
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
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError("data.source hub:...: needs the datasets package; pip install rayworks[federation]") from None
    name, _, config = data.source.removeprefix("hub:").partition(":")
    try:
        splits = load_dataset(name, config or None)
    except (ConnectionError, TimeoutError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"data.source {data.source!r}: cannot be loaded ({reason})") from None
    if "train" not in splits:
        raise DataError(f"data.source {data.source!r}: has no split train; it has {', '.join(splits)}")
    held_out = next((splits[key] for key in ("test", "validation") if key in splits), None)
    train = _hub_examples(data.source, splits["train"])
    return train, None if held_out is None else _hub_examples(data.source, held_out)


def _hub_examples(source: str, table: Any) -> Examples:
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    images, labels = (
        next((column for column, kind in kinds.items() if kind == wanted), None) for wanted in ("Image", "ClassLabel")
    )
    if images is None or labels is None:
        raise DataError(f"data.source {source!r}: needs an image and a class label column; it has {', '.join(kinds)}")
    inputs = _stacked(source, (np.asarray(image) for image in table[images]))
    return Examples(inputs, np.asarray(table[labels], np.int64), tuple(table.features[labels].names))


def _stacked(source: str, pictures: Iterable[NDArray[Any]]) -> NDArray[np.uint8]:
    """(H, W) or (H, W, C) each, as (n, C, H, W)."""
    try:
        images = np.stack(list(pictures)).astype(np.uint8)
    except ValueError:
        raise DataError(f"data.source {source!r}: images differ in size, or there are none; give one size") from None
    with_channels = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(with_channels.transpose(0, 3, 1, 2))
