"""One round of boosting: from an expert's misses to its weight and to the distribution that the next one learns from.

AdaBoost, SAMME and the token rule of EnsemW2S (arXiv 2410.04571) are one formula, ``alpha = ln((1 - e) / e) + constant``;
the constant says which error counts as chance.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayworks.core.errors import ConfigError

RuleName = Literal["adaboost", "samme", "m1", "prior"]


@dataclass(frozen=True)
class Rule:
    """What an expert's error is worth."""

    constant: float
    """Added to the log odds of being right: 0 for AdaBoost and AdaBoost.M1, ln(K - 1) for SAMME, the log odds of the
    untuned model's error for the prior term of EnsemW2S (A1)."""
    most: float = math.inf
    """Largest weight of an expert."""

    @property
    def chance(self) -> float:
        """The error at which an expert is worth nothing."""
        return 1 / (1 + math.exp(-self.constant))

    def alpha(self, error: float, units: int) -> float:
        """An expert's weight; an error of 0 or 1 counts as half a unit away from it, so that the weight is finite."""
        clipped = min(max(error, 1 / (2 * units)), 1 - 1 / (2 * units))
        return min(math.log((1 - clipped) / clipped) + self.constant, self.most)


def rule_of(name: RuleName, classes: int, prior_error: float | None = None, most: float = math.inf) -> Rule:
    """The rule of a name.

    Args:
        classes: of the labels; of tokens, the size of the vocabulary.
        prior_error: of the predictor that knows nothing of the task, which ``prior`` takes for chance.

    Raises:
        ConfigError: ``adaboost`` with more than two classes, or ``prior`` without an error between 0 and 1.
    """
    if name == "prior":
        if prior_error is None or not 0 < prior_error < 1:
            raise ConfigError(f"boosting.rule: prior needs an error between 0 and 1 to compare with, not {prior_error}")
        return Rule(math.log(prior_error / (1 - prior_error)), most)
    if name == "adaboost" and classes != 2:
        raise ConfigError(f"boosting.rule: adaboost is for two classes, these are {classes}; set samme or m1")
    return Rule(math.log(max(classes, 2) - 1) if name == "samme" else 0.0, most)


@dataclass(frozen=True)
class Outcome:
    """What a round came to."""

    error: float
    """Weighted by the distribution that the expert learned from."""
    alpha: float
    distribution: np.ndarray
    """``[units]``, of the next round; sums to 1."""
    normaliser: float
    """Z of the update ``D exp(-alpha/2 s)/Z``, s = +1 right, -1 wrong; AdaBoost's error bound is the product of these."""

    @property
    def effective_share(self) -> float:
        """Of the units, how many equal ones would be as spread out as the next distribution: ``1 / (n sum D^2)``."""
        return effective_share(self.distribution)


def effective_share(distribution: np.ndarray) -> float:
    """``1 / (n sum D^2)``: 1 where all units weigh the same, 1/n where one weighs everything."""
    return float(1 / (len(distribution) * np.square(distribution).sum()))


def reweigh(distribution: np.ndarray, misses: np.ndarray, rule: Rule) -> Outcome:
    """Weigh the expert and the units.

    Args:
        distribution: ``[units]`` that sum to 1.
        misses: ``[units]``: 1 where the expert was wrong; of windows of tokens, the share of them that were.
    """
    error = float(distribution @ misses)
    alpha = rule.alpha(error, len(distribution))
    # Relative to the largest, so that no large weight overflows.
    grown = distribution * np.exp(alpha * (misses - misses.max(initial=0.0)))
    total = float(grown.sum())
    normaliser = float(distribution @ np.exp(alpha * (misses - 0.5)))
    return Outcome(error, alpha, grown / total, normaliser)


def window_ids(starts: np.ndarray, window: int | None) -> np.ndarray:
    """Which window each token is in, ``[tokens]`` from 0 upwards.

    Args:
        starts: ``[samples + 1]``, where each sample's tokens begin, and the end of all.
        window: tokens in a row that are weighed as one; the last of a sample may be shorter. None: the whole sample.
    """
    lengths = np.diff(starts)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    if window is None:
        return np.unique(owners, return_inverse=True)[1]
    within = np.arange(int(starts[-1])) - np.repeat(starts[:-1], lengths)
    opens = within % window == 0
    return np.cumsum(opens) - 1


def shared_in_windows(misses: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Each token's misses become the mean over its window, so that a window is weighed as one."""
    totals = np.bincount(windows, misses)
    means: np.ndarray = (totals / np.bincount(windows))[windows]
    return means
