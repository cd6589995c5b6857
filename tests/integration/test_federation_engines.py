"""Our engine on a cluster: the same bits for any number of workers, after a death, and as Flower's own simulation."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayworks.core.config import ComputeSection
from rayworks.runtime.actor_pool import ActorPool
from rayworks.systems.federation.actors import ClientHost, ClientPool, RayGrid, client_pool
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.federated_training import Federation, RoundRecord
from rayworks.systems.federation.rounds.flower_simulation import read_federation, read_rounds, simulate
from rayworks.systems.federation.training.aggregation import Arrays
from tests.observing import actors_on, until
from tests.small_federation import small_config, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


def trained(config: Config, workers: int, app: Any = client_app, *more: Any) -> tuple[Arrays, list[RoundRecord], int]:
    """Weights, records and the number of replaced actors."""
    compute = ComputeSection(workers=workers, cpus_per_worker=0.5)
    pool = client_pool(compute)
    grid = RayGrid(pool, workers, app, config, 0, *more, clients=config.data.clients, clients_per_task=2)
    try:
        federation = Federation(config, 0)
        federation.start(grid)
        records = [federation.round(grid) for _ in range(config.strategy.rounds)]
        return federation.weights(), records, pool.replaced
    finally:
        pool.shutdown()


def same(first: Arrays, second: Arrays) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def app_that_dies_once(config: Config, seed: int, mark: str) -> ClientApp:
    """Its process is killed when client 2 trains in round 2, once."""

    def deadly(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 2:
            number = message.content.config_records["config"]["server-round"]
            if number == 2 and not Path(mark).exists():
                Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return call_next(message, context)

    return client_app(config, seed, [deadly])


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("name", ["scaffold", "moon"])
def test_any_number_of_workers_gives_the_same_bits(images: Path, name: str) -> None:
    config = small_config(images, data={"clients": 7}, strategy={"name": name})
    (one, records, _), (three, others, _) = (trained(config, workers) for workers in (1, 3))
    assert same(one, three)
    assert [r.accuracy for r in records] == [r.accuracy for r in others]
    assert [r.bytes_up for r in records] == [r.bytes_up for r in others]
    assert all(r.failed == 0 for r in records)


@pytest.mark.usefixtures("cluster")
def test_a_host_that_dies_in_a_round_changes_nothing(images: Path, tmp_path: Path) -> None:
    config = small_config(images, data={"clients": 7}, strategy={"name": "scaffold"})
    expected, _, replaced = trained(config, 2)
    assert replaced == 0
    found, records, replaced = trained(config, 2, app_that_dies_once, str(tmp_path / "died"))
    assert replaced == 1
    assert (tmp_path / "died").exists()
    assert all(r.failed == 0 for r in records)
    assert same(expected, found)


@pytest.mark.usefixtures("cluster")
def test_federations_that_take_turns_on_one_pool_do_not_mix(images: Path) -> None:
    configs = [small_config(images, strategy={"name": name}) for name in ("scaffold", "moon")]
    expected = [trained(config, 1)[0] for config in configs]
    pool = client_pool(ComputeSection(workers=2, cpus_per_worker=0.5))
    try:
        grids = [RayGrid(pool, 2, client_app, config, 0, clients=4) for config in configs]
        federations = [Federation(config, 0) for config in configs]
        for federation, grid in zip(federations, grids, strict=True):
            federation.start(grid)
        for _ in range(3):
            for federation, grid in zip(federations, grids, strict=True):
                federation.round(grid)
    finally:
        pool.shutdown()
    assert all(same(federation.weights(), weights) for federation, weights in zip(federations, expected, strict=True))


@pytest.mark.usefixtures("cluster")
def test_pushed_messages_are_answered_once(images: Path) -> None:
    config = small_config(images)
    pool = client_pool(ComputeSection(workers=1, cpus_per_worker=0.5))
    grid = RayGrid(pool, 1, client_app, config, 0, clients=4)
    try:
        messages = [Message(RecordDict(), node, "query.describe") for node in grid.get_node_ids()]
        identities = list(grid.push_messages(messages))
        replies = list(grid.pull_messages(identities))
        assert [reply.content.metric_records["metrics"]["partition"] for reply in replies] == [0, 1, 2, 3]
        assert list(grid.pull_messages(identities)) == []
    finally:
        pool.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_flowers_simulation_gives_our_engines_bits_and_resumes(images: Path, tmp_path: Path) -> None:
    gone: dict[str, Any] = {"failures": {"dropout": 0.2}, "balance": {"fade": 0.0}}
    config = small_config(images, strategy={"name": "scaffold", "rounds": 2}, **gone)
    simulate(tmp_path, config, 0, processors=2, timeout_seconds=200)
    ours, records, _ = trained(config, 2)
    theirs = read_rounds(tmp_path)
    assert same(ours, read_federation(tmp_path).weights())
    assert [r.accuracy for r in records] == [r.accuracy for r in theirs]
    assert [r.failed for r in records] == [r.failed for r in theirs]
    longer = small_config(images, strategy={"name": "scaffold", "rounds": 3}, **gone)
    assert ray.is_initialized()
    ours, _, _ = trained(longer, 2)
    simulate(tmp_path, longer, 0, processors=2, timeout_seconds=200)
    assert [r.round for r in read_rounds(tmp_path)] == [1, 2, 3]
    assert same(ours, read_federation(tmp_path).weights())


@pytest.mark.usefixtures("cluster")
def test_secure_aggregation_keeps_its_keys_over_our_engine(images: Path) -> None:
    """Keys are remembered between the protocol's stages, whichever actor a client is at."""
    plain, secure = (
        small_config(images, strategy={"rounds": 1}, privacy={"secure_aggregation": secure}) for secure in (False, True)
    )
    (expected, _, _), (found, records, _) = trained(plain, 1), trained(secure, 2)
    assert records[0].answered == 4
    assert not same(expected, found)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=2 * 16 / 2**22)


def test_a_node_that_dies_between_rounds_changes_nothing(
    images: Path, cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = small_config(images, strategy={"name": "scaffold"})
    expected, _, _ = trained(config, 1)
    with doomed_node(cluster["RAY_ADDRESS"], tmp_path_factory.mktemp("node", numbered=True)) as (node, kill):
        there = NodeAffinitySchedulingStrategy(node, soft=True)
        pool: ClientPool = ActorPool(
            ClientHost, size=2, name="doomed", options={"num_cpus": 0.5, "scheduling_strategy": there}
        )
        grid = RayGrid(pool, 2, client_app, config, 0, clients=4, clients_per_task=2)
        federation = Federation(config, 0)
        federation.start(grid)
        federation.round(grid)
        # A node that is new to the scheduler is preferred, and not always taken.
        lost = actors_on(node, "doomed")
        assert lost
        kill()
        # An actor that prefers a node is sent there until the cluster knows that it is dead.
        until(lambda: node not in {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]})
        while federation.rounds_done < config.strategy.rounds:
            federation.round(grid)
        replaced = pool.replaced
        pool.shutdown()
    assert replaced >= lost
    assert same(federation.weights(), expected)


# `ray start` joins no cluster whose nodes listen on loopback.
NODE = """
import signal, sys
from types import SimpleNamespace
from ray.cluster_utils import Cluster
cluster = Cluster()
cluster.head_node = SimpleNamespace(gcs_address=sys.argv[1])
cluster.add_node(wait=False, num_cpus=2, node_ip_address="127.0.0.1", temp_dir=sys.argv[2])
signal.pause()
"""


@ray.remote(num_cpus=0.1)
def _nothing() -> None:
    """Run where it is told."""


def _is_known(node: str) -> bool:
    """Whether the scheduler places a task there; to it a node may not exist for a while after it is listed as alive."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        ray.get(_nothing.options(scheduling_strategy=there).remote())
    except ray.exceptions.TaskUnschedulableError:
        return False
    return True


@contextmanager
def doomed_node(address: str, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A fourth node of the cluster in processes of its own: its identity, and how to kill all of them."""
    known = {node["NodeID"] for node in ray.nodes()}
    command = [sys.executable, "-c", NODE, address, str(folder)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)

    def new_nodes() -> list[str]:
        return [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in known]

    def kill() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    try:
        until(new_nodes, 60)
        node = new_nodes()[0]
        # A preferred node is taken only once the scheduler knows it.
        until(lambda: _is_known(node), 60)
        yield node, kill
    finally:
        if process.poll() is None:
            kill()


def app_that_always_dies(config: Config, seed: int) -> ClientApp:
    """Its process is killed whenever client 1 trains."""

    def deadly(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type == "train" and context.node_config["partition-id"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return call_next(message, context)

    return client_app(config, seed, [deadly])


@pytest.mark.slow
def test_a_client_that_always_takes_its_actor_along_is_left_out(images: Path, cluster: dict[str, str]) -> None:
    config = small_config(images, balance={"level": 0.0}, strategy={"rounds": 2})
    _, records, replaced = trained(config, 2, app_that_always_dies)
    assert [(record.answered, record.failed) for record in records] == [(3, 1), (3, 1)]
    assert records[0].problem is not None
    assert "client 1" in records[0].problem
    assert "not asked again" in records[1].problem
    assert replaced >= 4
