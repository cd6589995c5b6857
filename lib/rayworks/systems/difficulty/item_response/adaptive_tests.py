"""Adaptive tests: the k items that best predict a new model's score on all items, and the error of the prediction."""

from dataclasses import dataclass

import numpy as np

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Quadrature
from rayworks.systems.difficulty.item_response.item_uncertainty import predicted_scores
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses

GRID_TOLERANCE = 1e-5
"""Change of the expected error on a wider and finer grid up to which a grid is good enough."""
REFINEMENTS = 4


@dataclass(frozen=True, eq=False)
class AdaptiveTest:
    """Chosen items by position, best first, and the root mean square error the model expects of the estimated score."""

    items: np.ndarray
    expected_error: float


def choose(parameters: ItemParameters, quadrature: Quadrature, size: int) -> AdaptiveTest:
    """Greedy choice for the score: each next item lowers the posterior variance of the mean score most.

    With information ``J(theta) = 1 / sd**2 + sum_i I_i(theta)`` of the items asked, the variance of the score of the items
    not asked is ``T'(theta)**2 / J`` (they share the ability) plus ``sum P (1 - P)`` (their own luck), all over ``I**2`` and
    averaged over the population. O(size x items x nodes).

    Raises:
        ConfigError: ``size`` is not between 1 and the number of items.
    """
    found = _chosen(parameters, quadrature, size)
    for _ in range(REFINEMENTS):
        quadrature = quadrature.finer()
        finer = _chosen(parameters, quadrature, size)
        if abs(finer.expected_error - found.expected_error) < GRID_TOLERANCE:
            return found
        found = finer
    return found


def _chosen(parameters: ItemParameters, quadrature: Quadrature, size: int) -> AdaptiveTest:
    items = len(parameters)
    if not 1 <= size <= items:
        raise ConfigError(f"adaptive test size {size}: must be from 1 to the number of items, {items}")
    nodes = quadrature.nodes * parameters.population_sd
    information, slope = parameters.information(nodes), parameters.slope(nodes)
    p = parameters.probability(nodes)
    luck = p * (1 - p)
    known = np.full(len(nodes), 1 / parameters.population_sd**2)
    rest_slope, rest_luck = slope.sum(0), luck.sum(0)
    left = np.ones(items, dtype=bool)
    chosen: list[int] = []
    error = 0.0
    for _ in range(size):
        variance = ((rest_slope - slope) ** 2 / (known + information) + rest_luck - luck) @ quadrature.weights
        best = int(np.where(left, variance, np.inf).argmin())
        chosen.append(best)
        left[best] = False
        known, rest_slope, rest_luck = known + information[best], rest_slope - slope[best], rest_luck - luck[best]
        error = float(np.sqrt(max(variance[best], 0.0))) / items
    return AdaptiveTest(np.array(chosen), error)


def predict_score(
    responses: Responses,
    parameters: ItemParameters,
    quadrature: Quadrature,
    chosen: np.ndarray,
    covariance: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score over all items from answers to the chosen ones (p-IRT), and its standard error, shape (J,) each.

    Args:
        quadrature: at least as wide is what is integrated over.
        covariance: of the item parameters, which the error then counts; see :func:`~.item_uncertainty.predicted_scores`.
    """
    asked = np.isin(responses.item, chosen)
    return predicted_scores(as_matrix(responses.where(asked)), parameters, covariance)


@dataclass(frozen=True)
class ScoreErrors:
    """Mean absolute errors of the score of subjects that the calibration has not seen."""

    size: int
    chosen: float
    random: float
    """Error of the same estimator on as many items drawn at random."""
    plain: float
    """Error of the plain mean over as many items drawn at random."""
    expected: float
    coverage: float
    """Share of true scores inside the 95 % intervals of the chosen items."""


def measure(
    calibrated: ItemParameters,
    quadrature: Quadrature,
    new: Responses,
    size: int,
    draws: np.ndarray,
    covariance: np.ndarray | None = None,
) -> ScoreErrors:
    """Errors on new subjects who answered all items; ``draws`` (R, I) orders the items of each random subset."""
    truth = np.bincount(new.subject, weights=new.score, minlength=len(new.subjects)) / len(new.items)
    test = choose(calibrated, quadrature, size)
    predicted, error = predict_score(new, calibrated, quadrature, test.items, covariance)
    at_random, plain = [], []
    for order in draws:
        drawn = np.sort(order[:size])
        at_random.append(np.abs(predict_score(new, calibrated, quadrature, drawn)[0] - truth).mean())
        plain.append(np.abs(new.take_items(drawn).subject_means() - truth).mean())
    off = np.abs(predicted - truth)
    means = (off.mean(), np.mean(at_random), np.mean(plain), test.expected_error, (off <= 1.96 * error).mean())
    return ScoreErrors(size, *map(float, means))
