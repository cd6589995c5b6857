"""Reading evidence: embedded sets by name, CSV, Parquet and JSON-lines files by path, hub data sets by id."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.tables import HUB, read_table
from rayworks.systems.difficulty.config import DataSection
from rayworks.systems.difficulty.ratings.period_labels import PeriodLabels, number_periods
from rayworks.systems.difficulty.ratings.rating_periods import Games
from rayworks.systems.difficulty.responses import evidence
from rayworks.systems.difficulty.responses.board_shapes import Board, recognise
from rayworks.systems.difficulty.responses.response_store import Responses, from_table
from rayworks.systems.difficulty.responses.result_logs import read_results


@dataclass(frozen=True, eq=False)
class ResponseSet:
    """A response store with what is known of its items and subjects."""

    responses: Responses
    texts: dict[str, str]
    """Item to its text, where the source has one."""
    subjects: pd.DataFrame
    provenance: str
    told: tuple[str, ...] = ()
    """What in a file was taken for what."""

    def attribute(self, name: str, setting: str) -> np.ndarray:
        """A value per subject of the responses, shape (J,).

        Raises:
            ConfigError: subjects have no such attribute, or one of them has two values.
        """
        if name not in self.subjects:
            known = ", ".join(column for column in self.subjects.columns if column != "subject") or "none"
            raise ConfigError(f"{setting}: subjects have no attribute {name}; known: {known}")
        return of_subjects(self.subjects, name, self.responses.subjects, setting)

    def focal(self, rule: str) -> np.ndarray:
        """Mask of the subjects for which ``attribute=value`` holds.

        Raises:
            ConfigError: the attribute is unknown, or holds for all or none.
        """
        attribute, _, value = rule.partition("=")
        mask = self.attribute(attribute, f"data.focal {rule!r}").astype(str) == value
        if mask.all() or not mask.any():
            raise ConfigError(
                f"data.focal {rule!r}: holds for {'all' if mask.all() else 'no'} subjects; choose another value"
            )
        return np.asarray(mask)


def of_subjects(table: pd.DataFrame, column: str, subjects: np.ndarray, setting: str) -> np.ndarray:
    """A column of a table with a row or more a subject, in the order of ``subjects``.

    Raises:
        ConfigError: a subject has two values.
    """
    pairs = table[["subject", column]].astype({"subject": str}).drop_duplicates()
    twice = pairs["subject"].duplicated().to_numpy()
    if twice.any():
        name = pairs["subject"].iloc[int(twice.argmax())]
        raise ConfigError(f"{setting}: subject {name} has two values of {column}; give it one")
    return pairs.set_index("subject")[column].reindex(subjects.astype(str)).to_numpy(object)


def check_responses(source: str, data: DataSection) -> None:
    """Look for a response set, and read it where it is a file that fits one memory; hub ids are not looked up.

    Raises:
        DataError: it is neither embedded nor a readable path, or :func:`read_responses` refuses it.
    """
    _check(source, tuple(evidence.RESPONSES))
    if data.reader == "ray-data" and not (Path(source).is_dir() or source.endswith((".csv", ".parquet"))):
        raise DataError(f"data {source}: data.reader ray-data reads .csv and .parquet; set data.reader: memory")
    if data.reader == "memory" and source not in evidence.RESPONSES and not source.startswith(HUB):
        read_responses(source, data)


def check_games(source: str) -> None:
    """Look for a game set, and read it where it is a file.

    Raises:
        DataError: as :func:`check_responses`.
    """
    _check(source, tuple(evidence.GAMES))
    if source not in evidence.GAMES and not source.startswith(HUB):
        read_games(source)


def read_responses(source: str, data: DataSection) -> ResponseSet:
    """A response set, checked.

    Raises:
        DataError: it cannot be read, or the store refuses it.
    """
    merging: dict[str, Any] = data.model_dump(include={"duplicates", "attempts", "allow_disconnected"})
    if source in evidence.RESPONSES:
        found = evidence.read_responses(source)
        store = from_table(found.responses, source, items=found.items["item"].tolist(), **merging)
        return ResponseSet(store, _texts(found.items), found.subjects, found.provenance)
    board = _board(source)
    table, answered = board.table, set(board.table["item"])
    order: dict[str, Any] = {"subjects": board.subjects, "items": [item for item in board.items if item in answered]}
    store = from_table(table, source, **order, **merging)
    attributes = table.drop(columns=["item", "score", "weight", "attempts", "period", "split", "text"], errors="ignore")
    return ResponseSet(store, _texts(table), attributes.drop_duplicates("subject"), source, tuple(board.told))


def _texts(items: pd.DataFrame) -> dict[str, str]:
    return dict(zip(items["item"].astype(str), items["text"].astype(str), strict=True)) if "text" in items else {}


def read_games(source: str) -> tuple[list[str], PeriodLabels, Games]:
    """Names of players, the periods, and the games between them by position.

    Columns ``period``, ``player``, ``opponent``, ``score`` or ``period``, ``problem``, ``contestant``, ``solved``; ``weight``
    if games count differently.

    Raises:
        DataError: it cannot be read, a column is missing, or periods go backwards.
    """
    table = evidence.read_games(source) if source in evidence.GAMES else _table(source)
    if {"problem", "contestant", "solved"} <= set(table.columns):
        # A problem is a player that wins when it is not solved.
        solved = pd.to_numeric(table["solved"], errors="coerce").astype(float)
        table = table.assign(player=table["problem"], opponent=table["contestant"], score=1 - solved)
    if not len(table):
        raise DataError(f"{source}: holds no game")
    missing = [column for column in ("period", "player", "opponent", "score") if column not in table.columns]
    if missing:
        raise DataError(f"{source}: has no column {', '.join(missing)}; found {', '.join(map(str, table.columns))}")
    for column in ("period", "player", "opponent"):
        empty = table[column].isna().to_numpy()
        if empty.any():
            raise DataError(f"{source}: row {int(empty.argmax()) + 1} has no {column}; give every game one")
    itself = (table["player"].astype(str) == table["opponent"].astype(str)).to_numpy()
    if itself.any():
        row = int(itself.argmax())
        raise DataError(f"{source}: row {row + 1}: {table['player'].iloc[row]} meets itself; drop the game")
    names = pd.Index(pd.unique(pd.concat([table["player"], table["opponent"]]).astype(str)))
    periods = number_periods(table["period"])
    period = periods.of_game
    back = np.flatnonzero(np.diff(period) < 0)
    if len(back):
        row = int(back[0]) + 1
        raise DataError(
            f"{source}: row {row + 1} is of period {table['period'].iloc[row]}, after one of "
            f"{table['period'].iloc[row - 1]}; sort the games by period"
        )
    score = _numbers(table, "score", 0.0, 1.0, source)
    weight = _numbers(table, "weight", 0.0, np.inf, source) if "weight" in table else None
    player, opponent = (names.get_indexer(table[side].astype(str)) for side in ("player", "opponent"))
    return list(names), periods, Games(player, opponent, score, period, weight)


def _numbers(table: pd.DataFrame, column: str, low: float, high: float, source: str) -> np.ndarray:
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
    wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{source}: row {row + 1} has {column} {table[column].tolist()[row]!r}; must be in [{low:g}, {high:g}]"
        )
    return values


def _table(source: str) -> pd.DataFrame:
    """A file or a folder of Parquet, or ``hub:OWNER/NAME:SPLIT``."""
    if source.startswith(HUB):
        name, _, split = source.removeprefix(HUB).partition(":")
        return read_table(HUB + name, "data", split=split or "train")
    ids = ("subject", "item", "family", "player", "opponent", "problem", "contestant", "text")
    return read_table(source, "data", dtype=dict.fromkeys(ids, str))


def _board(source: str) -> Board:
    """A file of any shape, or a table of the hub."""
    if source.startswith(HUB) or Path(source).expanduser().is_dir():
        return recognise(_table(source), source)
    table, told = read_results(source, "data")
    board = recognise(table, source)
    return replace(board, told=[*told, *board.told])


def _check(source: str, embedded: tuple[str, ...]) -> None:
    if source in embedded:
        datasets.fetch(source)
    elif not source.startswith(HUB) and not Path(source).expanduser().exists():
        raise DataError(f"data {source}: is neither an embedded set ({', '.join(embedded)}), hub:OWNER/NAME nor a path")
