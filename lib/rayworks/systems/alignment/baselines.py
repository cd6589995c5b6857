"""Baselines of guidance, under the same prompts, seeds and batching.

* The **sharpening control** mixes the base with a copy of itself: ``(1 + a) logit_b``, which is the base at temperature
  ``1 / (1 + a)``. Any guide sharpens; only what exceeds this control is owed to the reward.
* **Best-of-n** draws n continuations from the base and keeps the one of highest reward.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def sharpened_temperature(temperature: float, strength: float) -> float:
    """Temperature at which the base alone equals the base mixed with ``strength`` copies of itself."""
    return temperature / (1.0 + strength)


def best_of_n_kl_bound(n: int) -> float:
    """Upper bound ``log n - (n - 1) / n`` on KL(best-of-n || base), whatever the reward."""
    return math.log(n) - (n - 1) / n


def keep_best(candidates: Sequence[T], rewards: Sequence[float], n: int) -> list[T]:
    """The candidate of highest reward in each run of ``n``; the first of equals."""
    groups = [range(start, start + n) for start in range(0, len(candidates), n)]
    return [candidates[max(group, key=lambda index: rewards[index])] for group in groups]
