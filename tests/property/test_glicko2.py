"""Identities of a rating period, and a scalar textbook implementation as the oracle."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.systems.difficulty.ratings.glicko2 import SCALE, Glicko2Options, rate_period
from rayworks.systems.difficulty.ratings.rating_baselines import rate_elo, rate_glicko1
from rayworks.systems.difficulty.ratings.rating_games import Ratings

Period = tuple[Ratings, np.ndarray, np.ndarray, np.ndarray]
UNCAPPED = Glicko2Options(max_volatility=None, max_rating_change=None, max_deviation=1e9)


@st.composite
def periods(draw: st.DrawFn, spread: float = 500) -> Period:
    count = draw(st.integers(2, 6))
    columns = [
        draw(st.lists(st.floats(low, high), min_size=count, max_size=count))
        for low, high in ((1500 - spread, 1500 + spread), (30, 350), (0.03, 0.1))
    ]
    games = draw(st.integers(0, 12))
    player = draw(st.lists(st.integers(0, count - 1), min_size=games, max_size=games))
    ahead = draw(st.lists(st.integers(1, count - 1), min_size=games, max_size=games))
    score = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=games, max_size=games))
    first = np.array(player, int)
    second = (first + np.array(ahead, int)) % count
    return Ratings(*(np.array(column) for column in columns)), first, second, np.array(score, float)


def assert_close(one: Ratings, two: Ratings) -> None:
    """To the tolerance of the volatility's root search, which rounding may end one step earlier or later."""
    np.testing.assert_allclose(one.rating, two.rating, rtol=0, atol=1e-2)
    np.testing.assert_allclose(one.deviation, two.deviation, rtol=1e-6)
    np.testing.assert_allclose(one.volatility, two.volatility, rtol=2e-6)


def textbook(state: tuple[float, float, float], games: list[tuple[float, float, float]], tau: float) -> list[float]:
    """Glickman's eight steps for one player, as he writes them."""
    mu, phi, sigma = (state[0] - 1500) / SCALE, state[1] / SCALE, state[2]
    if not games:
        return [state[0], SCALE * math.sqrt(phi**2 + sigma**2), sigma]
    precision = total = 0.0
    for rating, deviation, score in games:
        g = 1 / math.sqrt(1 + 3 * (deviation / SCALE) ** 2 / math.pi**2)
        expected = 1 / (1 + math.exp(-g * (mu - (rating - 1500) / SCALE)))
        precision += g**2 * expected * (1 - expected)
        total += g * (score - expected)
    v = 1 / precision
    delta = v * total
    a = math.log(sigma**2)

    def f(x: float) -> float:
        e = math.exp(x)
        return e * (delta**2 - phi**2 - v - e) / (2 * (phi**2 + v + e) ** 2) - (x - a) / tau**2

    low = a
    if delta**2 > phi**2 + v:
        high = math.log(delta**2 - phi**2 - v)
    else:
        k = 1
        while f(a - k * tau) < 0:
            k += 1
        high = a - k * tau
    f_low, f_high = f(low), f(high)
    while abs(high - low) > 1e-6:
        c = low + (low - high) * f_low / (f_high - f_low)
        f_c = f(c)
        if f_c * f_high <= 0:
            low, f_low = high, f_high
        else:
            f_low /= 2
        high, f_high = c, f_c
    sigma = math.exp(low / 2)
    phi = 1 / math.sqrt(1 / (phi**2 + sigma**2) + 1 / v)
    return [SCALE * (mu + phi**2 * total) + 1500, SCALE * phi, sigma]


@given(periods(), st.floats(0.2, 1.2))
@settings(deadline=None)
def test_it_is_the_textbook(period: Period, tau: float) -> None:
    ratings, player, opponent, score = period
    found, _ = rate_period(*period, options=UNCAPPED.model_copy(update={"tau": tau}))
    for one in range(len(ratings)):
        games = [
            (ratings.rating[two], ratings.deviation[two], s)
            for own, two, s in [
                *zip(player, opponent, score, strict=True),
                *zip(opponent, player, 1 - score, strict=True),
            ]
            if own == one
        ]
        state = (ratings.rating[one], ratings.deviation[one], ratings.volatility[one])
        expected = textbook(state, games, tau)
        np.testing.assert_allclose(
            [found.rating[one], found.deviation[one], found.volatility[one]], expected, rtol=2e-6
        )


@given(periods(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_and_the_side_of_games_do_not_count(period: Period, random: Any) -> None:
    ratings, player, opponent, score = period
    order = random.sample(range(len(score)), len(score))
    turned = np.array([random.random() < 0.5 for _ in score], bool)
    found, _ = rate_period(
        ratings,
        np.where(turned, opponent, player)[order],
        np.where(turned, player, opponent)[order],
        np.where(turned, 1 - score, score)[order],
    )
    assert_close(found, rate_period(*period)[0])


@given(periods(), st.floats(-900, 900))
@settings(deadline=None)
def test_only_differences_of_ratings_count(period: Period, shift: float) -> None:
    ratings, *games = period
    found, _ = rate_period(replace(ratings, rating=ratings.rating + shift), *games)
    assert_close(replace(found, rating=found.rating - shift), rate_period(ratings, *games)[0])


@given(periods())
@settings(deadline=None)
def test_the_mirror_image(period: Period) -> None:
    ratings, player, opponent, score = period
    found, _ = rate_period(replace(ratings, rating=3000 - ratings.rating), player, opponent, 1 - score)
    assert_close(replace(found, rating=3000 - found.rating), rate_period(*period)[0])


@given(periods())
@settings(deadline=None)
def test_without_tau_the_volatility_stays_and_a_small_one_leads_there(period: Period) -> None:
    none, _ = rate_period(*period, options=UNCAPPED.model_copy(update={"tau": 0.0}))
    small, _ = rate_period(*period, options=UNCAPPED.model_copy(update={"tau": 1e-6}))
    assert (none.volatility == period[0].volatility).all()
    assert_close(small, none)


@given(periods())
@settings(deadline=None)
def test_a_deviation_falls_exactly_if_the_games_say_enough(period: Period) -> None:
    ratings = period[0]
    found, report = rate_period(*period, options=UNCAPPED)
    phi, growth = (ratings.deviation / SCALE) ** 2, found.volatility**2
    enough = phi * (phi + growth) / growth
    clear = np.abs(report.variance / enough - 1) > 1e-9
    assert ((found.deviation < ratings.deviation) == (report.variance < enough))[clear].all()


@given(st.floats(30, 100))
def test_one_even_game_lowers_deviations_above_sixty(deviation: float) -> None:
    ratings = Ratings(np.array([1500.0, 1500.0]), np.array([deviation, 1e-9]), np.full(2, 0.06))
    found, report = rate_period(ratings, np.array([0]), np.array([1]), np.array([0.5]), options=UNCAPPED)
    assert abs(report.variance[0] - 4) < 1e-9
    threshold = SCALE * math.sqrt((math.sqrt(0.06**4 + 16 * 0.06**2) - 0.06**2) / 2)
    assert abs(threshold - 60) < 0.5
    if abs(deviation - threshold) > 0.1:
        assert (found.deviation[0] < deviation) == (deviation > threshold)


@given(periods(), st.integers(1, 4))
@settings(deadline=None)
def test_a_weight_counts_games_and_none_is_no_game(period: Period, copies: int) -> None:
    ratings, player, opponent, score = period
    weighted, _ = rate_period(*period, weight=np.full(len(score), float(copies)))
    repeated, _ = rate_period(ratings, np.repeat(player, copies), np.repeat(opponent, copies), np.repeat(score, copies))
    assert_close(weighted, repeated)
    none, report = rate_period(*period, weight=np.zeros(len(score)))
    idle, _ = rate_period(ratings, player[:0], opponent[:0], score[:0])
    assert (none.rating == idle.rating).all()
    assert (none.deviation == idle.deviation).all()
    assert not len(report.rated)


@given(periods(), st.data())
@settings(deadline=None)
def test_fixed_players_stay_and_the_others_do_not_notice(period: Period, data: st.DataObject) -> None:
    count = len(period[0])
    fixed = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    everyone = rate_period(*period)[0]
    for rate in (rate_period, rate_elo, rate_glicko1):
        found, report = rate(*period, fixed=fixed)
        for name in ("rating", "deviation", "volatility"):
            assert (getattr(found, name)[fixed] == getattr(period[0], name)[fixed]).all()
            if rate is rate_period:
                np.testing.assert_allclose(getattr(found, name)[~fixed], getattr(everyone, name)[~fixed], rtol=2e-6)
        assert not fixed[report.rated].any()


@given(periods(spread=50_000), st.integers(1, 3000))
@settings(deadline=None)
def test_no_ratings_and_no_upset_break_it(period: Period, weight: int) -> None:
    for options in (UNCAPPED, Glicko2Options(), Glicko2Options(tau=1.2)):
        found, _ = rate_period(*period, weight=np.full(len(period[3]), float(weight)), options=options)
        assert np.isfinite(found.rating).all()


@given(periods())
def test_elo_keeps_the_sum_of_ratings(period: Period) -> None:
    found, _ = rate_elo(*period)
    assert abs(found.rating.sum() - period[0].rating.sum()) < 1e-8
