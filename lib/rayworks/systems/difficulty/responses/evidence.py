"""The embedded evidence of difficulty: who answered which item how well, who played whom, which mate takes how long.

Every reader gives tidy tables; an unobserved cell has no row.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rayworks.core import datasets
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.answering.answer_scoring import last_number
from rayworks.systems.difficulty.responses import r_data

if TYPE_CHECKING:
    from chess import pgn


@dataclass(frozen=True)
class Evidence:
    """Observed responses, with what is known of the items and of the subjects."""

    responses: pd.DataFrame
    """One row a response: ``subject`` str, ``item`` str, ``score`` float in [0, 1], and ``family`` str where subjects
    come in clusters that are not independent."""
    items: pd.DataFrame
    """One row an item: ``item`` str, ``text`` str (its name where the source has no text), then its attributes."""
    subjects: pd.DataFrame
    """One row a subject: ``subject`` str, then its attributes, on which differential item functioning can be tested."""
    provenance: str


def read_responses(name: str) -> Evidence:
    """The responses of an embedded set, one of ``RESPONSES``.

    Raises:
        ConfigError: the set does not exist.
        DataError: it is not in the cache and cannot be fetched, or cannot be read.
    """
    if name not in RESPONSES:
        raise ConfigError(f"evidence {name!r}: unknown; choose one of {', '.join(RESPONSES)}")
    return RESPONSES[name](datasets.fetch(name))


def read_games(name: str) -> pd.DataFrame:
    """The games of an embedded set, one of ``GAMES``, in the order they were played.

    One row a game, seen from one side only: ``period`` str (sorts by time), ``player``, ``opponent`` str, ``score``
    float, 1 where the player won, 0.5 for a draw, 0 where the player lost.

    Raises:
        ConfigError: the set does not exist.
        DataError: it is not in the cache and cannot be fetched, or cannot be read.
    """
    if name not in GAMES:
        raise ConfigError(f"evidence {name!r}: unknown; choose one of {', '.join(GAMES)}")
    return GAMES[name](datasets.fetch(name))


def read_chess_mates() -> pd.DataFrame:
    """Positions with a forced mate: ``puzzle`` str, ``fen`` str, ``solution`` str (UCI moves of both sides, by spaces),
    ``answer_uci`` str (the first of them), ``mate_in`` int (moves of the side to move).

    Raises:
        DataError: python-chess is missing, the set is not to be had, or a solution does not mate in its moves.
    """
    folder = datasets.fetch("chess-mates")
    rows: list[tuple[str, str, str, str, int]] = []
    for mate_in in (2, 3, 4):
        file = folder / f"mate_in_{mate_in}.pgn"
        for number, game in enumerate(_games(file), start=1):
            moves = list(game.mainline_moves())
            if len(moves) != 2 * mate_in - 1 or not game.end().board().is_checkmate():
                raise DataError(f"{file}: game {number} does not mate in {mate_in}; fetch chess-mates again")
            solution = " ".join(move.uci() for move in moves)
            rows.append((f"mate-in-{mate_in}-{number:03d}", game.board().fen(), solution, moves[0].uci(), mate_in))
    return pd.DataFrame(rows, columns=["puzzle", "fen", "solution", "answer_uci", "mate_in"])


def _games(file: Path) -> "Iterator[pgn.Game]":
    try:
        from chess import pgn
    except ImportError:
        raise DataError("chess-mates: needs the chess package; pip install rayworks[difficulty]") from None
    # The names of players are in Latin-1.
    with file.open(encoding="latin-1") as lines:
        while (game := pgn.read_game(lines)) is not None:
            yield game


def _ability(folder: Path) -> Evidence:
    matrix = r_data.read_object(folder / "Rdata.rdx", "ability")
    subjects, items = (matrix.coords[dim].values.astype(str) for dim in matrix.dims)
    return Evidence(
        _responses(matrix.values, subjects, items),
        _items(items, kind=[item.partition(".")[0] for item in items]),
        pd.DataFrame({"subject": subjects}),
        "1,525 persons on 16 items of the International Cognitive Ability Resource (psychTools ability), right or wrong",
    )


def _math_exam(file: Path) -> Evidence:
    exam = r_data.read_object(file, "MathExam14W")
    solved = exam["solved"]
    items = solved.coords[solved.dims[1]].values.astype(str)
    subjects = _numbered("student", len(solved))
    known = {name: np.asarray(exam[name]) for name in ("gender", "study", "semester", "attempt", "group")}
    return Evidence(
        _responses(solved.values, subjects, items),
        _items(items),
        pd.DataFrame({"subject": subjects, **known}),
        "729 students on 13 items of a written mathematics exam (psychotools MathExam14W), solved or not",
    )


def _verbal_aggression(file: Path) -> Evidence:
    table = pd.read_pickle(file, compression="xz")
    attributes, persons = table.drop_duplicates("item"), table.drop_duplicates("id")
    known = {"behaviour": "btype", "situation": "situ", "mode": "mode"}
    subject, item, gender = _named("person", table["id"]), table["item"].astype("str"), persons["Gender"].astype("str")
    asked = {"subject": _named("person", persons["id"]), "gender": gender, "anger": persons["Anger"]}
    return Evidence(
        pd.DataFrame({"subject": subject, "item": item, "score": (table["r2"] == "Y").astype(float)}),
        _items(attributes["item"].to_numpy(str), **{ours: attributes[name].tolist() for ours, name in known.items()}),
        pd.DataFrame(asked).reset_index(drop=True),
        "316 persons on 24 items of verbal aggression (lme4 VerbAgg), 1 where the answer is yes or perhaps",
    )


def _lsat(section: int) -> Callable[[Path], Evidence]:
    def read(file: Path) -> Evidence:
        table = pd.read_pickle(file, compression="xz").drop(columns="rownames")
        subjects, items = _numbered("person", len(table)), table.columns.to_numpy(str)
        return Evidence(
            _responses(table.to_numpy(float), subjects, items),
            _items(items),
            pd.DataFrame({"subject": subjects}),
            f"1,000 persons on 5 items of section {section} of the Law School Admission Test (psych), right or wrong",
        )

    return read


def _champ(file: Path) -> Evidence:
    """Every model under every prompt on the problems whose gold answer is a plain number, graded by the last number in
    the last 400 characters of the final message; a conversation that ran out of length has no answer, which is wrong.
    """
    problems: dict[str, Any] = {}
    for name, problem in json.loads(file.read_text())["problems"].items():
        answer = problem["_answer"].strip()
        gold = last_number(answer)
        if gold is not None and not answer.strip("-0123456789,./"):
            problems[name] = {**problem, "gold": gold}
    rows = [
        (configuration, item, float(last_number((talk["messages"][-1]["text"] or "")[-400:]) == problem["gold"]))
        for item, problem in problems.items()
        for configuration, talk in problem["conversations"].items()
    ]
    responses = pd.DataFrame(rows, columns=["subject", "item", "score"])
    responses["family"] = responses["subject"].str.partition("|")[0]
    subjects = responses[["subject", "family"]].drop_duplicates().reset_index(drop=True)
    return Evidence(
        responses,
        pd.DataFrame(
            {
                "item": list(problems),
                "text": [problem["_text"] for problem in problems.values()],
                "answer": [problem["_answer"].strip() for problem in problems.values()],
                "category": [problem["category"] for problem in problems.values()],
                "steps": [len(problem["solution"]["steps"]) for problem in problems.values()],
            }
        ),
        subjects.assign(prompt=subjects["subject"].str.partition("|")[2]),
        f"4 language models under 18 prompts on the {len(problems)} CHAMP problems with a plain number as answer, "
        "last number of the reply equal to it (an under-count)",
    )


def _bundesliga(file: Path) -> pd.DataFrame:
    table = pd.read_pickle(file, compression="xz").sort_values(["Year", "Round"], kind="stable", ignore_index=True)
    return pd.DataFrame(
        {
            "period": table["Year"].astype("str"),
            "player": table["HomeTeam"].astype("str"),
            "opponent": table["AwayTeam"].astype("str"),
            "score": (np.sign(table["HomeGoals"] - table["AwayGoals"]) + 1) / 2,
        }
    )


RESPONSES: dict[str, Callable[[Path], Evidence]] = {
    "ability": _ability,
    "champ": _champ,
    "lsat6": _lsat(6),
    "lsat7": _lsat(7),
    "math-exam": _math_exam,
    "verbal-aggression": _verbal_aggression,
}
"""Reader of each embedded response set."""

GAMES: dict[str, Callable[[Path], pd.DataFrame]] = {"bundesliga": _bundesliga}
"""Reader of each embedded set of games; the home side of a football match is the player, a season the period."""


def _responses(matrix: np.ndarray, subjects: np.ndarray, items: np.ndarray) -> pd.DataFrame:
    """The observed cells of a ``[subjects, items]`` matrix, NaN where missing, subject by subject."""
    scores = np.asarray(matrix, dtype=float)
    row, column = np.nonzero(~np.isnan(scores))
    return pd.DataFrame({"subject": subjects[row], "item": items[column], "score": scores[row, column]})


def _items(names: np.ndarray, **attributes: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"item": names, "text": names, **attributes})


def _numbered(kind: str, count: int) -> np.ndarray:
    return np.array([f"{kind}-{number}" for number in range(1, count + 1)])


def _named(kind: str, ids: "pd.Series[Any]") -> "pd.Series[str]":
    return f"{kind}-" + ids.astype("str")
