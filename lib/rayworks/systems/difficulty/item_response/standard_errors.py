"""Standard errors of a calibration: observed information (Louis 1982, Oakes 1999), cross-product, clustered sandwich."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, ndtri

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.conditional import conditional_covariance
from rayworks.systems.difficulty.item_response.expectations import expectation, posterior, score_groups
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.item_response.maximisation import curve_derivatives
from rayworks.systems.difficulty.responses.response_matrix import BLOCK, ResponseMatrix

Method = Literal["auto", "observed", "cross-product", "sandwich"]
LARGEST_OBSERVED = 4e11
"""Multiplications above which ``auto`` takes the cross-product instead of the exact observed information."""
LARGEST_CARRIED = 2e9
"""Multiplications above which the covariance of all parameters is not carried to scores."""
EXPENSIVE = 300
"""How much dearer central differences are than products, per multiplication counted."""
STEP = 1e-4
"""Of the central differences that Oakes' formula is evaluated by where there are asymptotes."""


@dataclass(frozen=True, eq=False)
class StandardErrors:
    """One standard error per item and parameter, shape (I,); of a parameter that is fixed, 0."""

    difficulty: np.ndarray
    discrimination: np.ndarray
    guessing: np.ndarray
    ceiling: np.ndarray
    population_sd: float
    method: str
    intercept: np.ndarray | None = None
    """Of ``e``, in the models whose difficulty is ``-e / a``."""
    covariance: np.ndarray | None = None
    """Of ``a`` and ``e``, in those models."""


def standard_errors(
    matrix: ResponseMatrix,
    calibration: Calibration,
    method: Method = "auto",
    family: np.ndarray | None = None,
    frequency: np.ndarray | None = None,
) -> StandardErrors:
    """Standard errors by one of three methods.

    ``observed`` inverts the exact observed information, at O(nodes x items**2 x subjects), of a complete 1PL only
    O(items x nodes**2). ``cross-product`` sums products of per-subject scores, O(items**2 x subjects), and needs more
    subjects than parameters. ``sandwich`` clusters subjects by ``family`` (J,): the fine-tunes of one base model are not
    independent witnesses.

    Raises:
        ConfigError: a method that these data do not allow.
    """
    working = calibration.working
    if calibration.options.estimator == "conditional":
        if method in ("cross-product", "sandwich"):
            raise ConfigError(f"standard_errors {method}: a conditional fit has its own errors; leave it auto")
        covariance, of_sd = conditional_covariance(matrix, calibration, frequency)
        zero = np.zeros(len(covariance))
        return StandardErrors(np.sqrt(np.diag(covariance)), zero, zero, zero, float(np.sqrt(of_sd)), "conditional")
    subjects, items = matrix.shape
    free = calibration.options.model == "1PL" and matrix.is_complete and not len(calibration.mean)
    if method == "auto":
        cost = float(len(calibration.quadrature.nodes)) * items**2 * subjects
        if not working.is_logistic:
            # Two E-steps per parameter, each with exponentials where the other has products.
            cost *= EXPENSIVE
        few = subjects <= working.vector.size
        method = "observed" if free or few or cost < LARGEST_OBSERVED else "cross-product"
    if method == "observed" and free:
        return _complete_rasch(matrix, calibration, frequency)
    if method == "cross-product" and subjects <= working.vector.size:
        raise ConfigError(
            f"standard_errors cross-product: needs more subjects than parameters ({subjects} <= {working.vector.size}); "
            "use observed"
        )
    if method == "cross-product":
        return from_information(score_products(matrix, calibration, frequency), calibration, method)
    bread = _inverse(observed_information(matrix, calibration, frequency))
    if method == "observed":
        return _from_covariance(bread, calibration, method)
    if family is None:
        raise ConfigError("standard_errors sandwich: needs the family of each subject; give the column family")
    meat = _clustered_products(matrix, calibration, family, frequency)
    return _from_covariance(np.asarray(bread @ meat @ bread), calibration, method)


def parameter_covariance(matrix: ResponseMatrix, calibration: Calibration) -> np.ndarray | None:
    """Covariance (K, K) of the parameters in the order of ``vector``; None where it is too dear, for subjects are many."""
    working = calibration.working
    subjects, items = matrix.shape
    if calibration.options.estimator == "conditional":
        found, of_sd = conditional_covariance(matrix, calibration)
        return np.block([[np.full((1, 1), of_sd), np.zeros((1, items))], [np.zeros((items, 1)), found]])
    cost = float(len(calibration.quadrature.nodes)) * items**2 * subjects * (1 if working.is_logistic else EXPENSIVE)
    if cost > LARGEST_CARRIED:
        return None
    covariance = _inverse(observed_information(matrix, calibration))
    if working.model == "1PL" and not calibration.options.estimate_population:
        known = np.zeros((1, len(covariance)))
        return np.block([[np.zeros((1, 1)), known], [known.T, covariance]])
    return covariance


def from_information(information: np.ndarray, calibration: Calibration, method: str) -> StandardErrors:
    """Standard errors from the information (K, K) of the data alone; that of the priors is added here."""
    return _from_covariance(_inverse(information + _prior_information(calibration)), calibration, method)


def marginal_scores(matrix: ResponseMatrix, calibration: Calibration) -> Iterator[tuple[slice, np.ndarray]]:
    """Derivative of each subject's marginal log-likelihood by the free parameters, in ``vector``'s order.

    Yields:
        blocks of subjects with their derivatives (J', K), for all of them at once may not fit the memory.
    """
    working, options = calibration.working, calibration.options
    fixed_population = options.model == "1PL" and not options.estimate_population
    weights, _ = posterior(matrix, working, calibration.quadrature)
    p, derivatives = curve_derivatives(working, calibration.quadrature.nodes)
    factors = [((part / (p * (1 - p))).T, (part / (1 - p)).T) for part in derivatives]
    for rows in _row_blocks(matrix):
        scored, seen = matrix.dense(rows)
        parts = [scored * (weights[rows] @ solved) - seen * (weights[rows] @ failed) for solved, failed in factors]
        if working.model == "1PL":
            parts[0] = parts[0].sum(1, keepdims=True)
        moments = np.einsum("jq,jkq->jk", weights[rows], _population_scores(matrix, calibration, rows))
        yield rows, np.concatenate([*(parts[1:] if fixed_population else parts), moments], axis=1)


def _population_scores(matrix: ResponseMatrix, calibration: Calibration, rows: slice) -> np.ndarray:
    """Derivative of the log-density of the nodes by mean and log spread of each group but the first, (J', 2 (G - 1), Q)."""
    mean, nodes = calibration.mean, calibration.quadrature.nodes
    subjects = len(range(*rows.indices(matrix.shape[0])))
    if not len(mean) or matrix.group is None:
        return np.zeros((subjects, 0, len(nodes)))
    spread = np.exp(calibration.log_spread)[:, None]
    off = (nodes - mean[:, None]) / spread
    of = matrix.group[rows, None] == np.arange(1, len(mean) + 1)
    return np.concatenate([of[:, :, None] * (off / spread), of[:, :, None] * (off**2 - 1)], axis=1)


def score_products(matrix: ResponseMatrix, calibration: Calibration, frequency: np.ndarray | None = None) -> np.ndarray:
    """Sum over subjects of the products of their scores, shape (K, K)."""
    total: np.ndarray = np.zeros(())
    for rows, scores in marginal_scores(matrix, calibration):
        total = total + scores.T @ (scores if frequency is None else scores * frequency[rows, None])
    return total


def _row_blocks(matrix: ResponseMatrix) -> Iterator[slice]:
    for start in range(0, matrix.shape[0], BLOCK):
        yield slice(start, start + BLOCK)


def observed_information(
    matrix: ResponseMatrix, calibration: Calibration, frequency: np.ndarray | None = None
) -> np.ndarray:
    """Negative second derivative of the marginal log-likelihood (plus log-prior) by the free parameters, shape (K, K)."""
    exact = _louis if calibration.working.is_logistic else _oakes
    return np.asarray(exact(matrix, calibration, frequency) + _prior_information(calibration))


def _louis(matrix: ResponseMatrix, calibration: Calibration, frequency: np.ndarray | None) -> np.ndarray:
    """Complete information minus the posterior covariance of the complete-data score, node by node."""
    working = calibration.working
    weights, _ = posterior(matrix, working, calibration.quadrature)
    counted = weights if frequency is None else weights * frequency[:, None]
    x = calibration.quadrature.nodes
    p = expit(working.slope[:, None] * x + working.intercept[:, None])
    curvature = matrix.item_counts(counted) * p * (1 - p)
    ee, ae, aa = (np.diag(curvature @ x**power) for power in range(3))
    pp = _population_curvature(matrix, calibration, counted)
    pe = pa = np.zeros((len(pp), len(working.slope)))
    for rows in _row_blocks(matrix):
        scored, seen = matrix.dense(rows)
        density = _population_scores(matrix, calibration, rows)
        for q, node in enumerate(x):
            score = scored - seen * p[:, q]
            product = score.T @ (score * counted[rows, q : q + 1])
            ee, ae, aa = ee - product, ae - node * product, aa - node**2 * product
            by_population = density[:, :, q] * counted[rows, q : q + 1]
            across = by_population.T @ score
            pp, pe, pa = pp - by_population.T @ density[:, :, q], pe - across, pa - node * across
        mean_e = scored - seen * (weights[rows] @ p.T)
        mean_a = scored * (weights[rows] @ x)[:, None] - seen * (weights[rows] @ (x * p).T)
        each = 1.0 if frequency is None else frequency[rows, None]
        ee += mean_e.T @ (mean_e * each)
        ae += mean_a.T @ (mean_e * each)
        aa += mean_a.T @ (mean_a * each)
        mean_p = np.einsum("jq,jkq->jk", weights[rows], density)
        pp, pe, pa = (all_of + mean_p.T @ (mean * each) for all_of, mean in ((pp, mean_p), (pe, mean_e), (pa, mean_a)))
    if working.model == "1PL":
        if not calibration.options.estimate_population:
            return np.block([[ee, pe.T], [pe, pp]])
        ae, aa, pa = ae.sum(0, keepdims=True), aa.sum(keepdims=True), pa.sum(1, keepdims=True)
    return np.block([[aa, ae, pa.T], [ae.T, ee, pe.T], [pa, pe, pp]])


def _population_curvature(matrix: ResponseMatrix, calibration: Calibration, counted: np.ndarray) -> np.ndarray:
    """Complete-data information on means and log spreads of the groups but the first, shape (2 (G - 1), 2 (G - 1))."""
    mean, others = calibration.mean, len(calibration.mean)
    if not others or matrix.group is None:
        return np.zeros((0, 0))
    spread = np.exp(calibration.log_spread)
    off = (calibration.quadrature.nodes - mean[:, None]) / spread[:, None]
    mass = np.stack([counted[matrix.group == group].sum(0) for group in range(1, others + 1)])
    cross = np.diag(2 * (mass * off).sum(1) / spread)
    return np.block([[np.diag(mass.sum(1) / spread**2), cross], [cross, np.diag(2 * (mass * off**2).sum(1))]])


def _oakes(matrix: ResponseMatrix, calibration: Calibration, frequency: np.ndarray | None) -> np.ndarray:
    """The same by central differences of the gradient, which Fisher's identity gives from one E-step each."""
    expect, working = expectation(matrix, frequency), calibration.working

    def gradient(vector: np.ndarray) -> np.ndarray:
        at = working.at(vector)
        assert at is not None
        found = expect(at, calibration.quadrature)
        assert found.scored is not None
        p, derivatives = curve_derivatives(at, calibration.quadrature.nodes)
        return np.asarray(((found.scored - found.seen * p) / (p * (1 - p)) * derivatives).sum(2).ravel())

    centre = working.vector
    rows = [gradient(centre + step) - gradient(centre - step) for step in STEP * np.eye(len(centre))]
    information = -np.array(rows) / (2 * STEP)
    return 0.5 * (information + information.T)


def _complete_rasch(matrix: ResponseMatrix, calibration: Calibration, frequency: np.ndarray | None) -> StandardErrors:
    """Louis' information of a complete 1PL is diagonal plus low rank, for posteriors depend on the total score only."""
    working = calibration.working
    groups, _, size = score_groups(matrix, frequency)
    x, slope = calibration.quadrature.nodes, float(working.slope[0])
    z = slope * x + working.intercept[:, None]
    p = expit(z)
    log_weights = groups[:, None] * slope * x - np.logaddexp(0, z).sum(0) + calibration.quadrature.log_weights
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    sizes = [size * groups**power for power in range(3)]
    covariances = [np.diag(each @ weights) - weights.T @ (weights * each[:, None]) for each in sizes]
    mass = size @ weights
    complete = mass * p * (1 - p)
    priors = calibration.options.priors
    prior = priors.logistic_terms(working, calibration.with_prior)[4]
    diagonal = complete.sum(1) + prior + calibration.extremes.information
    values, vectors = np.linalg.eigh(covariances[0])
    shared = priors.shared_direction(working, calibration.with_prior)[1]
    root = np.column_stack([p @ (vectors * np.sqrt(np.maximum(values, 0))), shared])
    scaled = root / diagonal[:, None]
    core = np.linalg.inv(np.eye(root.shape[1]) - root.T @ scaled)
    variance = 1 / diagonal + np.einsum("ik,kl,il->i", scaled, core, scaled, optimize=True)
    if not calibration.options.estimate_population:
        return _rasch_errors(np.sqrt(variance), 0.0)
    total = x * p.sum(0)
    border = complete @ x - p @ (covariances[0] @ total - covariances[1] @ x)
    corner = (
        (complete @ x**2).sum()
        + priors.spread_terms(working)[1]
        - (x @ covariances[2] @ x - 2 * x @ covariances[1] @ total + total @ covariances[0] @ total)
    )
    solved = border / diagonal + scaled @ (core @ (root.T @ (border / diagonal)))
    sd_variance = 1 / (corner - border @ solved)
    return _rasch_errors(np.sqrt(variance + solved**2 * sd_variance), float(np.sqrt(sd_variance)))


def _rasch_errors(difficulty: np.ndarray, population_sd: float) -> StandardErrors:
    zero = np.zeros_like(difficulty)
    return StandardErrors(difficulty, zero, zero, zero, population_sd, "observed")


def _prior_information(calibration: Calibration) -> np.ndarray:
    working, options, held = calibration.working, calibration.options, calibration.with_prior
    _, _, aa, ae, ee = options.priors.logistic_terms(working, held)
    # What all or none solved has in the data no information, and here that of its own value.
    extremes = calibration.extremes
    ee = ee + extremes.information
    aa = aa + extremes.mask / (options.priors.discrimination_sd * working.slope) ** 2
    items, spread = len(ee), options.priors.spread_terms(working)[1]
    blocks = [ee] if working.model == "1PL" else [aa, ee]
    for values, alpha, beta in options.priors.of_asymptotes(working):
        blocks.append((alpha + beta - 2) * values * (1 - values))
    population = [np.full(1, spread)] if working.model == "1PL" and options.estimate_population else []
    information = np.diag(np.concatenate([*population, *blocks, np.zeros(2 * len(working.mean))]))
    if working.model != "1PL":
        across = np.arange(items)
        information[across, items + across] = information[items + across, across] = ae
    by_slope, by_intercept = options.priors.shared_direction(working, held)
    start = len(population[0]) if population else 0
    shared = np.zeros(len(information))
    if working.model == "1PL":
        shared[start : start + items] = by_intercept
    else:
        shared[: 2 * items] = np.concatenate([by_slope, by_intercept])
    return np.asarray(information - np.outer(shared, shared))


def _inverse(information: np.ndarray) -> np.ndarray:
    """The inverse, or where flat directions make it no information matrix, that of its positive part."""
    values, vectors = np.linalg.eigh(information)
    floor = 1e-9 * values.max()
    return np.asarray((vectors / np.maximum(values, floor)) @ vectors.T)


def _clustered_products(
    matrix: ResponseMatrix, calibration: Calibration, family: np.ndarray, frequency: np.ndarray | None
) -> np.ndarray:
    """Products of the scores summed within families, between which alone subjects are independent."""
    each = np.ones(len(family)) if frequency is None else frequency
    names, member = np.unique(family.astype(str), return_inverse=True)
    present = np.bincount(member, weights=each, minlength=len(names)) > 0
    count = int(present.sum())
    if count < 2:
        raise ConfigError("standard_errors sandwich: all subjects are of one family; use observed")
    working, options = calibration.working, calibration.options
    fixed_population = options.model == "1PL" and not options.estimate_population
    summed = np.zeros((len(names), working.vector.size - fixed_population))
    for rows, scores in marginal_scores(matrix, calibration):
        np.add.at(summed, member[rows], scores * each[rows, None])
    summed = summed[present] - summed[present].mean(0)
    return np.asarray(summed.T @ summed * count / (count - 1))


def _from_covariance(covariance: np.ndarray, calibration: Calibration, method: str) -> StandardErrors:
    """Delta method from the working parameters to difficulty, guessing and ceiling."""
    working = calibration.working
    items = len(calibration.parameters)
    variance = np.maximum(np.diag(covariance), 0)
    _keep_extremes(variance, calibration)
    zero = np.zeros(items)
    if working.model == "1PL":
        first = int(calibration.options.estimate_population)
        sd = float(np.sqrt(variance[0])) if first else 0.0
        return StandardErrors(np.sqrt(variance[first : first + items]), zero, zero, zero, sd, method)
    # The value given to an extreme item, not the certainty it has in the fit.
    a, e = working.slope, calibration.parameters.intercept
    across = np.arange(items)
    var_a, var_e, cov = variance[:items], variance[items : 2 * items], covariance[across, items + across]
    var_b = var_e / a**2 + e**2 * var_a / a**4 - 2 * e * cov / a**3
    guessing, ceiling, column = zero, zero, 2 * items
    if working.estimates_lower:
        guessing = working.lower * (1 - working.lower) * np.sqrt(variance[column : column + items])
        column += items
    if working.estimates_share:
        by_share = (1 - working.lower) * working.share * (1 - working.share)
        by_lower = (1 - working.share) * working.lower * (1 - working.lower) * working.estimates_lower
        var_ceiling = by_share**2 * variance[column : column + items]
        if working.estimates_lower:
            lower, share = column - items + across, column + across
            var_ceiling += by_lower**2 * variance[lower] + 2 * by_share * by_lower * covariance[lower, share]
        ceiling = np.sqrt(np.maximum(var_ceiling, 0))
    by_b, by_a, by_e = (np.sqrt(np.maximum(each, 0)) for each in (var_b, var_a, var_e))
    return StandardErrors(by_b, by_a, guessing, ceiling, 0.0, method, by_e, cov)


def _keep_extremes(variance: np.ndarray, calibration: Calibration) -> None:
    """A sandwich has no filling for items that nobody's answers tell apart: their own information stays."""
    extremes, items = calibration.extremes, len(calibration.parameters)
    first = int(calibration.parameters.model == "1PL" and calibration.options.estimate_population)
    at = np.flatnonzero(extremes.mask)
    if calibration.parameters.model == "1PL":
        variance[first + at] = 1 / extremes.information[at]
    else:
        spread = calibration.options.priors.discrimination_sd * calibration.parameters.discrimination[at]
        variance[at], variance[items + at] = spread**2, 1 / extremes.information[at]


def intervals(estimate: np.ndarray, error: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Normal intervals, lower and upper ends."""
    reach = float(ndtri(0.5 + confidence / 2)) * error
    return estimate - reach, estimate + reach
