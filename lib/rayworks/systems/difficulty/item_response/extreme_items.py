"""Items that all or none of their subjects solved: absent from the fit, and given a value of their own afterwards.

Their likelihood rises to one as the difficulty leaves the finite numbers, so at the maximum they say nothing of the others
and nothing of the subjects. A prior that made them finite would pull at all items of a 1PL, whose one scale is shared.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from rayworks.systems.difficulty.item_response.curves import Quadrature
from rayworks.systems.difficulty.item_response.working import Counts, Working

if TYPE_CHECKING:
    from rayworks.systems.difficulty.item_response.maximisation import FitOptions

ADJUSTMENT = 0.3
"""Of a response by which an extreme score is taken to be less extreme (Winsteps' default); values keep the scores' order."""
LARGEST_SHARE = 0.25
"""Of an item's responses that the adjustment may be."""
PARKED = 1000.0
"""Intercept at which a curve is 0 or 1 at every node, in double precision."""
REACH = 60.0
HALVINGS = 60


@dataclass(frozen=True, eq=False)
class Extremes:
    """Per item, shape (I,): 1 where all solved it, -1 where none did, else 0; and what its value rests on.

    ``information`` is that of the intercept, at the value given to the item; 0 for other items.
    """

    side: np.ndarray
    information: np.ndarray

    @classmethod
    def of(cls, totals: Counts) -> "Extremes":
        """Which items are extreme, without their values."""
        side = (totals.scored >= totals.seen).astype(int) - (totals.scored <= 0)
        return cls(side, np.zeros(len(side)))

    @classmethod
    def none(cls, items: int) -> "Extremes":
        """No item is."""
        return cls(np.zeros(items, dtype=int), np.zeros(items))

    @property
    def mask(self) -> np.ndarray:
        """Whether an item is extreme."""
        return np.asarray(self.side != 0)

    def parked(self, working: Working) -> Working:
        """The parameters at which extreme items are certain, and so add nothing to any likelihood or expectation."""
        return replace(working, intercept=np.where(self.mask, self.side * PARKED, working.intercept))


def with_values(
    extremes: Extremes, at: Working, seen: np.ndarray, quadrature: Quadrature, totals: Counts, options: "FitOptions"
) -> tuple[Working, Extremes]:
    """Intercepts of the extreme items at what the others say of the subjects.

    By maximum likelihood the score is taken to be :data:`ADJUSTMENT` of a response away from its end (Wright 1998, Linacre's
    Winsteps); by MAP the prior of the others makes it finite. Their slope is the geometric mean of the others'.

    Args:
        seen: expected responses per node, shape (I or 1, Q), at the parked parameters.
    """
    mask = extremes.mask
    if not mask.any():
        return at, extremes
    others = at.slope[~mask & (at.slope > 0)]
    slope = float(np.exp(np.log(others).mean())) if len(others) else 1.0
    priors, by_prior = options.priors, options.estimator == "map"
    count = totals.seen[mask]
    short = 0 * count if by_prior else np.minimum(ADJUSTMENT, LARGEST_SHARE * count)
    wanted = np.where(extremes.side[mask] > 0, totals.scored[mask] - short, short)
    mass = np.broadcast_to(seen, (len(mask), seen.shape[1]))[mask]
    precision = 1 / priors.difficulty_sd**2 if by_prior else 0.0
    scale = 1.0 if at.model == "1PL" else slope

    def curve(intercept: np.ndarray) -> np.ndarray:
        return np.asarray(expit(slope * quadrature.nodes + intercept[:, None]))

    low, high = np.full(len(count), -REACH), np.full(len(count), REACH)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rest = wanted - (mass * curve(middle)).sum(1) - precision * (middle / scale + priors.centre) / scale
        low, high = np.where(rest > 0, middle, low), np.where(rest > 0, high, middle)
    found = (low + high) / 2
    chance = curve(found)
    information = np.zeros(len(mask))
    information[mask] = (mass * chance * (1 - chance)).sum(1) + precision / scale**2
    intercept = at.intercept.copy()
    intercept[mask] = found
    slopes = at.slope if at.model == "1PL" else np.where(mask, slope, at.slope)
    return replace(at, intercept=intercept, slope=slopes), replace(extremes, information=information)
