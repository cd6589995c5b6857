"""Baselines that know neither items nor tastes, to read any score on a log against (specification 3.3)."""

from dataclasses import dataclass

import numpy as np

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog, Split, TimeWindows
from rayworks.systems.recommendation.measures.metrics import auc, bce

PRIOR_ROWS = 5.0
EFFECT_VARIANCE = 1.0
"""Of effects of users and items, in squared logits, before anything is seen."""
ROUNDS = 30


@dataclass(frozen=True)
class Baseline:
    """A predictor's score on the test window."""

    accuracy: float
    bce: float
    """Mean binary cross-entropy, in nats."""
    auc: float | None
    """Ties count half; None where all decisions are alike."""


def score_baselines(log: EventLog, split: Split, seed: int) -> dict[str, Baseline]:
    """Scores on the test window; empty where nothing is tested or trained.

    ``always accept`` decides so and gives the training window's acceptance as its probability. ``per-step prior`` is the
    acceptance at the same step, ``template lookup`` at the same test step of users who decided alike at all training
    steps, falling back on the prior where nobody did. Both learn from one random half of the users what they predict for
    the other, so that no user's own decision is looked up; they learn from what is tested, so a split by time has neither.
    ``item rate`` is the item's acceptance in the training window, with the weight of :data:`PRIOR_ROWS` more rows at the rate
    of all; ``user and item`` a logistic regression on who and what, with a penalty that shrinks both to none.
    """
    accepted = log.kind == ACCEPTED
    labelled, tested = split.train_mask(log) & log.recommended, split.test_mask(log)
    if not tested.any() or not labelled.any():
        return {}
    rate = float(accepted[labelled].mean())
    half = (seeds.stream(seed, "audit", "halves").permutation(len(log.users)) % 2)[log.user]
    rows = np.flatnonzero(log.recommended)
    prior = np.full(len(log), rate)
    prior[rows] = _learned_from_others(log.step[rows], accepted[rows], half[rows], prior[rows])
    _, template = np.unique(fingerprints(log, labelled, accepted + 1, log.step, seed), return_inverse=True)
    rows = np.flatnonzero(tested)
    left = log.steps_left[rows]
    cell = template[log.user[rows]] * (left.max() + 1) + left
    lookup = _learned_from_others(cell, accepted[rows], half[rows], prior[rows])
    outcome = accepted[rows]
    by_item = item_rates(log, labelled)[0][log.item[rows]]
    by_both = _user_and_item(log, labelled, accepted, rate)[rows]
    by_user = {
        "per-step prior": _score(prior[rows], prior[rows] >= 0.5, outcome),
        "template lookup": _score(lookup, lookup >= 0.5, outcome),
    }
    return {
        "always accept": _score(np.full(len(rows), rate), np.ones(len(rows), bool), outcome),
        **({} if isinstance(split, TimeWindows) else by_user),
        "item rate": _score(by_item, by_item >= 0.5, outcome),
        "user and item": _score(by_both, by_both >= 0.5, outcome),
    }


def item_rates(log: EventLog, labelled: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """Acceptance of each item (I,) in the rows ``labelled``, with :data:`PRIOR_ROWS` more at the rate of all; and that rate.

    The rate of all has one acceptance and one rejection more, so that none is 0 or 1. ``weight`` is how much each event
    counts, (N,).
    """
    own = np.ones(int(labelled.sum())) if weight is None else weight[labelled]
    accepted = own * (log.kind[labelled] == ACCEPTED)
    rate = float((accepted.sum() + 1) / (own.sum() + 2))
    count = np.bincount(log.item[labelled], own, minlength=len(log.items))
    total = np.bincount(log.item[labelled], accepted, minlength=len(log.items))
    return (total + PRIOR_ROWS * rate) / (count + PRIOR_ROWS), rate


def _user_and_item(log: EventLog, labelled: np.ndarray, accepted: np.ndarray, rate: float) -> np.ndarray:
    """Chance of each event by an effect of its user and one of its item, Newton's steps on each side in turn."""
    effects = [np.zeros(len(log.users)), np.zeros(len(log.items))]
    codes = [log.user[labelled], log.item[labelled]]
    outcome = accepted[labelled].astype(float)
    bounded = min(max(rate, 1e-6), 1 - 1e-6)
    level = float(np.log(bounded / (1 - bounded)))
    for _ in range(ROUNDS):
        for effect, code in zip(effects, codes, strict=True):
            chance = 1 / (1 + np.exp(-(level + effects[0][codes[0]] + effects[1][codes[1]])))
            slope = np.bincount(code, outcome - chance, len(effect)) - effect / EFFECT_VARIANCE
            curvature = np.bincount(code, chance * (1 - chance), len(effect)) + 1 / EFFECT_VARIANCE
            effect += slope / curvature
    found: np.ndarray = 1 / (1 + np.exp(-(level + effects[0][log.user] + effects[1][log.item])))
    return found


def fingerprints(log: EventLog, mask: np.ndarray, value: np.ndarray, position: np.ndarray, seed: int) -> np.ndarray:
    """uint64 (U,): equal for users with equal values at equal positions, different otherwise but for one chance in 1e19.

    Args:
        mask: bool (N,), events that count.
        value: (N,), whole numbers from 1.
        position: (N,), whole numbers from 0.
        seed: seed of the random linear function of the values.
    """
    draw = seeds.stream(seed, "audit", "fingerprints")
    factor = draw.integers(0, 2**64, int(position.max()) + 1, dtype=np.uint64)
    terms = np.where(mask, factor[position] * value.astype(np.uint64), np.uint64(0))
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
    return np.asarray(total[log.offsets[1:]] - total[log.offsets[:-1]])


def _learned_from_others(key: np.ndarray, accepted: np.ndarray, half: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Acceptance by key in the half that a row is not in, with the weight of one more row at its prior."""
    _, group = np.unique(key, return_inverse=True)
    probability = prior.copy()
    for asked in (0, 1):
        others, own = half != asked, half == asked
        count = np.bincount(group[others], minlength=group.max() + 1)
        total = np.bincount(group[others], accepted[others], minlength=group.max() + 1)
        probability[own] = (total[group[own]] + prior[own]) / (count[group[own]] + 1)
    return probability


def _score(probability: np.ndarray, decision: np.ndarray, outcome: np.ndarray) -> Baseline:
    area = auc(outcome.astype(np.float64), probability)
    loss = bce(outcome.astype(np.float64), probability)
    return Baseline(float((decision == outcome).mean()), loss, None if np.isnan(area) else area)
