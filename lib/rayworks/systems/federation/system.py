"""The run: every method trained on every seed, the same apps in Flower's simulation, attacks on what was shared."""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flwr.serverapp import Grid

from rayworks.core.errors import ConfigError
from rayworks.core.report import Report
from rayworks.core.seeds import derive_small
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.federation import SPEC
from rayworks.systems.federation.actors import CLIENTS_SHOWN, ClientHost, RayGrid, RoundGauges
from rayworks.systems.federation.config import STAGES, Config
from rayworks.systems.federation.data.sources import check_source
from rayworks.systems.federation.disclosure import disclosure, samples
from rayworks.systems.federation.exported import exported_model, model_card, write_export
from rayworks.systems.federation.reporting import build_report
from rayworks.systems.federation.rounds.client_app import client_app
from rayworks.systems.federation.rounds.clients import Task, task_of
from rayworks.systems.federation.rounds.federated_training import Federation, RoundRecord
from rayworks.systems.federation.rounds.flower_simulation import read_federation, read_rounds, simulate
from rayworks.systems.federation.training.aggregation import Arrays

UNDER_WAY, TRAINED = "training", "trainings"
SAMPLES = 10
"""Pseudo-images of a kind in the figure."""


@dataclass(frozen=True)
class Training:
    """One method on one seed."""

    method: str
    number: int

    @property
    def name(self) -> str:
        """Name in files and curves."""
        return f"{self.method}-{self.number}"


class FederationSystem(StagedSystem[Config]):
    """Compares methods against label skew."""

    spec = SPEC
    _federation: Federation | None = None
    _grid: RayGrid | None = None

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The data set by name or path; the gradient file if there is one."""
        check_source(config.data)
        for method in config.experiment.methods:
            file = config.of_method(method).balance.gradient_file
            if file is not None and not Path(file).expanduser().is_file():
                raise ConfigError(f"balance.gradient_file {file}: does not exist; give a .safetensors file")

    def start(self) -> None:
        """Plan, with no training under way."""
        limit_torch_threads()
        self._leave()
        self._gauges = RoundGauges(self.settings.run.name)
        super().start()

    def plan(self) -> Sequence[Stage]:
        """Stages in the order of ``STAGES``; trainings take nearly all of the time.

        Trainings of one seed come together, so that half a run compares too.
        """
        settings = self.settings
        seeds, methods = range(settings.experiment.seeds), settings.experiment.methods
        self._trainings = [Training(method, number) for number in seeds for method in methods]
        self.results["rounds"] = {training.name: [] for training in self._trainings}
        stages = {
            "training": Stage("training", self._train, self._trained, share=9 * len(settings.scope.stages)),
            "flower": self.finding("flower", self._flower),
            "privacy": self.finding("privacy", self._privacy),
        }
        return [stages[name] for name in STAGES if name in settings.scope.stages]

    def worker(self) -> tuple[Any, ...]:
        """Hosts of the clients of any number of federations, one after the other."""
        return (ClientHost,)

    def save_state(self, folder: Path) -> None:
        """Write the rounds so far, and where the training under way stands."""
        super().save_state(folder)
        if self._federation is not None and self._grid is not None:
            self._federation.save(folder / UNDER_WAY, self._grid)

    def load_state(self, folder: Path) -> None:
        """Take them up."""
        super().load_state(folder)
        self._leave()
        if (folder / UNDER_WAY).is_dir():
            self._federation = Federation(*self._task(self._unfinished()[0]))
            self._federation.load(folder / UNDER_WAY)

    def export(self) -> None:
        """The headline's method, trained on the first seed."""
        settings = self.settings
        training, config, task = self._headline()
        trainings = [Training(training.method, number).name for number in range(settings.experiment.seeds)]
        accuracies = [self.results["rounds"][name][-1]["accuracy"] for name in trainings]
        privacy = self.results.get("privacy", {})
        card = {
            "source": settings.data.source,
            "method": training.method,
            "rounds": config.strategy.rounds,
            "clients": len(task.parts),
            "accuracy": accuracies[0],
            "accuracies": accuracies,
            "epsilon": privacy.get("epsilon"),
            "epsilon_updates": self.results["rounds"][training.name][-1]["epsilon"],
            "statement": privacy.get("statement", "The privacy of shared encodings was not looked at in this run."),
        }
        classes = task.train.classes
        write_export(exported_model(config, self._weights(training), task.shape, classes, card), self.export_file)
        self.export_file("README.md", model_card(card, classes))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        _, config, task = self._headline()
        return build_report(self.settings, self.results, SPEC, task.train.classes, samples(config, task, SAMPLES))

    def _train(self) -> Metrics:
        training = self._unfinished()[0]
        rounds = self.results["rounds"][training.name]
        if self.settings.engine.kind == "flower":
            folder = self._simulation_folder(training)
            config, seed = self._task(training)
            simulate(folder, config, seed, self.settings.compute.workers)
            done, weights = read_rounds(folder)[len(rounds) :], read_federation(folder).weights()
        else:
            federation, grid = self._under_way(training)
            size = min(self.settings.engine.rounds_per_call, federation.config.strategy.rounds - len(rounds))
            done, weights = [federation.round(grid) for _ in range(size)], federation.weights()
        rounds += [dataclasses.asdict(record) for record in done]
        if len(rounds) == self.settings.strategy.rounds:
            self._keep(training, weights)
            self._leave()
        return self._metrics(training, done)

    def _metrics(self, training: Training, done: list[RoundRecord]) -> Metrics:
        last = done[-1]
        metrics: Metrics = {
            "phase": training.name,
            "round": last.round,
            "loss": last.loss,
            "failed": sum(record.failed for record in done),
            f"megabytes/{training.name}": (last.bytes_down + last.bytes_up) / 1e6,
        }
        evaluated = next((record for record in reversed(done) if record.accuracy is not None), None)
        if evaluated is not None and evaluated.accuracy is not None:
            metrics |= {"accuracy": evaluated.accuracy, f"accuracy/{training.name}": evaluated.accuracy}
            by_client = enumerate((evaluated.client_accuracies or ())[:CLIENTS_SHOWN])
            metrics |= {f"client/{training.name}/{client}": v for client, v in by_client if v is not None}
        self._gauges.set(training.name, last)
        return metrics

    def _flower(self) -> dict[str, Any]:
        """The headline's method on the first seed for some rounds by either engine: seconds, and how far they differ."""
        engine = self.settings.engine
        config, seed = self._task(Training(self.settings.experiment.headline, 0))
        strategy = config.strategy.model_copy(update={"rounds": engine.compared_rounds})
        config = config.model_copy(update={"strategy": strategy})
        with tempfile.TemporaryDirectory(prefix="rayworks-flower-") as name:
            simulate(Path(name), config, seed, self.settings.compute.workers)
            theirs, their_weights = read_rounds(Path(name)), read_federation(Path(name)).weights()
        federation = Federation(config, seed)
        grid = self._met(federation)
        ours = [federation.round(grid) for _ in range(engine.compared_rounds)]
        weights = federation.weights()
        difference = max(float(np.abs(weights[name] - their_weights[name]).max()) for name in weights)
        seconds = {"engine": _seconds(ours), "flower": _seconds(theirs)}
        return {**seconds, "rounds": engine.compared_rounds, "largest_difference": difference}

    def _privacy(self) -> dict[str, Any]:
        _, config, task = self._headline()
        return disclosure(config, task)

    def _under_way(self, training: Training) -> tuple[Federation, Grid]:
        """The training and its clients."""
        if self._federation is None:
            self._federation = Federation(*self._task(training))
        if self._grid is None:
            self._grid = self._met(self._federation)
        return self._federation, self._grid

    def _met(self, federation: Federation) -> RayGrid:
        """Its clients, met and with their pseudo-images."""
        workers, per_task = self.settings.compute.workers, self.settings.engine.clients_per_task
        task, clients = (client_app, federation.config, federation.seed), len(federation.partitions)
        grid = RayGrid(self.workers, workers, *task, clients=clients, clients_per_task=per_task)
        federation.start(grid)
        return grid

    def _headline(self) -> tuple[Training, Config, Task]:
        """The headline's method on the first seed: what is exported, attacked and looked at."""
        training = Training(self.settings.experiment.headline, 0)
        config, seed = self._task(training)
        return training, config, task_of(config.model_dump_json(), seed)

    def _task(self, training: Training) -> tuple[Config, int]:
        """The settings of a training and its seed, which all methods share."""
        seed = derive_small(self.settings.run.seed, "training", training.number)
        return self.settings.of_method(training.method), seed

    def _leave(self) -> None:
        self._federation, self._grid = None, None

    def _unfinished(self) -> list[Training]:
        wanted = self.settings.strategy.rounds
        return [training for training in self._trainings if len(self.results["rounds"][training.name]) < wanted]

    def _trained(self) -> float:
        done = sum(len(rounds) for rounds in self.results["rounds"].values())
        return done / (len(self._trainings) * self.settings.strategy.rounds)

    def _simulation_folder(self, training: Training) -> Path:
        """Where Flower's simulation keeps its rounds: in the run if that is local, so that it goes on after a death."""
        if self.run_directory.is_local:
            return Path(self.run_directory.path(f"flower/{training.name}"))
        return Path(tempfile.mkdtemp(prefix="rayworks-flower-"))

    def _keep(self, training: Training, weights: Arrays) -> None:
        stored = {name: np.ascontiguousarray(array) for name, array in weights.items()}
        self.run_directory.write(f"{TRAINED}/{training.name}/model.safetensors", safetensors.numpy.save(stored))

    def _weights(self, training: Training) -> Arrays:
        return safetensors.numpy.load(self.run_directory.read(f"{TRAINED}/{training.name}/model.safetensors"))


def _seconds(rounds: list[RoundRecord]) -> float:
    """Duration of a usual round; the first one also reads the data."""
    later = rounds[1:] or rounds
    return float(np.median([record.seconds for record in later]))
