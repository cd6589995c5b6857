"""Abilities of subjects on calibrated items: posterior mean (EAP), posterior mode (MAP), weighted likelihood (Warm 1989)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Quadrature, equispaced
from rayworks.systems.difficulty.item_response.expectations import posterior, working_of
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.item_response.working import Working
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, in_blocks
from rayworks.systems.difficulty.responses.response_store import Responses

Estimator = Literal["EAP", "MAP", "WLE"]
FARTHEST = 8.0
"""Bound on modes; a subject who solved all or nothing has no finite likelihood maximum."""
EDGE_MASS = 1e-4
"""Of a posterior at either end of the grid, from which on the grid is too narrow for it."""
COARSEST = 0.7
"""Spacings of the grid that a posterior's standard deviation must be, below which the grid is too coarse for it."""
FINEST = 1e-4
"""Spacing of nodes below which no grid is made finer."""
WIDEST = 60.0
"""Deviations of the population beyond which no ability is looked for."""
STEPS = 40
TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Abilities:
    """Estimates and standard errors (posterior standard deviations), shape (J,), in the calibration's units."""

    ability: np.ndarray
    error: np.ndarray
    estimator: str

    @property
    def reliability(self) -> float:
        """Marginal reliability: the share of the estimates' variance that is not error.

        Of posterior means, whose variance has shrunk, ``var / (var + mean error**2)``; else ``1 - mean error**2 / var``; 0
        where all estimates are equal.
        """
        variance = float(self.ability.var(ddof=1)) if len(self.ability) > 1 else 0.0
        noise = float(np.mean(self.error**2))
        if variance <= 0:
            return 0.0
        if self.estimator == "EAP":
            return variance / (variance + noise)
        return 1 - noise / variance


def posterior_means(matrix: ResponseMatrix, calibration: Calibration) -> Abilities:
    """EAP: mean and standard deviation of each subject's posterior; one E-step."""
    return _expected(matrix, calibration.working, calibration.quadrature, calibration.parameters.population_sd)


def expected_abilities(matrix: ResponseMatrix, parameters: ItemParameters, quadrature: Quadrature) -> Abilities:
    """EAP of subjects on items with known parameters."""
    return _expected(matrix, working_of(parameters), quadrature, parameters.population_sd)


def _expected(matrix: ResponseMatrix, working: Working, quadrature: Quadrature, spread: float) -> Abilities:
    """On the grid given; of subjects whose posterior it cuts or does not resolve, on one twice as wide or fine, and so on."""
    found = [_moments(part, working, quadrature) for _, part in in_blocks(matrix)]
    mean, variance, cut = (np.concatenate(parts) for parts in zip(*found, strict=True))
    spacing = float(np.diff(quadrature.nodes).min(initial=1.0))
    beyond = (cut > EDGE_MASS) & (quadrature.edge < WIDEST)
    coarse = (variance < (COARSEST * spacing) ** 2) & (spacing > FINEST)
    for wide, fine in ((1, 2), (2, 1), (2, 2)):
        rows = np.flatnonzero((beyond == (wide > 1)) & (coarse == (fine > 1)))
        if len(rows):
            grid = equispaced((len(quadrature.nodes) - 1) * wide * fine + 1, quadrature.edge * wide)
            again = _expected(matrix.part(rows), working, grid, 1.0)
            mean[rows], variance[rows] = again.ability, again.error**2
    return Abilities(mean * spread, np.sqrt(variance) * spread, "EAP")


def _moments(
    matrix: ResponseMatrix, working: Working, quadrature: Quadrature
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variance, and the mass near the ends of the grid, of each subject's posterior, shape (J,) each."""
    weights, _ = posterior(matrix, working, quadrature)
    found = weights @ np.stack([quadrature.nodes, quadrature.nodes**2], axis=1)
    return found[:, 0], np.maximum(found[:, 1] - found[:, 0] ** 2, 0), weights[:, [0, 1, -2, -1]].sum(1)


def posterior_modes(responses: Responses, parameters: ItemParameters) -> Abilities:
    """MAP: mode and curvature of the posterior, by Fisher scoring over all subjects at once."""
    prior = 1 / parameters.population_sd**2
    return _solve(responses, parameters, lambda score, known, _, at: (score - at * prior, known + prior), "MAP")


def weighted_likelihood(responses: Responses, parameters: ItemParameters) -> Abilities:
    """WLE: the likelihood's maximum with its first-order bias removed; finite for all-or-nothing subjects, needs no prior."""

    def equation(
        score: np.ndarray, information: np.ndarray, third: np.ndarray, _: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return score + third / (2 * np.maximum(information, 1e-12)), np.maximum(information, 1e-6)

    return _solve(responses, parameters, equation, "WLE")


Equation = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _solve(responses: Responses, parameters: ItemParameters, equation: Equation, name: str) -> Abilities:
    """Root of an estimating equation per subject; memory and time per step are linear in the observed responses."""
    subjects = len(responses.subjects)
    cell_item, cell_subject = responses.item, responses.subject
    a, e = parameters.discrimination[cell_item], parameters.intercept[cell_item]
    c = parameters.guessing[cell_item]
    span = parameters.ceiling[cell_item] - c

    def sums(at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = 1 / (1 + np.exp(-(a * at[cell_subject] + e)))
        p = np.clip(c + span * s, 1e-12, 1 - 1e-12)
        first = a * span * s * (1 - s)
        second = a * first * (1 - 2 * s)
        precision = responses.weight / (p * (1 - p))
        parts = ((responses.score - p) * first * precision, first**2 * precision, first * second * precision)
        score, information, third = (np.bincount(cell_subject, weights=part, minlength=subjects) for part in parts)
        return score, information, third

    at = np.zeros(subjects)
    high = np.full(subjects, FARTHEST) * parameters.population_sd
    low = -high
    for _ in range(STEPS):
        score, information, third = sums(at)
        value, slope = equation(score, information, third, at)
        low, high = np.where(value > 0, at, low), np.where(value > 0, high, at)
        following = at + value / slope
        # Scoring overshoots where the equation is flat; the bracket then takes a bisection step.
        following = np.where((following <= low) | (following >= high), (low + high) / 2, following)
        done = float(np.abs(following - at).max()) < TOLERANCE
        at = following
        if done:
            break
    _, information, third = sums(at)
    _, slope = equation(np.zeros(subjects), information, third, at)
    return Abilities(at, 1 / np.sqrt(slope), name)


def estimate(
    responses: Responses,
    matrix: ResponseMatrix,
    parameters: ItemParameters,
    quadrature: Quadrature,
    estimator: Estimator,
) -> Abilities:
    """Abilities by the named estimator."""
    if estimator == "EAP":
        return expected_abilities(matrix, parameters, quadrature)
    solve = {"MAP": posterior_modes, "WLE": weighted_likelihood}[estimator]
    return solve(responses, parameters)


@dataclass(frozen=True)
class NextItem:
    """The most informative unanswered item for a subject."""

    item: int
    information: float
    error_after: float
    """Standard error of the ability expected after it."""


def next_item(parameters: ItemParameters, ability: float, error: float, answered: np.ndarray) -> NextItem:
    """Maximum Fisher information at the present estimate among items not answered (mask of shape (I,)).

    Raises:
        DataError: all items are answered.
    """
    if answered.all():
        raise DataError("responses: all items are answered; there is no next one")
    information = np.where(answered, -np.inf, parameters.information(np.array([ability]))[:, 0])
    best = int(information.argmax())
    return NextItem(best, float(information[best]), float(1 / np.sqrt(1 / error**2 + information[best])))


def scoring_grid(items: int) -> Quadrature:
    """The grid for scoring a single subject: fine, for one posterior costs nothing."""
    return equispaced(max(201, 2 * items + 1 if items < 400 else 801))
