"""Two calibrations on one scale, and the items that drifted between them: ``rayworks difficulty link old.csv new.csv``."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import ndtr

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.anchored_board import read_known
from rayworks.systems.difficulty.item_response.curves import ItemParameters
from rayworks.systems.difficulty.item_response.item_fit import benjamini_hochberg
from rayworks.systems.difficulty.item_response.linking import Link, Method, link_by_items
from rayworks.systems.difficulty.printing import printed

PURPOSE = """Put the items of a new calibration on the scale of an old one, by the items that both name, and say which of
those drifted. Both are CSV as `rayworks difficulty` writes them. A CSV of the new items goes to standard output or
--output."""
DRIFTED = 0.05
"""Adjusted p-value below which an item has drifted, and no longer links."""
FEWEST_LINKS = 3
"""Items of both calibrations that are left to link by."""


@dataclass(frozen=True, eq=False)
class Linked:
    """The new items on the old scale."""

    items: pd.DataFrame
    """In the order of the new calibration: ``item``, ``difficulty``, ``standard_error`` (the link's own error, which all
    items share, is not counted), ``discrimination``, ``old_difficulty``, ``drift`` (new less old), ``p_adjusted``, ``note``;
    empty where the old one does not name the item."""
    link: Link
    notes: list[str]


def link_calibrations(
    old: str | Path | pd.DataFrame, new: str | Path | pd.DataFrame, method: Method = "stocking-lord"
) -> Linked:
    """Link, drop items that drifted from the link one at a time, the farthest first, and link again.

    An item's drift is judged by its standard errors in both calibrations, taken to be independent; p-values are adjusted over
    the shared items (Benjamini and Hochberg). Without errors nothing is judged.

    Raises:
        DataError: fewer than three items are in both, or see :func:`~.item_response.linking.link_by_items`.
    """
    before, after = read_known(old).table, read_known(new).table
    shared = after.index[after.index.isin(before.index)]
    if len(shared) < FEWEST_LINKS:
        raise DataError(f"link: {len(shared)} items are in both calibrations; {FEWEST_LINKS} are needed")
    sides = before.loc[shared], after.loc[shared]
    source, target = _parameters(sides[1]), _parameters(sides[0])
    kept = np.ones(len(shared), dtype=bool)
    told = [f"{len(shared)} items are in both calibrations, of {len(before)} and {len(after)}"]
    error_old, error_new = (side["standard_error"].to_numpy() for side in sides)
    while True:
        link = link_by_items(source.take(kept), target.take(kept), method)
        drift = link.difficulty(source.difficulty) - target.difficulty
        error = np.hypot(error_old, link.scale * error_new)
        p = _p_adjusted(drift, error)
        worst = int(np.where(kept & (p < DRIFTED), np.abs(drift) / np.maximum(error, 1e-300), -1.0).argmax())
        if not kept[worst] or not p[worst] < DRIFTED:
            break
        if kept.sum() == FEWEST_LINKS:
            told.append("most items drifted, so that no link holds: look at what the two calibrations have in common")
            break
        kept[worst] = False
    if not error.all():
        told.append("an item without standard errors in both cannot be said to have drifted")
    told.append(f"new = {link.scale:.3f} x + {link.shift:.3f}, by {link.method} over {int(kept.sum())} items")
    drifted = p < DRIFTED
    if drifted.any():
        told.append(f"{int(drifted.sum())} items drifted: {', '.join(map(str, shared[drifted][:5]))}")
    return Linked(_table(after, shared, sides[0], link, drift, p), link, told)


def _parameters(table: pd.DataFrame) -> ItemParameters:
    slopes = table["discrimination"].to_numpy()
    return ItemParameters.from_difficulty(
        "1PL" if np.all(slopes == 1) else "2PL", table["difficulty"].to_numpy(), slopes
    )


def _p_adjusted(drift: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Two-sided, 1 where there is no error to judge by."""
    p = np.where(error > 0, 2 * ndtr(-np.abs(drift) / np.where(error > 0, error, 1.0)), 1.0)
    return benjamini_hochberg(p)


def _table(
    after: pd.DataFrame, shared: pd.Index, before: pd.DataFrame, link: Link, drift: np.ndarray, p: np.ndarray
) -> pd.DataFrame:
    found = pd.DataFrame(
        {
            "difficulty": link.difficulty(after["difficulty"].to_numpy()),
            "standard_error": link.scale * after["standard_error"].to_numpy(),
            "discrimination": after["discrimination"].to_numpy() / link.scale,
        },
        index=after.index,
    )
    found.loc[shared, "old_difficulty"] = before["difficulty"].to_numpy()
    found.loc[shared, "drift"], found.loc[shared, "p_adjusted"] = drift, p
    found["note"] = np.where(found["p_adjusted"] < DRIFTED, "drifted", "")
    return found.reset_index()


def main(arguments: Sequence[str] | None = None, program: str = "rayworks difficulty link") -> int:
    """Link two files; the exit code."""
    options = parser(program).parse_args(arguments)

    def linked() -> tuple[pd.DataFrame, Sequence[str]]:
        if options.old.resolve() == options.new.resolve():
            raise ConfigError(f"new: is the old calibration, {options.new}; name another file")
        found = link_calibrations(options.old, options.new, options.method)
        return found.items, found.notes

    return printed(linked, options.output)


def parser(program: str) -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog=program, description=PURPOSE, allow_abbrev=False)
    found.add_argument("old", type=Path, help="CSV of the calibration whose scale stays")
    found.add_argument("new", type=Path, help="CSV of the calibration to move")
    found.add_argument("--method", choices=("stocking-lord", "mean-sigma"), default="stocking-lord", help="of the link")
    found.add_argument("--output", type=Path, metavar="FILE", help="CSV to write instead of standard output")
    return found
