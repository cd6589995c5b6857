"""Distance between the label distributions of clients (specification 2.2, last line).

Counts are (C, K), clients by labels. Clients without examples have no distribution: their value is nan, means leave them out.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def total_variation(counts: NDArray[np.int64]) -> Floats:
    """(C,): half the l1 distance between a client's label distribution and that of all examples together, in [0, 1)."""
    shares, overall = _distributions(counts)
    distances: Floats = 0.5 * np.abs(shares - overall).sum(1)
    return distances


def jensen_shannon(counts: NDArray[np.int64]) -> float:
    """Mean over clients of the Jensen-Shannon divergence to the distribution of all examples, in nats, at most log 2."""
    shares, overall = _distributions(counts)
    middle = 0.5 * (shares + overall)
    divergences = _entropy(middle) - 0.5 * (_entropy(shares) + _entropy(overall))
    return float(np.maximum(np.nanmean(divergences), 0.0))


def effective_labels(counts: NDArray[np.int64]) -> Floats:
    """(C,): exp of the entropy of a client's labels; 1 for one label, K for a uniform mixture."""
    return np.exp(_entropy(_distributions(counts)[0]))


def _distributions(counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    sizes = counts.sum(1, keepdims=True).astype(np.float64)
    shares = np.divide(counts, sizes, out=np.full(counts.shape, np.nan), where=sizes > 0)
    overall: Floats = counts.sum(0) / counts.sum()
    return shares, overall


def _entropy(shares: Floats) -> Floats:
    """Entropy in nats along the last axis; nan stays nan."""
    terms = shares * np.log(np.where(shares > 0, shares, 1.0))
    entropy: Floats = -terms.sum(-1)
    return entropy
