"""The run: certify symmetry, measure the bias of untrained policies, train every network on every seed, test, film."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.numpy

from rayworks.core.report import Report
from rayworks.core.seeds import derive_small
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.marl import SPEC
from rayworks.systems.marl.actors import Call, MarlActor, Piece, Unit, check_environment
from rayworks.systems.marl.config import STAGES, Config, EnvironmentSection, NetworkKind
from rayworks.systems.marl.environments.registry import require_same_game, team_specs
from rayworks.systems.marl.exported import ExportedPolicy, model_card, write_export
from rayworks.systems.marl.findings.episodes import film, strip
from rayworks.systems.marl.findings.evaluation import Evaluation, Weights
from rayworks.systems.marl.findings.exploration_bias import input_slope, untrained_play
from rayworks.systems.marl.networks.symmetry_groups import SLOPED
from rayworks.systems.marl.reporting import build_report
from rayworks.systems.marl.rllib.algorithm import policies_of

TRAINED = "trainings"
RETURN = "return "
"""Beginning of the names of returns in a curve, before the team's."""
BASE = ""
"""Name of the environment of the training among the tests."""
LAYERS = (1, 2, 4)
SLOPE_INITIALISATIONS = 300


class MarlSystem(StagedSystem[Config]):
    """Compares networks as policies of teams."""

    spec = SPEC
    in_flight_per_worker = 1

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """A bundle per trainer, and one per env runner of each."""
        runners = [{"CPU": 1.0}] * (config.compute.workers * config.sampling.runners)
        return [*super().bundles(config), *runners]

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
        """Plan, with nothing trained."""
        limit_torch_threads()
        self._states: dict[str, bytes] = {}
        super().start()

    def plan(self) -> Sequence[Stage]:
        """Stages in the order of ``STAGES``; training takes nearly all of the time."""
        settings = self.settings
        self._units = [
            Unit(kind, number) for kind in settings.experiment.networks for number in range(settings.experiment.seeds)
        ]
        self.results["curves"] = {unit.name: [] for unit in self._units}
        stages = {
            "certificate": self.finding("certificate", self._certificate),
            "bias": self.finding("bias", self._bias),
            "training": Stage("training", self._train, self._trained, share=9 * len(settings.scope.stages)),
            "generalisation": self.finding("generalisation", lambda: self._evaluate(settings.tests())),
            "episodes": self.finding("episodes", self._episodes),
        }
        return [stages[name] for name in STAGES if name in settings.scope.stages]

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        return MarlActor, self.settings

    def save_state(self, folder: Path) -> None:
        """Write the results so far, and where each training under way stands."""
        super().save_state(folder)
        for name, state in self._states.items():
            (folder / name).write_bytes(state)

    def load_state(self, folder: Path) -> None:
        """Take them up."""
        super().load_state(folder)
        self._states = {
            unit.name: (folder / unit.name).read_bytes() for unit in self._units if (folder / unit.name).is_file()
        }

    def export(self) -> None:
        """The first training of the headline's network, with a card that says which symmetries it respects."""
        unit, certificate = self._units[0], self.results["final"]["certificate"]
        environment, network, weights = self.settings.environment, self.settings.network, self._weights(unit)
        exported = ExportedPolicy(unit.kind, environment, network, team_specs(environment), weights, certificate)
        write_export(exported, self.export_file)
        self.export_file("README.md", model_card(self.settings, unit.kind, self.results))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        report = build_report(self.settings, self.results, SPEC)
        if "episodes" in self.results:
            unit = self._units[0]
            picture = strip(self.settings, unit.kind, self._weights(unit), 0)
            report.figures = {**report.figures, "episode.png": (picture, f"An episode of the trained {unit.kind}.")}
        return report

    def _certificate(self) -> dict[str, Any]:
        """Certificates of every untrained network."""
        kinds = self.settings.experiment.networks
        found = self.workers.map("certify", [(kind, {}) for kind in kinds])
        return {kind: _as_values(by_team) for kind, by_team in zip(kinds, found, strict=True)}

    def _bias(self) -> dict[str, Any]:
        settings, seed = self.settings, self.settings.run.seed
        slopes = {
            kind: {str(layers): input_slope(kind, layers, SLOPE_INITIALISATIONS, seed) for layers in LAYERS}
            for kind in settings.experiment.networks
            if kind in SLOPED
        }
        return {"slopes": slopes, "untrained": untrained_play(settings, derive_small(seed, "bias"))}

    def _train(self) -> Metrics:
        """The next pieces; the same pieces in the same order whatever the number of workers."""
        settings = self.settings
        chosen = self._unfinished()[: settings.compute.workers]
        most, calls = settings.experiment.iterations_per_call, []
        for unit in chosen:
            done = len(self.results["curves"][unit.name])
            calls.append(Call(unit, self._states.get(unit.name), done, min(most, settings.iterations - done)))
        pieces: Iterable[Piece] = self.workers.map("train", calls)
        metrics: Metrics = {}
        for unit, piece in zip(chosen, pieces, strict=True):
            curve = self.results["curves"][unit.name]
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
            self.results["final"] = self._final()
        return metrics

    def _final(self) -> dict[str, Any]:
        """Every trained network in the environment it was trained in, and the certificate of the headline's."""
        unit = self._units[0]
        certificate = next(iter(self.workers.map("certify", [(unit.kind, self._weights(unit))])))
        return {
            "certificate": _as_values(certificate),
            "evaluations": self._evaluate({BASE: self.settings.environment})[BASE],
        }

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
        evaluations: Iterable[Evaluation] = self.workers.map("evaluate", tasks)
        for (name, who), evaluation in zip(names, evaluations, strict=True):
            found[name][who] = vars(evaluation)
        return found

    def _episodes(self) -> list[str]:
        """Films of the headline's first training."""
        unit = self._units[0]
        names = [f"episode-{number}.gif" for number in range(self.settings.experiment.episodes)]
        for number, name in enumerate(names):
            self.run_directory.write(f"figures/{name}", film(self.settings, unit.kind, self._weights(unit), number))
        return names

    def _unfinished(self) -> list[Unit]:
        return [unit for unit in self._units if len(self.results["curves"][unit.name]) < self.settings.iterations]

    def _trained(self) -> float:
        done = sum(len(curve) for curve in self.results["curves"].values())
        return done / (len(self._units) * self.settings.iterations)

    def _keep(self, unit: Unit, weights: Weights) -> None:
        for team, arrays in weights.items():
            self.run_directory.write(f"{TRAINED}/{unit.name}/{team}.safetensors", safetensors.numpy.save(dict(arrays)))

    def _weights(self, unit: Unit) -> Weights:
        return {
            team: safetensors.numpy.load(self.run_directory.read(f"{TRAINED}/{unit.name}/{team}.safetensors"))
            for team in team_specs(self.settings.environment)
        }


def _shapes(environment: EnvironmentSection) -> dict[str, tuple[Any, ...]]:
    """Meaning of an MLP's inputs and outputs, by team."""
    return {team: (spec.kinds, spec.actions) for team, spec in team_specs(environment).items()}


def _as_values(certificates: dict[str, Any]) -> dict[str, Any]:
    return {
        team: {"errors": dict(one.errors), "claims": list(one.claims), "holds": one.holds}
        for team, one in certificates.items()
    }
