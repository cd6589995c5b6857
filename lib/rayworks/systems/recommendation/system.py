"""The run: audit the log, train, evaluate, explain, and value other recommenders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.report import Report
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.data_parallel import DataParallel, own_bundle, worker_bundles
from rayworks.runtime.placement import worker_bundle
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.recommendation import SPEC, actors, sources
from rayworks.systems.recommendation.causes import effects
from rayworks.systems.recommendation.config import RELEASED, Config
from rayworks.systems.recommendation.evaluation import evaluate, ranking_scores
from rayworks.systems.recommendation.exported import Exported, write_export
from rayworks.systems.recommendation.logs.event_tables import files_of
from rayworks.systems.recommendation.logs.events import EventLog
from rayworks.systems.recommendation.logs.simulator import Rollout, Simulator, SimulatorOptions
from rayworks.systems.recommendation.measures.audits import audit
from rayworks.systems.recommendation.models.fitting import MAIN, Unit, has_natural, units, windows
from rayworks.systems.recommendation.models.next_item import rank_held_out
from rayworks.systems.recommendation.models.recbole_checkpoint import read_inert
from rayworks.systems.recommendation.reporting import audit_results, bandit_results, build_report, model_card
from rayworks.systems.recommendation.values import policies
from rayworks.systems.recommendation.values.bandit import cross_check, empirical_policy

TRAIN = "train"


def _nothing_left(config: Config) -> str:
    split = config.split
    if split.by == "time":
        return (
            "no recommendation is before the windows of split.valid_share and split.test_share, or none in them (are all "
            "times alike?); lower the shares, or set split.by to user"
        )
    return (
        f"no user has more than split.valid_steps + split.test_steps = {split.valid_steps + split.test_steps} "
        "recommendations; lower them, or give longer logs"
    )


class RecommendationSystem(StagedSystem[Config]):
    """Learns acceptance from one log."""

    spec = SPEC
    # Workers of a trial that is stopped early end with its process.
    reusable = False

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """The run's own, and a reader of a distributed log; the workers that Ray Train reserves come beside them."""
        readers = [worker_bundle(config.compute)] if config.data.distributed and not config.simulated else []
        return [own_bundle(config.compute), *readers]

    @classmethod
    def train_bundles(cls, config: Config) -> list[dict[str, float]]:
        """See :func:`~.data_parallel.worker_bundles`."""
        return worker_bundles(config.compute)

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The log's files, the checkpoint, and the data sets of the other stages."""
        source = config.data.source
        if not config.simulated and not source.startswith(RELEASED):
            files_of(source)
        for name in (config.natural.checkpoint, config.natural.items):
            if name and not Path(name).expanduser().is_file():
                raise ConfigError(f"natural.checkpoint, natural.items: {name} does not exist")
        if config.natural.checkpoint:
            read_inert(Path(config.natural.checkpoint).expanduser())
        if "bandit" in config.scope.stages:
            for name in config.bandit.logs:
                sources.read_bandit(name)
        if "ranking" in config.scope.stages:
            sources.read_sequences(config.ranking.source)

    def start(self) -> None:
        """Read or simulate the log."""
        limit_torch_threads()
        self._training: DataParallel | None = None
        self._told: Any = None
        self._simulator: Simulator | None = None
        self._truth: Rollout | None = None
        self._log = self._read()
        if self.settings.natural.checkpoint:
            # What does not fit is refused before anything is trained.
            actors.frozen_natural(self.settings, self._log, self.run_directory)
        split = windows(self.settings)
        if not (split.train_mask(self._log) & self._log.recommended).any() or not split.valid_mask(self._log).any():
            raise DataError(f"{self.settings.data.source}: {_nothing_left(self.settings)}")
        self._units = units(self.settings, natural=has_natural(self.settings, self._log))
        super().start()

    def plan(self) -> Sequence[Stage]:
        """Training, which takes nearly all of the time, serves the stages natural, acceptance and ranking."""
        found = {
            "acceptance": self._acceptance,
            "policies": self._policies,
            "effects": self._effects,
            "bandit": self._bandit,
            "ranking": self._ranking,
        }
        asked = self.settings.scope.stages
        after = [self.finding(name, find) for name, find in found.items() if name in asked]
        before = [Stage("audit", self._audit)] if "audit" in asked else []
        training = Stage(TRAIN, self._train, self._trained, share=7 / 3 * (len(before) + len(after)))
        return [*before, training, *after]

    def export(self) -> None:
        """The acceptance models with what Serve needs beside them, and a card."""
        reference = effects.reference_users(self.settings, self._log)
        exported = Exported(self._members(), self._log.items, reference, self.results["acceptance"]["held_out"])
        write_export(exported, self.export_file)
        self.export_file("README.md", model_card(self.settings, self._log, self.results))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        return build_report(self.settings, self.results, SPEC)

    def cleanup(self) -> None:
        """End a training that is under way."""
        if self._training is not None:
            self._training.stop()
        super().cleanup()

    def _read(self) -> EventLog:
        settings = self.settings
        if not settings.simulated:
            read = actors.read_events_distributed if settings.data.distributed else sources.read_events
            return read(settings.data.source, settings.data)
        self._simulator = Simulator(SimulatorOptions(**dict(settings.simulator)), settings.run.seed)
        log, self._truth = self._simulator.log()
        return log

    def _trained(self) -> float:
        return 1.0 if TRAIN in self.results else float(self._told["fraction"])

    def _train(self) -> Metrics:
        """What the workers tell next."""
        if self._training is None:
            logs = {"natural": ray.put(self._log)}
            logs["acceptance"] = logs["natural"]
            if any(unit.kind == "ranking" for unit in self._units):
                logs["ranking"] = ray.put(sources.read_sequences(self.settings.ranking.source))
            arguments = {"config": self.settings, "units": self._units, "logs": logs}
            self._training = DataParallel(
                actors.training_loop, arguments, self.run_directory, actors.TRAINING, self.settings.compute
            )
        if self._training.wait(self._heard):
            told = {name: value for name, value in self._told.items() if name != "fraction"}
            epoch = {"acceptance_epoch": told["epoch"]} if told["unit"] == MAIN else {}
            return {**told, **epoch, "phase": f"train {told['unit']}"}
        self._training = None
        read, folder = self.run_directory.read_json, actors.TRAINING
        self.results[TRAIN] = {unit.name: read(f"{folder}/{unit.name}/{actors.DONE}") for unit in self._units}
        return {}

    def _heard(self) -> bool:
        where = f"{actors.TRAINING}/{actors.PROGRESS}"
        told = self.run_directory.read_json(where) if self.run_directory.exists(where) else None
        changed = told is not None and told != self._told
        self._told = told
        return changed

    def _audit(self) -> Metrics:
        found = audit(self._log, windows(self.settings), self.settings.run.seed)
        self.results["audit"] = audit_results(found, sources.facts_of(self._log, self.settings.data.source))
        return {"warnings": self.results["audit"]["warnings"]}

    def _acceptance(self) -> dict[str, Any]:
        others = [unit for unit in self._units if unit.name.startswith("ablation-")]
        ablations: dict[str, Any] = {unit.history: self._load(unit) for unit in others}
        truth = None if self._truth is None else self._truth.probability
        return evaluate(self.settings, self._log, self._members()[0], ablations, self._natural(), truth)

    def _policies(self) -> dict[str, Any]:
        if self._simulator is not None:
            return policies.simulated_policies(self.settings, self._members(), self._log, self._simulator)
        return policies.logged_policies(self.settings, self._members(), self._log, self._natural())

    def _effects(self) -> dict[str, Any]:
        learned = (self.settings, self._members(), self._log)
        natural = self._natural()
        alone = {} if natural is None else effects.policy_effect(*learned, natural, self._simulator)
        return {
            "treatment": effects.treatment_effects(*learned, self._simulator, self._again()),
            "by_themselves": alone,
            "attribution": effects.attributions(*learned),
        }

    def _bandit(self) -> dict[str, Any]:
        section, seed = self.settings.bandit, self.settings.run.seed
        logs = {name: sources.read_bandit(name) for name in section.logs}
        first, second = section.logs
        found = {}
        for own, other in ((first, second), (second, first)):
            policy = empirical_policy(logs[own])
            check = cross_check(logs[other], logs[own], policy, seed=seed, folds=section.folds)
            found[own] = bandit_results(check, other)
        return found

    def _ranking(self) -> dict[str, Any]:
        log = sources.read_sequences(self.settings.ranking.source)
        rankings = [unit for unit in self._units if unit.kind == "ranking"]
        rest = (self.settings, len(log.items), self.run_directory)
        models = {unit.backbone: actors.load_unit(unit, *rest) for unit in rankings}
        held_out = {name: rank_held_out(model, log) for name, model in models.items()}
        return {name: ranking_scores(rank) for name, rank in held_out.items() if len(rank)}

    def _members(self) -> list[Any]:
        return [self._load(unit) for unit in self._units if unit.name.startswith("acceptance-")]

    def _again(self) -> list[Any]:
        return [self._load(unit) for unit in self._units if unit.redrawn]

    def _natural(self) -> Any:
        if "natural" not in self.settings.scope.stages:
            return None
        return actors.frozen_natural(self.settings, self._log, self.run_directory)

    def _load(self, unit: Unit) -> Any:
        return actors.load_unit(unit, self.settings, len(self._log.items), self.run_directory)
