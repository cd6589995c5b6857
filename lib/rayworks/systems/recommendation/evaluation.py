"""Evaluate predictions of acceptance on the test window, against simpler rules on the same decisions."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog
from rayworks.systems.recommendation.measures import metrics
from rayworks.systems.recommendation.measures.estimates import Bootstrap, Estimate
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel
from rayworks.systems.recommendation.models.fitting import windows
from rayworks.systems.recommendation.models.held_out import held_out, probabilities
from rayworks.systems.recommendation.models.natural_scores import natural_scores, top_rule
from rayworks.systems.recommendation.models.next_item import NaturalPreference, rank_held_out

CUTOFFS = (5, 10, 20)
TOP_RULE, NEXT_ITEM, MODEL, ORACLE = "next-item top 20 % rule", "next-item score", "acceptance model", "oracle"
HISTORY_NAMES = {
    "natural": "natural events only",
    "shown": "natural events and recommendations, no decisions",
    "first-order": "natural events, last recommendation and decision",
    "all": "all events",
}


def evaluate(
    config: Config,
    log: EventLog,
    model: AcceptanceModel,
    ablations: Mapping[str, AcceptanceModel],
    natural: NaturalPreference | None,
    truth: Tensor | None,
) -> dict[str, Any]:
    """Scores of the model and of all it is held against, as JSON values.

    Args:
        model: the one that counts, calibrated.
        ablations: models of less history, by what they see.
        truth: (users, steps) true chances of acceptance of the logged recommendations, if they are known.
    """
    split, length = windows(config), config.model.length
    valid, test = split.valid_mask(log), split.test_mask(log)
    outcome = (log.kind[test] == ACCEPTED).astype(np.float64)
    chosen = (log.kind[valid] == ACCEPTED).astype(np.float64)
    rows: dict[str, dict[str, float | None]] = {}
    rivals = {HISTORY_NAMES[history]: other for history, other in ablations.items()}
    for name, one in {**rivals, MODEL: model}.items():
        found = probabilities(one, log, test, length)
        threshold = metrics.best_threshold(chosen, probabilities(one, log, valid, length))
        rows[name] = _scores(outcome, found, threshold)
    results: dict[str, Any] = {"threshold": threshold, "decisions": len(outcome)}
    if natural is not None:
        results |= _natural(config, log, natural, test, found, rows)
    if truth is not None:
        known = np.full(len(log), np.nan)
        known[log.recommended] = truth.numpy().ravel()
        rows[ORACLE] = _scores(outcome, known[test], 0.5)
    if config.uncertainty.resamples:
        bootstrap = Bootstrap(config.uncertainty.resamples, config.run.seed)
        results["auc_interval"] = _interval(metrics.auc_interval(outcome, found, bootstrap, log.user[test]))
    curve, steps = metrics.reliability(outcome, found), metrics.by_step(log.step[test], outcome, found, threshold)
    return {
        **results,
        "models": rows,
        "held_out": held_out(config, log, model).as_json(),
        "reliability": {name: getattr(curve, name).tolist() for name in ("prediction", "outcome", "count")},
        "steps": {name: getattr(steps, name).tolist() for name in ("step", "count", "outcome", "prediction")},
        "step_auc": [None if np.isnan(value) else float(value) for value in steps.auc],
    }


def _natural(
    config: Config,
    log: EventLog,
    natural: NaturalPreference,
    test: np.ndarray,
    found: np.ndarray,
    rows: dict[str, dict[str, float | None]],
) -> dict[str, Any]:
    """The paper's ranking rule on the same decisions, and how well the rule's model ranks natural items."""
    scores = natural_scores(natural, log, test)
    if not len(scores.rows):
        return {}
    outcome = (log.kind[scores.rows] == ACCEPTED).astype(np.float64)
    rule, chance = top_rule(scores, len(log.items)), np.exp(scores.log_probability[:, 0])
    # Neither a rule nor a softmax over items is a chance of acceptance: cross-entropy and calibration mean nothing there.
    unknown = {"bce": None, "accuracy": None, "ece": None, "decisions": len(outcome)}
    rows[TOP_RULE] = {
        **unknown,
        "auc": _finite(metrics.auc(outcome, rule)),
        "accuracy": metrics.accuracy(outcome, rule),
    }
    rows[NEXT_ITEM] = {**unknown, "auc": _finite(metrics.auc(outcome, chance))}
    held_out = rank_held_out(natural, log)
    results: dict[str, Any] = {"ranking": ranking_scores(held_out)} if len(held_out) else {}
    if config.uncertainty.resamples:
        index = np.searchsorted(np.flatnonzero(test), scores.rows)
        bootstrap = Bootstrap(config.uncertainty.resamples, config.run.seed)
        difference = metrics.auc_difference(outcome, found[index], rule, bootstrap, log.user[scores.rows])
        results["advantage"] = _interval(difference)
    return results


def ranking_scores(rank: np.ndarray) -> dict[str, float]:
    """Hit rate and NDCG of full rankings, by name such as ``ndcg@10``."""
    hits = {f"hit rate@{k}": metrics.hit_rate(rank, k) for k in CUTOFFS}
    return {**hits, **{f"ndcg@{k}": metrics.ndcg(rank, k) for k in CUTOFFS}}


def _scores(outcome: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float | None]:
    return {
        "auc": _finite(metrics.auc(outcome, probability)),
        "bce": metrics.bce(outcome, probability),
        "accuracy": metrics.accuracy(outcome, probability, threshold),
        "ece": metrics.ece(outcome, probability),
        "decisions": len(outcome),
    }


def _interval(estimate: Estimate) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(estimate).items()}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
