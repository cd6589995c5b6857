"""Measurements of a run: points of the reward-KL frontier, controls and baselines, each a batch of judged continuations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from rayworks.core.bootstrap import mean_interval
from rayworks.systems.alignment.baselines import best_of_n_kl_bound
from rayworks.systems.alignment.config import Config
from rayworks.systems.alignment.guided_decoding import GuidedGeneration

Method = Literal["base", "sharpened", "guided", "best-of-n"]


@dataclass(frozen=True)
class Point:
    """One row of the table: a method at a strength."""

    method: Method
    suite: str
    """Objective whose prompts and lengths are used; points are compared within a suite."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Objective to weight; for the control, the weight that it is the control of, under no objective's name."""
    strength: float = 0.0
    objective: str | None = None
    """For best-of-n: whose reward model ranks."""

    @property
    def label(self) -> str:
        """What the table calls it."""
        if self.method == "guided":
            return "guided " + ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        if self.method == "sharpened":
            return f"sharpened {self.strength:g}"
        return f"best-of-n {self.objective}" if self.method == "best-of-n" else "base"


@dataclass
class Measurement:
    """Results of a point; rewards are kept per sample, so that points can be compared pair by pair."""

    point: Point
    rewards: dict[str, list[float]]
    """Judge to score per sample."""
    kl: float
    log_z: float
    perplexity: float
    """Of the texts under the base: exp of the mean negative log-probability of their tokens."""
    distinct_1: float
    distinct_2: float
    tokens: float
    """Mean length."""
    tokens_per_second: float
    examples: list[str]
    kl_is_bound: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and the report."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Measurement":
        """The inverse of :meth:`as_dict`."""
        return cls(**{**values, "point": Point(**values["point"])})


def points(config: Config) -> list[Point]:
    """Every point of the run, in the order they are measured."""
    grid, headline = config.evaluation.weights, config.evaluation.headline_weight
    plan: list[Point] = []
    for suite in suites(config):
        members = [name for name, section in config.objectives.items() if (section.measured_with or name) == suite]
        plan += [Point("base", suite)]
        plan += [Point("sharpened", suite, strength=weight) for weight in grid]
        plan += [Point("guided", suite, {name: weight}, weight) for name in members for weight in grid]
        if len(members) > 1:
            plan += [Point("guided", suite, dict.fromkeys(members, headline), headline)]
        plan += [Point("best-of-n", suite, objective=name) for name in members]
    return plan


def suites(config: Config) -> list[str]:
    """Objectives with prompts and controls of their own."""
    return [name for name, section in config.objectives.items() if section.measured_with is None]


def measure(
    point: Point,
    generations: Sequence[GuidedGeneration],
    rewards: Mapping[str, np.ndarray],
    tokens_per_second: float,
    best_of: int,
    plain: bool = True,
) -> Measurement:
    """Sum up one point's continuations.

    Args:
        generations: one per sample.
        rewards: judge to ``[samples]`` scores.
        tokens_per_second: drawn tokens, kept or not, over wall time, all workers together.
        best_of: n, where the point is best-of-n.
        plain: whether texts were drawn at temperature 1 without truncation.
    """
    base = np.concatenate([np.asarray(generation.base_logprobs) for generation in generations])
    texts = [generation.text for generation in generations]
    drawn = sum(len(generation.base_logprobs) for generation in generations)
    is_best_of = point.method == "best-of-n"
    return Measurement(
        point=point,
        rewards={name: scores.tolist() for name, scores in rewards.items()},
        kl=best_of_n_kl_bound(best_of) if is_best_of else _kl(point, generations, plain),
        log_z=float(np.mean([generation.log_z for generation in generations])),
        perplexity=math.exp(-float(base.mean())),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        tokens=drawn / len(generations),
        tokens_per_second=tokens_per_second,
        examples=texts[:8],
        kl_is_bound=is_best_of,
    )


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of word n-grams that are different from each other; 0 when there are none."""
    grams = [tuple(words[at : at + n]) for words in map(str.split, texts) for at in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def paired_bootstrap(
    treated: Sequence[float], control: Sequence[float], *, seed: int, resamples: int, confidence: float
) -> tuple[float, float, float]:
    """Mean difference of two lists of paired scores, with its percentile interval.

    Returns:
        mean, lower end, upper end.
    """
    difference = np.asarray(treated) - np.asarray(control)
    return mean_interval(difference, resamples, seed, "bootstrap", confidence=confidence)


def _kl(point: Point, generations: Sequence[GuidedGeneration], plain: bool) -> float:
    """KL of the sampling distribution to the base: exact per step if it is the mixed distribution, otherwise sampled."""
    if point.method == "sharpened" or not plain:
        return float(np.mean([sum(g.sampling_logprobs) - sum(g.base_logprobs) for g in generations]))
    return float(np.mean([generation.kl_to_base for generation in generations]))
