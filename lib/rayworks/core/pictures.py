"""Pictures with labels as packages and the hub carry them, as arrays."""

import base64
import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError

DIGITS = tuple("0123456789")
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


class Pictures(NamedTuple):
    """Pictures and what they show."""

    images: NDArray[np.uint8]
    """``(n, channels, height, width)``."""
    labels: NDArray[np.int64]
    """``(n,)``, indices into :attr:`classes`."""
    classes: tuple[str, ...]


def digits(path: Path) -> Pictures:
    """The 8x8 digits: rows of 64 greys 0..16 and the digit, as gzipped comma-separated text."""
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    greys = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
    return Pictures(greys.reshape(-1, 1, 8, 8), table[:, -1].copy(), DIGITS)


def idx_pair(folder: Path, prefix: str, classes: tuple[str, ...]) -> Pictures:
    """Images and labels in the IDX format of MNIST, gzipped or not.

    Raises:
        DataError: a file is missing or holds something else.
    """
    images = idx_array(folder, f"{prefix}-images-idx3-ubyte")
    labels = idx_array(folder, f"{prefix}-labels-idx1-ubyte")
    return Pictures(images[:, None], labels.astype(np.int64), classes)


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


def cifar10_task(path: Path) -> Pictures:
    """The task file of BIG-bench: base64 PNG images with the scores of the ten class names.

    Raises:
        DataError: pillow is missing, or the file is something else.
    """
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            "data.source cifar10-test: needs pillow; pip install rayworks[federation], or rayworks[augmentation]"
        ) from None
    try:
        entries = json.loads(path.read_text())["examples"]
        pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(e["input"]))).convert("RGB")) for e in entries]
        names = [max(entry["target_scores"], key=entry["target_scores"].get) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"data.source cifar10-test: {path} cannot be read ({error}); fetch it again") from None
    classes, labels = np.unique(np.asarray(names), return_inverse=True)
    codes = labels.reshape(-1).astype(np.int64)
    return Pictures(stacked("cifar10-test", pictures), codes, tuple(str(name) for name in classes))


def hub_pictures(source: str) -> dict[str, Pictures]:
    """The splits of ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG`` with an image column and a class label.

    Raises:
        DataError: it cannot be loaded, or has no such columns.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            "data.source hub:...: needs the datasets package; pip install rayworks[federation], or rayworks[augmentation]"
        ) from None
    name, _, config = source.removeprefix("hub:").partition(":")
    try:
        splits = load_dataset(name, config or None)
    except (ConnectionError, TimeoutError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"data.source {source!r}: cannot be loaded ({reason})") from None
    if "train" not in splits:
        raise DataError(f"data.source {source!r}: has no split train; it has {', '.join(splits)}")
    return {name: _hub_split(source, split) for name, split in splits.items()}


def _hub_split(source: str, table: Any) -> Pictures:
    kinds = {column: type(feature).__name__ for column, feature in table.features.items()}
    images, labels = (
        next((column for column, kind in kinds.items() if kind == wanted), None) for wanted in ("Image", "ClassLabel")
    )
    if images is None or labels is None:
        raise DataError(f"data.source {source!r}: needs an image and a class label column; it has {', '.join(kinds)}")
    found = stacked(source, (np.asarray(image) for image in table[images]))
    return Pictures(found, np.asarray(table[labels], np.int64), tuple(table.features[labels].names))


def stacked(source: str, pictures: Iterable[NDArray[Any]]) -> NDArray[np.uint8]:
    """Pictures ``(H, W)`` or ``(H, W, C)`` each, as ``(n, C, H, W)``.

    Raises:
        DataError: they differ in size.
    """
    try:
        images = np.stack(list(pictures)).astype(np.uint8)
    except ValueError:
        raise DataError(f"data.source {source!r}: images differ in size, or there are none; give one size") from None
    with_channels = images[..., None] if images.ndim == 3 else images
    return np.ascontiguousarray(with_channels.transpose(0, 3, 1, 2))
