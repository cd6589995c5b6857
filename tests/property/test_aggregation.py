"""The strategies' server steps against their formulas in plain numpy, and against what they conserve."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.federation.privacy.update_clipping import clipped, update_norm
from rayworks.systems.federation.training.aggregation import (
    Aggregated,
    Arrays,
    ServerState,
    Update,
    aggregate,
    fault,
    require_finite,
)
from rayworks.systems.federation.training.local_training import control_variate

CLIENTS = st.integers(1, 6)
SEEDS = st.integers(0, 10_000)


def model(draw: np.random.Generator) -> dict[str, np.ndarray]:
    return {"a": draw.normal(size=(2, 3)).astype(np.float32), "b": draw.normal(size=4).astype(np.float32)}


def updates(draw: np.random.Generator, clients: int, normaliser: bool = False) -> list[Update]:
    return [
        Update(i, model(draw), int(draw.integers(1, 50)), float(draw.integers(1, 9)) if normaliser else 3.0)
        for i in range(clients)
    ]


def step(name: Any, start: Arrays, found: list[Update], state: ServerState | None = None, **options: Any) -> Aggregated:
    options = {"clients": 8, "weighting": "examples", **options}
    return aggregate(name, start, found, state or ServerState(), **options)


@settings(deadline=None, max_examples=40)
@given(CLIENTS, SEEDS)
def test_the_mean_is_weighted_by_examples_or_plain(clients: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    start, found = model(draw), updates(draw, clients)
    for weighting, weights in (("examples", [u.examples for u in found]), ("equal", [1] * clients)):
        result = step("fedavg", start, found, weighting=weighting).weights
        for name in start:
            expected = np.average([u.weights[name] for u in found], axis=0, weights=weights)
            np.testing.assert_allclose(result[name], expected, atol=1e-6)
            assert result[name].dtype == np.float32


@settings(deadline=None, max_examples=40)
@given(CLIENTS, SEEDS)
def test_fednova_is_its_formula_and_fedavg_for_equal_steps(clients: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    start, found = model(draw), updates(draw, clients, normaliser=True)
    shares = np.array([u.examples for u in found]) / sum(u.examples for u in found)
    pace = float(shares @ [u.normaliser for u in found])
    result = step("fednova", start, found).weights
    for name in start:
        moves = sum(p * (u.weights[name] - start[name]) / u.normaliser for p, u in zip(shares, found, strict=True))
        np.testing.assert_allclose(result[name], start[name] + pace * moves, atol=1e-5)
    equal = updates(draw, clients)
    for name, value in step("fedavg", start, equal).weights.items():
        np.testing.assert_allclose(step("fednova", start, equal).weights[name], value, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 6), SEEDS)
def test_scaffolds_server_variate_is_the_mean_of_all_clients(clients: int, seed: int) -> None:
    """Whoever takes part, whatever they compute: C c = sum of c_i after every round."""
    draw = np.random.default_rng(seed)
    weights = model(draw)
    state = ServerState()
    own = [{name: np.zeros_like(value) for name, value in weights.items()} for _ in range(clients)]
    for _ in range(4):
        cohort = np.sort(draw.choice(clients, int(draw.integers(1, clients + 1)), replace=False))
        server = {name: np.asarray(state.variate.get(name, np.zeros_like(v)), v.dtype) for name, v in weights.items()}
        found = []
        for client in cohort.tolist():
            after = model(draw)
            following = control_variate(own[client], server, weights, after, 0.2)
            change = {name: following[name] - own[client][name] for name in following}
            found.append(Update(client, after, int(draw.integers(1, 9)), 4.0, change))
            own[client] = following
        done = step("scaffold", weights, found, state, clients=clients)
        weights, state = done.weights, done.state
        for name in weights:
            total = sum(variate[name].astype(np.float64) for variate in own)
            np.testing.assert_allclose(clients * state.variate[name], total, atol=1e-4)


def test_feddyn_finds_the_minimum_of_clients_that_disagree() -> None:
    """Clients with losses (theta - b_i)^2 w_i / 2 and exact local steps: FedDyn ends in the minimum of their sum."""
    targets, strengths, alpha = np.array([0.0, 1.0, 5.0]), np.array([1.0, 4.0, 0.5]), 0.5
    weights, state, gradients = {"a": np.zeros(1)}, ServerState(), np.zeros(3)
    for _ in range(300):
        local = (strengths * targets + gradients + alpha * weights["a"]) / (strengths + alpha)
        gradients = gradients - alpha * (local - weights["a"])
        found = [Update(i, {"a": local[[i]]}, 1) for i in range(3)]
        done = step("feddyn", weights, found, state, clients=3, alpha=alpha)
        weights, state = done.weights, done.state
    assert float(weights["a"][0]) == pytest.approx(float(strengths @ targets / strengths.sum()), abs=1e-6)


def test_bad_updates_are_left_out_and_named() -> None:
    draw = np.random.default_rng(0)
    start, good = model(draw), updates(draw, 1)[0]
    broken = {
        1: {**good.weights, "b": np.array([1, np.nan, 0, 0], np.float32)},
        2: {**good.weights, "a": np.zeros((3, 2), np.float32)},
        3: {"a": good.weights["a"]},
    }
    result = step("fedavg", start, [good, *(Update(i, weights, 9) for i, weights in broken.items())])
    assert result.counted == 1
    assert [name in result.rejected[i] for i, name in ((1, "'b'"), (2, "'a'"), (3, "'b'"))] == [True] * 3
    for name in start:
        np.testing.assert_array_equal(result.weights[name], good.weights[name])
    assert "variate" in step("scaffold", start, [good]).rejected[0]
    assert fault(start, start) is None


def test_without_examples_the_model_stays_and_integer_buffers_stay_integers() -> None:
    start = {"a": np.ones(2, np.float32), "steps": np.array(3, np.int64)}
    empty = step("fedavg", start, [Update(0, {"a": np.zeros(2, np.float32), "steps": np.array(9, np.int64)}, 0, 0.0)])
    assert empty.weights["a"].tolist() == [1.0, 1.0]
    assert empty.counted == 0
    found = [Update(i, {"a": np.zeros(2, np.float32), "steps": np.array(n, np.int64)}, 1) for i, n in ((0, 4), (1, 7))]
    done = step("fedavg", start, found).weights
    assert done["steps"].dtype == np.int64
    assert int(done["steps"]) == 6
    with pytest.raises(DataError, match="'a'"):
        require_finite({"a": np.array([np.inf])})


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.floats(0.01, 20.0))
def test_clipping_bounds_the_norm_and_keeps_the_direction(seed: int, bound: float) -> None:
    draw = np.random.default_rng(seed)
    before, after = model(draw), model(draw)
    result, norm = clipped(after, before, bound)
    assert norm == pytest.approx(update_norm(after, before))
    assert update_norm(result, before) == pytest.approx(min(norm, bound), rel=1e-4)
    for name in before:
        expected = before[name] + min(1.0, bound / norm) * (after[name] - before[name])
        np.testing.assert_allclose(result[name], expected, atol=1e-5)
