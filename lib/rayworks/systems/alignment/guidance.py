"""Guidance weights of one request: constant, on a schedule, or changed while the request runs."""

import bisect
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayworks.core.errors import ConfigError

Schedule = float | Sequence[tuple[int, float]] | Callable[[int], float]
"""A constant, ``[(first token, weight), ...]`` in ascending order, or a function of the token's index."""


class Guidance:
    """How strongly each objective pulls, token by token. Safe to update from another thread.

    Args:
        weights: objective to schedule; an objective that is not named has weight 0.
        beta: all weights are divided by it (``a_i = w_i / beta`` of GenARM, section 5.2).

    Raises:
        ConfigError: a weight is negative or not finite, a schedule does not ascend, or beta is not positive.
    """

    def __init__(self, weights: Mapping[str, Schedule] | None = None, beta: float = 1.0) -> None:
        if not (math.isfinite(beta) and beta > 0):
            raise ConfigError(f"guidance beta: is {beta}, must be above 0")
        self._beta = beta
        self._lock = threading.Lock()
        self._schedules: dict[str, Schedule] = {}
        self.update(weights or {})

    def __getstate__(self) -> dict[str, object]:
        return {"_beta": self._beta, "_schedules": self._schedules}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def objectives(self) -> list[str]:
        """All objectives named so far."""
        with self._lock:
            return list(self._schedules)

    def update(self, weights: Mapping[str, Schedule]) -> None:
        """Replace the named weights from the next token on; all of them or, on an error, none."""
        for objective, schedule in weights.items():
            _check(objective, schedule)
        with self._lock:
            self._schedules = {**self._schedules, **weights}

    def told(self, token: int) -> dict[str, Any]:
        """Arguments, as JSON has them, of a :class:`Guidance` that is this one at ``token``: a callback is its value there.

        Raises:
            ConfigError: a callback gave a negative or non-finite weight.
        """
        with self._lock:
            schedules = self._schedules
        weights = {
            objective: _value(objective, schedule, token) if callable(schedule) else schedule
            for objective, schedule in schedules.items()
        }
        return {"weights": weights, "beta": self._beta}

    def at(self, token: int) -> dict[str, float]:
        """Strength of each objective at a token, objectives of weight 0 left out.

        Raises:
            ConfigError: a callback gave a negative or non-finite weight.
        """
        with self._lock:
            schedules = self._schedules
        values = {
            objective: _value(objective, schedule, token) / self._beta for objective, schedule in schedules.items()
        }
        return {objective: value for objective, value in values.items() if value != 0.0}


def _value(objective: str, schedule: Schedule, token: int) -> float:
    if callable(schedule):
        value = float(schedule(token))
        _check(objective, value)
        return value
    if isinstance(schedule, int | float):
        return float(schedule)
    before = bisect.bisect_right([start for start, _ in schedule], token)
    return float(schedule[before - 1][1]) if before else 0.0


def _check(objective: str, schedule: Schedule) -> None:
    if callable(schedule):
        return
    steps = [(0, schedule)] if isinstance(schedule, int | float) else list(schedule)
    for _, weight in steps:
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"guidance.{objective}: weight is {weight}, must be a finite number of at least 0")
    starts = [start for start, _ in steps]
    if starts != sorted(set(starts)):
        raise ConfigError(f"guidance.{objective}: the schedule's tokens must ascend, got {starts}")
