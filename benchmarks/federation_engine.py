"""How much does a federated round cost beside the training itself, on our engine and in Flower's simulation?

Two processes on either side. First a client that sends back what it got (a model of 62,006 parameters): seconds per round
of our engine and of Flower's simulation. Then a round of 100 clients that train a perceptron of a million parameters on 600
images each, against the same steps in two bare processes. ``python -m benchmarks.federation_engine [--repeats N]``.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from benchmarks.results import ratios, spread, store
from rayworks.core.config import ComputeSection
from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.federation.actors import RayGrid, client_pool
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.clients import Client, task_of
from rayworks.systems.federation.rounds.federated_training import Federation
from rayworks.systems.federation.rounds.flower_simulation import RAY_OF_THE_CALLER

CLIENTS = (10, 100, 1000)
PARAMETERS = 62_006
WORKERS = 2
GOAL_TIMES, GOAL_TRAINING = 10, 1.3
TRAINING_CLIENTS, IMAGES_PER_CLIENT, HIDDEN = 100, 600, 1258


def trivial_app() -> ClientApp:
    """Sends back what it got."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    return app


def trivial_rounds(grid: Grid, clients: int, rounds: int) -> list[float]:
    """Seconds of each round; the first, which starts processes, is left out."""
    while len(nodes := sorted(grid.get_node_ids())) < clients:
        time.sleep(0.05)
    arrays = ArrayRecord([np.zeros(PARAMETERS, np.float32)])
    seconds = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        content: dict[str, Any] = {"arrays": arrays, "config": ConfigRecord({"server-round": number})}
        replies = list(grid.send_and_receive([Message(RecordDict(content), node, "train") for node in nodes]))
        if len(replies) != clients or any(reply.has_error() for reply in replies):
            raise RuntimeError(f"only {len(replies)} of {clients} clients answered")
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def our_trivial_rounds(clients: int, rounds: int) -> list[float]:
    """On our engine."""
    pool = client_pool(ComputeSection(workers=WORKERS))
    try:
        return trivial_rounds(RayGrid(pool, WORKERS, trivial_app, clients=clients), clients, rounds)
    finally:
        pool.shutdown()


def flower_trivial_rounds(clients: int, rounds: int) -> list[float]:
    """In Flower's simulation, in a process of its own."""
    variables = {name: value for name, value in os.environ.items() if name not in RAY_OF_THE_CALLER}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seconds.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.federation_engine",
            "--flower",
            str(clients),
            str(rounds),
            str(path),
        ]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise RuntimeError(f"Flower's simulation ended with {done.returncode}: {done.stderr[-2000:]}")
        found: list[float] = json.loads(path.read_text())
    return found


def run_flower(clients: int, rounds: int, path: Path) -> None:
    """What that process does."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        path.write_text(json.dumps(trivial_rounds(grid, clients, rounds)))

    start: dict[str, Any] = {"address": "local", "num_cpus": WORKERS, "include_dashboard": False}
    backend: dict[str, Any] = {"init_args": start, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(app, trivial_app(), num_supernodes=clients, backend_config=backend)


def training_config(path: Path) -> Config:
    """A hundred clients, one epoch, no pseudo-images, evaluation on as little as there may be."""
    sections = {
        "data": {"source": str(path), "clients": TRAINING_CLIENTS, "partition": "iid", "test_examples": 10},
        "model": {"hidden": HIDDEN},
        "local": {"epochs": 1},
        "strategy": {"rounds": 1000, "evaluate_every": 1000},
        "balance": {"level": 0.0},
    }
    return Config.model_validate(sections)


def bare_training(config: str, partitions: list[int], queue: Any, barrier: Any) -> None:
    """A process that trains some clients, one after the other, timed between two barriers."""
    limit_torch_threads()
    task = task_of(config, 0)
    weights = task.initial_weights()
    Client(task, partitions[0], RecordDict()).train(weights, 1)
    barrier.wait()
    began = time.perf_counter()
    for partition in partitions:
        Client(task, partition, RecordDict()).train(weights, 1)
    barrier.wait()
    queue.put(time.perf_counter() - began)


def bare_seconds(config: Config) -> float:
    """Of one round's steps in bare processes, until the last is done."""
    context = multiprocessing.get_context("spawn")
    queue, barrier = context.Queue(), context.Barrier(WORKERS)
    shares = [list(range(start, TRAINING_CLIENTS, WORKERS)) for start in range(WORKERS)]
    written = config.model_dump_json()
    processes = [context.Process(target=bare_training, args=(written, share, queue, barrier)) for share in shares]
    for process in processes:
        process.start()
    seconds = max(float(queue.get()) for _ in processes)
    for process in processes:
        process.join()
    return seconds


def our_seconds(config: Config) -> float:
    """Of the second round on our engine."""
    pool = client_pool(ComputeSection(workers=WORKERS))
    grid = RayGrid(pool, WORKERS, client_app, config, 0, clients=TRAINING_CLIENTS)
    try:
        federation = Federation(config, 0)
        federation.start(grid)
        federation.round(grid)
        return federation.round(grid).seconds
    finally:
        pool.shutdown()


def measure(repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Rows of the table and raw values; our engine and its peer in alternation."""
    rows: dict[str, list[float]] = {}
    raw: dict[str, Any] = {"clients": {}, "training": {}}
    for clients in CLIENTS:
        rounds = 5 if clients < 1000 else 2
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(repeats):
            ours.append(float(np.median(our_trivial_rounds(clients, rounds))))
            theirs.append(float(np.median(flower_trivial_rounds(clients, rounds))))
        goal = f" (goal at least {GOAL_TIMES})" if clients == 100 else ""
        rows[f"{clients} trivial clients, our engine: s per round"] = ours
        rows[f"{clients} trivial clients, Flower's simulation: s per round"] = theirs
        rows[f"{clients} trivial clients: times faster{goal}"] = ratios(theirs, ours)
        raw["clients"][str(clients)] = {"ours": ours, "flower": theirs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        draw, count = np.random.default_rng(0), round(TRAINING_CLIENTS * IMAGES_PER_CLIENT / 0.8)
        np.savez(path, inputs=draw.integers(0, 256, (count, 28, 28), np.uint8), labels=np.arange(count) % 10)
        config = training_config(path)
        parameters = sum(value.size for value in task_of(config.model_dump_json(), 0).initial_weights().values())
        bare, engine = [], []
        for _ in range(repeats):
            bare.append(bare_seconds(config))
            engine.append(our_seconds(config))
    rows["100 clients, a million parameters: our round in bare trainings (goal at most 1.3)"] = ratios(engine, bare)
    raw["training"] = {"ours": engine, "bare": bare, "parameters": parameters}
    return rows, raw


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flower", nargs=3, metavar=("CLIENTS", "ROUNDS", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.flower:
        run_flower(int(options.flower[0]), int(options.flower[1]), Path(options.flower[2]))
        return 0
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    rows, raw = measure(options.repeats)
    store("federation_engine", __doc__ or "", rows, raw)
    for name, values in rows.items():
        print(f"{name}: {spread(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
