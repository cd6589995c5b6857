"""Trajectories: what is refused, what is never read, weights of any size, overlap by step."""

import numpy as np
import pytest

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.measures.estimates import Bootstrap
from rayworks.systems.recommendation.values.sequence_off_policy import Trajectories, evaluate_sequences


def columns(users: int = 4, steps: int = 3) -> dict[str, np.ndarray]:
    """Full trajectories whose target doubles the first action's chance."""
    found = {name: np.full((users, steps), 0.5) for name in ("reward", "propensity", "target_probability")}
    found["present"] = np.ones((users, steps), bool)
    return found


def changed(name: str, at: tuple[int, int], value: float) -> dict[str, np.ndarray]:
    found = columns()
    found[name][at] = value
    return found


BAD = [
    (changed("propensity", (2, 1), 0.0), r"propensity 0 of row 2, step 1 is not above 0 and at most 1"),
    (changed("propensity", (0, 2), 1.1), r"propensity 1.1 of row 0, step 2"),
    (changed("propensity", (0, 2), np.nan), r"propensity nan of row 0, step 2 is not finite"),
    (changed("target_probability", (3, 0), 1.5), r"target_probability 1.5 of row 3, step 0 is not between 0 and 1"),
    (changed("reward", (1, 1), np.inf), r"reward inf of row 1, step 1 is not finite"),
    (changed("present", (1, 0), False), r"present 0 of row 1 has no step; leave out users"),
    (changed("present", (1, 1), False), r"present 1 of row 1, step 2 comes after a gap"),
    (columns() | {"reward": np.zeros((4, 2))}, r"reward has shape \(4, 2\) where \(4, 3\) is due"),
    (columns() | {"present": np.ones((0, 3), bool)}, r"present has shape \(0, 3\)"),
]


@pytest.mark.parametrize(("arrays", "message"), BAD)
def test_bad_trajectories_name_the_field_row_and_step(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trajectories(**arrays)


def test_bad_arguments_say_the_fix() -> None:
    log = Trajectories(**columns())
    with pytest.raises(DataError, match=r"discount is 1\.5"):
        evaluate_sequences(log, discount=1.5)
    with pytest.raises(DataError, match="come together"):
        evaluate_sequences(log, action_value=np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"state_value has shape \(4, 2\)"):
        evaluate_sequences(log, action_value=np.zeros((4, 3)), state_value=np.zeros((4, 2)))
    never = Trajectories(**changed("target_probability", (slice(None), 1), 0.0))
    with pytest.raises(DataError, match="0 somewhere in every trajectory"):
        evaluate_sequences(never)


@pytest.mark.parametrize("nonsense", [np.nan, np.inf, -1.0])
def test_what_is_not_present_is_never_read(nonsense: float) -> None:
    values = []
    for outside in (0.5, nonsense):
        arrays = columns() | {"present": np.arange(3) < np.array([[1], [2], [3], [3]])}
        model = np.full((4, 3), 0.4)
        for array in (arrays["reward"], arrays["propensity"], arrays["target_probability"], model):
            array[~arrays["present"]] = outside
        found = evaluate_sequences(Trajectories(**arrays), action_value=model, state_value=model)
        values.append({name: (one.value, one.standard_error) for name, one in found.estimates.items()})
    assert values[0] == values[1]


def test_a_worked_example() -> None:
    """Two users; the target takes what the first did twice as often, and never what the second did last."""
    log = Trajectories(
        reward=np.array([[1.0, 2.0], [4.0, 8.0]]),
        propensity=np.array([[0.5, 0.25], [0.5, 0.5]]),
        target_probability=np.array([[1.0, 0.5], [0.5, 0.0]]),
        present=np.ones((2, 2), bool),
    )
    found = evaluate_sequences(log, discount=0.5)
    assert {name: one.value for name, one in found.estimates.items()} == pytest.approx(
        {"is": 4 * 2 / 2, "wis": 2.0, "pdis": (2 * 1 + 4 * 1 + 4) / 2, "wpdis": (2 * 1 + 1 * 4) / 3 + 1.0}
    )
    np.testing.assert_allclose(found.by_step.effective_sample_size, [9 / 5, 1])
    np.testing.assert_allclose(found.by_step.largest_weight, [2, 4])
    np.testing.assert_allclose(found.by_step.mean_weight, [1.5, 2])


@pytest.mark.parametrize("direction", ["huge", "tiny"])
def test_products_of_many_ratios_stay_finite(direction: str) -> None:
    """400 ratios of 100, or of a hundredth: no overflow, and self-normalised forms are as if they were 1."""
    draw = np.random.default_rng(0)
    reward, steps = draw.random((6, 400)), np.ones((6, 400), bool)
    small, large = np.full((6, 400), 0.01), np.ones((6, 400))
    log = Trajectories(reward, *((small, large) if direction == "huge" else (large, small)), steps)
    found = evaluate_sequences(log, action_value=reward * 0, state_value=reward * 0)
    mean = reward.sum(axis=1).mean()
    for name in ("wis", "wpdis", "wdr"):
        assert found.estimates[name].value == pytest.approx(mean)
    if direction == "tiny":
        assert found.estimates["is"].value == 0
        assert any("the mean weight is 0" in warning for warning in found.diagnostics.warnings)
    np.testing.assert_allclose(found.by_step.effective_sample_size, 6)


def test_poor_overlap_is_found_at_its_step() -> None:
    draw = np.random.default_rng(1)
    shape = (500, 12)
    target = np.where(draw.random(shape) < 0.5, 0.95, 0.05)
    log = Trajectories(draw.random(shape), np.full(shape, 0.5), target, np.ones(shape, bool))
    found = evaluate_sequences(log, bootstrap=Bootstrap(50, 0))
    share = found.by_step.effective_sample_size / 500
    assert share[0] > 0.5 and share[-1] < 0.1
    first = int(np.flatnonzero(share < 0.1)[0])
    assert found.diagnostics.warnings[-1].startswith(f"overlap is poor from step {first} on: 500 users are worth")
    assert found.diagnostics.warnings[0].startswith("overlap is poor: 500 trajectories are worth")
    assert found.estimates["is"].standard_error > found.estimates["pdis"].standard_error


def test_intervals_over_users_hold_the_truth() -> None:
    """Bernoulli rewards that depend on the action: the target's value per step is its own mix of the two rates."""
    held = dict.fromkeys(("is", "wis", "pdis", "wpdis", "dr", "wdr"), 0)
    rates, policy, steps = np.array([0.3, 0.7]), np.array([0.4, 0.6]), 3
    value = policy @ rates
    for seed in range(200):
        draw = np.random.default_rng(seed)
        action = draw.integers(0, 2, (300, steps))
        reward = (draw.random(action.shape) < rates[action]).astype(float)
        log = Trajectories(reward, np.full(action.shape, 0.5), policy[action], np.ones(action.shape, bool))
        ahead = value * np.arange(steps)[::-1]
        q, v = rates[action] + ahead, np.broadcast_to(value + ahead, action.shape)
        found = evaluate_sequences(log, action_value=q, state_value=v).estimates
        for name in held:
            held[name] += found[name].holds(steps * value)
    assert min(held.values()) >= 180, held
