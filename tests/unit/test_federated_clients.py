"""What clients give away beside what they are asked for: nothing of the labels they lack, no noise without their secret."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import RecordDict

from rayworks.core.seeds import stream
from rayworks.systems.federation.config import Config, MixupSection
from rayworks.systems.federation.data.examples import Examples, scaled
from rayworks.systems.federation.data.mixup_encodings import encode, encode_stand_ins
from rayworks.systems.federation.rounds.clients import SECRET, Client, Task, noise_bank
from tests.small_federation import small_config, write_images

OTHER = 1
"""A label that client 0 lacks."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(autouse=True)
def without_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET, raising=False)


def client(config: Config, partition: int = 0) -> Client:
    return Client(Task(config, 0), partition, RecordDict())


def rows(inputs: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in inputs}


@pytest.mark.parametrize("labels", ["random", "pool"])
@pytest.mark.parametrize("mixed", [1, 4])
def test_stand_ins_are_not_in_the_bank_that_all_can_make(images: Path, labels: str, mixed: int) -> None:
    """Not even where nothing is mixed in and no noise added."""
    mixup = {"labels": "hide", "noise": "none", "images": mixed}
    config = small_config(images, noise={"labels": labels, "bank": 50}, mixup=mixup)
    asked = client(config)
    assert asked.real.counts()[OTHER] == 0
    found, again = (asked.encodings([OTHER], [40], 0) for _ in range(2))
    bank = noise_bank(config.noise, (1, 8, 8), 0, 0)
    common = asked._noise(OTHER, 40, 0)
    assert found["inputs"].shape == (40, 1, 8, 8)
    assert not rows(found["inputs"]) & (rows(bank) | rows(common))
    assert np.array_equal(found["inputs"], again["inputs"])
    there = client(config, 2).encodings([OTHER], [40], 0)
    assert not rows(found["inputs"]) & rows(there["inputs"])
    owned = asked.encodings([int(asked.real.labels[0])], [40], 0)
    np.testing.assert_allclose(np.sort(found["labels"], 1), np.sort(owned["labels"], 1))


def held(count: int) -> Examples:
    inputs = stream(0, "held").random((count, 6), np.float32)
    return Examples(inputs, np.zeros(count, np.int64), ("a", "b", "c"))


def test_stand_ins_are_mixed_and_noised_like_examples() -> None:
    own, blank = held(9), np.zeros((50, 6), np.float32)
    quiet = MixupSection(images=2, dominant=0.6, noise="none")
    mixed, labels = encode_stand_ins(own, blank, OTHER, quiet, stream(0, "x"))
    partners = np.abs(mixed[:, None] / 0.4 - own.inputs).max(2)
    assert (partners.min(1) < 1e-5).all() and len(set(partners.argmin(1))) > 5
    assert labels.tolist() == [[0, 1, 0]] * 50
    loud = encode_stand_ins(own, blank + 0.5, OTHER, quiet.model_copy(update={"noise": "laplace"}), stream(0, "x"))[0]
    offsets = loud - encode_stand_ins(own, blank + 0.5, OTHER, quiet, stream(0, "x"))[0]
    assert np.abs(offsets).mean() == pytest.approx(0.05, rel=0.2)


@pytest.mark.parametrize("labels", ["hard", "true", "hide", "hide-random"])
@pytest.mark.parametrize("weights", ["dominant", "uniform", "dirichlet"])
@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_stand_ins_have_the_form_of_encodings(labels: Any, weights: Any, count: int) -> None:
    section = MixupSection(images=4, labels=labels, weights=weights)
    own = held(count)
    inputs, soft = encode_stand_ins(own, np.ones((20, 6), np.float32), OTHER, section, stream(0, "y"))
    assert inputs.shape == (20, 6) and soft.shape == (20, 3)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    assert (soft[:, OTHER] > 0).all()
    if count and labels != "hide-random" and weights != "dirichlet":
        real = encode(own, 0, 20, section, stream(0, "y"))[1]
        np.testing.assert_allclose(soft[:, OTHER].min(), real[:, 0].min() if labels != "true" else soft[:, OTHER].max())


def test_a_secret_changes_the_noise_that_protects_and_nothing_else(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(images, privacy={"histogram_epsilon": 0.2})
    asked = client(config)
    label = int(asked.real.labels[0])

    def answers() -> tuple[Any, ...]:
        shared = asked.encodings([label, OTHER], [3, 3], 0)["inputs"]
        return shared[:3], shared[3:], asked.counts(), asked._noise(OTHER, 3, 0), asked._draw("batches", 1).random(5)

    open_noise = answers()
    monkeypatch.setenv(SECRET, "")
    assert all(np.array_equal(one, other) for one, other in zip(open_noise, answers(), strict=True))
    monkeypatch.setenv(SECRET, "one")
    first, again = answers(), answers()
    monkeypatch.setenv(SECRET, "two")
    second = answers()
    same_as_open = [np.array_equal(one, other) for one, other in zip(open_noise, first, strict=True)]
    assert same_as_open == [False, False, False, True, True]
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert not np.array_equal(first[0], second[0])
    assert np.abs(scaled(first[0]) - scaled(open_noise[0])).max() > 0.01
