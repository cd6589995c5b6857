"""Identities of boosting (A1d of the specification), on any errors."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rayworks.core.errors import ConfigError
from rayworks.systems.supervision.boosting.votes import (
    VOTES,
    ensembles,
    error_correlations,
    evidential,
    mean_correlation,
)
from rayworks.systems.supervision.boosting.weighting import (
    Rule,
    RuleName,
    effective_share,
    reweigh,
    rule_of,
    shared_in_windows,
    window_ids,
)

masses = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=40)


@st.composite
def weighted_misses(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A distribution, and misses of some units but not all."""
    weights = np.array(draw(masses))
    misses = np.array(draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights))), float)
    misses[0], misses[-1] = 1.0, 0.0
    distribution = weights / weights.sum()
    # Beyond that errors are clipped.
    assume(1 / (2 * len(weights)) <= distribution @ misses <= 1 - 1 / (2 * len(weights)))
    return distribution, misses


@given(weighted_misses())
def test_binary_normaliser_and_error_under_the_next_distribution(given_: tuple[np.ndarray, np.ndarray]) -> None:
    distribution, misses = given_
    found = reweigh(distribution, misses, rule_of("adaboost", 2))
    assert found.error == pytest.approx(float(distribution @ misses), abs=1e-12)
    assert found.normaliser == pytest.approx(2 * math.sqrt(found.error * (1 - found.error)), rel=1e-9)
    assert found.distribution @ misses == pytest.approx(0.5, abs=1e-9)
    assert found.distribution.sum() == pytest.approx(1.0, abs=1e-12)


@given(weighted_misses(), st.floats(0.05, 0.95))
def test_token_rule_leaves_the_prior_error(given_: tuple[np.ndarray, np.ndarray], prior: float) -> None:
    distribution, misses = given_
    rule = rule_of("prior", 50257, prior)
    found = reweigh(distribution, misses, rule)
    assert found.distribution @ misses == pytest.approx(prior, abs=1e-8)
    assert (found.alpha > 0) == (found.error < prior) or found.error == pytest.approx(prior, abs=1e-9)
    assert rule.chance == pytest.approx(prior, abs=1e-12)
    # The logarithms of odds of being right, less those of the untuned model.
    odds = math.log((1 - found.error) / found.error) - math.log((1 - prior) / prior)
    assert found.alpha == pytest.approx(odds, abs=1e-9)


@given(weighted_misses(), st.integers(2, 30))
def test_the_rules_are_one_family(given_: tuple[np.ndarray, np.ndarray], classes: int) -> None:
    distribution, misses = given_
    samme = reweigh(distribution, misses, rule_of("samme", classes))
    prior = reweigh(distribution, misses, rule_of("prior", classes, 1 - 1 / classes))
    assert samme.alpha == pytest.approx(prior.alpha, abs=1e-9)
    half = reweigh(distribution, misses, rule_of("prior", classes, 0.5))
    m1 = reweigh(distribution, misses, rule_of("m1", classes))
    assert half.alpha == pytest.approx(m1.alpha, abs=1e-12)


def test_effective_shares_of_the_specification() -> None:
    """A1b: 30% of random misses, round after round, with the vocabulary as K, with a prior of .6, and with K = 2."""
    told: dict[RuleName, tuple[float, ...]] = {
        "samme": (0.30, 0.09, 0.028),
        "prior": (0.70, 0.48, 0.34),
        "m1": (0.84, 0.71, 0.59),
    }
    draw = np.random.default_rng(0)
    for name, expected in told.items():
        rule = rule_of(name, 50257, 0.6)
        distribution = np.full(200_000, 1 / 200_000)
        for share in expected:
            # Misses that hold 30% of the mass, whatever it lies on.
            misses = (draw.random(len(distribution)) < 0.3).astype(float)
            distribution = reweigh(distribution, misses, rule).distribution
            assert effective_share(distribution) == pytest.approx(share, rel=0.12)


def test_a_perfect_and_a_hopeless_expert_have_finite_weights() -> None:
    equal = np.full(10, 0.1)
    assert reweigh(equal, np.zeros(10), Rule(0.0)).alpha == pytest.approx(math.log(19))
    assert reweigh(equal, np.ones(10), Rule(0.0)).alpha == pytest.approx(-math.log(19))
    assert reweigh(equal, np.zeros(10), Rule(0.0, most=1.0)).alpha == 1.0
    found = reweigh(equal, np.eye(10)[0], Rule(800.0))
    assert np.isfinite(found.distribution).all()
    assert found.distribution[0] == 1.0


@pytest.mark.parametrize(
    ("name", "classes", "prior", "word"), [("adaboost", 3, None, "samme"), ("prior", 5, None, "between")]
)
def test_rules_that_do_not_fit_are_refused(name: RuleName, classes: int, prior: float | None, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        rule_of(name, classes, prior)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0), st.integers(1, 8))
def test_windows_never_cross_samples_and_hold_at_most_so_many(sizes: list[int], window: int) -> None:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    owners = np.repeat(np.arange(len(sizes)), sizes)
    ids = window_ids(starts, window)
    assert sorted(set(ids)) == list(range(ids.max() + 1))
    for one in range(ids.max() + 1):
        inside = np.flatnonzero(ids == one)
        assert len(inside) <= window
        assert len(set(owners[inside])) == 1
        assert (np.diff(inside) == 1).all()
    whole = window_ids(starts, None)
    assert len(set(whole)) == sum(size > 0 for size in sizes)
    misses = np.random.default_rng(0).random(len(owners))
    shared = shared_in_windows(misses, ids)
    assert shared.sum() == pytest.approx(misses.sum())
    assert np.allclose(window_ids(starts, 1), np.arange(len(owners)))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_votes_are_distributions_that_scale_and_order_do_not_change(
    experts: int, rows: int, classes: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    said = draw.dirichlet(np.ones(classes), (experts, rows))
    alphas = draw.random(experts) + 0.1
    for vote in VOTES:
        found = ensembles(said, alphas, vote)
        assert np.allclose(found.sum(axis=-1), 1)
        assert (found[0] == said[0]).all()
        assert np.allclose(found, ensembles(said, 7.5 * alphas, vote))
        if experts > 1:
            order = draw.permutation(experts)
            assert np.allclose(found[-1], ensembles(said[order], alphas[order], vote)[-1])
        same = ensembles(np.repeat(said[:1], experts, axis=0), alphas, vote)
        if vote != "share":
            assert np.allclose(same, said[0], atol=1e-7)
    assert np.allclose(ensembles(said, alphas, "linear")[-1], np.tensordot(alphas, said, 1) / alphas.sum())


def test_samme_can_be_wrong_while_its_loss_vanishes() -> None:
    """The counter-example of Mukherjee and Schapire: the true class has most votes of none, and the bound does not hold."""
    said = np.eye(3)[[[0]] * 8 + [[1]] * 9 + [[2]] * 3]
    shares = ensembles(said, np.ones(20), "share")[-1, 0]
    assert shares.tolist() == pytest.approx([0.40, 0.45, 0.15])
    assert shares.argmax() != 0
    # SAMME's loss of the true class 0, by the total weight: exp(-Y f / K) with Y = (1, -1/2, -1/2).
    scores = 1.5 * shares - 0.5
    losses = [math.exp(-weight * float(scores @ [1.0, -0.5, -0.5]) / 3) for weight in (1.0, 20.0, 400.0)]
    assert losses[0] == pytest.approx(math.exp(-0.05))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-8


def test_evidential_labels_are_posterior_means() -> None:
    said = np.array([[[0.9, 0.1]], [[0.6, 0.4]], [[0.2, 0.8]]])
    assert evidential(said).tolist() == [[pytest.approx(3 / 5), pytest.approx(2 / 5)]]


def test_correlation_of_errors_skips_experts_that_never_err() -> None:
    wrong = np.array([[1, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
    matrix = error_correlations(wrong.astype(float))
    assert matrix[0, 1] == pytest.approx(1)
    assert matrix[0, 3] == pytest.approx(-1)
    assert np.isnan(matrix[0, 2])
    assert mean_correlation(wrong) == pytest.approx((1 - 1 - 1) / 3)
    assert mean_correlation(wrong[2:3]) is None
