"""The six label sets of Easy2Hard-Bench rebuilt from their evidence: solve rates, games, or model responses.

What the paper leaves open (linking, priors, rating periods, normalisation) is an argument here, never a hidden choice.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.labels.label_form import Labels, label
from rayworks.systems.difficulty.labels.solve_rates import fit_solve_rates
from rayworks.systems.difficulty.ratings.glicko2 import Glicko2Options, rate_period
from rayworks.systems.difficulty.ratings.period_labels import number_periods
from rayworks.systems.difficulty.ratings.rating_games import Ratings
from rayworks.systems.difficulty.ratings.rating_periods import chronological, converged, problem_games
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses

Mode = Literal["chronological", "converged"]
EVIDENCE: dict[str, Literal["solve-rates", "attempts", "responses"]] = {
    "amc": "solve-rates",
    "codeforces": "attempts",
    "lichess": "attempts",
    "gsm8k": "responses",
    "arc": "responses",
    "winogrande": "responses",
}
"""What each set's label is made from."""


def from_solve_rates(
    rates: pd.DataFrame, known: Mapping[str, tuple[float, float]] | None = None, **options: Any
) -> Labels:
    """E2H-AMC: item, population, solve_rate, solvers to labels; see :func:`~.solve_rates.fit_solve_rates`."""
    found = fit_solve_rates(rates, known)
    provenance = {"method": "1PL from solve rates", "populations": found.populations}
    return label(found.items, found.difficulty, found.error, found.evidence, provenance, **options)


def from_responses(responses: Responses, fitting: FitOptions | None = None, **options: Any) -> Labels:
    """E2H-GSM8K, -ARC, -Winogrande: responses of many models to labels.

    The default is the 1PL, whose order is that of the models' mean accuracy. Which model the paper used is unverified.
    """
    fitting = fitting or FitOptions(model="1PL")
    matrix = as_matrix(responses)
    calibration = fit(matrix, fitting)
    errors = standard_errors(matrix, calibration)
    evidence = np.bincount(responses.item, minlength=len(responses.items))
    method = f"{fitting.model} {fitting.estimator}"
    provenance = {"method": method, "errors": errors.method, "subjects": matrix.shape[0]}
    return label(responses.items, calibration.parameters.difficulty, errors.difficulty, evidence, provenance, **options)


def from_attempts(
    attempts: pd.DataFrame,
    contestants: pd.DataFrame,
    options: Glicko2Options | None = None,
    *,
    mode: Mode = "converged",
    unattempted_unsolved: bool = False,
    **label_options: Any,
) -> Labels:
    """E2H-Codeforces, -Lichess: attempts as games between problems and contestants of known rating.

    Args:
        attempts: columns ``problem``, ``contestant``, ``solved``, ``period`` (sorts by time).
        contestants: columns ``contestant``, ``rating``, ``deviation``: as they entered, on Glicko's scale. One who enters
            several contests with different ratings is one contestant per contest.
        options: of Glicko-2, the problems' starting rating among them.
        mode: ``chronological`` is the published algorithm, ``converged`` has calibrated deviations.
        unattempted_unsolved: a contestant of a period lost to every problem of it that he did not try. It makes late
            problems look harder; unverified in the paper.
        label_options: passed to :func:`~.labels.label`.

    Raises:
        DataError: columns are missing, or a contestant has no rating.
    """
    for name, table, columns in (
        ("attempts", attempts, ("problem", "contestant", "solved", "period")),
        ("contestants", contestants, ("contestant", "rating", "deviation")),
    ):
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise DataError(f"{name}: have no column {', '.join(missing)}; needed are {', '.join(columns)}")
        for column in columns:
            empty = table[column].isna().to_numpy()
            if empty.any():
                raise DataError(f"{name}: row {int(empty.argmax()) + 1} has no {column}; complete it or drop the row")
    options = options or Glicko2Options()
    if unattempted_unsolved:
        attempts = _with_unattempted(attempts)
    problems = list(dict.fromkeys(attempts["problem"].astype(str)))
    numbered = number_periods(attempts["period"]).of_game
    attempts = attempts.iloc[np.argsort(numbered, kind="stable")]
    known = contestants.astype({"contestant": str})
    # Numbers of contests are names: what lies between two of them is no time in which a rating ages.
    period = np.unique(np.sort(numbered), return_inverse=True)[1]
    problem, contestant = (attempts[column].astype(str).tolist() for column in ("problem", "contestant"))
    solved = attempts["solved"].to_numpy(float)
    games = problem_games(problems, known["contestant"].tolist(), problem, contestant, solved, period)
    begin = options.start(len(problems) + len(known))
    start = Ratings(
        np.concatenate([begin.rating[: len(problems)], known["rating"].to_numpy(float)]),
        np.concatenate([begin.deviation[: len(problems)], known["deviation"].to_numpy(float)]),
        begin.volatility,
    )
    fixed = np.arange(len(start)) >= len(problems)
    rate = partial(rate_period, options=options)
    if mode == "converged":
        ratings = converged(start, games, rate, fixed=fixed).ratings
    else:
        ratings = start
        for snapshot in chronological(start, games, rate, fixed=fixed):
            ratings = snapshot.ratings
    count = len(problems)
    evidence = np.bincount(games.player, minlength=count)[:count]
    provenance = {"method": f"Glicko-2 {mode}", "tau": options.tau, "unattempted_unsolved": unattempted_unsolved}
    items, value, std = np.array(problems, dtype=object), ratings.rating[:count], ratings.deviation[:count]
    return label(items, value, std, evidence, provenance, **label_options)


def _with_unattempted(attempts: pd.DataFrame) -> pd.DataFrame:
    """Add a lost game for each contestant and problem of the same period that did not meet."""
    pairs = [
        pd.MultiIndex.from_product([[period], part["problem"].unique(), part["contestant"].unique()])
        for period, part in attempts.groupby("period")
    ]
    full = pd.concat([index.to_frame(index=False, name=["period", "problem", "contestant"]) for index in pairs])
    met = full.merge(attempts, on=["period", "problem", "contestant"], how="left")
    return met.assign(solved=met["solved"].astype(float).fillna(0.0))
