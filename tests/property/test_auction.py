"""Identities of the auction and the mechanism for any distribution, price and design."""

import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.regulation.certificate import certify
from rayworks.systems.regulation.equilibrium import Auction, reserve_participation
from rayworks.systems.regulation.mechanism import NO_GROUP, Rules, run_mechanism
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.value_distributions import (
    BetaValues,
    PremiumDistribution,
    SampleValues,
    SymmetricBetaValues,
    UniformValues,
)

PRICES = st.floats(0.05, 0.9)
VALUES = st.lists(st.floats(0.01, 1.0), min_size=8, max_size=60)
DISTRIBUTIONS = st.one_of(
    st.just(UniformValues()),
    st.just(SymmetricBetaValues()),
    st.builds(BetaValues, st.floats(1.2, 6), st.floats(0.6, 6)),
    VALUES.map(lambda values: SampleValues([*values, 0.95, 1.0])),
)
GROUPS = st.integers(2, 5).flatmap(lambda size: st.tuples(st.just(size), st.integers(1, size - 1)))
AUCTIONS = st.builds(
    lambda distribution, price, scale, groups: Auction(
        distribution, price, premium_scale=scale, group_size=groups[0], prizes=groups[1]
    ),
    DISTRIBUTIONS,
    PRICES,
    st.floats(0.2, 2.5),
    GROUPS,
)
MODES = st.sampled_from(["paper", "capped"])
SMOOTH = st.one_of(
    st.just(UniformValues()),
    st.just(SymmetricBetaValues()),
    st.builds(BetaValues, st.floats(1.5, 4), st.floats(1, 4)),
)


@settings(max_examples=60, deadline=None)
@given(AUCTIONS, MODES)
def test_bids_rise_with_the_premiums_worth_from_the_price_on(auction: Auction, mode: str) -> None:
    z = np.linspace(0, auction.top, 257)
    bid = solve(auction, mode).bid(z)
    assert np.all(np.diff(bid) >= -1e-9)
    assert bid[0] == auction.price
    assert np.all(bid[1:] >= auction.price)
    assert np.all(bid <= 1.0)


@settings(max_examples=60, deadline=None)
@given(AUCTIONS, MODES)
def test_entering_is_individually_rational(auction: Auction, mode: str) -> None:
    """Who enters expects at least nothing, and the premium never lowers what a type expects."""
    found = solve(auction, mode)
    z = np.linspace(0, auction.top, 129)
    rent = found.rent(z)
    assert np.all(rent >= -1e-9)
    for deployment in np.linspace(0, 1, 9):
        entered = found.participates(deployment, z)
        utility = deployment + z * found.win(z) - found.bid(z)
        assert np.all(utility[entered] >= 0)


@settings(max_examples=40, deadline=None)
@given(AUCTIONS, MODES, st.integers(0, 2**32 - 1))
def test_whoever_enters_under_a_bare_threshold_enters_the_auction(auction: Auction, mode: str, seed: int) -> None:
    draw = np.random.default_rng(seed)
    deployment, premium = auction.types(draw.random(200), auction.largest_share * draw.random(200))
    # A type for which the price is exactly its worth is indifferent.
    alone = deployment > auction.price + 1e-9
    assert np.all(solve(auction, mode).participates(deployment, premium)[alone])


@settings(max_examples=30, deadline=None)
@given(AUCTIONS)
def test_more_take_part_in_the_auction_than_under_a_bare_threshold(auction: Auction) -> None:
    found = solve(auction, "capped").entrants()
    # The tail moments of a sample jump at its points; the grid of types is as fine as that.
    slack = 2e-3 if isinstance(auction.distribution, SampleValues) else 1e-6
    assert found.participation >= reserve_participation(auction) - slack
    assert np.all(np.diff(found.below) >= 0)
    assert found.below[-1] == 1


@settings(max_examples=40, deadline=None)
@given(DISTRIBUTIONS, PRICES, st.floats(0.1, 2.0))
def test_premium_distribution_is_a_distribution_and_its_rent_the_integral(
    distribution: UniformValues, price: float, top: float
) -> None:
    premium = PremiumDistribution(distribution, price, top)
    z = np.linspace(0, top, 2001)
    below = premium.cdf(z)
    assert math.isclose(below[-1], 1, abs_tol=1e-9)
    assert np.all(np.diff(below) >= -1e-12)
    assert np.all(premium.density(z) >= 0)
    steps = (below[1:] + below[:-1]) / 2 * np.diff(z)
    assert np.allclose(premium.rent(z)[1:], np.cumsum(steps), atol=top * 1e-3)
    assert math.isclose(premium.surplus(top), premium.mean, abs_tol=1e-12)


@settings(max_examples=25, deadline=None)
@given(AUCTIONS, MODES)
def test_certificates_are_no_negative_gains(auction: Auction, mode: str) -> None:
    found = certify(solve(auction, mode), "premise", 101, 201)
    assert 0 <= found.mean_gain <= found.max_gain + 1e-15
    if mode == "capped":
        assert found.max_gain < 1e-6


@settings(max_examples=12, deadline=None)
@given(SMOOTH, st.floats(0.1, 0.85), st.floats(0.5, 5), GROUPS, st.sampled_from(["coin", "void"]))
def test_an_entry_consistent_equilibrium_is_one_or_none_is_given(
    distribution: UniformValues, price: float, scale: float, groups: tuple[int, int], tie: str
) -> None:
    auction = Auction(distribution, price, premium_scale=scale, group_size=groups[0], prizes=groups[1], tie=tie)
    try:
        found = solve(auction, "fixed_point")
    except DataError:
        return
    own = certify(found, "entrants", 201, 401)
    assert own.max_gain < 1e-3
    assert own.entry_gain < 1e-3


@st.composite
def rounds(draw: st.DrawFn) -> tuple[np.ndarray, Rules, np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 24))
    # Few different scores, so that there are ties.
    scores = np.array(draw(st.lists(st.integers(0, 6), min_size=count, max_size=count)), dtype=float) / 6
    size = draw(st.integers(2, 5))
    rules = Rules(
        draw(st.sampled_from([0.0, 0.4, 0.5])),
        size,
        draw(st.integers(1, size - 1)),
        draw(st.sampled_from(["coin", "split", "void"])),
        draw(st.sampled_from(["chance", "redraw"])),
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return scores, rules, generator.random(count), generator.random(count)


@settings(max_examples=200, deadline=None)
@given(rounds())
def test_mechanism_clears_groups_and_awards(case: tuple[np.ndarray, Rules, np.ndarray, np.ndarray]) -> None:
    scores, rules, pairing, ties = case
    outcome = run_mechanism(scores, rules, pairing, ties)
    np.testing.assert_array_equal(outcome.cleared, scores >= rules.threshold)
    assert np.all(outcome.premium[~outcome.cleared] == 0)
    assert np.all((outcome.group == NO_GROUP) == ~outcome.cleared)
    sizes = Counter(outcome.group[outcome.cleared].tolist())
    whole = [group for group, size in sizes.items() if size == rules.group_size]
    assert len(sizes) - len(whole) <= 1
    for group in whole:
        members = outcome.group == group
        paid = outcome.premium[members]
        if rules.tie == "void":
            assert paid.sum() <= rules.prizes
        else:
            assert math.isclose(paid.sum(), rules.prizes)
        best_unpaid = np.max(scores[members][paid == 0], initial=-1)
        assert np.all(scores[members][paid > 0] >= best_unpaid)
        level = scores[members]
        if rules.tie == "split":
            assert all(len(set(paid[level == score].tolist())) == 1 for score in set(level.tolist()))


@settings(max_examples=100, deadline=None)
@given(rounds(), st.integers(0, 2**32 - 1))
def test_the_order_of_submissions_does_not_matter(
    case: tuple[np.ndarray, Rules, np.ndarray, np.ndarray], seed: int
) -> None:
    """The numbers that came with a submission decide, not its place."""
    scores, rules, pairing, ties = case
    order = np.random.default_rng(seed).permutation(len(scores))
    straight = run_mechanism(scores, rules, pairing, ties)
    shuffled = run_mechanism(scores[order], rules, pairing[order], ties[order])
    np.testing.assert_array_equal(straight.premium[order], shuffled.premium)
    np.testing.assert_array_equal(straight.status[order], shuffled.status)


@settings(max_examples=100, deadline=None)
@given(rounds(), st.integers(0, 23), st.floats(0, 1))
def test_a_better_score_never_loses_a_premium(
    case: tuple[np.ndarray, Rules, np.ndarray, np.ndarray], who: int, better: float
) -> None:
    scores, rules, pairing, ties = case
    if who >= len(scores) or rules.tie == "void" or scores[who] < rules.threshold:
        return
    raised = scores.copy()
    raised[who] = max(better, scores[who])
    before, after = run_mechanism(scores, rules, pairing, ties), run_mechanism(raised, rules, pairing, ties)
    assert after.premium[who] >= before.premium[who]
