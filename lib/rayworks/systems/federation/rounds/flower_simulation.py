"""The same apps in Flower's own simulation, in a process of its own: it ends the Ray that it runs on.

``python -m rayworks.systems.federation.rounds.flower_simulation FOLDER`` reads ``task.json`` there and writes ``rounds.json``
and the newest ``round-N`` checkpoint after every round, atomically; run again it goes on after the last complete round.
"""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from flwr.simulation import run_simulation

from rayworks.core.errors import InfrastructureError
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.federated_training import Federation, RoundRecord
from rayworks.systems.federation.rounds.server_app import server_app

TASK, ROUNDS = "task.json", "rounds.json"
RAY_OF_THE_CALLER = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_ID")
"""Variables that would join the simulation to the caller's cluster."""


def simulate(folder: Path, config: Config, seed: int, processors: int, timeout_seconds: float | None = None) -> None:
    """Run or go on with a training in Flower's simulation, in another process, and wait for it.

    Args:
        folder: for its task, records and checkpoints.
        processors: processors of the Ray that Flower starts; one client runs on each.

    Raises:
        InfrastructureError: it did not end well; what it had done is kept, and the same call goes on from there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task = {"config": config.model_dump(mode="json"), "seed": seed, "processors": processors}
    _write(folder / TASK, json.dumps(task))
    variables = {name: value for name, value in os.environ.items() if name not in RAY_OF_THE_CALLER}
    # Its Ray is to listen on loopback only.
    variables |= {"OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    command = [sys.executable, "-m", "rayworks.systems.federation.rounds.flower_simulation", str(folder)]
    with (folder / "simulation.log").open("w") as log:
        try:
            code = subprocess.run(
                command, env=variables, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=timeout_seconds
            ).returncode
        except subprocess.TimeoutExpired:
            raise InfrastructureError(
                f"{folder}: not done within {timeout_seconds:g} s; run it again to go on"
            ) from None
    if code or len(read_rounds(folder)) < config.strategy.rounds:
        lines = (folder / "simulation.log").read_text().strip().splitlines() or ["nothing was logged"]
        raise InfrastructureError(f"{folder}: Flower's simulation ended with {code} ({lines[-1]}); see simulation.log")


def read_rounds(folder: Path) -> list[RoundRecord]:
    """Records of the rounds that are complete."""
    path = folder / ROUNDS
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    for row in rows:
        row.update({name: tuple(value) for name, value in row.items() if isinstance(value, list)})
    return [RoundRecord(**row) for row in rows]


def read_federation(folder: Path) -> Federation:
    """The training as of the last round that is complete; as new before the first.

    Raises:
        DataError: its checkpoint cannot be read.
    """
    task = json.loads((folder / TASK).read_text())
    federation = Federation(Config.model_validate(task["config"]), task["seed"])
    done = len(read_rounds(folder))
    if done:
        federation.load(folder / f"round-{done}")
    return federation


def main(arguments: Sequence[str]) -> int:
    """The simulation's own process."""
    folder = Path(arguments[0])
    logging.getLogger("flwr").setLevel(logging.WARNING)
    task = json.loads((folder / TASK).read_text())
    config, seed = Config.model_validate(task["config"]), int(task["seed"])
    federation, records = read_federation(folder), read_rounds(folder)
    if len(records) >= config.strategy.rounds:
        return 0

    def watch(training: Federation, grid: Grid, record: RoundRecord) -> None:
        records.append(record)
        training.save(folder / f"round-{record.round}", grid)
        _write(folder / ROUNDS, json.dumps([dataclasses.asdict(row) for row in records]))
        shutil.rmtree(folder / f"round-{record.round - 1}", ignore_errors=True)

    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    init: dict[str, Any] = {"address": "local", "num_cpus": int(task["processors"]), **quiet}
    backend: Any = {"init_args": init, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(
        server_app(config, seed, watch, federation),
        client_app(config, seed),
        num_supernodes=len(federation.partitions),
        backend_config=backend,
    )
    return 0


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
