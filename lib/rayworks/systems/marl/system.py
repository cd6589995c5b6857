"""The run: certify symmetry, measure the bias of untrained policies, train every network on every seed, test, film."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.numpy

from rayworks.core.report import Report
from rayworks.core.run_directory import EXPORT
from rayworks.core.seeds import derive_small
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import worker_bundle, worker_options
from rayworks.runtime.system import Metrics, System
from rayworks.systems.marl import SPEC
from rayworks.systems.marl.actors import Call, MarlActor, Piece, Unit, check_environment
from rayworks.systems.marl.config import STAGES, Config, EnvironmentSection, NetworkKind
from rayworks.systems.marl.environments import require_same_game, team_specs
from rayworks.systems.marl.episodes import film, strip
from rayworks.systems.marl.evaluation import Evaluation, Weights
from rayworks.systems.marl.exploration_bias import input_slope, untrained_play
from rayworks.systems.marl.exported import model_card, write_policy
from rayworks.systems.marl.reporting import build_report
from rayworks.systems.marl.rllib_algorithm import policies_of
from rayworks.systems.marl.symmetry_groups import SLOPED

STATE = "state.json"
TRAINED = "trainings"
RETURN = "return "
"""Beginning of the names of returns in a curve, before the team's."""
BASE = ""
"""Name of the environment of the training among the tests."""
LAYERS = (1, 2, 4)
SLOPE_INITIALISATIONS = 300


class MarlSystem(System[Config]):
    """Compares networks as policies of teams."""

    spec = SPEC

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """A bundle per trainer, and one per env runner of each."""
        runners = [{"CPU": 1.0}] * (config.compute.workers * config.sampling.runners)
        return [{}, *[worker_bundle(config.compute)] * config.compute.workers, *runners]

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """Make every environment once, and see whether the policies of the training can play the tests."""
        check_environment(config.environment)
        trained = team_specs(config.environment)
        policies_of(trained, config.training)
        for name, environment in config.tests().items():
            check_environment(environment)
            require_same_game(name, team_specs(environment), trained)

    def start(self) -> None:
        """Plan the stages, always in the same order."""
        limit_torch_threads()
        settings = self.settings
        self._stages = [stage for stage in STAGES if stage in settings.scope.stages]
        self._units = [
            Unit(kind, number) for kind in settings.experiment.networks for number in range(settings.experiment.seeds)
        ]
        self._done = 0
        self._results: dict[str, Any] = {"curves": {unit.name: [] for unit in self._units}}
        self._states: dict[str, bytes] = {}
        self._pool: ActorPool[Any, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self._done == len(self._stages)

    def advance(self) -> Metrics:
        """One stage; of the training, some iterations of as many trainings as there are workers."""
        stage = self._stages[self._done]
        metrics: Metrics = {}
        if stage == "training":
            metrics = self._train()
            if self._unfinished():
                return {**metrics, "phase": metrics["phase"], "progress": self._progress()}
        else:
            self._results[stage] = getattr(self, f"_{stage}")()
        self._done += 1
        return {**metrics, "phase": stage, "progress": self._progress()}

    def save_state(self, folder: Path) -> None:
        """Results so far, and where each training under way stands."""
        (folder / STATE).write_text(json.dumps({"done": self._done, "results": self._results}))
        for name, state in self._states.items():
            (folder / name).write_bytes(state)

    def load_state(self, folder: Path) -> None:
        """Go back."""
        state = json.loads((folder / STATE).read_text())
        self._done, self._results = state["done"], state["results"]
        self._states = {
            unit.name: (folder / unit.name).read_bytes() for unit in self._units if (folder / unit.name).is_file()
        }

    def export(self) -> None:
        """The first training of the headline's network, with a card that says which symmetries it respects."""
        unit = self._units[0]
        write_policy(
            self.settings,
            unit.kind,
            self._weights(unit),
            self._results["final"]["certificate"],
            lambda name, data: self.run_directory.write(f"{EXPORT}/{name}", data),
        )
        self.run_directory.write(f"{EXPORT}/README.md", model_card(self.settings, unit.kind, self._results))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        report = build_report(self.settings, self._results, SPEC)
        if "episodes" in self._stages:
            unit = self._units[0]
            picture = strip(self.settings, unit.kind, self._weights(unit), 0)
            report.figures = {**report.figures, "episode.png": (picture, f"An episode of the trained {unit.kind}.")}
        return report

    def cleanup(self) -> None:
        """End the actors."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _certificate(self) -> dict[str, Any]:
        """Of every network as initialised."""
        kinds = self.settings.experiment.networks
        found = self._workers.map("certify", [(kind, {}) for kind in kinds])
        return {kind: _as_values(by_team) for kind, by_team in zip(kinds, found, strict=True)}

    def _bias(self) -> dict[str, Any]:
        settings, seed = self.settings, self.settings.run.seed
        kinds = settings.experiment.networks
        slopes = {
            kind: {str(layers): input_slope(kind, layers, SLOPE_INITIALISATIONS, seed) for layers in LAYERS}
            for kind in kinds
            if kind in SLOPED
        }
        played = untrained_play(
            settings.environment,
            kinds,
            settings.network,
            settings.experiment.initialisations,
            settings.sampling.copies,
            derive_small(seed, "bias"),
        )
        return {"slopes": slopes, "untrained": played}

    def _train(self) -> Metrics:
        """The next pieces; the same pieces in the same order whatever the number of workers."""
        settings = self.settings
        chosen = self._unfinished()[: settings.compute.workers]
        calls = []
        for unit in chosen:
            done = len(self._results["curves"][unit.name])
            size = min(settings.experiment.iterations_per_call, settings.iterations - done)
            calls.append(Call(unit, self._states.get(unit.name), done, size))
        pieces: Iterable[Piece] = self._workers.map("train", calls)
        metrics: Metrics = {}
        for unit, piece in zip(chosen, pieces, strict=True):
            curve = self._results["curves"][unit.name]
            curve += piece.curve
            self._states[unit.name] = piece.state
            if len(curve) == settings.iterations:
                del self._states[unit.name]
                self._keep(unit, piece.weights)
            metrics |= {"phase": f"training {unit.name}", "steps": curve[-1]["steps"]}
            returns = {name.removeprefix(RETURN): v for name, v in curve[-1].items() if name.startswith(RETURN)}
            for team, value in returns.items():
                metrics[f"return/{unit.name}" if len(returns) == 1 else f"return/{unit.name}/{team}"] = value
        if not self._unfinished():
            self._results["final"] = self._final()
        return metrics

    def _final(self) -> dict[str, Any]:
        """Every trained network in the environment it was trained in, and the certificate of the headline's."""
        unit = self._units[0]
        certificate = next(iter(self._workers.map("certify", [(unit.kind, self._weights(unit))])))
        return {
            "certificate": _as_values(certificate),
            "evaluations": self._evaluate({BASE: self.settings.environment})[BASE],
        }

    def _generalisation(self) -> dict[str, Any]:
        return self._evaluate(self.settings.tests())

    def _evaluate(self, environments: dict[str, EnvironmentSection]) -> dict[str, Any]:
        """Scores by environment and training; of random play too; None where an MLP meets other numbers of entities."""
        trained = _shapes(self.settings.environment)
        tasks: list[tuple[NetworkKind | None, EnvironmentSection, Weights, int]] = []
        names = []
        for name, environment in environments.items():
            same = _shapes(environment) == trained
            for number in range(self.settings.experiment.seeds):
                tasks.append((None, environment, {}, number))
                names.append((name, f"random-{number}"))
            for unit in self._units:
                if same or unit.kind != "mlp":
                    tasks.append((unit.kind, environment, self._weights(unit), unit.number))
                    names.append((name, unit.name))
        found: dict[str, Any] = {name: {unit.name: None for unit in self._units} for name in environments}
        evaluations: Iterable[Evaluation] = self._workers.map("evaluate", tasks)
        for (name, who), evaluation in zip(names, evaluations, strict=True):
            found[name][who] = vars(evaluation)
        return found

    def _episodes(self) -> list[str]:
        """Films of the headline's first training."""
        unit, count = self._units[0], self.settings.experiment.episodes
        written = []
        for number in range(count):
            name = f"episode-{number}.gif"
            self.run_directory.write(f"figures/{name}", film(self.settings, unit.kind, self._weights(unit), number))
            written.append(name)
        return written

    def _unfinished(self) -> list[Unit]:
        return [unit for unit in self._units if len(self._results["curves"][unit.name]) < self.settings.iterations]

    def _progress(self) -> float:
        # Training takes nearly all of the time.
        curves = self._results["curves"].values()
        trained = sum(len(curve) for curve in curves) / (len(self._units) * self.settings.iterations)
        return 0.9 * trained + 0.1 * self._done / len(self._stages)

    def _keep(self, unit: Unit, weights: Weights) -> None:
        for team, arrays in weights.items():
            self.run_directory.write(f"{TRAINED}/{unit.name}/{team}.safetensors", safetensors.numpy.save(dict(arrays)))

    def _weights(self, unit: Unit) -> Weights:
        return {
            team: safetensors.numpy.load(self.run_directory.read(f"{TRAINED}/{unit.name}/{team}.safetensors"))
            for team in team_specs(self.settings.environment)
        }

    @property
    def _workers(self) -> ActorPool[Any, Any]:
        if self._pool is None:
            self._pool = ActorPool(
                MarlActor,
                self.settings,
                size=self.settings.compute.workers,
                name=f"marl/{self.settings.run.name}/train",
                options=worker_options(self.settings.compute),
                in_flight_per_actor=1,
            )
        return self._pool


def _shapes(environment: EnvironmentSection) -> dict[str, tuple[Any, ...]]:
    """By team, what an MLP's inputs and outputs mean."""
    return {team: (spec.kinds, spec.actions) for team, spec in team_specs(environment).items()}


def _as_values(certificates: dict[str, Any]) -> dict[str, Any]:
    return {
        team: {"errors": dict(one.errors), "claims": list(one.claims), "holds": one.holds}
        for team, one in certificates.items()
    }
