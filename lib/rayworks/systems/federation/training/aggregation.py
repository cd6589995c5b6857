"""Aggregate updates: the strategies' server steps, with one update in memory at a time.

Updates arrive in the order of the partitions. Sums are kept in float64, so that who computed an update changes no bit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import StrategyName
from rayworks.systems.federation.training.local_training import Weights

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Update:
    """A client's update."""

    partition: int
    weights: Weights
    examples: int
    """Real ones: pseudo-images never count."""
    normaliser: float = 1.0
    """Normaliser of its accumulated gradient; FedNova divides by it."""
    variate: Weights | None = None
    """SCAFFOLD: by how much the client's control variate changed."""


@dataclass
class ServerState:
    """State of the server between rounds, beside the model."""

    variate: Arrays = field(default_factory=dict)
    """SCAFFOLD: the mean of all clients' control variates; FedDyn: h. float64."""


@dataclass
class Aggregated:
    """A round's model, and the fate of its updates."""

    weights: Arrays
    state: ServerState
    counted: int
    """Updates in the mean: those of clients without examples are not."""
    rejected: dict[int, str]
    """Partition to what was wrong with its update."""


def fault(arrays: Weights, like: Weights, what: str = "update") -> str | None:
    """Fault of an update, naming the array; None for a good one."""
    if arrays.keys() != like.keys():
        return f"{what}: array {sorted(arrays.keys() ^ like.keys())[0]!r} is missing or too many"
    for name, value in arrays.items():
        if value.shape != like[name].shape:
            return f"{what}: array {name!r} has shape {value.shape}, expected {like[name].shape}"
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            return f"{what}: array {name!r} holds values that are not finite"
    return None


class WeightedSum:
    """``sum_i weight_i arrays_i`` in float64."""

    def __init__(self) -> None:
        self.total: Arrays = {}
        self.weight = 0.0

    def add(self, arrays: Weights, weight: float) -> None:
        """Add one term; the caller keeps the order."""
        self.weight += weight
        for name, value in arrays.items():
            term = weight * value.astype(np.float64)
            if name in self.total:
                self.total[name] += term
            else:
                self.total[name] = term

    def mean(self) -> Arrays:
        """Divided by the sum of the weights."""
        return {name: value / self.weight for name, value in self.total.items()}


def cast_like(arrays: Weights, like: Weights) -> Arrays:
    """Each array in the kind of its namesake; what lands in an integer buffer is rounded first."""
    return {
        name: (np.rint(arrays[name]) if like[name].dtype.kind in "iub" else arrays[name]).astype(like[name].dtype)
        for name in like
    }


def aggregate(
    name: StrategyName,
    weights: Weights,
    updates: Iterable[Update],
    state: ServerState,
    *,
    clients: int,
    weighting: Literal["examples", "equal"],
    alpha: float = 0.0,
) -> Aggregated:
    """One server step.

    FedAvg, FedProx, MOON and SCAFFOLD take the weighted mean of the clients' models. FedNova (Wang et al. 2020) takes
    ``theta + tau sum_i p_i (theta_i - theta) / a_i`` with ``tau = sum_i p_i a_i``. SCAFFOLD adds ``1/C`` of the changes of
    the clients' control variates to its own. FedDyn (Acar et al. 2021) takes the plain mean minus ``h / alpha`` after
    ``h -= alpha / C sum_i (theta_i - theta)``.

    Args:
        weights: the model that the clients started from.
        updates: in the order of the partitions.
        state: the server's, not changed.
        clients: C, all clients of the federation.
        weighting: weighting by real examples, or all clients that have any the same; FedDyn's mean is always plain.

    Without any update that counts, model and state stay.
    """
    nova = name == "fednova"
    mean, variates = WeightedSum(), WeightedSum()
    total, normaliser = 0.0, 0.0
    counted = 0
    rejected: dict[int, str] = {}
    for update in updates:
        problem = _problem(name, update, weights)
        if problem is not None:
            rejected[update.partition] = problem
            continue
        if update.examples == 0:
            continue
        counted += 1
        weight = 1.0 if weighting == "equal" or name == "feddyn" else float(update.examples)
        total, normaliser = total + weight, normaliser + weight * update.normaliser
        mean.add(update.weights, weight / update.normaliser if nova else weight)
        if update.variate is not None:
            variates.add(update.variate, 1.0)
    if mean.weight == 0:
        return Aggregated(dict(weights), state, counted, rejected)
    following = state
    average = mean.mean()
    if nova:
        pace = normaliser / total * (mean.weight / total)
        average = {key: weights[key] + pace * (value - weights[key]) for key, value in average.items()}
    elif name == "scaffold":
        following = ServerState({key: _of(state, key) + value / clients for key, value in variates.total.items()})
    elif name == "feddyn":
        share = mean.weight / clients
        moved = {key: value - weights[key] for key, value in average.items()}
        following = ServerState({key: _of(state, key) - alpha * share * value for key, value in moved.items()})
        average = {key: value - following.variate[key] / alpha for key, value in average.items()}
    return Aggregated(cast_like(average, weights), following, counted, rejected)


def _problem(name: StrategyName, update: Update, weights: Weights) -> str | None:
    found = fault(update.weights, weights)
    if found is None and update.examples and update.normaliser <= 0:
        found = "update: it took no step"
    if found is None and name == "scaffold" and update.examples:
        like = {key: value for key, value in weights.items() if value.dtype.kind == "f"}
        found = "variate: is missing" if update.variate is None else fault(update.variate, like, "variate")
    return found


def _of(state: ServerState, name: str) -> NDArray[Any] | float:
    return state.variate.get(name, 0.0)


def require_finite(weights: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a model that training broke.

    Raises:
        DataError: an array holds values that are not finite.
    """
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise DataError(f"model: array {name!r} is not finite; lower local.learning_rate or strategy.proximal_mu")
