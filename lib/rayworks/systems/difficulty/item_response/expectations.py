"""The expectation step of marginal maximum likelihood: posteriors of the subjects over the nodes, summed for the items.

Of a 1PL or 2PL the expectation of the complete-data likelihood needs two sums per subject and two per item, not one per
ability node: an iteration over complete data costs O(subjects x items), whatever the grid.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from rayworks.systems.difficulty.item_response.curves import ItemParameters, Quadrature
from rayworks.systems.difficulty.item_response.working import Counts, Expectation, Working
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, in_blocks

Expect = Callable[[Working, Quadrature], Expectation]
"""The E-step: of one matrix, or of shards summed."""


def item_totals(matrix: ResponseMatrix, frequency: np.ndarray | None = None) -> Counts:
    """Responses and scores per item, shape (I,) each; ``frequency`` counts each subject that often."""
    each = np.ones((matrix.shape[0], 1)) if frequency is None else frequency[:, None]
    seen = np.broadcast_to(matrix.item_counts(each)[:, 0], matrix.shape[1:])
    groups = 1 if matrix.group is None else int(matrix.group.max()) + 1
    return Counts(np.asarray(matrix.item_scores(each)[:, 0]), seen.copy(), float(each.sum()), groups)


def posterior(matrix: ResponseMatrix, working: Working, quadrature: Quadrature) -> tuple[np.ndarray, np.ndarray]:
    """Posterior weights (J, Q) of the abilities and marginal log-likelihoods (J,)."""
    z = working.slope[:, None] * quadrature.nodes + working.intercept[:, None]
    if working.is_logistic:
        sums = matrix.subject_scores(np.stack([working.slope, working.intercept], axis=1))
        log_likelihood = sums[:, :1] * quadrature.nodes + sums[:, 1:] + matrix.subject_counts(-np.logaddexp(0, z))
    else:
        p = working.probability(z)
        log_q = np.log1p(-p)
        log_likelihood = matrix.subject_scores(np.log(p) - log_q) + matrix.subject_counts(log_q)
    populations = working.log_populations(quadrature)
    several = matrix.group is not None and len(populations) > 1
    log_likelihood += populations[matrix.group] if several else populations[0]
    marginal = logsumexp(log_likelihood, axis=1)
    return np.exp(log_likelihood - marginal[:, None]), marginal


def score_groups(
    matrix: ResponseMatrix, frequency: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct total scores (G,), the group of each subject (J,), and how many subjects are in each (G,)."""
    totals = matrix.subject_scores(np.ones((matrix.shape[1], 1)))[:, 0]
    groups, member = np.unique(totals, return_inverse=True)
    return groups, member, np.bincount(member, weights=frequency, minlength=len(groups)).astype(float)


def rasch_expectation(matrix: ResponseMatrix, frequency: np.ndarray | None = None) -> Expect:
    """The E-step of the 1PL over complete data, where the total score is sufficient: O(items x nodes), whatever subjects."""
    groups, _, size = score_groups(matrix, frequency)
    scored = item_totals(matrix, frequency).scored

    def expect(working: Working, quadrature: Quadrature) -> Expectation:
        slope, x = working.slope[0], quadrature.nodes
        log_q = -np.logaddexp(0, slope * x + working.intercept[:, None]).sum(0)
        log_joint = groups[:, None] * slope * x + log_q + quadrature.log_weights
        marginal = logsumexp(log_joint, axis=1)
        weights = np.exp(log_joint - marginal[:, None]) * size[:, None]
        mass = weights.sum(0)
        total = float(marginal @ size + scored @ working.intercept)
        # Of the first moments the 1PL reads the sum over items only.
        moment = np.zeros(len(scored))
        moment[0] = groups @ (weights @ x)
        return Expectation(total, mass, mass[None, :], moment)

    return expect


def expectation(matrix: ResponseMatrix, frequency: np.ndarray | None = None) -> Expect:
    """The E-step over one matrix; ``frequency`` (J,) counts each subject that often (bootstrap, family weights)."""
    blocks = in_blocks(matrix)

    def expect(working: Working, quadrature: Quadrature) -> Expectation:
        each = [None if frequency is None else frequency[rows] for rows, _ in blocks]
        parts = [
            _block_expectation(part, own, working, quadrature) for (_, part), own in zip(blocks, each, strict=True)
        ]
        return sum(parts[1:], parts[0])

    return expect


def _block_expectation(
    matrix: ResponseMatrix, frequency: np.ndarray | None, working: Working, quadrature: Quadrature
) -> Expectation:
    weights, marginal = posterior(matrix, working, quadrature)
    total = float(marginal.sum() if frequency is None else marginal @ frequency)
    if frequency is not None:
        weights *= frequency[:, None]
    populations = np.zeros((len(working.mean) + 1, 3))
    if len(working.mean) and matrix.group is not None:
        moments = weights @ np.stack([quadrature.nodes**power for power in range(3)], axis=1)
        populations = np.stack([np.bincount(matrix.group, part, len(populations)) for part in moments.T], axis=1)
    return Expectation(
        log_likelihood=total,
        mass=weights.sum(0),
        seen=matrix.item_counts(weights),
        first_moment=matrix.item_scores(weights @ quadrature.nodes[:, None])[:, 0],
        scored=None if working.is_logistic else matrix.item_scores(weights),
        populations=populations,
    )


def working_of(parameters: ItemParameters) -> Working:
    """The parameters on the standard normal grid, as the E-step takes them."""
    c, slope = parameters.guessing, parameters.discrimination * parameters.population_sd
    return Working(parameters.model, slope, parameters.intercept, c, (parameters.ceiling - c) / (1 - c))
