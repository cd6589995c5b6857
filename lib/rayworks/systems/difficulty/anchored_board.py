"""A board whose items are partly known: new items and new models on the scale of an earlier calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError
from rayworks.core.tables import read_table
from rayworks.systems.difficulty.board import Source, item_table, read_board
from rayworks.systems.difficulty.item_response.anchored import AnchoredFit, Population, fit_anchored
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_table, shown

CONVENTIONS = ("all or none solved it", "nobody answered it")
"""Notes of items whose value holds no scale."""


@dataclass(frozen=True, eq=False)
class KnownItems:
    """Items of an earlier calibration, by name: ``difficulty``, ``discrimination``, ``standard_error`` (0: exact)."""

    table: pd.DataFrame
    told: list[str]


@dataclass(frozen=True, eq=False)
class AnchoredBoard:
    """Known and new items on one scale, and the subjects on it."""

    items: pd.DataFrame
    """In the order of the board: ``item``, ``difficulty``, ``standard_error``, ``low``, ``high`` (95 %), ``solve_rate``,
    ``responses``, ``discrimination``, ``note``."""
    subjects: pd.DataFrame
    """``subject``, ``ability``, ``standard_error``, ``low``, ``high``, ``expected_score`` (on all items of the board),
    ``responses``."""
    notes: list[str]
    fit: AnchoredFit


def read_known(source: str | Path | pd.DataFrame) -> KnownItems:
    """Known items from what ``rayworks difficulty`` wrote, or any table with columns ``item`` and ``difficulty``.

    Raises:
        DataError: naming the column, item or cell at fault.
    """
    where = "anchors" if isinstance(source, pd.DataFrame) else f"anchors {source}"
    table = source if isinstance(source, pd.DataFrame) else read_table(source, "anchors", dtype=str)
    missing = [name for name in ("item", "difficulty") if name not in table]
    if missing:
        raise DataError(f"{where}: has no column {missing[0]}; found {', '.join(map(str, table.columns))}")
    names, told = table["item"].astype(str), list[str]()
    twice = names[names.duplicated()]
    if len(twice):
        raise DataError(f"{where}: names item {twice.iloc[0]!r} twice; keep one row of it")
    columns = {"difficulty": np.nan, "discrimination": 1.0, "standard_error": 0.0}
    found = pd.DataFrame(index=pd.Index(names.to_numpy(), name="item"))
    for name, otherwise in columns.items():
        given = table[name] if name in table else pd.Series(otherwise, index=table.index)
        values = pd.to_numeric(given, errors="coerce")
        wrong = np.flatnonzero(values.isna() & given.notna())
        if len(wrong):
            raise DataError(
                f"{where}: {name} of item {names.iloc[wrong[0]]!r} is {given.iloc[wrong[0]]!r}; give a number"
            )
        found[name] = values.to_numpy(float)
    notes = table["note"].fillna("").astype(str) if "note" in table else pd.Series("", index=table.index)
    loose = notes.str.contains("|".join(CONVENTIONS)).to_numpy() | ~np.isfinite(found["difficulty"].to_numpy())
    if loose.any():
        told.append(f"{int(loose.sum())} items of the anchors have no estimate of their own, and are calibrated anew")
    found = found[~loose].fillna({"discrimination": 1.0, "standard_error": 0.0})
    bad = found.index[
        ~((found["discrimination"] > 0) & (found["standard_error"] >= 0) & np.isfinite(found).all(axis=1))
    ]
    if len(bad):
        raise DataError(
            f"{where}: item {bad[0]!r} has a discrimination not above 0, or an error below 0 or infinite; leave it out"
        )
    return KnownItems(found, told)


def fit_to_anchors(
    board: Source | Sequence[Source],
    anchors: str | Path | pd.DataFrame,
    model: Model = "1PL",
    *,
    population_sd: float | None = None,
    attempts: float = 1.0,
    items_in_rows: bool | None = None,
) -> AnchoredBoard:
    """Calibrate new items of a board, and score its subjects, on the scale of known items, which stay as they are.

    Args:
        board: as for :func:`~.board.fit`; its items are known, new or both.
        anchors: see :func:`read_known`.
        model: of the new items, 1PL or 2PL.
        population_sd: of the subjects, whose mean is then 0, as in the earlier calibration; None estimates both, for new
            models are seldom like the old ones.
        attempts: that each score is the average of, where no column says it.
        items_in_rows: of a wide table.

    Raises:
        DataError: it cannot be read, or no known item was answered.
        ConfigError: the population cannot be estimated of so few subjects.
    """
    known, found = read_known(anchors), read_board(board, items_in_rows=items_in_rows)
    if not len(found.table):
        raise DataError("board: holds no response; every cell is empty")
    told, answered = [*found.told, *known.told], set(found.table["item"])
    responses = from_table(
        found.table,
        "board",
        subjects=found.subjects,
        items=[item for item in found.items if item in answered],
        duplicates="mean",
        attempts=attempts,
        least_subjects=1,
        # The known items hold parts together that share no subject.
        allow_disconnected=True,
    )
    rows = known.table.reindex([str(item) for item in responses.items])
    mask = rows["difficulty"].notna().to_numpy()
    if not mask.any():
        raise DataError(
            f"anchors: name none of the board's items, such as {shown(responses.items)}; the names must be the same"
        )
    slopes = rows["discrimination"].to_numpy()[mask]
    if model == "1PL" and not np.allclose(slopes, 1):
        raise DataError(f"anchors: item {responses.items[mask][np.argmax(slopes != 1)]!r} is of no 1PL; set model 2PL")
    given = ItemParameters.from_difficulty(
        model, rows["difficulty"].fillna(0.0).to_numpy(), rows["discrimination"].fillna(1.0).to_numpy()
    )
    population = None if population_sd is None else Population(0.0, population_sd)
    error = rows["standard_error"].fillna(0.0).to_numpy()
    fit = fit_anchored(as_matrix(responses), given, mask, error=error, population=population)
    told += _told(responses, mask, fit, estimated=population is None, exact=not error[mask].any())
    return AnchoredBoard(_items(found.items, responses, mask, fit), _subjects(responses, fit), told, fit)


def _told(responses: Responses, mask: np.ndarray, fit: AnchoredFit, *, estimated: bool, exact: bool) -> list[str]:
    subjects, items = responses.shape
    source = "estimated here" if estimated else "as given"
    notes = [
        f"{subjects:,} subjects, {items:,} items, {int(mask.sum()):,} of them known and left as they are; abilities are "
        f"N({fit.population.mean:.2f}, {fit.population.sd:.2f}), {source}"
    ]
    if exact and not mask.all():
        notes.append(
            "the known items have no standard_error, and are taken as exact: intervals of new ones are too narrow"
        )
    anchored = np.bincount(responses.subject, weights=mask[responses.item], minlength=subjects) > 0
    if not anchored.all():
        names = shown(responses.subjects[~anchored])
        notes.append(f"{int((~anchored).sum())} subjects answered no known item, so that others place them: {names}")
    if not fit.converged:
        notes.append("the fit stopped before it converged")
    return notes


def _items(order: Sequence[str], responses: Responses, mask: np.ndarray, fit: AnchoredFit) -> pd.DataFrame:
    reach = 1.96 * fit.error
    ends = fit.parameters.difficulty - reach, fit.parameters.difficulty + reach
    marks = {"known": mask, "prior": fit.held, "all or none solved it": fit.extreme}
    return item_table(order, responses, fit.parameters, fit.error, ends, marks)


def _subjects(responses: Responses, fit: AnchoredFit) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "subject": responses.subjects,
            "ability": fit.ability,
            "standard_error": fit.ability_error,
            "low": fit.ability - 1.96 * fit.ability_error,
            "high": fit.ability + 1.96 * fit.ability_error,
            "expected_score": fit.parameters.expected_score(fit.ability) / len(fit.parameters),
            "responses": np.bincount(responses.subject, minlength=len(responses.subjects)),
        }
    )
