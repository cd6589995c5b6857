"""Small event logs: clean ones, where acceptance depends on item, taste and the decision before; the authors' templates."""

import numpy as np

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog, event_log

TEMPLATE_SIZES = [549, 497, 497, 497, 480, 458, *[502] * 8, *[501] * 6]
"""Users of each of the 20 patterns of the authors' sample, which has 458 to 549 of each."""


def make_log(
    natural: np.ndarray, items: np.ndarray, accepted: np.ndarray, catalogue: int, **columns: object
) -> EventLog:
    """Natural items (U, L), then recommended items (U, T) with decisions (U, T); ``propensity`` is (U, T) too."""
    users, before = natural.shape
    kind = np.hstack([np.full((users, before), NATURAL), np.where(accepted, ACCEPTED, REJECTED)])
    propensity = columns.get("propensity")
    if propensity is not None:
        propensity = np.hstack([np.full((users, before), np.nan), np.asarray(propensity)]).ravel()
    return event_log(
        user=np.repeat(np.arange(users), kind.shape[1]),
        item=np.hstack([natural, items]).ravel(),
        kind=kind.ravel(),
        time=np.tile(np.arange(kind.shape[1]), users),
        propensity=propensity,
        users=[f"u{number}" for number in range(users)],
        items=[f"i{number}" for number in range(catalogue)],
    )


def clean_draws(
    users: int, steps: int, catalogue: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Natural items (U, 5), recommended items, decisions and propensities (U, T) of a log without a defect."""
    draw = seeds.stream(seed, "clean")
    appeal = np.linspace(-1.5, 1.5, catalogue)
    natural = draw.integers(0, catalogue, (users, 5))
    chances = draw.dirichlet(np.full(catalogue, 20.0))
    items = draw.choice(catalogue, (users, steps), p=chances)
    accepted = np.zeros((users, steps), bool)
    before = np.zeros(users)
    for step in range(steps):
        logit = appeal[items[:, step]] + appeal[natural[:, -1]] + before
        accepted[:, step] = draw.random(users) < 1 / (1 + np.exp(-logit))
        before = np.where(accepted[:, step], 0.8, -0.8)
    return natural, items, accepted, chances[items]


def clean_log(users: int = 200, steps: int = 20, catalogue: int = 12, seed: int = 0) -> EventLog:
    """A log without a defect, with propensities."""
    natural, items, accepted, propensity = clean_draws(users, steps, catalogue, seed)
    return make_log(natural, items, accepted, catalogue, propensity=propensity)


def template_log(seed: int = 0) -> EventLog:
    """The defects that the specification (3.3) found in the authors' sample, rebuilt: 10,000 users, 40 steps, 99 items.

    20 patterns of decisions; 21 steps at which all are alike; the last three decisions are acceptances but for one each of
    four patterns; one of these and a fifth pattern agree until then. Items have no say.
    """
    draw = seeds.stream(seed, "templates")
    patterns = np.zeros((20, 40), bool)
    patterns[:, draw.permutation(37)[:8]] = True
    free = np.flatnonzero(~patterns[0, :37])[:17]
    patterns[:, free] = draw.random((20, 17)) < 0.5
    patterns[4, :37] = patterns[0, :37]
    patterns[:, 37:] = True
    patterns[[0, 1, 2], 38] = patterns[3, 39] = False
    accepted = patterns[draw.permutation(np.repeat(np.arange(20), TEMPLATE_SIZES))]
    natural = draw.integers(0, 99, (10_000, 35))
    return make_log(natural, draw.integers(0, 99, (10_000, 40)), accepted, 99)
