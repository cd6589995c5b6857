"""Answers to requests: calls of the library, without HTTP."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core import config as configs
from rayworks.core.errors import DataError
from rayworks.systems.difficulty.calibration import Estimates, estimate
from rayworks.systems.difficulty.config import Config, RatingSection
from rayworks.systems.difficulty.item_response import abilities
from rayworks.systems.difficulty.item_response.adaptive_tests import predict_score
from rayworks.systems.difficulty.item_response.curves import ItemParameters
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit as fit_items
from rayworks.systems.difficulty.item_response.remarks import remarks, remarks_on_design, remarks_on_scores
from rayworks.systems.difficulty.labels.label_form import label
from rayworks.systems.difficulty.rating_run import rate_of
from rayworks.systems.difficulty.ratings.period_labels import number_periods
from rayworks.systems.difficulty.ratings.rating_games import PeriodReport, Ratings
from rayworks.systems.difficulty.ratings.rating_periods import Games, RatePeriod, chronological, converged
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_matrix, from_table, shown

from . import difficulty_schemas as schemas
from .difficulty_item_bank import CalibratedSet, interval, label_fields

MOST_UPDATES = 2_000_000
"""Players times periods: a period's report has an entry per player."""


def read_responses(body: schemas.FitBody) -> Responses:
    """The store of a request, checked.

    Raises:
        DataError: naming the row or the items at fault.
    """
    if body.matrix is not None:
        matrix = np.array(body.matrix, dtype=float, ndmin=2)
        subjects = body.subjects or [f"subject-{number}" for number in range(matrix.shape[0])]
        items = body.items or [f"item-{number}" for number in range(matrix.shape[1])]
        return from_matrix(matrix, subjects, items, attempts=body.attempts, allow_disconnected=body.allow_disconnected)
    rows = body.responses or []
    columns = {
        name: [getattr(row, name) for row in rows] for name in ("subject", "item", "score", "weight", "attempts")
    }
    table = pd.DataFrame({**columns, "family": [row.family or row.subject for row in rows]})
    merging: dict[str, Any] = {"duplicates": body.duplicates, "allow_disconnected": body.allow_disconnected}
    return from_table(table, "responses", **merging)


def run_settings(body: schemas.FitBody) -> dict[str, Any]:
    """The settings of a difficulty run that does what the request asks: dotted field to value."""
    guessing = {} if body.guessing is None else {"model.guessing": body.guessing}
    return {
        "data.allow_disconnected": body.allow_disconnected,
        "model.name": body.model,
        "model.estimator": body.estimator,
        **guessing,
        **({} if body.options is None else {"model.options": body.options}),
        "uncertainty.standard_errors": body.standard_errors,
        "labels.bins": body.bins,
        "labels.normalisation": body.normalisation,
    }


def fit(body: schemas.FitBody, responses: Responses) -> schemas.FitAnswer:
    """Calibrate the items.

    Raises:
        DataError, ConfigError: the data do not allow what is asked.
    """
    config = configs.resolve(Config, overrides=run_settings(body))
    matrix = as_matrix(responses)
    found = estimate(responses, matrix, config)
    calibration, errors, parameters = found.calibration, found.errors, found.calibration.parameters
    evidence = np.bincount(responses.item, minlength=len(responses.items))
    labels = label(responses.items, parameters.difficulty, errors.difficulty, evidence, {}, **dict(config.labels))
    fields, rates = label_fields(labels.table), responses.solve_rates()
    suspects = _suspects(matrix, found)
    found_abilities = abilities.posterior_means(matrix, calibration)
    reliability = found_abilities.reliability
    items = [
        schemas.FittedItem(
            **fields[str(name)],
            discrimination=float(parameters.discrimination[position]),
            discrimination_error=float(errors.discrimination[position]),
            guessing=float(parameters.guessing[position]),
            ceiling=float(parameters.ceiling[position]),
            solve_rate=float(rates[position]),
            held_by_prior=bool(calibration.with_prior[position]),
            unbounded=bool(calibration.unbounded[position]),
            suspected_label_error=bool(suspects[position]),
        )
        for position, name in enumerate(responses.items)
    ]
    return schemas.FitAnswer(
        model=parameters.model,
        estimator=body.estimator,
        standard_errors=errors.method,
        subjects=matrix.shape[0],
        cells=len(responses.score),
        log_likelihood=calibration.log_likelihood,
        population_sd=parameters.population_sd,
        reliability=float(reliability) if np.isfinite(reliability) else None,
        converged=calibration.converged,
        iterations=calibration.iterations,
        seconds=found.seconds,
        warnings=[
            *_fit_warnings(body, responses, found, suspects),
            *remarks_on_design(calibration, responses, found_abilities.ability),
        ],
        items=items,
    )


def rate(body: schemas.RateBody, expires: float) -> schemas.RateAnswer:
    """Rate the players.

    Args:
        expires: reading of ``time.monotonic`` at which to give up between two periods.

    Raises:
        DataError: the games cannot be rated.
        TimeoutError: past ``expires``.
    """
    rows, roles = _sides(body)
    players = list(roles)
    unknown = next((name for name in body.ratings if name not in roles), None)
    if unknown is not None:
        raise DataError(f"ratings: {unknown!r} has no game; leave it out or add one")
    position = {name: number for number, name in enumerate(players)}
    one, two, scores, weights, periods_of = zip(*rows, strict=True)
    labels = number_periods(pd.Series(periods_of, dtype=object).fillna(0))
    period = labels.of_game
    order = np.argsort(period, kind="stable")
    player, opponent = (np.array([position[name] for name in side])[order] for side in (one, two))
    score, weight = (np.array(column, dtype=float)[order] for column in (scores, weights))
    games = Games(player, opponent, score, period[order], weight)
    periods = len(np.unique(period))
    if periods * len(players) > MOST_UPDATES:
        raise DataError(
            f"period: {len(players)} players in {periods} periods are {periods * len(players)} updates, at most "
            f"{MOST_UPDATES} are taken; send longer periods, or the games in parts with the ratings of the part before"
        )
    start, fixed = _start(body, players)
    itself = np.flatnonzero(games.player == games.opponent)
    if len(itself):
        raise DataError(f"opponent: {players[games.player[itself[0]]]!r} meets itself; drop the game")
    section = RatingSection(glicko2=body.glicko2, glicko1=body.glicko1, elo=body.elo)
    rate_one = _until(expires, rate_of(section, body.system))
    warnings, passes, settled = [f"ratings age by the periods that passed: {labels.told}"], 1, True
    if len(labels.number) == 1:
        warnings.clear()
    if body.mode == "chronological":
        ratings, reports = start, list[PeriodReport]()
        for snapshot in chronological(start, games, rate_one, fixed=fixed):
            ratings = snapshot.ratings
            reports.append(snapshot.report)
    else:
        result = converged(start, games, rate_one, fixed=fixed)
        ratings, reports, passes, settled = result.ratings, list(result.reports), result.passes, not len(result.moving)
        warnings += _rating_warnings(players, fixed, result.unanimous, result.moving)
    capped = _capped(reports)
    counts = np.bincount(np.concatenate([games.player, games.opponent]), minlength=len(players))
    return schemas.RateAnswer(
        system=body.system,
        mode=body.mode,
        periods=periods,
        passes=passes,
        converged=settled,
        capped_updates=sum(report.capped_updates for report in reports),
        warnings=warnings,
        players=[
            schemas.RatedPlayer(
                player=name,
                role=roles[name],
                rating=float(ratings.rating[number]),
                deviation=float(ratings.deviation[number]),
                volatility=float(ratings.volatility[number]),
                interval=interval(float(ratings.rating[number]), float(ratings.deviation[number])),
                games=int(counts[number]),
                fixed=bool(fixed[number]),
                capped=capped.get(number, []),
            )
            for number, name in enumerate(players)
        ],
    )


def score(body: schemas.ScoreBody, known: CalibratedSet | None) -> schemas.ScoreAnswer:
    """A subject's ability on items of known parameters; ``known`` where the request brings none.

    Raises:
        DataError: a response is to no item.
    """
    if known is not None:
        names, position, parameters = [item.item for item in known.items], known.position, known.parameters
    else:
        items = body.items or []
        names = [item.item for item in items]
        position = {name: number for number, name in enumerate(names)}
        fields = ("difficulty", "discrimination", "guessing", "ceiling")
        columns: dict[str, Any] = {field: np.array([getattr(item, field) for item in items]) for field in fields}
        parameters = ItemParameters.from_difficulty("4PL", population_sd=body.population_sd, **columns)
        if not (parameters.guessing.any() or (parameters.ceiling < 1).any()):
            parameters = replace(parameters, model="2PL")
    unknown = next((item for item in body.responses if item not in position), None)
    if unknown is not None:
        raise DataError(f"responses: {unknown!r} is not an item; known are {shown(names)}")
    if body.estimator == "WLE" and not body.responses:
        raise DataError("responses: are none; the estimator WLE needs at least one, EAP and MAP need none")
    asked = np.array([position[item] for item in body.responses], dtype=np.int32)
    one = np.array(["subject"], dtype=object)
    responses = Responses(
        subjects=one,
        items=np.array(names, dtype=object),
        subject=np.zeros(len(asked), dtype=np.int32),
        item=asked,
        score=np.array(list(body.responses.values()), dtype=float),
        weight=np.ones(len(asked)),
        family=one,
    )
    grid = abilities.scoring_grid(len(names))
    found = abilities.estimate(responses, as_matrix(responses), parameters, grid, body.estimator)
    ability, error = float(found.ability[0]), float(found.error[0])
    answered = np.zeros(len(names), dtype=bool)
    answered[asked] = True
    following = None if answered.all() else abilities.next_item(parameters, ability, error, answered)
    expected, expected_error = predict_score(responses, parameters, grid, np.flatnonzero(answered))
    return schemas.ScoreAnswer(
        estimator=body.estimator,
        ability=ability,
        standard_error=error,
        interval=interval(ability, error),
        expected_score=float(expected[0]),
        expected_score_error=float(expected_error[0]),
        answered=len(asked),
        items=len(names),
        next_item=following
        and schemas.NextItemAnswer(
            item=names[following.item],
            information=following.information,
            expected_standard_error=following.error_after,
        ),
    )


def smallest_fit() -> float:
    """A real fit of three items, for the health check; its log-likelihood."""
    body = schemas.FitBody(matrix=[[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0]])
    return fit(body, read_responses(body)).log_likelihood


def _suspects(matrix: ResponseMatrix, found: Estimates) -> np.ndarray:
    """Items whose discrimination is not positive in a 2PL that no prior holds back."""
    options = found.calibration.options
    if (options.model, options.estimator) == ("2PL", "mml"):
        return found.calibration.suspects
    try:
        return fit_items(matrix, replace(options, model="2PL", estimator="mml", guessing=())).suspects
    except DataError:
        return np.zeros(matrix.shape[1], dtype=bool)


def _fit_warnings(body: schemas.FitBody, responses: Responses, found: Estimates, suspects: np.ndarray) -> list[str]:
    warnings = [
        *remarks(replace(found.calibration, suspects=suspects), responses.items),
        *(told.replace("data.", "") for told in remarks_on_scores(responses)),
    ]
    if body.allow_disconnected and (parts := len(responses.components())) > 1:
        warnings.append(f"{parts} parts share no subject; their scales rest on one population for all")
    return warnings


def _sides(body: schemas.RateBody) -> tuple[list[tuple[str, str, float, float, Any]], dict[str, Any]]:
    """Rows of player, opponent, score, weight, period; and players by name to their role."""
    if body.games is not None:
        rows = [(row.player, row.opponent, row.score, row.weight, row.period) for row in body.games]
        return rows, dict.fromkeys((side for row in rows for side in row[:2]), "player")
    attempts = body.attempts or []
    # The problem wins when it is not solved.
    rows = [(row.problem, row.contestant, 1 - row.solved, row.weight, row.period) for row in attempts]
    problems, contestants = dict.fromkeys(row[0] for row in rows), dict.fromkeys(row[1] for row in rows)
    if both := problems.keys() & contestants.keys():
        raise DataError(f"attempts: {min(both)!r} is problem and contestant; give them two names")
    return rows, {**dict.fromkeys(problems, "problem"), **dict.fromkeys(contestants, "contestant")}


def _start(body: schemas.RateBody, players: list[str]) -> tuple[Ratings, np.ndarray]:
    fresh = body.glicko2.start(len(players))
    fixed = np.zeros(len(players), dtype=bool)
    for number, name in enumerate(players):
        if (known := body.ratings.get(name)) is not None:
            fresh.rating[number], fixed[number] = known.rating, known.fixed
            fresh.deviation[number] = known.deviation or fresh.deviation[number]
            fresh.volatility[number] = known.volatility or fresh.volatility[number]
    return fresh, fixed


def _until(expires: float, rate_one: RatePeriod) -> RatePeriod:
    """The same, giving up past ``expires``: many periods are a long loop that a thread cannot be stopped in."""

    def rate_in_time(*arguments: Any, **options: Any) -> tuple[Ratings, PeriodReport]:
        if time.monotonic() > expires:
            raise TimeoutError
        return rate_one(*arguments, **options)

    return rate_in_time


def _capped(reports: list[PeriodReport]) -> dict[int, list[str]]:
    capped: dict[int, dict[str, None]] = {}
    for report in reports:
        for guard, numbers in report.capped.items():
            for number in numbers.tolist():
                capped.setdefault(number, {})[guard] = None
    return {number: list(guards) for number, guards in capped.items()}


def _rating_warnings(players: list[str], fixed: np.ndarray, unanimous: np.ndarray, moving: np.ndarray) -> list[str]:
    names = np.array(players, dtype=object)
    warnings = []
    if not fixed.any():
        warnings.append("no player is fixed: only differences of ratings mean something")
    if len(unanimous):
        warnings.append(f"only won or only lost, so half a draw was mixed in: {shown(names[unanimous])}")
    if len(moving):
        warnings.append(f"still moving when the passes ran out: {shown(names[moving])}")
    return warnings
