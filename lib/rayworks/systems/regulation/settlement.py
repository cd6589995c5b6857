"""Premiums in whole cents: what each submission is due, and what a budget leaves of it. No fraction is lost or made.

All amounts are integers in minor units of the currency. What does not divide goes to the largest remainders, and among equal
remainders to the earlier submission, so that anyone with the outcome gets the same cents.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rayworks.core.errors import DataError
from rayworks.systems.regulation.mechanism import NO_GROUP, Outcome


@dataclass(frozen=True)
class Premiums:
    """Cents of each submission, in their order."""

    due: tuple[int, ...]
    """By the premium alone."""
    paid: tuple[int, ...]
    """Within the budget."""


def exact_parts(outcome: Outcome) -> list[Fraction]:
    """Each submission's part of a premium as the fraction that it is: premiums over contenders of one group."""
    values, position = np.unique(outcome.premium, return_inverse=True)
    parts = [Fraction(value).limit_denominator(outcome.rules.group_size) for value in values.tolist()]
    return [parts[index] for index in position.tolist()]


def share_premiums(
    parts: Sequence[Fraction], groups: Sequence[int], premium: int | None, budget: int | None
) -> Premiums:
    """What is due to each submission, and paid.

    The parts of a full group add up to whole premiums, and so do its cents. Those of a bye that met models drawn again need
    not: what is due to them together is rounded down.

    Args:
        parts: of a premium, each in [0, 1].
        groups: number of each submission's group, ``NO_GROUP`` for those rejected.
        premium: cents of one premium; ``None`` to share the whole budget by parts.
        budget: cents that are paid at most; ``None`` for no bound. What is due beyond it is cut in proportion.

    Raises:
        DataError: neither premium nor budget is given, or one is not positive.
    """
    if premium is None and budget is None:
        raise DataError("premium, budget: give at least one")
    for name, cents in (("premium", premium), ("budget", budget)):
        if cents is not None and cents <= 0:
            raise DataError(f"{name} {cents}: must be above 0 cents")
    if premium is None:
        assert budget is not None
        due = apportion(budget, parts)
        return Premiums(tuple(due), tuple(due))
    members: dict[int, list[int]] = {}
    for index, group in enumerate(groups):
        if group != NO_GROUP and parts[index]:
            members.setdefault(group, []).append(index)
    due = [0] * len(parts)
    for winners in members.values():
        shares = [parts[index] for index in winners]
        for index, cents in zip(winners, apportion(int(premium * sum(shares)), shares), strict=True):
            due[index] = cents
    within = budget is None or sum(due) <= budget
    return Premiums(tuple(due), tuple(due) if within or budget is None else tuple(apportion(budget, due)))


def apportion(total: int, weights: Sequence[Fraction] | Sequence[int]) -> list[int]:
    """Whole parts of ``total`` in proportion to weights, by largest remainders, the earlier first among equal ones.

    Each part is its quota rounded down or up, and they add up to ``total`` exactly; to 0 if all weights are 0.

    Raises:
        DataError: the total or a weight is negative.
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise DataError("total, weights: must not be negative")
    whole = sum(weights, Fraction(0))
    if not whole:
        return [0] * len(weights)
    scale = total / whole
    quotas = [scale * weight for weight in weights]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: shares[index] - quotas[index])
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares
