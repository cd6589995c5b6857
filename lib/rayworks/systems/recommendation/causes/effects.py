"""Effects of the recommender on acceptance, step by step, and the share of each cause."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rayworks.core import seeds
from rayworks.systems.recommendation.causes.attribution import CAUSES, attribute, member_half_width
from rayworks.systems.recommendation.causes.do_recursion import intervene
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, EventLog
from rayworks.systems.recommendation.logs.simulator import Simulator
from rayworks.systems.recommendation.models import histories
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel
from rayworks.systems.recommendation.models.fitting import windows
from rayworks.systems.recommendation.models.next_item import NaturalPreference

PATHS = 16_384
"""Paths of decisions, over all users that are followed at a time."""
BLOCK = 256
"""Users whose items are all scored at a time."""


def treatment_effects(
    config: Config,
    models: Sequence[AcceptanceModel],
    log: EventLog,
    simulator: Simulator | None,
    redrawn: Sequence[AcceptanceModel] = (),
) -> dict[str, Any]:
    """Effect by step of the logged recommendations before it: P(D_t | do(S_1..t), L) - P(D_t | S_t, L, no recommender).

    Steps are as many as the median user has before the windows (of the simulator: all), and as the model can hold. Users
    with fewer are left out, so that each step is a mean over the same users.

    Args:
        redrawn: models of the same recipe on decisions drawn from the first of ``models``: how far they are from it is bias
            and spread, both of which count. Without two, the spread over ``models`` stands for the interval.

    Returns:
        ``step`` (T,), ``effect`` (T,), ``half_width`` (T,) of its 95 % interval or None, ``true`` (T,) or None, ``users``,
        and whether the bias is counted (``biased``).
    """
    mask = windows(config).train_mask(log) if simulator is None else np.ones(len(log), bool)
    kept = log.keep(mask)
    steps = min(int(np.median(kept.steps[kept.steps > 0])), config.model.length - 2)
    if simulator is None:
        # Half of what the model holds is for what came before.
        steps = min(steps, config.model.length // 2)
    longest = config.model.length - 1 - steps
    users = np.flatnonzero(kept.steps >= steps)[: config.policies.users]
    if longest < 1 or not len(users):
        return {}
    before = histories.histories_of(kept, users, last=longest, before_recommendations=True)
    rows = np.flatnonzero(kept.recommended)
    first = np.searchsorted(kept.user[rows], users)
    items = torch.from_numpy(kept.item[rows][first[:, None] + np.arange(steps)].astype(np.int64))
    members = np.array([_effect(model, before, items, config).mean(0) for model in models])
    half_width = member_half_width(members)
    if len(redrawn) > 1:
        again = np.array([_effect(model, before, items, config).mean(0) for model in redrawn])
        half_width = redrawn_half_width(members[0], again)
    true = None
    if simulator is not None:
        everyone = torch.from_numpy(kept.item[rows].astype(np.int64).reshape(len(log.users), steps))
        true = simulator.replayed_effect(everyone)[: len(users)].mean(0).tolist()
    return {
        "step": list(range(1, steps + 1)),
        "effect": members[0].tolist(),
        "half_width": _listed(half_width),
        "biased": len(redrawn) > 1,
        "true": true,
        "users": len(users),
    }


def redrawn_half_width(value: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Half of a 95 % interval (T,): Student's quantile times the root mean square of ``again`` (R, T) about ``value``."""
    from scipy.stats import t as student_t

    bias, variance = again.mean(0) - value, again.var(0, ddof=1)
    return np.asarray(student_t.ppf(0.975, len(again) - 1) * np.sqrt(variance + bias**2))


def _effect(model: AcceptanceModel, before: histories.Histories, items: torch.Tensor, config: Config) -> np.ndarray:
    """(B, T): of each user and step."""
    found = np.zeros(tuple(items.shape))
    at_once = max(1, PATHS // config.policies.paths)
    for everyone, same in histories.equally_long(before):
        for first in range(0, len(everyone), at_once):
            part, rows = slice(first, first + at_once), everyone[first : first + at_once]
            seed = seeds.derive_small(config.run.seed, "effect", same.item.shape[1], first)
            with torch.no_grad():
                memory = model.read(same.item[part], same.kind[part])
                alone = torch.sigmoid(model.score(memory.state, items[rows]))
            set_items = intervene(model, memory, items[rows], paths=config.policies.paths, seed=seed).probability
            found[rows.numpy()] = (set_items - alone).double().numpy()
    return found


def policy_effect(
    config: Config,
    models: Sequence[AcceptanceModel],
    log: EventLog,
    natural: NaturalPreference,
    simulator: Simulator | None,
) -> dict[str, Any]:
    """Acceptance of what users would take by themselves, which a recommender's value is to be held against."""
    users = np.flatnonzero(np.bincount(log.user[log.kind == NATURAL], minlength=len(log.users)))
    users = users[: config.policies.users]
    past = histories.histories_of(log, users, last=natural.length, before_recommendations=True)
    known = past.length > 0
    past = histories.Histories(past.item[known], past.kind[known])
    if not len(past):
        return {}
    sums = np.zeros(len(models))
    for first in range(0, len(past), BLOCK):
        part = histories.Histories(past.item[first : first + BLOCK], past.kind[first : first + BLOCK])
        chosen = natural.log_probability(part.item, part.length).exp()
        sums += np.array([float((chosen * histories.acceptance([model], part)[0]).sum()) for model in models])
    members = (sums / len(past)).tolist()
    true = None
    if simulator is not None:
        last = simulator.natural_sequences()[:, -1]
        true = float((simulator.natural_choice(last) * simulator.natural_probability()).sum(1).mean())
    return {"by_themselves": members[0], "members": members, "true": true}


def attributions(config: Config, models: Sequence[AcceptanceModel], log: EventLog) -> dict[str, Any]:
    """Contrasts of each user's last recommendation, from the events before it: averages and some users.

    Returns:
        ``mean_size`` and ``mean`` by cause, over users; ``examples``, one per user shown; {} without recommendations.
    """
    users = np.flatnonzero(log.steps > 0)[: config.attribution.users]
    last = np.where(log.recommended & (log.steps_left == 0))[0]
    rows = last[np.searchsorted(log.user[last], users)]
    until = log.keep(np.arange(len(log)) < rows[np.minimum(np.searchsorted(users, log.user), len(users) - 1)])
    past = histories.histories_of(until, users, last=config.model.length - 1)
    items = torch.from_numpy(log.item[rows].astype(np.int64))[:, None]
    if not len(users):
        return {}
    reference = reference_users(config, log)
    found = attribute(models, past, items, reference)
    mean, half_width = found.mean()[:, 0], found.half_width()[:, 0]
    shown = range(min(config.attribution.shown, len(users)))
    return {
        "causes": list(CAUSES),
        "mean_size": dict(zip(CAUSES, np.abs(mean).mean(0).tolist(), strict=True)),
        "mean": dict(zip(CAUSES, mean.mean(0).tolist(), strict=True)),
        "users": len(users),
        "examples": [
            {
                "user": log.users[users[number]],
                "item": log.items[log.item[rows[number]]],
                "accepted": bool(log.kind[rows[number]] == ACCEPTED),
                "probability": float(found.probability[0, number, 0]),
                "contrast": mean[number].tolist(),
                "half_width": _listed(half_width[number]),
            }
            for number in shown
        ],
    }


def _listed(values: np.ndarray) -> list[float] | None:
    return None if np.isnan(values).any() else [float(value) for value in values]


def reference_users(config: Config, log: EventLog) -> histories.Histories:
    """Natural events of users spread over the log, for attributions; of those who have any, else a user without any."""
    natural = np.bincount(log.user[log.kind == NATURAL], minlength=len(log.users))
    users = np.flatnonzero(natural)
    if not len(users):
        return histories.histories([[]])
    if len(users) > config.attribution.reference:
        users = users[np.linspace(0, len(users) - 1, config.attribution.reference).astype(int)]
    natural_only = log.keep(log.kind == NATURAL)
    return histories.only_natural(
        histories.histories_of(natural_only, users, last=config.model.length // 2), config.model.length // 2
    )
