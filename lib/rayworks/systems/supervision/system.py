"""The run: experts, round after round, what they teach, who learns it, and one test at the end."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rayworks.core.models import locate
from rayworks.core.report import Report, Table
from rayworks.core.sweep import TrialResult
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.data_parallel import DataParallel, worker_bundles
from rayworks.runtime.placement import worker_bundle
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.supervision import SPEC
from rayworks.systems.supervision.actors import FOUND, SupervisionActor, training_loop
from rayworks.systems.supervision.boosting.chain import Arm
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.exported import copy_experts, ensemble_of, model_card, write_export
from rayworks.systems.supervision.files import Files
from rayworks.systems.supervision.opening import Tracks, check_tracks
from rayworks.systems.supervision.pupils import Pupil, arms, pupils
from rayworks.systems.supervision.reporting import build_report
from rayworks.systems.supervision.sweep_report import sweep_summary
from rayworks.systems.supervision.tasks.hardness import check_hardness
from rayworks.systems.supervision.tasks.labelled import LabelledExamples
from rayworks.systems.supervision.weak.features import check_features


class SupervisionSystem(StagedSystem[Config]):
    """Lets weak models teach a stronger one."""

    spec = SPEC
    in_flight_per_worker = 1

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """The run itself asks for nothing; seeds, arms and students share the workers."""
        return [{}, *[worker_bundle(config.compute)] * (config.compute.workers * config.weak.processes)]

    @classmethod
    def train_bundles(cls, config: Config) -> list[dict[str, float]]:
        """See :func:`~.data_parallel.worker_bundles`."""
        return worker_bundles(config.training_compute)

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The examples, whether there are enough, features, models and hardness by name."""
        if config.weak.learner == "adapter":
            locate(config.weak.model)
        if config.student.learner == "tuned":
            locate(config.student.model)
        for name in (config.weak.features, config.student.features, *config.student.ladder):
            check_features(name)
        check_hardness(config.task.hardness)
        check_tracks(config)

    def start(self) -> None:
        """Read the examples, whose kind decides who is taught, and plan."""
        limit_torch_threads()
        self._tracks = Tracks(self.settings)
        super().start()

    def plan(self) -> Sequence[Stage]:
        """Stage by stage over all seeds; the test's labels are read in the last."""
        taught = self._tracks.taught
        self.results |= {"students": list(taught), "facts": [], "chains": {}, "taught": {}, "learned": {}, "tests": []}
        stages = [Stage("prepare", self._prepare, partial(self._over_seeds, "facts"), share=1)]
        for arm in arms(taught):
            stages.append(Stage(f"experts: {arm}", partial(self._grow, arm), partial(self._grown, arm), share=4))
            stages.append(Stage(f"labels: {arm}", partial(self._teach, arm), partial(self._has_taught, arm), share=1))
        for pupil in pupils(self.settings, taught):
            done = partial(self._has_learned, pupil)
            stages.append(Stage(f"student: {pupil.name}", partial(self._learn, pupil), done, share=0.5))
        return [*stages, Stage("test", self._test, partial(self._over_seeds, "tests"), share=1)]

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        return SupervisionActor, self.settings, self.run_directory

    def export(self) -> None:
        """The ensemble of the first seed that labels, with what it sees of a text, and a card."""
        config, tracks, files = self.settings, self._tracks, Files(self.run_directory)
        if isinstance(tracks.pool, LabelledExamples):
            write_export(ensemble_of(config, self.results, tracks, files), self.export_file)
        else:
            copy_experts(config, self.results, files, self.export_file)
        self.export_file("README.md", model_card(self.settings, self.results))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        return build_report(self.settings, self.results, SPEC.title)

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """Gains over designs."""
        return sweep_summary(trials)

    @property
    def _seeds(self) -> int:
        return self.settings.experiment.seeds

    def _wave(self, done: int) -> range:
        """The next seeds: all of them where a piece takes seconds, else as many as there are workers."""
        wave = self.settings.compute.workers if self._slow else self._seeds
        return range(done, min(self._seeds, done + wave))

    @property
    def _slow(self) -> bool:
        """Whether language models are trained."""
        return self.settings.weak.learner == "adapter" or self.settings.student.learner == "tuned"

    def _over_seeds(self, name: str) -> float:
        return len(self.results[name]) / self._seeds

    def _prepare(self) -> Metrics:
        """The first seed alone, since it computes features that the others find in the cache."""
        found = self.results["facts"]
        found += list(self.workers.map("prepare", self._wave(len(found)) if found else range(1)))
        return {"units": found[-1]["units"]}

    def _grow(self, arm: Arm) -> Metrics:
        """A few rounds of the chains of as many seeds as there are workers."""
        chains = self.results["chains"].setdefault(arm, [None] * self._seeds)
        open_ones = [number for number, chain in enumerate(chains) if not self._is_grown(chain)]
        wave = open_ones[: self.settings.compute.workers] if self._slow else open_ones
        more = 1 if self.settings.weak.learner == "adapter" else self.settings.boosting.rounds_per_call
        if in_step := self._in_step("adapter", self.settings.weak.learner):
            # The chain is kept after every round all the same.
            wave, more = wave[:1], self.settings.boosting.rounds
        calls = [(one, arm, more + (chains[one]["kept"] if chains[one] else 0)) for one in wave]
        answers = self._answered("grow", calls) if in_step else self.workers.map("grow", calls)
        for number, found in zip(wave, answers, strict=True):
            spent = chains[number]["seconds"] if chains[number] else 0.0
            chains[number] = found | {"seconds": found["seconds"] + spent}
        last = chains[wave[-1]]["rounds"][-1]
        return {f"{arm}_error": last["error"], f"{arm}_effective_share": last["effective_share"]}

    def _is_grown(self, chain: Mapping[str, Any] | None) -> bool:
        return chain is not None and (bool(chain["ended"]) or chain["kept"] >= self.settings.boosting.rounds)

    def _grown(self, arm: Arm) -> float:
        chains = self.results["chains"].get(arm, [])
        full = self.settings.boosting.rounds
        parts = [1.0 if self._is_grown(one) else one["kept"] / full if one else 0.0 for one in chains]
        return sum(parts) / self._seeds

    def _teach(self, arm: Arm) -> Metrics:
        found = self.results["taught"].setdefault(arm, [])
        found += list(self.workers.map("teach", [(number, arm) for number in self._wave(len(found))]))
        return {f"{arm}_rounds": found[-1]["rounds"]}

    def _has_taught(self, arm: Arm) -> float:
        return len(self.results["taught"].get(arm, [])) / self._seeds

    def _learn(self, pupil: Pupil) -> Metrics:
        found = self.results["learned"].setdefault(pupil.name, [])
        calls = [(number, pupil) for number in self._wave(len(found))]
        in_step = self._in_step("tuned", self.settings.student.learner)
        found += self._answered("learn", calls[:1]) if in_step else list(self.workers.map("learn", calls))
        return {}

    def _in_step(self, trained: str, learner: str) -> bool:
        return self.settings.experiment.workers > 1 and learner == trained

    def _answered(self, method: str, calls: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """Answers of calls of the workers, by those that train in step, one after the other."""
        found = []
        for call in calls:
            folder = f"training/{method}-{getattr(call[1], 'name', call[1])}-{call[0]}"
            arguments = {"config": self.settings, "method": method, "call": call}
            DataParallel(training_loop, arguments, self.run_directory, folder, self.settings.training_compute).wait()
            found.append(self.run_directory.read_json(f"{folder}/{FOUND}"))
        return found

    def _has_learned(self, pupil: Pupil) -> float:
        return len(self.results["learned"].get(pupil.name, [])) / self._seeds

    def _test(self) -> Metrics:
        found = self.results["tests"]
        found += list(self.workers.map("test", self._wave(len(found))))
        return {}
