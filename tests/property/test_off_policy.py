"""Expectations of the estimators by enumeration of every log that a small world can make, and identities."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.systems.recommendation.measures.estimates import SumOfRatios
from rayworks.systems.recommendation.values.off_policy import LoggedActions, Target, estimators, evaluate
from rayworks.systems.recommendation.values.sequence_off_policy import (
    Trajectories,
    evaluate_sequences,
    importance_sampling,
    per_decision,
    sequence_doubly_robust,
)

seeds = st.integers(0, 2**32 - 1)
ACTIONS = 3


class Bandit:
    """Three actions with Bernoulli rewards, a logging and a target policy."""

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        self.logging, self.policy = draw.dirichlet(np.ones(ACTIONS), 2) * 0.97 + 0.01
        self.rates = draw.random(ACTIONS)
        self.model = draw.normal(size=ACTIONS)
        self.value = float(self.policy @ self.rates)

    def expectation(self, name: str, propensity: np.ndarray, model: np.ndarray) -> float:
        """Mean of an estimator over all logs of two rows, each by its chance."""
        total = 0.0
        for rows in product(product(range(ACTIONS), (0.0, 1.0)), repeat=2):
            action = np.array([a for a, _ in rows])
            reward = np.array([r for _, r in rows])
            accepted = np.where(reward == 1, self.rates[action], 1 - self.rates[action])
            weight = self.policy[action] / propensity[action]
            found = estimators(reward, weight, model[action], np.full(2, self.policy @ model))[name]
            total += float(np.prod(self.logging[action] * accepted)) * found.value
        return total


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_weights_or_the_model_make_estimates_unbiased(seed: int) -> None:
    world = Bandit(seed)
    wrong = np.full(ACTIONS, 1 / ACTIONS)
    assert world.expectation("ips", world.logging, world.model) == pytest.approx(world.value)
    assert world.expectation("dr", world.logging, world.model) == pytest.approx(world.value)
    assert world.expectation("dr", wrong, world.rates) == pytest.approx(world.value)
    assert world.expectation("dm", wrong, world.rates) == pytest.approx(world.value)


def test_self_normalisation_costs_a_bias_that_plain_weights_do_not_have() -> None:
    world = Bandit(3)
    assert abs(world.expectation("snips", world.logging, world.model) - world.value) > 1e-3


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_an_exact_model_leaves_no_variance(seed: int) -> None:
    draw = np.random.default_rng(seed)
    policy, rewards = draw.dirichlet(np.ones(4), 3).T, draw.normal(size=(4, 3))
    position, action = draw.integers(0, 3, 20), draw.integers(0, 4, 20)
    log = LoggedActions(rewards[action, position], draw.uniform(0.1, 1, 20), action, position)
    found = evaluate(log, Target.from_tables(log, policy, rewards)).estimates
    for name in ("dr", "sndr", "dm"):
        assert found[name].value == pytest.approx((policy * rewards).sum(axis=0)[position].mean())
        assert found[name].standard_error == pytest.approx(found["dm"].standard_error)


@given(seeds, st.floats(-5, 5), st.floats(0.1, 5))
@settings(deadline=None, max_examples=50)
def test_identities_of_the_row_estimators(seed: int, shift: float, scale: float) -> None:
    draw = np.random.default_rng(seed)
    reward, weight, predicted, expected = draw.normal(size=(4, 30))
    weight = np.exp(weight)
    base = estimators(reward, weight, predicted, expected)
    moved = estimators(scale * reward + shift, weight, scale * predicted + shift, scale * expected + shift)
    for name in ("snips", "dm", "dr", "sndr"):
        assert moved[name].value == pytest.approx(scale * base[name].value + shift, abs=1e-9)
        assert moved[name].estimate().standard_error == pytest.approx(scale * base[name].estimate().standard_error)
    for name in ("snips", "sndr"):
        assert estimators(reward, scale * weight, predicted, expected)[name].value == pytest.approx(base[name].value)
    order = draw.permutation(30)
    shuffled = estimators(reward[order], weight[order], predicted[order], expected[order])
    silent = estimators(reward, weight, np.zeros(30), np.zeros(30))
    logged = estimators(reward, np.ones(30))
    for name, form in base.items():
        assert shuffled[name].value == pytest.approx(form.value)
        assert form.influence().sum() == pytest.approx(0, abs=1e-9)
    assert (silent["dr"].value, silent["sndr"].value) == pytest.approx((base["ips"].value, base["snips"].value))
    assert logged["ips"].value == pytest.approx(reward.mean()) == pytest.approx(logged["snips"].value)


@given(seeds, st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_influence_is_the_derivative_in_each_unit(seed: int, terms: int) -> None:
    draw = np.random.default_rng(seed)
    form = SumOfRatios(draw.normal(size=(terms, 9)), draw.uniform(0.5, 2, (terms, 9)))
    assert form.denominator is not None
    for unit in range(9):
        values = []
        for step in (-1e-6, 1e-6):
            weight = np.ones(9)
            weight[unit] += step
            values.append(float(((form.numerator @ weight) / (form.denominator @ weight)).sum()))
        assert form.influence()[unit] == pytest.approx(9 * (values[1] - values[0]) / 2e-6, abs=1e-5)


class Decisions:
    """Two steps, two actions; after action 1 at the first step a chance of ending; rewards depend on the whole history."""

    def __init__(self, seed: int, discount: float) -> None:
        draw = np.random.default_rng(seed)
        self.discount = discount
        self.first = draw.dirichlet(np.ones(2), 2) * 0.96 + 0.02
        self.second = draw.dirichlet(np.ones(2), (2, 2, 2)) * 0.96 + 0.02
        self.reward, self.later = draw.normal(size=2), draw.normal(size=(2, 2))
        self.stay = np.array([1.0, 0.6])

    def trajectories(self, which: int) -> Iterator[tuple[float, Trajectories]]:
        """Every trajectory with its chance under policy ``which``; 0 logs, 1 is the target."""
        for action, follows in product((0, 1), (None, 0, 1)):
            chance = self.first[which, action]
            chance *= 1 - self.stay[action] if follows is None else self.stay[action]
            second = [[np.nan] * 2, self.reward[action]]
            past = int(self.reward[action] > 0)
            chosen, reward = [1.0, 1.0], np.nan
            if follows is not None:
                chance *= self.second[which, action, past, follows]
                chosen = [self.second[policy, action, past, follows] for policy in (0, 1)]
                reward = self.later[action, follows]
            yield (
                float(chance),
                Trajectories(
                    np.array([[second[1], reward]]),
                    np.array([[self.first[0, action], chosen[0]]]),
                    np.array([[self.first[1, action], chosen[1]]]),
                    np.array([[True, follows is not None]]),
                ),
            )

    def returns(self, log: Trajectories) -> float:
        """Of one trajectory."""
        return float(log.discounted(log.reward, self.discount).sum())

    def expectation(self, estimator: Callable[[Trajectories], SumOfRatios]) -> float:
        """Mean of an estimator over every logged trajectory."""
        return sum(chance * estimator(log).value for chance, log in self.trajectories(0))

    @property
    def value(self) -> float:
        """The target's."""
        return sum(chance * self.returns(log) for chance, log in self.trajectories(1))


@given(seeds, st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_sequence_estimators_are_unbiased(seed: int, discount: float) -> None:
    world = Decisions(seed, discount)
    assert world.expectation(lambda log: importance_sampling(log, discount)) == pytest.approx(world.value)
    assert world.expectation(lambda log: per_decision(log, discount)) == pytest.approx(world.value)
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=2), draw.normal(size=(2, 2, 2))

    def corrected(log: Trajectories) -> SumOfRatios:
        """DR with any model at all, whose state values are the means of its action values."""
        action = int(np.argmin(np.abs(world.first[0] - log.propensity[0, 0])))
        past = int(world.reward[action] > 0)
        follows = int(np.argmin(np.abs(world.second[0, action, past] - log.propensity[0, 1])))
        q = np.array([[first[action], second[action, past, follows]]])
        v = np.array([[world.first[1] @ first, world.second[1, action, past] @ second[action, past]]])
        return sequence_doubly_robust(log, discount, q, v)

    assert world.expectation(corrected) == pytest.approx(world.value)


def random_trajectories(seed: int, users: int = 7, steps: int = 4) -> Trajectories:
    """Ragged, with nonsense outside what is present."""
    draw = np.random.default_rng(seed)
    present = np.arange(steps) < draw.integers(1, steps + 1, users)[:, None]
    columns = [np.where(present, values, np.nan) for values in draw.uniform(0.1, 1, (3, users, steps))]
    return Trajectories(columns[0], columns[1], columns[2], present)


@given(seeds, st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_sequence_estimators_are_their_loops(seed: int, discount: float) -> None:
    log = random_trajectories(seed)
    users, steps = log.present.shape
    draw = np.random.default_rng(seed + 1)
    q, v = np.where(log.present, draw.normal(size=(2, users, steps)), np.nan)
    weight = np.ones((users, steps + 1))
    for user, step in product(range(users), range(steps)):
        ratio = log.target_probability[user, step] / log.propensity[user, step] if log.present[user, step] else 1.0
        weight[user, step + 1] = weight[user, step] * ratio
    totals = dict.fromkeys(("is", "wis", "pdis", "wpdis", "wdr", "dr"), 0.0)
    last, sums = weight[:, -1], weight.sum(axis=0)
    for user in range(users):
        ahead = 0.0
        for step in reversed(range(int(log.present[user].sum()))):
            reward, power, now, was = log.reward[user, step], discount**step, weight[user, step + 1], weight[user, step]
            totals["is"] += last[user] * power * reward / users
            totals["wis"] += last[user] * power * reward / last.sum()
            totals["pdis"] += now * power * reward / users
            totals["wpdis"] += now * power * reward / sums[step + 1]
            totals["wdr"] += power * (
                now * (reward - q[user, step]) / sums[step + 1] + was * v[user, step] / sums[step]
            )
            ahead = v[user, step] + now / was * (reward + discount * ahead - q[user, step])
        totals["dr"] += ahead / users
    found = evaluate_sequences(log, discount=discount, action_value=q, state_value=v).estimates
    assert found.pop("dm").value == pytest.approx(v[:, 0].mean())
    assert {name: one.value for name, one in found.items()} == pytest.approx(totals)


@given(seeds, st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_the_logging_policy_has_the_mean_return(seed: int, discount: float) -> None:
    log = random_trajectories(seed)
    same = Trajectories(log.reward, log.propensity, log.propensity, log.present)
    mean = log.discounted(log.reward, discount).sum(axis=1).mean()
    found = evaluate_sequences(same, discount=discount)
    assert {name: one.value for name, one in found.estimates.items()} == pytest.approx(
        dict.fromkeys(("is", "wis", "pdis", "wpdis"), mean)
    )
    np.testing.assert_allclose(found.by_step.effective_sample_size, log.present.sum(axis=0))
    np.testing.assert_allclose(found.by_step.mean_weight, 1)


@given(seeds, st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_exact_values_of_a_certain_world_leave_no_variance(seed: int, discount: float) -> None:
    """Rewards by step and action, nothing else by chance: every trajectory alone gives the value."""
    draw = np.random.default_rng(seed)
    steps, users = 5, 6
    policy, rewards = draw.dirichlet(np.ones(3), steps), draw.normal(size=(steps, 3))
    ahead = np.zeros(steps + 1)
    for step in reversed(range(steps)):
        ahead[step] = policy[step] @ rewards[step] + discount * ahead[step + 1]
    action = draw.integers(0, 3, (users, steps))
    at = np.arange(steps)
    log = Trajectories(
        rewards[at, action], draw.uniform(0.1, 1, (users, steps)), policy[at, action], np.ones((users, steps), bool)
    )
    q, v = log.reward + discount * ahead[1:], np.tile(ahead[:-1], (users, 1))
    found = evaluate_sequences(log, discount=discount, action_value=q, state_value=v).estimates
    for name in ("dm", "dr", "wdr"):
        assert found[name].value == pytest.approx(ahead[0])
        assert found[name].standard_error == pytest.approx(0, abs=1e-9)
