"""Labelled images, rows of tables and texts: known sets, files, the hub, or the user's own function."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from rayworks.core import datasets, pictures
from rayworks.core.errors import DataError
from rayworks.core.registry import of_the_user
from rayworks.core.tables import SUFFIXES, read_table, suffix_of

Kind = Literal["images", "table", "texts"]
KEEL = "keel:"
MOST_CLASSES = 1000
MISSING = ("", "?", "NA", "N/A", "nan", "NaN", "None", "null")
"""Words for a number that is not there."""


@dataclass(frozen=True)
class Samples:
    """Inputs with one class each.

    Raises:
        DataError: parts differ in length or are of another kind, there is no sample or one class only, a label is none of
            the classes, or a value is not finite.
    """

    inputs: np.ndarray
    """Images ``(n, C, H, W)`` float32 in [0, 1], rows ``(n, columns)`` float32, or texts ``(n,)``."""
    labels: np.ndarray
    """``(n,)`` int64, indices into :attr:`classes`."""
    classes: tuple[str, ...]
    test: int = 0
    """How many of the last samples are test samples of the source's own; 0: it has none."""

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels) or not len(self.labels):
            raise DataError(
                f"data.source: {len(self.inputs)} inputs and {len(self.labels)} labels; give as many of both"
            )
        if len(np.unique(self.labels)) < 2 or len(self.classes) > MOST_CLASSES:
            raise DataError(f"data.source: has {len(self.classes)} classes; give 2 to {MOST_CLASSES} of them")
        wrong = (self.labels < 0) | (self.labels >= len(self.classes))
        if self.labels.dtype.kind not in "iu" or wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"data.source: row {row} has label {self.labels[row]}; give a whole number for each class, from 0"
            )
        if self.inputs.ndim not in (1, 2, 4) or (self.inputs.dtype.kind in "UO") != (self.kind == "texts"):
            shape, kind = self.inputs.shape, self.inputs.dtype
            raise DataError(f"data.source: inputs are {shape} {kind}; give (n, columns), (n, C, H, W) or texts (n,)")
        if self.kind != "texts" and not np.isfinite(self.inputs).all():
            row = int(np.flatnonzero(~np.isfinite(self.inputs).reshape(len(self.inputs), -1).all(1))[0])
            raise DataError(f"data.source: row {row} holds a value that is not finite; fill or drop it")

    @property
    def kind(self) -> Kind:
        """What the inputs are."""
        return "images" if self.inputs.ndim == 4 else "table" if self.inputs.ndim == 2 else "texts"


def read(source: str) -> Samples:
    """All samples of a source: digits, mnist, fashion-mnist, cifar10-test, adult, sarcasm, ``keel:NAME``, a table (see
    :func:`read_table`) with a column ``label`` (and ``text``, or else columns of features), an .npz of ``inputs`` and
    ``labels``, ``hub:OWNER/NAME`` such as those of MedMNIST, or ``module:function`` of the user's own that returns
    :class:`Samples`.

    Raises:
        ConfigError: there is no such source.
        DataError: it cannot be read or used.
    """
    if source in KNOWN:
        return KNOWN[source]()
    if source.startswith(KEEL):
        return _keel(source.removeprefix(KEEL))
    if source.startswith("hub:"):
        return _hub(source)
    if suffix_of(source):
        return _table(source)
    if source.endswith(".npz"):
        return _arrays(source)
    choices = ", ".join((*KNOWN, "keel:NAME", "hub:OWNER/NAME", *SUFFIXES, ".npz"))
    function = of_the_user("data.source", source, f"is unknown; give {choices} or module:function")
    found = function()
    if not isinstance(found, Samples):
        raise DataError(f"data.source {source!r}: returned a {type(found).__name__}; return Samples")
    return found


def _pictured(*parts: pictures.Pictures) -> Samples:
    """Training pictures and, if there are, test pictures."""
    images = np.concatenate([part.images for part in parts]).astype(np.float32) / 255
    labels = np.concatenate([part.labels for part in parts])
    return Samples(images, labels, parts[0].classes, len(parts[1].labels) if len(parts) > 1 else 0)


def _idx(name: str, classes: tuple[str, ...]) -> Callable[[], Samples]:
    def reader() -> Samples:
        folder = datasets.fetch(name)
        return _pictured(*(pictures.idx_pair(folder, prefix, classes) for prefix in ("train", "t10k")))

    return reader


def _hub(source: str) -> Samples:
    splits = pictures.hub_pictures(source)
    held = next((splits[name] for name in ("test", "validation") if name in splits), None)
    return _pictured(splits["train"], *([] if held is None else [held]))


def _labelled(table: pd.DataFrame, label: str, source: str) -> Samples:
    """Texts, or numbers as they are and one column for each word; what is missing is the mean, and a word of its own."""
    if table.shape[1] < 2:
        raise DataError(f"data.source {source!r}: has no column beside {label!r}; give features")
    classes, names = np.unique(table[label].astype(str).str.strip(), return_inverse=True)
    labels, features = names.reshape(-1).astype(np.int64), table.drop(columns=label)
    if "text" in features:
        return Samples(features["text"].fillna("").astype(str).to_numpy(str), labels, tuple(map(str, classes)))
    for name in [name for name in features if not pd.api.types.is_numeric_dtype(features[name])]:
        cells = features[name].astype(str).str.strip()
        given = features[name].notna() & ~cells.isin(MISSING)
        values = pd.to_numeric(cells.where(given), errors="coerce")
        features[name] = values if values.notna().equals(given) else cells.where(given, "")
        if features[name].dtype != values.dtype and cells.nunique() > MOST_CLASSES:
            raise DataError(
                f"data.source {source!r}: column {name} holds over {MOST_CLASSES} words; drop or group them"
            )
    filled = features.fillna(features.mean(numeric_only=True)).fillna(0.0)
    return Samples(pd.get_dummies(filled).to_numpy(np.float32), labels, tuple(map(str, classes)))


def _adult() -> Samples:
    table = pd.read_parquet(datasets.fetch("adult"))
    return _labelled(table, str(table.columns[-1]), "adult")


def _keel(name: str) -> Samples:
    folder = datasets.fetch("keel")
    path = folder / f"{name}.dat"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in folder.glob("*.dat")))
        raise DataError(f"data.source 'keel:{name}': unknown; choose one of {names}")
    rows = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("@")]
    table = pd.DataFrame([[value.strip() for value in row.split(",")] for row in rows])
    return _labelled(table, table.columns[-1], f"keel:{name}")


def _sarcasm() -> Samples:
    rows = [json.loads(line) for line in datasets.fetch("sarcasm").read_text().splitlines()]
    labels = np.array([int(row["ideal"]) for row in rows])
    return Samples(np.array([row["input"][-1]["content"] for row in rows]), labels, ("sincere", "sarcastic"))


def _table(source: str) -> Samples:
    table = read_table(source, "data.source")
    if "label" not in table:
        raise DataError(f"data.source {source!r}: has no column label; it has {', '.join(map(str, table.columns))}")
    bare = table["label"].isna() | (table["label"].astype(str).str.strip() == "")
    if bare.any():
        raise DataError(f"data.source {source!r}: row {int(bare.argmax())} has no label; give it one")
    return _labelled(table, "label", source)


def _arrays(source: str) -> Samples:
    try:
        with np.load(Path(source).expanduser(), allow_pickle=False) as file:
            inputs, names = np.atleast_1d(file["inputs"]), file["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"data.source {source!r}: cannot be read ({error}); store arrays inputs and labels") from None
    if inputs.dtype.kind != "U":
        inputs = inputs.astype(np.float32) / (255 if inputs.dtype == np.uint8 else 1)
    inputs = inputs[:, None] if inputs.ndim == 3 else inputs
    classes, labels = np.unique(names, return_inverse=True)
    return Samples(inputs, labels.reshape(-1).astype(np.int64), tuple(map(str, classes)))


KNOWN: dict[str, Callable[[], Samples]] = {
    "digits": lambda: _pictured(pictures.digits(datasets.fetch("digits"))),
    "mnist": _idx("mnist", pictures.DIGITS),
    "fashion-mnist": _idx("fashion-mnist", pictures.GARMENTS),
    "cifar10-test": lambda: _pictured(pictures.cifar10_task(datasets.fetch("cifar10-test"))),
    "adult": _adult,
    "sarcasm": _sarcasm,
}
