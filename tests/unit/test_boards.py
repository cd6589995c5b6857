"""Thirty-three shapes of one board, as people have it: all give the difficulties of its matrix, in its order."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rayworks.difficulty
from rayworks.core.errors import DataError
from rayworks.systems.difficulty.board import fit
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit as fit_matrix
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix
from tests.simulated_responses import simulated

MODELS = [f"org/model-{n}" for n in (7, 3, 11, 1, 5, 9, 2, 4, 12, 6, 8, 10, 20, 30)]
ITEMS = [f"q{n}" for n in (10, 9, 2, 1, 30, 4, 7, 8)]
SCORES = simulated(4, subjects=len(MODELS), items=len(ITEMS)).scores.astype(int)
HOLES = SCORES.astype(float)
HOLES[2, 3] = HOLES[5, 1] = HOLES[9, 6] = np.nan

Write = Callable[[Path], Any]


def wide(first: str = "model", cells: Any = SCORES, **options: Any) -> pd.DataFrame:
    table = pd.DataFrame(cells, columns=ITEMS, dtype=options.get("dtype"))
    table.insert(0, first, MODELS)
    return table


def long(subject: str = "subject", item: str = "item", score: str = "score", cells: Any = SCORES) -> pd.DataFrame:
    rows = [(m, q, cells[i][j]) for i, m in enumerate(MODELS) for j, q in enumerate(ITEMS)]
    return pd.DataFrame(rows, columns=[subject, item, score])


def said(right: Any, wrong: Any) -> np.ndarray:
    return np.where(SCORES == 1, right, wrong).astype(object)


def csv(table: pd.DataFrame, name: str = "board.csv", **options: Any) -> Write:
    def write(folder: Path) -> str:
        table.to_csv(folder / name, index=False, **options)
        return str(folder / name)

    return write


def text(content: Any, name: str) -> Write:
    def write(folder: Path) -> str:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return str(folder / name)

    return write


def lines(records: list[Any], name: str = "board.jsonl") -> Write:
    return text("\n".join(json.dumps(record) for record in records), name)


def parquet(table: pd.DataFrame) -> Write:
    def write(folder: Path) -> str:
        table.to_parquet(folder / "board.parquet")
        return str(folder / "board.parquet")

    return write


def squeezed(folder: Path) -> str:
    with gzip.open(folder / "board.csv.gz", "wt") as out:
        wide().to_csv(out, index=False)
    return str(folder / "board.csv.gz")


def lm_eval(folder: Path) -> str:
    for model, row in zip(MODELS, SCORES, strict=True):
        samples = [
            {
                "doc_id": n,
                "doc": {"question": q},
                "target": "4",
                "filtered_resps": ["4"],
                "filter": f,
                "exact_match": float(s),
            }
            for n, (q, s) in enumerate(zip(ITEMS, row, strict=True))
            for f in ("strict-match", "flexible-extract")
        ]
        file = folder / "logs" / model.replace("/", "__") / "samples_gsm8k_2024-06-01T12-00-00.000.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(json.dumps(sample) for sample in samples))
    return str(folder / "logs")


def helm(folder: Path) -> str:
    for model, row in zip(MODELS, SCORES, strict=True):
        run = folder / "runs" / f"mmlu:subject=anatomy,model={model.replace('/', '_')}"
        run.mkdir(parents=True)
        stats = [
            {
                "instance_id": f"id{n}",
                "train_trial_index": 0,
                "stats": [
                    {"name": {"name": "num_references", "split": "test"}, "count": 1, "sum": 4, "mean": 4},
                    {"name": {"name": "exact_match", "split": "test"}, "count": 1, "sum": float(s), "mean": float(s)},
                ],
            }
            for n, s in enumerate(row)
        ]
        (run / "per_instance_stats.json").write_text(json.dumps(stats))
        (run / "scenario.json").write_text("{}")
    return str(folder / "runs")


def open_llm(folder: Path) -> str:
    for model, row in zip(MODELS, SCORES, strict=True):
        file = folder / "details" / model.replace("/", "__") / "details_arc.parquet"
        file.parent.mkdir(parents=True)
        metrics = [{"acc": float(s), "acc_norm": float(1 - s)} for s in row]
        pd.DataFrame({"example": ITEMS, "metrics": metrics}).to_parquet(file)
    return str(folder / "details")


PERCENT = said("100%", "0%")
SHAPES: dict[str, Write] = {
    "long, our names": csv(long()),
    "long, model question_id correct": csv(long("model", "question_id", "correct")),
    "long, model_name doc_id acc": csv(long("model_name", "doc_id", "acc")),
    "long, Student Problem Solved": csv(long("Student", "Problem", "Solved")),
    "long, userId itemId isCorrect": csv(long("userId", "itemId", "isCorrect")),
    "long, user question response": csv(long("user", "question", "response")),
    "long, other columns between": csv(
        long().assign(timestamp="2024-01-01", prompt="What?")[["timestamp", "item", "prompt", "score", "subject"]]
    ),
    "long, True and False": csv(long(cells=said("True", "False"))),
    "long, TRUE and FALSE": csv(long(cells=said("TRUE", "FALSE"))),
    "long, yes and no": csv(long(cells=said("yes", "no"))),
    "long, Correct and Incorrect": csv(long(cells=said("Correct", "Incorrect"))),
    "long, pass and fail": csv(long(cells=said("pass", "fail"))),
    "long, spaces around": csv(long(" subject ", " item ", " score ", cells=said(" 1 ", " 0 "))),
    "wide": csv(wide()),
    "wide, semicolons": csv(wide(), sep=";"),
    "wide, tabs in .csv": csv(wide(), sep="\t"),
    "wide, .tsv": csv(wide(), "board.tsv", sep="\t"),
    "wide, .csv.gz": squeezed,
    "wide, index column without a name": csv(wide("")),
    "wide, Unnamed: 0": csv(wide("Unnamed: 0")),
    "wide, percentages": csv(wide(cells=PERCENT)),
    "wide, hundred and zero": csv(wide(cells=SCORES * 100)),
    "wide, decimal commas": csv(wide(cells=said("1,0", "0,0")), sep=";"),
    "wide, UTF-16": csv(wide(), encoding="utf-16"),
    "wide, byte order mark": csv(wide(), encoding="utf-8-sig"),
    "wide, Windows line ends": csv(wide(), lineterminator="\r\n"),
    "wide, an average beside": csv(wide().assign(average=SCORES.mean(1))),
    "wide, questions in rows": csv(
        pd.DataFrame(SCORES.T, columns=MODELS).assign(q=ITEMS)[["q", *MODELS]].rename(columns={"q": "question"})
    ),
    "parquet, long": parquet(long("model", "question_id", "correct", cells=SCORES == 1)),
    "json, records": text(long("model", "question", "correct").to_dict("records"), "board.json"),
    "json, models to scores": text(
        {m: dict(zip(ITEMS, row.tolist(), strict=True)) for m, row in zip(MODELS, SCORES, strict=True)}, "board.json"
    ),
    "json, a matrix": text({"models": MODELS, "items": ITEMS, "matrix": SCORES.tolist()}, "board.json"),
    "jsonl, records": lines(long("model", "question_id", "correct", cells=(SCORES == 1).tolist()).to_dict("records")),
    "jsonl, py-irt": lines(
        [
            {"subject_id": m, "responses": dict(zip(ITEMS, row.tolist(), strict=True))}
            for m, row in zip(MODELS, SCORES, strict=True)
        ]
    ),
    "lm-eval, sample logs": lm_eval,
    "HELM, run folders": helm,
    "Open LLM Leaderboard, details": open_llm,
}
LOGS = ("lm-eval", "HELM", "Open LLM")


def difficulties(cells: np.ndarray) -> np.ndarray:
    return fit_matrix(as_matrix(from_matrix(cells)), FitOptions(model="1PL")).parameters.difficulty


@pytest.mark.parametrize("shape", SHAPES)
def test_a_board_loads(shape: str, tmp_path: Path) -> None:
    found = fit(SHAPES[shape](tmp_path))
    assert found.items["difficulty"].to_numpy() == pytest.approx(difficulties(SCORES.astype(float)), abs=1e-3)
    if not shape.startswith(LOGS):
        assert found.items["item"].tolist() == ITEMS
        assert found.responses.subjects.tolist() == MODELS
    assert len(found.responses.subjects) == len(MODELS)
    assert any(
        word in found.notes[0]
        for word in ("wide table", "long table", "samples", "stats", "details", "record", "models")
    )


@pytest.mark.parametrize("empty", ["", "NA", "n/a", "NaN", "null", "-", "None"])
@pytest.mark.parametrize("shape", ["wide", "long"])
def test_blanks_are_missing(shape: str, empty: str, tmp_path: Path) -> None:
    cells = np.where(np.isnan(HOLES), empty, SCORES.astype(str)).astype(object)
    table = wide(cells=cells) if shape == "wide" else long(cells=cells)
    found = fit(csv(table)(tmp_path))
    assert found.items["difficulty"].to_numpy() == pytest.approx(difficulties(HOLES), abs=1e-3)
    assert any("3 of 112 cells are not observed" in note for note in found.notes)


def test_minus_one_is_missing_where_the_rest_is_right_or_wrong(tmp_path: Path) -> None:
    found = fit(csv(wide(cells=np.where(np.isnan(HOLES), -1, SCORES)))(tmp_path))
    assert found.items["difficulty"].to_numpy() == pytest.approx(difficulties(HOLES), abs=1e-3)
    assert any("-1 taken as not observed" in note for note in found.notes)


def test_whom_nothing_is_known_of_is_named_and_the_order_is_kept(tmp_path: Path) -> None:
    cells = HOLES.copy()
    cells[4], cells[:, 2] = np.nan, np.nan
    found = fit(csv(wide(cells=cells))(tmp_path))
    assert found.items["item"].tolist() == ITEMS
    assert found.items.loc[2, "note"] == "nobody answered it"
    assert found.items["difficulty"].isna()[2] and found.items.loc[2, "responses"] == 0
    told = " ".join(found.notes)
    assert f"subjects without any response are left out: {MODELS[4]}" in told
    assert f"items without any response are left out: {ITEMS[2]}" in told


def test_tasks_that_number_their_items_alike_are_told_apart(tmp_path: Path) -> None:
    one, two = long("model", "doc_id", "acc"), long("model", "doc_id", "acc", 1 - SCORES)
    both = pd.concat([one.assign(task="arc"), two.assign(task="gsm8k")])
    found = fit(csv(both)(tmp_path))
    assert found.items["item"].tolist() == [f"{task}/{item}" for task in ("arc", "gsm8k") for item in ITEMS]


def test_counts_of_successes_and_rows_that_repeat_are_attempts(tmp_path: Path) -> None:
    counted = long().assign(n_correct=long()["score"] * 3, attempts=4).drop(columns="score")
    found = fit(csv(counted)(tmp_path))
    assert set(found.responses.weight) == {4.0}
    assert found.responses.score.max() == 0.75
    twice = fit(csv(pd.concat([long(), long()]))(tmp_path))
    assert any("112 rows repeat" in note for note in twice.notes)
    assert set(twice.responses.weight) == {2.0}


def test_sizes_of_models_are_no_percentages(tmp_path: Path) -> None:
    sizes = np.linspace(1, 70, len(MODELS))
    found = fit(csv(wide().assign(params=sizes, released=2024))(tmp_path))
    assert found.items["difficulty"].to_numpy() == pytest.approx(difficulties(SCORES.astype(float)), abs=1e-3)
    assert any("columns left out" in note and "params, released" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model,q1,q2\na,1,maybe\nb,0,1\n", "row 1, column q2 of the scores is 'maybe'"),
        ("model,question_id,correct\na,q,1\nb,q,perhaps\n", "row 2 of the scores is 'perhaps'"),
        ("model,question_id,correct\na,q,1\nb,q,-3\n", "row 2 of the scores is '-3'"),
        (
            "model,question_id,grade\na,q,4\nb,q,2\n",
            "row 1 of the scores is '4', outside \\[0, 1\\], and scores run to 4",
        ),
        ("model,question_id,correct\na,q,1\n,q,0\n", "row 2 has no subject or no item"),
        ("name,date\nann,2024-01-01\nbob,2024-01-02\n", "is no board of results; found columns name, date"),
        ("model,q1\na,\nb,\n", "holds no response"),
        ("model,q1,q2\na,1,0\na,0,1\n", "names two rows 'a'"),
        ("model,q1,q2\na,1,0\n", "one subject"),
        ("", "cannot be read|has no rows"),
    ],
)
def test_what_is_no_board_is_refused_with_what_would_do(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "board.csv").write_text(content)
    with pytest.raises(DataError, match=words):
        fit(str(tmp_path / "board.csv"))


@pytest.mark.parametrize("content", ["{", "[]", "{}", "3", '[{"a": 1}]', '"x"', "[[1, 0]]"])
def test_json_that_is_no_board_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "board.json").write_text(content)
    with pytest.raises(DataError):
        fit(str(tmp_path / "board.json"))


def test_the_command_writes_a_table_in_the_order_of_the_input(tmp_path: Path) -> None:
    source = csv(wide())(tmp_path)
    command = [sys.executable, "-m", "rayworks.command", "difficulty", source]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tmp_path / "out.csv").write_text(done.stdout)
    assert pd.read_csv(tmp_path / "out.csv")["item"].tolist() == ITEMS
    assert "a row a model named by 'model', a column a question (8 of them)" in done.stderr
    wrong = subprocess.run([*command[:-1], str(tmp_path / "none.csv")], capture_output=True, text=True, check=False)
    assert wrong.returncode == 4 and "none.csv" in wrong.stderr


def test_neither_ray_nor_torch_is_needed(tmp_path: Path) -> None:
    source = csv(long())(tmp_path)
    code = f"import sys, rayworks.difficulty as d; d.fit({source!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"ray", "torch", "matplotlib"} & set(loaded)
    assert rayworks.difficulty.fit is fit
