"""Groups of subjects that are populations of their own: named by an attribute, or found from who saw which items."""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from rayworks.core.errors import ConfigError
from rayworks.systems.difficulty.responses.response_store import Groups, Responses, shown

ALIKE = 0.5
"""Share of the items that either of two subjects saw from which on, when both saw them, they are of one group."""
FEWEST = 10
"""Subjects of a group that is found by design."""
MOST_GROUPS = 12
MOST_DESIGNS = 4000
"""Distinct sets of items seen above which no groups are looked for."""
STRAYS = 0.05
"""Share of the subjects that may be in no group; each joins the one that it shares most items with."""


def by_attribute(responses: Responses, values: np.ndarray, setting: str) -> Groups:
    """Subjects of one value (J,) are one population; see :func:`_in_order` for which is the first.

    Raises:
        ConfigError: fewer than two values, a subject without one, or a group that no item links to the others.
    """
    missing = np.array([value is None or value != value or str(value) in ("", "nan", "None") for value in values])
    if missing.any():
        raise ConfigError(
            f"{setting}: subject {responses.subjects[int(missing.argmax())]} has no value ({int(missing.sum())} such); "
            "complete the column"
        )
    names, member = np.unique(np.asarray(values).astype(str), return_inverse=True)
    if len(names) < 2:
        raise ConfigError(f"{setting}: all subjects are of {names[0]}; leave it out, for that is one population")
    alone = [str(name) for number, name in enumerate(names) if np.sum(member == number) < 2]
    if alone:
        raise ConfigError(f"{setting}: {shown(alone)} has one subject, which is no population; put it with others")
    groups = _in_order(responses, names, member)
    _require_linked(responses, groups, setting)
    return groups


def by_design(responses: Responses) -> Groups | None:
    """Groups that each saw items of their own, where there are few and clear ones that common items link; else None."""
    subjects, items = responses.shape
    if len(responses.score) == subjects * items:
        return None
    seen = np.zeros((subjects, items), dtype=bool)
    seen[responses.subject, responses.item] = True
    designs, design = np.unique(np.packbits(seen, axis=1), axis=0, return_inverse=True)
    design = design.ravel()
    if not 2 <= len(designs) <= MOST_DESIGNS:
        return None
    of_design = csr_matrix(np.unpackbits(designs, axis=1, count=items).astype(np.float64))
    common = np.asarray((of_design @ of_design.T).todense())
    size = np.diag(common)
    overlap = common / (size[:, None] + size - common)
    _, part = connected_components(csr_matrix((overlap >= ALIKE).astype(int)), directed=False)
    count = np.bincount(part[design])
    large = np.flatnonzero(count >= FEWEST)
    stray = ~np.isin(part, large)
    if not 2 <= len(large) <= MOST_GROUPS or stray[design].mean() > STRAYS:
        return None
    for one in np.flatnonzero(stray):
        part[one] = part[np.where(stray, -1.0, overlap[one]).argmax()]
    member = np.unique(part[design], return_inverse=True)[1]
    groups = _in_order(responses, np.arange(len(large)), member)
    ranked = np.argsort(np.argsort(_levels(responses, groups.member, len(large))))
    groups = Groups(tuple(f"group {rank + 1}" for rank in ranked), groups.member)
    return groups if all(_links(responses, groups) >= 2) else None


def _in_order(responses: Responses, names: np.ndarray, member: np.ndarray) -> Groups:
    """The group of middle ability first, for from there the others are measured best."""
    rank = np.argsort(np.argsort(_levels(responses, member, len(names)), kind="stable"))
    order = np.argsort(np.abs(rank - (len(names) - 1) // 2), kind="stable")
    position = np.argsort(order)
    return Groups(tuple(str(names[number]) for number in order), position[member])


def _levels(responses: Responses, member: np.ndarray, count: int) -> np.ndarray:
    """How much more often each group solves the items that it shares with others than all their subjects do, (G,)."""
    of_cell, items = member[responses.subject], responses.shape[1]
    index = of_cell * items + responses.item
    weight = np.bincount(index, responses.weight, count * items).reshape(count, items)
    solved = np.bincount(index, responses.weight * responses.score, count * items).reshape(count, items)
    shared = (weight > 0).sum(0) > 1
    rate = solved.sum(0) / np.maximum(weight.sum(0), 1e-300)
    return np.asarray(((solved - weight * rate) * shared).sum(1) / np.maximum((weight * shared).sum(1), 1e-300))


def _links(responses: Responses, groups: Groups) -> np.ndarray:
    """Items, not all or none solved, that each group shares with the one before it in a chain that reaches all, (G,)."""
    count, items = len(groups.names), responses.shape[1]
    seen = np.zeros((count, items), dtype=bool)
    seen[groups.member[responses.subject], responses.item] = True
    rates = responses.solve_rates()
    usual = seen[:, (rates > 0) & (rates < 1)].astype(int)
    common = usual @ usual.T
    reached, links = {0}, np.full(count, items)
    while len(reached) < count:
        inside = np.array(sorted(reached))
        best = common[inside].max(0)
        best[inside] = -1
        nearest = int(best.argmax())
        links[nearest] = best[nearest]
        reached.add(nearest)
    return links


def _require_linked(responses: Responses, groups: Groups, setting: str) -> None:
    loose = [name for name, links in zip(groups.names, _links(responses, groups), strict=True) if links < 1]
    if loose:
        raise ConfigError(
            f"{setting}: {shown(loose)} shares no item with the other groups that some solved and some did not, so its level "
            "is not told; add common items, or leave the setting out"
        )
