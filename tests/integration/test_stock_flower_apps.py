"""Flower apps that know nothing of us on our engine: what they are handed is theirs, and one that fails harms itself only."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

import rayworks.federation
from rayworks.core.config import ComputeSection
from rayworks.core.errors import ConfigError
from rayworks.systems.federation.actors import FIRST_NODE, RayGrid, client_pool

SMALL = ComputeSection(workers=2, cpus_per_worker=0.25)


def changing_app() -> ClientApp:
    """Adds to all that it is handed, in place, and says what it saw."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        content, state = message.content, context.state
        values = content.array_records["arrays"]
        own = values["x"].numpy() + 1
        values["x"].data = type(values["x"])(own).data
        content.config_records["config"]["seen"].append(1)
        memory = state.config_records.setdefault("memory", ConfigRecord({"calls": []}))
        memory["calls"].append(len(memory["calls"]))
        seen = len(content.config_records["config"]["seen"])
        told = {"x": float(own[0]), "seen": seen, "calls": len(memory["calls"])}
        return Message(RecordDict({"metrics": MetricRecord(told), "arrays": values}), reply_to=message)

    return app


def asked(grid: Grid, nodes: list[int], timeout: float | None = None) -> list[Message]:
    """One content, which all messages share."""
    content = RecordDict({"arrays": ArrayRecord([np.zeros(3)]), "config": ConfigRecord({"seen": [0]})})
    content["arrays"] = ArrayRecord({"x": next(iter(content.array_records["arrays"].values()))})
    messages = [Message(content, node, "query") for node in nodes]
    return list(grid.send_and_receive(messages, timeout=timeout))


@pytest.fixture
def grids(cluster: dict[str, str]) -> Iterator[Any]:
    pools = []

    def make(app: Any, *arguments: Any, workers: int = 2, **more: Any) -> RayGrid:
        pool = client_pool(ComputeSection(workers=workers, cpus_per_worker=0.25))
        pools.append(pool)
        return RayGrid(pool, workers, app, *arguments, **more)

    yield make
    for pool in pools:
        pool.shutdown()


@pytest.mark.parametrize(("workers", "per_task"), [(1, 6), (2, 2)])
def test_what_a_client_changes_is_its_own(grids: Any, workers: int, per_task: int) -> None:
    """Each sees the message as it was sent, and remembers what it changed in place, whoever shares its process."""
    grid = grids(changing_app, workers=workers, clients=6, clients_per_task=per_task)
    for number in (1, 2, 3):
        replies = asked(grid, list(grid.get_node_ids()))
        for reply in replies:
            told = reply.content.metric_records["metrics"]
            assert (told["x"], told["seen"], told["calls"]) == (1.0, 2, number)
        first = replies[0].content.array_records["arrays"]
        first["x"].data = b""
        assert replies[1].content.array_records["arrays"]["x"].numpy().tolist() == [1, 1, 1]


def moody_app(mood: str, culprit: int) -> ClientApp:
    """One client hangs, or takes its process with it, after a while."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == culprit:
            time.sleep(0.5)
            if mood == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        return Message(RecordDict({"metrics": MetricRecord({"fine": 1})}), reply_to=message)

    return app


@pytest.mark.parametrize(("mood", "timeout"), [("dies", None), ("hangs", 5.0)])
def test_who_fails_is_told_by_the_call_and_not_by_the_order(grids: Any, mood: str, timeout: float | None) -> None:
    """The culprit is behind others that answer while it still runs."""
    grid = grids(moody_app, mood, 3, clients=6, clients_per_task=1)
    for _ in range(2):
        replies = asked(grid, list(grid.get_node_ids()), timeout)
        assert [reply.has_error() for reply in replies] == [False, False, False, True, False, False]
    assert ("no answer in time" if timeout else "dies each time") in replies[3].error.reason


def test_a_node_that_does_not_exist_is_not_there(grids: Any) -> None:
    grid = grids(changing_app, clients=2)
    replies = asked(grid, [FIRST_NODE, 99, FIRST_NODE + 1, 0])
    assert [reply.has_error() for reply in replies] == [False, True, False, True]
    assert "no such node" in replies[1].error.reason


def quickstart_client(context: Context) -> Any:
    """The legacy client of Flower's documentation: NumPy arrays and nothing of Ray."""

    class Mean(NumPyClient):
        def fit(self, parameters: Any, config: Any) -> Any:
            own = float(context.node_config["partition-id"]) + float(context.run_config["shift"])
            return [parameters[0] + context.node_config["step"] * (own - parameters[0])], 1, {}

    return Mean().to_client()


def message_app() -> ClientApp:
    """A client of the message interface, as Flower's quickstarts write it today."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = message.content.array_records["arrays"].to_numpy_ndarrays()[0]
        own = float(context.node_config["partition-id"]) + float(context.run_config["shift"])
        moved = weights + context.node_config["step"] * (own - weights)
        content = {"arrays": ArrayRecord([moved]), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    return app


def averaging_server(found: dict[str, Any]) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=4)
        rounds = int(context.run_config["rounds"])
        result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(2)]), num_rounds=rounds)
        found["weights"] = result.arrays.to_numpy_ndarrays()[0]

    return app


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ["message", "legacy"])
def test_a_stock_app_runs_unchanged_with_its_configs(kind: str, tmp_path: Path) -> None:
    """Two rounds of half a step towards the mean of 10, 11, 12, 13: 5.75, then 8.625."""
    client = message_app() if kind == "message" else ClientApp(client_fn=quickstart_client)
    found: dict[str, Any] = {}
    settings = {"rounds": 2, "shift": 10.0}
    if kind == "message":
        server = averaging_server(found)
        rayworks.federation.run(server, client, 4, settings, lambda partition: {"step": 0.5}, SMALL)
        np.testing.assert_allclose(found["weights"], 8.625)
        return
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg as LegacyFedAvg

    class Watched(LegacyFedAvg):
        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            parameters, metrics = super().aggregate_fit(server_round, results, failures)
            assert parameters is not None and not failures
            found["weights"] = parameters_to_ndarrays(parameters)[0]
            return parameters, metrics

    def server_fn(context: Context) -> ServerAppComponents:
        start = ndarrays_to_parameters([np.zeros(2)])
        strategy = Watched(fraction_evaluate=0.0, min_available_clients=4, initial_parameters=start)
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=int(context.run_config["rounds"])))

    rayworks.federation.run(ServerApp(server_fn=server_fn), client, 4, settings, lambda partition: {"step": 0.5}, SMALL)
    np.testing.assert_allclose(found["weights"], 8.625)
    assert ray.is_initialized()


def test_apps_that_are_none_are_refused_by_their_field() -> None:
    with pytest.raises(ConfigError, match=r"num_supernodes is 0"):
        rayworks.federation.run(ServerApp(), ClientApp(), 0)
    with pytest.raises(ConfigError, match=r"client_app: is a ServerApp"):
        rayworks.federation.run(ServerApp(), ServerApp(), 2)
    with pytest.raises(ConfigError, match="server_app"):
        rayworks.federation.run("nowhere:app", ClientApp(), 2)
