"""Whether nominal 95 % intervals of difficulties hold the truth in 95 of 100, by simulation; the table of the docs.

``RAYWORKS_COVERAGE_SEED`` draws other data: the claim is of the estimator, not of one seed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.intervals import difficulty_intervals
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_matrix
from tests.selective_boards import selective

SEED = int(os.environ.get("RAYWORKS_COVERAGE_SEED", "2026"))
REPEATS = 60
Design = Callable[[np.random.Generator], tuple[np.ndarray | Responses, np.ndarray, float]]


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
        assert isinstance(scores, np.ndarray)
        ends = np.repeat([[1.0, 0.0]], extra, axis=0).T.ravel()
        wider = np.concatenate([scores, np.broadcast_to(ends, (len(scores), 2 * extra))], axis=1)
        return wider, np.concatenate([b, np.full(2 * extra, np.nan)]), attempts

    return draw


def apart(model: Model, groups: int, size: int, own: int, sd: float, reach: float = 2.0) -> Design:
    """Groups that saw items near their level, ten links; see :func:`~tests.selective_boards.selective`."""

    def draw(source: np.random.Generator) -> tuple[Responses, np.ndarray, float]:
        data = selective(source, model, groups=groups, size=size, own=own, sd=sd, reach=reach)
        return data.grouped, data.difficulty, 1

    return draw


FEW: dict[str, Design] = {
    "2PL, 30 subjects, 100 easy items": drawn(30, 100, -2.5, "2PL"),
    "2PL, 30 x 40": drawn(30, 40, 0.0, "2PL"),
    "2PL, 60 x 40, easy items": drawn(60, 40, -1.5, "2PL"),
}
"""Too few for a 2PL without priors, whose intervals then have no end; a board takes priors on all items."""
DESIGNS: dict[str, tuple[Model, Design]] = {
    "1PL, 30 subjects, 100 easy items, extremes kept": ("1PL", drawn(30, 100, -2.5)),
    "1PL, 30 x 100 easy, ten all-or-none items added": ("1PL", with_all_and_none(drawn(30, 100, -2.5), 5)),
    "1PL, 100 x 40": ("1PL", drawn(100, 40, 0.0)),
    "1PL, 100 x 40, 30 % missing": ("1PL", drawn(100, 40, 0.0, missing=0.3)),
    "1PL, 60 x 30, averages of 8 attempts": ("1PL", drawn(60, 30, 0.0, attempts=8)),
    "2PL, 300 x 40": ("2PL", drawn(300, 40, 0.0, "2PL")),
    "2PL, 300 x 40, ten all-or-none items added": ("2PL", with_all_and_none(drawn(300, 40, 0.0, "2PL"), 5)),
}


SELECTIVE: dict[str, tuple[Model, str, Design]] = {
    "1PL, 3 groups x 40, populations of groups": ("1PL", "mml", apart("1PL", 3, 40, 20, 0.7)),
    "1PL, 4 groups x 60, populations of groups": ("1PL", "mml", apart("1PL", 4, 60, 20, 0.7)),
    "1PL, 5 groups x 100, populations of groups": ("1PL", "mml", apart("1PL", 5, 100, 20, 0.7)),
    "1PL, 3 groups x 40, conditional": ("1PL", "conditional", apart("1PL", 3, 40, 20, 0.7)),
    "1PL, 4 groups x 60, conditional": ("1PL", "conditional", apart("1PL", 4, 60, 20, 0.7)),
    "1PL, 4 booklets x 60 at random, populations of booklets": ("1PL", "mml", apart("1PL", 4, 60, 20, 1.0, 0.0)),
    "2PL, 3 groups x 100, populations of groups": ("2PL", "mml", apart("2PL", 3, 100, 30, 1.0)),
    "2PL, 5 groups x 100, populations of groups": ("2PL", "mml", apart("2PL", 5, 100, 30, 1.0)),
}


@dataclass(frozen=True)
class Measured:
    """Share of difficulties inside their intervals, its error over the data sets, and the slope on the truth."""

    coverage: float
    error: float
    slope: float


def measured(model: Model, estimator: str, design: Design, name: str, repeats: int = REPEATS) -> Measured:
    """Over fresh data sets; the slope weighs items by their precision."""
    shares, slopes = [], []
    for repeat in range(repeats):
        source = np.random.default_rng([SEED, repeat, *name.encode()])
        given, truth, attempts = design(source)
        responses = from_matrix(given, attempts=attempts) if isinstance(given, np.ndarray) else given
        matrix = as_matrix(responses)
        found = fit(matrix, FitOptions(model=model, estimator=estimator))
        b, errors = found.parameters.difficulty, standard_errors(matrix, found)
        known, error = np.isfinite(truth), errors.difficulty
        low, high = difficulty_intervals(found, errors)
        shares.append(((low <= truth) & (truth <= high))[known].mean())
        kept = known & ~found.extremes.mask
        slopes.append(np.polyfit(truth[kept], b[kept], 1, w=1 / error[kept])[0])
    return Measured(float(np.mean(shares)), float(np.std(shares, ddof=1) / np.sqrt(repeats)), float(np.median(slopes)))


@pytest.mark.slow
@pytest.mark.parametrize("name", DESIGNS)
def test_intervals_hold_the_truth(name: str) -> None:
    model, design = DESIGNS[name]
    found = measured(model, "mml", design, name)
    print(f"| {name} | {found.coverage:.3f} | {found.error:.3f} |")
    assert 0.92 <= found.coverage <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_a_2pl_of_few_subjects_needs_priors(name: str) -> None:
    found, without = (measured("2PL", estimator, FEW[name], name) for estimator in ("map", "mml"))
    print(f"| {name} | {found.coverage:.3f} | {found.error:.3f} | without priors {without.coverage:.3f} |")
    assert 0.92 <= found.coverage <= 0.98
    assert without.coverage >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("name", SELECTIVE)
def test_selective_designs_keep_slope_and_coverage(name: str) -> None:
    found = measured(*SELECTIVE[name], name)
    print(f"| {name} | {found.coverage:.3f} | {found.error:.3f} | slope {found.slope:.3f} |")
    assert 0.92 <= found.coverage <= 0.98
    assert 0.95 <= found.slope <= 1.05
