"""Workers of a run: each trains arms piece by piece, keeps their states in the run, and looks at what came out."""

import csv
import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch

from rayworks.core.run_directory import RunDirectory
from rayworks.learning.in_step import ALONE, Workers
from rayworks.runtime.data_parallel import agreed, place, stopping
from rayworks.runtime.placement import device_of
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.data.samples import Samples, read
from rayworks.systems.augmentation.data.splits import Splits
from rayworks.systems.augmentation.exported import exported_model, model_card, write_export
from rayworks.systems.augmentation.opening import Opened, all_arms, training_settings
from rayworks.systems.augmentation.step_cost import step_cost
from rayworks.systems.augmentation.training.arms import EARLY, UPSTREAM, Arm
from rayworks.systems.augmentation.training.loop import ArmRun

FOUND, STATE = "found.json", "state.pt"
TRAININGS, MODEL, ROWS, VIEWS = "trainings", "model", "rows.csv", "views.npz"
MOST_VIEWS = 24
"""Worst, and best, views that are shown."""
SEEDS_HELD = 2
"""Seeds whose splits a worker holds."""


def training_folder(arm: str, number: int) -> str:
    """Where a training keeps its files, in the run directory."""
    return f"{TRAININGS}/{arm.replace(' ', '-')}-{number}"


class AugmentationActor:
    """Trains, scores and exports.

    Args:
        directory: of the run.
        workers: that train in step.
    """

    def __init__(self, config: Config, directory: RunDirectory, workers: Workers = ALONE) -> None:
        torch.set_num_threads(1)
        self._config, self._directory, self._workers = config, directory, workers
        self._opened = dict[int, Opened]()

    def cost(self, number: int) -> dict[str, float]:
        """Seconds of a step of the engine over those of a plain one."""
        opened = self._open(number)
        return {"ratio": step_cost(opened.splits, training_settings(self._config), self._config.engine.settings(1))}

    def train(self, call: tuple[str, int, int]) -> dict[str, Any]:
        """Train an arm of a seed up to a step, from the state that is kept; what it came to, and at its end what it found."""
        arm, number, until = call
        run = self._run(arm, number)
        run.train(until - run.step)
        if self._workers.rank == 0:
            self._keep(run, arm, number)
        opened = self._open(number)
        found = {"step": run.step, "steps": run.steps, "selection": run.selected()}
        found |= {
            "left_out": opened.splits.left_out,
            "untrusted": _classes_without(opened.splits),
            "events": run.engine.events if run.engine else [],
            "seconds": run.seconds,
            "stop": run.best.step if run.best and arm == EARLY else run.steps,
        }
        if run.step >= run.steps:
            test = run.evaluate(opened.splits.test)
            found |= {"test": {name: test[name] for name in ("accuracy", "nll")}}
            if run.engine and self._workers.rank == 0:
                found |= self._opinion(run, number)
        return found

    def views(self, call: tuple[str, int]) -> int:
        """Keep the worst and the best views of an arm's training; how many there are."""
        arm, number = call
        run, opened = self._run(arm, number), self._open(number)
        rows: list[dict[str, Any]] = []
        inputs: list[np.ndarray] = []
        given = opened.splits.training.labels
        count, suggested = len(given), run.tally.suggested(given)
        for kind, furthest in zip(("worst", "best"), run.tally.furthest(count, MOST_VIEWS), strict=True):
            for row, score, step, at in furthest:
                views, _ = run.batch(step)
                inputs.append(views.inputs[at].numpy())
                rows.append(
                    {
                        "kind": kind,
                        "row": int(opened.splits.training.rows[row]),
                        "score": score,
                        "operation": views.names[int(views.operations[at])],
                        "strength": float(views.strengths[at]),
                        "given": opened.splits.classes[int(given[row])],
                        "suggested": opened.splits.classes[int(suggested[row])],
                    }
                )
        texts = opened.samples.inputs.ndim == 1
        shown = [str(opened.samples.inputs[row["row"]]) for row in rows] if texts else []
        file = io.BytesIO()
        np.savez(file, inputs=np.stack(inputs) if inputs and not texts else np.zeros(0, np.float32))
        folder = training_folder(arm, number)
        self._directory.write(f"{folder}/{VIEWS}", file.getvalue())
        self._directory.write_json(f"{folder}/views.json", {"rows": rows, "texts": shown})
        return len(rows)

    def export(self, call: tuple[str, int, dict[str, Any]]) -> float:
        """Write the model of an arm, its validation gradient and what is known of it; the unit of its gains."""
        arm, number, card = call
        run, opened = self._run(arm, number), self._open(number)
        found = exported_model(self._config, run.model.cpu().float(), opened, card)
        write_export(found, lambda name, data: self._directory.write(f"{MODEL}/{name}", data))
        self._directory.write(f"{MODEL}/README.md", model_card(card, found.classes))
        return found.unit

    def _open(self, number: int) -> Opened:
        if number not in self._opened:
            while len(self._opened) >= SEEDS_HELD:
                self._opened.pop(next(iter(self._opened)))
            self._opened[number] = Opened(self._config, self._samples, number, self._directory)
        return self._opened[number]

    @cached_property
    def _samples(self) -> Samples:
        return read(self._config.data.source)

    @cached_property
    def _arms(self) -> Mapping[str, Arm]:
        return all_arms(self._config, self._samples.kind)

    def _run(self, name: str, number: int) -> ArmRun:
        """An arm at the state that is kept; to stop it early, that of the same training to its end, where it is there."""
        arm, opened = self._arms[name], self._open(number)
        device = device_of(self._config.compute)
        settings = training_settings(self._config)
        run = ArmRun(arm, opened.splits, opened.drawn(arm.operation), settings, opened.seed, device, self._workers)
        for kept in (name, UPSTREAM) if name == EARLY else (name,):
            path = f"{training_folder(kept, number)}/{STATE}"
            if self._directory.exists(path):
                state = io.BytesIO(self._directory.read(path))
                run.load_state_dict(torch.load(state, weights_only=True, map_location=device))
                break
        return run

    def _keep(self, run: ArmRun, arm: str, number: int) -> None:
        file = io.BytesIO()
        torch.save(run.state_dict(), file)
        self._directory.write(f"{training_folder(arm, number)}/{STATE}", file.getvalue())

    def _opinion(self, run: ArmRun, number: int) -> dict[str, Any]:
        """What the engine thought of rows, operations and classes; all rows as a table in the run."""
        splits, tally = self._open(number).splits, run.tally
        given = splits.training.labels
        scores, suggested = tally.scores(given), tally.suggested(given)
        order = scores.argsort(stable=True)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["row", "given", "suggested", "score", "weight", "wrong_on_purpose"])
        for at in order.tolist():
            seen = float(tally.by_source[at, 0])
            names = [splits.classes[int(labels[at])] for labels in (given, suggested)]
            weight = float(tally.by_source[at, 1]) / seen if seen else float("nan")
            table.writerow([int(splits.training.rows[at]), *names, float(scores[at]), weight, int(splits.wrong[at])])
        self._directory.write(f"{training_folder(run.arm.name, number)}/{ROWS}", text.getvalue())
        auc = tally.find(splits.wrong, given)
        weighed = float(tally.by_operation[..., 0].sum())
        return {
            "noise_auc": auc if auc == auc else None,
            "vanished": run.engine.vanished if run.engine else 0,
            "names": list(tally.names),
            "by_operation": tally.by_operation.tolist(),
            "by_class": tally.by_class.tolist(),
            "dropped": float(tally.by_operation[..., 3].sum()) / weighed if weighed else 0.0,
            "acted": bool(weighed),
        }


def _classes_without(splits: Splits) -> list[str]:
    """Names of the classes of training rows of which no trusted row is."""
    known, trained = (set(part.labels.tolist()) for part in (splits.trusted, splits.training))
    return [splits.classes[kind] for kind in sorted(trained - known)]


def training_loop(arguments: Mapping[str, Any], directory: RunDirectory, folder: str) -> None:
    """Train an arm by all workers in step; see :class:`~rayworks.runtime.data_parallel.DataParallel`.

    Args:
        arguments: ``config``, ``arm`` and ``number``.
        folder: the first worker keeps what was found there, in :data:`FOUND`.
    """
    rank, count = place()
    config: Config = arguments["config"]
    worker = AugmentationActor(config, directory, Workers(rank, count))
    step, found = 0, dict[str, Any]()
    while not found or found["step"] < found["steps"]:
        if stopping(directory, folder):
            return
        step += config.training.steps_per_call
        found = worker.train((arguments["arm"], arguments["number"], step))
        # The next piece begins from the state that the first worker keeps.
        agreed(0)
    if rank == 0:
        directory.write_json(f"{folder}/{FOUND}", found)
