"""The auction's bids against closed forms, the paper's numbers, quadrature and each other (checks of section 1.7)."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.regulation.certificate import certify, utility_by_deviation
from rayworks.systems.regulation.contests import pooled_win_probability, win_integral, win_probability
from rayworks.systems.regulation.equilibrium import Auction, Mode, reserve_participation
from rayworks.systems.regulation.simulation import simulated_curves
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.value_distributions import (
    BetaValues,
    PremiumDistribution,
    SampleValues,
    SymmetricBetaValues,
    UniformValues,
    ValueDistribution,
    distribution_of_density,
)

DISTRIBUTIONS: tuple[ValueDistribution, ...] = (UniformValues(), SymmetricBetaValues())
PRICES = (0.05, 0.25, 0.5, 0.75, 0.95)
BOTH = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda distribution: distribution.name)

PARTICIPATION = {
    "uniform": {
        0.1: (86.92, 86.14),
        0.2: (74.51, 72.27),
        0.25: (68.44, 65.34),
        0.4: (50.59, 44.55),
        0.5: (38.91, 30.69),
        0.6: (27.37, 18.70),
        0.7: (15.94, 10.07),
        0.75: (10.26, 6.85),
        0.8: (5.35, 4.30),
    },
    "beta22": {
        0.1: (95.22, 94.60),
        0.2: (83.80, 80.80),
        0.25: (76.50, 71.88),
        0.4: (51.42, 42.40),
        0.5: (34.43, 25.00),
        0.6: (19.34, 12.80),
        0.7: (7.91, 5.40),
        0.75: (4.12, 3.13),
        0.8: (1.88, 1.60),
    },
}
"""Per cent of builders in the auction and under a bare threshold."""


def published_density(distribution: str, z: float, price: float) -> float:
    """Formulas (b) and (c) of the specification."""
    if distribution == "uniform":
        return 2 * math.log(max(price, 2 * z)) / (price - 1)
    return 6 * (1 - max(price, 2 * z)) ** 2 / (1 - 3 * price**2 + 2 * price**3)


def published_cdf(distribution: str, z: float, p: float) -> float:
    if distribution == "uniform":
        return (2 * z * math.log(p) if z <= p / 2 else 2 * z * (math.log(2 * z) - 1) + p) / (p - 1)
    mass = 1 - 3 * p**2 + 2 * p**3
    low = 6 * z * (1 - p) ** 2
    return (low if z <= p / 2 else 8 * z**3 - 12 * z**2 + 6 * z + 2 * p**3 - 3 * p**2) / mass


def published_integral(distribution: str, z: float, p: float) -> float:
    if distribution == "uniform":
        low, high = z**2 * math.log(p), 0.0
        if z > p / 2:
            high = (4 * z**2 * (2 * math.log(2 * z) - 3) + 8 * p * z - p**2) / 8
        return (high if z > p / 2 else low) / (p - 1)
    mass = 1 - 3 * p**2 + 2 * p**3
    low = 3 * z**2 * (1 - p) ** 2
    high = 2 * z**4 - 4 * z**3 + 3 * z**2 + z * (2 * p**3 - 3 * p**2) + p**3 / 2 - 3 * p**4 / 8
    return (high if z > p / 2 else low) / mass


@BOTH
@pytest.mark.parametrize("price", PRICES)
def test_premium_distribution_is_the_published_one(distribution: ValueDistribution, price: float) -> None:
    premium = PremiumDistribution(distribution, price)
    worth = np.concatenate([np.linspace(1e-6, 0.5, 41), [price / 2]])
    for formula, found in (
        (published_density, premium.density(worth)),
        (published_cdf, premium.cdf(worth)),
        (published_integral, premium.rent(worth)),
    ):
        expected = [formula(distribution.name, z, price) for z in worth]
        np.testing.assert_allclose(found, expected, atol=1e-11)


@BOTH
@pytest.mark.parametrize("price", PRICES)
def test_premium_distribution_is_a_distribution(distribution: ValueDistribution, price: float) -> None:
    premium = PremiumDistribution(distribution, price)
    assert premium.cdf(0.5) == pytest.approx(1, abs=1e-12)
    assert premium.cdf(price / 2 - 1e-14) == pytest.approx(premium.cdf(price / 2 + 1e-14), abs=1e-12)
    assert np.all(premium.density(np.linspace(0, 0.5, 1001)) >= -1e-12)
    for z in (0.1, 0.3, 0.5):
        kink = [price / 2] if price / 2 < z else None
        mass = integrate.quad(lambda y: float(premium.density(y)), 0, z, points=kink, epsabs=1e-12)[0]
        rent = integrate.quad(lambda y: float(premium.cdf(y)), 0, z, points=kink, epsabs=1e-12)[0]
        assert mass == pytest.approx(premium.cdf(z), abs=1e-9)
        assert rent == pytest.approx(premium.rent(z), abs=1e-9)


@BOTH
@pytest.mark.parametrize("price", [0.25, 0.5])
def test_four_million_draws_follow_the_distribution(distribution: ValueDistribution, price: float) -> None:
    draws = 4_000_000
    # Above the price only: the uniforms of the values start where its share ends.
    start = 1 - float(distribution.tail(price).probability)
    value = distribution.quantile(start + (1 - start) * seeds.uniforms(0, draws, "ks", distribution.name, "value"))
    worth = np.sort(0.5 * seeds.uniforms(0, draws, "ks", distribution.name, "share") * value)
    points = np.linspace(0.01, 0.49, 49)
    empirical = np.searchsorted(worth, points, side="right") / draws
    assert np.max(np.abs(empirical - PremiumDistribution(distribution, price).cdf(points))) < 1e-3


@BOTH
@pytest.mark.parametrize("price", [0.25, 0.5, 0.7])
def test_no_type_gains_under_the_papers_premise(distribution: ValueDistribution, price: float) -> None:
    found = certify(solve(Auction(distribution, price)), "premise", 2001, 2001)
    assert found.max_gain < 1e-9
    assert found.entry_gain < 1e-9
    assert found.grid == "2001 types x 2001 deviations"


@BOTH
@pytest.mark.parametrize("price", [0.25, 0.75])
def test_revenue_equivalence(distribution: ValueDistribution, price: float) -> None:
    draws = 1_000_000
    start = 1 - float(distribution.tail(price).probability)
    uniform = seeds.uniforms(1, 4 * draws, "revenue", distribution.name).reshape(4, draws)
    first, second = (0.5 * uniform[i] * distribution.quantile(start + (1 - start) * uniform[i + 1]) for i in (0, 2))
    lower = np.minimum(first, second)
    surplus = np.asarray(solve(Auction(distribution, price, cap=None)).bid(first)) - price
    difference = surplus - lower / 2
    assert abs(difference.mean()) < 3 * difference.std() / math.sqrt(draws)


@pytest.mark.parametrize("price", PRICES)
def test_highest_bids(price: float) -> None:
    uniform = solve(Auction(UniformValues(), price, cap=None)).bid(0.5)
    assert uniform == pytest.approx(price + (1 + price) / 8, abs=1e-9)
    mass = 1 - 3 * price**2 + 2 * price**3
    mean = (2 * (1 - price**3) - 1.5 * (1 - price**4)) / mass
    assert solve(Auction(SymmetricBetaValues(), price, cap=None)).bid(0.5) == pytest.approx(price + mean / 4, abs=1e-9)


@pytest.mark.parametrize("price", PRICES)
def test_bare_threshold_has_its_closed_forms(price: float) -> None:
    m = max(0.5, price)
    uniform = 2 * ((1 - m) + price * math.log(m))
    beta = 2 * ((1 - m) - 3 * price**2 * (1 / m - 1) + price**3 * (1 / m**2 - 1))
    assert reserve_participation(Auction(UniformValues(), price)) == pytest.approx(uniform, abs=1e-9)
    assert reserve_participation(Auction(SymmetricBetaValues(), price)) == pytest.approx(beta, abs=1e-9)


@BOTH
def test_participation_table(distribution: ValueDistribution) -> None:
    for price, (auction, reserve) in PARTICIPATION[distribution.name].items():
        found = solve(Auction(distribution, price)).entrants().participation
        assert 100 * found == pytest.approx(auction, abs=0.02)
        assert 100 * reserve_participation(Auction(distribution, price)) == pytest.approx(reserve, abs=0.02)


@BOTH
def test_participation_table_by_drawing(distribution: ValueDistribution) -> None:
    table = PARTICIPATION[distribution.name]
    drawn = simulated_curves(Auction(distribution, 0.5), list(table), "paper", 100_000, seed=0)
    for at, (auction, reserve) in enumerate(table.values()):
        assert 100 * drawn.participation[at] == pytest.approx(auction, abs=0.3)
        assert 100 * drawn.participation_reserve[at] == pytest.approx(reserve, abs=0.3)


@pytest.mark.parametrize(("price", "mean"), [(0.25, 0.300), (0.4, 0.458), (0.5, 0.562), (0.6, 0.664), (0.7, 0.757)])
def test_mean_bids_of_those_who_enter(price: float, mean: float) -> None:
    found = solve(Auction(UniformValues(), price))
    entering = found.entrants()
    assert entering.mean(found.bid(entering.z)) == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ("distribution", "price", "naive_gain", "mean_bid"),
    [
        (UniformValues(), 0.80, 0.0119, 0.8746),
        (UniformValues(), 0.85, 0.0361, 0.9236),
        (UniformValues(), 0.90, 0.0540, 0.9638),
        (UniformValues(), 0.95, 0.0604, 0.9904),
        (SymmetricBetaValues(), 0.80, 0.0083, None),
        (SymmetricBetaValues(), 0.85, 0.0337, None),
        (SymmetricBetaValues(), 0.90, 0.0528, None),
        (SymmetricBetaValues(), 0.95, 0.0599, None),
    ],
)
def test_cap_equilibrium(
    distribution: ValueDistribution, price: float, naive_gain: float, mean_bid: float | None
) -> None:
    capped = solve(Auction(distribution, price), "capped")
    assert capped.pool == pytest.approx(2 * (1 - price), abs=1e-6)
    assert certify(capped, "premise").max_gain < 1e-9
    assert certify(solve(Auction(distribution, price)), "premise").max_gain == pytest.approx(naive_gain, abs=2e-4)
    if mean_bid is not None:
        z = np.linspace(0, 0.5, 20_001)
        density = PremiumDistribution(distribution, price).density(z)
        assert integrate.trapezoid(capped.bid(z) * density, z) == pytest.approx(mean_bid, abs=1e-4)


def test_cap_binds_from_the_published_prices_on() -> None:
    for distribution, price in ((UniformValues(), 7 / 9), (SymmetricBetaValues(), 0.785072)):
        assert not math.isfinite(solve(Auction(distribution, price - 1e-5), "capped").pool)
        assert math.isfinite(solve(Auction(distribution, price + 1e-5), "capped").pool)


FIXED_POINTS = [
    ("uniform", 0.25, 68.40, 0.2990, 0.0003, 0.0007),
    ("uniform", 0.50, 39.20, 0.5582, 0.0016, 0.0053),
    ("uniform", 0.60, 28.10, 0.6590, 0.0024, 0.0088),
    ("uniform", 0.70, 17.58, 0.7561, 0.0036, 0.0177),
    ("beta22", 0.25, 76.48, 0.2942, 0.0003, 0.0007),
    ("beta22", 0.50, 35.19, 0.5510, 0.0023, 0.0079),
    ("beta22", 0.70, 9.79, 0.7459, 0.0056, 0.0304),
]


@pytest.mark.parametrize(("name", "price", "participation", "mean_bid", "mean_gain", "max_gain"), FIXED_POINTS)
def test_entry_consistent_equilibrium(
    name: str, price: float, participation: float, mean_bid: float, mean_gain: float, max_gain: float
) -> None:
    distribution = next(distribution for distribution in DISTRIBUTIONS if distribution.name == name)
    found = solve(Auction(distribution, price), "fixed_point")
    entering = found.entrants()
    assert 100 * entering.participation == pytest.approx(participation, abs=0.01)
    assert entering.mean(found.bid(entering.z)) == pytest.approx(mean_bid, abs=1e-4)
    own = certify(found)
    assert own.max_gain < 1e-9
    assert own.entry_gain < 1e-9
    published = certify(solve(Auction(distribution, price)), entering)
    assert published.against == "given"
    assert published.mean_gain == pytest.approx(mean_gain, abs=1e-4)
    assert published.max_gain == pytest.approx(max_gain, abs=1e-4)


@pytest.mark.parametrize(("price", "max_gain"), [(0.85, 1e-8), (0.97, 1e-5)])
def test_entry_consistent_equilibrium_where_plain_iteration_swings(price: float, max_gain: float) -> None:
    """The nearer the price is to 1 the fewer enter, and what rounding leaves is divided by them."""
    found = solve(Auction(UniformValues(), price), "fixed_point")
    assert certify(found).max_gain < max_gain
    assert found.rounds < 1500


def test_entry_consistent_equilibrium_where_the_cap_binds() -> None:
    found = solve(Auction(UniformValues(), 0.79, premium_scale=4.7, group_size=6), "fixed_point")
    assert math.isfinite(found.pool)
    assert found.entrants().participation == pytest.approx(0.10996, abs=1e-4)
    assert certify(found).max_gain < 1e-6
    assert certify(found).entry_gain < 1e-6


@pytest.mark.parametrize(
    ("group_size", "participation", "mean_bid", "highest"),
    [(2, 50.67, 0.4555, 0.579), (3, 48.00, 0.4567, 0.647), (4, 46.81, 0.4521, 0.685), (8, 45.28, 0.4360, 0.752)],
)
def test_groups(group_size: int, participation: float, mean_bid: float, highest: float) -> None:
    found = solve(Auction(UniformValues(), 0.4, group_size=group_size), "fixed_point")
    entering = found.entrants()
    assert 100 * entering.participation == pytest.approx(participation, abs=0.01)
    assert entering.mean(found.bid(entering.z)) == pytest.approx(mean_bid, abs=1e-4)
    assert found.bid(0.5) == pytest.approx(highest, abs=1e-3)


def test_the_best_of_three_by_direct_integration() -> None:
    auction = Auction(UniformValues(), 0.5, group_size=3, prizes=1)
    z = np.linspace(0, 0.5, 41)
    premium = PremiumDistribution(auction.distribution, auction.price)
    expected = [
        0.5
        + integrate.quad(lambda y: y * 2 * float(premium.cdf(y)) * float(premium.density(y)), 0, x, points=[0.25])[0]
        for x in z
    ]
    np.testing.assert_allclose(solve(auction).bid(z), expected, atol=1e-8)


def test_win_probabilities() -> None:
    q = np.linspace(0, 1, 11)
    for size, prizes in ((2, 1), (3, 1), (5, 2), (6, 5)):
        expected = sum(
            math.comb(size - 1, above) * (1 - q) ** above * q ** (size - 1 - above) for above in range(prizes)
        )
        np.testing.assert_allclose(win_probability(q, size, prizes), expected, atol=1e-12)
        for end in q:
            area = integrate.quad(lambda x, n=size, k=prizes: float(win_probability(x, n, k)), 0, end)[0]
            assert win_integral(end, size, prizes) == pytest.approx(area, abs=1e-12)
    assert pooled_win_probability(0.3, 2, 1, "coin") == pytest.approx(0.65)
    assert pooled_win_probability(0.3, 4, 1, "split") == pytest.approx((1 - 0.3**4) / (4 * 0.7))
    assert pooled_win_probability(0.3, 4, 1, "void") == pytest.approx(0.3**3)
    assert pooled_win_probability(0.0, 5, 2, "coin") == pytest.approx(2 / 5)


def test_bids_from_a_sample_come_to_the_closed_form() -> None:
    z = np.linspace(0, 0.5, 101)
    expected = solve(Auction(UniformValues(), 0.5)).bid(z)
    errors = []
    for count in (1_000, 100_000):
        distribution = SampleValues(seeds.uniforms(3, count, "sample"))
        errors.append(float(np.max(np.abs(solve(Auction(distribution, 0.5)).bid(z) - expected))))
        assert errors[-1] < 1.5 / math.sqrt(count)
    assert errors[1] < errors[0] / 3


def test_a_sample_of_premiums_bids_its_partial_mean() -> None:
    """Formula (g): with the shares drawn too, the surplus at the k-th premium is the sum of those up to it over n."""
    distribution, price, draws = UniformValues(), 0.4, 200_000
    value = price + (1 - price) * seeds.uniforms(4, draws, "value")
    premium = np.sort(0.5 * seeds.uniforms(4, draws, "share") * value)
    partial = np.cumsum(premium) / draws
    np.testing.assert_allclose(
        solve(Auction(distribution, price)).bid(premium) - price, partial, atol=3 / math.sqrt(draws)
    )


def test_distributions_given_in_other_ways_agree() -> None:
    z = np.linspace(0, 0.5, 21)
    expected = solve(Auction(SymmetricBetaValues(), 0.5)).bid(z)
    np.testing.assert_allclose(solve(Auction(BetaValues(2, 2), 0.5)).bid(z), expected, atol=1e-12)
    density = distribution_of_density(lambda x: 6 * x * (1 - x))
    np.testing.assert_allclose(solve(Auction(density, 0.5)).bid(z), expected, atol=1e-4)
    uniform = seeds.uniforms(0, 1000, "quantiles")
    np.testing.assert_allclose(BetaValues(2, 2).quantile(uniform), SymmetricBetaValues().quantile(uniform), atol=1e-9)


def test_premiums_scale_bids() -> None:
    """What the premium is worth only stretches the types, so a scaled premium stretches the bid above the price."""
    z = np.linspace(0, 0.5, 11)
    plain, larger = (
        solve(Auction(UniformValues(), 0.3)),
        solve(Auction(UniformValues(), 0.3, premium_scale=1.4)),
    )
    np.testing.assert_allclose(larger.bid(1.4 * z) - 0.3, 1.4 * (plain.bid(z) - 0.3), atol=1e-12)
    narrow = solve(Auction(UniformValues(), 0.3, largest_share=0.25))
    np.testing.assert_allclose(narrow.bid(z / 2) - 0.3, (plain.bid(z) - 0.3) / 2, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"group_size": 4},
        {"group_size": 5, "prizes": 2, "tie": "void"},
        {"premium_scale": 3.0},
        {"premium_scale": 3.0, "tie": "void"},
        {"premium_scale": 0.5, "group_size": 3},
        {"largest_share": 0.3},
    ],
)
@pytest.mark.parametrize("mode", ["capped", "fixed_point"])
def test_certificates_of_other_designs(options: dict[str, object], mode: Mode) -> None:
    for price in (0.4, 0.7):
        found = solve(Auction(UniformValues(), price, **options), mode)
        own = certify(found, "entrants" if mode == "fixed_point" else "premise", 501, 1001)
        assert own.max_gain < 1e-8


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (UniformValues(), [-0.280, -0.392, -0.216, 0.013, 0.129, 0.128, 0.108, -0.091]),
        (SymmetricBetaValues(), [-0.278, -0.411, -0.253, -0.035, 0.076, 0.075, 0.054, -0.146]),
    ],
)
def test_the_papers_own_check(distribution: ValueDistribution, expected: list[float]) -> None:
    factors = 1 + np.array([-0.5, -0.25, -0.1, -0.01, 0, 0.01, 0.1, 0.5])
    np.testing.assert_allclose(utility_by_deviation(solve(Auction(distribution, 0.5)), factors), expected, atol=1.1e-3)


def test_a_certificate_notices_a_wrong_bid() -> None:
    right = solve(Auction(UniformValues(), 0.5), "fixed_point")
    wrong = solve(Auction(UniformValues(), 0.5, premium_scale=1.2), "paper")
    assert certify(wrong, right.entrants()).max_gain > 0.005


def refusals() -> list[tuple[Callable[[], object], str]]:
    distribution = UniformValues()
    return [
        (lambda: Auction(distribution, 0.0), "price 0"),
        (lambda: Auction(distribution, 1.0), "price 1"),
        (lambda: Auction(distribution, 0.5, group_size=1), "two participants"),
        (lambda: Auction(distribution, 0.5, group_size=3, prizes=3), "prizes 3"),
        (lambda: Auction(distribution, 0.5, cap=0.4), "cap 0.4"),
        (lambda: Auction(distribution, 0.5, largest_share=1.5), "largest_share 1.5"),
        (lambda: Auction(distribution, 0.5, premium_scale=0.0), "premium_scale 0"),
        (lambda: SampleValues([0.5, -0.1, 0.7]), "value -0.1 in row 1 has mass below zero"),
        (lambda: SampleValues([0.5, 1.2]), "value 1.2 in row 1"),
        (lambda: SampleValues([0.5, float("nan")]), "row 1"),
        (lambda: SampleValues([0.5]), "at least two"),
        (lambda: SampleValues([0.5, 0.6], [1.0, -1.0]), "weights"),
        (lambda: distribution_of_density(lambda x: x - 0.5), "negative"),
        (lambda: BetaValues(0, 2), "a > 0"),
        (lambda: solve(Auction(SampleValues([0.1, 0.2]), 0.5)), "no value of distribution"),
    ]


@pytest.mark.parametrize("at", range(15))
def test_what_can_not_be_is_refused(at: int) -> None:
    attempt, words = refusals()[at]
    with pytest.raises(DataError, match=words):
        attempt()
