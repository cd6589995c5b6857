"""The numbers of a run: accuracies with intervals, gains over the start, and what answers cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.core.bootstrap import mean_interval
from rayworks.systems.reasoning.config import Config

Results = Mapping[str, Any]
UNASKED = "-"
"""The mark, beside ``1`` and ``0``, of a question that was not asked, since it leaves the policy no room."""


@dataclass(frozen=True)
class Way:
    """A way to answer test questions: a method, and the critic that chooses."""

    method: str
    critic: str

    @property
    def name(self) -> str:
        """As tables and results have it."""
        return self.method if self.method == "self-consistency" else f"{self.method} ({self.critic})"


@dataclass(frozen=True)
class Estimate:
    """A mean over questions, and the ends of its interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def accuracy(config: Config, rights: Sequence[bool] | str, name: str) -> Estimate:
    """Share of right answers."""
    return _estimate(config, _values(rights), name)


def gain(config: Config, after: Sequence[bool] | str, before: Sequence[bool] | str, name: str) -> Estimate:
    """By how much more is right, question by question."""
    return _estimate(config, _values(after) - _values(before), name)


def headline(config: Config, results: Results) -> dict[str, float | None]:
    """The numbers that a reader compares between runs."""
    greedy = results["greedy"]
    before, after = greedy["0"]["test"], greedy[str(len(results["kept"]))]["test"]
    gained = gain(config, after, before, "headline") if before else None
    shuffled = (results["arms"].get("0") or {}).get("shuffled")
    searched = results["answers"].get(Way("search", config.test_critics[0]).name) if config.test_critics else None
    pieces = [piece for number in results["search"].values() for piece in number]
    wall = sum(piece["seconds"] for piece in pieces)
    asked = sum(piece.get("asked", 0) for piece in pieces)
    return {
        "greedy_before": share(before) if before else None,
        "search_accuracy": float(np.mean(joined(searched, "correct"))) if searched else None,
        "greedy_after": share(after) if before else None,
        "gain": gained.mean if gained else None,
        "gain_low": gained.low if gained else None,
        "shuffled_dpo_after": share(shuffled["test"]) if shuffled else None,
        "trees_per_second": sum(piece["trees"] for piece in pieces) / wall,
        "tokens_per_second": sum(sum(piece["tokens"]) for piece in pieces) / wall,
        "prefix_reuse_share": sum(piece["reused"] for piece in pieces) / asked if asked else None,
    }


def methods(config: Config, results: Results) -> dict[str, dict[str, Any]]:
    """Each way to answer the same test questions without knowing the answers: its accuracy and what it costs per question."""
    count = config.evaluation.questions
    before = results["greedy"]["0"]["test"][:count]
    if not before:
        return {}
    found: dict[str, dict[str, Any]] = {
        "greedy": {"rights": [one == "1" for one in before], "tokens": None, "completions": 1.0}
    }
    for name, answers in results["answers"].items():
        if answers is None:
            continue
        if name.startswith("search"):
            found[name] = {
                "rights": joined(answers, "correct"),
                "tokens": float(np.mean(joined(answers, "tokens"))),
                "completions": sum(piece["completions"] for piece in answers) / count,
            }
        else:
            found[name] = {
                "rights": [row[0] for row in answers],
                "tokens": float(np.mean([row[2] for row in answers])),
                "completions": float(np.mean([row[3] for row in answers])),
            }
    return found


def joined(pieces: Sequence[Results], name: str) -> list[Any]:
    """A list of the pieces' lists."""
    return [one for piece in pieces for one in piece[name]]


def _estimate(config: Config, values: np.ndarray, name: str) -> Estimate:
    section = config.evaluation
    found = mean_interval(values, section.resamples, config.run.seed, "report", name, confidence=section.confidence)
    return Estimate(*found)


def _values(rights: Sequence[bool] | str) -> np.ndarray:
    return np.array([float(one == "1" or one is True) for one in rights])


def share(rights: str) -> float:
    """Of the questions answered rightly, of a text of marks."""
    return rights.count("1") / max(1, len(rights))
