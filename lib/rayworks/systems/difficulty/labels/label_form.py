"""One form for all difficulty labels, whatever they were estimated from: raw value, rating in [0, 1], quantile, P(bin).

Higher is harder, everywhere. ``rating`` is comparable within a set only; :func:`common_scale` compares across sets that the
same solvers tried, and says so in the name of its column.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.linking import Link

Normalisation = Literal["minmax", "percentile"]
"""How a set's raw values become ratings. The paper's own formula is unverified; ``minmax`` fits its published points."""
ROBUST = (0.005, 0.995)


@dataclass(frozen=True, eq=False)
class Labels:
    """A table with one row per item, in the order they were given, and where it came from.

    Columns: ``item``, ``unnorm_rating``, ``unnorm_rating_std``, ``rating``, ``rating_std``, ``rating_quantile``, ``bin``,
    ``bin_probability`` (of the bin given), ``evidence`` (responses or games counted) and ``p_bin_0`` ... (all bins).
    """

    table: pd.DataFrame
    provenance: dict[str, Any]


def label(
    items: np.ndarray,
    value: np.ndarray,
    std: np.ndarray,
    evidence: np.ndarray,
    provenance: dict[str, Any],
    *,
    bins: int = 5,
    normalisation: Normalisation = "minmax",
) -> Labels:
    """Labels of items from raw difficulties and their standard deviations, all of shape (I,).

    Items whose uncertainty is wider than a bin have no bin worth the name: ``bin_probability`` says how much to trust it.
    Of items that all have one difficulty every rating is .5 +- .5, as far as [0, 1] lets it be uncertain.
    Ties in the value are broken by the item's id, so that quantiles do not depend on the order of rows.

    Raises:
        DataError: values that are not finite.
    """
    value, std = np.asarray(value, float), np.asarray(std, float)
    if not (np.isfinite(value).all() and np.isfinite(std).all()):
        at = int(np.argmin(np.isfinite(value) & np.isfinite(std)))
        raise DataError(f"labels: item {items[at]} has difficulty {value[at]} +- {std[at]}; use estimator map")
    low, high = (value.min(), value.max()) if normalisation == "minmax" else np.quantile(value, ROBUST)
    scale = high - low if high > low else 0.0
    order = np.lexsort((np.asarray(items, dtype=str), value))
    rank = np.empty(len(value))
    rank[order] = np.arange(1, len(value) + 1)
    quantile = rank / len(value)
    hard = np.minimum((np.ceil(quantile * bins - 1e-9) - 1).astype(int), bins - 1)
    probability = bin_probabilities(value, std, _edges(value[order], hard[order], bins))
    table = pd.DataFrame(
        {
            "item": np.asarray(items, dtype=str),
            "unnorm_rating": value,
            "unnorm_rating_std": std,
            "rating": np.clip((value - low) / scale, 0, 1) if scale else np.full(len(value), 0.5),
            "rating_std": std / scale if scale else np.full(len(value), 0.5),
            "rating_quantile": quantile,
            "bin": hard,
            "bin_probability": probability[np.arange(len(value)), hard],
            "evidence": evidence,
            **{f"p_bin_{number}": probability[:, number] for number in range(bins)},
        }
    )
    if not scale:
        provenance = {
            **provenance,
            "scale": "none: all items have one difficulty, so every rating is .5 and says nothing",
        }
    facts = {**provenance, "normalisation": normalisation, "low": float(low), "high": float(high), "bins": bins}
    return Labels(table, facts)


def _edges(ascending: np.ndarray, hard: np.ndarray, bins: int) -> np.ndarray:
    """Half way between the last item below each bin and the first of it or above, shape (bins - 1,).

    A bin without items, of which there are some where items are fewer than bins, has no width.
    """
    first = np.searchsorted(hard, np.arange(1, bins))
    fenced = np.concatenate([[-np.inf], ascending, [np.inf]])
    return np.asarray((fenced[first] + fenced[first + 1]) / 2)


def bin_probabilities(value: np.ndarray, std: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Chance that each item belongs to each bin under a normal error, shape (I, len(edges) + 1); rows sum to one."""
    z = (np.asarray(edges)[None, :] - value[:, None]) / np.maximum(std, 1e-12)[:, None]
    below = np.concatenate([np.zeros((len(value), 1)), ndtr(z), np.ones((len(value), 1))], axis=1)
    return np.diff(below, axis=1)


def common_scale(labels: Labels, link: Link) -> pd.DataFrame:
    """The table with ``shared_solver_difficulty`` and its standard deviation, in the units of the set it was linked to."""
    return labels.table.assign(
        shared_solver_difficulty=link.difficulty(labels.table["unnorm_rating"].to_numpy()),
        shared_solver_difficulty_std=link.scale * labels.table["unnorm_rating_std"].to_numpy(),
    )


@dataclass(frozen=True)
class Drift:
    """How much a refit moved the labels of the items both have."""

    items: int
    correlation: float
    largest: float
    """Largest change of a raw difficulty, in its own joint standard deviation."""
    item: str


def drift(before: Labels, after: Labels) -> Drift:
    """Compare two label tables of the same scale.

    Raises:
        DataError: they share fewer than two items.
    """
    both = before.table.merge(after.table, on="item", suffixes=("_before", "_after"))
    if len(both) < 2:
        raise DataError(f"drift: the label tables share {len(both)} items; two are the least to compare")
    first, second = both["unnorm_rating_before"].to_numpy(), both["unnorm_rating_after"].to_numpy()
    joint = np.hypot(both["unnorm_rating_std_before"].to_numpy(), both["unnorm_rating_std_after"].to_numpy())
    moved = np.abs(second - first) / np.maximum(joint, 1e-12)
    at = int(moved.argmax())
    return Drift(len(both), float(np.corrcoef(first, second)[0, 1]), float(moved[at]), str(both["item"].iloc[at]))
