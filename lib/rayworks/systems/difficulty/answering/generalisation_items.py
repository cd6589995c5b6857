"""Items of the generalisation heatmap: prompts with answers, cut into bins of difficulty and into training and evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.core.tables import read_table
from rayworks.systems.difficulty.answering import arithmetic, easy2hard
from rayworks.systems.difficulty.answering.answer_scoring import score
from rayworks.systems.difficulty.answering.prompts import build
from rayworks.systems.difficulty.config import TRAINABLE, GeneralisationSection

SPLITS: tuple[easy2hard.Split, easy2hard.Split] = ("train", "eval")
COLUMNS = ("prompt", "answer", "rating")
BENCHMARKS = {"amc": "E2H-AMC", "codeforces": "E2H-Codeforces", "lichess": "E2H-Lichess"}


@dataclass(frozen=True)
class Item:
    """One problem: what the model reads, what it should write, and how hard it is (higher is harder)."""

    name: str
    prompt: str
    answer: str
    rating: float
    benchmark: str = ""
    """Whose scorer judges outputs; without one they must equal the answer, but for space around it."""
    content: Mapping[str, Any] | None = None
    """What that scorer reads."""

    def correct(self, output: str) -> float:
        """1.0 or 0.0."""
        if self.content is not None:
            return score(self.benchmark, output, self.content)
        return float(output.strip() == self.answer.strip())


@dataclass(frozen=True)
class BinnedItems:
    """Training items of the bins trained on, and evaluation items bin by bin; no item is in both."""

    training: tuple[Item, ...]
    evaluation: tuple[tuple[Item, ...], ...]

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """Lowest and highest rating of each evaluation bin."""
        ratings = [[item.rating for item in items] for items in self.evaluation]
        return [(min(values), max(values)) for values in ratings]


def quantile_bins(rating: np.ndarray, names: Sequence[str], bins: int) -> np.ndarray:
    """The bin, 0 to ``bins - 1``, of each item (N,): equal sizes within one, ties of rating broken by name."""
    order = np.lexsort((np.asarray(names), np.asarray(rating)))
    found = np.empty(len(order), dtype=int)
    found[order] = np.arange(len(order)) * bins // max(len(order), 1)
    return found


def check_source(section: GeneralisationSection) -> None:
    """Read the source if it is a file; published sets are fetched by the run.

    Raises:
        DataError: it cannot be read, lacks a column, or has a row at fault.
    """
    if section.source not in TRAINABLE:
        _read(section.source)


def binned_items(section: GeneralisationSection, seed: int) -> BinnedItems:
    """The items of a run; those of two runs differ by their training bins only.

    Raises:
        DataError: the source cannot be read, lacks a column, repeats a prompt, or has too few items in a bin.
    """
    parts = _parts(section, seed)
    for number, (available, held_out) in enumerate(parts):
        # Every bin must do as a training bin: the rows of a heatmap are comparable at equal n only.
        _require("train_items", section, number, len(available))
        _require("eval_items", section, number, len(held_out))
    shares = _shares(section)
    return BinnedItems(
        training=tuple(item for number, share in shares.items() for item in parts[number][0][:share]),
        evaluation=tuple(tuple(held_out[: section.eval_items]) for _, held_out in parts),
    )


def _parts(section: GeneralisationSection, seed: int) -> list[tuple[list[Item], list[Item]]]:
    """For each bin what may be trained on and what may be asked: the published splits, or a random cut of one pool."""
    if section.source in BENCHMARKS:
        name = BENCHMARKS[section.source]
        tables = {split: easy2hard.load(name, split, section.folder).table for split in SPLITS}
        train, held_out = (
            _binned([_item(name, row) for row in easy2hard.records(table)], section) for table in tables.values()
        )
        return [
            (_shuffled(train[n], seed, "train", n), _shuffled(held_out[n], seed, "eval", n))
            for n in range(section.bins)
        ]
    pool = _ladder(section, seed) if section.source == "arithmetic" else _binned(_read(section.source), section)
    shuffled = [_shuffled(items, seed, "items", n) for n, items in enumerate(pool)]
    return [(items[section.eval_items :], items[: section.eval_items]) for items in shuffled]


def _require(field: str, section: GeneralisationSection, number: int, found: int) -> None:
    needed = getattr(section, field)
    if found < needed:
        beside = "" if section.source in BENCHMARKS else " beside those of the other part"
        raise DataError(
            f"generalisation.{field}: {needed} asked for, bin {number} of {section.source} has {found}{beside}; "
            "ask for fewer items or bins"
        )


def _shares(section: GeneralisationSection) -> dict[int, int]:
    """Training items per training bin: all from one, or evenly from the bins up to it."""
    if not section.cumulative:
        return {section.train_bin: section.train_items}
    count = section.train_bin + 1
    return {n: section.train_items // count + (n < section.train_items % count) for n in range(count)}


def _ladder(section: GeneralisationSection, seed: int) -> list[list[Item]]:
    """Arithmetic, one rating per bin."""
    count, easiest = section.train_items + section.eval_items, section.digits or 1
    return [
        [
            Item(question, question, answer, level)
            for question, answer in arithmetic.problems(level, count, section.operations, seed, section.digits)
        ]
        for level in range(easiest, easiest + section.bins)
    ]


def _binned(items: Sequence[Item], section: GeneralisationSection) -> list[list[Item]]:
    bins = quantile_bins(np.array([item.rating for item in items]), [item.name for item in items], section.bins)
    return [[item for item, bin_of in zip(items, bins, strict=True) if bin_of == n] for n in range(section.bins)]


def _shuffled(items: Sequence[Item], seed: int, *path: str | int) -> list[Item]:
    return [items[at] for at in seeds.stream(seed, "generalisation", *path).permutation(len(items))]


def _read(source: str) -> list[Item]:
    table = read_table(source, "generalisation.source")
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"{source}: has no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}")
    values = pd.to_numeric(table["rating"], errors="coerce").to_numpy(float)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"{source}: row {row}: rating is {table['rating'].iloc[row]!r}, not a number; correct or drop the row"
        )
    for column in ("prompt", "answer"):
        empty = np.flatnonzero(table[column].isna() | (table[column].astype(str).str.strip() == ""))
        if len(empty):
            raise DataError(f"{source}: row {empty[0]}: {column} is empty; correct or drop the row")
    prompts = table["prompt"].astype(str)
    repeated = np.flatnonzero(prompts.duplicated())
    if len(repeated):
        raise DataError(
            f"{source}: row {repeated[0]}: repeats a prompt, which could be trained on and asked; drop the row"
        )
    answers = table["answer"].astype(str)
    return [Item(*fields) for fields in zip(prompts, prompts, answers, values.tolist(), strict=True)]


def _item(benchmark: str, row: dict[str, Any]) -> Item:
    return Item(str(row["item"]), build(benchmark, row), _TARGETS[benchmark](row), float(row["rating"]), benchmark, row)


def _field(row: Mapping[str, Any], *names: str) -> str:
    for name in names:
        if str(row.get(name) or "").strip():
            return str(row[name])
    raise DataError(f"item {row['item']}: has no {' nor '.join(names)} to learn from; drop the row")


_TARGETS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "E2H-AMC": lambda row: f"\\boxed{{{_field(row, 'answer')}}}",
    "E2H-Codeforces": lambda row: f"```python\n{_field(row, 'solution_0')}\n```",
    "E2H-Lichess": lambda row: f"\\boxed{{{_field(row, 'answer_san', 'answer_uci').split()[0]}}}",
}
"""What a model learns to write, in the form its scorer reads."""
