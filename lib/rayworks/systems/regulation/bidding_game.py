"""The auction on a grid of types and bids: what each bid is expected to bring against rivals who mix over the same bids.

This is the game that learners play. Scores may be read with noise, for which no closed form exists: a model is cleared, and
ranked, by its reading.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from rayworks.core.errors import DataError
from rayworks.systems.regulation.contests import win_integral, win_probability
from rayworks.systems.regulation.equilibrium import Auction
from rayworks.systems.regulation.value_distributions import FloatArray, PremiumDistribution

READINGS = 512
"""Edges of the cells that noisy readings are integrated over, equally spaced."""
REACH = 6.0
"""Standard deviations of noise that readings extend beyond the scores."""


@dataclass(frozen=True)
class BiddingGame:
    """Types and bids; payoffs are for one builder against rivals drawn from the population.

    Args:
        auction: the rules; group size, prizes and price are used, ties go to a coin.
        deployment: worth of deployment, shape (types,).
        premium: worth of the premium, shape (types,).
        weight: how common the type is, shape (types,), sums to 1.
        bids: increasing, shape (bids,). A first bid of 0 stands for staying out.
        compliance: what each bid buys, shape (bids,), increasing from the price on.
        threshold: compliance that is cleared.
        noise: standard deviation of a reading of compliance.
        population: share of all builders that the types stand for.
    """

    auction: Auction
    deployment: FloatArray
    premium: FloatArray
    weight: FloatArray
    bids: FloatArray
    compliance: FloatArray
    threshold: float
    noise: float = 0.0
    population: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.noise) and self.noise >= 0):
            raise DataError(f"noise {self.noise}: must be 0 or a positive standard deviation of compliance")

    @property
    def may_stay_out(self) -> bool:
        """Whether the first bid is none."""
        return bool(self.bids[0] == 0)

    def chances(self, mixture: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Chance to be cleared, and to be cleared and win, with each bid.

        Args:
            mixture: of all builders over bids, shape (bids,), sums to 1.
        """
        cleared, won = self._noisy(mixture) if self.noise else self._exact(mixture)
        if self.may_stay_out:
            cleared[0], won[0] = 0.0, 0.0
        return cleared, won

    def payoffs(self, mixture: FloatArray) -> FloatArray:
        """Expected utility of each bid to each type, shape (types, bids)."""
        cleared, won = self.chances(mixture)
        return self.deployment[:, None] * cleared + self.premium[:, None] * won - self.bids

    def mixture(self, strategies: FloatArray) -> FloatArray:
        """How common each bid is when types mix like this, shape (types, bids) to (bids,)."""
        return self.weight @ strategies

    def exploitability(self, strategies: FloatArray) -> tuple[float, float]:
        """Largest and mean gain of any type from its best bid, everybody else staying with theirs."""
        payoff = self.payoffs(self.mixture(strategies))
        gain = payoff.max(axis=1) - (payoff * strategies).sum(axis=1)
        return float(gain.max()), float(gain @ self.weight)

    def _exact(self, mixture: FloatArray) -> tuple[FloatArray, FloatArray]:
        passing = (self.compliance >= self.threshold - 1e-12).astype(float)
        rivals = mixture * passing
        if self.may_stay_out:
            rivals[0] = 0.0
        total = rivals.sum()
        n, k = self.auction.group_size, self.auction.prizes
        if total <= 0:
            return passing, passing * (k / n)
        upto = np.minimum(np.cumsum(rivals) / total, 1.0)
        below = np.concatenate([[0.0], upto[:-1]])
        # Equal bids are ranked by a coin, so the chance is the mean over the ranks they share.
        share = upto - below
        tied = share > 1e-12
        mean = np.diff(win_integral(np.concatenate([[0.0], upto]), n, k)) / np.where(tied, share, 1.0)
        left_over = self.auction.bye_probability(self.population * float(total))
        contested = np.where(tied, mean, win_probability(below, n, k))
        return passing, passing * self.auction.or_bye(contested, left_over)

    def _noisy(self, mixture: FloatArray) -> tuple[FloatArray, FloatArray]:
        reading = np.linspace(self.threshold, self.compliance[-1] + REACH * self.noise, READINGS)
        chance = special.ndtr((reading - self.compliance[:, None]) / self.noise)
        cleared = 1 - chance[:, 0]
        rivals = mixture.copy()
        if self.may_stay_out:
            rivals[0] = 0.0
        passing = float(rivals @ cleared)
        n, k = self.auction.group_size, self.auction.prizes
        if passing <= 1e-12:
            return cleared, cleared * (k / n)
        below = np.clip(rivals @ (chance - chance[:, :1]) / passing, 0.0, 1.0)
        # The mass of each cell is exact, so that noise may be finer than the cells; within one a coin decides.
        ranked = win_probability((below[1:] + below[:-1]) / 2, n, k)
        left_over = self.auction.bye_probability(self.population * passing)
        won = np.minimum(np.diff(chance, axis=1) @ ranked, cleared)
        return cleared, (1 - left_over) * won + left_over * k / n * cleared


def premium_game(auction: Auction, types: int, bids: int) -> BiddingGame:
    """The paper's premise: all with ``V >= price`` take part, so only what the premium is worth tells types apart.

    Types are the middles of equal shares of the premium's distribution; bids run from the price to the highest
    equilibrium bid.
    """
    distribution = PremiumDistribution(auction.distribution, auction.price, auction.top)
    grid = np.linspace(0, auction.top, 1 << 14)
    premium = np.interp((np.arange(types) + 0.5) / types, distribution.cdf(grid), grid)
    highest = auction.price + 1.05 * distribution.mean * auction.group_size / 2
    highest = highest if auction.cap is None else min(highest, auction.cap)
    spent = np.linspace(auction.price, highest, bids)
    nothing, equal = np.zeros(types), np.full(types, 1 / types)
    return BiddingGame(
        auction, nothing, premium, equal, spent, spent, auction.price, population=distribution.participation
    )


def entry_game(
    auction: Auction, values: int, shares: int, bids: int, curve: Any = None, noise: float = 0.0
) -> BiddingGame:
    """All builders, who may stay out: ``values x shares`` types at the middles of equal shares of the population.

    Args:
        bids: besides staying out.
        curve: maps spending to compliance (``compliance(bids, saturate=True)``); spending itself where not given.
        noise: standard deviation of a reading, on the curve's scale.
    """
    value = auction.distribution.quantile((np.arange(values) + 0.5) / values)
    share = auction.largest_share * (np.arange(shares) + 0.5) / shares
    kind = np.meshgrid(value, share, indexing="ij")
    deployment, premium = auction.types(kind[0].ravel(), kind[1].ravel())
    highest = auction.cap if auction.cap is not None else auction.price + auction.top
    # With noise a little under the price may pass.
    spent = np.concatenate([[0.0], np.linspace(auction.price * (0.8 if noise else 1.0), highest, bids)])
    bought = spent.copy()
    if curve is not None:
        low = float(curve.cost_range[0])
        bought[1:] = curve.compliance(np.maximum(spent[1:], low), saturate=True)
        bought[0] = 0.0
    threshold = float(auction.price if curve is None else curve.compliance(auction.price))
    count = values * shares
    return BiddingGame(auction, deployment, premium, np.full(count, 1 / count), spent, bought, threshold, noise)
