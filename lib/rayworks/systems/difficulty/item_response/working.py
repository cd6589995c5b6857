"""The state that EM iterations pass on: parameters, counts, and the expectation over abilities."""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import expit, logit, logsumexp

from rayworks.systems.difficulty.item_response.curves import Model, Quadrature

FARTHEST_JUMP = 60.0


def _none() -> np.ndarray:
    return np.zeros(0)


@dataclass(frozen=True, eq=False)
class Counts:
    """Per item, weighted: scores and responses, shape (I,); and the number of subjects."""

    scored: np.ndarray
    seen: np.ndarray
    subjects: float
    groups: int = 1
    """Populations that the subjects are of."""


@dataclass(frozen=True, eq=False)
class Working:
    """Parameters on the standard normal grid: ``P = lower + (1 - lower) * share * sigmoid(slope * x + intercept)``.

    In the 1PL all slopes are equal and stand for the population's standard deviation.
    """

    model: Model
    slope: np.ndarray
    intercept: np.ndarray
    lower: np.ndarray
    share: np.ndarray
    fixed_lower: bool = False
    mean: np.ndarray = field(default_factory=_none)
    """Of the populations beyond the first, which is standard normal, shape (G - 1,)."""
    log_spread: np.ndarray = field(default_factory=_none)
    """Logarithms of their standard deviations, shape (G - 1,)."""

    @property
    def is_logistic(self) -> bool:
        """Whether the model has no asymptotes."""
        return self.model in ("1PL", "2PL")

    @property
    def estimates_lower(self) -> bool:
        """Whether the lower asymptote is free."""
        return not self.is_logistic and not self.fixed_lower

    @property
    def estimates_share(self) -> bool:
        """Whether the upper asymptote is free."""
        return self.model == "4PL"

    @property
    def vector(self) -> np.ndarray:
        """All free parameters in a row, asymptotes as logits: what the acceleration extrapolates."""
        parts = [self.slope[:1] if self.model == "1PL" else self.slope, self.intercept]
        parts += [logit(self.lower)] if self.estimates_lower else []
        parts += [logit(self.share)] if self.estimates_share else []
        return np.concatenate([*parts, self.mean, self.log_spread])

    def at(self, vector: np.ndarray) -> "Working | None":
        """The same model at another vector; None if the vector is no set of parameters, or absurdly far away."""
        items = len(self.intercept)
        slopes, others = 1 if self.model == "1PL" else items, len(self.mean)
        sizes = [slopes, *[items] * (1 + self.estimates_lower + self.estimates_share), others]
        *parts, mean, log_spread = np.split(vector, np.cumsum(sizes))
        if not np.isfinite(vector).all() or np.abs(vector - self.vector).max() > FARTHEST_JUMP:
            return None
        changed = replace(self, slope=np.broadcast_to(parts[0], items).copy(), intercept=parts[1])
        changed = replace(changed, mean=mean, log_spread=log_spread)
        if self.estimates_lower:
            changed = replace(changed, lower=expit(parts[2]))
        return replace(changed, share=expit(parts[3])) if self.estimates_share else changed

    def probability(self, z: np.ndarray) -> np.ndarray:
        """``P`` at logits (I, Q), kept off 0 and 1."""
        p = self.lower[:, None] + ((1 - self.lower) * self.share)[:, None] * expit(z)
        return np.asarray(np.clip(p, 1e-12, 1 - 1e-12))

    def log_populations(self, quadrature: Quadrature) -> np.ndarray:
        """Logarithms of the weights of the nodes in each population, shape (G, Q)."""
        off = (quadrature.nodes - self.mean[:, None]) / np.exp(self.log_spread)[:, None]
        others = -0.5 * off**2
        return np.vstack([quadrature.log_weights, others - logsumexp(others, axis=1, keepdims=True)])


@dataclass(frozen=True)
class Expectation:
    """What the M-step needs of all subjects, and the marginal log-likelihood at the parameters it was taken at.

    ``mass`` (Q,) is the posterior mass per node; ``seen`` (I or 1, Q) the expected number of responses per item and node;
    ``scored`` (I, Q) the expected number solved, of which the 1PL and 2PL need only ``first_moment`` (I,), its sum against
    the nodes.
    """

    log_likelihood: float
    mass: np.ndarray
    seen: np.ndarray
    first_moment: np.ndarray
    scored: np.ndarray | None = None
    populations: np.ndarray = field(default_factory=lambda: np.zeros((1, 3)))
    """Of each of several populations: subjects, and sums of the first two moments of ability, shape (G, 3)."""

    def __add__(self, other: "Expectation") -> "Expectation":
        scored = None if self.scored is None or other.scored is None else self.scored + other.scored
        names = ("log_likelihood", "mass", "seen", "first_moment", "populations")
        return Expectation(**{name: getattr(self, name) + getattr(other, name) for name in names}, scored=scored)
