"""Published numbers, caps, and sequences of rating periods."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.difficulty.ratings.glicko2 import (
    GLICKO2,
    LICHESS,
    LICHESS_BLEND,
    Glicko2Options,
    blend,
    even_odds_rating,
    new_volatility,
    rate_period,
)
from rayworks.systems.difficulty.ratings.rating_baselines import EloOptions, GlickoOptions, rate_elo, rate_glicko1
from rayworks.systems.difficulty.ratings.rating_games import Ratings
from rayworks.systems.difficulty.ratings.rating_periods import (
    Games,
    chronological,
    converged,
    problem_games,
    rating_history,
)

NO_GAMES = (np.zeros(0, int), np.zeros(0, int), np.zeros(0))
LICHESS_GAME = GLICKO2.model_copy(update={"tau": 0.75, "elapsed_periods": 0.0})
UNCAPPED = Glicko2Options(max_volatility=None, max_rating_change=None, max_deviation=1e9)


def players(*states: tuple[float, float, float]) -> Ratings:
    rating, deviation, volatility = np.array(states, float).T
    return Ratings(rating, deviation, volatility)


def after_one_player(
    state: tuple[float, float, float], opponents: list[tuple[float, float]], scores: list[float], **options: Any
) -> tuple[float, float, float]:
    """The first player's state after games against opponents whose ratings stay."""
    ratings = players(state, *((rating, deviation, 0.06) for rating, deviation in opponents))
    games = np.arange(len(scores)) % len(opponents) + 1
    fixed = np.arange(len(ratings)) > 0
    found, _ = rate_period(
        ratings,
        np.zeros_like(games),
        games,
        np.array(scores, float),
        fixed=fixed,
        options=options.get("options", GLICKO2),
    )
    assert (found.rating[1:] == ratings.rating[1:]).all()
    return found.rating[0], found.deviation[0], found.volatility[0]


GLICKMAN = ((1500.0, 200.0, 0.06), [(1400.0, 30.0), (1550.0, 100.0), (1700.0, 300.0)], [1.0, 0.0, 0.0])


def test_glickmans_example_to_the_last_digit_and_as_he_rounds_it() -> None:
    rating, deviation, volatility = after_one_player(*GLICKMAN)
    assert rating == pytest.approx(1464.050671, abs=5e-7)
    assert deviation == pytest.approx(151.516524, abs=5e-7)
    assert volatility == pytest.approx(0.059995984, abs=5e-10)
    assert rating == pytest.approx(1464.06, abs=0.02)
    assert deviation == pytest.approx(151.52, abs=0.01)
    assert volatility == pytest.approx(0.05999, abs=1e-5)


def test_glickmans_intermediate_values_are_in_the_report() -> None:
    ratings = players(GLICKMAN[0], *((r, d, 0.06) for r, d in GLICKMAN[1]))
    _, report = rate_period(ratings, np.zeros(3, int), np.array([1, 2, 3]), np.array(GLICKMAN[2]))
    assert report.variance[0] == pytest.approx(1.778977, abs=5e-7)
    assert report.improvement[0] == pytest.approx(-0.483933, abs=5e-7)
    assert (report.games, report.capped_updates, list(report.rated)) == (3, 0, [0, 1, 2, 3])
    phi = ratings.deviation[:1] / 173.7178
    _, iterations = new_volatility(report.improvement[:1], phi, report.variance[:1], ratings.volatility[:1], 0.5)
    assert iterations == 2


@pytest.mark.parametrize(
    ("state", "opponents", "scores", "options", "expected"),
    [
        ((1500, 350, 0.06), [(2000, 70)], [1], GLICKO2, (2038.217689, 318.661785, 0.0600072819)),
        ((1500, 350, 0.06), [(2000, 70)], [0], GLICKO2, (1467.587849, 318.661755, 0.0599994577)),
        ((1500, 350, 0.06), [(1500, 350)], [1], LICHESS_GAME, (1662.2120, 290.2305, 0.0599993)),
        ((1500, 350, 0.06), [(1500, 350)], [0], LICHESS_GAME, (1337.79, 290.2305, 0.0599993)),
        ((1500, 350, 0.06), [(1500, 350)], [0.5], LICHESS_GAME, (1500.0, 290.2305, 0.0599977)),
        ((1400, 79, 0.06), [(1550, 110)], [1], LICHESS_GAME, (1422.6260, 77.4956, 0.06)),
        ((1550, 110, 0.065), [(1400, 79)], [0], LICHESS_GAME, (1506.3191, 105.8706, 0.065)),
    ],
)
def test_reference_vectors(
    state: tuple[float, float, float],
    opponents: list[tuple[float, float]],
    scores: list[float],
    options: Glicko2Options,
    expected: tuple[float, float, float],
) -> None:
    found = after_one_player(state, opponents, scores, options=options)
    digits = [5e-7, 5e-7, 5e-10] if options is GLICKO2 else [5e-3, 5e-5, 1e-5]
    for value, wanted, tolerance in zip(found, expected, digits, strict=True):
        assert value == pytest.approx(wanted, abs=tolerance)


def test_both_sides_of_a_game_are_rated() -> None:
    ratings = players((1400, 79, 0.06), (1550, 110, 0.065))
    found, _ = rate_period(ratings, np.array([0]), np.array([1]), np.array([1.0]), options=LICHESS_GAME)
    np.testing.assert_allclose(found.rating, [1422.6260, 1506.3191], atol=5e-5)
    np.testing.assert_allclose(found.deviation, [77.4956, 105.8706], atol=5e-5)


def test_without_games_only_the_deviation_grows() -> None:
    found, report = rate_period(players((1500, 200, 0.06)), *NO_GAMES)
    assert (found.rating[0], found.volatility[0]) == (1500.0, 0.06)
    assert found.deviation[0] == pytest.approx(200.271417, abs=5e-7)
    assert not len(report.rated)
    assert np.isinf(report.variance[0])


def test_where_the_registrys_package_is_wrong() -> None:
    assert after_one_player((2400, 60, 0.06), [(2300, 50)], [0] * 8)[2] == pytest.approx(0.060212, abs=5e-7)
    assert after_one_player((1500, 50, 0.06), [(2500, 50)], [1] * 29)[2] == pytest.approx(0.0900, abs=5e-5)


def test_the_blow_up_of_the_volatility_is_capped_and_reported() -> None:
    upset: tuple[Any, ...] = ((2800, 50, 0.06), [(1500, 50)], [0] * 30)
    textbook = after_one_player(*upset, options=UNCAPPED)
    assert textbook == (pytest.approx(-281_792, abs=0.5), pytest.approx(1292, abs=0.5), pytest.approx(146, abs=0.5))
    ratings = players((2800, 50, 0.06), (1500, 50, 0.06), (1500, 50, 0.06))
    found, report = rate_period(
        ratings, np.zeros(30, int), np.ones(30, int), np.zeros(30), fixed=np.array([False, True, False])
    )
    assert found.volatility[0] == GLICKO2.max_volatility
    assert found.rating[0] >= 2800 - 700
    assert report.capped["volatility"].tolist() == [0]
    assert report.capped_updates == 1


def test_every_cap_holds_and_names_its_players() -> None:
    options = Glicko2Options(max_rating_change=10, min_rating=1495, min_deviation=340, max_deviation=345)
    ratings = options.start(4)
    games = (np.array([0, 0, 0]), np.array([1, 1, 2]), np.array([1.0, 1.0, 0.5]))
    found, report = rate_period(ratings, *games, options=options)
    assert found.rating.tolist() == [1510, 1495, 1500, 1500]
    assert found.deviation.tolist() == [340, 340, 340, 345]
    assert {name: list(capped) for name, capped in report.capped.items()} == {
        "volatility": [],
        "rating change": [0, 1],
        "rating": [1],
        "deviation": [0, 1, 2, 3],
    }


def test_the_guards_of_lichess() -> None:
    ratings = LICHESS.start(3)
    ratings = replace(ratings, deviation=np.array([500.0, 100.0, 100.0]))
    games = (np.array([0, 1]), np.array([1, 2]), np.array([1.0, 1.0]))
    found, report = rate_period(ratings, *games, options=LICHESS)
    # The newcomer learns from the known player, who learns nothing from the newcomer.
    known, _ = rate_period(ratings, np.array([1]), np.array([2]), np.array([1.0]), options=LICHESS)
    assert found.rating[0] > 1500
    assert found.rating[1] == known.rating[1]
    assert report.rated.tolist() == [0, 1, 2]
    win, _ = LICHESS_BLEND["answer given away"]
    np.testing.assert_allclose(
        blend(ratings, found, win).rating, ratings.rating + 0.1 * (found.rating - ratings.rating)
    )


def test_even_odds() -> None:
    np.testing.assert_allclose(even_odds_rating(1500, [0.5, 1 / 11, 10 / 11]), [1500, 1900, 1100])
    with pytest.raises(DataError, match="solve_rate"):
        even_odds_rating(1500, [1.0])


def test_glicko1_gives_the_example_of_its_paper() -> None:
    ratings = players((1500, 200, 0.06), (1400, 30, 0.06), (1550, 100, 0.06), (1700, 300, 0.06))
    fixed = np.array([False, True, True, True])
    games = (np.zeros(3, int), np.array([1, 2, 3]), np.array([1.0, 0.0, 0.0]))
    found, _ = rate_glicko1(ratings, *games, options=GlickoOptions(growth=0), fixed=fixed)
    assert found.rating[0] == pytest.approx(1464.1, abs=0.05)
    assert found.deviation[0] == pytest.approx(151.4, abs=0.05)
    grown, report = rate_glicko1(ratings, *NO_GAMES)
    assert grown.deviation[3] == pytest.approx(np.hypot(300, 34.6))
    assert (grown.rating == ratings.rating).all()
    assert report.capped_updates == 0


def test_elo_gives_the_textbook_update() -> None:
    ratings = players((1613, 50, 0.06), (1609, 50, 0.06), (1477, 50, 0.06), (1388, 50, 0.06), (1586, 50, 0.06))
    ratings = replace(
        ratings, rating=np.append(ratings.rating, 1720), deviation=np.full(6, 50.0), volatility=np.full(6, 0.06)
    )
    games = (np.zeros(5, int), np.array([1, 2, 3, 4, 5]), np.array([0, 0.5, 1, 1, 0]))
    found, _ = rate_elo(ratings, *games, options=EloOptions(k=32), fixed=np.arange(6) > 0)
    # Wikipedia's example: 2.5 points where 2.88 are expected.
    assert found.rating[0] == pytest.approx(1601, abs=0.5)
    assert (found.deviation == ratings.deviation).all()


def simulated_attempts(problems: int, attempts: int = 50) -> tuple[Ratings, np.ndarray, Games, np.ndarray]:
    """B3's simulation: problems of sd 400 met by known contestants of sd 300."""
    draw = np.random.default_rng(7)
    difficulty, ability = draw.normal(1500, 400, problems), draw.normal(1500, 300, 2000)
    player, contestant = np.repeat(np.arange(problems), attempts), draw.integers(0, 2000, problems * attempts)
    unsolved = draw.random(len(player)) < 1 / (1 + 10 ** ((ability[contestant] - difficulty[player]) / 400))
    ratings = GLICKO2.start(problems + 2000)
    ratings.rating[problems:], ratings.deviation[problems:] = ability, 1e-6
    games = Games(player, problems + contestant, unsolved.astype(float), np.zeros(len(player), int))
    return ratings, difficulty, games, np.arange(len(ratings)) >= problems


def test_one_pass_under_corrects_and_converged_ratings_are_calibrated() -> None:
    ratings, truth, games, fixed = simulated_attempts(4000)
    (once,) = chronological(ratings, games, fixed=fixed)
    found = converged(ratings, games, fixed=fixed)
    slope, rmse, coverage = {}, {}, {}
    for name, rated in (("once", once.ratings), ("converged", found.ratings)):
        estimate, deviation = rated.rating[:4000], rated.deviation[:4000]
        slope[name] = np.polyfit(truth, estimate, 1)[0]
        rmse[name] = np.sqrt(np.mean((estimate - truth) ** 2))
        coverage[name] = np.mean(np.abs(estimate - truth) < 1.96 * deviation)
    assert slope["once"] == pytest.approx(0.70, abs=0.02)
    assert 1.0 < slope["converged"] < 1.08
    assert rmse["converged"] < 0.8 * rmse["once"]
    assert coverage["once"] < 0.8
    assert coverage["converged"] == pytest.approx(0.95, abs=0.01)
    assert not len(found.moving)
    assert found.changes[-1] < 0.5
    assert found.passes == len(found.changes) < 20


def test_converged_is_the_maximum_of_the_likelihood() -> None:
    ratings, _, games, fixed = simulated_attempts(50)
    found = converged(ratings, games, fixed=fixed, tolerance=1e-6)
    mu = found.ratings.rating / 173.7178
    expected = 1 / (1 + np.exp(mu[games.opponent] - mu[games.player]))
    score = np.bincount(games.player, games.score - expected, len(ratings))[:50]
    regular = np.setdiff1d(np.arange(50), found.unanimous)
    np.testing.assert_allclose(score[regular], 0, atol=1e-5)


def test_unanimous_problems_stay_finite_in_order_and_uncertain() -> None:
    attempts = 50
    solved = np.array([[1] * attempts, [1] * (attempts - 1) + [0], [0] * attempts])
    games = problem_games(
        ["all", "all but one", "none"],
        ["contestant"],
        np.repeat(["all", "all but one", "none"], attempts).tolist(),
        ["contestant"] * 3 * attempts,
        solved.ravel(),
        np.zeros(3 * attempts, int),
    )
    ratings = replace(GLICKO2.start(4), deviation=np.array([350.0, 350.0, 350.0, 60.0]))
    found = converged(ratings, games, fixed=np.array([False] * 3 + [True]))
    everyone, all_but_one, nobody = found.ratings.rating[:3]
    assert found.unanimous.tolist() == [0, 2]
    assert everyone < all_but_one < nobody < 3000
    assert found.ratings.deviation[0] > found.ratings.deviation[1]
    assert everyone + nobody == pytest.approx(3000)


def test_converged_settles_where_both_sides_move() -> None:
    draw = np.random.default_rng(1)
    ability = draw.normal(1500, 200, 30)
    player, opponent = draw.integers(0, 30, (2, 4000))
    apart = player != opponent
    player, opponent = player[apart], opponent[apart]
    won = draw.random(len(player)) < 1 / (1 + 10 ** ((ability[opponent] - ability[player]) / 400))
    start = replace(GLICKO2.start(30), deviation=np.full(30, 350.0))
    found = converged(start, Games(player, opponent, won.astype(float), np.zeros(len(player), int)))
    assert not len(found.moving)
    assert np.corrcoef(found.ratings.rating, ability)[0, 1] > 0.97


@pytest.mark.parametrize("rate", [rate_period, rate_glicko1, rate_elo, partial(rate_period, options=LICHESS)])
def test_a_replay_from_a_snapshot_gives_what_the_straight_one_does(rate: Callable[..., Any]) -> None:
    draw = np.random.default_rng(2)
    player = draw.integers(0, 10, 300)
    games = Games(
        player,
        (player + draw.integers(1, 10, 300)) % 10,
        draw.integers(0, 3, 300) / 2,
        np.sort(draw.integers(0, 9, 300) * 5),
    )
    start = GLICKO2.start(10)
    straight = list(chronological(start, games, rate))
    assert [snapshot.period for snapshot in straight] == np.unique(games.period).tolist()
    for at, snapshot in enumerate(straight):
        again = list(chronological(snapshot.ratings, games, rate, after=snapshot.period))
        assert len(again) == len(straight) - at - 1
        for one, two in zip(again, straight[at + 1 :], strict=True):
            for name in ("rating", "deviation", "volatility"):
                assert (getattr(one.ratings, name) == getattr(two.ratings, name)).all()
    periods, ratings, deviations = rating_history(straight, np.array([3, 4]))
    assert ratings.shape == deviations.shape == (len(periods), 2)
    assert (ratings[-1] == straight[-1].ratings.rating[[3, 4]]).all()


def test_attempts_become_games_of_problems() -> None:
    games = problem_games(["p", "q"], ["x", "y"], ["q", "p", "q"], ["x", "x", "y"], [True, False, 0.25], [0, 0, 1])
    assert games.player.tolist() == [1, 0, 1]
    assert games.opponent.tolist() == [2, 2, 3]
    assert games.score.tolist() == [0, 1, 0.75]
    assert [len(played.score) for _, played in games.periods()] == [2, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problem": ["p", "z"]}, "problem: 'z' is unknown"),
        ({"contestant": ["x", "z"]}, "contestant: 'z' is unknown"),
        ({"problems": ["p", "p"]}, "problem: the id 'p' is given twice"),
        ({"solved": [1, 2]}, "solved: is 2.0 in attempt 1"),
        ({"solved": [np.nan, 1]}, "solved: is nan in attempt 0"),
    ],
)
def test_attempts_that_can_not_be_rated_are_refused(change: dict[str, Any], words: str) -> None:
    attempts: dict[str, Any] = {
        "problems": ["p", "q"],
        "contestants": ["x"],
        "problem": ["p", "q"],
        "contestant": ["x", "x"],
        "solved": [0, 1],
        "period": [0, 0],
    }
    with pytest.raises(DataError, match=words):
        problem_games(**(attempts | change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"player": np.array([0, 5])}, "player: 5 in game 1 is unknown"),
        ({"player": np.array([0.0, 1.0])}, "player: holds float64"),
        ({"opponent": np.array([1, 1])}, "opponent: player 1 meets itself in game 1"),
        ({"score": np.array([0.0, np.nan])}, "score: is nan in game 1"),
        ({"score": np.array([-0.1, 0.0])}, "score: is -0.1 in game 0"),
        ({"weight": np.array([1.0, np.inf])}, "weight: is inf in game 1"),
        ({"weight": np.array([1.0])}, "weight: has shape"),
        ({"period": np.array([7, 5])}, "period: goes back from 7 to 5 at game 1"),
        ({"period": np.array([0.0, 1.0])}, "period: must hold one integer per game"),
    ],
)
def test_games_that_can_not_be_rated_are_refused(change: dict[str, Any], words: str) -> None:
    games = Games(np.array([0, 1]), np.array([1, 2]), np.array([0.0, 1.0]), np.array([0, 0]))
    with pytest.raises(DataError, match=words):
        list(chronological(GLICKO2.start(3), replace(games, **change)))


@pytest.mark.parametrize("change", [{"rating": np.nan}, {"deviation": 0.0}, {"volatility": -1.0}])
def test_ratings_that_are_none_are_refused(change: dict[str, float]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(DataError, match=f"{name}: is"):
        replace(GLICKO2.start(2), **{name: np.array([1.0, value])})
    with pytest.raises(DataError, match="one value per player"):
        replace(GLICKO2.start(2), deviation=np.ones(3))
