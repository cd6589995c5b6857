"""The analysis of one response set: fit, errors, abilities, diagnostics, stability, labels."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.config import Config
from rayworks.systems.difficulty.item_response import bayesian, model_fit
from rayworks.systems.difficulty.item_response.abilities import Abilities, posterior_means, weighted_likelihood
from rayworks.systems.difficulty.item_response.curves import ItemParameters, fitting_grid
from rayworks.systems.difficulty.item_response.expectations import expectation, working_of
from rayworks.systems.difficulty.item_response.extreme_items import Extremes
from rayworks.systems.difficulty.item_response.intervals import difficulty_intervals, remarks_on_intervals
from rayworks.systems.difficulty.item_response.item_fit import (
    aberrant_share,
    benjamini_hochberg,
    flipped_key,
    local_dependence,
    residual_fit,
    score_fit,
)
from rayworks.systems.difficulty.item_response.item_uncertainty import with_item_uncertainty
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration, fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.populations import by_attribute, by_design
from rayworks.systems.difficulty.item_response.priors import Priors, guessing_by_item, guessing_prior
from rayworks.systems.difficulty.item_response.remarks import (
    remarks,
    remarks_on_design,
    remarks_on_groups,
    remarks_on_scores,
)
from rayworks.systems.difficulty.item_response.sharded_fit import ShardedFit
from rayworks.systems.difficulty.item_response.standard_errors import StandardErrors, from_information, standard_errors
from rayworks.systems.difficulty.labels.label_form import label
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, describe_parts
from rayworks.systems.difficulty.responses.sources import ResponseSet

SHARDED_HALVINGS = 3
"""Of the split-half correlation over shards, where each costs two whole fits."""
DEPENDENT_PAIRS = 5
"""Most dependent item pairs kept for the report."""
BY_ITEM = ("discrimination", "difficulty", "guessing", "ceiling")
LARGEST_SPLIT = 60
"""Items above which the likelihood-ratio test of differential functioning, one refit each, is left to the statistic."""


def fit_options(config: Config) -> FitOptions:
    """The estimator's options from the config."""
    model = config.model
    guess = model.guessing_prior if model.options is None else guessing_prior(model.options)
    priors = Priors(model.difficulty_prior_sd, model.discrimination_prior_sd, guess)
    guessing = () if model.guessing is None else (model.guessing,)
    same = model.model_dump(include={"tolerance", "max_iterations", "nodes", "estimate_population"})
    estimator = model.estimator if model.estimator in ("map", "conditional") else "mml"
    return FitOptions(model.name, estimator, priors, guessing=guessing, **same)


def for_items(options: FitOptions, responses: Responses) -> FitOptions:
    """The options with the prior of guessing of each item that says how many there are to choose from."""
    guessing = guessing_by_item(responses.options, options.priors.guessing)
    return replace(options, priors=replace(options.priors, guessing=guessing))


def grouped(found: ResponseSet, config: Config) -> ResponseSet:
    """The set with the groups of subjects that ``model.groups`` names, if any.

    Raises:
        ConfigError: an attribute that subjects do not have, or groups that are no populations.
    """
    setting = config.model.groups
    if setting is None:
        return found
    if setting == "by-design":
        groups = by_design(found.responses)
        told = () if groups else ("model.groups by-design: no few, clear and linked groups; one population for all",)
        return replace(found, responses=replace(found.responses, groups=groups), told=(*found.told, *told))
    groups = by_attribute(found.responses, found.attribute(setting, "model.groups"), f"model.groups {setting}")
    return replace(found, responses=replace(found.responses, groups=groups))


@dataclass(frozen=True)
class Estimates:
    """A fit with its errors and the seconds both took."""

    calibration: Calibration
    errors: StandardErrors
    seconds: float
    convergence: str


def estimate(responses: Responses, matrix: ResponseMatrix, config: Config) -> Estimates:
    """Fit the configured model by the configured estimator."""
    options, started = for_items(fit_options(config), responses), time.perf_counter()
    if config.model.estimator in ("mml", "map", "conditional"):
        calibration = fit(matrix, options)
        errors = standard_errors(matrix, calibration, config.uncertainty.standard_errors, responses.family)
        ended = "converged" if calibration.converged else "stopped at max_iterations"
        told = f"{ended} after {calibration.iterations} E-steps"
        return Estimates(calibration, errors, time.perf_counter() - started, told)
    inference: bayesian.Inference = "variational" if config.model.estimator == "variational" else "nuts"
    found = bayesian.posterior(responses, options.model, inference, seed=config.run.seed)
    seconds = time.perf_counter() - started
    grid = fitting_grid(len(found.parameters))
    log_likelihood = expectation(matrix)(working_of(found.parameters), grid).log_likelihood
    everywhere = np.ones(len(found.parameters), dtype=bool)
    extreme = np.isin(responses.solve_rates(), (0.0, 1.0))
    marked = (everywhere, extreme, ~everywhere, Extremes.none(len(everywhere)))
    converged = found.converged is not False
    calibration = Calibration(found.parameters, grid, log_likelihood, 0, converged, [], *marked, options)
    zero = np.zeros(len(everywhere))
    errors = StandardErrors(found.difficulty_sd, found.discrimination_sd, zero, zero, 0.0, inference)
    told = "" if found.r_hat is None else f", R-hat {found.r_hat:.3f}, {found.effective_samples:.0f} effective samples"
    return Estimates(calibration, errors, seconds, f"{inference}{told}")


def calibrate(name: str, found: ResponseSet, config: Config) -> dict[str, Any]:
    """The results of one set, as plain values (arrays as lists): what the run keeps in its checkpoint."""
    responses = found.responses
    matrix = as_matrix(responses)
    estimates = estimate(responses, matrix, config)
    calibration = estimates.calibration
    ability = posterior_means(matrix, calibration)
    halves = split_half_correlations(matrix, calibration.options, config.run.seed, config.uncertainty.split_halves)
    evidence = np.bincount(responses.item, minlength=len(responses.items))
    reliability = ability.reliability
    ability = with_item_uncertainty(ability, matrix, calibration)
    doubts = [*remarks_on_groups(calibration, responses.groups), *remarks_on_scores(responses)]
    doubts += remarks_on_intervals(*difficulty_intervals(calibration, estimates.errors))
    doubts += [*remarks_on_design(calibration, responses, ability.ability)]
    return {
        "name": name,
        "subject_names": list(map(str, responses.subjects)),
        "subjects_without_response": len(found.subjects) - matrix.shape[0],
        "texts": [found.texts.get(str(item), "") for item in responses.items],
        "cells": len(responses.score),
        "families": len(np.unique(responses.family.astype(str))),
        **_fit_as_dict(responses.items, evidence, found.provenance, calibration, estimates.errors, ability, config),
        "reliability": reliability,
        "remarks": [*found.told, *remarks(calibration, responses.items), *doubts],
        "seconds": estimates.seconds,
        "convergence": estimates.convergence,
        "solve_rates": responses.solve_rates().tolist(),
        "split_half": {"mean": float(halves.mean()), "sd": float(halves.std(ddof=1)) if len(halves) > 1 else 0.0},
        **_compare(matrix, calibration, config),
        **_diagnose(responses, matrix, calibration, config),
        "functioning": _functioning(name, found, calibration, config),
    }


def calibrate_shards(name: str, items: np.ndarray, sharded: ShardedFit, config: Config) -> dict[str, Any]:
    """The same over shards of subjects: what needs all cells side by side is left out, as None or empty.

    Standard errors are those of the cross-product.

    Raises:
        DataError: the design is not connected.
        ConfigError: fewer subjects than parameters, which leaves the cross-product without an inverse.
    """
    options, started = fit_options(config), time.perf_counter()
    parts = sharded.components(len(items))
    if len(parts) > 1 and not config.data.allow_disconnected:
        raise DataError(f"{name}: {describe_parts(parts, items)}")
    calibration = sharded.fit(options)
    errors = from_information(sharded.information(calibration), calibration, "cross-product")
    seconds = time.perf_counter() - started
    ability = sharded.abilities(calibration)
    if len(ability.ability) <= calibration.free_parameters:
        raise ConfigError(
            f"{name}: has no more subjects than parameters ({calibration.free_parameters}); read it by memory"
        )
    cautious = replace(options, estimator="map")
    pairs = [[sharded.fit(cautious, (config.run.seed, n, side)) for side in (0, 1)] for n in range(SHARDED_HALVINGS)]
    halves = np.array([_correlation(*(half.parameters.difficulty for half in pair)) for pair in pairs])
    totals = sharded.totals()
    return {
        "name": name,
        "subject_names": sharded.subjects(),
        "subjects_without_response": 0,
        "texts": [""] * len(items),
        "cells": int(totals.seen.sum()),
        "families": len(ability.ability),
        **_fit_as_dict(items, totals.seen, name, calibration, errors, ability, config),
        "seconds": seconds,
        "convergence": f"{'converged' if calibration.converged else 'stopped'} after {calibration.iterations} E-steps",
        "solve_rates": (totals.scored / totals.seen).tolist(),
        "split_half": {"mean": float(halves.mean()), "sd": float(halves.std(ddof=1))},
        "criteria": [asdict(model_fit.criteria(calibration, len(ability.ability)))],
        "ratio_tests": {},
        "suspects": np.flatnonzero(calibration.suspects).tolist(),
        "misfitting": [],
        **dict.fromkeys(
            (
                "infit",
                "outfit",
                "flipped_key_p",
                "aberrant_subjects",
                "person_fit",
                "score_fit",
                "dependence",
                "held_out",
                "functioning",
            )
        ),
    }


def _fit_as_dict(
    items: np.ndarray,
    evidence: np.ndarray,
    source: str,
    calibration: Calibration,
    errors: StandardErrors,
    ability: Abilities,
    config: Config,
) -> dict[str, Any]:
    parameters = calibration.parameters
    provenance = {"method": f"{parameters.model} by {config.model.estimator}", "errors": errors.method, "set": source}
    labels = label(items, parameters.difficulty, errors.difficulty, evidence, provenance, **dict(config.labels))
    grid = np.linspace(-4, 4, 81) * parameters.population_sd
    return {
        "provenance": source,
        "subjects": len(ability.ability),
        "items": list(map(str, items)),
        "labels": labels.table.to_dict("list"),
        "label_provenance": labels.provenance,
        "information": {"ability": grid.tolist(), "test": parameters.information(grid).sum(0).tolist()},
        "parameters": parameters_as_dict(parameters),
        "errors": {
            "difficulty": errors.difficulty.tolist(),
            "discrimination": errors.discrimination.tolist(),
            "population_sd": errors.population_sd,
            "method": errors.method,
        },
        "log_likelihood": calibration.log_likelihood,
        "unbounded": np.flatnonzero(calibration.unbounded).tolist(),
        "remarks": remarks(calibration, items),
        "abilities": {"ability": ability.ability.tolist(), "error": ability.error.tolist()},
        "reliability": ability.reliability,
    }


def split_half_correlations(matrix: ResponseMatrix, options: FitOptions, seed: int, repeats: int) -> np.ndarray:
    """Correlation of difficulties from two random halves of the subjects, once per halving; priors everywhere.

    Halves are frequency weights of zero and one over the same matrix, so nothing is copied.
    """
    options = replace(options, estimator="map")
    subjects = matrix.shape[0]
    found = np.empty(repeats)
    for repeat in range(repeats):
        order = seeds.stream(seed, "split-half", repeat).permutation(subjects)
        half = np.zeros(subjects)
        half[order[: subjects // 2]] = 1.0
        sides = (half, 1 - half)
        seen = [matrix.item_counts(side[:, None])[:, 0] > 0 for side in sides]
        both = np.broadcast_to(seen[0] & seen[1], matrix.shape[1:])
        if not both.all():
            found[repeat] = np.nan
            continue
        first, second = (fit(matrix, options, side).parameters.difficulty for side in sides)
        found[repeat] = _correlation(first, second)
    kept = found[np.isfinite(found)]
    return kept if len(kept) else np.zeros(1)


def bootstrap_refit(
    responses: Responses, matrix: ResponseMatrix, options: FitOptions, seed: int, number: int
) -> np.ndarray:
    """Difficulties from the ``number``-th resample of the families (each subject its own where none is given), shape (I,).

    An item that no resampled subject saw is NaN in that resample, and all are where it has no conditional estimate.
    """
    names, member = np.unique(responses.family.astype(str), return_inverse=True)
    generator = seeds.stream(seed, "bootstrap", number)
    frequency = generator.multinomial(len(names), np.full(len(names), 1 / len(names)))[member].astype(float)
    seen = np.broadcast_to(matrix.item_counts(frequency[:, None])[:, 0] > 0, matrix.shape[1:])
    difficulty = np.full(matrix.shape[1], np.nan)
    if seen.all():
        try:
            return np.asarray(fit(matrix, for_items(options, responses), frequency).parameters.difficulty)
        except DataError:
            # A resample may lack what ties the items together without a population.
            if options.estimator != "conditional":
                raise
            return difficulty
    if seen.any():
        kept = np.flatnonzero(seen)
        part = responses.take_items(kept)
        difficulty[kept] = fit(as_matrix(part), for_items(options, part), frequency).parameters.difficulty
    return difficulty


def parameters_as_dict(parameters: ItemParameters) -> dict[str, Any]:
    """The parameters as plain values: discrimination, difficulty, guessing, ceiling per item, and the population's spread."""
    columns = {name: getattr(parameters, name).tolist() for name in BY_ITEM}
    return {"model": parameters.model, **columns, "population_sd": parameters.population_sd}


def parameters_from_dict(values: Mapping[str, Any]) -> ItemParameters:
    """The inverse of :func:`parameters_as_dict`."""
    columns = {name: np.array(values[name], dtype=float) for name in BY_ITEM}
    return ItemParameters.from_difficulty(values["model"], population_sd=float(values["population_sd"]), **columns)


def _compare(matrix: ResponseMatrix, calibration: Calibration, config: Config) -> dict[str, Any]:
    """Criteria of all models asked for, the likelihood-ratio tests of neighbours, and suspected label errors."""
    options = replace(calibration.options, guessing=())
    if options.estimator == "conditional":
        options = replace(options, estimator="mml")
    fits = {
        model: calibration if model == calibration.parameters.model else fit(matrix, replace(options, model=model))
        for model in sorted({*config.model.compare, config.model.name})
    }
    models = list(fits)
    tests = {
        large: {"against": small, **asdict(model_fit.likelihood_ratio(fits[small], fits[large]))}
        for small, large in pairwise(models)
        if _comparable(fits[small], fits[large])
    }
    free = fits.get("2PL") or fit(matrix, replace(options, model="2PL", estimator="mml"))
    return {
        "criteria": [asdict(model_fit.criteria(found, matrix.shape[0])) for found in fits.values()],
        "ratio_tests": tests,
        "suspects": np.flatnonzero(free.suspects).tolist(),
    }


def _comparable(smaller: Calibration, larger: Calibration) -> bool:
    """Whether both are maxima of the marginal likelihood, no item has a prior, and one is a special case of the other."""
    penalised = bool(smaller.with_prior.any() or larger.with_prior.any())
    conditional = "conditional" in (smaller.options.estimator, larger.options.estimator)
    return not penalised and not conditional and larger.free_parameters > smaller.free_parameters


def _diagnose(responses: Responses, matrix: ResponseMatrix, calibration: Calibration, config: Config) -> dict[str, Any]:
    parameters = calibration.parameters
    ability = weighted_likelihood(responses, parameters).ability
    residual = residual_fit(responses, parameters, ability)
    scores = score_fit(matrix, calibration)
    dependence = local_dependence(responses, parameters, ability)
    centred = dependence - np.nanmean(dependence)
    pairs = np.dstack(np.triu_indices(len(parameters), 1))[0]
    strength = np.nan_to_num(np.abs(centred[pairs[:, 0], pairs[:, 1]]), nan=0.0)
    strongest = pairs[np.argsort(-strength)[:DEPENDENT_PAIRS]]
    options = replace(calibration.options, estimator="map")
    masked = model_fit.held_out(responses, options, config.run.seed, config.uncertainty.held_out_share)
    return {
        "infit": residual.infit.tolist(),
        "outfit": residual.outfit.tolist(),
        "flipped_key_p": _plain(benjamini_hochberg(flipped_key(responses))),
        "misfitting": np.flatnonzero(residual.flagged).tolist(),
        "aberrant_subjects": aberrant_share(residual.person),
        "person_fit": _plain(residual.person),
        "score_fit": {
            "statistic": _plain(scores.statistic),
            "degrees": _plain(scores.degrees),
            "p_adjusted": _plain(scores.p_adjusted),
            "subjects": scores.subjects,
        },
        "dependence": {
            "largest": float(strength.max(initial=0.0)),
            "mean": float(np.nanmean(dependence)),
            "pairs": [[int(i), int(j), float(dependence[i, j])] for i, j in strongest],
        },
        "held_out": masked and {name: None if value != value else value for name, value in asdict(masked).items()},
    }


def _functioning(name: str, found: ResponseSet, calibration: Calibration, config: Config) -> dict[str, Any] | None:
    rule = config.data.focal.get(name)
    if rule is None or len(found.responses.items) > LARGEST_SPLIT:
        return None
    result = model_fit.differential_functioning(found.responses, calibration, found.focal(rule))
    return {"focal": rule, **{key: _plain(values) for key, values in vars(result).items()}}


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
