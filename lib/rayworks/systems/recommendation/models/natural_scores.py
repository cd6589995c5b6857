"""Natural preference for recommended items: a next-item model's score of each item shown."""

from dataclasses import dataclass

import numpy as np
import torch

from rayworks.systems.recommendation.logs.events import EventLog
from rayworks.systems.recommendation.measures.metrics import ranks
from rayworks.systems.recommendation.models.next_item import NaturalPreference

BATCH = 2048
CELLS = 4_000_000
"""Recommendations x items that are ranked at a time."""
TOP_SHARE = 0.2
"""Share of the items that the paper's baselines call accepted."""


@dataclass(frozen=True)
class NaturalScores:
    """Natural preference at R recommendations."""

    rows: np.ndarray
    """int64 (R,), their rows in the log."""
    log_probability: np.ndarray
    """float64 (R, 2): log of the chance that the item shown would be the user's next, if the last recommendation was
    rejected (history as it is) or accepted (that item appended to it)."""
    rank: np.ndarray
    """float64 (R,), 1 the best, of the item shown among all, by the history as it is."""

    def as_columns(self, count: int) -> torch.Tensor:
        """Float32 (N, 2) by rows of a log of N events; 0 at other rows."""
        found = torch.zeros(count, 2)
        found[torch.from_numpy(self.rows)] = torch.from_numpy(self.log_probability).float()
        return found


@torch.no_grad()
def natural_scores(model: NaturalPreference, log: EventLog, wanted: np.ndarray | None = None) -> NaturalScores:
    """Score recommendations by the natural events before their instant.

    A history is encoded once however many recommendations follow it. A recommendation without any natural event before it
    is left out: there is no preference to read.

    Args:
        model: frozen.
        wanted: bool (N,), which recommendations; all if None.
    """
    model.eval()
    chosen = log.recommended if wanted is None else wanted & log.recommended
    before = np.concatenate([[0], np.cumsum(~log.recommended)])[log.instant]
    count = before - before[np.minimum(log.offsets[:-1], len(log) - 1)][log.user]
    rows = np.flatnonzero(chosen & (count > 0))
    natural_items = log.item[~log.recommended].astype(np.int64) + 1
    end = before[rows]
    shown, previous = log.item[rows].astype(np.int64), _previous_shown(log)[rows]
    if_rejected, rank = _score(model, natural_items, end, count[rows], shown, np.full(len(rows), -1), ranked=True)
    if_accepted, _ = _score(model, natural_items, end, count[rows], shown, previous, ranked=False)
    return NaturalScores(rows, np.stack([if_rejected, if_accepted], 1), rank)


def top_rule(scores: NaturalScores, items: int, share: float = TOP_SHARE) -> np.ndarray:
    """Float (R,): 1 where the item shown is among the model's top ``share`` of all items, the paper's ranking rule."""
    return (scores.rank <= share * items).astype(np.float64)


def _previous_shown(log: EventLog) -> np.ndarray:
    """int64 (N,): item recommended to the user before each event's instant, -1 where there is none."""
    positions = np.where(log.recommended, np.arange(len(log)), -1)
    last = np.concatenate([[-1], np.maximum.accumulate(positions)[:-1]])[log.instant]
    return np.where(last >= log.offsets[log.user], log.item[last], -1)


def _score(
    model: NaturalPreference,
    items: np.ndarray,
    end: np.ndarray,
    count: np.ndarray,
    shown: np.ndarray,
    appended: np.ndarray,
    *,
    ranked: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Log probability and rank of ``shown`` after the natural items up to ``end``, and ``appended`` unless it is -1."""
    _, first, inverse = np.unique(np.stack([end, appended], 1), axis=0, return_index=True, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    bounds = np.searchsorted(inverse.ravel()[order], np.arange(0, len(first) + BATCH, BATCH))
    found, rank = np.empty(len(shown)), np.full(len(shown), np.nan)
    for number, start in enumerate(range(0, len(first), BATCH)):
        part = first[start : start + BATCH]
        history, lengths = _histories(items, end[part], count[part], appended[part], model.length)
        chances = model.log_probability(history, lengths).numpy()
        rows = order[bounds[number] : bounds[number + 1]]
        which = inverse.ravel()[rows] - start
        found[rows] = chances[which, shown[rows]]
        if ranked:
            at_once = max(1, CELLS // chances.shape[1])
            parts = [slice(first, first + at_once) for first in range(0, len(rows), at_once)]
            rank[rows] = np.concatenate([ranks(chances[which[part]], shown[rows[part]]) for part in parts])
    return found, rank


def _histories(
    items: np.ndarray, end: np.ndarray, count: np.ndarray, appended: np.ndarray, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 (B, T) of item code + 1 and its lengths: the last natural items, then the appended one."""
    extra = (appended >= 0).astype(np.int64)
    kept = np.minimum(count, length - extra)
    width = int((kept + extra).max())
    positions = np.arange(width)
    inside = positions < kept[:, None]
    history = np.where(inside, items[np.where(inside, (end - kept)[:, None] + positions, 0)], 0)
    rows = np.flatnonzero(extra)
    history[rows, kept[rows]] = appended[rows] + 1
    return torch.from_numpy(history), torch.from_numpy(kept + extra)
