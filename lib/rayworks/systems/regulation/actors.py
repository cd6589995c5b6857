"""What the workers of a run do: train models for the price of safety, draw curves, learn, and press the assumptions."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.systems.regulation.bidding_game import BiddingGame, entry_game, premium_game
from rayworks.systems.regulation.config import Config
from rayworks.systems.regulation.design import Design, value_law
from rayworks.systems.regulation.equilibrium import Mode, solve
from rayworks.systems.regulation.learning import Learner, learn, noise_response
from rayworks.systems.regulation.safety_training import TrainingOptions, measure
from rayworks.systems.regulation.simulation import Curves, exact_curves, simulated_curves
from rayworks.systems.regulation.stress import other_test_data, rings, sybils, uncertain_values

STRESSES = ("rings", "sybils", "test data", "values")


class RegulationActor:
    """One worker. Results are plain values.

    Args:
        config: of the run.
        design: the regulator's; ``None`` while the price of safety is still being measured.
    """

    def __init__(self, config: Config, design: Design | None) -> None:
        self._config, self._design = config, design

    @property
    def design(self) -> Design:
        """The design that is measured."""
        assert self._design is not None
        return self._design

    def train(self, runs: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
        """Errors of one model per share and seed."""
        options = training_options(self._config)
        return [asdict(measure(options, share, seed)) for share, seed in runs]

    def curves(self, part: tuple[str, Mode, Sequence[float]]) -> dict[str, dict[str, list[float | None]]]:
        """Both mechanisms at some prices under a law, by quadrature and by drawing builders."""
        law, mode, prices = part
        section = self._config.population
        auction = replace(self.design.auction, law=value_law(law))
        exact = exact_curves(auction, prices, mode)
        drawn = simulated_curves(auction, prices, mode, section.builders, self._config.run.seed)
        return {"exact": _columns(exact), "simulated": _columns(drawn)}

    def learn(self, learner: Learner) -> dict[str, Any]:
        """A population of learners, and how near it comes to the bid."""
        section = self._config.learning
        equilibrium = solve(self.design.auction, "capped")
        game = premium_game(self.design.auction, section.types, section.bids)
        target = equilibrium.bid(game.premium)
        found = learn(game, learner, section.rounds, target)
        return {
            "learner": learner,
            "premium": game.premium.tolist(),
            "target": target.tolist(),
            "bid": found.bid.tolist(),
            "rounds": list(found.rounds),
            "distance": list(found.distance),
            "max_gain": found.max_gain,
            "mean_gain": found.mean_gain,
        }

    def noise(self, level: float) -> dict[str, Any]:
        """Builders who answer noisy readings."""
        section, design = self._config.noise, self.design

        def game(noise: float) -> BiddingGame:
            return entry_game(design.auction, section.values, section.shares, section.bids, design.curve, noise)

        types = game(level)
        entered = design.equilibrium.participates(types.deployment, types.premium)
        naive = np.where(entered, design.equilibrium.bid(types.premium), 0.0)
        return asdict(noise_response(game, (level,), section.rounds, naive)[0])

    def stress(self, kind: str) -> dict[str, Any]:
        """One of ``STRESSES``."""
        section, design = self._config.stress, self.design
        if kind == "rings":
            points, break_even = rings(design.equilibrium, section.rings)
            return {"points": [asdict(point) for point in points], "break_even": _finite(break_even)}
        if kind == "sybils":
            return asdict(sybils(design.equilibrium))
        levels, play = (
            (section.test_data, other_test_data) if kind == "test data" else (section.values, uncertain_values)
        )
        count, seed = self._config.population.builders, self._config.run.seed
        found = play(design.equilibrium, design.curve, design.rules, levels, count, seed)
        return {"points": [asdict(point) for point in found]}

    def policy_gradient(self, _: None = None) -> dict[str, Any]:
        """Two builders who learn by multi-agent PPO; see :func:`train_policy`."""
        return train_policy(self._config, self.design)


def training_options(config: Config) -> TrainingOptions:
    """The part of the settings that training looks at."""
    section = config.price
    names = [name for name in TrainingOptions.__dataclass_fields__ if name in type(section).model_fields]
    return TrainingOptions(**{name: getattr(section, name) for name in names})


def _columns(curves: Curves) -> dict[str, list[float | None]]:
    return {name: [_finite(value) for value in column.tolist()] for name, column in vars(curves).items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
