"""The response store: who answered which item with what score. Everything else of this system derives from it.

Row schema: subject, item, score in [0, 1], attempts (that the score is the average of), weight, period, split, and the family
a subject belongs to (fine-tunes of one base model answer alike). Memory is linear in the observed responses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rayworks.core.errors import DataError

Duplicates = Literal["error", "mean", "first", "last"]
COLUMNS = ("subject", "item", "score", "weight", "attempts", "period", "split", "family", "options")
MOST_ATTEMPTS = 64
"""Up to which fractions are recognised as averages."""
UNOBSERVED = -1
"""Stands for no response in integer matrices."""
SHOWN = 5
"""Names shown in an error before it says how many more there are."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Which of several populations each subject was drawn from; abilities are measured from the first one."""

    names: tuple[str, ...]
    member: np.ndarray
    """Position in ``names`` per subject, shape (J,)."""


@dataclass(frozen=True, eq=False)
class Responses:
    """Observed cells of a subjects x items table, in coordinate form.

    ``subject``, ``item``, ``score``, ``weight`` have one entry per observed cell; ids are positions in ``subjects`` and
    ``items``. ``family`` has one entry per subject.
    """

    subjects: np.ndarray
    items: np.ndarray
    subject: np.ndarray
    item: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    family: np.ndarray
    period: np.ndarray | None = None
    split: np.ndarray | None = None
    options: np.ndarray | None = None
    """To choose from, per item, shape (I,), where the source says it; NaN for answers written freely."""
    groups: Groups | None = None
    """Populations of their own, where one normal population for all subjects would be wrong."""

    @property
    def shape(self) -> tuple[int, int]:
        """Subjects, items."""
        return len(self.subjects), len(self.items)

    @property
    def is_binary(self) -> bool:
        """Whether all scores are 0 or 1 and all weights 1, so that one byte holds a cell."""
        return bool(np.all((self.score == 0) | (self.score == 1)) and np.all(self.weight == 1))

    @property
    def density(self) -> float:
        """Observed share of the table."""
        return len(self.score) / max(1, self.shape[0] * self.shape[1])

    @property
    def looks_averaged(self) -> int:
        """How many attempts the scores look like averages of, where nothing says how many they are; else 0."""
        inner = self.score[(self.score > 0) & (self.score < 1)]
        if not len(inner) or not np.all(self.weight == 1):
            return 0
        counts = np.arange(2, MOST_ATTEMPTS + 1)
        exact = [np.abs(inner * count - np.round(inner * count)).max() < 1e-3 for count in counts]
        return int(counts[exact.index(True)]) if any(exact) else 0

    def solve_rates(self) -> np.ndarray:
        """Weighted mean score per item; NaN where none is observed."""
        return self._mean_by(self.item, len(self.items))

    def subject_means(self) -> np.ndarray:
        """Weighted mean score per subject."""
        return self._mean_by(self.subject, len(self.subjects))

    def where(self, cells: np.ndarray) -> "Responses":
        """The same table with only the cells of a mask; subjects and items keep their positions."""
        names = ("subject", "item", "score", "weight", "period", "split")
        whole = {name: getattr(self, name) for name in names}
        chosen: dict[str, Any] = {name: None if one is None else one[cells] for name, one in whole.items()}
        return replace(self, **chosen)

    def take_subjects(self, kept: np.ndarray) -> "Responses":
        """The table of some subjects, given by position, renumbered in that order."""
        position = np.full(len(self.subjects), -1, dtype=np.int64)
        position[kept] = np.arange(len(kept))
        part = self.where(position[self.subject] >= 0)
        subject = position[part.subject].astype(np.int32)
        groups = self.groups and replace(self.groups, member=self.groups.member[kept])
        return replace(part, subjects=self.subjects[kept], family=self.family[kept], subject=subject, groups=groups)

    def take_items(self, kept: np.ndarray) -> "Responses":
        """The table of some items, given by position, renumbered in that order."""
        position = np.full(len(self.items), -1, dtype=np.int64)
        position[kept] = np.arange(len(kept))
        part = self.where(position[self.item] >= 0)
        options = None if self.options is None else self.options[kept]
        return replace(part, items=self.items[kept], item=position[part.item].astype(np.int32), options=options)

    def table(self) -> pd.DataFrame:
        """Back to rows of the schema."""
        named = {"subject": self.subjects[self.subject], "item": self.items[self.item]}
        told = {"score": self.score, "weight": self.weight, "family": self.family[self.subject]}
        optional = {name: getattr(self, name) for name in ("period", "split") if getattr(self, name) is not None}
        return pd.DataFrame({**named, **told, **optional})

    def components(self) -> list[np.ndarray]:
        """Items by connected component of the design: two items are linked when one subject answered both."""
        subjects, items = self.shape
        graph = coo_matrix(
            (np.ones(len(self.item)), (self.subject, self.item + subjects)), shape=(subjects + items,) * 2
        )
        count, label = connected_components(graph, directed=False)
        parts = [np.flatnonzero(label[subjects:] == number) for number in range(count)] if count > 1 else []
        return sorted((part for part in parts if len(part)), key=len, reverse=True) or [np.arange(items)]

    def _mean_by(self, groups: np.ndarray, count: int) -> np.ndarray:
        total = np.bincount(groups, weights=self.weight * self.score, minlength=count)
        weight = np.bincount(groups, weights=self.weight, minlength=count)
        return np.asarray(np.divide(total, weight, out=np.full(count, np.nan), where=weight > 0))


def from_table(
    table: pd.DataFrame,
    source: str = "responses",
    *,
    subjects: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    duplicates: Duplicates = "error",
    attempts: float = 1.0,
    allow_disconnected: bool = False,
    least_subjects: int = 2,
) -> Responses:
    """Check a table in the row schema and make it a store. Only ``subject``, ``item`` and ``score`` must be there.

    Args:
        source: name in errors.
        subjects, items: their order, else that in which the rows name them; an item that nobody saw is an error.
        duplicates: what two rows of one subject and item mean; an average weighs as many responses as it is of.
        attempts: that each score is the average of, where no column of that name says it.
        least_subjects: fewer are refused; a shard of a larger table may hold one.
        allow_disconnected: take designs whose parts share no subject; their scales then rest on the population alone.

    Raises:
        DataError: names the column, the first row or the ids at fault.
    """
    missing = [column for column in COLUMNS[:3] if column not in table.columns]
    if missing:
        raise DataError(f"{source}: has no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}")
    if not len(table):
        raise DataError(f"{source}: holds no response")
    table = _deduplicated(_checked(table.reset_index(drop=True), source, attempts), source, duplicates)
    subject, answering = _numbered(table["subject"], subjects)
    item, seen = _numbered(table["item"], items)
    unseen = seen[np.bincount(item, minlength=len(seen)) == 0]
    if len(unseen):
        raise DataError(f"{source}: nobody saw item {shown(unseen)}; leave it out of the list or add a response")
    if len(answering) < least_subjects:
        raise DataError(f"{source}: has one subject ({answering[0]}); a difficulty needs at least two")
    responses = Responses(
        subjects=answering,
        items=seen,
        subject=subject.astype(np.int32),
        item=item.astype(np.int32),
        score=table["score"].to_numpy(np.float64, copy=True),
        weight=table["weight"].to_numpy(np.float64, copy=True),
        family=_families(table, subject, answering, source),
        period=table["period"].astype(str).to_numpy(object) if "period" in table else None,
        split=table["split"].astype(str).to_numpy(object) if "split" in table else None,
        options=_options(table, item, seen, source),
    )
    parts = [] if allow_disconnected else responses.components()
    if len(parts) > 1:
        raise DataError(f"{source}: {describe_parts(parts, responses.items)}")
    return responses


def from_matrix(
    matrix: np.ndarray,
    subjects: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    *,
    attempts: float = 1.0,
    allow_disconnected: bool = False,
) -> Responses:
    """A store from a dense table of scores, NaN (or -1 in an integer table) where nothing was observed.

    Subjects and items keep the order of the table, so that the n-th difficulty is that of the n-th column.

    Raises:
        DataError: a score outside [0, 1], or a shape that is not that of the names.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise DataError(f"matrix: has {matrix.ndim} axes; give subjects x items")
    names = [
        [f"{kind}{n:06d}" for n in range(size)] if given is None else [str(name) for name in given]
        for kind, size, given in zip(("s", "i"), matrix.shape, (subjects, items), strict=True)
    ]
    if (len(names[0]), len(names[1])) != matrix.shape:
        raise DataError(f"matrix: is {matrix.shape}, but there are {len(names[0])} subjects and {len(names[1])} items")
    observed = ~np.isnan(matrix) if matrix.dtype.kind == "f" else matrix != UNOBSERVED
    if not observed.any():
        raise DataError("matrix: holds no response")
    silent = ~observed.any(axis=1)
    if silent.any():
        name = names[0][int(silent.argmax())]
        raise DataError(f"matrix: subject {name} answered nothing ({int(silent.sum())} such rows); leave the row out")
    subject, item = np.nonzero(observed)
    frame = pd.DataFrame(
        {"subject": np.array(names[0])[subject], "item": np.array(names[1])[item], "score": matrix[observed]}
    )
    order: dict[str, Any] = {"subjects": names[0], "items": names[1]}
    return from_table(frame, "matrix", **order, attempts=attempts, allow_disconnected=allow_disconnected)


def _numbered(names: "pd.Series[Any]", first: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    """A position per row, and the names by position: those told, in that order, then others as they come."""
    told = pd.Index(list(map(str, first or ())), dtype=object)
    named = pd.Index(names.astype(str), dtype=object)
    ordered = told.append(named).unique()
    return np.asarray(ordered.get_indexer(named)), np.asarray(ordered, dtype=object)


def _checked(table: pd.DataFrame, source: str, attempts: float) -> pd.DataFrame:
    for column in ("subject", "item", "family"):
        empty = table[column].isna().to_numpy() if column in table else np.zeros(0, dtype=bool)
        if empty.any():
            raise DataError(f"{source}: row {int(empty.argmax()) + 1} has no {column}; give every response one")
    kept = table[[column for column in COLUMNS if column in table.columns]].copy()
    # Files may hold one id as a number in one row and as text in another.
    kept = kept.astype({"subject": str, "item": str})
    for column, low, high, bounds in (
        ("score", 0.0, 1.0, "in [0, 1]; leave an unobserved cell out"),
        ("weight", np.nextafter(0, 1), np.inf, "above 0; leave out a response that does not count"),
        ("attempts", np.nextafter(0, 1), np.inf, "above 0; leave out an item that was not tried"),
    ):
        if column not in kept:
            kept[column] = attempts if column == "attempts" else 1.0
        kept[column] = pd.to_numeric(kept[column], errors="coerce").astype(float)
        values = kept[column].to_numpy()
        wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{source}: row {row + 1} ({kept['subject'].iloc[row]}, {kept['item'].iloc[row]}) has {column} "
                f"{table[column].tolist()[row]!r}; must be a number {bounds} ({int(wrong.sum())} such rows)"
            )
    # The average of n attempts is a binomial count: it tells as much as n responses.
    kept["weight"] *= kept.pop("attempts")
    return kept


def _deduplicated(table: pd.DataFrame, source: str, duplicates: Duplicates) -> pd.DataFrame:
    keys = ["subject", "item"]
    repeated = table.duplicated(keys)
    if not repeated.any():
        return table
    if duplicates == "error":
        row = int(repeated.to_numpy().argmax())
        raise DataError(
            f"{source}: row {row + 1} repeats subject {table['subject'].iloc[row]}, item {table['item'].iloc[row]} "
            f"({int(repeated.sum())} such rows); say data.duplicates: mean, first or last"
        )
    if duplicates != "mean":
        return table.drop_duplicates(keys, keep=duplicates).reset_index(drop=True)
    weighted = table.assign(score=table["score"] * table["weight"])
    others = {column: "first" for column in table.columns if column not in (*keys, "score", "weight")}
    merged = weighted.groupby(keys, sort=False).agg({"score": "sum", "weight": "sum", **others}).reset_index()
    total = merged["weight"].to_numpy()
    merged["score"] = np.divide(merged["score"], total, out=np.zeros(len(merged)), where=total > 0)
    return merged


def _families(table: pd.DataFrame, subject: np.ndarray, subjects: np.ndarray, source: str) -> np.ndarray:
    if "family" not in table:
        return subjects
    family = table["family"].astype(str).to_numpy(object)
    first = np.zeros(len(subjects), dtype=np.int64)
    first[subject[::-1]] = np.arange(len(subject))[::-1]
    of_subject: np.ndarray = family[first]
    torn = of_subject[subject] != family
    if torn.any():
        name = subjects[subject[int(torn.argmax())]]
        raise DataError(f"{source}: subject {name} stands in two families; give it one")
    return of_subject


def _options(table: pd.DataFrame, item: np.ndarray, items: np.ndarray, source: str) -> np.ndarray | None:
    """Options of each item, NaN where its rows say none."""
    if "options" not in table:
        return None
    told = pd.to_numeric(table["options"], errors="coerce").to_numpy(float)
    wrong = table["options"].notna().to_numpy() & (table["options"].astype(str) != "").to_numpy() & ~(told >= 2)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{source}: item {items[item[row]]} has options {table['options'].tolist()[row]!r}; give how many there are to "
            "choose from, at least 2, or nothing for answers that are written freely"
        )
    found = np.full(len(items), np.nan)
    found[item[~np.isnan(told)]] = told[~np.isnan(told)]
    torn = ~np.isnan(told) & (found[item] != told)
    if torn.any():
        raise DataError(f"{source}: item {items[item[int(torn.argmax())]]} has two numbers of options; give it one")
    return None if np.isnan(found).all() else found


def describe_parts(parts: Sequence[np.ndarray], items: np.ndarray) -> str:
    """What is wrong with a design that falls apart, and what to do."""
    told = "; ".join(f"{len(part)} items ({shown(items[part])})" for part in parts[:SHOWN])
    return (
        f"the design falls into {len(parts)} parts that share no subject: {told}. Fit them apart, add subjects who answered "
        "items of both, or say data.allow_disconnected: true (one population for all)"
    )


def shown(names: Sequence[str] | np.ndarray) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(str, names[:SHOWN])) + more
