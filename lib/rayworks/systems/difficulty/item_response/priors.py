"""Priors of the MAP estimates: difficulty normal, log-discrimination normal, asymptotes beta."""

from dataclasses import dataclass

import numpy as np

from rayworks.systems.difficulty.item_response.working import Working


@dataclass(frozen=True)
class Priors:
    """``b ~ N(0, difficulty_sd**2)``, ``ln a ~ N(0, discrimination_sd**2)``, ``c ~ Beta(*guessing)``.

    The ceiling's beta prior is on the share ``(d - c) / (1 - c)`` of the way from guessing to one.
    """

    difficulty_sd: float = 2.0
    discrimination_sd: float = 0.5
    guessing: tuple[float, float] = (5.0, 17.0)
    ceiling: tuple[float, float] = (17.0, 5.0)

    def log_density(self, at: Working, held: np.ndarray) -> float:
        """Log-density, up to a constant, of what a prior holds: ``held`` items, and all asymptotes that are estimated."""
        a, e = at.slope[held], at.intercept[held]
        total = 0.0
        if at.model == "1PL":
            total -= 0.5 * float(np.sum((e / self.difficulty_sd) ** 2))
        elif len(a):
            if (a <= 0).any():
                return -np.inf
            total -= 0.5 * float(
                np.sum((e / (a * self.difficulty_sd)) ** 2 + (np.log(a) / self.discrimination_sd) ** 2)
            )
        for values, alpha, beta in self.of_asymptotes(at):
            total += float(np.sum((alpha - 1) * np.log(values) + (beta - 1) * np.log1p(-values)))
        return total

    def of_asymptotes(self, at: Working) -> list[tuple[np.ndarray, float, float]]:
        """The asymptotes that are estimated, lower and share, each (I,), with the parameters of their beta priors."""
        found = [(at.lower, *self.guessing)] if at.estimates_lower else []
        return [*found, (at.share, *self.ceiling)] if at.estimates_share else found

    def logistic_terms(
        self, at: Working, held: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Gradient by ``a`` and ``e``, and (Gauss-Newton) curvature ``aa``, ``ae``, ``ee``, each (I,); 0 where not held."""
        a, e = np.where(held, at.slope, 1.0), at.intercept
        precision = held / self.difficulty_sd**2
        if at.model == "1PL":
            zero = np.zeros_like(e)
            return zero, -e * precision, zero, zero, precision
        b, db_da, db_de = -e / a, e / a**2, -1 / a
        log_precision = held / self.discrimination_sd**2
        return (
            -precision * b * db_da - log_precision * np.log(np.maximum(a, 1e-9)) / a,
            -precision * b * db_de,
            precision * db_da**2 + log_precision / a**2,
            precision * db_da * db_de,
            precision * db_de**2,
        )
