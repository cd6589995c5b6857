"""Outcomes of trainings, intervals, and what a training's encodings disclose."""

import math
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import RecordDict

from rayworks.core.bootstrap import mean_interval
from rayworks.systems.federation.config import DataSection
from rayworks.systems.federation.data.reviews import examples_of
from rayworks.systems.federation.disclosure import disclosure, samples, shared_by_owner
from rayworks.systems.federation.evaluation import curve, outcome
from rayworks.systems.federation.privacy.mixing_accountant import guarantee
from rayworks.systems.federation.rounds.clients import Client, task_of
from rayworks.systems.federation.rounds.pool_exchange import demand
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
    assert "with replacement" not in found


def test_means_of_fedmix_have_no_finite_epsilon(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    config = small_config(images).of_method("fedmix")
    found = disclosure(config, task_of(config.model_dump_json(), 0))
    assert found["epsilon"] is None
    assert "Means of 5 examples" in found["statement"] and "without noise" in found["statement"]
    assert "reveal nothing" not in found["statement"]


def test_the_statement_says_what_becomes_of_label_counts(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.npz")
    exact, noised, alone = (
        small_config(images, privacy={"histogram_epsilon": noise}, balance={"mixup_share": share})
        for noise, share in ((0.0, 0.5), (0.5, 0.5), (0.5, 0.0))
    )
    said = [disclosure(config, task_of(config.model_dump_json(), 0))["statement"] for config in (exact, noised, alone)]
    assert "Label counts are sent exactly" in said[0]
    assert all("Label counts are sent with epsilon 0.5" in sentences for sentences in said[1:])
    assert [sentences.count("common seed") for sentences in said] == [1, 1, 1]
    assert all("exact number of examples" in sentences for sentences in said)


def test_stand_ins_cost_their_partners(tmp_path: Path) -> None:
    """With noised counts a client is asked for labels that it lacks."""
    config = small_config(
        write_images(tmp_path / "images.npz"),
        balance={"mixup_share": 1.0},
        mixup={"scale": 2000.0, "weights": "uniform"},
        privacy={"histogram_epsilon": 0.05},
    )
    task = task_of(config.model_dump_json(), 0)
    found = disclosure(config, task)
    owned = np.array(found["owned"])
    counts = np.stack([Client(task, at, RecordDict()).counts() for at in range(len(owned))])
    released = shared_by_owner(demand(config, counts, 0), owned.shape)
    assert (released[owned == 0] > 0).any()
    assert found["encodings"] == released[found["client"]].sum()
    totals = [guarantee(owned[at], released[at], config.mixup, 64).total for at in range(len(owned))]
    honest = [guarantee(owned[at], released[at] * (owned[at] > 0), config.mixup, 64).total for at in range(len(owned))]
    assert found["epsilon"] == pytest.approx(max(totals))
    assert max(totals) > max(honest)
    assert found["with replacement"] > found["epsilon"]


def test_hashed_reviews_are_nearer_than_any_features(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "Title": ["good", None, "bad " * 40, "a b c d e f g"] * 10,
            "Review Text": [f"word{n % 7} and {'x' * (n % 5 + 1)}" for n in range(40)],
            "Rating": np.arange(40) % 3 + 1,
            "Recommended IND": np.arange(40) % 2,
            "Department Name": np.array(["Tops", "Bottoms"])[np.arange(40) % 2],
        }
    )
    reviews = examples_of(table, "rating")
    gaps = np.abs(reviews.inputs[:, None] - reviews.inputs)
    reaches = {"laplace": gaps.sum(2).max(), "gaussian": np.sqrt((gaps**2).sum(2)).max()}
    pictures = small_config(write_images(tmp_path / "images.npz"), balance={"mixup_share": 1.0}, mixup={"scale": 50.0})
    for noise, seen in reaches.items():
        changed = pictures.model_copy(update={"mixup": pictures.mixup.model_copy(update={"noise": noise})})
        hashed = changed.model_copy(update={"data": DataSection(source="clothing-departments", partition="natural")})
        task = copy(task_of(pictures.model_dump_json(), 0))
        task.train, task.parts = reviews, [np.flatnonzero(reviews.labels == 0), np.flatnonzero(reviews.labels > 0)]
        found, loose = (disclosure(config, task)["epsilon"] for config in (hashed, changed))
        expected = {"laplace": np.sqrt(2 * 512), "gaussian": np.sqrt(2)}[noise]
        assert seen <= expected
        owned = np.stack([reviews.take(part).counts() for part in task.parts])
        released = shared_by_owner(demand(hashed, owned, 0), owned.shape)
        totals = [
            guarantee(*pair, changed.mixup, 512, distance=expected).total for pair in zip(owned, released, strict=True)
        ]
        assert found == pytest.approx(max(totals))
        assert 0 < found < loose


def test_the_linear_decoder_is_called_the_best_only_where_it_can_be(tmp_path: Path) -> None:
    small = small_config(write_images(tmp_path / "images.npz"), balance={"mixup_share": 1.0})
    attacks = disclosure(small, task_of(small.model_dump_json(), 0))["attacks"]
    assert attacks["best linear decoder, PSNR dB"] > attacks["guessing the mean image, PSNR dB"]
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "large.npz", inputs=draw.integers(0, 256, (40, 3, 21, 21)).astype(np.uint8), labels=np.arange(40) % 4
    )
    large = small_config(tmp_path / "large.npz", balance={"mixup_share": 1.0})
    names = disclosure(large, task_of(large.model_dump_json(), 0))["attacks"].keys()
    assert "linear decoder, PSNR dB" in names and "best linear decoder, PSNR dB" not in names


def test_samples_show_each_kind_in_the_shape_of_the_data(tmp_path: Path) -> None:
    config = small_config(write_images(tmp_path / "images.npz"))
    found = samples(config, task_of(config.model_dump_json(), 0), 5)
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(
        ("real", "mixups", "noise"), (5, 1, 8, 8)
    )
    assert all(values.min() >= 0 and values.max() <= 1 for values in found.values())
    task = task_of(config.model_dump_json(), 0)
    more = samples(config, task, len(task.train) + 1)["real"]
    assert len(more) == len(task.train) + 1
