"""Differential privacy of shared mixups (specification 2.3).

An encoding averages k of n examples drawn without replacement and adds Laplace noise of scale sigma to every coordinate.
With ``x = distance * weight / sigma``, the distance being the largest l1 distance of two examples, replacing one example
changes the log density by at most ``A = log(1 - q + q e^x)``, ``q = k/n`` (Borgnia et al. 2021; amplification by
subsampling, Balle et al. 2018). Exact enumeration in one dimension attains it.

An example that can enter in several roles (as the filled label's, or as a partner) loses ``log(1 + sum_r q_r (e^x_r - 1))``
over the roles r that exclude each other. The largest term alone, as the specification has it, is too small: enumeration
exceeds it, and attains the sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import MixupSection
from rayworks.systems.federation.privacy.gaussian_accountant import epsilon_of, renyi_divergences

VACUOUS = 10.0
"""Epsilon above which a guarantee says nothing of use: likelihoods may differ by a factor of e^10."""

SEED_SCOPE = (
    "All noise of a simulated federation follows from the common seed: in a deployment whoever holds it can make the noise "
    "again and take it off, so clients need secrets of their own (RAYWORKS_CLIENT_SECRET)."
)
"""Whom no epsilon holds against."""


@dataclass(frozen=True)
class Role:
    """One way in which an example enters an encoding."""

    chance: float
    """That it does, in [0, 1]; the chances of an example's roles add up to at most 1."""
    weight: float
    """Its largest weight in the mixture."""


@dataclass(frozen=True)
class Guarantee:
    """Guarantee of all encodings that one client shares."""

    per_encoding: float
    """Largest epsilon of a single one; infinite without noise."""
    total: float
    """Epsilon of all together, for the example that loses most."""
    encodings: int
    delta: float
    """0 with Laplace noise."""


def loss(roles: Sequence[Role], distance: float, scale: float) -> float:
    """Epsilon of one encoding for an example with these roles; infinite for scale 0, finite for any other."""
    if scale == 0:
        return math.inf if any(role.chance * role.weight * distance > 0 for role in roles) else 0.0
    absent = max(0.0, 1.0 - sum(role.chance for role in roles))
    terms = [(math.log(role.chance), role.weight * distance / scale) for role in roles if role.chance > 0]
    logs = [log + ratio for log, ratio in terms] + ([math.log(absent)] if absent > 0 else [])
    return max(0.0, float(np.logaddexp.reduce(logs)))


def loss_without_replacement(examples: int, mixed: int, ratio: float) -> float:
    """``A`` of a uniform mixture of ``mixed`` among ``examples``; ``ratio`` is distance / (mixed * scale)."""
    return loss([Role(mixed / examples, 1.0)], ratio, 1.0)


def reverse_loss_without_replacement(examples: int, mixed: int, ratio: float) -> float:
    """``B = log(n / (n - k + k e^-x))``, of the other direction; never above ``A``."""
    chance = mixed / examples
    absent = math.log1p(-chance) if mixed < examples else -math.inf
    return max(0.0, -float(np.logaddexp(absent, math.log(chance) - ratio)))


def loss_with_replacement(examples: int, mixed: int, ratio: float) -> float:
    """``k log(1 + (e^x - 1) / n)``: drawing with replacement loses more, as one example may enter k times."""
    return mixed * loss([Role(1 / examples, 1.0)], ratio, 1.0)


def scale_for(epsilon: float, examples: int, mixed: int, distance: float) -> float:
    """The Laplace scale at which one uniform mixture costs ``epsilon``: ``A`` solved for sigma."""
    if not epsilon > 0:
        raise DataError(f"epsilon {epsilon:g}: must be above 0; no finite noise gives 0")
    return distance / (mixed * math.log1p(math.expm1(epsilon) * examples / mixed))


def roles(examples: int, owned: int, section: MixupSection, filled: bool) -> list[Role]:
    """Roles of an example among ``examples`` of a client of which ``owned`` have the label that is filled.

    ``filled``: the example is one of those. ``owned`` 0: a noise image stands in for the first, all examples are partners.
    Dirichlet weights are bounded by their largest values, 1 for the first and 1/2
    for a partner, so there is no gain from mixing many.
    """
    mixed = min(section.images, examples)
    rest = (1 - section.dominant) / max(mixed - 1, 1)
    weights = {"uniform": (1 / mixed, 1 / mixed), "dominant": (section.dominant, rest), "dirichlet": (1.0, 0.5)}
    first, partner = weights[section.weights]
    as_partner = (mixed - 1) / max(examples - (owned > 0), 1)
    if not filled:
        return [Role(as_partner, partner)]
    return [Role(1 / owned, 1.0 if mixed == 1 else first), Role((1 - 1 / owned) * as_partner, partner)]


def guarantee(
    counts: NDArray[np.int64],
    released: NDArray[np.int64],
    section: MixupSection,
    features: int,
    delta: float = 1e-5,
    *,
    distance: float | None = None,
) -> Guarantee:
    """What a client with ``counts`` (K,) examples that shares ``released`` (K,) encodings of each label promises.

    Covers replacing the pixels or features of one example, its label being known. Encodings of a label that it does not have
    mix stand-ins with its other examples (:func:`encode_stand_ins`). ``distance`` is the largest distance of
    two examples, l1 for Laplace and l2 for Gaussian noise; left out, that of ``features`` values in [0, 1]. Encodings add
    up: by basic composition for Laplace, as Renyi divergences for Gaussian noise, which assumes Poisson sampling at the
    chance of entering and is approximate for a fixed k.
    """
    examples, shared = int(counts.sum()), np.flatnonzero(released)
    gaussian = section.noise == "gaussian"
    reach = _largest_distance(features, gaussian) if distance is None else distance
    scale = 0.0 if section.noise == "none" else section.scale

    def cost(found: Sequence[Role]) -> NDArray[np.float64]:
        if not gaussian:
            return np.array([loss(found, reach, scale)])
        weight = max((role.weight for role in found if role.chance > 0), default=0.0)
        multiplier = scale / (weight * reach) if weight else math.inf
        return renyi_divergences(sum(role.chance for role in found), multiplier)

    def epsilon(cost: NDArray[np.float64]) -> float:
        return epsilon_of(cost, delta) if gaussian else float(cost[0])

    each, totals = [0.0], [0.0]
    for label in np.flatnonzero(counts) if len(shared) else []:
        own = {int(of): cost(roles(examples, int(counts[of]), section, bool(of == label))) for of in shared}
        each += [epsilon(value) for value in own.values()]
        totals.append(epsilon(np.add.reduce([released[of] * value for of, value in own.items()])))
    return Guarantee(max(each), max(totals), int(released.sum()), delta if gaussian else 0.0)


def _largest_distance(features: int, gaussian: bool) -> float:
    """Largest distance of two rows of values in [0, 1]: l2 for Gaussian, l1 for Laplace noise."""
    return math.sqrt(features) if gaussian else float(features)


def total_with_replacement(
    counts: NDArray[np.int64],
    released: NDArray[np.int64],
    section: MixupSection,
    features: int,
    *,
    distance: float | None = None,
) -> float:
    """What the same uniform mixtures with Laplace noise would cost, had partners been drawn with replacement.

    An example could then be the first and every partner: draws are independent, so their losses add up. The first is one of
    the label's, partners are any of all.
    """
    examples, scale = int(counts.sum()), 0.0 if section.noise == "none" else section.scale
    reach = _largest_distance(features, gaussian=False) if distance is None else distance
    mixed = min(section.images, examples)

    def cost(of: int, label: int) -> float:
        if scale == 0:
            return math.inf if reach > 0 else 0.0
        ratio = reach / (mixed * scale)
        first = loss([Role(1 / int(counts[of]), 1.0)], ratio, 1.0) if of == label else 0.0
        return first + loss_with_replacement(examples, mixed - 1, ratio)

    totals = [
        sum(int(released[of]) * cost(of, label) for of in np.flatnonzero(released)) for label in np.flatnonzero(counts)
    ]
    return max(totals, default=0.0)


def statement(found: Guarantee) -> str:
    """A guarantee in words: what is promised, what it is worth, what it does not cover, and against whom it does not hold."""
    if not found.encodings:
        return (
            "No encodings are shared, so they reveal nothing; updates of the model are not covered by this statement."
        )
    scope = (
        "it covers the shared encodings only, not their labels and not the model, which trains on the real examples too"
    )
    if math.isinf(found.total):
        return f"Encodings carry no noise and promise nothing; they are obfuscation at best, and {scope}."
    at = f" at delta {found.delta:g}, assuming Poisson sampling" if found.delta else ""
    sums = f"{found.encodings:,} encodings cost epsilon {found.total:,.4g}{at} ({found.per_encoding:,.4g} for the worst one)"
    if found.total > VACUOUS:
        sums += f"; above {VACUOUS:g} this is vacuous, so take them as empirical obfuscation, and {scope}"
    else:
        sums += f"; {scope}"
    return f"{sums}. {SEED_SCOPE}"
