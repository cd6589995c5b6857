"""What clients share is checked before it is handed on: a bad owner is one that failed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable, Mod

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.messages.records import ARRAYS, METRICS, to_arrays, to_record
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.clients import MEANS, PSEUDO
from rayworks.systems.federation.rounds.federated_training import Federation
from rayworks.systems.federation.rounds.pool_exchange import demand, require_encodings
from tests.serial_grid import SerialGrid
from tests.small_federation import small_config, write_images

OWNER = 1
Made = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def labels_changed(made: Made, row: int, value: float) -> Made:
    made["labels"][row, 0] = value
    return made


BAD: dict[str, Any] = {
    "fewer rows": lambda made: {name: values[:-1] for name, values in made.items()},
    "rows of labels alone": lambda made: {**made, "labels": made["labels"][:-1]},
    "another shape": lambda made: {**made, "inputs": made["inputs"][:, :, :4]},
    "no bytes": lambda made: {**made, "inputs": made["inputs"].astype(np.float32)},
    "too few labels": lambda made: {**made, "labels": made["labels"][:, :2]},
    "not a number": lambda made: labels_changed(made, 0, np.nan),
    "below zero": lambda made: labels_changed(made, 0, -1.0),
    "above one": lambda made: labels_changed(made, 0, 2.0),
    "no labels": lambda made: {"inputs": made["inputs"]},
    "no arrays": lambda made: {},
    "scalars": lambda made: {"inputs": np.array(1, np.uint8), "labels": np.array(1.0)},
}


def sharing(change: Any) -> Mod:
    """A mod that changes what client 1 shares; no change: it fails."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != "train.pool" or context.node_config["partition-id"] != OWNER:
            return call_next(message, context)
        if change is None:
            raise ValueError("no disk")
        reply = call_next(message, context)
        reply.content[ARRAYS] = to_record(change(to_arrays(reply.content.array_records[ARRAYS])))
        return reply

    return mod


def started(config: Config, *mods: Mod) -> tuple[Federation, SerialGrid]:
    grid, federation = SerialGrid(client_app(config, 0, mods), 4), Federation(config, 0)
    federation.start(grid)
    return federation, grid


def pseudo(grid: SerialGrid) -> list[Made]:
    return [to_arrays(state.array_records[PSEUDO]) for state in grid.states.values()]


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_bad_owner_is_one_that_failed(images: Path, change: Any) -> None:
    config = small_config(images, balance={"mixup_share": 1.0}, mixup={"labels": "hide"})
    bad, found = started(config, sharing(change))
    failed, expected = started(config, sharing(None))
    ordered = demand(config, bad.strategy.known.counts, 0)
    assert bad.strategy.pseudo_images == failed.strategy.pseudo_images == ordered.total
    for one, other in zip(pseudo(found), pseudo(expected), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)
    good = pseudo(started(config)[1])
    assert any(
        not np.array_equal(one["labels"], other["labels"]) for one, other in zip(good, pseudo(found), strict=True)
    )


@pytest.mark.parametrize(
    "change", [BAD["fewer rows"], BAD["another shape"], BAD["not a number"], BAD["no arrays"], None]
)
def test_bad_means_are_left_out(images: Path, change: Any) -> None:
    config = small_config(images, local={"fedmix_batch": 4}).of_method("fedmix")
    (_, good), (_, found) = started(config), started(config, sharing(change))
    everyone, rest = (to_arrays(next(iter(g.states.values())).array_records[MEANS])["inputs"] for g in (good, found))
    assert len(everyone) == 4 * len(rest) // 3 > 0


def test_a_client_that_counts_nothing_does_not_stop_the_start(images: Path) -> None:
    config = small_config(images)

    def silent(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train.receive" and context.node_config["partition-id"] == OWNER:
            reply.content[METRICS] = MetricRecord({"loss": 1.0})
        return reply

    (all_four, _), (three, _) = started(config), started(config, silent)
    assert 0 < three.strategy.pseudo_images < all_four.strategy.pseudo_images


def test_clients_of_other_shapes_are_no_federation(images: Path) -> None:
    def bigger(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "query.describe" and context.node_config["partition-id"] == OWNER:
            reply.content.metric_records[METRICS]["shape"] = [1, 16, 16]
        return reply

    with pytest.raises(DataError, match="differ in shape"):
        started(small_config(images), bigger)


def test_features_must_lie_in_the_unit_interval() -> None:
    labels = np.full((2, 4), 0.25, np.float32)
    require_encodings({"inputs": np.ones((2, 5), np.float32), "labels": labels}, (5,), 4, 2)
    require_encodings({"inputs": np.ones((0, 5), np.float32), "labels": labels[:0]}, (5,), 4, None)
    for value in (np.nan, np.inf, -0.5, 1.5):
        with pytest.raises(DataError, match=r"numbers in \[0, 1\]"):
            require_encodings({"inputs": np.full((2, 5), value, np.float32), "labels": labels}, (5,), 4, 2)


def test_pseudo_images_that_nobody_can_make_end_with_the_reason(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 255, (40, 2, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "two.npz", inputs=pictures, labels=np.arange(40) % 4)
    config = small_config(tmp_path / "two.npz", noise={"generator": "oriented", "bank": 4})
    with pytest.raises(DataError, match=r"no client could .* channels"):
        Federation(config, 0).start(SerialGrid(client_app(config, 0), 4))
