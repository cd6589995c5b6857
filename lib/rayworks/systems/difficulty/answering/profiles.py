"""How a model's accuracy falls with difficulty: binned curve, fitted curve with a band, 50 % point, tiers, trend test."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import expit, ndtr

from rayworks.core import seeds
from rayworks.core.proportions import wilson


@dataclass(frozen=True, eq=False)
class AccuracyCurve:
    """Accuracy by quantile bin of difficulty: centres (B,), accuracy (B,), Wilson bounds (B,), answers per bin (B,)."""

    difficulty: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class Profile:
    """One model against difficulty.

    ``half_point`` is the difficulty at which the fitted logistic crosses half way between guessing and one, with a bootstrap
    interval; NaN where accuracy does not fall. ``band`` holds lower and upper ends of the fitted curve on ``grid``.
    """

    curve: AccuracyCurve
    grid: np.ndarray
    fitted: np.ndarray
    band: np.ndarray
    isotonic: np.ndarray
    """Best falling step function at the bins' centres, shape (B,)."""
    half_point: float
    half_point_low: float
    half_point_high: float
    slope: float
    trend_p: float
    """One-sided Cochran-Armitage: the chance of a fall this clear if accuracy did not depend on difficulty."""


def accuracy_curve(difficulty: np.ndarray, correct: np.ndarray, bins: int = 10) -> AccuracyCurve:
    """Answers (N,) in [0, 1] binned by quantiles of their items' difficulty (N,)."""
    order = np.argsort(difficulty, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    count = np.array([len(part) for part in parts], dtype=float)
    solved = np.array([correct[part].sum() for part in parts])
    low, high = wilson(solved, count)
    return AccuracyCurve(np.array([difficulty[part].mean() for part in parts]), solved / count, low, high, count)


def profile(
    difficulty: np.ndarray, correct: np.ndarray, *, seed: int, guessing: float = 0.0, resamples: int = 200
) -> Profile:
    """The profile of one model; the band and the interval resample items."""
    difficulty, correct = np.asarray(difficulty, float), np.asarray(correct, float)
    curve = accuracy_curve(difficulty, correct)
    grid = np.linspace(difficulty.min(), difficulty.max(), 60)
    slope, intercept = fit_logistic(difficulty[None], correct[None], guessing)
    drawn = seeds.stream(seed, "profile").integers(0, len(difficulty), (resamples, len(difficulty)))
    slopes, intercepts = fit_logistic(difficulty[drawn], correct[drawn], guessing)
    curves = guessing + (1 - guessing) * expit(slopes[:, None] * grid + intercepts[:, None])
    falls = slopes < 0
    halves = np.where(falls, -intercepts / np.where(falls, slopes, -1.0), np.inf)
    half = -intercept[0] / slope[0] if slope[0] < 0 else np.nan
    ends = np.quantile(halves, [0.025, 0.975], method="nearest") if np.isfinite(half) else (np.nan, np.nan)
    return Profile(
        curve=curve,
        grid=grid,
        fitted=guessing + (1 - guessing) * expit(slope[0] * grid + intercept[0]),
        band=np.quantile(curves, [0.025, 0.975], axis=0),
        isotonic=isotonic_regression(curve.accuracy, weights=curve.count, increasing=False).x,
        half_point=float(half),
        half_point_low=float(ends[0]),
        half_point_high=float(ends[1]),
        slope=float(slope[0]),
        trend_p=trend_test(difficulty, correct),
    )


def fit_logistic(x: np.ndarray, y: np.ndarray, guessing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts of R logistic curves above a guessing floor, from (R, N) each, by penalised Fisher scoring.

    The penalty is a N(0, 10**2) prior, which keeps separable samples finite.
    """
    centre, scale = float(x.mean()), float(x.std()) or 1.0
    z = (x - centre) / scale
    slope, intercept = np.zeros((2, len(x)))
    for _ in range(60):
        s = expit(slope[:, None] * z + intercept[:, None])
        p = np.clip(guessing + (1 - guessing) * s, 1e-9, 1 - 1e-9)
        by_logit = (1 - guessing) * s * (1 - s)
        precision = by_logit**2 / (p * (1 - p))
        residual = (y - p) * by_logit / (p * (1 - p))
        gradient = np.stack([(residual * z).sum(1) - slope / 100, residual.sum(1) - intercept / 100])
        aa, ab, bb = (precision * z**2).sum(1) + 0.01, (precision * z).sum(1), precision.sum(1) + 0.01
        determinant = aa * bb - ab**2
        step_a = (bb * gradient[0] - ab * gradient[1]) / determinant
        step_b = (aa * gradient[1] - ab * gradient[0]) / determinant
        shorten = 1 / np.maximum(1.0, np.maximum(np.abs(step_a), np.abs(step_b)))
        slope, intercept = slope + shorten * step_a, intercept + shorten * step_b
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-8:
            break
    return slope / scale, intercept - slope * centre / scale


def trend_test(difficulty: np.ndarray, correct: np.ndarray) -> float:
    """One-sided p-value of the Cochran-Armitage test that accuracy falls with difficulty."""
    p = correct.mean()
    centred = difficulty - difficulty.mean()
    variance = p * (1 - p) * float(centred @ centred)
    return float(ndtr((centred @ (correct - p)) / np.sqrt(variance))) if variance > 0 else 1.0


def above_chance(accuracy: np.ndarray, guessing: float) -> np.ndarray:
    """``(acc - g) / (1 - g)``: accuracy with the floor of guessing taken out; negative below chance."""
    return (np.asarray(accuracy) - guessing) / (1 - guessing)


def tier_accuracies(bins: np.ndarray, correct: np.ndarray, tiers: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and number of answers per difficulty tier, shape (T,) each; NaN where a tier has none."""
    count = np.bincount(bins, minlength=tiers).astype(float)
    solved = np.bincount(bins, weights=correct, minlength=tiers)
    return np.divide(solved, count, out=np.full(tiers, np.nan), where=count > 0), count
