"""Examples whose answer is one of a few classes: headlines, questions, reviews, or the user's own."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import DataError
from rayworks.core.tables import suffix_of
from rayworks.systems.supervision.tasks.columns import read_table, texts_of

MOST_CLASSES = 100


@dataclass(frozen=True)
class LabelledExamples:
    """Texts and their classes."""

    uids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: np.ndarray
    """``[examples]``, indices into :attr:`classes`."""
    classes: tuple[str, ...]
    columns: pd.DataFrame
    """What else a file says about each, such as its hardness."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "LabelledExamples":
        """Some of them."""
        chosen = rows.tolist()
        uids, texts = (tuple(part[row] for row in chosen) for part in (self.uids, self.texts))
        return LabelledExamples(uids, texts, self.labels[rows], self.classes, self.columns.iloc[chosen])


def labelled(
    texts: list[str], names: list[str], uids: list[str] | None = None, columns: pd.DataFrame | None = None
) -> LabelledExamples:
    """Examples from texts and the names of their classes.

    Raises:
        DataError: they differ in number, there is one class only, or so many that these are no classes.
    """
    if len(texts) != len(names):
        raise DataError(f"task.name: gave {len(texts)} texts and {len(names)} labels; give as many of both")
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise DataError(
            f"task.name: all labels are {classes[0] if classes else 'missing'}; give examples of two classes"
        )
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"task.name: {len(classes)} labels, more than {MOST_CLASSES} classes; set task.kind: texts if these are texts"
        )
    place = {name: number for number, name in enumerate(classes)}
    own = uids or [str(number) for number in range(len(texts))]
    if len(set(own)) < len(own):
        raise DataError("task.name: two examples have the same uid; give each one of its own")
    table = pd.DataFrame(index=range(len(texts))) if columns is None else columns.reset_index(drop=True)
    return LabelledExamples(tuple(own), tuple(texts), np.array([place[name] for name in names]), classes, table)


def _sarcasm() -> LabelledExamples:
    rows = [json.loads(line) for line in datasets.fetch("sarcasm").read_text().splitlines()]
    names = ["sarcastic" if row["ideal"] == "1" else "sincere" for row in rows]
    return labelled([row["input"][-1]["content"] for row in rows], names)


def _boolq() -> LabelledExamples:
    rows = [json.loads(line) for line in datasets.fetch("boolq").read_text().splitlines()]
    rows = [row for row in rows if isinstance(row.get("label"), bool)]
    names = ["yes" if row["label"] else "no" for row in rows]
    return labelled([f"{row['question']}?\n{row['passage']}" for row in rows], names)


def _reviews() -> LabelledExamples:
    table = pd.read_parquet(datasets.fetch("clothing-reviews"), columns=["Review Text", "Rating"]).dropna()
    names = ["five stars" if rating == 5 else "fewer" for rating in table["Rating"]]
    return labelled(table["Review Text"].tolist(), names)


BUILT_IN: dict[str, Callable[[], LabelledExamples]] = {"sarcasm": _sarcasm, "boolq": _boolq, "reviews": _reviews}


def read_labelled(name: str) -> LabelledExamples:
    """A file with the columns text and label, and uid if there is one, or a data set of a hub with these.

    Raises:
        DataError: it cannot be read or used; the message names row and column.
    """
    table = read_table(name)
    uids = [str(uid) for uid in table["uid"]] if "uid" in table else None
    texts = texts_of(table, "text", name)
    # Booleans are names of classes, too.
    table = (
        table.assign(label=[str(value) if isinstance(value, bool | np.bool_) else value for value in table["label"]])
        if ("label" in table)
        else table
    )
    return labelled(texts, texts_of(table, "label", name), uids, table)


def is_file(name: str) -> bool:
    """Whether a task's name is that of a table."""
    return bool(suffix_of(name))
