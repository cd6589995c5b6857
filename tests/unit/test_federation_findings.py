"""Outcomes of trainings, intervals, and what a training's encodings disclose."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayworks.core.bootstrap import mean_interval
from rayworks.systems.federation.clients import task_of
from rayworks.systems.federation.disclosure import disclosure, samples, shared_by_owner
from rayworks.systems.federation.evaluation import curve, outcome
from rayworks.systems.federation.mixing_accountant import guarantee
from rayworks.systems.federation.pool_exchange import demand
from tests.small_federation import small_config, write_images


def round_of(number: int, accuracy: float | None, **changes: Any) -> dict[str, Any]:
    known = accuracy is not None
    return {
        "round": number, "accuracy": accuracy, "recalls": [0.5, 1.0, None] if known else None,
        "client_accuracies": [0.25, 0.75, None] if known else None, "bytes_down": 10**6, "bytes_up": 5 * 10**5,
        "pseudo_images": 4, "failed": 1, "rejected": 0, "stragglers": 2, "seconds": float(number), **changes,
    }  # fmt: skip


def test_an_outcome_counts_evaluated_rounds_and_clients_with_examples() -> None:
    rounds = [round_of(1, 0.5), round_of(2, None), round_of(3, 0.9, rejected=1), round_of(4, 0.7)]
    found = outcome(rounds, 0.8)
    assert (found.final, found.best) == (0.7, 0.9)
    assert found.late == pytest.approx(0.7)
    assert found.rounds_to_target == 3
    assert (found.lowest_client, found.client_spread) == (0.25, 0.25)
    assert found.worst_recall == 0.5
    assert found.megabytes == pytest.approx(6.0)
    assert (found.failed, found.rejected, found.stragglers, found.pseudo_images) == (4, 1, 8, 4)
    assert found.seconds_per_round == 2.5
    assert outcome(rounds, 0.95).rounds_to_target is None
    at, scores = curve([rounds, rounds])
    assert at.tolist() == [1, 3, 4]
    assert scores.shape == (2, 3)


def test_the_interval_of_a_mean_covers_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for repetition in range(300):
        middle, low, high = mean_interval(draw.normal(1.0, 2.0, 40), 400, repetition, "test")
        assert low <= middle <= high
        hits += low <= 1.0 <= high
    assert 0.90 < hits / 300 < 0.98
    assert mean_interval([3.0], 10, 0, "one") == (3.0, 3.0, 3.0)
    assert mean_interval([1.0, 2.0, 4.0], 50, 7, "a") == mean_interval([1.0, 2.0, 4.0], 50, 7, "a")


def test_disclosure_takes_the_client_that_gives_most_away(tmp_path: Path) -> None:
    config = small_config(write_images(tmp_path / "images.npz"), balance={"mixup_share": 1.0}, mixup={"scale": 2000.0})
    task = task_of(config.model_dump_json(), 0)
    found = disclosure(config, task)
    owned = np.array(found["owned"])
    released = shared_by_owner(demand(config, owned, 0), owned.shape)
    totals = [guarantee(owned[at], released[at], config.mixup, 64).total for at in range(len(owned))]
    assert found["epsilon"] == pytest.approx(max(totals))
    assert released[found["client"]].sum() == found["encodings"] > 0
    assert np.array(found["filled"]).sum() == owned.sum() + released.sum()
    assert found["attacks"]["sources re-identified, nearest of all"] < 0.5, "noise of 2,000 hides the sources"


def test_a_refreshed_pool_costs_as_often_as_it_is_made(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    once = small_config(images, balance={"mixup_share": 1.0}, strategy={"rounds": 6})
    renewed = small_config(images, balance={"mixup_share": 1.0, "refresh": 2}, strategy={"rounds": 6})
    epsilons = [disclosure(config, task_of(config.model_dump_json(), 0))["epsilon"] for config in (once, renewed)]
    assert epsilons[1] == pytest.approx(3 * epsilons[0])


def test_without_noise_there_is_no_finite_epsilon_and_without_encodings_none_is_spent(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    bare = small_config(images, balance={"mixup_share": 1.0}, mixup={"noise": "none"})
    found = disclosure(bare, task_of(bare.model_dump_json(), 0))
    assert found["epsilon"] is None
    assert "promise nothing" in found["statement"]
    quiet = small_config(images, balance={"mixup_share": 0.0})
    found = disclosure(quiet, task_of(quiet.model_dump_json(), 0))
    assert found["epsilon"] == 0
    assert found["attacks"] == {}
    assert math.isfinite(found["epsilon"])


def test_samples_show_each_kind_in_the_shape_of_the_data(tmp_path: Path) -> None:
    config = small_config(write_images(tmp_path / "images.npz"))
    found = samples(config, task_of(config.model_dump_json(), 0), 5)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ("real", "mixups", "noise"), (5, 1, 8, 8)
    )
    assert all(values.min() >= 0 and values.max() <= 1 for values in found.values())
