"""The workers of a run: train models for the price of safety, draw curves, learn, and stress the assumptions."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.systems.regulation.bidding_game import BiddingGame, entry_game, premium_game
from rayworks.systems.regulation.config import Config
from rayworks.systems.regulation.design import Design, value_distribution
from rayworks.systems.regulation.equilibrium import Auction
from rayworks.systems.regulation.learning import Learner, learn, noise_response
from rayworks.systems.regulation.simulation import Curves, exact_curves, simulated_curves
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.stress import other_test_data, rings, sybils, uncertain_values
from rayworks.systems.regulation.training_table import TrainingOptions
from rayworks.systems.regulation.value_distributions import PremiumDistribution

STRESSES = ("rings", "sybils", "test data", "values")


class RegulationActor:
    """One worker. The regulator's design comes with each call; results are plain values."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def train(self, runs: Sequence[tuple[float, int]]) -> list[dict[str, Any]]:
        """Errors of one model per share and seed."""
        # Loads torch, which the other stages do without.
        from rayworks.systems.regulation.safety_training import measure

        options = training_options(self._config)
        return [asdict(measure(options, share, seed)) for share, seed in runs]

    def curves(self, call: tuple[Design, str, Sequence[float]]) -> dict[str, dict[str, list[float | None]]]:
        """Both mechanisms at some prices under a distribution, by quadrature and by drawing builders."""
        design, distribution, prices = call
        section, mode = self._config.population, self._config.auction.mode
        auction = replace(design.auction, distribution=value_distribution(distribution))
        exact = exact_curves(auction, prices, mode, design.curve)
        drawn = simulated_curves(auction, prices, mode, section.builders, self._config.run.seed)
        return {"exact": _columns(exact), "simulated": _columns(drawn)}

    def learn(self, call: tuple[Design, Learner]) -> dict[str, Any]:
        """A population of learners, and how near it comes to the bid."""
        design, learner = call
        section = self._config.learning
        # On a grid of bids ties are common, and go to a coin.
        auction = replace(design.auction, tie="coin")
        equilibrium = solve(auction, "capped")
        game = premium_game(auction, section.types, section.bids)
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

    def noise(self, call: tuple[Design, float]) -> dict[str, Any]:
        """Builders who answer noisy readings."""
        design, level = call
        section = self._config.noise

        def game(noise: float) -> BiddingGame:
            return entry_game(design.auction, section.values, section.shares, section.bids, design.curve, noise)

        types = game(level)
        entered = design.equilibrium.participates(types.deployment, types.premium)
        naive = np.where(entered, design.equilibrium.bid(types.premium), 0.0)
        return asdict(noise_response(game, (level,), section.rounds, naive)[0])

    def stress(self, call: tuple[Design, str]) -> dict[str, Any]:
        """One of ``STRESSES``."""
        design, kind = call
        section = self._config.stress
        if kind == "rings":
            points, break_even = rings(design.equilibrium, section.rings)
            return {"points": [asdict(point) for point in points], "break_even": _finite(break_even)}
        if kind == "sybils":
            return asdict(sybils(design.equilibrium))
        plays = {"test data": (section.test_data, other_test_data), "values": (section.values, uncertain_values)}
        levels, play = plays[kind]
        count, seed = self._config.population.builders, self._config.run.seed
        found = play(design.equilibrium, design.curve, design.rules, levels, count, seed)
        return {"points": [asdict(point) for point in found]}

    def policy_gradient(self, design: Design) -> dict[str, Any]:
        """Two builders who learn by multi-agent PPO; see :func:`train_policy`."""
        return train_policy(self._config, design)


def training_options(config: Config) -> TrainingOptions:
    """The part of the settings that training looks at."""
    section = config.price
    names = [name for name in TrainingOptions.__dataclass_fields__ if name in type(section).model_fields]
    return TrainingOptions(**{name: getattr(section, name) for name in names})


def _columns(curves: Curves) -> dict[str, list[float | None]]:
    return {name: [_finite(value) for value in column.tolist()] for name, column in vars(curves).items()}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


AGENT = "builder-{}"
POLICY = "builder"
EVALUATED = 101
"""Types whose bid is read off the trained policy."""


def train_policy(config: Config, design: Design) -> dict[str, Any]:
    """Multi-agent PPO: the builders of a group share one policy from the premium's worth to a bid, and compete with it.
    Groups are full, as with infinitely many builders.

    An auction is one step without a future (discount 0), so an episode is only a batch of auctions. Deterministic in the seed
    up to the order of floating-point sums.

    Raises:
        ConfigError: RLlib is not installed.
    """
    try:
        from ray.rllib.algorithms.ppo import PPOConfig
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
    except ImportError:
        missing = "learning.policy_gradient: RLlib is not installed; install the extra rayworks[rllib]"
        raise ConfigError(missing) from None
    import torch
    from ray import tune

    for name in ("ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    section, auction = config.learning, replace(design.auction, tie="coin", builders=None)
    equilibrium = solve(auction, "capped")
    tune.register_env("all-pay-auction", lambda settings: make_environment(auction, settings["seed"]))
    settings = (
        PPOConfig()
        .environment("all-pay-auction", env_config={"seed": config.run.seed})
        .env_runners(num_env_runners=0)
        .learners(num_learners=0)
        .multi_agent(policies={POLICY}, policy_mapping_fn=lambda agent, *args, **options: POLICY)
        .rl_module(
            model_config=DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
        )
        .training(
            gamma=0.0,
            lambda_=0.0,
            lr=section.policy_learning_rate,
            train_batch_size_per_learner=section.auctions_per_iteration * auction.group_size,
            minibatch_size=256,
            num_epochs=6,
            vf_loss_coeff=1.0,
            use_kl_loss=False,
        )
        .debugging(seed=seeds.derive_small(config.run.seed, "policy gradient") % 2**31, log_level="ERROR")
    )
    algorithm = settings.build_algo()
    worth = np.linspace(0, auction.top, EVALUATED)
    target = equilibrium.bid(worth)
    distance: list[float] = []
    try:
        for _ in range(section.iterations):
            algorithm.train()
            with torch.no_grad():
                observed = torch.from_numpy((worth / auction.top).astype(np.float32))[:, None]
                output = algorithm.get_module(POLICY).forward_inference({"obs": observed})["action_dist_inputs"]
            bid = bid_of(output[:, 0].double().numpy(), auction)
            distance.append(float(np.max(np.abs(bid - target))))
    finally:
        algorithm.stop()
    return {
        "learner": "policy_gradient",
        "premium": worth.tolist(),
        "target": target.tolist(),
        "bid": bid.tolist(),
        "rounds": list(range(1, section.iterations + 1)),
        "distance": distance,
    }


def bid_of(action: np.ndarray, auction: Auction) -> np.ndarray:
    """An action in [-1, 1] as a bid from the price to what the greatest type would lose by winning for sure."""
    highest = auction.price + auction.top
    highest = highest if auction.cap is None else min(highest, auction.cap)
    return auction.price + (np.clip(action, -1, 1) + 1) / 2 * (highest - auction.price)


def make_environment(auction: Auction, seed: int, auctions: int = 64) -> Any:
    """The auction as an RLlib multi-agent environment: observe what the premium is worth, bid, get the utility it brings."""
    import gymnasium
    from ray.rllib.env.multi_agent_env import MultiAgentEnv

    agents = [AGENT.format(number) for number in range(auction.group_size)]
    premium = PremiumDistribution(auction.distribution, auction.price, auction.top)
    grid = np.linspace(0, auction.top, 1 << 14)
    below = premium.cdf(grid)

    class AllPayAuction(MultiAgentEnv):  # RLlib's base is only there where the extra is installed
        """``auctions`` auctions in a row, each with new types."""

        def __init__(self) -> None:
            super().__init__()
            self.possible_agents = self.agents = agents
            worth = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
            bid = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
            self.observation_spaces = dict.fromkeys(agents, worth)
            self.action_spaces = dict.fromkeys(agents, bid)
            self._draw = seeds.stream(seed, "policy gradient", "types")

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
            self._left = auctions
            return self._observe(), {}

        def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
            spent = bid_of(np.array([float(actions[agent][0]) for agent in agents]), auction)
            # A coin decides between equal bids.
            order = np.lexsort([self._draw.random(len(agents)), spent])[::-1]
            won = np.zeros(len(agents))
            won[order[: auction.prizes]] = 1.0
            utility = self._worth * won - (spent - auction.price)
            self._left -= 1
            ended = {"__all__": self._left == 0}
            return self._observe(), dict(zip(agents, utility.tolist(), strict=True)), ended, {"__all__": False}, {}

        def _observe(self) -> dict[str, Any]:
            self._worth = np.interp(self._draw.random(len(agents)), below, grid)
            scaled = (self._worth / auction.top).astype(np.float32)
            return {agent: scaled[number : number + 1] for number, agent in enumerate(agents)}

    return AllPayAuction()
