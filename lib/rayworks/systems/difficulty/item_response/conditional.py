"""Conditional maximum likelihood of the 1PL (Andersen 1970): items from who solved which, given how many each solved.

It makes no assumption on the abilities, so that it does not matter who saw which items. Expectations come from the chain of
partial scores. With ``gamma_k(r)`` the elementary symmetric function of the first ``k`` items, in logarithms, the ``k``-th
is solved with chance ``eps_k gamma_{k-1}(r - 1) / gamma_k(r)`` where the first ``k`` have the score ``r``; all terms are
positive.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Quadrature, fitting_grid
from rayworks.systems.difficulty.item_response.expectations import expectation, item_totals, posterior, working_of
from rayworks.systems.difficulty.item_response.extreme_items import Extremes, with_values
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix

LARGEST = 1e11
"""Multiplications of one step above which the fit is refused: items cubed, times the distinct sets of items seen."""
HELD_AT_ONCE = 4_000_000
STEPS = 60
TOLERANCE = 1e-9
LONGEST_STEP = 1.5
LEAST_SD, LARGEST_SD = 0.05, 20.0


@dataclass(frozen=True, eq=False)
class _Batch:
    """Sets of equally many items that subjects saw: positions (B, n), and subjects by score (B, n + 1)."""

    items: np.ndarray
    count: np.ndarray


@dataclass(frozen=True, eq=False)
class _Conditional:
    """The conditional likelihood at difficulties: its logarithm, the items' expected scores, and their covariance."""

    log_likelihood: float
    expected: np.ndarray
    information: np.ndarray


def fit_conditional(matrix: ResponseMatrix, options: FitOptions, frequency: np.ndarray | None = None) -> Calibration:
    """Fit a 1PL by conditional likelihood, then the populations of its subjects given the items.

    The origin is the mean ability of the (first) population, as in :func:`~.marginal_likelihood.fit`.

    Raises:
        ConfigError: another model, or more distinct sets of items than can be summed over.
        DataError: scores other than 0 and 1, or answers that leave difficulties no finite estimate.
    """
    if options.model != "1PL":
        raise ConfigError(
            f"model.estimator: conditional is for the 1PL, not for {options.model}; use mml, with model.groups"
        )
    totals = item_totals(matrix, frequency)
    unseen = np.flatnonzero(totals.seen <= 0)
    if len(unseen):
        raise DataError(f"items: nobody saw item number {int(unseen[0])} ({len(unseen)} in all); leave them out")
    extremes = Extremes.of(totals)
    inner = np.flatnonzero(~extremes.mask)
    batches = _batches(matrix, inner, frequency)
    scored = totals.scored[inner]
    rate = scored / totals.seen[inner]
    b = np.log1p(-rate) - np.log(rate)
    steps, converged = 0, False
    while steps < STEPS and not converged:
        steps += 1
        found = _conditional(batches, b, scored)
        step = np.linalg.solve(found.information + 1 / len(b), found.expected - scored)
        step = (step - step.mean()) / max(1.0, np.abs(step).max() / LONGEST_STEP)
        b, converged = b - b.mean() + step, bool(np.abs(step).max() < TOLERANCE)
    everywhere = np.zeros(matrix.shape[1])
    everywhere[inner] = b
    parameters = ItemParameters.from_difficulty("1PL", everywhere)
    populations = [_population(*part, parameters, extremes) for part in _by_group(matrix, frequency, totals.groups)]
    origin, sd = populations[0].mean, populations[0].sd
    parameters = replace(parameters, intercept=parameters.intercept + origin, population_sd=sd)
    mean = np.array([(other.mean - origin) / sd for other in populations[1:]])
    log_spread = np.log([other.sd / sd for other in populations[1:]])
    working = extremes.parked(replace(working_of(parameters), mean=mean, log_spread=log_spread))
    reach = float(np.max(np.abs(mean) + 4.5 * np.exp(log_spread), initial=4.5))
    grid = fitting_grid(matrix.shape[1], max(1.2, sd), reach)
    marginal = expectation(matrix, frequency)(working, grid)
    nothing = np.zeros(len(everywhere), dtype=bool)
    valued, extremes = with_values(extremes, working, marginal.seen, grid, totals, options)
    return Calibration(
        replace(parameters, intercept=valued.intercept),
        grid,
        marginal.log_likelihood,
        steps,
        converged,
        [],
        nothing,
        extremes.mask,
        nothing,
        extremes,
        options,
        mean,
        log_spread,
    )


def conditional_covariance(
    matrix: ResponseMatrix, calibration: Calibration, frequency: np.ndarray | None = None
) -> tuple[np.ndarray, float]:
    """Covariance (I, I) of difficulties, the origin's uncertainty included, and the variance of the population's deviation.

    What the score tells of the population and what the answers given the score tell of the items are independent.
    """
    extremes = calibration.extremes
    inner = np.flatnonzero(~extremes.mask)
    batches = _batches(matrix, inner, frequency)
    b = calibration.parameters.difficulty
    information = _conditional(batches, b[inner], np.zeros(len(inner))).information
    among = np.linalg.inv(information + 1 / len(inner)) - 1 / len(inner)
    first = next(iter(_by_group(matrix, frequency, len(calibration.mean) + 1)))
    population = _population(*first, calibration.parameters, extremes)
    by_items = population.by_items[:, inner]
    moved = np.eye(len(inner)) - by_items[0]
    whole = np.diag(np.where(extremes.mask, 1 / np.maximum(extremes.information, 1e-12), 0.0))
    whole[np.ix_(inner, inner)] = moved @ among @ moved.T + population.covariance[0, 0]
    of_log_sd = float(by_items[1] @ among @ by_items[1] + population.covariance[1, 1])
    return whole, of_log_sd * population.sd**2


def _batches(matrix: ResponseMatrix, inner: np.ndarray, frequency: np.ndarray | None) -> list[_Batch]:
    """The design by distinct sets of items seen; refuses what has no conditional estimate."""
    scored, seen = (part[:, inner] for part in matrix.dense())
    if not (np.isin(seen, (0, 1)).all() and np.isin(scored, (0, 1)).all()):
        raise DataError(
            "model.estimator conditional: needs single answers, each 0 or 1; averages and weights are for mml"
        )
    each = np.ones(len(seen)) if frequency is None else frequency
    present = each > 0
    scored, seen, each = scored[present], seen[present], each[present]
    beats = csr_matrix(scored.T @ (seen - scored) > 0)
    parts, _ = connected_components(beats, directed=True, connection="strong")
    if len(inner) < 2 or parts > 1:
        raise DataError(
            f"model.estimator conditional: {len(inner)} items fall into {parts} parts between which all answers go one way, "
            "so their distance has no finite estimate; use mml or map, whose population or prior bridges them"
        )
    patterns, member = np.unique(np.packbits(seen > 0, axis=1), axis=0, return_inverse=True)
    patterns = np.unpackbits(patterns, axis=1, count=len(inner)).astype(bool)
    total = scored.sum(1).astype(int)
    sizes = patterns.sum(1)
    cost = float((sizes.astype(float) ** 3).sum())
    if cost > LARGEST:
        raise ConfigError(
            f"model.estimator conditional: {len(sizes):,} distinct sets of items, of up to {sizes.max():,}, are too many to "
            "sum over; use mml with model.groups"
        )
    found = []
    for size in np.unique(sizes[sizes > 1]):
        of_size = np.flatnonzero(sizes == size)
        count = np.zeros((len(sizes), size + 1))
        kept = sizes[member.ravel()] == size
        np.add.at(count, (member.ravel()[kept], total[kept]), each[kept])
        at_once = max(1, HELD_AT_ONCE // int(size) ** 2)
        for start in range(0, len(of_size), at_once):
            part = of_size[start : start + at_once]
            found.append(_Batch(np.nonzero(patterns[part])[1].reshape(len(part), size), count[part]))
    return found


def _conditional(batches: list[_Batch], b: np.ndarray, scored: np.ndarray) -> _Conditional:
    log_likelihood, expected = -float(scored @ b), np.zeros(len(b))
    information = np.zeros((len(b), len(b)))
    for batch in batches:
        log_gamma, chance = _forward(-b[batch.items])
        log_likelihood -= float((batch.count * log_gamma).sum())
        alone, joint = _backward(batch.count, chance)
        np.add.at(expected, batch.items, alone)
        np.add.at(information, (batch.items[:, :, None], batch.items[:, None, :]), joint)
    return _Conditional(log_likelihood, expected, information)


def _forward(log_eps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log symmetric functions of all items (B, n + 1), and the chance of each item by partial score (n, B, n + 1)."""
    count, size = log_eps.shape
    log_gamma = np.full((count, size + 1), -np.inf)
    log_gamma[:, 0] = 0.0
    chance = np.zeros((size, count, size + 1))
    for k in range(size):
        solved = log_eps[:, k : k + 1] + log_gamma[:, : k + 1]
        log_gamma[:, 1 : k + 2] = np.logaddexp(log_gamma[:, 1 : k + 2], solved)
        chance[k, :, 1 : k + 2] = np.exp(solved - log_gamma[:, 1 : k + 2])
    return log_gamma, chance


def _backward(count: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected scores (B, n) and the covariance of scores (B, n, n), summed over subjects given their total score."""
    size, sets = len(chance), len(count)
    totals = np.flatnonzero(count.sum(0) > 0)
    given = np.zeros((sets, len(totals), size + 1))
    given[:, np.arange(len(totals)), totals] = 1.0
    weight = count[:, totals]
    each = np.zeros((sets, size, len(totals)))
    both = np.zeros((sets, size, size + 1))
    joint = np.zeros((sets, size, size))
    for k in range(size - 1, -1, -1):
        # The first k + 1 items have a score of at most k + 1.
        top, solve = k + 2, chance[k][:, None, : k + 2]
        each[:, k] = (given[:, :, :top] * solve).sum(2)
        later = both[:, k + 1 :, :top]
        joint[:, k + 1 :, k] = joint[:, k, k + 1 :] = (later * solve).sum(2)
        both[:, k, : k + 1] = np.einsum("bt,btr->br", weight, given[:, :, 1:top] * solve[:, :, 1:])
        both[:, k + 1 :, : k + 1] = later[:, :, :-1] * (1 - solve[:, :, :-1]) + later[:, :, 1:] * solve[:, :, 1:]
        given[:, :, : k + 1] = given[:, :, : top - 1] * (1 - solve[:, :, :-1]) + given[:, :, 1:top] * solve[:, :, 1:]
    alone = np.einsum("bt,bkt->bk", weight, each)
    across = np.arange(size)
    joint[:, across, across] = alone
    return alone, joint - np.einsum("bkt,bt,blt->bkl", each, weight, each, optimize=True)


def _by_group(
    matrix: ResponseMatrix, frequency: np.ndarray | None, groups: int
) -> Iterator[tuple[ResponseMatrix, np.ndarray, np.ndarray]]:
    """The matrix, how often each subject counts, and which of them are of the group."""
    each = np.ones(matrix.shape[0]) if frequency is None else frequency
    group = np.zeros(matrix.shape[0], dtype=int) if matrix.group is None else matrix.group
    for number in range(groups):
        yield matrix, each, np.flatnonzero(group == number)


@dataclass(frozen=True, eq=False)
class _Population:
    """Mean and deviation of abilities given the items.

    ``covariance`` (2, 2) of mean and log deviation given the items; ``by_items`` (2, I) their derivatives by difficulty.
    """

    mean: float
    sd: float
    covariance: np.ndarray
    by_items: np.ndarray


def _population(
    matrix: ResponseMatrix, each: np.ndarray, members: np.ndarray, parameters: ItemParameters, extremes: Extremes
) -> _Population:
    """The normal population of some subjects by maximum likelihood, the items being known."""
    items = len(parameters)
    working = extremes.parked(working_of(replace(parameters, population_sd=1.0)))
    edge = float(np.abs(parameters.difficulty[~extremes.mask]).max()) + 6.0
    nodes = np.linspace(-edge, edge, int(np.ceil(2 * edge / min(0.05, 1.4 / np.sqrt(items)))) | 1)
    flat = Quadrature(nodes, np.full(len(nodes), 1 / len(nodes)))
    weights, _ = posterior(matrix, working, flat)
    log_likelihood, weight = np.log(np.maximum(weights[members], 1e-300)), each[members]

    def at(point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        off = (nodes - point[0]) / np.exp(point[1])
        log_joint = log_likelihood - 0.5 * off**2
        top = log_joint.max(1, keepdims=True)
        share = np.exp(log_joint - top)
        total = share.sum(1, keepdims=True)
        return share / total, (top + np.log(total))[:, 0] - point[1], np.stack([off / np.exp(point[1]), off**2 - 1])

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        share, marginal, score = at(point)
        return -float(weight @ marginal), -(score @ (weight @ share))

    bounds = [(-edge, edge), (float(np.log(LEAST_SD)), float(np.log(LARGEST_SD)))]
    found = minimize(
        loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-7}
    )
    share, _, score = at(found.x)
    counted, sd = share * weight[:, None], float(np.exp(found.x[1]))
    mass, means = counted.sum(0), share @ score.T
    off = score[0] * sd
    complete = np.array([[mass.sum() / sd**2, 2 * (mass @ off) / sd], [2 * (mass @ off) / sd, 2 * (mass @ off**2)]])
    information = complete - (score * mass) @ score.T + (means * weight[:, None]).T @ means
    covariance = np.linalg.inv(information)
    # A difficulty's score is P - y: its covariance with the population's, over the posterior, moves the population.
    p = working.probability(working.slope[:, None] * nodes + working.intercept[:, None])
    _, seen = matrix.dense()
    seen = seen[members]
    shared = np.stack([(seen.T @ (counted * one) * p).sum(1) for one in score])
    shared -= np.stack([(seen * (share @ p.T) * (means[:, k] * weight)[:, None]).sum(0) for k in range(2)])
    by_items = covariance @ shared
    return _Population(float(found.x[0]), sd, covariance, by_items)
