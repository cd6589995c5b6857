"""Fixed-parameter calibration (Kim 2006): new items on the scale of known ones, whose parameters stay as they are.

The known items hold the scale, so the population of the new answers need not be the old one: its mean and deviation are
estimated, or given.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logsumexp

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.item_response.curves import ItemParameters, equispaced
from rayworks.systems.difficulty.item_response.extreme_items import ADJUSTMENT, LARGEST_SHARE
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix

FEWEST_SUBJECTS = 10
"""From which a population is estimated."""
STEEPEST, FLATTEST = 8.0, 0.05
"""Discriminations beyond which an item is held by the prior."""
LOG_SLOPE_SD = 0.5
"""Of that prior, on the logarithm of the discrimination, around 1."""
SPACING = 0.7
"""Of the nodes, at most, in the least standard deviation of a subject's posterior."""
REACH = 7.0
"""Deviations of the population, on either side of its mean, that the nodes cover."""
ITERATIONS, TOLERANCE = 2000, 1e-6
LONGEST_STEP = 1.0


@dataclass(frozen=True, eq=False)
class Population:
    """Abilities are N(mean, sd**2), in the units of the known items."""

    mean: float = 0.0
    sd: float = 1.0


@dataclass(frozen=True, eq=False)
class AnchoredFit:
    """What new answers say, on the scale of the known items."""

    parameters: ItemParameters
    """Of all items, the known ones as given, shape (I,)."""
    error: np.ndarray
    """Standard errors of the difficulties, shape (I,): of known items as given, and counted in those of the new ones."""
    held: np.ndarray
    """New items whose discrimination a prior holds, shape (I,)."""
    extreme: np.ndarray
    """New items that all or none solved, whose value is a convention, shape (I,)."""
    population: Population
    ability: np.ndarray
    """Posterior means of the subjects, shape (J,)."""
    ability_error: np.ndarray
    converged: bool


def fit_anchored(
    matrix: ResponseMatrix,
    known: ItemParameters,
    mask: np.ndarray,
    *,
    error: np.ndarray | None = None,
    population: Population | None = None,
) -> AnchoredFit:
    """Parameters of new items, and abilities, by marginal likelihood with the known items held fixed.

    Args:
        matrix: subjects x items.
        known: of all items, a 1PL or 2PL in which abilities are in the units of the difficulties; what stands for new
            items is not read.
        mask: which items are known, shape (I,).
        error: standard errors of the known difficulties, shape (I,); None or 0: they are exact. They are taken to be
            independent.
        population: of the subjects; None estimates it.

    Raises:
        ConfigError: the model is none of the two, or the population cannot be estimated.
        DataError: no known item was answered, or an item was answered by nobody.
    """
    _check(matrix, known, mask, population)
    fit = _Fit(matrix, known, mask, population)
    converged = fit.run()
    return fit.found(np.zeros(len(mask)) if error is None else np.where(mask, error, 0.0), converged)


def _check(matrix: ResponseMatrix, known: ItemParameters, mask: np.ndarray, population: Population | None) -> None:
    subjects, items = matrix.shape
    if known.model not in ("1PL", "2PL"):
        raise ConfigError(f"model: is {known.model}; fixed-parameter calibration is for the 1PL and 2PL")
    if population is not None and not (population.sd > 0 and np.isfinite(population.sd + population.mean)):
        raise ConfigError(
            f"population: N({population.mean}, {population.sd}); give a finite mean and a deviation above 0"
        )
    seen = np.broadcast_to(matrix.item_counts(np.ones((subjects, 1)))[:, 0], items)
    if not (mask & (seen > 0)).any():
        raise DataError("anchors: none of the known items was answered; name at least one that was")
    unseen = np.flatnonzero(~mask & (seen <= 0))
    if len(unseen):
        raise DataError(f"items: nobody saw item number {int(unseen[0])} ({len(unseen)} in all); leave them out")
    if population is None and subjects < FEWEST_SUBJECTS:
        raise ConfigError(
            f"population: {subjects} subjects are too few to estimate it ({FEWEST_SUBJECTS}); give its deviation"
        )
    finite = np.isfinite(known.difficulty[mask]) & np.isfinite(known.discrimination[mask])
    if not finite.all():
        raise DataError("anchors: a known item has no finite difficulty or discrimination; leave it out")


class _Fit:
    """EM over new items and the population; items that all or none solved are no part of it."""

    def __init__(
        self, matrix: ResponseMatrix, known: ItemParameters, mask: np.ndarray, population: Population | None
    ) -> None:
        subjects, items = matrix.shape
        self._matrix, self._known, self._mask = matrix, known, mask
        self._estimated, self.population = population is None, population or Population()
        ones = np.ones((subjects, 1))
        self._scored = matrix.item_scores(ones)[:, 0]
        self._seen = np.broadcast_to(matrix.item_counts(ones)[:, 0], items)
        self.extreme = ~mask & ((self._scored <= 0) | (self._scored >= self._seen))
        self._new = ~mask & ~self.extreme
        self.held = np.zeros(items, dtype=bool)
        self.a = np.where(mask, known.discrimination, 1.0)
        rate = (self._scored + 0.5) / np.maximum(self._seen + 1, 1)
        self.e = np.where(mask, known.intercept, np.log(rate) - np.log1p(-rate))
        self._grid_of_population()

    def run(self) -> bool:
        """To the maximum; whether it was reached."""
        for _ in range(ITERATIONS):
            before = np.concatenate([self.a, self.e, [self.population.mean, self.population.sd]])
            weights = self._posterior()
            if self._new.any():
                self._newton(weights)
            if self._estimated:
                self._move_population(weights)
            after = np.concatenate([self.a, self.e, [self.population.mean, self.population.sd]])
            if np.abs(after - before).max() < TOLERANCE:
                return True
        return False

    def found(self, known_error: np.ndarray, converged: bool) -> AnchoredFit:
        weights = self._posterior()
        error = np.where(self._mask, known_error, 0.0)
        if self._new.any():
            error[self._new] = self._errors(weights, known_error)
        self._value_extremes(weights, error)
        mean = weights @ self._x
        spread = np.sqrt(np.maximum(weights @ self._x**2 - mean**2, 0))
        parameters = replace(self._known, discrimination=self.a, intercept=self.e, population_sd=self.population.sd)
        return AnchoredFit(parameters, error, self.held, self.extreme, self.population, mean, spread, converged)

    def _grid_of_population(self) -> None:
        """Nodes that are near enough for the longest test, and far enough for the population and all known items."""
        most = 1 / self.population.sd**2 + float(self.a**2 @ (self._seen > 0)) / 4
        answered = self._mask & (self._seen > 0)
        far = float(np.abs(-self.e[answered] / self.a[answered] - self.population.mean).max())
        reach = max(REACH * self.population.sd, min(far + 4, 4 * REACH * self.population.sd))
        count = max(81, int(np.ceil(2 * reach * np.sqrt(most) / SPACING)) | 1)
        self._x = self.population.mean + equispaced(count, reach).nodes

    @property
    def _log_density(self) -> np.ndarray:
        found = -0.5 * ((self._x - self.population.mean) / self.population.sd) ** 2
        return np.asarray(found - logsumexp(found))

    def _posterior(self) -> np.ndarray:
        """Weights of the nodes for each subject, shape (J, Q)."""
        part = ~self.extreme
        a, e = np.where(part, self.a, 0.0), np.where(part, self.e, 0.0)
        z = a[:, None] * self._x + e[:, None]
        sums = self._matrix.subject_scores(np.stack([a, e], axis=1))
        counts = self._matrix.subject_counts(-np.logaddexp(0, z) * part[:, None])
        joint = sums[:, :1] * self._x + sums[:, 1:] + counts + self._log_density
        return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))

    def _newton(self, weights: np.ndarray) -> None:
        """A step for each new item."""
        new, x = self._new, self._x
        seen = np.broadcast_to(self._matrix.item_counts(weights), (len(new), len(x)))[new]
        moment = self._matrix.item_scores(weights @ x[:, None])[new, 0]
        a, e = self.a[new], self.e[new]
        p = expit(a[:, None] * x + e[:, None])
        expected, curvature = seen * p, seen * p * (1 - p)
        by_e, ee = self._scored[new] - expected.sum(1), curvature.sum(1)
        if self._known.model == "1PL":
            self.e[new] = e + np.clip(by_e / np.maximum(ee, 1e-12), -LONGEST_STEP, LONGEST_STEP)
            return
        held, precision = self.held[new], 1 / LOG_SLOPE_SD**2
        by_a = moment - expected @ x - np.where(held, precision * np.log(np.maximum(a, 1e-9)) / a, 0.0)
        aa, ae = curvature @ x**2 + np.where(held, precision / a**2, 0.0), curvature @ x
        determinant = np.maximum(aa * ee - ae**2, 1e-12)
        step = np.stack([(ee * by_a - ae * by_e) / determinant, (aa * by_e - ae * by_a) / determinant])
        step *= np.minimum(1.0, LONGEST_STEP / np.maximum(np.abs(step).max(0), 1e-300))
        step *= np.where(held & (a + step[0] < a / 2), a / 2 / np.maximum(-step[0], 1e-300), 1.0)
        self.a[new], self.e[new] = a + step[0], e + step[1]
        lost = self._new & ~self.held & ((self.a > STEEPEST) | (self.a < FLATTEST))
        self.held |= lost
        rate = (self._scored + 0.5) / np.maximum(self._seen + 1, 1)
        self.a = np.where(lost, 1.0, self.a)
        self.e = np.where(lost, np.log(rate) - np.log1p(-rate), self.e)

    def _move_population(self, weights: np.ndarray) -> None:
        mass = weights.sum(0) / len(weights)
        mean = float(mass @ self._x)
        spread = float(np.sqrt(max(mass @ (self._x - mean) ** 2, 1e-6)))
        centre, reach = float(self._x.mean()), float(np.ptp(self._x)) / 2
        self.population = Population(mean, spread)
        if abs(mean - centre) + 5 * spread > reach or spread < reach / (8 * REACH):
            self._grid_of_population()

    def _errors(self, weights: np.ndarray, known_error: np.ndarray) -> np.ndarray:
        """Of the new difficulties: Louis' information of new items and population, and what known errors add, by delta."""
        new, free = self._new, self._known.model == "2PL"
        answered = self._mask & (known_error > 0) & (self._seen > 0)
        scored, seen = self._matrix.dense()
        x, mean, sd = self._x, self.population.mean, self.population.sd
        p = expit(self.a[:, None] * x + self.e[:, None])
        count = int(new.sum())
        every = np.zeros((count * (1 + free) + 2 * self._estimated,) * 2)
        cross = np.zeros((len(every), int(answered.sum())))
        own_mean, known_mean = np.zeros((len(scored), len(every))), np.zeros((len(scored), cross.shape[1]))
        off = (x - mean) / sd
        of_population = np.stack([off / sd, off**2 - 1])
        for node, each in enumerate(weights.T):
            part = scored[:, new] - seen[:, new] * p[new, node]
            known = scored[:, answered] - seen[:, answered] * p[answered, node]
            columns = [part, x[node] * part] if free else [part]
            if self._estimated:
                columns.append(np.broadcast_to(of_population[:, node], (len(part), 2)))
            score = np.concatenate(columns, axis=1)
            every -= score.T @ (score * each[:, None])
            cross -= score.T @ (known * each[:, None])
            own_mean += score * each[:, None]
            known_mean += known * each[:, None]
        every += own_mean.T @ own_mean + np.diag(self._complete_information(weights))
        cross += own_mean.T @ known_mean
        if free:
            both = np.broadcast_to(self._matrix.item_counts(weights), p.shape)[new] * (p * (1 - p))[new] @ x
            at = np.arange(count)
            every[at, count + at] += both
            every[count + at, at] += both
            every[count + at, count + at] += np.where(self.held[new], 1 / (LOG_SLOPE_SD * self.a[new]) ** 2, 0.0)
        if self._estimated:
            skew = 2 * float(weights.sum(0) @ off) / sd
            every[-2, -1] += skew
            every[-1, -2] += skew
        inverse = np.linalg.pinv(every, hermitian=True)
        # The intercept of a known item moves with its difficulty by its discrimination.
        moved = inverse @ cross * (self.a * known_error)[answered]
        covariance = inverse + moved @ moved.T
        a, e = self.a[new], self.e[new]
        slopes = np.hstack([np.diag(-1 / a), *([np.diag(e / a**2)] if free else [])])
        size = slopes.shape[1]
        variance = np.einsum("ik,kl,il->i", slopes, covariance[:size, :size], slopes)
        return np.asarray(np.sqrt(np.maximum(variance, 0)))

    def _complete_information(self, weights: np.ndarray) -> np.ndarray:
        """Diagonal of the complete-data information: intercepts, discriminations, mean and log deviation."""
        new, x = self._new, self._x
        seen = np.broadcast_to(self._matrix.item_counts(weights), (len(new), len(x)))[new]
        p = expit(self.a[new][:, None] * x + self.e[new][:, None])
        curvature = seen * p * (1 - p)
        parts = [curvature.sum(1)]
        if self._known.model == "2PL":
            parts.append(curvature @ x**2)
        if self._estimated:
            off = (x - self.population.mean) / self.population.sd
            mass = weights.sum(0)
            parts.append(np.array([mass.sum() / self.population.sd**2, 2 * float(mass @ off**2)]))
        return np.concatenate(parts)

    def _value_extremes(self, weights: np.ndarray, error: np.ndarray) -> None:
        """A value for items that all or none solved: of a score that is .3 of a response less extreme, at slope 1."""
        if not self.extreme.any():
            return
        seen = np.broadcast_to(self._matrix.item_counts(weights), (len(self.extreme), len(self._x)))[self.extreme]
        count = self._seen[self.extreme]
        less = np.minimum(ADJUSTMENT, LARGEST_SHARE * count)
        wanted = np.where(self._scored[self.extreme] <= 0, less, count - less)
        low, high = np.full(len(count), -60.0), np.full(len(count), 60.0)
        for _ in range(60):
            middle = (low + high) / 2
            above = (seen * expit(self._x + middle[:, None])).sum(1) > wanted
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        p = expit(self._x + low[:, None])
        self.a[self.extreme], self.e[self.extreme] = 1.0, low
        error[self.extreme] = 1 / np.sqrt((seen * p * (1 - p)).sum(1))
