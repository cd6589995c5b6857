"""The run: arms trained side by side on the same rows and views, what the engine thinks of them, and what to do."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rayworks.core.report import Report, Table
from rayworks.core.sweep import TrialResult
from rayworks.runtime.data_parallel import DataParallel, worker_bundles
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.augmentation import SPEC
from rayworks.systems.augmentation.actors import (
    FOUND,
    MODEL,
    ROWS,
    VIEWS,
    AugmentationActor,
    training_folder,
    training_loop,
)
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.data.samples import read
from rayworks.systems.augmentation.findings import VERDICTS, Findings
from rayworks.systems.augmentation.opening import all_arms, check_config
from rayworks.systems.augmentation.reporting import build_report
from rayworks.systems.augmentation.sweep_report import sweep_summary
from rayworks.systems.augmentation.training.arms import ENGINE, Arm


class AugmentationSystem(StagedSystem[Config]):
    """Trains every arm on every seed, and says what the augmentation does."""

    spec = SPEC
    in_flight_per_worker = 1

    @classmethod
    def train_bundles(cls, config: Config) -> list[dict[str, float]]:
        """See :func:`~.data_parallel.worker_bundles`."""
        return worker_bundles(config.training_compute)

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The samples, whether there are enough, the upstream and the network by name."""
        check_config(config)

    def plan(self) -> Sequence[Stage]:
        """The cost of a step, an arm after the other, the views, and the model."""
        samples = read(self.settings.data.source)
        self._arms = all_arms(self.settings, samples.kind)
        self.results |= {"cost": None, "classes": list(samples.classes)}
        self.results |= {"trained": {name: [None] * self._seeds for name in self._arms}}
        stages = [Stage("cost", self._cost, share=0.2)]
        for name, arm in self._arms.items():
            share = arm.longer * (self.settings.experiment.step_cost if arm.engine else 1)
            stages.append(Stage(name, partial(self._train, arm), partial(self._trained, name), share=share))
        return [*stages, Stage("views", self._views, share=0.1), Stage("model", self._model, share=0.1)]

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        return AugmentationActor, self.settings, self.run_directory

    def export(self) -> None:
        """The first seed's model of the arm that is taken, its gradient, the rows as the engine sees them, and a card."""
        for name in self.run_directory.list(MODEL):
            self.export_file(name, self.run_directory.read(f"{MODEL}/{name}"))
        folder = training_folder(ENGINE, 0)
        self.export_file(ROWS, self.run_directory.read(f"{folder}/{ROWS}"))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        folder = training_folder(ENGINE, 0)
        shown = json.loads(self.run_directory.read(f"{folder}/views.json"))
        return build_report(self.settings, self.results, SPEC, shown, self.run_directory.read(f"{folder}/{VIEWS}"))

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """Gains over designs."""
        return sweep_summary(trials)

    @property
    def _seeds(self) -> int:
        return self.settings.experiment.seeds

    def _cost(self) -> Metrics:
        self.results["cost"] = next(self.workers.map("cost", [0]))
        return {"step_cost_ratio": self.results["cost"]["ratio"]}

    def _train(self, arm: Arm) -> Metrics:
        """A piece of an arm, of as many seeds as there are workers."""
        found, training = self.results["trained"][arm.name], self.settings.training
        unfinished = [number for number, one in enumerate(found) if not _is_whole(one)]
        if training.workers > 1:
            found[unfinished[0]] = self._trained_in_step(arm.name, unfinished[0])
        else:
            wave = unfinished[: self.settings.compute.workers]
            calls = [(arm.name, at, (found[at]["step"] if found[at] else 0) + training.steps_per_call) for at in wave]
            for number, one in zip(wave, self.workers.map("train", calls), strict=True):
                found[number] = one
        last = found[unfinished[0]]
        key = arm.name.lower().replace(" ", "_").replace("-", "_")
        told = {f"{key}_{name}": last["selection"][name] for name in ("accuracy", "nll")}
        return {**told, f"{key}_step": last["step"]}

    def _trained_in_step(self, name: str, number: int) -> dict[str, Any]:
        """An arm by workers of Ray Train, which go on where they died."""
        folder = f"training/{training_folder(name, number)}"
        arguments = {"config": self.settings, "arm": name, "number": number}
        DataParallel(training_loop, arguments, self.run_directory, folder, self.settings.training_compute).wait()
        found: dict[str, Any] = self.run_directory.read_json(f"{folder}/{FOUND}")
        return found

    def _trained(self, name: str) -> float:
        parts = [one["step"] / one["steps"] if one else 0.0 for one in self.results["trained"][name]]
        return sum(parts) / self._seeds

    def _views(self) -> Metrics:
        return {"views_shown": next(self.workers.map("views", [(ENGINE, 0)]))}

    def _model(self) -> Metrics:
        found = Findings(self.settings, self.results)
        card = {
            "source": self.settings.data.source,
            "arm": found.chosen,
            "verdict": VERDICTS[found.chosen],
            "accuracy": found.mean(found.chosen),
            "accuracy_of_model": float(found.accuracies(found.chosen)[0]),
            "seeds": self._seeds,
            "noise_auc": found.noise_auc,
        }
        return {"unit": next(self.workers.map("export", [(found.chosen, 0, card)]))}


def _is_whole(found: Mapping[str, Any] | None) -> bool:
    return found is not None and bool(found["step"] >= found["steps"])
