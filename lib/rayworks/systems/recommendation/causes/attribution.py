"""Attribute acceptance to causes: the effect of setting one cause while all else stays (do-contrasts)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, PAD, REJECTED
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel
from rayworks.systems.recommendation.models.histories import Histories, acceptance

CAUSES = ("item", "previous_decision", "natural_preference", "recommender")
"""Causes in the order of :attr:`Attribution.contrasts`."""
MEMBERS_FOR_INTERVALS = 2
"""Resampled ones."""


@dataclass(frozen=True)
class Attribution:
    """Chances of acceptance of k items for each of B users, and their contrasts by cause."""

    probability: np.ndarray
    """(M, B, k): of each model."""
    contrasts: np.ndarray
    """(M, B, k, 4), in the order of :data:`CAUSES`; previous_decision and recommender are 0 before any recommendation."""

    def mean(self) -> np.ndarray:
        """(B, k, 4): of the first model, the one trained on all users alike."""
        return np.asarray(self.contrasts[0])

    def error(self) -> np.ndarray:
        """(B, k, 4): standard deviation over the models trained on resampled users; NaN with fewer than two of them."""
        return member_error(self.contrasts)

    def half_width(self) -> np.ndarray:
        """(B, k, 4): half of the 95 % interval; NaN likewise."""
        return member_half_width(self.contrasts)


def member_error(values: np.ndarray) -> np.ndarray:
    """Standard error (...) of values (M, ...) of the models: their deviation over all but the first, the resampled ones.

    NaN with fewer than two of those.
    """
    if len(values) - 1 < MEMBERS_FOR_INTERVALS:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values[1:].std(0, ddof=1))


def member_half_width(values: np.ndarray) -> np.ndarray:
    """Half of a 95 % interval (...): Student's quantile times :func:`member_error`, for a few members do not know it well."""
    return np.asarray(member_quantile(len(values)) * member_error(values))


def member_quantile(models: int) -> float:
    """Student's .975 quantile for ``models`` of which the first is not resampled: standard errors to each side."""
    from scipy.stats import t as student_t

    return float(student_t.ppf(0.975, max(models - 2, 1)))


def attribute(models: Sequence[AcceptanceModel], past: Histories, items: Tensor, reference: Histories) -> Attribution:
    """Contrasts of the acceptance of ``items`` after ``past``. They are effects one at a time and do not add up to a whole.

    - item: against the mean over all items, recommended instead.
    - previous_decision: the last recommendation accepted against rejected.
    - natural_preference: against the mean over ``reference`` users' natural events in place of the user's own, followed by
      the user's own recommendations and decisions.
    - recommender: against a user with the same natural events whom nothing was ever recommended; the effect of treatment.

    Args:
        models: M models of the same catalogue; the first gives the values, the others their spread.
        past: B users.
        items: int64 (B, k), codes 0..I-1.
        reference: R users to compare with; their recommendations are left out.

    Raises:
        DataError: there is no user to compare with.
    """
    if not len(reference):
        raise DataError("reference: no user to compare natural preference with")
    everything = acceptance(models, past)
    chances = everything.gather(2, items.expand(len(models), -1, -1))
    recommended = past.kind >= REJECTED
    natural = past.only(past.kind == NATURAL)
    accepted, rejected = (acceptance(models, _last_decided(past, kind), items) for kind in (ACCEPTED, REJECTED))
    others = acceptance(models, _after_reference(reference, past), items.repeat_interleave(len(reference), 0))
    others = others.view(len(models), len(past), len(reference), -1).mean(2)
    decided = recommended.any(1)[None, :, None]
    contrasts = [
        chances - everything.mean(2, keepdim=True),
        torch.where(decided, accepted - rejected, 0.0),
        chances - others,
        torch.where(decided, chances - acceptance(models, natural, items), 0.0),
    ]
    return Attribution(np.asarray(chances), np.asarray(torch.stack(contrasts, -1)))


def _last_decided(past: Histories, kind: int) -> Histories:
    """The last recommendation of each user decided as ``kind``; users without one stay."""
    recommended = past.kind >= REJECTED
    positions = torch.where(recommended, torch.arange(past.kind.shape[1]), -1)
    last = recommended & (positions == positions.max(1, keepdim=True).values) if positions.shape[1] else recommended
    return Histories(past.item, torch.where(last, kind, past.kind))


def _after_reference(reference: Histories, past: Histories) -> Histories:
    """B x R users: natural events of each reference user, then the recommendations of each of B."""
    shown = past.only(past.kind >= REJECTED)
    natural = reference.only(reference.kind == NATURAL)
    count, others = len(past), len(natural)
    item = torch.cat([natural.item.repeat(count, 1), shown.item.repeat_interleave(others, 0)], 1)
    kind = torch.cat([natural.kind.repeat(count, 1), shown.kind.repeat_interleave(others, 0)], 1)
    return Histories(item, kind).only(kind != PAD)
