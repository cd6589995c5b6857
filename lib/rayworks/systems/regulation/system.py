"""The run: measure the price of safety, solve and certify the design, draw its curves, let builders learn, stress it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from rayworks.core.report import Report
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.regulation import SPEC
from rayworks.systems.regulation.actors import STRESSES, RegulationActor, training_options
from rayworks.systems.regulation.config import STAGES, Config
from rayworks.systems.regulation.design import Design, make_design, measure_design, value_distribution
from rayworks.systems.regulation.exported import BIDS, CURVES, ExportedDesign, bids_csv, curves_csv, write_export
from rayworks.systems.regulation.price_curve import PriceCurve, published_curve
from rayworks.systems.regulation.price_points import points_from_gaps
from rayworks.systems.regulation.reporting import build_report, design_card, design_report
from rayworks.systems.regulation.training_table import read_table

WAVES = 2
"""Calls per worker in one step of the training runs: work lost with a dead driver is at most this."""


class RegulationSystem(StagedSystem[Config]):
    """Solves, certifies, plays and stresses one design."""

    spec = SPEC
    _solved: Design | None = None

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """A design alone is worked out by the run itself; otherwise all stages share the workers, one after the other."""
        if config.design_alone and "price" not in config.scope.stages:
            return [{"CPU": config.compute.cpus_per_worker}]
        return super().bundles(config)

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The table to train on, the distributions, and the design where its curve is known beforehand."""
        if "price" in config.scope.stages:
            read_table(training_options(config))
        for distribution in config.distributions:
            value_distribution(distribution)
        if config.price.curve != "measured":
            make_design(config.auction, cls._known_curve(config))

    def plan(self) -> Sequence[Stage]:
        """Stages in the order of ``STAGES``."""
        settings, runs = self.settings, len(self._training_runs())
        self.results |= {"price": [], "curves": {}}
        stages = {
            "price": [Stage("price", self._train, lambda: len(self.results["price"]) / runs)],
            "design": [Stage("design", self._measure)],
            "curves": [
                Stage(f"curves {distribution}", partial(self._curves, distribution))
                for distribution in settings.distributions
            ],
            "learning": [self._asked("learning", "learn", settings.learning.learners)],
            "noise": [self._asked("noise", "noise", settings.noise.levels)],
            "stress": [self._asked("stress", "stress", STRESSES)],
        }
        if settings.learning.policy_gradient:
            stages["learning"].append(self.finding("policy gradient", self._policy_gradient))
        return [stage for name in STAGES if name in settings.scope.stages for stage in stages[name]]

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        return RegulationActor, self.settings

    def export(self) -> None:
        """The design that Serve quotes from, its bids and curves as tables, and a card."""
        write_export(ExportedDesign(self._design, self.settings.auction), self.export_file)
        self.export_file(BIDS, bids_csv(self._design))
        if self.results["curves"]:
            self.export_file(CURVES, curves_csv(self.results["curves"]))
        self.export_file("README.md", design_card(self.settings, self._design, self.results["design"]))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        if self.settings.design_alone and "price" not in self.settings.scope.stages:
            return design_report(self.settings, self.results["design"], SPEC.title)
        return build_report(self.settings, self._design, self.results, SPEC.title)

    @property
    def _design(self) -> Design:
        if self._solved is None:
            measured = self.settings.price.curve == "measured"
            curve = self._measured_curve() if measured else self._known_curve(self.settings)
            self._solved = make_design(self.settings.auction, curve)
        return self._solved

    @classmethod
    def _known_curve(cls, config: Config) -> PriceCurve:
        if config.price.curve == "identity":
            return PriceCurve.identity()
        return published_curve(config.price.fit, resamples=config.price.resamples, seed=config.run.seed)

    def _measured_curve(self) -> PriceCurve:
        share, gap = (np.array([run[name] for run in self.results["price"]]) for name in ("share", "gap"))
        section = self.settings.price
        points = points_from_gaps(share, gap, resamples=section.resamples, seed=self.settings.run.seed)
        return PriceCurve.fit(points, section.fit)

    def _training_runs(self) -> list[tuple[float, int]]:
        section, first = self.settings.price, self.settings.run.seed
        return [(share, first + number) for number in range(section.seeds) for share in section.shares]

    def _train(self) -> Metrics:
        """Some models per worker; the runs and their order do not depend on the number of workers."""
        runs, size = self._training_runs(), self.settings.price.models_per_call
        start = len(self.results["price"])
        stop = min(len(runs), start + WAVES * self.settings.compute.workers * size)
        calls = [runs[first : min(first + size, stop)] for first in range(start, stop, size)]
        found = [outcome for part in self.workers.map("train", calls) for outcome in part]
        self.results["price"] += found
        return {"accuracy": float(np.mean([run["accuracy"] for run in found]))}

    def _measure(self) -> Metrics:
        settings = self.settings
        found = measure_design(self._design, settings.certificate, settings.population.builders, settings.run.seed)
        self.results["design"] = found
        return {"participation": found["participation"], "mean_bid": found["mean_bid"]}

    def _policy_gradient(self) -> dict[str, Any]:
        return next(self.workers.map("policy_gradient", [self._design]))

    def _asked(self, name: str, method: str, items: Sequence[Any]) -> Stage:
        """A stage that asks the workers for something of the design, item by item."""
        return self.finding(name, lambda: list(self.workers.map(method, [(self._design, item) for item in items])))

    def _curves(self, distribution: str) -> Metrics:
        section = self.settings.population
        prices = np.linspace(0, 1, section.prices + 2)[1:-1].tolist()
        size = section.prices_per_call
        calls = [(self._design, distribution, prices[first : first + size]) for first in range(0, len(prices), size)]
        parts = list(self.workers.map("curves", calls))
        self.results["curves"][distribution] = {
            kind: {name: [value for part in parts for value in part[kind][name]] for name in parts[0][kind]}
            for kind in parts[0]
        }
        return {}
