"""The M-step: Newton and Fisher scoring for all items at once, given expected counts at the ability nodes."""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import expit, logit

from rayworks.systems.difficulty.item_response.curves import Model, Quadrature
from rayworks.systems.difficulty.item_response.priors import Priors
from rayworks.systems.difficulty.item_response.working import Counts, Expectation, Working

LONGEST_STEP = 1.0
"""Largest change of a parameter in one Newton step."""
SMALLEST_SLOPE = 1e-3
NEWTON_STEPS = 2
LEAST_SPREAD = 0.05
"""Of a group's abilities, in deviations of the first group's: below it all its subjects are taken to be alike."""


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    ``estimator`` "mml" puts the priors only on items that have no finite estimate without them: of negative discrimination,
    or separating solvers from failures; and on all items of a 1PL whose answers are nested, so that its population has no
    finite spread. "map" puts them on every item, as the 3PL and 4PL always do. Of one to two parameters an item that all or
    none solved is left out and given a value afterwards (:mod:`~.extreme_items`). "conditional" is for the 1PL and makes no
    assumption on abilities (:mod:`~.conditional`).
    """

    model: Model = "2PL"
    estimator: str = "mml"
    priors: Priors = field(default_factory=Priors)
    tolerance: float = 1e-5
    max_iterations: int = 500
    nodes: int = 0
    """0 chooses by the number of items."""
    estimate_population: bool = True
    """1PL: estimate the standard deviation of abilities; otherwise it is 1."""
    guessing: tuple[float, ...] = ()
    """3PL: fix the lower asymptotes (one value, or one per item) instead of estimating them."""
    accelerate: bool = True


def maximise(
    at: Working,
    found: Expectation,
    quadrature: Quadrature,
    totals: Counts,
    options: FitOptions,
    held: np.ndarray,
    steps: int = NEWTON_STEPS,
) -> Working:
    """Raise the expected complete-data log-likelihood (plus log-prior); costs O(items x nodes)."""
    for _ in range(steps):
        if at.model == "1PL":
            at = _common_slope_step(at, found, quadrature, totals, options, held)
        elif at.model == "2PL":
            at = _logistic_step(at, found, quadrature, totals, options, held)
        else:
            at = _asymptote_step(at, found, quadrature, options, held)
    return _with_populations(at, found, options, held) if len(at.mean) else at


def _with_populations(at: Working, found: Expectation, options: FitOptions, held: np.ndarray) -> Working:
    """Mean and deviation of the abilities of each group; of a group without subjects, as they were.

    The first group's move too, by one Newton step that minds the priors, and the scale is then moved back to them: the
    parameter expansion of Liu, Rubin and Wu (1998), without which EM creeps.
    """
    subjects, first, second = found.populations.T
    count = np.maximum(subjects, 1e-300)
    mean = np.where(subjects > 0, first / count, np.append(0.0, at.mean))
    spread = np.sqrt(np.maximum(second / count - mean**2, LEAST_SPREAD**2))
    spread = np.where(subjects > 0, spread, np.append(1.0, np.exp(at.log_spread)))
    a, (by_a, by_e, aa, ae, ee) = at.slope, options.priors.logistic_terms(at, held)
    gradient = np.array([subjects[0] * mean[0] + by_e @ a, second[0] - subjects[0] + by_a @ a])
    curvature = np.array([[subjects[0] + ee @ a**2, ae @ a**2], [ae @ a**2, 2 * subjects[0] + aa @ a**2]])
    if at.model == "1PL":
        by_spread, of_spread = options.priors.spread_terms(at)
        gradient[1] += by_spread * a[0]
        curvature[1, 1] += of_spread * a[0] ** 2
    if not options.estimate_population and at.model == "1PL":
        gradient[1], curvature[1, 0], curvature[0, 1], curvature[1, 1] = 0.0, 0.0, 0.0, 1.0
    step = np.linalg.solve(curvature + 1e-9 * np.eye(2), gradient)
    shift, scale = np.clip(step[0], -LONGEST_STEP, LONGEST_STEP), np.exp(np.clip(step[1], -0.5, 0.5))
    moved = replace(at, slope=at.slope * scale, intercept=at.intercept + at.slope * shift)
    return replace(moved, mean=(mean[1:] - shift) / scale, log_spread=np.log(spread[1:] / scale))


def _common_slope_step(
    at: Working, found: Expectation, quadrature: Quadrature, totals: Counts, options: FitOptions, held: np.ndarray
) -> Working:
    """Joint Newton step of all intercepts and the one slope; the Hessian is an arrow, solved by its Schur complement."""
    x = quadrature.nodes
    p = expit(at.slope[:, None] * x + at.intercept[:, None])
    expected = found.seen * p
    curvature = expected * (1 - p)
    _, prior_gradient, _, _, prior_curvature = options.priors.logistic_terms(at, held)
    gradient = totals.scored - expected.sum(1) + prior_gradient
    diagonal = curvature.sum(1) + prior_curvature
    # Items that all or none solved are certain at every node, and stay where they are.
    diagonal = np.where(diagonal > 0, diagonal, np.inf)
    if not options.estimate_population:
        return replace(at, intercept=at.intercept + np.clip(gradient / diagonal, -LONGEST_STEP, LONGEST_STEP))
    border = curvature @ x
    slope_gradient = found.first_moment.sum() - (expected @ x).sum()
    spread_gradient, spread_curvature = options.priors.spread_terms(at)
    slope_gradient += spread_gradient
    schur = (curvature @ x**2).sum() + spread_curvature - (border**2 / diagonal).sum()
    slope_step = (slope_gradient - (border * gradient / diagonal).sum()) / max(schur, 1e-9)
    slope_step = float(np.clip(slope_step, -0.5 * at.slope[0], LONGEST_STEP))
    step = (gradient - border * slope_step) / diagonal
    return replace(at, slope=at.slope + slope_step, intercept=at.intercept + np.clip(step, -LONGEST_STEP, LONGEST_STEP))


def _logistic_step(
    at: Working, found: Expectation, quadrature: Quadrature, totals: Counts, options: FitOptions, held: np.ndarray
) -> Working:
    """One Newton step per item on slope and intercept (Bock and Aitkin 1981)."""
    x = quadrature.nodes
    p = expit(at.slope[:, None] * x + at.intercept[:, None])
    expected = found.seen * p
    curvature = expected * (1 - p)
    prior_a, prior_e, prior_aa, prior_ae, prior_ee = options.priors.logistic_terms(at, held)
    gradient_a = found.first_moment - expected @ x + prior_a
    gradient_e = totals.scored - expected.sum(1) + prior_e
    aa = curvature @ x**2 + prior_aa
    ae = curvature @ x + prior_ae
    ee = curvature.sum(1) + prior_ee
    determinant = np.maximum(aa * ee - ae**2, 1e-12)
    step_a = (ee * gradient_a - ae * gradient_e) / determinant
    step_e = (aa * gradient_e - ae * gradient_a) / determinant
    scale = _shortening(np.stack([step_a, step_e], axis=1), at, held)
    return replace(at, slope=at.slope + scale * step_a, intercept=at.intercept + scale * step_e)


def _asymptote_step(
    at: Working, found: Expectation, quadrature: Quadrature, options: FitOptions, held: np.ndarray
) -> Working:
    """One Fisher scoring step per item on slope, intercept and the free asymptotes, halved where it loses likelihood."""
    assert found.scored is not None
    x = quadrature.nodes
    p, derivatives = curve_derivatives(at, x)
    seen = np.broadcast_to(found.seen, p.shape)
    precision = 1 / (p * (1 - p))
    gradient = np.einsum("kiq,iq->ik", derivatives, (found.scored - seen * p) * precision)
    information = np.einsum("kiq,liq,iq->ikl", derivatives, derivatives, seen * precision, optimize=True)
    _add_priors(gradient, information, at, options, held)
    size = gradient.shape[1]
    information += 1e-8 * np.eye(size)
    step = np.linalg.solve(information, gradient[:, :, None])[:, :, 0]
    scale = _shortening(step, at, held)
    mean = options.priors.mean_of(at, held)
    before = _item_objective(at, found, x, options, held, mean)
    for _ in range(6):
        changed = _moved(at, scale[:, None] * step)
        worse = _item_objective(changed, found, x, options, held, mean) < before - 1e-10
        if not worse.any():
            return changed
        scale = np.where(worse, scale / 2, scale)
    return _moved(at, np.where(worse, 0.0, scale)[:, None] * step)


def curve_derivatives(at: Working, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``P`` (I, Q) and its derivatives (K, I, Q) by slope, intercept, and the free asymptotes' logits."""
    curve = expit(at.slope[:, None] * x + at.intercept[:, None])
    span = ((1 - at.lower) * at.share)[:, None]
    by_intercept = span * curve * (1 - curve)
    parts = [by_intercept * x, by_intercept]
    if at.estimates_lower:
        parts.append((at.lower * (1 - at.lower))[:, None] * (1 - at.share[:, None] * curve))
    if at.estimates_share:
        parts.append(span * (1 - at.share[:, None]) * curve)
    p = np.clip(at.lower[:, None] + span * curve, 1e-12, 1 - 1e-12)
    return p, np.stack(parts)


def _add_priors(
    gradient: np.ndarray, information: np.ndarray, at: Working, options: FitOptions, held: np.ndarray
) -> None:
    prior_a, prior_e, prior_aa, prior_ae, prior_ee = options.priors.logistic_terms(at, held)
    gradient[:, 0] += prior_a
    gradient[:, 1] += prior_e
    information[:, 0, 0] += prior_aa
    information[:, 1, 1] += prior_ee
    information[:, 0, 1] += prior_ae
    information[:, 1, 0] += prior_ae
    for column, (values, alpha, beta) in enumerate(options.priors.of_asymptotes(at), start=2):
        gradient[:, column] += (alpha - 1) * (1 - values) - (beta - 1) * values
        information[:, column, column] += (alpha + beta - 2) * values * (1 - values)


def _item_objective(
    at: Working, found: Expectation, x: np.ndarray, options: FitOptions, held: np.ndarray, mean: float
) -> np.ndarray:
    """Expected complete-data log-likelihood plus log-prior at that mean of the difficulties per item, shape (I,)."""
    assert found.scored is not None
    p = at.probability(at.slope[:, None] * x + at.intercept[:, None])
    value = (found.scored * np.log(p) + (found.seen - found.scored) * np.log1p(-p)).sum(1)
    a = np.where(held, np.maximum(at.slope, SMALLEST_SLOPE), 1.0)
    priors = options.priors
    off = -at.intercept / a - mean
    penalty = (off / priors.difficulty_sd) ** 2 + (np.log(a) / priors.discrimination_sd) ** 2
    value = value - 0.5 * held * penalty
    for values, alpha, beta in priors.of_asymptotes(at):
        value = value + (alpha - 1) * np.log(values) + (beta - 1) * np.log1p(-values)
    return np.asarray(value)


def _moved(at: Working, step: np.ndarray) -> Working:
    moved = replace(at, slope=at.slope + step[:, 0], intercept=at.intercept + step[:, 1])
    column = 2
    if at.estimates_lower:
        moved = replace(moved, lower=expit(logit(at.lower) + step[:, column]))
        column += 1
    if at.estimates_share:
        moved = replace(moved, share=expit(logit(at.share) + step[:, column]))
    return moved


def _shortening(step: np.ndarray, at: Working, held: np.ndarray) -> np.ndarray:
    """A factor per item that keeps steps short, and slopes under a prior positive."""
    scale = np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step).max(1), 1e-300))
    falls = held & (at.slope + scale * step[:, 0] < 0.5 * at.slope)
    return np.asarray(np.where(falls, scale * 0.5 * at.slope / np.maximum(-scale * step[:, 0], 1e-300), scale))
