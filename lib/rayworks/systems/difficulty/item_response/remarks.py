"""What a calibration rests on beside the responses, in sentences: priors, conventions and limits that change a number."""

from collections.abc import Sequence

import numpy as np

from rayworks.systems.difficulty.item_response.extreme_items import ADJUSTMENT
from rayworks.systems.difficulty.item_response.marginal_likelihood import (
    GRID_TOLERANCE,
    LOG_SPREAD_SD,
    Calibration,
)
from rayworks.systems.difficulty.responses.response_store import Groups, Responses, shown

FEWEST_SUBJECTS = 8
SELECTED = 0.3
"""Correlation of ability with the difficulty of the items seen, from which on a design is named selective."""


def remarks(calibration: Calibration, items: Sequence[str] | np.ndarray) -> list[str]:
    """One sentence for each prior, convention or limit; none where the responses alone made every number."""
    names, held = np.asarray(items, dtype=object), calibration.with_prior
    extreme, priors = calibration.extremes.mask, calibration.options.priors
    told = []
    if extreme.any():
        by = (
            "the prior of the others"
            if calibration.options.estimator == "map"
            else f"convention (a score {ADJUSTMENT:g} of a response from its end)"
        )
        told.append(
            f"no finite difficulty, for all or none solved them; they do not touch the others and have a value by {by}: "
            f"{shown(names[extreme])}"
        )
    if calibration.options.estimator == "conditional":
        told.append(
            "difficulties by conditional likelihood, whatever the abilities and whoever saw which item; their origin is the "
            "mean of a normal population"
        )
    mean = "that of the items" if priors.difficulty_mean is None else f"{priors.difficulty_mean:.2f}"
    normal = f"difficulties normal around {mean} with deviation {priors.difficulty_sd:g}"
    if calibration.parameters.model != "1PL":
        normal += f", log discriminations around 0 with {priors.discrimination_sd:g}"
    if calibration.nested:
        told.append(
            "the answers are nested (who solves a harder item solves all easier ones), so the scale has no finite estimate; "
            f"priors hold all of it: {normal}, log spread of abilities around 0 with {LOG_SPREAD_SD:g}"
        )
    elif held.any() and (held | extreme).all():
        told.append(f"a prior holds all items: {normal}")
    elif held.any():
        told.append(
            f"no finite estimate from the responses alone, so a prior holds them ({normal}): {shown(names[held])}"
        )
    if calibration.working.estimates_lower:
        mean = np.mean(np.divide(priors.guessing[0], np.add(*priors.guessing)))
        told.append(f"a beta prior of mean {mean:.2f} holds the guessing of all items; say how many options they have")
    if calibration.parameters.model == "1PL" and (~extreme).sum() < 2:
        told.append("the spread of abilities is taken to be 1, for a single item does not tell it")
    if calibration.suspects.any():
        told.append(
            f"suspected label errors, for the more able solve them less often: {shown(names[calibration.suspects])}"
        )
    if calibration.grid_error > GRID_TOLERANCE:
        told.append(
            f"the grid of abilities is too narrow or coarse: on a finer one a step moves a parameter by "
            f"{calibration.grid_error:.2g}; leave model.nodes at 0"
        )
    if not calibration.converged:
        told.append("the fit did not converge; take estimator map or a model with fewer parameters")
    return told


def remarks_on_groups(calibration: Calibration, groups: Groups | None) -> list[str]:
    """A sentence on the populations of groups, where there are several."""
    if groups is None or not len(calibration.mean):
        return []
    count = np.bincount(groups.member, minlength=len(groups.names))
    each = [
        f"{name} ({number:,}) mean {mean:.2f}, deviation {sd:.2f}"
        for name, number, (mean, sd) in zip(groups.names, count, calibration.populations, strict=True)
    ]
    return [f"each group of subjects is a normal population of its own: {'; '.join(each)}"]


def remarks_on_scores(responses: Responses) -> list[str]:
    """A sentence where averages of attempts would count as one response each."""
    if not (attempts := responses.looks_averaged):
        return []
    return [
        f"scores look like averages of {attempts} attempts and count as one response each; if they are, say data.attempts: "
        f"{attempts} (or give a column attempts), for errors are too wide"
    ]


def remarks_on_design(calibration: Calibration, responses: Responses, ability: np.ndarray) -> list[str]:
    """A sentence where who saw which item went by ability, which one population for all subjects does not know.

    Args:
        ability: posterior mean of each subject, shape (J,).
    """
    subjects, items = responses.shape
    repaired = len(calibration.mean) or calibration.options.estimator == "conditional"
    if repaired or len(responses.score) == subjects * items or subjects < FEWEST_SUBJECTS:
        return []
    usual = ~calibration.extremes.mask[responses.item]
    cell, harder = responses.subject[usual], calibration.parameters.difficulty[responses.item[usual]]
    seen = np.bincount(cell, minlength=subjects)
    asked = np.bincount(cell, harder, subjects) / np.maximum(seen, 1)
    kept = (seen > 0) & np.isfinite(asked)
    if kept.sum() < FEWEST_SUBJECTS or np.ptp(asked[kept]) < 1e-9 or np.ptp(ability[kept]) < 1e-9:
        return []
    r = float(np.corrcoef(ability[kept], asked[kept])[0, 1])
    # Fisher's z: chance alone reaches four deviations once in thirty thousand data sets.
    if abs(r) < SELECTED or abs(np.arctanh(np.clip(r, -0.999, 0.999))) * np.sqrt(kept.sum() - 3) < 4:
        return []
    told = "harder" if r > 0 else "easier"
    return [
        f"selective design: the abler subjects saw the {told} items (r = {r:.2f}); one normal population for all of them "
        "pulls difficulties together, and the intervals do not count that. Say model.groups: by-design (or a column that "
        "tells the groups; 1PL and 2PL), or model.estimator: conditional (1PL), or have all subjects answer the same items"
    ]
