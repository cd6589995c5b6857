"""A board of results as people have it, calibrated in one call: no config, no cluster, one sentence for each assumption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.abilities import posterior_means
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model
from rayworks.systems.difficulty.item_response.intervals import (
    MOST_UNBOUNDED,
    difficulty_intervals,
    remarks_on_intervals,
    unbounded_share,
)
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit as fit_matrix
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.populations import by_attribute, by_design
from rayworks.systems.difficulty.item_response.priors import Priors, guessing_by_item, guessing_prior
from rayworks.systems.difficulty.item_response.remarks import (
    remarks,
    remarks_on_design,
    remarks_on_groups,
    remarks_on_scores,
)
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.board_shapes import Board, recognise
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_table, shown
from rayworks.systems.difficulty.responses.result_logs import read_results
from rayworks.systems.difficulty.responses.sources import of_subjects

Source = str | Path | pd.DataFrame
LOG_SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet", ".csv", ".tsv", ".csv.gz")


@dataclass(frozen=True, eq=False)
class BoardFit:
    """Difficulties of a board's items."""

    items: pd.DataFrame
    """One row an item, in the order of the source: ``item``, ``difficulty`` (logits; higher is harder), ``standard_error``,
    ``low``, ``high`` (95 %), ``solve_rate``, ``responses``, ``discrimination``, ``note``; empty where nobody answered."""
    notes: list[str]
    """What was taken for what, and what the numbers rest on beside the responses."""
    calibration: Calibration
    responses: Responses = field(repr=False)

    def to_csv(self, path: str | Path) -> None:
        """Write the items; the notes stay with the caller."""
        self.items.to_csv(path, index=False)

    def __str__(self) -> str:
        return "\n".join([*(f"- {note}" for note in self.notes), self.items.to_string(index=False)])


def read_board(sources: Source | Sequence[Source], *, items_in_rows: bool | None = None) -> Board:
    """The board of one or more files, folders of logs, or tables; several are put one under the other.

    Raises:
        DataError: nothing in it is a board.
    """
    told: list[str] = []
    tables = []
    for source in _each(sources):
        if isinstance(source, pd.DataFrame):
            tables.append(source)
            continue
        table, notes = read_results(source, "board")
        tables.append(table)
        told += notes
    where = "board" if isinstance(sources, pd.DataFrame) else f"board {_called(sources)}"
    whole = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    board = recognise(whole, where, items_in_rows=items_in_rows)
    return Board(board.table, board.subjects, board.items, [*told, *board.told])


def fit(
    board: Source | Sequence[Source],
    model: Model = "1PL",
    *,
    attempts: float = 1.0,
    options: int | None = None,
    items_in_rows: bool | None = None,
    estimator: str = "auto",
    groups: str | None = "auto",
    allow_disconnected: bool = False,
) -> BoardFit:
    """Calibrate the items of a board.

    Args:
        board: a file (CSV, TSV, Parquet, JSON, JSON lines; compressed or not), several, a folder of logs, or a table. Long
            (a row a response, under any usual column names) or wide (models by questions, or the other way round).
        model: 1PL to 4PL.
        attempts: that each score is the average of, where no column says it.
        options: to choose from, which set the guessing of a 3PL or 4PL; a column of that name says it item by item.
        items_in_rows: of a wide table; by default its first column's name tells.
        estimator: mml, map, or conditional (1PL: no assumption on abilities); ``auto`` is mml, but map for a 2PL of so few
            subjects that more than a tenth of its difficulties have no bounded interval.
        groups: populations of their own: a column of a long table; ``by-design``, groups that saw items of their own;
            ``auto``, the same, but only where the abler saw other items than the rest; None for one population.
        allow_disconnected: take parts that share no subject as one population.

    Raises:
        DataError: it cannot be read, or does not allow a fit; names the cell, column or items.
    """
    found = read_board(board, items_in_rows=items_in_rows)
    told, answered = list(found.told), set(found.table["item"])
    repeated = int(found.table.duplicated(["subject", "item"]).sum())
    if repeated:
        told.append(f"{repeated:,} rows repeat a subject and item, and count as further attempts")
    order: dict[str, Any] = {"subjects": found.subjects, "items": [item for item in found.items if item in answered]}
    settings: dict[str, Any] = {"duplicates": "mean", "attempts": attempts, "allow_disconnected": allow_disconnected}
    if not len(found.table):
        raise DataError("board: holds no response; every cell is empty")
    responses = from_table(found.table, "board", **order, **settings)
    matrix = as_matrix(responses)
    priors = Priors() if options is None else Priors(guessing=guessing_prior(options))
    priors = replace(priors, guessing=guessing_by_item(responses.options, priors.guessing))
    fitting = FitOptions(model=model, estimator="mml" if estimator == "auto" else estimator, priors=priors)
    if groups is not None and groups != "auto":
        responses, more = _with_groups(responses, found, groups)
        told, matrix = [*told, *more], as_matrix(responses)
    calibration = fit_matrix(matrix, fitting)
    ability = posterior_means(matrix, calibration).ability
    doubts = remarks_on_design(calibration, responses, ability)
    if doubts and groups == "auto" and model in ("1PL", "2PL") and (design := by_design(responses)):
        responses = replace(responses, groups=design)
        matrix = as_matrix(responses)
        calibration = fit_matrix(matrix, fitting)
        doubts = ["selective design: the abler subjects saw other items than the rest, in groups (groups none: as one)"]
    errors = standard_errors(matrix, calibration)
    ends = difficulty_intervals(calibration, errors)
    if estimator == "auto" and unbounded_share(*ends) > MOST_UNBOUNDED:
        calibration = fit_matrix(matrix, replace(fitting, estimator="map"))
        errors = standard_errors(matrix, calibration)
        ends = difficulty_intervals(calibration, errors)
        doubts = [
            *doubts,
            "so few answers do not bound a 2PL's difficulties, so priors hold all items (estimator mml: none)",
        ]
    names = responses.items
    told.append(
        f"{matrix.shape[0]:,} subjects, {matrix.shape[1]:,} items, {len(responses.score):,} responses; {model} by "
        f"{calibration.options.estimator}, errors {errors.method}; abilities are N(0, s) with s "
        f"{calibration.parameters.population_sd:.2f}"
    )
    told += [*doubts, *remarks_on_intervals(*ends), *remarks_on_groups(calibration, responses.groups)]
    told += [*remarks(calibration, names), *remarks_on_scores(responses)]
    table = _items(found.items, responses, calibration, errors.difficulty, *ends)
    return BoardFit(table, [_as_arguments(note) for note in told], calibration, responses)


def _with_groups(responses: Responses, board: Board, groups: str) -> tuple[Responses, list[str]]:
    """The responses with the groups asked for, and what is to be said of them."""
    if groups == "by-design":
        found = by_design(responses)
        told = [] if found else ["groups by-design: no few, clear and linked groups; one population for all"]
        return replace(responses, groups=found), told
    if groups not in board.table:
        raise DataError(f"board: has no column {groups} for groups; found {', '.join(map(str, board.table.columns))}")
    values = of_subjects(board.table, groups, responses.subjects, f"groups {groups}")
    return replace(responses, groups=by_attribute(responses, values, f"groups {groups}")), []


def _as_arguments(note: str) -> str:
    """Settings of a run as arguments of the call."""
    names = {
        "data.attempts": "attempts",
        "model.groups": "groups",
        "model.estimator": "estimator",
        "model.name": "model",
    }
    for setting, argument in names.items():
        note = note.replace(f"{setting}: ", f"{argument} ")
    return note


def _items(
    order: Sequence[str],
    responses: Responses,
    calibration: Calibration,
    error: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> pd.DataFrame:
    marks = {
        "no bounded interval": ~(np.isfinite(low) & np.isfinite(high)),
        "prior": calibration.with_prior & calibration.unbounded,
        "all or none solved it": calibration.extremes.mask,
        "suspected key": calibration.suspects,
    }
    return item_table(order, responses, calibration.parameters, error, (low, high), marks)


def item_table(
    order: Sequence[str],
    responses: Responses,
    parameters: ItemParameters,
    error: np.ndarray,
    ends: tuple[np.ndarray, np.ndarray],
    marks: Mapping[str, np.ndarray],
) -> pd.DataFrame:
    """A row for each item of ``order``, also those that nobody answered.

    Args:
        order: all names, as the board has them.
        responses: of I items.
        parameters: of these.
        error: of the difficulties, (I,).
        ends: of their intervals, each (I,).
        marks: where each note stands, (I,).
    """
    items = range(len(responses.items))
    table = pd.DataFrame(
        {
            "item": responses.items,
            "difficulty": parameters.difficulty,
            "standard_error": error,
            "low": ends[0],
            "high": ends[1],
            "solve_rate": responses.solve_rates(),
            "responses": np.bincount(responses.item, minlength=len(items)),
            "discrimination": parameters.discrimination,
            "note": ["; ".join(name for name, mask in marks.items() if mask[position]) for position in items],
        }
    )
    whole = table.set_index("item").reindex(list(order)).reset_index()
    silent = whole["responses"].isna()
    whole["responses"] = whole["responses"].fillna(0).astype(int)
    whole.loc[silent, "note"] = "nobody answered it"
    return whole


def _each(sources: Source | Sequence[Source]) -> list[Source]:
    """Each file or table by itself; a folder that is no Parquet set stands for the logs in it."""
    if isinstance(sources, pd.DataFrame):
        return [sources]
    given: list[Source] = [sources] if isinstance(sources, str | Path) else list(sources)
    found: list[Source] = []
    for one in given:
        path = None if isinstance(one, pd.DataFrame) else Path(one).expanduser()
        if path is None or not path.is_dir():
            found.append(one)
            continue
        logs = [file for file in sorted(path.rglob("*")) if _is_log(file)]
        if not logs:
            raise DataError(f"board {str(one)!r}: the folder holds no {', '.join(LOG_SUFFIXES)} file of results")
        found += logs
    return found


def _is_log(file: Path) -> bool:
    """A file of results; of HELM's many files of a run only the one with the stats."""
    if file.suffix == ".json":
        return file.name == "per_instance_stats.json" or not (file.parent / "per_instance_stats.json").exists()
    return file.name.lower().endswith(LOG_SUFFIXES)


def _called(sources: Any) -> str:
    named: list[Any] = [sources] if isinstance(sources, str | Path) else list(sources)
    return shown([repr(str(one)) for one in named if not isinstance(one, pd.DataFrame)])
