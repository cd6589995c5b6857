"""Intervals, exact tests and rates of refusals against other ways to compute them, over random counts."""

from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from rayworks.core.proportions import mcnemar_of_groups, mcnemar_power, wilson, wilson_of_groups
from rayworks.systems.refusal.evaluation.rates import OUTCOMES, Outcome, before_and_after, plane, rates
from rayworks.systems.refusal.judging.languages import detect, language_of
from rayworks.systems.refusal.judging.rules import read
from rayworks.systems.refusal.regression.gate import GateSettings, compare

counts = st.integers(0, 60)
kinds = st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=40)


@given(counts, counts)
def test_wilson_is_scipys(successes: int, failures: int) -> None:
    assume(successes + failures)
    low, high = wilson(np.array(float(successes)), np.array(float(successes + failures)))
    expected = binomtest(successes, successes + failures).proportion_ci(method="wilson")
    assert (float(low), float(high)) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert low - 1e-12 <= successes / (successes + failures) <= high + 1e-12


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=30))
def test_groups_never_count_for_more_than_their_cases(groups: list[tuple[int, int]]) -> None:
    successes = np.array([float(min(count, of)) for count, of in groups])
    of = np.array([count for _, count in groups])
    low, high = wilson_of_groups(successes, of)
    plain = wilson(successes.sum(), of.sum())
    assert 0 <= low <= float(plain[0]) + 1e-9 and float(plain[1]) - 1e-9 <= high <= 1


def test_groups_of_one_are_independent_cases() -> None:
    successes = np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    found = wilson_of_groups(successes, np.ones(5, int))
    assert found == pytest.approx(tuple(map(float, wilson(np.array(3.0), np.array(5.0)))))


@pytest.mark.parametrize(
    ("groups", "size", "share", "alike"), [(20, 10, 0.1, 2.0), (60, 20, 0.06, 1.0), (12, 5, 0.5, 0.5)]
)
def test_intervals_of_groups_cover_where_those_of_cases_do_not(
    groups: int, size: int, share: float, alike: float
) -> None:
    """Beta-binomial groups, fresh seeds; 2,000 of each gave .91 to .96, and .44 to .66 of the plain ones."""
    random = np.random.default_rng()
    covered = plain = 0
    for _ in range(1000):
        chances = random.beta(share * alike, (1 - share) * alike, groups)
        of = random.poisson(size - 1, groups) + 1
        successes = random.binomial(of, chances).astype(float)
        low, high = wilson_of_groups(successes, of)
        covered += low <= share <= high
        below, above = wilson(successes.sum(), of.sum())
        plain += float(below) <= share <= float(above)
    assert covered >= 880 and plain <= 750


@given(counts, counts)
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(gained: int, lost: int) -> None:
    assume(gained + lost)
    expected = [binomtest(gained, gained + lost, alternative=side).pvalue for side in ("greater", "two-sided")]
    assert mcnemar(gained, lost) == pytest.approx(expected)


def test_mcnemar_of_no_change_is_one() -> None:
    assert mcnemar(0, 0) == (1.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 14), st.floats(0.01, 0.5), st.floats(0.01, 0.4), st.sampled_from([0.0, 0.1, 0.3]))
def test_power_is_the_sum_over_all_outcomes(pairs: int, gain: float, loss: float, least: float) -> None:
    expected = sum(
        multinomial.pmf([gained, lost, pairs - gained - lost], pairs, [gain, loss, 1 - gain - loss])
        for gained, lost in product(range(pairs + 1), repeat=2)
        if gained + lost <= pairs
        and (gained - lost) / pairs >= least - 1e-12
        and (gained + lost == 0 or binomtest(gained, gained + lost, alternative="greater").pvalue <= 0.2 + 1e-12)
        and gained + lost > 0
    )
    assert mcnemar_power(pairs, gain, loss, 0.2, least) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(-4, 4), max_size=9))
def test_the_test_over_groups_counts_all_signs(changes: list[int]) -> None:
    observed, sizes = sum(changes), np.abs(np.array(changes, int))
    sums = [int(np.dot(signs, sizes)) for signs in product((-1, 1), repeat=len(changes))]
    upper, lower = np.mean([one >= observed for one in sums]), np.mean([one <= observed for one in sums])
    found = mcnemar_of_groups(np.array(changes, int))
    assert found == pytest.approx((upper, min(1.0, 2 * min(upper, lower))), abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_pairs_that_stay_the_same_tell_nothing(gained: int, lost: int, same: int) -> None:
    assert mcnemar(gained, lost, same) == mcnemar(gained, lost)


def test_groups_that_change_together_raise_no_false_alarm() -> None:
    """Twenty groups of ten that all change or none, either way alike: by pairs two of five are alarms, by groups few."""
    random = np.random.default_rng(7)
    alarms = plain = 0
    for _ in range(500):
        changes = 10 * random.choice([-1, 0, 0, 1], 20)
        alarms += mcnemar_of_groups(changes)[0] <= 0.05
        plain += mcnemar(int(changes[changes > 0].sum()), int(-changes[changes < 0].sum()))[0] <= 0.05
    assert alarms <= 40
    assert plain >= 100


def mcnemar(gained: int, lost: int, same: int = 0) -> tuple[float, float]:
    """Of so many pairs, each a group."""
    return mcnemar_of_groups(np.array([1] * gained + [-1] * lost + [0] * same, int))


def outcomes(found: list[str], label: str = "harmless") -> list[Outcome]:
    return [Outcome(f"{label}/{number}", label, "", kind) for number, kind in enumerate(found)]


@given(kinds, st.randoms())
def test_rates_do_not_depend_on_the_order_and_add_up(found: list[str], random: Random) -> None:
    run = outcomes(found)
    shuffled = list(run)
    random.shuffle(shuffled)
    [one], [other] = rates(run), rates(shuffled)
    assert one == other
    assert sum(one.outcomes.values()) == one.prompts == len(found)
    assert one.full.count <= one.total.count <= one.total.of == sum(outcome.valid for outcome in run)
    usability = plane(run)["usability"]
    if one.total.share is not None:
        assert usability.share == pytest.approx(1 - one.total.share)
    assert one.full.low <= one.total.low


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES)), min_size=1, max_size=60))
def test_before_and_after_turned_round_has_the_other_sign(pairs: list[tuple[str, str]]) -> None:
    before, after = (outcomes([pair[side] for pair in pairs]) for side in (0, 1))
    there, back = before_and_after(before, after), before_and_after(after, before)
    assert len(there) == len(back) <= 1
    for one, other in zip(there, back, strict=True):
        assert one["difference"] == -other["difference"]
        assert (one["p"], one["flip_rate"]) == (other["p"], other["flip_rate"])


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES)), min_size=1, max_size=60))
def test_no_change_and_its_opposite_are_never_both_regressions(pairs: list[tuple[str, str]]) -> None:
    for label in ("harmless", "harmful"):
        before, after = (outcomes([pair[side] for pair in pairs], label) for side in (0, 1))
        found = [
            compare(label, *runs, GateSettings()).status
            for runs in ((before, after), (after, before), (before, before))
        ]
        assert found.count("failed") <= 1
        assert found[2] != "failed"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_can_be_read(request: str, reply: str) -> None:
    reading = read(request, reply)
    assert reading.language == language_of(request, reply)
    assert 0 <= reading.overlap <= 1
    assert 0 <= reading.density <= 1
    assert np.isfinite(reading.features()).all()
    assert reading.declines_first <= reading.declines_early <= (reading.declines > 0)
    assert detect(reply) == detect(reply)
