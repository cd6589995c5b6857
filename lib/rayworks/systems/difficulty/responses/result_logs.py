"""Files of results as tables: CSV and its kin, JSON in its shapes, logs of lm-eval, HELM and the Open LLM Leaderboard."""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rayworks.core.errors import DataError
from rayworks.core.tables import HUB, read_table

METRICS = (
    "exact_match",
    "acc",
    "quasi_exact_match",
    "acc_norm",
    "prefix_exact_match",
    "pass@1",
    "em",
    "correct",
    "score",
)
"""Of a log with several, the first of these is the score."""
_SAMPLES = re.compile(r"samples_(?P<task>.+?)_\d{4}-\d\d-\d\dT.*")
_MODEL = re.compile(r"(?:^|,)model=(?P<model>[^,]+)")


def read_results(source: str | Path, field: str) -> tuple[pd.DataFrame, list[str]]:
    """One file as a table that :func:`~.board_shapes.recognise` knows, and sentences on what it was taken for.

    Raises:
        DataError: it cannot be read.
    """
    path = Path(source).expanduser()
    name = path.name.lower()
    if str(source).startswith(HUB) or not name.endswith((".json", ".json.gz", ".jsonl", ".jsonl.gz")):
        table = read_table(source, field, dtype=str)
        return _with_metrics(table, path) if "metrics" in table else (table, [])
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")
        whole = ".jsonl" not in name
        held = json.loads(text) if whole else [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{field} {str(source)!r}: cannot be read ({error})") from None
    table, told = _from_json(held, path)
    if not len(table):
        raise DataError(f"{field} {str(source)!r}: has no rows")
    return table, told


def _from_json(held: Any, path: Path) -> tuple[pd.DataFrame, list[str]]:
    if isinstance(held, Mapping):
        return _from_mapping(held)
    records = [one for one in held if isinstance(one, Mapping)] if isinstance(held, Sequence) else []
    if not records:
        rows = [one for one in held if isinstance(one, Sequence)] if isinstance(held, Sequence) else []
        return pd.DataFrame(rows, columns=None).rename(columns=lambda n: f"question-{n + 1}"), []
    if "stats" in records[0] and "instance_id" in records[0]:
        return _helm(records, path)
    if isinstance(records[0].get("responses"), Mapping):
        rows = [(one.get("subject_id", n), *pair) for n, one in enumerate(records) for pair in one["responses"].items()]
        return pd.DataFrame(rows, columns=["subject", "item", "score"]), ["records of subjects with their responses"]
    if "doc_id" in records[0] and ("filtered_resps" in records[0] or "target" in records[0]):
        return _lm_eval(records, path)
    table = pd.DataFrame(records)
    return _with_metrics(table, path) if "metrics" in table else (table, [])


def _from_mapping(held: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Named parts of a matrix, the split form of pandas, or subjects to their scores."""
    parts = {str(name).lower(): value for name, value in held.items()}
    matrix = next((parts[name] for name in ("matrix", "scores", "responses", "data") if name in parts), None)
    if isinstance(matrix, list) and matrix and isinstance(matrix[0], list):
        rows = next(
            (parts[name] for name in ("subjects", "models", "index") if name in parts), range(1, len(matrix) + 1)
        )
        columns = next((parts[name] for name in ("items", "questions", "columns") if name in parts), None)
        table = pd.DataFrame(matrix, columns=columns)
        if "columns" not in parts or "index" in parts:
            table.insert(0, "model", list(rows))
        return table, []
    if isinstance(matrix, list):
        return pd.DataFrame(matrix), []
    values = list(held.values())
    if all(isinstance(one, Mapping) for one in values):
        return pd.DataFrame.from_dict(dict(held), orient="index").rename_axis("model").reset_index(), [
            "models to their scores"
        ]
    if all(isinstance(one, list) for one in values):
        lengths = {len(one) for one in values}
        if len(lengths) == 1 and not set(parts) & {
            "model",
            "subject",
            "student",
            "item",
            "question",
            "score",
            "correct",
        }:
            columns = [f"question-{n}" for n in range(1, lengths.pop() + 1)]
            table = pd.DataFrame.from_dict(dict(held), orient="index", columns=columns)
            return table.rename_axis("model").reset_index(), ["models to their scores"]
        return pd.DataFrame(dict(held)), []
    return pd.DataFrame([held]), []


def _lm_eval(records: Sequence[Mapping[str, Any]], path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Samples of lm-evaluation-harness: the model is the folder, the task the file."""
    metric = _metric(records[0], path)
    named = _SAMPLES.fullmatch(path.name)
    task = named["task"] if named else path.stem
    table = pd.DataFrame(records)
    told = [f"{path.name}: samples of lm-eval, model {path.parent.name!r}, task {task!r}, score from {metric!r}"]
    if "filter" in table and table["filter"].nunique() > 1:
        first = table["filter"].iloc[0]
        told.append(f"of the filters only {first!r}")
        table = table[table["filter"] == first]
    model = table["model"] if "model" in table else path.parent.name.replace("__", "/")
    return pd.DataFrame(
        {"subject": model, "item": f"{task}/" + table["doc_id"].astype(str), "score": table[metric]}
    ).reset_index(drop=True), told


def _helm(records: Sequence[Mapping[str, Any]], path: Path) -> tuple[pd.DataFrame, list[str]]:
    """``per_instance_stats.json`` of HELM: the model is in the name of the run's folder."""
    run = path.parent.name
    named = _MODEL.search(run)
    model = named["model"] if named else run
    scenario = run.partition(":")[0]
    rows, metric = [], ""
    for one in records:
        stats = {stat["name"]["name"]: stat for stat in one["stats"] if stat["name"].get("perturbation") is None}
        if one.get("perturbation") is not None:
            continue
        metric = metric or next((name for name in METRICS if name in stats), "")
        if metric in stats:
            stat = stats[metric]
            rows.append((model, f"{scenario}/{one['instance_id']}", stat["sum"] / max(stat.get("count", 1), 1)))
    if not rows:
        raise DataError(f"{path}: no instance has one of {', '.join(METRICS)}")
    told = [f"{path.name}: stats of HELM, model {model!r}, scenario {scenario!r}, score from {metric!r}"]
    return pd.DataFrame(rows, columns=["subject", "item", "score"]), told


def _with_metrics(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Details of the Open LLM Leaderboard: a column of metrics by name; the model is the folder, items are rows."""
    first = table["metrics"].iloc[0]
    if not isinstance(first, Mapping):
        return table, []
    metric = _metric(first, path)
    known = {name: table[name] for name in ("model", "model_name", "doc_id", "task") if name in table}
    named = {
        "model": path.parent.name.replace("__", "/"),
        "doc_id": [f"{path.stem}/{n}" for n in range(len(table))],
    } | known
    told = [f"{path.name}: details of a leaderboard, model {path.parent.name!r}, score from {metric!r}"]
    return pd.DataFrame({**named, "score": [one.get(metric) for one in table["metrics"]]}), told


def _metric(record: Mapping[str, Any], path: Path) -> str:
    found = next((name for name in METRICS if isinstance(record.get(name), int | float | bool)), None)
    if found is None:
        raise DataError(f"{path}: no sample has one of {', '.join(METRICS)}; it has {', '.join(map(str, record))}")
    return found
