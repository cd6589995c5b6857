"""Item and person fit: infit, outfit, S-X2, Yen's Q3, and the person statistic l_z."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import ndtr

from rayworks.systems.difficulty.item_response.curves import ItemParameters
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration
from rayworks.systems.difficulty.responses.response_matrix import BLOCK, ResponseMatrix
from rayworks.systems.difficulty.responses.response_store import Responses

MISFIT = 0.05
"""Items whose infit or outfit departs from 1 with an adjusted p below it are flagged."""
LARGEST_BLOCK = 4_000_000
"""Numbers in one block of score distributions without an item."""
SMALLEST_EXPECTED = 1.0
"""Expected count below which neighbouring score groups of S-X2 are joined."""


@dataclass(frozen=True, eq=False)
class ResidualFit:
    """Mean squares per item, shape (I,), and ``l_z`` per subject, shape (J,): standardised log-likelihood, low = aberrant."""

    infit: np.ndarray
    outfit: np.ndarray
    person: np.ndarray
    infit_z: np.ndarray
    outfit_z: np.ndarray
    """Standardised by Wilson and Hilferty's cube root (Wright and Masters 1982): what is usual depends on who answered."""

    @property
    def flagged(self) -> np.ndarray:
        """Items whose infit or outfit departs from 1 by more than chance, adjusted over the items (:data:`MISFIT`)."""
        p_values = [benjamini_hochberg(2 * ndtr(-np.abs(z))) for z in (self.infit_z, self.outfit_z)]
        return np.asarray(np.minimum(*np.nan_to_num(p_values, nan=1.0)) < MISFIT / 2)


def residual_fit(responses: Responses, parameters: ItemParameters, ability: np.ndarray) -> ResidualFit:
    """Residuals at the estimated abilities (Wright and Masters 1982; Drasgow 1985); linear in the responses.

    A weight is a number of attempts: their average varies so much less.
    """
    subjects, items = responses.shape
    p = _cell_probability(responses, parameters, ability)
    variance, squared = p * (1 - p), (responses.score - p) ** 2

    def summed(values: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
        return np.bincount(ids, weights=responses.weight * values, minlength=count)

    by_item = partial(summed, ids=responses.item, count=items)
    by_subject = partial(summed, ids=responses.subject, count=subjects)

    logit = np.log(p) - np.log1p(-p)
    spread = by_subject(variance * logit**2)
    count, known = np.bincount(responses.item, minlength=items), by_item(variance)
    infit = by_item(responses.weight * squared) / known
    outfit = by_item(squared / variance) / count
    # Fourth moment of the average of w attempts, times w**2: what a squared residual varies by.
    fourth = variance * (1 - 6 * variance) / responses.weight + 3 * variance**2
    of_infit = np.sqrt(np.bincount(responses.item, fourth - variance**2, items)) / known
    of_outfit = np.sqrt(np.bincount(responses.item, fourth / variance**2 - 1, items)) / count
    return ResidualFit(
        infit=infit,
        outfit=outfit,
        person=by_subject((responses.score - p) * logit) / np.sqrt(np.maximum(spread, 1e-12)),
        infit_z=_cube_root(infit, of_infit),
        outfit_z=_cube_root(outfit, of_outfit),
    )


def _cube_root(mean_square: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """A mean square as a standard normal deviate; NaN where it has no deviation."""
    usual = np.where(deviation > 1e-9, deviation, np.nan)
    return np.asarray((np.cbrt(mean_square) - 1) * 3 / usual + usual / 3)


def flipped_key(responses: Responses) -> np.ndarray:
    """One-sided p per item that the abler solve it less, shape (I,): from the correlation with the mean of the other items.

    Small where the key is likely wrong; NaN where scores do not vary, or fewer than four subjects saw the item.
    """
    from scipy.stats import t

    subject, item, score = responses.subject, responses.item, responses.score
    subjects, items = responses.shape
    totals, counts = np.bincount(subject, score, subjects), np.bincount(subject, minlength=subjects)
    kept = counts[subject] > 1
    subject, item, score = subject[kept], item[kept], score[kept]
    rest = (totals[subject] - score) / (counts[subject] - 1)
    n = np.bincount(item, minlength=items).astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.bincount(item, values, items) / np.maximum(n, 1))

    first, second = score - mean(score)[item], rest - mean(rest)[item]
    with np.errstate(invalid="ignore", divide="ignore"):
        r = mean(first * second) / np.sqrt(mean(first**2) * mean(second**2))
        statistic = r * np.sqrt((n - 2) / np.maximum(1 - r**2, 1e-12))
    return np.where((n > 3) & np.isfinite(r), t.cdf(statistic, np.maximum(n - 2, 1)), np.nan)


@dataclass(frozen=True, eq=False)
class ScoreFit:
    """Orlando and Thissen's S-X2 per item, shape (I,); NaN where no subject answered all items."""

    statistic: np.ndarray
    degrees: np.ndarray
    p_value: np.ndarray
    p_adjusted: np.ndarray
    """Benjamini and Hochberg's, over items."""
    subjects: int
    """Subjects with a complete row, who alone count."""


def score_fit(matrix: ResponseMatrix, calibration: Calibration) -> ScoreFit:
    """Observed against expected shares solved per total score (Orlando and Thissen 2000).

    The score distribution without an item is that with it, divided by the item's factor: O(items**2 x nodes) in all.
    Complete rows of zeros and ones only.
    """
    from scipy.stats import chi2

    parameters, quadrature = calibration.parameters, calibration.quadrature
    items = matrix.shape[1]
    parts = []
    for start in range(0, matrix.shape[0], BLOCK):
        part, seen = matrix.dense(slice(start, start + BLOCK))
        parts.append(part[np.all(seen == 1, axis=1) & np.all((part == 0) | (part == 1), axis=1)].astype(np.int8))
    scored = np.concatenate(parts)
    count = len(scored)
    empty = np.full(items, np.nan)
    if count < 10 or items < 3:
        return ScoreFit(empty, empty, empty, empty, count)
    total = scored.sum(1).astype(int)
    p = parameters.probability(quadrature.nodes * parameters.population_sd)
    share = _expected_shares(p, quadrature.weights)
    size = np.bincount(total, minlength=items + 1)[1:items].astype(float)
    totals = [np.bincount(total[scored[:, item] == 1], minlength=items + 1) for item in range(items)]
    solved = np.array(totals, dtype=float)[:, 1:items]
    found = [_collapsed_chi_square(size, solved[item], share[item]) for item in range(items)]
    statistic = np.array([value for value, _ in found])
    degrees = np.array([cells for _, cells in found], dtype=float) - calibration.free_per_item
    statistic, degrees = (np.where(degrees > 0, values, np.nan) for values in (statistic, degrees))
    p_value = np.asarray(chi2.sf(statistic, degrees))
    return ScoreFit(statistic, degrees, p_value, benjamini_hochberg(p_value), count)


def score_distribution(p: np.ndarray) -> np.ndarray:
    """Distribution of the number solved (Lord and Wingersky 1984): probabilities (I, Q) to (I + 1, Q)."""
    items, nodes = p.shape
    distribution = np.zeros((items + 1, nodes))
    distribution[0] = 1
    for chance in p:
        distribution[1:] = distribution[1:] * (1 - chance) + distribution[:-1] * chance
        distribution[0] *= 1 - chance
    return distribution


def without_item(distribution: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The score distribution of the other items, for B items of I: (I + 1, Q) and (B, Q) to (B, I, Q) by item and score.

    Solved upwards where an item is hard and downwards where it is easy, which keeps errors from growing.
    """
    items, nodes = len(distribution) - 1, p.shape[1]
    upwards, downwards = np.zeros((2, len(p), items, nodes))
    small, large = np.minimum(p, 0.5), np.maximum(p, 0.5)
    last_up, last_down = np.zeros((2, *p.shape))
    for score in range(items):
        last_up = (distribution[score] - small * last_up) / (1 - small)
        upwards[:, score] = last_up
        other = items - 1 - score
        last_down = (distribution[other + 1] - (1 - large) * last_down) / large
        downwards[:, other] = last_down
    return np.where((p <= 0.5)[:, None, :], upwards, downwards)


def local_dependence(responses: Responses, parameters: ItemParameters, ability: np.ndarray) -> np.ndarray:
    """Yen's Q3: correlations of the items' residuals over the subjects who saw both, shape (I, I).

    NaN on the diagonal and for items that nobody or everybody solved.
    """
    cells = (responses.subject, responses.item)
    residuals = csr_matrix(
        (responses.score - _cell_probability(responses, parameters, ability), cells), shape=responses.shape
    )
    observed = csr_matrix((np.ones(len(responses.score)), cells), shape=responses.shape)
    both, first, product, square = np.zeros((4, len(responses.items), len(responses.items)))
    for start in range(0, len(responses.subjects), BLOCK):
        residual, seen = (table[start : start + BLOCK].toarray() for table in (residuals, observed))
        both += seen.T @ seen
        first += residual.T @ seen
        product += residual.T @ residual
        square += (residual**2).T @ seen
    count = np.maximum(both, 1)
    first = first / count
    product, square = product / count - first * first.T, square / count - first**2
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = product / np.sqrt(square * square.T)
    correlation[both < 3] = np.nan
    # What nobody or everybody solved has residuals of the abilities alone, alike for all such items.
    rates = responses.solve_rates()
    constant = (rates <= 0) | (rates >= 1)
    correlation[constant, :] = correlation[:, constant] = np.nan
    np.fill_diagonal(correlation, np.nan)
    return np.asarray(correlation)


def benjamini_hochberg(p_value: np.ndarray) -> np.ndarray:
    """Adjusted p-values that control the false discovery rate; NaN stays NaN."""
    adjusted = np.full_like(p_value, np.nan)
    valid = np.flatnonzero(np.isfinite(p_value))
    order = valid[np.argsort(p_value[valid])[::-1]]
    rank = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(p_value[order] * len(order) / rank))
    return adjusted


def aberrant_share(person: np.ndarray, level: float = 0.05) -> float:
    """Share of subjects whose ``l_z`` a normal variable would fall below with less than ``level``."""
    return float(np.mean(ndtr(person) < level))


def _expected_shares(p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Chance of solving item i given total score s = 1 .. I - 1, shape (I, I - 1)."""
    items = len(p)
    distribution = score_distribution(p)
    size = max(1, LARGEST_BLOCK // (items * p.shape[1]))
    numerator = np.concatenate(
        [
            np.einsum("isq,iq->is", without_item(distribution, part)[:, : items - 1], part * weights, optimize=True)
            for part in np.split(p, range(size, items, size))
        ]
    )
    share: np.ndarray = np.clip(numerator / (distribution[1:items] @ weights), 1e-9, 1 - 1e-9)
    return share


def _collapsed_chi_square(size: np.ndarray, solved: np.ndarray, share: np.ndarray) -> tuple[float, int]:
    """The statistic and its number of cells after joining thin score groups with their upper neighbour."""
    reached = np.cumsum(np.minimum(size * share, size * (1 - share)))
    ends = np.unique(np.searchsorted(reached, np.arange(SMALLEST_EXPECTED, reached[-1] + 1e-9, SMALLEST_EXPECTED)))
    group = np.minimum(np.searchsorted(ends, np.arange(len(size))), max(len(ends) - 1, 0))
    n, observed, expected = (np.bincount(group, weights=values) for values in (size, solved, size * share))
    kept = n > 0
    n, observed, expected = n[kept], observed[kept], expected[kept]
    rate = expected / n
    return float(np.sum((observed - expected) ** 2 / (n * rate * (1 - rate)))), len(n)


def _cell_probability(responses: Responses, parameters: ItemParameters, ability: np.ndarray) -> np.ndarray:
    a, e = parameters.discrimination[responses.item], parameters.intercept[responses.item]
    c, d = parameters.guessing[responses.item], parameters.ceiling[responses.item]
    s = 1 / (1 + np.exp(-(a * ability[responses.subject] + e)))
    return np.asarray(np.clip(c + (d - c) * s, 1e-9, 1 - 1e-9))
