"""Partitions, deficits, orders and encodings: what holds whatever the counts."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.federation.config import BalanceSection, DataSection, MixupSection
from rayworks.systems.federation.data.examples import Examples
from rayworks.systems.federation.data.heterogeneity import total_variation
from rayworks.systems.federation.data.mixup_encodings import blended, distinct, draw_mixtures, encode
from rayworks.systems.federation.data.partitions import label_counts, partition
from rayworks.systems.federation.training.label_balance import deficits, noisy_counts, pool_plan, present_labels, split

counts_of = arrays(np.int64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.integers(0, 30))


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.int64, st.integers(30, 80), elements=st.integers(0, 3)),
    st.sampled_from(["labels", "dirichlet", "shards", "iid"]),
    st.integers(1, 12),
    st.integers(0, 99),
)
def test_no_example_has_two_owners(labels: np.ndarray, scheme: Any, clients: int, seed: int) -> None:
    train = Examples(np.zeros((len(labels), 1), np.float32), labels, tuple("abcd"))
    data = DataSection(partition=scheme, clients=clients, labels_per_client=2, min_examples=0)
    parts = partition(train, data, seed)
    held = np.concatenate(parts)
    assert len(parts) == clients
    assert len(set(held.tolist())) == len(held)
    assert label_counts(train, parts).sum() == len(held)
    if scheme != "labels":
        assert len(held) == len(labels)
    for part, again in zip(parts, partition(train, data, seed), strict=True):
        assert np.array_equal(part, again)


@settings(max_examples=60, deadline=None)
@given(counts_of)
def test_filling_to_the_most_frequent_label_makes_labels_uniform(counts: np.ndarray) -> None:
    counts = counts[counts.sum(1) > 0]
    present = present_labels(counts)
    if not len(counts):
        return
    filled = counts + deficits(counts, present, BalanceSection(level=1.0, target="most"))
    np.testing.assert_array_equal(filled[:, present], filled.max(1, keepdims=True).repeat(present.sum(), 1))
    assert not filled[:, ~present].any()
    np.testing.assert_allclose(total_variation(filled), 0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    counts_of, st.floats(0, 1), st.sampled_from(["size", "most", "mean", "budget"]), st.booleans(), st.integers(0, 40)
)
def test_deficits_keep_their_bounds(counts: np.ndarray, level: float, target: Any, presence: bool, cap: int) -> None:
    section = BalanceSection(level=level, target=target, budget=17, presence=presence, cap=cap)
    found = deficits(counts, present_labels(counts), section)
    assert (found >= 0).all() and (found <= cap).all()
    assert not found[:, ~present_labels(counts)].any()
    assert not found[counts.sum(1) == 0].any()
    if presence:
        assert not found[counts > 0].any()
    mixups, noise = split(found, counts, 0.3)
    lacked = counts == 0
    assert np.array_equal(mixups + noise, found)
    assert np.abs((mixups - 0.3 * found) * lacked).max() <= 0.5
    assert not (noise * ~lacked).any(), "noise never takes a label that the client has"
    assert not (split(found, counts, 0.0)[0]).any()


def test_deficits_by_hand() -> None:
    counts = np.array([[30, 0, 0, 0], [10, 20, 0, 0]])
    present = np.array([True, True, True, False])

    def found(**change: Any) -> list[list[int]]:
        return deficits(counts, present, BalanceSection(**change)).tolist()

    assert found(level=0.1) == [[0, 3, 3, 0], [0, 0, 3, 0]]
    assert found(level=0.5) == [[0, 15, 15, 0], [5, 0, 15, 0]]
    assert found(level=1.0, target="most") == [[0, 30, 30, 0], [10, 0, 20, 0]]
    assert found(level=1.0, target="mean") == [[0, 30, 30, 0], [5, 0, 15, 0]]
    assert found(level=1.0, target="budget", budget=12) == [[0, 12, 12, 0], [2, 0, 12, 0]]
    assert found(level=0.5, presence=True, cap=4) == [[0, 4, 4, 0], [0, 0, 4, 0]]
    assert found(level=0.0) == [[0] * 4] * 2


@settings(max_examples=80, deadline=None)
@given(counts_of, st.data(), st.integers(0, 99))
def test_orders_meet_the_demand_from_others_that_have_the_label(counts: np.ndarray, data: Any, seed: int) -> None:
    mixups = data.draw(arrays(np.int64, counts.shape, elements=st.integers(0, 20)))
    plan = pool_plan(counts, mixups, seed)
    owner, client, label, count = plan.orders.T
    assert (owner != client).all() and (count > 0).all()
    assert (counts[owner, label] > 0).all()
    served = np.zeros_like(mixups)
    np.add.at(served, (client, label), count)
    assert np.array_equal(served + plan.unmet, mixups)
    alone = np.array(
        [[(np.delete(counts[:, k], i) == 0).all() for k in range(counts.shape[1])] for i in range(len(counts))]
    )
    assert not plan.unmet[~alone].any()
    assert not served[alone].any()
    assert np.array_equal(plan.orders, pool_plan(counts, mixups, seed).orders)


def test_orders_are_spread_evenly_over_owners() -> None:
    counts = np.array([[5], [9], [2], [0], [0], [0]])
    mixups = np.array([[0], [0], [0], [7], [1], [6]])
    orders = pool_plan(counts, mixups, 0).orders
    assert np.ptp(np.bincount(orders[:, 0], orders[:, 3])) <= 1
    both = pool_plan(counts, np.array([[8], [0], [0], [4], [0], [0]]), 0).orders
    assert sorted(np.bincount(both[:, 0], both[:, 3])) == [4, 4, 4]


def test_noisy_counts_are_counts_with_the_promised_noise() -> None:
    counts = np.full((200, 100), 50)
    noisy = noisy_counts(counts, 0.5, seeds.stream(0, "histogram"))
    assert noisy.dtype == np.int64 and noisy.min() >= 0
    assert np.mean(np.abs(noisy - 50)) == pytest.approx(2.0, abs=0.1)
    assert noisy.mean() == pytest.approx(50, abs=0.1)
    assert np.array_equal(noisy_counts(counts, 0.0, seeds.stream(0, "histogram")), counts)
    assert noisy_counts(np.zeros(50, np.int64), 0.1, seeds.stream(0, "histogram")).min() == 0


def client(size: int = 30, classes: int = 4) -> Examples:
    draw = np.random.default_rng(1)
    labels = np.arange(size) % classes
    return Examples(draw.integers(0, 256, (size, 1, 3, 3), dtype=np.uint8), labels, tuple("abcdefgh"[:classes]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 99))
def test_drawn_rows_are_different_numbers(population: int, size: int, seed: int) -> None:
    size = min(size, population)
    rows = distinct(np.random.default_rng(seed), population, size, 7)
    assert rows.shape == (7, size)
    assert all(len(set(row.tolist())) == size for row in rows)
    assert not rows.size or (rows.min() >= 0 and rows.max() < population)


def test_every_set_is_drawn_equally_often() -> None:
    rows = np.sort(distinct(np.random.default_rng(0), 5, 2, 20_000), 1)
    found = np.unique(rows, axis=0, return_counts=True)[1]
    assert len(found) == 10
    assert np.abs(found - 2000).max() < 5 * np.sqrt(2000)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["dominant", "uniform", "dirichlet"]),
    st.sampled_from(["hard", "true", "hide", "hide-random"]),
    st.integers(1, 9),
    st.integers(2, 6),
    st.integers(0, 99),
)
def test_encodings_carry_the_filled_label(weights: Any, labels: Any, images: int, size: int, seed: int) -> None:
    examples = client(size, 2)
    section = MixupSection(images=images, weights=weights, labels=labels, noise="none")
    mixtures = draw_mixtures(examples, 1, 8, section, seeds.stream(seed, "mix"))
    inputs, soft = encode(examples, 1, 8, section, seeds.stream(seed, "mix"))
    assert (examples.labels[mixtures.sources[:, 0]] == 1).all()
    assert all(len(set(row.tolist())) == min(images, size) for row in mixtures.sources)
    np.testing.assert_allclose(mixtures.weights.sum(1), 1)
    assert (mixtures.weights[:, :1] >= mixtures.weights - 1e-12).all()
    np.testing.assert_allclose(soft.sum(1), 1, atol=1e-6)
    by_hand = (examples.inputs[mixtures.sources] / 255 * mixtures.weights[..., None, None, None]).sum(1)
    np.testing.assert_allclose(inputs, by_hand, atol=1e-6)
    expected = {
        "hard": np.ones(8),
        "hide": mixtures.weights[:, 0],
        "hide-random": mixtures.weights[:, 0],
        "true": (mixtures.weights * (examples.labels[mixtures.sources] == 1)).sum(1),
    }
    np.testing.assert_allclose(soft[:, 1], expected[labels], atol=1e-6)


def test_hidden_labels_say_nothing_of_the_partners() -> None:
    _, soft = encode(client(), 2, 5, MixupSection(labels="hide", dominant=0.7), seeds.stream(0, "mix"))
    np.testing.assert_allclose(soft, np.tile([0.1, 0.1, 0.7, 0.1], (5, 1)), atol=1e-6)


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_noise_has_its_scale_and_comes_before_the_clip(noise: Any) -> None:
    grey = Examples(np.full((8, 1, 40, 40), 128, np.uint8), np.zeros(8, np.int64), ("a",))
    section = MixupSection(noise=noise, scale=0.05)
    inputs, _ = encode(grey, 0, 20, section, seeds.stream(0, "mix"))
    deviation = {"laplace": 0.05 * np.sqrt(2), "gaussian": 0.05}[noise]
    assert inputs.std() == pytest.approx(deviation, rel=0.03)
    loud, _ = encode(grey, 0, 20, MixupSection(noise=noise, scale=5.0), seeds.stream(0, "mix"))
    assert loud.min() == 0 and loud.max() == 1
    assert inputs.dtype == np.float32


def test_encodings_of_a_label_the_client_lacks_are_refused() -> None:
    with pytest.raises(DataError, match="label 3"):
        encode(client(6, 4).take(np.array([0, 1, 2])), 3, 2, MixupSection(), seeds.stream(0, "mix"))


def test_blending_features_leaves_their_scale() -> None:
    features = Examples(np.eye(3, dtype=np.float32), np.array([0, 1, 2]), ("a", "b", "c"))
    section = MixupSection(images=3, weights="uniform", noise="none")
    mixtures = draw_mixtures(features, 0, 2, section, seeds.stream(0, "mix"))
    np.testing.assert_allclose(blended(features.inputs, mixtures), np.full((2, 3), 1 / 3), atol=1e-6)


def test_who_is_balanced_gets_nothing_by_size() -> None:
    even, skewed = np.full((1, 10), 10), np.array([[90, 5, 5, 0]])
    for level in (0.1, 0.3, 1.0):
        section = BalanceSection(target="size", level=level)
        assert deficits(even, np.ones(10, bool), section).sum() == 0
        assert deficits(skewed, np.ones(4, bool), section).max() <= 90
    assert deficits(skewed, np.ones(4, bool), BalanceSection(target="size", level=0.3)).tolist() == [[0, 25, 25, 30]]
