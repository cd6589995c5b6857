"""Measures of trainings by round: accuracy, rounds to a target, fairness over clients, and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LATE_ROUNDS = 5
"""Evaluated rounds behind ``late``."""
Round = Mapping[str, Any]
"""Fields of a :class:`~.federated_training.RoundRecord`."""


@dataclass(frozen=True)
class Outcome:
    """One training."""

    final: float
    """Accuracy on held-out examples after the last round."""
    best: float
    late: float
    """Mean of the last evaluated rounds."""
    rounds_to_target: float | None
    """First evaluated round at the target accuracy; None if there is none."""
    worst_recall: float
    """Lowest recall of any label with held-out examples, after the last round."""
    lowest_client: float
    """Accuracy of the worst-served client with examples, after the last round; see ``client_accuracies``."""
    client_spread: float
    """Standard deviation of the accuracy over clients."""
    megabytes: float
    """Sent in both directions, the pool's included."""
    pseudo_images: int
    failed: int
    rejected: int
    stragglers: int
    seconds_per_round: float


def outcome(rounds: Sequence[Round], target: float) -> Outcome:
    """Summarise a training by all of its rounds, in order, of which the last is evaluated."""
    evaluated = [entry for entry in rounds if entry["accuracy"] is not None]
    accuracies = [entry["accuracy"] for entry in evaluated]
    last = evaluated[-1]
    clients = known(last["client_accuracies"])
    return Outcome(
        final=accuracies[-1],
        best=max(accuracies),
        late=float(np.mean(accuracies[-LATE_ROUNDS:])),
        rounds_to_target=next((float(e["round"]) for e in evaluated if e["accuracy"] >= target), None),
        worst_recall=float(known(last["recalls"]).min()),
        lowest_client=float(clients.min()),
        client_spread=float(clients.std()),
        megabytes=sum(entry["bytes_down"] + entry["bytes_up"] for entry in rounds) / 1e6,
        pseudo_images=max(entry["pseudo_images"] for entry in rounds),
        **{fate: sum(entry[fate] for entry in rounds) for fate in ("failed", "rejected", "stragglers")},
        seconds_per_round=float(np.median([entry["seconds"] for entry in rounds])),
    )


def known(values: Sequence[float | None]) -> NDArray[np.float64]:
    """The values that could be measured."""
    return np.array([value for value in values if value is not None])


def curve(trainings: Sequence[Sequence[Round]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Evaluated rounds (R,) and accuracies (trainings, R) of trainings of one method."""
    evaluated = [[entry for entry in rounds if entry["accuracy"] is not None] for rounds in trainings]
    return (
        np.array([entry["round"] for entry in evaluated[0]]),
        np.array([[entry["accuracy"] for entry in rounds] for rounds in evaluated]),
    )
