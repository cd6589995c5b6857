"""The table that the price of safety is measured on: inputs, label and group, and which rows a run takes."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from rayworks.core import datasets, seeds, tables
from rayworks.core.errors import DataError
from rayworks.core.tables import SUFFIXES, suffix_of

LEVELS = 64
"""Values of a text column that get an input of their own, the most frequent first; the rest share the value of no input."""


@dataclass(frozen=True)
class TrainingOptions:
    """The learning task and its columns; by default who earns over 50,000 a year, with men as the majority.

    As in the paper the model is not told the group, trains for 50 epochs with momentum, and the epoch of the best validation
    accuracy counts. ``dropped`` are columns that no model sees: in adult a survey weight; with the gender as label,
    ``relationship`` (husband, wife) should be one too. Rows are those of one run; test rows are per group and label.

    On adult the price is small: the gap falls until the minority's share is 0.15 or so and no further, because most of it is
    a difference between the groups and not a lack of rows. ``hidden=0``, fewer rows and natural labels show more of it.
    """

    source: str = "adult"
    label: str = "income"
    positive: str = ">50K"
    group: str = "gender"
    majority: str = "Male"
    minority: str = "Female"
    dropped: tuple[str, ...] = ("fnlwgt",)
    group_visible: bool = False
    balanced_labels: bool = True
    """Both labels as often in training and validation; else as often as the group has them. The test is always even."""
    majority_rows: int = 2000
    validation_rows: int = 200
    test_rows: int = 600
    hidden: int = 64
    """Units of the hidden layer; 0 makes the model logistic."""
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4


@dataclass(frozen=True, eq=False)
class Table:
    """Inputs (rows, columns) of which the first ``numeric`` are unscaled numbers, with label and group of every row."""

    inputs: np.ndarray
    numeric: int
    label: np.ndarray
    minority: np.ndarray


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one run, by position in the table."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def draw_rows(table: Table, options: TrainingOptions, share: float, seed: int) -> Split:
    """Rows of a run: the test set and the majority's rows are the same at every share of one seed.

    The minority's rows at a smaller share are among those at a larger one, so that shares differ by what is added.

    Raises:
        DataError: a share outside (0, 1/2], or a group too small for the rows asked for.
    """
    if not 0 < share <= 0.5:
        raise DataError(f"price.shares: {share:g} is not a minority's share; give numbers in (0, 0.5]")
    parts: list[list[np.ndarray]] = [[], [], []]
    for in_minority in (False, True):
        ratio = share / (1 - share) if in_minority else 1.0
        member = table.minority == in_minority
        rate = 0.5 if options.balanced_labels else float(table.label[member].mean())
        for positive, part in ((False, 1 - rate), (True, rate)):
            # What the largest share would take is set aside at every share: a row has one role per seed.
            held, used = options.test_rows + round(options.validation_rows * part), round(options.majority_rows * part)
            validation, training = (
                round(rows * part * ratio) for rows in (options.validation_rows, options.majority_rows)
            )
            rows = np.flatnonzero(member & (table.label == positive))
            cell = f"{options.label} {'' if positive else 'not '}{options.positive} among {options.group} " + (
                options.minority if in_minority else options.majority
            )
            if len(rows) < held + used:
                raise DataError(
                    f"price.majority_rows: {held + used} rows of {cell} are needed for training, validation and test, "
                    f"{options.source} has {len(rows)}; lower majority_rows, validation_rows or test_rows"
                )
            if min(validation, training) < 1:
                raise DataError(
                    f"price.shares: {share:g} leaves no row of {cell} in training or validation; "
                    "raise majority_rows or validation_rows"
                )
            rows = seeds.stream(seed, "price", "rows", int(in_minority), int(positive)).permutation(rows)
            parts[0].append(rows[held : held + training])
            parts[1].append(rows[options.test_rows : options.test_rows + validation])
            parts[2].append(rows[: options.test_rows])
    return Split(*map(np.concatenate, parts))


@lru_cache(maxsize=2)
def read_table(options: TrainingOptions) -> Table:
    """The table as inputs, label and group; of the same options read once per process.

    Raises:
        DataError: it cannot be read, or lacks a column, a label or a group.
    """
    source, label, positive, dropped = options.source, options.label, options.positive, options.dropped
    group, majority, minority = options.group, options.majority, options.minority
    frame = _frame(source)
    for field, column in [("label", label), ("group", group), *(("dropped", name) for name in dropped)]:
        if column not in frame:
            raise DataError(f"price.{field}: {source} has no column {column!r}; it has {', '.join(map(str, frame))}")
    member = frame[group].astype(str)
    for field, value in (("majority", majority), ("minority", minority)):
        if not (member == value).any():
            known = ", ".join(member.value_counts().index[:8])
            raise DataError(f"price.{field}: no row of {source} has {group} {value!r}; it has {known}")
    if majority == minority:
        raise DataError(f"price.minority: is {minority!r} like price.majority; two groups are compared")
    frame = frame[member.isin((majority, minority)) & frame[label].notna()].reset_index(drop=True)
    target = (frame[label].astype(str) == positive).to_numpy()
    if target.all() or not target.any():
        known = ", ".join(frame[label].astype(str).value_counts().index[:8])
        raise DataError(f"price.positive: {positive!r} is the {label} of all or no rows; {source} has {known}")
    in_minority = (frame[group].astype(str) == minority).to_numpy()
    seen = frame.drop(columns=[label, *dropped, *([] if options.group_visible or group in dropped else [group])])
    if seen.empty:
        raise DataError(f"price.dropped: leaves no column of {source} to learn from; drop fewer")
    numbers = seen.select_dtypes("number").astype(np.float32).replace([np.inf, -np.inf], np.nan)
    texts = seen.drop(columns=numbers.columns).astype(str)
    columns = [numbers.fillna(numbers.mean()).fillna(0).to_numpy()]
    for name in texts:
        levels = texts[name].value_counts().index[:LEVELS]
        columns.append((texts[name].to_numpy()[:, None] == levels.to_numpy()[None, :]).astype(np.float32))
    return Table(np.concatenate(columns, axis=1), numbers.shape[1], target, in_minority)


def _frame(source: str) -> pd.DataFrame:
    if source == "adult":
        return pd.read_parquet(datasets.fetch("adult"))
    if not suffix_of(source):
        raise DataError(f"price.source {source!r}: is neither adult nor a {', '.join(SUFFIXES)} file")
    return tables.read_table(source, "price.source", keep_default_na=True)
