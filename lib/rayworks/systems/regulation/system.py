"""The run: measure the price of safety, solve and certify the design, draw its curves, let builders learn, press it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.report import Report
from rayworks.core.run_directory import EXPORT
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import worker_bundle, worker_options
from rayworks.runtime.system import Metrics, System
from rayworks.systems.regulation import SPEC
from rayworks.systems.regulation.actors import STRESSES, RegulationActor, training_options
from rayworks.systems.regulation.config import STAGES, Config
from rayworks.systems.regulation.design import Design, make_design, measure_design, value_law, write_design
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve
from rayworks.systems.regulation.price_points import points_from_gaps
from rayworks.systems.regulation.reporting import build_report, design_card, design_report
from rayworks.systems.regulation.safety_training import read_table

STATE = "state.json"
WAVES = 2
"""Calls per worker in one step of the training runs: work lost with a dead driver is at most this."""


class RegulationSystem(System[Config]):
    """Solves, certifies, plays and presses one design."""

    spec = SPEC

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """A design alone is worked out by the run itself; else all stages share the workers, one after the other."""
        if config.design_alone and "price" not in config.scope.stages:
            return [{"CPU": config.compute.cpus_per_worker}]
        return [{}, *[worker_bundle(config.compute)] * config.compute.workers]

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The table to train on, the laws, and the design where its curve is known beforehand."""
        if "price" in config.scope.stages:
            read_table(training_options(config))
        for law in config.laws:
            value_law(law)
        if config.price.curve != "measured":
            make_design(config.auction, cls._known_curve(config))

    def start(self) -> None:
        """Plan the stages, always in the same order."""
        self._stages = [stage for stage in STAGES if stage in self.settings.scope.stages]
        units: dict[str, list[str]] = {
            "curves": list(self.settings.laws),
            "learning": ["learners", *(["policy gradient"] if self.settings.learning.policy_gradient else [])],
        }
        self._units = [(stage, unit) for stage in self._stages for unit in units.get(stage, [""])]
        self._done = 0
        self._results: dict[str, Any] = {"price": [], "curves": {}}
        self._pool: ActorPool[Any, Any] | None = None
        self._solved: Design | None = None

    @property
    def finished(self) -> bool:
        """Whether every unit is done."""
        return self._done == len(self._units)

    def advance(self) -> Metrics:
        """One stage, or the part of one: a law's curves, some trained models."""
        stage, unit = self._units[self._done]
        metrics: Metrics = {}
        if stage == "price":
            metrics = self._train()
            if len(self._results["price"]) < len(self._training_runs()):
                return self._progress(stage, unit, metrics)
            self._release()
        elif stage == "design":
            found = measure_design(
                self._design, self.settings.certificate, self.settings.population.builders, self.settings.run.seed
            )
            self._results["design"] = found
            metrics = {"participation": found["participation"], "mean_bid": found["mean_bid"]}
        elif stage == "curves":
            self._results["curves"][unit] = self._curves(unit)
        elif unit == "policy gradient":
            self._results[unit] = next(self._workers.map("policy_gradient", [None]))
        else:
            methods = {
                "learning": ("learn", self.settings.learning.learners),
                "noise": ("noise", self.settings.noise.levels),
            }
            method, items = methods.get(stage, ("stress", STRESSES))
            self._results[stage] = list(self._workers.map(method, items))
        self._done += 1
        return self._progress(stage, unit, metrics)

    def save_state(self, folder: Path) -> None:
        """Results so far."""
        (folder / STATE).write_text(json.dumps({"done": self._done, "results": self._results}))

    def load_state(self, folder: Path) -> None:
        """Go back."""
        state = json.loads((folder / STATE).read_text())
        self._done, self._results = state["done"], state["results"]

    def export(self) -> None:
        """The design that Serve quotes from, the curve, and a card."""
        written = write_design(self._design, self.settings.auction)
        self.run_directory.write_json(f"{EXPORT}/design.json", written)
        self.run_directory.write(
            f"{EXPORT}/README.md", design_card(self.settings, self._design, self._results["design"])
        )

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        if self.settings.design_alone and "price" not in self.settings.scope.stages:
            return design_report(self.settings, self._results["design"], SPEC.title)
        return build_report(self.settings, self._design, self._results, SPEC.title)

    def cleanup(self) -> None:
        """End the actors."""
        self._release()

    @property
    def _design(self) -> Design:
        if self._solved is None:
            curve = self._known_curve(self.settings)
            if self.settings.price.curve == "measured":
                curve = self._measured_curve()
            self._solved = make_design(self.settings.auction, curve)
        return self._solved

    @classmethod
    def _known_curve(cls, config: Config) -> PriceCurve:
        if config.price.curve == "identity":
            return PriceCurve.identity()
        return published_curve(config.price.fit, resamples=config.price.resamples, seed=config.run.seed)

    def _measured_curve(self) -> PriceCurve:
        share, gap = (np.array([run[name] for run in self._results["price"]]) for name in ("share", "gap"))
        section = self.settings.price
        points = points_from_gaps(share, gap, resamples=section.resamples, seed=self.settings.run.seed)
        return PriceCurve.fit(points, section.fit)

    @property
    def _workers(self) -> ActorPool[Any, Any]:
        if self._pool is None:
            stage, _ = self._units[self._done]
            self._pool = ActorPool(
                RegulationActor,
                self.settings,
                None if stage == "price" else self._design,
                size=self.settings.compute.workers,
                name=f"regulation/{self.settings.run.name}/work",
                options=worker_options(self.settings.compute),
            )
        return self._pool

    def _release(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _training_runs(self) -> list[tuple[float, int]]:
        section = self.settings.price
        first = self.settings.run.seed
        return [(share, first + number) for number in range(section.seeds) for share in section.shares]

    def _train(self) -> Metrics:
        """Some models per worker; the runs and their order do not depend on the number of workers."""
        runs, size = self._training_runs(), self.settings.price.models_per_call
        start = len(self._results["price"])
        stop = min(len(runs), start + WAVES * self.settings.compute.workers * size)
        calls = [runs[first : min(first + size, stop)] for first in range(start, stop, size)]
        found = [outcome for part in self._workers.map("train", calls) for outcome in part]
        self._results["price"] += found
        return {"accuracy": float(np.mean([run["accuracy"] for run in found]))}

    def _curves(self, law: str) -> dict[str, dict[str, list[float | None]]]:
        section, mode = self.settings.population, self.settings.auction.mode
        prices = np.linspace(0, 1, section.prices + 2)[1:-1].tolist()
        size = section.prices_per_call
        parts = list(
            self._workers.map(
                "curves", [(law, mode, prices[first : first + size]) for first in range(0, len(prices), size)]
            )
        )
        return {
            kind: {name: [value for part in parts for value in part[kind][name]] for name in parts[0][kind]}
            for kind in parts[0]
        }

    def _progress(self, stage: str, unit: str, metrics: Metrics) -> Metrics:
        current = self._done < len(self._units) and self._units[self._done][0] == "price"
        part = len(self._results["price"]) / len(self._training_runs()) if current else 0.0
        return {**metrics, "phase": f"{stage} {unit}".strip(), "progress": (self._done + part) / len(self._units)}
