"""The run: calibrate every set, refit, predict new subjects, rate games, evaluate models; then labels and a report."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core import sandbox
from rayworks.core.models import locate
from rayworks.core.report import Report, Table
from rayworks.core.sweep import TrialResult
from rayworks.runtime.data_parallel import DataParallel, worker_bundles
from rayworks.runtime.placement import device_of, engine_bundles
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.difficulty import SPEC
from rayworks.systems.difficulty.actors import CalibrationActor, shards
from rayworks.systems.difficulty.answering import generalisation_report
from rayworks.systems.difficulty.answering.generalisation_items import BinnedItems, binned_items, check_source
from rayworks.systems.difficulty.calibration import calibrate_shards
from rayworks.systems.difficulty.config import Config, set_name
from rayworks.systems.difficulty.evaluation import benchmark_rows, summarise
from rayworks.systems.difficulty.exported import exported_sets, write_export, write_tables
from rayworks.systems.difficulty.item_response.sharded_fit import ShardedFit
from rayworks.systems.difficulty.reporting import build_report, label_card
from rayworks.systems.difficulty.responses.sources import check_games, check_responses

ANSWERS_PER_CALL = 64
WAVES = 2
"""Calls per worker in one step of the bootstrap: work lost with a dead driver is at most this."""


class DifficultySystem(StagedSystem[Config]):
    """Calibrates response sets, rates players and quantifies the uncertainty of the labels."""

    spec = SPEC
    _items: BinnedItems | None = None
    _in_step: DataParallel | None = None

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """Sets by name or path, models by name, and a sandbox where programs are to be run."""
        evaluated = config.evaluation.benchmark if config.evaluation.models else ""
        if (config.generalisation.source if config.generalisation.enabled else evaluated) == "codeforces":
            sandbox.check()
        if config.generalisation.enabled:
            check_source(config.generalisation)
            locate(config.generalisation.model)
            return
        for source in config.data.responses:
            check_responses(source, config.data)
        for source in config.data.games:
            check_games(source)
        for model in config.evaluation.models:
            locate(model)
        if config.evaluation.models and config.evaluation.engine == "vllm":
            from rayworks.lm.engines import check_engine

            check_engine(config.evaluation, device_of(config.compute))

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """The run itself asks for nothing; the workers, and the model that answers, one after the other."""
        return [{}, *engine_bundles(config.compute, config.evaluation) * config.compute.workers]

    @classmethod
    def train_bundles(cls, config: Config) -> list[dict[str, float]]:
        """See :func:`~.data_parallel.worker_bundles`."""
        return worker_bundles(config.training_compute)

    def plan(self) -> Sequence[Stage]:
        """Sets, then what is known of each; or how an answering model generalises from bin to bin."""
        self.results |= {"moments": {}}
        if self.settings.generalisation.enabled:
            return self._generalisation()
        settings, data = self.settings, self.settings.data
        in_memory = data.responses if data.reader == "memory" else ()
        resampled = settings.model.estimator in ("mml", "map") and settings.uncertainty.bootstrap > 0
        stages: dict[str, tuple[Callable[[str], Metrics], Sequence[str]]] = {
            "calibrate": (self._calibrate, data.responses),
            "bootstrap": (self._refit, in_memory if resampled else ()),
            "new subjects": (partial(self._ask, "new subjects", "new_subjects"), in_memory),
            "rate": (partial(self._ask, "rate", "rate"), data.games),
            "evaluate": (self._evaluate, settings.evaluation.models),
        }
        planned = []
        for kind, (work, sources) in stages.items():
            self.results |= {kind: {}} if sources else {}
            for source in sources:
                name = set_name(source)
                planned.append(Stage(f"{kind} {name}", partial(work, source), partial(self._refitted, name)))
        return planned

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        if self._items is not None:
            # Loads transformers, which a calibration does without.
            from rayworks.systems.difficulty.answering_actors import GeneralisationActor

            return GeneralisationActor, self.settings, self.run_directory, self._items
        return CalibrationActor, self.settings

    def export(self) -> None:
        """Per set: the calibration that Serve scores new subjects with, and the labels as Parquet; a card for people."""
        if self._items is not None:
            from rayworks.systems.difficulty.answering_actors import STATES, TRAINING

            self.export_file("README.md", generalisation_report.generalisation_card(self.settings))
            for folder in (STATES, TRAINING):
                self.run_directory.remove_folder(folder)
            return
        write_export(exported_sets(self.results["calibrate"]), self.export_file)
        write_tables(self.results, self.export_file)
        self.export_file("README.md", label_card(self.settings, self.results))

    def report(self) -> Report:
        """See :func:`~.reporting.build_report` and :func:`~.generalisation_report.run_report`."""
        if self._items is not None:
            found = self.results
            return generalisation_report.run_report(
                self.settings, self._items, found["answer"], found["fine-tune"]["losses"], SPEC.title
            )
        return build_report(self.settings, self.results, SPEC.title)

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """The generalisation heatmap, where the trials made one."""
        return generalisation_report.sweep_summary(trials)

    def _generalisation(self) -> list[Stage]:
        section = self.settings.generalisation
        self._items = binned_items(section, self.settings.run.seed)
        self.results |= {"answer": {}, "fine-tune": {"step": 0, "losses": []}}

        def tuned() -> float:
            return float(self.results["fine-tune"]["step"] / section.steps)

        return [
            Stage(f"answer {generalisation_report.BASE}", partial(self._answer, generalisation_report.BASE)),
            Stage(f"fine-tune {set_name(section.model)}", self._tune, tuned),
            Stage(f"answer {generalisation_report.TUNED}", partial(self._answer, generalisation_report.TUNED)),
        ]

    def _ask(self, kind: str, method: str, source: str) -> Metrics:
        """Leave a whole stage to one worker."""
        self.results[kind][set_name(source)] = next(self.workers.map(method, [source]))
        return {}

    def _calibrate(self, source: str) -> Metrics:
        if self.settings.data.reader == "memory":
            result: dict[str, Any] = next(self.workers.map("calibrate", [source]))
        else:
            self.release()
            items, everywhere, pool = shards(source, self.settings, self.actor_name("shard"))
            try:
                result = calibrate_shards(set_name(source), items, ShardedFit(everywhere), self.settings)
            finally:
                pool.shutdown()
        self.results["calibrate"][set_name(source)] = result
        return {key: result[key] for key in ("log_likelihood", "reliability")}

    def _refitted(self, name: str) -> float:
        """How much of a set's stage is done: only a bootstrap takes several pieces."""
        moments = self.results["moments"].get(name)
        return float(moments["next"] / self.settings.uncertainty.bootstrap) if moments else 1.0

    def _refit(self, source: str) -> Metrics:
        """Continue the bootstrap of a set.

        Only sums are kept, in the order of the resamples, so that they do not depend on the number of workers.
        """
        name, settings = set_name(source), self.settings
        centre = np.array(self.results["calibrate"][name]["parameters"]["difficulty"])
        zeros = [0.0] * len(centre)
        moments = self.results["moments"].get(name) or {"next": 0, "count": zeros, "sum": zeros, "square": zeros}
        start, total, size = moments["next"], settings.uncertainty.bootstrap, settings.uncertainty.refits_per_call
        stop = min(total, start + WAVES * settings.compute.workers * size)
        calls = [(source, first, min(first + size, stop)) for first in range(start, stop, size)]
        count, first, second = (np.array(moments[key], dtype=float) for key in ("count", "sum", "square"))
        for refits in self.workers.map("refits", calls):
            for difficulty in refits:
                seen = np.isfinite(difficulty)
                offset = np.where(seen, difficulty - centre, 0.0)
                count, first, second = count + seen, first + offset, second + offset**2
        sums = {"count": count.tolist(), "sum": first.tolist(), "square": second.tolist()}
        self.results["moments"][name] = {"next": stop, **sums}
        if stop < total:
            return {}
        mean = first / np.maximum(count, 1)
        variance = (second / np.maximum(count, 1) - mean**2) * count / np.maximum(count - 1, 1)
        self.results["bootstrap"][name] = {
            "difficulty": np.sqrt(np.maximum(variance, 0)).tolist(),
            "bias": mean.tolist(),
            "refits": count.tolist(),
        }
        del self.results["moments"][name]
        return {}

    def _evaluate(self, model: str) -> Metrics:
        from rayworks.systems.difficulty.answering_actors import answer

        self.release()
        section = self.settings.evaluation
        labels = {name: result["labels"] for name, result in self.results["calibrate"].items()}
        rows = answer(model, benchmark_rows(section, labels), self.settings)
        seed = self.settings.run.seed
        table = pd.DataFrame(rows).assign(model=model, seed=seed)
        self.run_directory.write(f"evaluation/{set_name(model)}.parquet", table.to_parquet())
        self.results["evaluate"][model] = found = summarise(model, rows, section.guessing, seed)
        return {"accuracy": found["accuracy"]}

    def _tune(self) -> Metrics:
        """A piece of training, whose state any worker can take up: by one of them, or by those in step."""
        found, section = self.results["fine-tune"], self.settings.generalisation
        if section.workers == 1:
            call = (found["step"], section.steps_per_checkpoint)
            reached: dict[str, float] = self.workers.submit("train", call).result()
        else:
            reached = self._told_after(found["step"])
        losses = [*found["losses"], reached["loss"]]
        self.results["fine-tune"] = {"step": int(reached["step"]), "losses": losses}
        return {"loss": reached["loss"]}

    def _told_after(self, step: int) -> dict[str, float]:
        """What the workers in step tell next; the last piece ends them."""
        from rayworks.systems.difficulty.answering_actors import RECORDS, TRAINING, training_loop

        if self._in_step is None:
            arguments = {"config": self.settings, "items": self._items}
            compute = self.settings.training_compute
            self._in_step = DataParallel(training_loop, arguments, self.run_directory, TRAINING, compute)
        record = self._in_step.next_record(RECORDS, step)
        if record["step"] >= self.settings.generalisation.steps:
            self._in_step.wait()
        return record

    def _answer(self, model: str) -> Metrics:
        """Which evaluation items a model gets right; calls are of a fixed size, whatever the number of workers."""
        assert self._items is not None
        items = [item for bin_items in self._items.evaluation for item in bin_items]
        calls = [(model, start, start + ANSWERS_PER_CALL) for start in range(0, len(items), ANSWERS_PER_CALL)]
        outputs = [output for batch in self.workers.map("answer", calls) for output in batch]
        correct = [item.correct(output) for item, output in zip(items, outputs, strict=True)]
        columns = {"item": [item.name for item in items], "rating": [item.rating for item in items]}
        table = pd.DataFrame({**columns, "output": outputs, "correct": correct})
        self.run_directory.write(f"evaluation/{model}.parquet", table.assign(model=model).to_parquet())
        self.results["answer"][model] = correct
        return {"accuracy": float(np.mean(correct))}
