"""Rounds by secure aggregation: what clients refuse to mask, and cohorts that the protocol cannot serve."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from rayworks.core.errors import ConfigError
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.messages.records import ARRAYS, METRICS, to_arrays, to_record
from rayworks.systems.federation.privacy.secure_aggregation import MODULUS, MOST_CLIENTS, STEPS, secure_round
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.federated_training import Federation, RoundRecord
from rayworks.systems.federation.training.aggregation import Arrays
from tests.serial_grid import SerialGrid
from tests.small_federation import small_config, write_images

BROKEN = 2


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def breaking(change: Callable[[Arrays, Any], Arrays]) -> Mod:
    """A mod that changes what client 2 has trained."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == BROKEN:
            arrays = to_arrays(reply.content.array_records[ARRAYS])
            reply.content[ARRAYS] = to_record(change(arrays, reply.content.metric_records[METRICS]))
        return reply

    return mod


def after_a_round(config: Config, *mods: Mod) -> tuple[Arrays, RoundRecord, list[str]]:
    """The model, the record, and what clients said who failed."""
    heard: list[str] = []

    class Listening(SerialGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            replies = super().send_and_receive(messages, timeout=timeout)
            heard.extend(reply.error.reason or "" for reply in replies if reply.has_error())
            return replies

    grid, federation = Listening(client_app(config, 0, mods), config.data.clients), Federation(config, 0)
    federation.start(grid)
    record = federation.round(grid)
    return federation.weights(), record, heard


def absent(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    if message.metadata.message_type == "train" and context.node_config["partition-id"] == BROKEN:
        raise ValueError("away")
    return call_next(message, context)


def no_number(arrays: Arrays, metrics: Any) -> Arrays:
    arrays["head.bias"][0] = np.nan
    return arrays


def other_shape(arrays: Arrays, metrics: Any) -> Arrays:
    return {**arrays, "head.bias": arrays["head.bias"][:, None]}


def missing(arrays: Arrays, metrics: Any) -> Arrays:
    return {name: value for name, value in arrays.items() if name != "head.bias"}


def beyond_the_range(arrays: Arrays, metrics: Any) -> Arrays:
    arrays["head.bias"][0] = -8.01
    return arrays


def too_many(arrays: Arrays, metrics: Any) -> Arrays:
    metrics["num-examples"] = 10_000
    return arrays


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_number, "'head.bias' holds values that are not finite"),
        (other_shape, "'head.bias' has shape"),
        (missing, "'head.bias' is missing"),
        (beyond_the_range, "'head.bias' goes beyond the clipping range"),
        (too_many, "num-examples: 10000 is above the bound of"),
    ],
)
def test_a_client_masks_nothing_that_would_spoil_the_sum(images: Path, change: Any, words: str) -> None:
    shared: dict[str, Any] = {"balance": {"level": 0.0}, "strategy": {"rounds": 1}}
    config = small_config(images, **shared, privacy={"secure_aggregation": True})
    weights, record, heard = after_a_round(config, breaking(change))
    assert (record.asked, record.answered, record.failed) == (4, 3, 1)
    assert any(words in reason for reason in heard)
    expected, _, _ = after_a_round(small_config(images, **shared), absent)
    for name, value in expected.items():
        np.testing.assert_allclose(weights[name], value, atol=2 * 16 / 2**22)


def test_cohorts_that_the_protocol_can_not_serve_are_refused(images: Path) -> None:
    strategy = {"participation": 0.5}
    config = small_config(images, balance={"level": 0.0}, strategy=strategy, privacy={"secure_aggregation": True})
    with pytest.raises(ConfigError, match=r"strategy\.participation.*2 clients.*data\.clients"):
        after_a_round(config)
    many = [Message(RecordDict(), node, "train", group_id="1") for node in range(MOST_CLIENTS + 1)]
    with pytest.raises(ConfigError, match="1024 clients"):
        secure_round(SerialGrid(client_app(config, 0), 4), many, 1)
    assert MOST_CLIENTS * STEPS < MODULUS <= (MOST_CLIENTS + 1) * STEPS
