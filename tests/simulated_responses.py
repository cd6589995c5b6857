"""Responses drawn from known parameters, for tests that compare with the truth."""

from dataclasses import dataclass

import numpy as np

from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, ResponseMatrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_matrix


@dataclass(frozen=True, eq=False)
class Simulated:
    """Scores (J, I) of abilities (J,) on known items; -1 where nothing was observed."""

    truth: ItemParameters
    ability: np.ndarray
    scores: np.ndarray

    @property
    def matrix(self) -> ResponseMatrix:
        return ByteMatrix(self.scores)

    @property
    def responses(self) -> Responses:
        return from_matrix(self.scores)


def simulated(
    seed: int,
    subjects: int = 500,
    items: int = 50,
    model: Model = "1PL",
    *,
    missing: float = 0.0,
    guessing: float = 0.2,
    population_sd: float = 1.0,
    standardised: bool = False,
) -> Simulated:
    """b ~ N(0, 1.2**2), ln a ~ N(0, .3**2), as in the table of the system's page.

    ``standardised`` abilities have mean 0 and the stated deviation exactly, so that the scale itself has no sampling error.
    """
    draw = np.random.default_rng(seed)
    b = draw.normal(0, 1.2, items)
    a = np.exp(draw.normal(0, 0.3, items))
    truth = ItemParameters.from_difficulty(
        model,
        b,
        1.0 if model == "1PL" else a,
        guessing if model in ("3PL", "4PL") else 0.0,
        0.95 if model == "4PL" else 1.0,
        population_sd,
    )
    ability = draw.normal(0, population_sd, subjects)
    if standardised:
        ability = population_sd * (ability - ability.mean()) / ability.std()
    scores = simulate(truth, ability, draw.random((subjects, items)))
    if missing:
        scores[draw.random(scores.shape) < missing] = -1
    return Simulated(truth, ability, scores)


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(found) - truth) ** 2)))
