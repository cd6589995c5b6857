"""Model fit and comparison: likelihood criteria, held-out cells, and items that favour a group."""

from dataclasses import dataclass, replace

import numpy as np

from rayworks.core import seeds
from rayworks.systems.difficulty.item_response.abilities import posterior_means
from rayworks.systems.difficulty.item_response.curves import MODELS, Quadrature
from rayworks.systems.difficulty.item_response.expectations import expectation, item_totals, working_of
from rayworks.systems.difficulty.item_response.item_fit import benjamini_hochberg
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration, fit, fit_by
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.working import Expectation, Working
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses


@dataclass(frozen=True)
class Criteria:
    """Criteria of one fit: marginal log-likelihood, free parameters, AIC and BIC (low is good)."""

    model: str
    log_likelihood: float
    parameters: int
    aic: float
    bic: float


def criteria(calibration: Calibration, subjects: int) -> Criteria:
    """AIC and BIC; the sample size of BIC is the number of subjects."""
    count, log_likelihood = calibration.free_parameters, calibration.log_likelihood
    aic, bic = (penalty - 2 * log_likelihood for penalty in (2 * count, count * float(np.log(subjects))))
    return Criteria(calibration.parameters.model, log_likelihood, count, aic, bic)


@dataclass(frozen=True)
class RatioTest:
    """Likelihood-ratio test of a model against the one it is a special case of."""

    statistic: float
    degrees: int
    p_value: float


def likelihood_ratio(smaller: Calibration, larger: Calibration) -> RatioTest:
    """Twice the gain in log-likelihood against a chi-square.

    Raises:
        ValueError: the models are not nested in this order.
    """
    from scipy.stats import chi2

    if MODELS.index(smaller.parameters.model) >= MODELS.index(larger.parameters.model):
        raise ValueError("likelihood_ratio: give the smaller model first")
    statistic = max(0.0, 2 * (larger.log_likelihood - smaller.log_likelihood))
    degrees = larger.free_parameters - smaller.free_parameters
    return RatioTest(statistic, degrees, float(chi2.sf(statistic, degrees)))


@dataclass(frozen=True)
class HeldOut:
    """Prediction of masked cells: mean log-loss, that of the item means alone, and the area under the ROC curve."""

    log_loss: float
    log_loss_item_means: float
    auc: float
    cells: int


def held_out(responses: Responses, options: FitOptions, seed: int, share: float = 0.1) -> HeldOut | None:
    """Fit without a random share of the cells (never an item's or a subject's last one) and predict them.

    None where no cell can be spared.
    """
    order = seeds.stream(seed, "held-out").permutation(len(responses.score))
    wanted = np.zeros(len(order), dtype=bool)
    wanted[order[: int(share * len(order))]] = True
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    # The cell of the highest rank in each row and column stays in.
    for ids in (responses.subject, responses.item):
        highest = np.full(int(ids.max()) + 1, -1)
        np.maximum.at(highest, ids, rank)
        wanted[order[highest[highest >= 0]]] = False
    training, test = responses.where(~wanted), responses.where(wanted)
    if not test.weight.sum() > 0:
        return None
    matrix = as_matrix(training)
    calibration = fit(matrix, options)
    ability = posterior_means(matrix, calibration).ability
    found = calibration.parameters
    z = found.discrimination[test.item] * ability[test.subject] + found.intercept[test.item]
    p = found.guessing[test.item] + (found.ceiling - found.guessing)[test.item] / (1 + np.exp(-z))
    totals = item_totals(matrix)
    rates = (totals.scored + 0.5) / (totals.seen + 1)
    losses = (_log_loss(test, p), _log_loss(test, rates[test.item]))
    return HeldOut(*losses, area_under_curve(test.score, p), len(test.score))


def _log_loss(test: Responses, p: np.ndarray) -> float:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return float(-np.average(test.score * np.log(p) + (1 - test.score) * np.log1p(-p), weights=test.weight))


def area_under_curve(score: np.ndarray, predicted: np.ndarray) -> float:
    """Chance that a solved cell is predicted above an unsolved one, ties counting half; NaN if all are alike."""
    from scipy.stats import rankdata

    solved = score > 0.5
    positives, negatives = int(solved.sum()), int((~solved).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(predicted)
    return float((ranks[solved].sum() - positives * (positives + 1) / 2) / (positives * negatives))


@dataclass(frozen=True, eq=False)
class DifferentialFunctioning:
    """Items that are harder for one group of equally able subjects, shape (I,) each.

    ``log_odds`` is Mantel and Haenszel's common log odds ratio, positive when the item favours the focal group;
    ``shift`` the focal group's difficulty minus the others', from a refit with the item split (likelihood ratio).
    """

    log_odds: np.ndarray
    mantel_haenszel_p: np.ndarray
    shift: np.ndarray
    likelihood_ratio_p: np.ndarray
    likelihood_ratio_adjusted: np.ndarray


def differential_functioning(
    responses: Responses, calibration: Calibration, focal: np.ndarray
) -> DifferentialFunctioning:
    """DIF by Mantel-Haenszel over total-score strata, and by likelihood ratio; ``focal`` (J,) marks the focal group.

    The likelihood ratio refits once per item, with the item split in two: items x one fit. The groups have populations of
    their own, for a group that is less able is not one that an item is unfair to.
    """
    from scipy.stats import chi2

    responses = replace(responses, groups=None)
    log_odds, p_value = _mantel_haenszel(responses, focal)
    items = len(responses.items)
    shift, ratio_p = np.full((2, items), np.nan)
    # Plain EM: the acceleration would extrapolate past the focal population, which moves with every E-step.
    options = replace(calibration.options, guessing=(), accelerate=False)
    together = _TwoPopulations(responses, focal)
    base = fit_by(together, together.totals, options)
    free = {"1PL": 1, "2PL": 2, "3PL": 3, "4PL": 4}[options.model]
    for item in range(items):
        in_focal = (responses.item == item) & focal[responses.subject]
        in_other = (responses.item == item) & ~focal[responses.subject]
        if not in_focal.any() or not in_other.any():
            continue
        names = np.append(responses.items, f"{responses.items[item]}|focal")
        moved = np.where(in_focal, items, responses.item).astype(np.int32)
        apart = _TwoPopulations(replace(responses, items=names, item=moved), focal, together.mean, together.sd)
        split = fit_by(apart, apart.totals, options, _split_in_two(working_of(base.parameters), item))
        shift[item] = split.parameters.difficulty[items] - split.parameters.difficulty[item]
        ratio_p[item] = chi2.sf(max(0.0, 2 * (split.log_likelihood - base.log_likelihood)), free)
    return DifferentialFunctioning(log_odds, p_value, shift, ratio_p, benjamini_hochberg(ratio_p))


class _TwoPopulations:
    """The E-step where the focal group's mean and deviation are estimated too; each call takes one EM step in them."""

    def __init__(self, responses: Responses, focal: np.ndarray, mean: float = 0.0, sd: float = 1.0) -> None:
        masks = (focal, ~focal)
        self._focal, self._others = (
            expectation(as_matrix(responses.take_subjects(np.flatnonzero(mask)))) for mask in masks
        )
        self.totals = item_totals(as_matrix(responses))
        self.mean, self.sd = mean, sd

    def __call__(self, working: Working, quadrature: Quadrature) -> Expectation:
        x = quadrature.nodes
        density = np.exp(-0.5 * ((x - self.mean) / self.sd) ** 2) + 1e-300
        found = self._focal(working, Quadrature(x, density / density.sum()))
        share = found.mass / found.mass.sum()
        self.mean = float(share @ x)
        self.sd = float(np.sqrt(share @ (x - self.mean) ** 2))
        return found + self._others(working, quadrature)


def _split_in_two(working: Working, item: int) -> Working:
    """The same parameters with those of ``item`` once more at the end."""
    twice = np.append(np.arange(len(working.slope)), item)
    values = {name: getattr(working, name)[twice] for name in ("slope", "intercept", "lower", "share")}
    return replace(working, **values)


def _mantel_haenszel(responses: Responses, focal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from scipy.stats import chi2

    subjects, items = responses.shape
    if len(responses.score) < subjects * items:
        # Total scores of different items are no strata.
        nothing = np.full(items, np.nan)
        return nothing, nothing
    total = np.bincount(responses.subject, weights=responses.score, minlength=subjects)
    stratum = np.unique(np.round(total), return_inverse=True)[1]
    strata = int(stratum.max()) + 1
    group = focal.astype(int)
    # Cells of the 2 x 2 x strata x items tables: group, solved, stratum, item.
    solved = (responses.score > 0.5).astype(int)
    index = ((group[responses.subject] * 2 + solved) * strata + stratum[responses.subject]) * items + responses.item
    table = np.bincount(index, weights=responses.weight, minlength=4 * strata * items).reshape(2, 2, strata, items)
    size = table.sum((0, 1))
    both = (table.sum(1) > 0).all(0) & (size > 1)
    n = np.where(both, size, 1.0)
    focal_solved, focal_failed, other_solved, other_failed = table[1, 1], table[1, 0], table[0, 1], table[0, 0]
    favour = (both * focal_solved * other_failed / n).sum(0)
    against = (both * focal_failed * other_solved / n).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_odds = np.log(favour / against)
    expected = both * (focal_solved + focal_failed) * (focal_solved + other_solved) / n
    variance = both * np.prod([table.sum(1)[0], table.sum(1)[1], table.sum(0)[0], table.sum(0)[1]], axis=0)
    variance = (variance / (n**2 * np.maximum(n - 1, 1))).sum(0)
    difference = np.abs((both * focal_solved).sum(0) - expected.sum(0))
    statistic = np.maximum(difference - 0.5, 0) ** 2 / np.maximum(variance, 1e-12)
    return log_odds, np.asarray(chi2.sf(statistic, 1))
