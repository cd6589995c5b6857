"""The run: calibrate every set, refit, look at new subjects, rate games, let models answer; then labels and a report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayworks.core.models import locate
from rayworks.core.report import Report, Table
from rayworks.core.run_directory import EXPORT
from rayworks.core.sweep import TrialResult
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import worker_bundle, worker_options
from rayworks.runtime.system import Metrics, System
from rayworks.systems.difficulty import SPEC
from rayworks.systems.difficulty.actors import STATES, CalibrationActor, GeneralisationActor, answer, shards
from rayworks.systems.difficulty.calibration import calibrate_shards
from rayworks.systems.difficulty.config import Config, set_name
from rayworks.systems.difficulty.evaluation import benchmark_rows, summarise
from rayworks.systems.difficulty.generalisation_items import binned_items, check_source
from rayworks.systems.difficulty.generalisation_report import (
    BASE,
    TUNED,
    generalisation_card,
    run_report,
    sweep_summary,
)
from rayworks.systems.difficulty.reporting import build_report, label_card
from rayworks.systems.difficulty.sharded_fit import ShardedFit
from rayworks.systems.difficulty.sources import check_games, check_responses

STATE = "state.json"
ANSWERS_PER_CALL = 64
WAVES = 2
"""Calls per worker in one step of the bootstrap: work lost with a dead driver is at most this."""


class DifficultySystem(System[Config]):
    """Calibrates response sets, rates players and says how sure the labels are."""

    spec = SPEC

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """The run itself asks for nothing; all its stages share the workers, one after the other."""
        return [{}, *[worker_bundle(config.compute)] * config.compute.workers]

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """Sets by name or path, models by name."""
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

    def start(self) -> None:
        """Plan the stages: each is one restartable unit of work."""
        data = self.settings.data
        generalisation = [("answer", BASE), ("fine-tune", self.settings.generalisation.model), ("answer", TUNED)]
        calibration = [
            *(("calibrate", source) for source in data.responses),
            *(("bootstrap", source) for source in data.responses if self._resamples),
            *(("new subjects", source) for source in data.responses if data.reader == "memory"),
            *(("rate", source) for source in data.games),
            *(("evaluate", model) for model in self.settings.evaluation.models),
        ]
        self._stages: list[tuple[str, str]] = generalisation if self._generalises else calibration
        self._items = binned_items(self.settings.generalisation, self.settings.run.seed) if self._generalises else None
        self._done: list[str] = []
        self._results: dict[str, dict[str, Any]] = {kind: {} for kind, _ in self._stages}
        self._moments: dict[str, Any] = {}
        self._pool: ActorPool[Any, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return len(self._done) == len(self._stages)

    def advance(self) -> Metrics:
        """One set, one game set or one model; of a bootstrap, a few calls per worker."""
        kind, source = self._stages[len(self._done)]
        metrics: Metrics = {}
        if kind == "calibrate":
            result = self._calibrate(source)
            metrics = {key: result[key] for key in ("log_likelihood", "reliability")}
            self._results[kind][set_name(source)] = result
        elif kind == "bootstrap":
            if not self._refit(source):
                return self._progress(kind, source, metrics)
        elif kind == "fine-tune":
            metrics = self._tune()
            if self._results[kind]["step"] < self.settings.generalisation.steps:
                return self._progress(kind, source, metrics)
        elif kind == "answer":
            self._results[kind][source] = correct = self._answer(source)
            metrics = {"accuracy": float(np.mean(correct))}
        elif kind == "evaluate":
            result = self._evaluate(source)
            metrics = {"accuracy": result["accuracy"]}
            self._results[kind][source] = result
        else:
            method = {"new subjects": "new_subjects", "rate": "rate"}[kind]
            self._results[kind][set_name(source)] = next(self._workers.map(method, [source]))
        self._done.append(f"{kind} {source}")
        return self._progress(kind, source, metrics)

    def save_state(self, folder: Path) -> None:
        """Results so far and the moments of a bootstrap under way."""
        state = {"done": self._done, "results": self._results, "moments": self._moments}
        (folder / STATE).write_text(json.dumps(state))

    def load_state(self, folder: Path) -> None:
        """Go back."""
        state = json.loads((folder / STATE).read_text())
        self._done, self._moments = state["done"], state["moments"]
        self._results |= state["results"]

    def export(self) -> None:
        """Per set: the calibration that Serve scores new subjects with, and the labels as Parquet; a card for people."""
        if self._generalises:
            self.run_directory.write(f"{EXPORT}/README.md", generalisation_card(self.settings))
            self.run_directory.remove_folder(STATES)
            return
        names = list(self._results["calibrate"])
        for name, result in self._results["calibrate"].items():
            keys = ("items", "texts", "parameters", "errors", "labels", "provenance", "label_provenance")
            self.run_directory.write_json(
                f"{EXPORT}/{name}/calibration.json", {"set": name, **{key: result[key] for key in keys}}
            )
            self.run_directory.write(f"{EXPORT}/{name}/labels.parquet", pd.DataFrame(result["labels"]).to_parquet())
            abilities = {"subject": result["subject_names"], **result["abilities"]}
            if result["person_fit"] is not None:
                abilities["person_fit"] = result["person_fit"]
            self.run_directory.write(f"{EXPORT}/{name}/abilities.parquet", pd.DataFrame(abilities).to_parquet())
        for name, result in self._results.get("new subjects", {}).items():
            items = self._results["calibrate"][name]["items"]
            chosen = {size: [items[place] for place in places] for size, places in result["subsets"].items()}
            self.run_directory.write_json(f"{EXPORT}/{name}/subsets.json", chosen)
        for name, result in self._results.get("rate", {}).items():
            self.run_directory.write(f"{EXPORT}/{name}/ratings.parquet", pd.DataFrame(result["table"]).to_parquet())
        self.run_directory.write_json(f"{EXPORT}/sets.json", names)
        self.run_directory.write(f"{EXPORT}/README.md", label_card(self.settings, self._results))

    def report(self) -> Report:
        """See :func:`~.reporting.build_report` and :func:`~.generalisation_report.run_report`."""
        if self._items is not None:
            found = self._results
            return run_report(self.settings, self._items, found["answer"], found["fine-tune"]["losses"], SPEC.title)
        return build_report(self.settings, self._results, SPEC.title)

    def cleanup(self) -> None:
        """End the actors."""
        self._release()

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """The generalisation heatmap, where the trials made one."""
        return sweep_summary(trials)

    @property
    def _generalises(self) -> bool:
        return self.settings.generalisation.enabled

    @property
    def _resamples(self) -> bool:
        likelihood = self.settings.model.estimator in ("mml", "map")
        return likelihood and self.settings.uncertainty.bootstrap > 0 and self.settings.data.reader == "memory"

    @property
    def _workers(self) -> ActorPool[Any, Any]:
        if self._pool is None:
            worker: tuple[Any, ...] = (CalibrationActor, self.settings)
            if self._generalises:
                worker = (GeneralisationActor, self.settings, self.run_directory, self._items)
            self._pool = ActorPool(
                *worker,
                size=self.settings.compute.workers,
                name=f"difficulty/{self.settings.run.name}/work",
                options=worker_options(self.settings.compute),
            )
        return self._pool

    def _release(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _calibrate(self, source: str) -> dict[str, Any]:
        if self.settings.data.reader == "memory":
            result: dict[str, Any] = next(self._workers.map("calibrate", [source]))
            return result
        self._release()
        items, everywhere, pool = shards(source, self.settings, f"difficulty/{self.settings.run.name}/shard")
        try:
            return calibrate_shards(set_name(source), items, ShardedFit(everywhere), self.settings)
        finally:
            pool.shutdown()

    def _refit(self, source: str) -> bool:
        """Go on with the bootstrap of a set; whether it is complete.

        Only sums are kept, in the order of the resamples, so that they do not depend on the number of workers.
        """
        name, settings = set_name(source), self.settings
        centre = np.array(self._results["calibrate"][name]["parameters"]["difficulty"])
        zeros = [0.0] * len(centre)
        moments = self._moments.get(name) or {"next": 0, "count": zeros, "sum": zeros, "square": zeros}
        start, total, size = moments["next"], settings.uncertainty.bootstrap, settings.uncertainty.refits_per_call
        stop = min(total, start + WAVES * settings.compute.workers * size)
        calls = [(source, first, min(first + size, stop)) for first in range(start, stop, size)]
        count, first, second = (np.array(moments[key], dtype=float) for key in ("count", "sum", "square"))
        for refits in self._workers.map("refits", calls):
            for difficulty in refits:
                seen = np.isfinite(difficulty)
                offset = np.where(seen, difficulty - centre, 0.0)
                count, first, second = count + seen, first + offset, second + offset**2
        self._moments[name] = {"next": stop, "count": count.tolist(), "sum": first.tolist(), "square": second.tolist()}
        if stop < total:
            return False
        mean = first / np.maximum(count, 1)
        variance = (second / np.maximum(count, 1) - mean**2) * count / np.maximum(count - 1, 1)
        self._results["bootstrap"][name] = {
            "difficulty": np.sqrt(np.maximum(variance, 0)).tolist(),
            "bias": mean.tolist(),
            "refits": count.tolist(),
        }
        del self._moments[name]
        return True

    def _evaluate(self, model: str) -> dict[str, Any]:
        self._release()
        section = self.settings.evaluation
        labels = {name: result["labels"] for name, result in self._results["calibrate"].items()}
        rows = answer(model, benchmark_rows(section, labels), self.settings)
        seed = self.settings.run.seed
        table = pd.DataFrame(rows).assign(model=model, seed=seed)
        self.run_directory.write(f"evaluation/{set_name(model)}.parquet", table.to_parquet())
        return summarise(model, rows, section.guessing, seed)

    def _tune(self) -> Metrics:
        """A piece of training; one worker does it, whose state any other could take up."""
        found = self._results["fine-tune"] or {"step": 0, "losses": []}
        call = (found["step"], self.settings.generalisation.steps_per_checkpoint)
        reached: dict[str, float] = self._workers.submit("train", call).result()
        losses = [*found["losses"], reached["loss"]]
        self._results["fine-tune"] = {"step": int(reached["step"]), "losses": losses}
        return {"loss": reached["loss"]}

    def _answer(self, model: str) -> list[float]:
        """Which evaluation items a model gets right; calls are of a fixed size, whatever the number of workers."""
        assert self._items is not None
        items = [item for bin_items in self._items.evaluation for item in bin_items]
        calls = [(model, start, start + ANSWERS_PER_CALL) for start in range(0, len(items), ANSWERS_PER_CALL)]
        outputs = [output for batch in self._workers.map("answer", calls) for output in batch]
        correct = [item.correct(output) for item, output in zip(items, outputs, strict=True)]
        columns = {"item": [item.name for item in items], "rating": [item.rating for item in items]}
        table = pd.DataFrame({**columns, "output": outputs, "correct": correct})
        self.run_directory.write(f"evaluation/{model}.parquet", table.assign(model=model).to_parquet())
        return correct

    def _progress(self, kind: str, source: str, metrics: Metrics) -> Metrics:
        moments = self._moments.get(set_name(source))
        part = moments["next"] / self.settings.uncertainty.bootstrap if moments else 0.0
        if kind == "fine-tune" and f"{kind} {source}" not in self._done:
            part = self._results[kind]["step"] / self.settings.generalisation.steps
        progress = (len(self._done) + part) / len(self._stages)
        return {**metrics, "phase": f"{kind} {set_name(source)}", "progress": progress}
