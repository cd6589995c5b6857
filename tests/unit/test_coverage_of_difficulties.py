"""Whether nominal 95 % intervals of difficulties hold the truth in 95 of 100, by simulation; the table of the docs.

``RAYWORKS_COVERAGE_SEED`` draws other data: the claim is of the estimator, not of one seed.
"""

import os
from collections.abc import Callable

import numpy as np
import pytest

from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix

SEED = int(os.environ.get("RAYWORKS_COVERAGE_SEED", "2026"))
REPEATS = 60
Design = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, float]]


def drawn(
    subjects: int, items: int, mean: float, model: Model = "1PL", missing: float = 0.0, attempts: int = 1
) -> Design:
    """Scores (J, I), NaN where missing; true difficulties (I,); attempts."""

    def draw(source: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
        b = source.normal(mean, 1.2, items)
        slope = 1.0 if model == "1PL" else np.exp(source.normal(0, 0.3, items))
        truth = ItemParameters.from_difficulty(model, b, slope)
        ability = source.normal(size=subjects)
        tries = [simulate(truth, ability, source.random((subjects, items))) for _ in range(attempts)]
        scores = np.mean(tries, axis=0)
        scores[source.random(scores.shape) < missing] = np.nan
        return scores, b, attempts

    return draw


def with_all_and_none(design: Design, extra: int) -> Design:
    """As many items more that all solved, and that none solved; their truth is unknown."""

    def draw(source: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
        scores, b, attempts = design(source)
        ends = np.repeat([[1.0, 0.0]], extra, axis=0).T.ravel()
        wider = np.concatenate([scores, np.broadcast_to(ends, (len(scores), 2 * extra))], axis=1)
        return wider, np.concatenate([b, np.full(2 * extra, np.nan)]), attempts

    return draw


DESIGNS: dict[str, tuple[Model, Design]] = {
    "1PL, 30 subjects, 100 easy items, extremes kept": ("1PL", drawn(30, 100, -2.5)),
    "1PL, 30 x 100 easy, ten all-or-none items added": ("1PL", with_all_and_none(drawn(30, 100, -2.5), 5)),
    "1PL, 100 x 40": ("1PL", drawn(100, 40, 0.0)),
    "1PL, 100 x 40, 30 % missing": ("1PL", drawn(100, 40, 0.0, missing=0.3)),
    "1PL, 60 x 30, averages of 8 attempts": ("1PL", drawn(60, 30, 0.0, attempts=8)),
    "2PL, 300 x 40": ("2PL", drawn(300, 40, 0.0, "2PL")),
    "2PL, 300 x 40, ten all-or-none items added": ("2PL", with_all_and_none(drawn(300, 40, 0.0, "2PL"), 5)),
}


def coverage(model: Model, design: Design, name: str) -> tuple[float, float]:
    """Share of difficulties inside their intervals, and its standard error over the data sets."""
    shares = []
    for repeat in range(REPEATS):
        source = np.random.default_rng([SEED, repeat, *name.encode()])
        scores, truth, attempts = design(source)
        matrix = as_matrix(from_matrix(scores, attempts=attempts))
        found = fit(matrix, FitOptions(model=model))
        error, known = standard_errors(matrix, found).difficulty, np.isfinite(truth)
        inside = np.abs(found.parameters.difficulty - truth)[known] <= 1.959964 * error[known]
        shares.append(inside.mean())
    return float(np.mean(shares)), float(np.std(shares, ddof=1) / np.sqrt(REPEATS))


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_intervals_hold_the_truth(name: str) -> None:
    share, error = coverage(*DESIGNS[name], name)
    print(f"| {name} | {share:.3f} | {error:.3f} |")
    assert 0.92 <= share <= 0.98
