"""Predictions for subjects outside the calibration: score from adaptive tests, accuracy against difficulty."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.systems.difficulty.answering.profiles import Profile, profile
from rayworks.systems.difficulty.calibration import fit_options, for_items
from rayworks.systems.difficulty.config import Config
from rayworks.systems.difficulty.item_response.adaptive_tests import ScoreErrors, choose, measure
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import parameter_covariance
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses

MOST_FAMILIES = 12
"""Most families that a figure can show as groups."""


def folds(responses: Responses, count: int, seed: int) -> np.ndarray:
    """A fold per subject, shape (J,); a family stays together where there are at least ``count`` of them."""
    names, member = np.unique(responses.family.astype(str), return_inverse=True)
    units = member if len(names) >= count else np.arange(len(member))
    order = seeds.stream(seed, "folds").permutation(int(units.max()) + 1)
    return np.asarray(order[units] % count)


def adaptive_test_errors(responses: Responses, config: Config) -> list[dict[str, Any]]:
    """Errors of the score of new subjects from adaptive tests of each size, averaged over folds.

    Only subjects who answered all items have a true score; without two of them in every fold the list is empty.
    """
    items = len(responses.items)
    counts = np.bincount(responses.subject, minlength=len(responses.subjects))
    fold = folds(responses, config.adaptive_tests.folds, config.run.seed)
    sizes = [size for size in config.adaptive_tests.sizes if size < items]
    found: dict[int, list[ScoreErrors]] = {size: [] for size in sizes}
    streams = (seeds.stream(config.run.seed, "subset", n) for n in range(config.adaptive_tests.random_draws))
    draws = np.array([stream.permutation(items) for stream in streams])
    options = for_items(_for_few_subjects(fit_options(config)), responses)
    for number in range(config.adaptive_tests.folds):
        new = np.flatnonzero((fold == number) & (counts == items))
        old = responses.take_subjects(np.flatnonzero(fold != number))
        if len(new) < 2 or len(np.unique(old.item)) < items:
            return []
        matrix = as_matrix(old)
        calibration = fit(matrix, options)
        covariance, held_out = parameter_covariance(matrix, calibration), responses.take_subjects(new)
        for size in sizes:
            error = measure(calibration.parameters, calibration.quadrature, held_out, size, draws, covariance)
            found[size].append(error)
    averaged = [field.name for field in fields(ScoreErrors) if field.name != "size"]
    return [
        {"size": size, **{name: float(np.mean([getattr(one, name) for one in errors])) for name in averaged}}
        for size, errors in found.items()
    ]


def best_adaptive_test(responses: Responses, config: Config, size: int) -> list[int]:
    """Items of the adaptive test to use from now on, chosen on all subjects."""
    options = for_items(_for_few_subjects(fit_options(config)), responses)
    calibration = fit(as_matrix(responses), options)
    return [int(item) for item in choose(calibration.parameters, calibration.quadrature, size).items]


def group_profiles(responses: Responses, config: Config) -> list[dict[str, Any]]:
    """Accuracy against difficulty of each family, with difficulties from the other families' responses only.

    Without families to tell apart, thirds of the subjects by score stand for them, with everybody's difficulties; the
    name of the group says so.
    """
    names, member = np.unique(responses.family.astype(str), return_inverse=True)
    honest = 2 <= len(names) <= MOST_FAMILIES and len(names) < len(responses.subjects)
    if honest:
        groups = [(str(name), member == number) for number, name in enumerate(names)]
    else:
        rank = np.argsort(np.argsort(responses.subject_means(), kind="stable"), kind="stable")
        third = rank * 3 // len(rank)
        parts = enumerate(("lowest", "middle", "highest"))
        groups = [(f"{part} third by score", third == number) for number, part in parts]
    options = _for_few_subjects(fit_options(config))
    found = []
    for name, mask in groups:
        others = responses.take_subjects(np.flatnonzero(~mask)) if honest else responses
        seen = np.unique(others.item)
        if len(others.subjects) < 2 or len(seen) < 4:
            continue
        difficulty = np.full(len(responses.items), np.nan)
        part = others.take_items(seen)
        difficulty[seen] = fit(as_matrix(part), for_items(options, part)).parameters.difficulty
        part = responses.take_subjects(np.flatnonzero(mask))
        rates = part.solve_rates()
        kept = np.isfinite(rates) & np.isfinite(difficulty)
        if not kept.any():
            continue
        curve = profile(difficulty[kept], rates[kept], seed=config.run.seed)
        found.append({"group": name, "subjects": int(mask.sum()), "held_out": honest, **profile_as_dict(curve)})
    return found


def profile_as_dict(found: Profile) -> dict[str, Any]:
    """The profile as plain values; a number that is not finite becomes None."""
    values: dict[str, Any] = {name: vars(found)[name] for name in vars(found) if name != "curve"}
    values |= {"curve": {name: array.tolist() for name, array in vars(found.curve).items()}}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = value.tolist()
        elif isinstance(value, float) and not np.isfinite(value):
            values[name] = None
    return values


def _for_few_subjects(options: FitOptions) -> FitOptions:
    """Priors on all items: parts of the subjects are few."""
    return replace(options, estimator="map")
