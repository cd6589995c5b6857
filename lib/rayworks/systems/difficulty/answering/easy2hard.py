"""The six sets of Easy2Hard-Bench (arXiv 2409.18433): their columns, and a loader that checks them.

A column is required where its name was read in a primary source, and only reported where it was read in a secondary
source or inferred, because the published table may name it otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.tables import HUB, read_table, suffix_of

Certainty = Literal["verified", "reported", "unverified"]
Split = Literal["train", "eval"]

_RATING = ("rating", "rating_std", "rating_quantile")
_UNNORMALISED = ("unnorm_rating", "unnorm_rating_std")


@dataclass(frozen=True)
class Schema:
    """One set: how its items were rated, in which splits it comes, and its columns by how surely they are known."""

    config: str
    estimator: Literal["IRT", "Glicko-2"]
    solvers: Literal["humans", "language models"]
    splits: tuple[Split, ...]
    identity: tuple[str, ...]
    """The columns that tell items apart; empty where the row number does."""
    verified: tuple[str, ...]
    reported: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()

    def certainty(self, column: str) -> Certainty | None:
        """How surely a column is known; None if it is not one of this set's."""
        for certainty in ("verified", "reported", "unverified"):
            if column in getattr(self, certainty):
                return certainty
        return None

    @property
    def columns(self) -> tuple[str, ...]:
        """All of them, in the order they are known in."""
        return (*self.verified, *self.reported, *self.unverified)


SCHEMAS: dict[str, Schema] = {
    schema.config: schema
    for schema in (
        Schema(
            config="E2H-AMC",
            estimator="IRT",
            solvers="humans",
            splits=("train", "eval"),
            identity=("contest", "year", "month", "index"),
            verified=(
                *("contest", *_RATING, "tag", "subtest", "year", "month", "index", "problem", "answer", "solution"),
                *("rating_tag", "test_tag", "item_difficulty", *_UNNORMALISED),
                *("unnorm_rating_lower", "unnorm_rating_upper", "ever_exist"),
            ),
        ),
        Schema(
            config="E2H-ARC",
            estimator="IRT",
            solvers="language models",
            splits=("eval",),
            identity=("id",),
            verified=(*_RATING, "id", "question", "choices", "answerKey", "model_avg_acc", *_UNNORMALISED),
        ),
        Schema(
            config="E2H-GSM8K",
            estimator="IRT",
            solvers="language models",
            splits=("eval",),
            identity=(),
            verified=(*_RATING, *_UNNORMALISED),
            reported=("question", "answer", "model_avg_acc"),
        ),
        Schema(
            config="E2H-Winogrande",
            estimator="IRT",
            solvers="language models",
            splits=("eval",),
            identity=(),
            verified=(*_RATING, *_UNNORMALISED),
            reported=("sentence", "option1", "option2", "answer", "model_avg_acc"),
        ),
        Schema(
            config="E2H-Codeforces",
            estimator="Glicko-2",
            solvers="humans",
            splits=("train", "eval"),
            identity=("contest_id", "problem_index"),
            verified=(
                *("contest_id", "problem_index", "rating", "rating_std", "rating_volatility", "rating_quantile"),
                *("tag", "detailed_tag", "problem_name", "problem_main", "problem_note", "input_spec", "output_spec"),
                *("sample_inputs", "sample_outputs", "inputs"),
            ),
            unverified=(
                *("answers", "input_output", "solution_0", "original_tags"),
                *(*_UNNORMALISED, "unnorm_rating_volatility"),
            ),
        ),
        Schema(
            config="E2H-Lichess",
            estimator="Glicko-2",
            solvers="humans",
            splits=("train", "eval"),
            identity=("puzzle_id",),
            verified=_RATING,
            reported=("puzzle_id", "tag", "fen", "pgn", "answer_san", "answer_uci", "init_num_moves"),
            unverified=(
                *("annotated_pgn", "uci_seq", "san_seq", "popularity_score", "puzzle_num_plays", "motif_tags"),
                *("phase_tags", "mate_tags", "special_move_tags", "game_origin_tags", "opening_tags", "game_url"),
                *_UNNORMALISED,
            ),
        ),
    )
}
"""Each set by the name of its config on the hub."""


@dataclass(frozen=True)
class LoadedSet:
    """A checked table and what was found while checking."""

    schema: Schema
    table: pd.DataFrame
    """One row an item, with ``item`` str, an id that is stable and unique, before the columns of the source."""
    absent: tuple[str, ...] = ()
    """Columns that are only reported or inferred and are not there."""
    unknown: tuple[str, ...] = ()
    """Columns that are there and in no source."""
    dropped_tests: int = 0
    """Tests of programs that the site cut off, so that nothing can be checked against them."""
    untestable: int = 0
    """Items left without any test, and left out."""


def load(config: str, split: Split = "eval", source: str | None = None) -> LoadedSet:
    """One split of a set, from the hub or from a local Parquet or JSON-lines file, or a folder of such files.

    ``source`` is ``hub:OWNER/NAME`` or ``hub:OWNER/NAME:CONFIG``, a path, or None for the published set. Of a folder,
    or of the folder in it that is named like the config, those files are read whose path holds the split's name.

    Raises:
        ConfigError: the set or its split does not exist.
        DataError: the source cannot be read, lacks a verified column, or holds ratings outside 0 to 1.
    """
    if config not in SCHEMAS:
        raise ConfigError(f"config {config!r}: unknown; choose one of {', '.join(SCHEMAS)}")
    schema = SCHEMAS[config]
    if split not in schema.splits:
        raise ConfigError(f"split {split!r}: {config} has {' and '.join(schema.splits)} only")
    source = source or f"hub:{datasets.find(config.lower()).hub}"
    if source.startswith(HUB):
        named = source if ":" in source.removeprefix(HUB) else f"{source}:{config}"
        table = read_table(named, f"Easy2Hard {config} {split}", split=split)
    else:
        table = _local(source, config, split)
    return check(schema, table, f"{source} {config} {split}")


def check(schema: Schema, table: pd.DataFrame, source: str) -> LoadedSet:
    """The table with its item ids, once it has the columns and ranges of its schema; truncated tests are dropped.

    Raises:
        DataError: naming the source with the columns that are missing, or the first row at fault.
    """
    missing = [column for column in schema.verified if column not in table.columns]
    if missing:
        raise DataError(
            f"{source}: has no column {', '.join(missing)}; it has {', '.join(table.columns)}; give the {schema.config} table"
        )
    for column in ("rating", "rating_quantile"):
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
        wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
        if len(wrong):
            raise DataError(
                f"{source}: row {wrong[0]}: {column} is {table[column].iloc[wrong[0]]}, not 0 to 1; correct or drop the row"
            )
    table = table.reset_index(drop=True)
    identity = [column for column in schema.identity if column in table.columns]
    names = table[identity].astype("str").agg("-".join, axis=1) if identity else table.index.astype("str").to_series()
    repeated = names.groupby(names).cumcount().to_numpy()
    table.insert(0, "item", np.where(repeated > 0, names + "-" + (repeated + 1).astype(str), names))
    dropped = untestable = 0
    if {"inputs", "answers"} <= set(table.columns):
        table, dropped, untestable = _drop_truncated_tests(table)
    absent = tuple(column for column in schema.columns if column not in table.columns)
    unknown = tuple(column for column in table.columns if column != "item" and schema.certainty(column) is None)
    return LoadedSet(schema, table, absent, unknown, dropped, untestable)


def _drop_truncated_tests(table: pd.DataFrame) -> tuple[pd.DataFrame, int, int]:
    """Drop tests whose input or answer ends in "...", and items left without tests."""
    inputs, answers = ([[] if cell is None else list(cell) for cell in table[name]] for name in ("inputs", "answers"))
    kept = [
        [test for test in zip(*tests, strict=False) if not any(text.rstrip().endswith("...") for text in test)]
        for tests in zip(inputs, answers, strict=True)
    ]
    dropped = sum(map(len, inputs)) - sum(map(len, kept))
    for position, name in enumerate(("inputs", "answers")):
        table[name] = pd.Series([[test[position] for test in tests] for tests in kept], dtype=object)
    testable = np.array([bool(tests) for tests in kept], dtype=bool)
    return table[testable].reset_index(drop=True), dropped, int((~testable).sum())


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts by column."""
    return [{str(name): value for name, value in record.items()} for record in table.to_dict("records")]


_SUFFIXES = (".jsonl", ".parquet")


def _local(source: str, config: str, split: Split) -> pd.DataFrame:
    files = _files(Path(source).expanduser(), config, split)
    return pd.concat([read_table(file, "labels") for file in files], ignore_index=True)


def _files(path: Path, config: str, split: Split) -> Sequence[Path]:
    if path.is_file() and suffix_of(path) in _SUFFIXES:
        return [path]
    folder = path / config if (path / config).is_dir() else path
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if suffix_of(file) in _SUFFIXES and split in str(file.relative_to(folder))
    ]
    if not files:
        raise DataError(
            f"{path}: neither a {' or '.join(_SUFFIXES)} file nor a folder with one named for {split!r}; correct the path"
        )
    return files
