"""An adaptive test as a loop: ask the item that tells most, score the answer, stop when the ability is known well enough.

The ability is the posterior mean on a grid, with its posterior deviation. Which item is asked, and when the test stops,
follows from the answers alone, so that the posterior is the same as if the items had been fixed beforehand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.item_response.curves import FloatArray, ItemParameters

NODES_PER_SD = 10
REACH = 8.0
"""Deviations of the population on either side of its mean that the grid covers, at least."""
Ask = Callable[[Sequence[int]], Sequence[float]]
"""From items by position to their scores in [0, 1]."""


@dataclass(frozen=True)
class Rules:
    """When to stop, and how items are spared.

    Raises:
        ConfigError: a rule that ends no test, or cannot hold.
    """

    error: float = 0.3
    """Standard error of the ability at which the test stops, in units of ability; 0: only at ``most``."""
    most: int = 50
    """Items asked at most."""
    least: int = 1
    """Items asked before the error may stop the test."""
    among: int = 5
    """Exposure control (randomesque, Kingsbury and Zara 1989): each item is drawn among so many most informative ones. It
    spreads the first items; it sets no bound on how often an item is asked in all."""
    batch: int = 1
    """Items asked at once, before the ability is looked at again: for engines that answer several side by side."""

    def __post_init__(self) -> None:
        if not (self.error >= 0 and np.isfinite(self.error)):
            raise ConfigError(f"error: is {self.error}; give a number of at least 0")
        for name in ("most", "least", "among", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: is {getattr(self, name)}; must be at least 1")
        if self.least > self.most:
            raise ConfigError(f"least: is {self.least}, above most, {self.most}; lower it")


@dataclass(frozen=True)
class Answered:
    """One item that was asked, and the ability after it."""

    item: int
    score: float
    ability: float
    error: float


@dataclass(frozen=True, eq=False)
class AdaptiveResult:
    """What a test came to."""

    ability: float
    error: float
    expected_score: float
    """On all items of the bank: as answered, and as expected where not."""
    asked: tuple[Answered, ...]
    stopped: str
    """Why: ``error``, ``most`` or ``items``."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, of the ability."""
        return self.ability - 1.96 * self.error, self.ability + 1.96 * self.error


class AdaptiveSession:
    """A test of one subject on items of known parameters: :meth:`next` says what to ask, :meth:`record` hears the scores.

    Args:
        parameters: of the bank.
        rules: see :class:`Rules`.
        seed: of the draws among the most informative items.
        mean: of the population; its deviation is the parameters' ``population_sd``.

    Raises:
        DataError: an item without finite parameters.
    """

    def __init__(self, parameters: ItemParameters, rules: Rules, seed: int = 0, mean: float = 0.0) -> None:
        if not len(parameters):
            raise DataError("items: are none; give a bank of at least one")
        columns = [parameters.difficulty, parameters.discrimination, parameters.guessing, parameters.ceiling]
        bad = np.flatnonzero(~np.isfinite(np.stack(columns)).all(0))
        if len(bad):
            raise DataError(f"items: number {int(bad[0])} has no finite parameters ({len(bad)} in all); leave them out")
        self._parameters, self._rules = parameters, rules
        self._random = seeds.stream(seed, "adaptive-test")
        spread = parameters.population_sd
        far = float(np.abs(parameters.difficulty - mean).max()) + 4 * spread
        reach = max(REACH * spread, min(far, 4 * REACH * spread))
        # The posterior of all items is the narrowest there can be.
        known = 1 / spread**2 + float((parameters.discrimination**2).sum()) / 4
        count = int(np.ceil(2 * reach * max(NODES_PER_SD / spread, 2 * np.sqrt(known)))) | 1
        self._nodes = mean + np.linspace(-reach, reach, count)
        self._log_posterior: FloatArray = -0.5 * ((self._nodes - mean) / spread) ** 2
        p = np.clip(parameters.probability(self._nodes), 1e-12, 1 - 1e-12)
        self._log_p, self._log_q = np.log(p), np.log1p(-p)
        self._left = np.ones(len(parameters), dtype=bool)
        self._waiting: list[int] = []
        self.asked: list[Answered] = []

    @property
    def ability(self) -> tuple[float, float]:
        """Posterior mean and deviation."""
        weights = np.exp(self._log_posterior - self._log_posterior.max())
        weights /= weights.sum()
        mean = float(weights @ self._nodes)
        return mean, float(np.sqrt(weights @ (self._nodes - mean) ** 2))

    @property
    def stopped(self) -> str:
        """Why there is nothing more to ask; empty while there is."""
        count = len(self.asked)
        if count >= self._rules.least and self.ability[1] <= self._rules.error:
            return "error"
        if count >= self._rules.most:
            return "most"
        return "" if self._left.any() or self._waiting else "items"

    def next(self) -> list[int]:
        """Items to ask now, by position; the same until they are recorded, none when the test has stopped."""
        if self._waiting or self.stopped:
            return list(self._waiting)
        information = self._parameters.information(np.array([self.ability[0]]))[:, 0]
        count = min(self._rules.batch, self._rules.most - len(self.asked), int(self._left.sum()))
        for _ in range(count):
            order = np.argsort(np.where(self._left, -information, np.inf), kind="stable")
            best = order[: min(self._rules.among, int(self._left.sum()))]
            item = int(best[self._random.integers(len(best))])
            self._left[item] = False
            self._waiting.append(item)
        return list(self._waiting)

    def record(self, scores: Sequence[float]) -> None:
        """Scores in [0, 1] of the items that :meth:`next` gave, in their order.

        Raises:
            DataError: they are not as many, or one is no score.
        """
        if len(scores) != len(self._waiting):
            raise DataError(f"scores: are {len(scores)} for {len(self._waiting)} items; give one for each")
        for item, score in zip(self._waiting, scores, strict=True):
            if not 0 <= score <= 1:
                raise DataError(f"score of item number {item}: is {score}; must lie in [0, 1]")
        for item, score in zip(self._waiting, scores, strict=True):
            self._log_posterior = self._log_posterior + score * self._log_p[item] + (1 - score) * self._log_q[item]
            self.asked.append(Answered(item, float(score), *self.ability))
        self._waiting = []

    def result(self) -> AdaptiveResult:
        """What the test has come to so far."""
        ability, error = self.ability
        expected = self._parameters.probability(np.array([ability]))[:, 0]
        for one in self.asked:
            expected[one.item] = one.score
        return AdaptiveResult(ability, error, float(expected.mean()), tuple(self.asked), self.stopped)


def run_test(session: AdaptiveSession, ask: Ask) -> AdaptiveResult:
    """Ask until the session stops."""
    while items := session.next():
        session.record(ask(items))
    return session.result()


@dataclass(frozen=True, eq=False)
class Exposure:
    """How a bank is used by many tests."""

    rates: np.ndarray
    """Share of the tests that asked each item, shape (I,)."""
    length: float
    """Mean number of items of a test."""
    overlap: float
    """Mean share of a test's items that another test has, too."""


def exposure_of(results: Sequence[AdaptiveResult], items: int) -> Exposure:
    """Exposure rates and overlap; the overlap of pairs follows from the rates and lengths (Chen, Ankenmann, Spray 2003).

    Raises:
        DataError: no tests.
    """
    if not results:
        raise DataError("results: are none; give at least one test")
    counts = np.bincount([one.item for result in results for one in result.asked], minlength=items)
    tests, asked = len(results), int(counts.sum())
    pairs = float((counts * (counts - 1)).sum())
    overlap = pairs / ((tests - 1) * asked) if tests > 1 and asked else 0.0
    return Exposure(counts / tests, asked / tests, overlap)
