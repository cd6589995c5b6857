"""How far the model's chances can be trusted, from the test window: of any item, and of the items that it would choose."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rayworks.core import seeds
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.logs.events import ACCEPTED, EventLog
from rayworks.systems.recommendation.logs.sequences import sequences
from rayworks.systems.recommendation.measures.bands import Bands, bands
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, at_positions, predict
from rayworks.systems.recommendation.models.fitting import windows

MOST_DECISIONS = 20_000
"""Decisions of the test window that are looked at, drawn where there are more."""
CELLS = 2_000_000
"""Decisions x items that are scored at a time."""
CHOSEN_SHARE = 0.05
"""An item is among a model's own choices where it is among the best of this share of the catalogue."""


@dataclass(frozen=True)
class HeldOut:
    """Bands of the test window."""

    any_item: bool
    """Whether decisions are weighted by propensity, so that bands are of any item; else of items such as were shown."""
    all: Bands
    chosen: Bands
    """One, of decisions on an item that the model would have chosen itself: the largest of many chances is overestimated."""
    choices: int
    """Best items of a user that count as chosen."""

    def as_json(self) -> dict[str, Any]:
        """For results."""
        return {
            "any_item": self.any_item,
            "choices": self.choices,
            "all": self.all.as_json(),
            "chosen": self.chosen.as_json(),
        }


def held_out(config: Config, log: EventLog, model: AcceptanceModel) -> HeldOut:
    """Compare the chances of ``model`` with what came of the decisions of the test window."""
    rows = np.flatnonzero(windows(config).test_mask(log))
    if len(rows) > MOST_DECISIONS:
        draw = seeds.stream(config.run.seed, "held out")
        rows = np.sort(draw.choice(rows, MOST_DECISIONS, replace=False))
    asked = model.of_any_item()
    probability, better = chances_and_ranks(asked, log, rows, config.model.length)
    any_item = asked is not model
    weight = 1 / log.propensity[rows] if any_item else np.ones(len(rows))
    outcome = (log.kind[rows] == ACCEPTED).astype(np.float64)
    choices = choices_of(len(log.items))
    user, chosen = log.user[rows], better < choices
    own = bands(outcome[chosen], probability[chosen], weight[chosen], user[chosen], most=1)
    return HeldOut(any_item, bands(outcome, probability, weight, user), own, choices)


def of_policy(config: Config, log: EventLog, model: AcceptanceModel, weight: np.ndarray) -> Bands:
    """One band of the decisions of the test window as a policy would have made them.

    Args:
        model: calibrated for the policy.
        weight: (N,), the policy's chance of the item at each event of the log over that of the log's own recommender.
    """
    test = windows(config).test_mask(log)
    probability = probabilities(model, log, test, config.model.length)
    outcome = (log.kind[test] == ACCEPTED).astype(np.float64)
    return bands(outcome, probability, weight[test], log.user[test], most=1)


def probabilities(model: AcceptanceModel, log: EventLog, mask: np.ndarray, length: int) -> np.ndarray:
    """Float64 (rows of ``mask``,): chance of acceptance of each recommendation, from all events before it."""
    logits = predict(model, sequences(log, length, mask), len(log)).numpy()[mask].astype(np.float64)
    return np.asarray(1 / (1 + np.exp(-logits)))


def choices_of(items: int) -> int:
    """How many items of a catalogue count as a model's own choices."""
    return max(1, round(CHOSEN_SHARE * items))


@torch.no_grad()
def chances_and_ranks(
    model: AcceptanceModel, log: EventLog, rows: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Chance of acceptance at some recommendations (rows (R,), rising), and how many items had a larger one; both (R,)."""
    mask = np.zeros(len(log), bool)
    mask[rows] = True
    chance, better = np.zeros(len(log)), np.zeros(len(log), np.int64)
    at_once = max(1, CELLS // len(log.items))
    for batch in sequences(log, length, mask).batches(256):
        states = at_positions(model.states(batch.item, batch.kind), batch.past)[batch.scored]
        shown, at = batch.item[batch.scored] - 1, batch.row[batch.scored].numpy()
        for first in range(0, len(at), at_once):
            part = slice(first, first + at_once)
            logits = model.score(states[part])
            own = logits.gather(1, shown[part][:, None])
            chance[at[part]] = torch.sigmoid(own[:, 0].double()).numpy()
            better[at[part]] = (logits > own).sum(1).numpy()
    return chance[rows], better[rows]
