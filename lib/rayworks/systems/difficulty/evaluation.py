"""A language model against difficulty: prompts from items, answers to scores, scores to a profile."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.proportions import wilson
from rayworks.systems.difficulty.answering import easy2hard
from rayworks.systems.difficulty.answering.answer_scoring import SCORERS, score
from rayworks.systems.difficulty.answering.profiles import above_chance, profile, tier_accuracies
from rayworks.systems.difficulty.answering.prompts import build
from rayworks.systems.difficulty.config import EvaluationSection
from rayworks.systems.difficulty.new_subjects import profile_as_dict
from rayworks.systems.difficulty.responses import evidence

TIERS = 5
CHAMP, MATES = "champ", "chess-mates"
Row = dict[str, Any]


def benchmark_rows(section: EvaluationSection, labels: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[Row]:
    """One row per item: ``item``, ``prompt``, ``content`` (what the scorer reads), ``rating``, ``quantile``.

    Args:
        section: which benchmark, and how many of its items.
        labels: label tables of the run's own sets, as dicts of columns; CHAMP takes its ratings from them.

    Raises:
        ConfigError: the benchmark does not exist, or CHAMP lacks a calibration.
        DataError: the source cannot be read.
    """
    name = section.benchmark
    if name == CHAMP:
        if CHAMP not in labels:
            raise ConfigError("evaluation.benchmark champ: takes its ratings from data.responses; add champ there")
        rated = pd.DataFrame({key: labels[CHAMP][key] for key in ("item", "rating", "rating_quantile")})
        table = evidence.read_responses(CHAMP).items.merge(rated, on="item")
    elif name == MATES:
        table = evidence.read_chess_mates().rename(columns={"puzzle": "item"})
        longest = table["mate_in"].max() - 2
        table = table.assign(rating=(table["mate_in"] - 2) / longest, rating_quantile=table["mate_in"].rank(pct=True))
    else:
        known = {config.lower().removeprefix("e2h-"): config for config in easy2hard.SCHEMAS}
        if name not in known:
            raise ConfigError(
                f"evaluation.benchmark {name!r}: unknown; choose champ, chess-mates or one of {', '.join(known)}"
            )
        name = known[name]
        table = easy2hard.load(name, "eval", section.source).table
    if section.max_items:
        # Spread over the scale, so that a part of the benchmark still shows its whole range.
        order = table["rating"].to_numpy(float).argsort(kind="stable")
        chosen = order[np.linspace(0, len(order) - 1, min(section.max_items, len(order))).round().astype(int)]
        table = table.iloc[np.sort(chosen)]
    if not len(table):
        raise DataError(f"evaluation.benchmark {name}: holds no item")
    return [
        {
            "item": str(row["item"]),
            "prompt": build(name, row),
            "content": row,
            "rating": float(row["rating"]),
            "quantile": float(row["rating_quantile"]),
        }
        for row in easy2hard.records(table)
    ]


def scorer_name(benchmark: str) -> str:
    """The name under which the benchmark's scorer and prompts are known."""
    return next(name for name in SCORERS if name.lower().removeprefix("e2h-") == benchmark)


def score_answer(benchmark: str, row: Row, output: str) -> Row:
    """A row of results: item, output, correct, rating, quantile."""
    correct = score(scorer_name(benchmark), output, row["content"])
    return {**{key: row[key] for key in ("item", "rating", "quantile")}, "output": output, "correct": correct}


def summarise(model: str, rows: Sequence[Row], guessing: float, seed: int) -> dict[str, Any]:
    """Accuracy, tiers of equal size, and the profile of one model, as plain values."""
    rating = np.array([row["rating"] for row in rows])
    quantile = np.array([row["quantile"] for row in rows])
    correct = np.array([row["correct"] for row in rows], dtype=float)
    tier = np.clip((np.ceil(quantile * TIERS) - 1).astype(int), 0, TIERS - 1)
    accuracy, count = tier_accuracies(tier, correct, TIERS)
    low, high = wilson(np.nan_to_num(accuracy) * count, count)
    return {
        "model": model,
        "items": len(rows),
        "unanswered": sum(not row["answered"] for row in rows),
        "accuracy": float(correct.mean()),
        "above_chance": float(above_chance(correct.mean(), guessing)),
        "tiers": [
            {"tier": n, "items": int(size), "accuracy": share if size else None, "low": low[n], "high": high[n]}
            for n, (size, share) in enumerate(zip(count, accuracy, strict=True))
        ],
        "profile": profile_as_dict(profile(rating, correct, seed=seed, guessing=guessing)),
        "examples": [
            {"item": row["item"], "output": row["output"][-300:], "correct": row["correct"]} for row in rows[:3]
        ],
    }
