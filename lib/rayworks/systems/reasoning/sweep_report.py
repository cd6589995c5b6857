"""The arms over seeds: what a sweep says that no run can."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rayworks.core.bootstrap import t_interval
from rayworks.core.report import Cell, Table
from rayworks.core.sweep import TrialResult
from rayworks.systems.reasoning.reporting import ARMS_TABLE

ROUND, ARM, GAIN = "round", "arm", "gain"


def sweep_summary(trials: Sequence[TrialResult]) -> tuple[Sequence[Table], dict[str, tuple[bytes, str]]]:
    """Mean gain of every arm over the seeds of each design, with an interval by t that counts the seeds as the sample."""
    found: dict[tuple[int, int, str], list[float]] = {}
    for trial in trials:
        for row in _rows(trial):
            number, arm, gained = int(row[ROUND]), str(row[ARM]), row[GAIN]
            if gained is not None:
                found.setdefault((trial.design, number, arm), []).append(float(str(gained).split()[0]))
    if not found:
        return (), {}
    rows: list[list[Cell]] = []
    for (design, number, arm), gains in sorted(found.items(), key=_by_gain):
        mean, low, high = t_interval(gains)
        rows.append([design, number, arm, len(gains), mean, low, high, ", ".join(f"{one:+.3f}" for one in gains)])
    return [
        Table(
            "Gain of every arm over seeds",
            ("design", "round", "arm", "seeds", "mean gain", "95 % low", "95 % high", "by seed"),
            rows,
            note="Greedy accuracy on test questions less that before the round. The interval is Student's t over seeds, in "
            "which policies, questions and trees all differ.",
        )
    ], {}


def _by_gain(entry: tuple[tuple[int, int, str], list[float]]) -> tuple[int, int, float]:
    (design, number, _), gains = entry
    return design, number, -float(np.mean(gains))


def _rows(trial: TrialResult) -> list[dict[str, Any]]:
    tables = [table for table in (trial.report or {}).get("tables", []) if table["title"] == ARMS_TABLE]
    return [dict(zip(table["columns"], row, strict=True)) for table in tables for row in table["rows"]]
