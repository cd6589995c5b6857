"""What a table of results is: long or wide, which column is what, under the names that people use."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.responses.response_store import shown
from rayworks.systems.difficulty.responses.score_cells import read_scores, words_to_numbers

SUBJECT = """subject subject_id subject_name model model_name model_id modelname llm system agent student student_id user
user_id respondent respondent_id person person_id participant participant_id examinee candidate taker test_taker solver run
run_id submission""".split()
ITEM = """item item_id item_name question_id qid question_number question_no q_id problem_id instance_id example_id sample_id
doc_id task_id exercise_id puzzle_id question problem exercise puzzle instance example item_number prompt_id prompt
doc""".split()
SCORE = """score correct is_correct correctness right solved is_solved passed pass is_pass success acc accuracy exact_match em
quasi_exact_match acc_norm prefix_exact_match grade outcome result response answered_correctly mark value y resp""".split()
ATTEMPTS = "attempts n_attempts num_attempts attempt_count trials n_trials num_samples".split()
COUNT = "solved_count n_solved n_correct num_correct successes correct_count".split()
TASK = "task task_name dataset benchmark subset scenario suite".split()
SUMMARY = frozenset("average avg mean total overall sum rank score accuracy".split())
OPTIONS = "options n_options num_options n_choices num_choices choices_count option_count".split()
KEPT = ("weight", "family", "text", "period", "split")
LEAST_SCORES = 0.5
"""Share of a column's filled cells that must be scores for the column to be an item of a wide table; the rest is refused."""


@dataclass(frozen=True, eq=False)
class Board:
    """Responses in the row schema, the order of names in the source, and sentences on what was taken for what."""

    table: pd.DataFrame
    subjects: list[str]
    items: list[str]
    told: list[str] = field(default_factory=list)


def recognise(table: pd.DataFrame, where: str, *, items_in_rows: bool | None = None) -> Board:
    """The board that a table holds.

    Args:
        items_in_rows: of a wide table; ``None`` goes by the name of its first column.

    Raises:
        DataError: no shape fits; says which columns there are and what would do.
    """
    table = table.rename(columns={name: str(name).strip() for name in table.columns})
    named = {_plain(name): str(name) for name in reversed(list(table.columns))}
    roles = {role: _first(named, known) for role, known in (("subject", SUBJECT), ("item", ITEM), ("score", SCORE))}
    counted = _first(named, COUNT)
    if roles["subject"] and roles["item"] and (roles["score"] or counted) and items_in_rows is None:
        return _long(table, named, roles, where)
    return _wide(table, named, where, items_in_rows)


def _long(table: pd.DataFrame, named: dict[str, str], roles: dict[str, str | None], where: str) -> Board:
    subject, item, score = (roles[role] for role in ("subject", "item", "score"))
    assert subject is not None and item is not None
    attempts, counted = _first(named, ATTEMPTS), _first(named, COUNT)
    told = [f"long table: subject from {subject!r}, item from {item!r}, score from {score or counted!r}"]
    found = pd.DataFrame({"subject": _names(table[subject]), "item": _names(table[item])})
    task = _first(named, TASK)
    if task and task not in (subject, item) and _repeats(found) and table[task].nunique() > 1:
        found["item"] = _names(table[task]) + "/" + found["item"]
        told.append(f"item numbers repeat from {task!r} to {task!r}, which is put before them")
    if score is None and counted and attempts:
        tried = words_to_numbers(table[attempts])
        found["score"], found["attempts"] = words_to_numbers(table[counted]) / np.where(tried > 0, tried, np.nan), tried
    else:
        assert score is not None or counted is not None
        read = read_scores(table[score or counted], where)
        found["score"] = read.values
        told += read.told
        if attempts:
            found["attempts"] = words_to_numbers(table[attempts])
    if attempts:
        told.append(f"attempts from {attempts!r}")
    for name in (*KEPT, *[str(column) for column in table.columns]):
        column = named.get(name, name)
        if column in table and column not in (subject, item, score, attempts, counted) and name not in found:
            found[name] = table[column].to_numpy()
    if options := _first(named, OPTIONS):
        count = words_to_numbers(table[options])
        found = found.drop(columns=[options, "options"], errors="ignore")
        # Not so where the options themselves are written out.
        if np.all(count[~np.isnan(count)] >= 2) and np.isfinite(count).any() and not np.isinf(count).any():
            found["options"] = count
            told.append(f"options to choose from by {options!r}")
    empty = (found["subject"] == "") | (found["item"] == "")
    if empty.any():
        raise DataError(
            f"{where}: row {int(empty.to_numpy().argmax()) + 1} has no subject or no item; give every response one"
        )
    return _without_missing(found, told)


def _wide(table: pd.DataFrame, named: dict[str, str], where: str, items_in_rows: bool | None) -> Board:
    columns = [str(column) for column in table.columns]
    scored = [column for column in columns if _holds_scores(table[column])]
    ids = _first(named, SUBJECT) or _first(named, ITEM)
    if (
        ids is None
        and columns
        and (_plain(columns[0]) in ("", "id", "index", "name", "unnamed_0") or columns[0] not in scored)
    ):
        ids = columns[0]
    transposed = items_in_rows if items_in_rows is not None else ids is not None and _plain(ids) in ITEM
    kept = [column for column in scored if column != ids and _plain(column) not in SUMMARY | set(ITEM) | set(SUBJECT)]
    numbers = {column: words_to_numbers(table[column]) for column in kept}
    shares = [column for column in kept if np.max(numbers[column][np.isfinite(numbers[column])], initial=0.0) <= 1]
    # Sizes and years beside rights and wrongs are no percentages.
    kept = shares if 2 * len(shares) >= len(kept) else kept
    left = [column for column in columns if column not in (*kept, ids)]
    if not kept or (len(kept) < 2 and len(table) < 2):
        raise DataError(
            f"{where}: is no board of results; found columns {shown(columns)}. Give a row a response with columns subject, "
            "item and score (or model, question_id, correct), or a table of models by questions with 0, 1 or nothing in each"
        )
    kind, other = ("question", "model") if transposed else ("model", "question")
    rows = _names(table[ids]) if ids else pd.Series([f"{kind}-{n}" for n in range(1, len(table) + 1)])
    if rows.duplicated().any() or (rows == "").any():
        raise DataError(
            f"{where}: column {ids!r} names two rows {rows[rows.duplicated() | (rows == '')].iloc[0]!r}; name each once"
        )
    told = [
        f"wide table: a row a {kind}{f' named by {ids!r}' if ids else ''}, a column a {other} ({len(kept)} of them)"
    ]
    if left:
        told.append(f"columns left out, for they hold no scores of one {other}: {shown(left)}")
    read = read_scores(table[kept].to_numpy(dtype=object).ravel(), where, kept)
    subject, item = np.repeat(rows.to_numpy(object), len(kept)), np.tile(np.array(kept, dtype=object), len(table))
    if transposed:
        subject, item = item, subject
    found = pd.DataFrame({"subject": subject, "item": item, "score": read.values})
    if (family := named.get("family")) and not transposed:
        found["family"] = np.repeat(table[family].astype(str).to_numpy(object), len(kept))
    return _without_missing(found, [*told, *read.told])


def _without_missing(found: pd.DataFrame, told: list[str]) -> Board:
    """Unobserved cells are no rows; whom that leaves without a response is named."""
    subjects, items = (list(dict.fromkeys(found[name])) for name in ("subject", "item"))
    seen = found["score"].notna()
    kept = found[seen].reset_index(drop=True)
    if not seen.all():
        told = [*told, f"{int((~seen).sum()):,} of {len(found):,} cells are not observed"]
    for name, all_of in (("subject", subjects), ("item", items)):
        present = set(kept[name])
        if silent := [one for one in all_of if one not in present]:
            told = [*told, f"{name}s without any response are left out: {shown(silent)}"]
    board = Board(kept, subjects, items, told)
    present_subjects = set(kept["subject"])
    return replace(board, subjects=[one for one in subjects if one in present_subjects])


def _repeats(found: pd.DataFrame) -> bool:
    return bool(found.duplicated(["subject", "item"]).any())


def _holds_scores(cells: "pd.Series[Any]") -> bool:
    numbers = words_to_numbers(cells)
    filled = numbers[~np.isnan(numbers)]
    return not len(filled) or float(np.mean((filled >= -1) & (filled <= 100))) >= LEAST_SCORES


def _first(named: dict[str, str], known: Sequence[str]) -> str | None:
    return next((named[name] for name in known if name in named), None)


def _plain(name: Any) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name).strip())
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _names(cells: "pd.Series[Any]") -> "pd.Series[str]":
    """Ids as text: whole numbers without a decimal point, whatever a column with gaps made of them."""

    def name(cell: Any) -> str:
        if cell is None or (isinstance(cell, float) and np.isnan(cell)):
            return ""
        whole = isinstance(cell, float) and cell == int(cell)
        return str(int(cell)) if whole else str(cell).strip()

    return pd.Series([name(cell) for cell in cells], dtype=object)
