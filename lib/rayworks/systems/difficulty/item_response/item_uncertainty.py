"""What is not known of the items, carried to abilities and predicted scores: the delta method on posterior expectations.

A calibration from few subjects has items of wide errors, all of them wrong together; an interval that takes the items as
known is too narrow.
"""

from dataclasses import dataclass

import numpy as np

from rayworks.systems.difficulty.item_response.abilities import Abilities
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Quadrature, fitting_grid
from rayworks.systems.difficulty.item_response.expectations import posterior, working_of
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.item_response.maximisation import curve_derivatives
from rayworks.systems.difficulty.item_response.standard_errors import parameter_covariance
from rayworks.systems.difficulty.item_response.working import Working
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix

EDGE = 8.0
"""Deviations of the population that a score is integrated over."""


@dataclass(frozen=True, eq=False)
class _Curves:
    """At the nodes: probabilities (I, Q), and derivatives by the parameters of each item's curve (K, I, Q)."""

    working: Working
    p: np.ndarray
    derivatives: np.ndarray

    def gradient(
        self, given: np.ndarray, scored: np.ndarray, seen: np.ndarray, unseen: np.ndarray | None
    ) -> np.ndarray:
        """Of a posterior expectation by the free parameters, in the order of ``vector``, (J, K).

        Args:
            given: posterior weights times the deviation of what is expected from its mean, shape (J, Q).
            unseen: posterior weights, where what is expected is a sum of curves of items not seen; None where it is not.
        """
        odds = 1 / (self.p * (1 - self.p))
        parts = []
        for by in self.derivatives:
            part = scored * (given @ (by * odds).T) - seen * (given @ (by * odds * self.p).T)
            if unseen is not None:
                part += (seen == 0) * (unseen @ by.T)
            parts.append(part)
        if self.working.model == "1PL":
            parts[0] = parts[0].sum(1, keepdims=True)
        return np.concatenate(parts, axis=1)


def predicted_scores(
    matrix: ResponseMatrix, parameters: ItemParameters, covariance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Share of all items that each subject solves, and its standard error, shape (J,) each.

    Items with an answer count as answered, the others as the posterior of the ability expects them. The error has three
    parts: the ability, the luck of the items not seen, and what is not known of all items.

    Args:
        matrix: answers to all items of ``parameters``, most of them not observed.
        covariance: of the parameters, from :func:`~.standard_errors.parameter_covariance`; None takes them as known.
    """
    working, grid = working_of(parameters), _scoring_grid(parameters)
    p, derivatives = curve_derivatives(working, grid.nodes)
    weights, _ = posterior(matrix, working, grid)
    scored, seen = matrix.dense()
    unseen = (seen == 0).astype(float)
    rest = unseen @ p
    mean = (weights * rest).sum(1)
    off = rest - mean[:, None]
    variance = (weights * off**2).sum(1) + (unseen * (weights @ (p * (1 - p)).T)).sum(1)
    if covariance is not None:
        slopes = _Curves(working, p, derivatives).gradient(weights * off, scored, seen, weights)
        variance = variance + _quadratic(slopes, covariance)
    solved = np.divide(scored, seen, out=np.zeros_like(scored), where=seen > 0).sum(1)
    return (solved + mean) / len(parameters), np.sqrt(variance) / len(parameters)


def with_item_uncertainty(found: Abilities, matrix: ResponseMatrix, calibration: Calibration) -> Abilities:
    """Posterior means whose errors count that the items are estimates; as they were where that is too dear to know."""
    covariance = parameter_covariance(matrix, calibration)
    if covariance is None or found.estimator != "EAP":
        return found
    working, grid = calibration.working, calibration.quadrature
    p, derivatives = curve_derivatives(working, grid.nodes)
    weights, _ = posterior(matrix, working, grid)
    scored, seen = matrix.dense()
    mean = weights @ grid.nodes
    slopes = _Curves(working, p, derivatives).gradient(weights * (grid.nodes - mean[:, None]), scored, seen, None)
    unit = calibration.parameters.population_sd
    slopes *= unit
    if working.model == "1PL":
        slopes[:, 0] += mean
    return Abilities(found.ability, np.sqrt(found.error**2 + _quadratic(slopes, covariance)), found.estimator)


def _quadratic(slopes: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    kept = covariance[: slopes.shape[1], : slopes.shape[1]]
    return np.asarray(np.maximum(np.einsum("jk,jk->j", slopes @ kept, slopes), 0))


def _scoring_grid(parameters: ItemParameters) -> Quadrature:
    steepest = float(np.max(np.abs(parameters.discrimination)) * parameters.population_sd)
    return fitting_grid(len(parameters), max(1.2, steepest), EDGE)
