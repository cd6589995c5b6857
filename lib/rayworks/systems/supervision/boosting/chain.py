"""A chain of rounds: each fits an expert where those before it erred. Resumes bit for bit from its saved state."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.supervision.boosting.weighting import Rule, effective_share, reweigh

Mode = Literal["reweight", "resample"]
Arm = Literal["boosting", "bagging", "uniform"]


class Learner(Protocol):
    """Fits weak experts to one labelled set of units (rows, or answer tokens)."""

    @property
    def owners(self) -> np.ndarray:
        """``[units]``: the sample of each unit; folds never part a sample."""

    def fit(self, weights: np.ndarray, seed: int) -> Any:
        """A new expert.

        Args:
            weights: ``[units]``, at least 0, 1 on average; a unit of weight 0 is not learned from.
            seed: of all that is random in it.
        """

    def misses(self, expert: Any) -> np.ndarray:
        """``[units]``: 1 where the expert is wrong; shares where units are windows of tokens."""


@dataclass(frozen=True)
class ChainOptions:
    """How a chain is grown."""

    rule: Rule
    mode: Mode = "reweight"
    multiplicity: Literal["count", "mask"] = "count"
    """Resample: whether a unit drawn c times weighs c, or 1."""
    folds: int = 0
    """Above 1: misses are those of experts fitted without the unit's fold."""
    retries: int = 2
    """Further experts tried after one no better than chance before the chain ends, each from weights drawn anew (Bayesian
    bootstrap)."""


@dataclass(frozen=True)
class Round:
    """One fitted expert."""

    number: int
    seed: int
    error: float
    alpha: float
    effective_share: float
    """Of the distribution that it learned from."""
    normaliser: float
    kept: bool
    """Whether it votes: it was better than chance."""


@dataclass
class Chain:
    """What must be known to go on: the distribution, and what was fitted so far."""

    arm: Arm
    distribution: np.ndarray
    rounds: list[Round] = field(default_factory=list)
    ended: str = ""
    """Why no further expert will be fitted; empty while there may be."""

    @classmethod
    def begin(cls, arm: Arm, units: int) -> "Chain":
        """Equal weights; :class:`DataError` without units."""
        if units < 1:
            raise DataError("boosting: there is nothing labelled to learn from; raise task.count_labelled")
        return cls(arm, np.full(units, 1 / units))

    @property
    def kept(self) -> list[Round]:
        """The rounds whose experts vote."""
        return [one for one in self.rounds if one.kept]

    def rounds_until(self, kept: int) -> list[Round]:
        """The rounds until so many experts are kept; all, where fewer are."""
        last = self.kept[kept - 1].number if 0 < kept <= len(self.kept) else len(self.rounds)
        return self.rounds[: last + 1]

    @property
    def alphas(self) -> np.ndarray:
        """Weights of the experts that vote."""
        return np.array([one.alpha for one in self.kept])

    def to_bytes(self) -> bytes:
        """For the run directory."""
        said = {"arm": self.arm, "ended": self.ended, "rounds": [asdict(one) for one in self.rounds]}
        file = io.BytesIO()
        np.savez(file, distribution=self.distribution, said=np.array(json.dumps(said)))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Chain":
        """What :meth:`to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            said = json.loads(str(found["said"]))
            rounds = [Round(**one) for one in said["rounds"]]
            return cls(said["arm"], found["distribution"], rounds, said["ended"])


def grow(
    chain: Chain,
    learner: Learner,
    options: ChainOptions,
    *,
    rounds: int,
    seed: int,
    keep: Callable[[int, Any], None],
) -> None:
    """Fit experts until ``rounds`` of them are kept, or the chain ends.

    The first expert of all arms is the same: fitted with equal weights and the first seed. It is the single weak supervisor.

    Args:
        keep: called with the number of a fitted expert, before its round is recorded, and the expert.
    """
    while not chain.ended and len(chain.kept) < rounds:
        _add(chain, learner, options, seed, keep)


def _add(chain: Chain, learner: Learner, options: ChainOptions, seed: int, keep: Callable[[int, Any], None]) -> None:
    number, units = len(chain.rounds), len(chain.distribution)
    own = seeds.derive_small(seed, "experts", number)
    drawn = seeds.stream(seed, "draws", chain.arm, number)
    weights = np.ones(units) if number == 0 else _weights(chain, options, drawn)
    expert = learner.fit(weights, own)
    keep(number, expert)
    share = effective_share(chain.distribution)
    if chain.arm != "boosting":
        error = float(learner.misses(expert) @ chain.distribution)
        chain.rounds.append(Round(number, own, error, 1.0, share, 1.0, True))
        return
    misses = _crossed(learner, weights, own, options.folds, drawn) if options.folds > 1 else learner.misses(expert)
    outcome = reweigh(chain.distribution, misses, options.rule)
    kept = outcome.alpha > 0
    chain.rounds.append(Round(number, own, outcome.error, outcome.alpha, share, outcome.normaliser, kept))
    if kept:
        chain.distribution = outcome.distribution
        if not misses.any():
            chain.ended = "an expert missed nothing: there is nothing left to weigh"
        return
    # Drawn anew, since an expert without chance in it would be the same again on equal weights.
    spread = drawn.exponential(size=units)
    chain.distribution = spread / spread.sum()
    lost = next((back for back, one in enumerate(reversed(chain.rounds)) if one.kept), len(chain.rounds))
    if lost > options.retries:
        chain.ended = f"{lost} experts in a row were no better than chance (error {options.rule.chance:.3f})"


def _weights(chain: Chain, options: ChainOptions, drawn: np.random.Generator) -> np.ndarray:
    """What an expert learns from, 1 on average but for those that mask."""
    units = len(chain.distribution)
    if chain.arm == "uniform":
        return np.ones(units)
    if chain.arm == "boosting" and options.mode == "reweight":
        return chain.distribution * units
    counts = drawn.multinomial(units, chain.distribution).astype(float)
    return np.minimum(counts, 1.0) if options.multiplicity == "mask" else counts


def _crossed(learner: Learner, weights: np.ndarray, seed: int, folds: int, drawn: np.random.Generator) -> np.ndarray:
    """Misses of every unit by an expert that did not learn from its sample."""
    owners = np.unique(learner.owners, return_inverse=True)[1]
    samples = int(owners.max()) + 1
    fold = drawn.permutation(np.arange(samples) % folds)[owners]
    misses = np.ones(len(weights))
    for number in range(min(folds, samples)):
        out = fold == number
        if weights[~out].any():
            misses[out] = learner.misses(learner.fit(np.where(out, 0.0, weights), seed))[out]
    return misses
