"""Allot pseudo-images by label to clients, and their making to owners (specification 2.2, steps 1 to 3).

Arrays are (C, K), clients by labels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayworks.core import seeds
from rayworks.systems.federation.config import BalanceSection

Counts = NDArray[np.int64]
ROUNDING = 1e-9
"""Subtracted before a ceiling, so that 0.1 * 30 stays 3."""


def noisy_counts(counts: Counts, epsilon: float, generator: np.random.Generator) -> Counts:
    """Counts of any shape plus Laplace noise of scale 1/epsilon, rounded and not below 0; epsilon 0 leaves them exact.

    One example changes one count by one, so this is epsilon-differentially private for adding or removing an example;
    rounding and clipping are post-processing. Which labels a client has is hidden with them.
    """
    if epsilon == 0:
        return counts.astype(np.int64)
    noisy: NDArray[np.float64] = np.rint(counts + generator.laplace(0.0, 1.0 / epsilon, counts.shape))
    return np.maximum(noisy, 0).astype(np.int64)


def present_labels(counts: Counts) -> NDArray[np.bool_]:
    """(K,): labels that any client has; the server tells all clients."""
    present: NDArray[np.bool_] = counts.sum(0) > 0
    return present


def deficits(counts: Counts, present: NDArray[np.bool_], section: BalanceSection) -> Counts:
    """(C, K): pseudo-images that fill each label up to ``level`` times the client's target, at most ``cap``.

    The target is the client's size, its most frequent label, the mean of the labels it has, or ``budget``. A share of the
    size is never more than the most frequent label: who is balanced gets nothing. With level 1 and ``most`` all present
    labels become equally frequent. With ``presence`` only labels that a client lacks are filled, to
    ``level`` times the target rounded to the nearest. Labels that nobody has, and clients without examples, get nothing.
    """
    sizes = counts.sum(1)
    targets = {
        "size": sizes,
        "most": counts.max(1),
        "mean": sizes / np.maximum((counts > 0).sum(1), 1),
        "budget": np.full(len(counts), section.budget),
    }[section.target]
    goals = section.level * np.asarray(targets, np.float64)[:, None]
    if section.target == "size":
        goals = np.minimum(goals, counts.max(1)[:, None])
    if section.presence:
        missing = np.where(counts == 0, np.rint(goals), 0)
    else:
        missing = np.maximum(np.ceil(goals - ROUNDING) - counts, 0)
    if section.cap is not None:
        missing = np.minimum(missing, section.cap)
    filled: Counts = (missing * present * (sizes > 0)[:, None]).astype(np.int64)
    return filled


def split(missing: Counts, counts: Counts, share: float) -> tuple[Counts, Counts]:
    """Mixups and noise images, (C, K) each: ``share`` of each missing count, rounded, and the rest.

    Noise under a label that the client has would only blur what it knows: such labels get mixups, or nothing if ``share``
    is 0.
    """
    owned = counts > 0
    mixups = np.where(owned & (share > 0), missing, np.rint(share * missing)).astype(np.int64)
    return mixups, np.where(owned, 0, missing - mixups).astype(np.int64)


@dataclass(frozen=True)
class PoolPlan:
    """Who encodes how many mixups for whom."""

    orders: Counts
    """(rows, 4): owner, client, label, count; sorted, counts above 0, owner and client differ."""
    unmet: Counts
    """(C, K): mixups of labels that no other client has; they are to be made as noise."""


def pool_plan(counts: Counts, mixups: Counts, seed: int) -> PoolPlan:
    """Orders that meet the demand for mixups from clients that have the label, never from the client itself.

    Work is spread by always giving to the owners with the fewest orders of that label; owners that need the label
    themselves are served first, so that the others fill the gaps. Costs demands times owners.
    """
    rows: list[Counts] = []
    unmet = np.zeros_like(mixups)
    for label in range(counts.shape[1]):
        owners = np.flatnonzero(counts[:, label] > 0)
        owners = seeds.stream(seed, "pool", label).permutation(owners)
        loads = np.zeros(len(owners), np.int64)
        clients = np.flatnonzero(mixups[:, label] > 0)
        for client in clients[np.argsort(counts[clients, label] == 0, kind="stable")]:
            others = np.flatnonzero(owners != client)
            if not len(others):
                unmet[client, label] = mixups[client, label]
                continue
            given = _poured(loads[others], int(mixups[client, label]))
            loads[others] += given
            busy = given > 0
            order = np.full((int(busy.sum()), 4), (0, client, label, 0), np.int64)
            order[:, 0], order[:, 3] = owners[others[busy]], given[busy]
            rows.append(order)
    orders = np.concatenate([*rows, np.zeros((0, 4), np.int64)])
    return PoolPlan(orders[np.lexsort(orders.T[::-1])], unmet)


def _poured(loads: Counts, count: int) -> Counts:
    """What each owner gets when ``count`` units are given one by one to the least loaded."""
    order = np.argsort(loads, kind="stable")
    ordered = loads[order]
    needed = ordered * np.arange(1, len(loads) + 1) - np.cumsum(ordered)
    raised = int(np.searchsorted(needed, count, side="right"))
    level, over = divmod(count + int(ordered[:raised].sum()), raised)
    given = np.zeros_like(loads)
    given[order[:raised]] = level + (np.arange(raised) < over) - ordered[:raised]
    return given
