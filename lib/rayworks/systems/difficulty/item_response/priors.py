"""Priors of the MAP estimates: difficulty normal, log-discrimination normal, asymptotes beta."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.item_response.working import Working

STRENGTH = 22.0
"""Of the prior on guessing, as responses of subjects who know nothing: that of Beta(5, 17)."""
LEAST_SHAPE = 1.5


def guessing_prior(options: float | np.ndarray) -> tuple[Any, Any]:
    """Beta parameters of guessing among so many options, of one item or of each, shape (I,): their mean is the chance rate.

    Raises:
        ConfigError: fewer than two options.
    """
    count = np.asarray(options, dtype=float)
    if not (count >= 2).all():
        raise ConfigError("model.options: must be at least 2; leave it out for answers that are written freely")
    first = np.maximum(STRENGTH / count, LEAST_SHAPE)
    return (float(first), float(STRENGTH - first)) if count.ndim == 0 else (first, STRENGTH - first)


def guessing_by_item(options: np.ndarray | None, otherwise: tuple[Any, Any]) -> tuple[Any, Any]:
    """Beta parameters where items say their options (I,), and the others where one is NaN or none does."""
    if options is None:
        return otherwise
    told = ~np.isnan(options)
    first, second = guessing_prior(np.where(told, options, 2.0))
    return np.where(told, first, otherwise[0]), np.where(told, second, otherwise[1])


@dataclass(frozen=True)
class Priors:
    """``b ~ N(difficulty_mean, difficulty_sd**2)``, ``ln a ~ N(0, discrimination_sd**2)``, ``c ~ Beta(*guessing)``.

    The mean is that of the items, estimated with them: a benchmark whose items are easy for its subjects is no news. The
    ceiling's beta prior is on the share ``(d - c) / (1 - c)`` of the way from guessing to one.
    """

    difficulty_sd: float = 2.0
    discrimination_sd: float = 0.5
    guessing: tuple[Any, Any] = (5.0, 17.0)
    """Two numbers, or two arrays (I,) where items differ in their options."""
    ceiling: tuple[float, float] = (17.0, 5.0)
    difficulty_mean: float | None = None
    """``None`` estimates it from the items that the prior holds."""
    log_spread_sd: float | None = None
    """1PL: ``ln population_sd ~ N(0, log_spread_sd**2)``, where answers leave it no finite estimate; ``None``: no prior."""

    @property
    def centre(self) -> float:
        """The mean where it is known, else 0."""
        return self.difficulty_mean or 0.0

    def mean_of(self, at: Working, held: np.ndarray) -> float:
        """The mean of the difficulties: as given, or that of the held items."""
        if self.difficulty_mean is not None or not held.any():
            return self.centre
        return float(self._difficulty(at)[held].mean())

    def log_density(self, at: Working, held: np.ndarray) -> float:
        """Log-density, up to a constant, of what a prior holds: ``held`` items, and all asymptotes that are estimated."""
        a = at.slope[held]
        total = 0.0
        if len(a):
            if at.model != "1PL":
                if (a <= 0).any():
                    return -np.inf
                total -= 0.5 * float(np.sum((np.log(a) / self.discrimination_sd) ** 2))
            off = self._difficulty(at)[held] - self.mean_of(at, held)
            total -= 0.5 * float(np.sum((off / self.difficulty_sd) ** 2))
        if at.model == "1PL" and self.log_spread_sd is not None:
            total -= 0.5 * float((np.log(at.slope[0]) / self.log_spread_sd) ** 2)
        for values, alpha, beta in self.of_asymptotes(at):
            total += float(np.sum((alpha - 1) * np.log(values) + (beta - 1) * np.log1p(-values)))
        return total

    def of_asymptotes(self, at: Working) -> list[tuple[np.ndarray, Any, Any]]:
        """The asymptotes that are estimated, lower and share, each (I,), with the parameters of their beta priors."""
        found = [(at.lower, *self.guessing)] if at.estimates_lower else []
        return [*found, (at.share, *self.ceiling)] if at.estimates_share else found

    def logistic_terms(
        self, at: Working, held: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Gradient by ``a`` and ``e``, and (Gauss-Newton) curvature ``aa``, ``ae``, ``ee``, each (I,); 0 where not held.

        The curvature is that at a given mean; :meth:`shared_direction` is what an estimated mean takes away.
        """
        a, e = np.where(held, at.slope, 1.0), at.intercept
        precision = held / self.difficulty_sd**2
        mean = self.mean_of(at, held)
        if at.model == "1PL":
            zero = np.zeros_like(e)
            return zero, -(e + mean) * precision, zero, zero, precision
        b, db_da, db_de = -e / a - mean, e / a**2, -1 / a
        log_precision = held / self.discrimination_sd**2
        return (
            -precision * b * db_da - log_precision * np.log(np.maximum(a, 1e-9)) / a,
            -precision * b * db_de,
            precision * db_da**2 + log_precision / a**2,
            precision * db_da * db_de,
            precision * db_de**2,
        )

    def spread_terms(self, at: Working) -> tuple[float, float]:
        """Gradient and (Gauss-Newton) curvature by the spread of abilities of a 1PL."""
        if self.log_spread_sd is None:
            return 0.0, 0.0
        spread, precision = float(at.slope[0]), 1 / self.log_spread_sd**2
        return -precision * float(np.log(spread)) / spread, precision / spread**2

    def shared_direction(self, at: Working, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors ``u`` by slopes and intercepts, (I,) each, whose ``u u'`` an estimated mean takes off the curvature."""
        zero = np.zeros_like(at.intercept)
        if self.difficulty_mean is not None or not held.any():
            return zero, zero
        a, scale = np.where(held, at.slope, 1.0), held / (self.difficulty_sd * np.sqrt(held.sum()))
        return (zero, -scale) if at.model == "1PL" else (scale * at.intercept / a**2, -scale / a)

    def _difficulty(self, at: Working) -> np.ndarray:
        return -at.intercept if at.model == "1PL" else -at.intercept / np.where(at.slope == 0, np.inf, at.slope)
