"""Ray actors of a run: RLlib trainings, some iterations at a time, and evaluations of the trained policies."""

import pickle
import time
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from rayworks.core.errors import DataError
from rayworks.core.seeds import derive_small
from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.marl.config import Config, EnvironmentSection, NetworkKind
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.findings.certificates import certificates
from rayworks.systems.marl.findings.evaluation import Evaluation, Weights, evaluate
from rayworks.systems.marl.findings.symmetry import Certificate
from rayworks.systems.marl.rllib.algorithm import TeamPPO, algorithm_config
from rayworks.systems.marl.rllib.module import quiet_rllib


@dataclass(frozen=True)
class Unit:
    """One training: a kind of network and the number of its seed."""

    kind: NetworkKind
    number: int

    @property
    def name(self) -> str:
        """Name in files."""
        return f"{self.kind}-{self.number}"


@dataclass(frozen=True)
class Call:
    """One piece of a training, which depends on these fields only."""

    unit: Unit
    state: bytes | None
    """State that the previous piece left; None to begin."""
    done: int
    """Iterations so far."""
    iterations: int
    """Iterations to do now."""


@dataclass(frozen=True)
class Piece:
    """Result of a call."""

    state: bytes
    curve: list[dict[str, float]]
    """Values of each iteration: ``steps`` so far, ``seconds`` of sampling and learning, means of the episodes that ended."""
    weights: Weights


class MarlActor:
    """Trains, evaluates and certifies; keeps the algorithm it used last."""

    def __init__(self, config: Config) -> None:
        limit_torch_threads()
        quiet_rllib()
        self._config = config
        self._held: tuple[Unit, int, TeamPPO] | None = None

    def train(self, call: Call) -> Piece:
        """Some iterations; the same whichever actor does them."""
        algorithm = self._algorithm(call)
        try:
            piece = self._advance(algorithm, call)
        except BaseException:
            # It stands somewhere between two pieces, from where nobody may go on.
            algorithm.stop()
            raise
        self._held = (call.unit, call.done + call.iterations, algorithm)
        return piece

    def _advance(self, algorithm: TeamPPO, call: Call) -> Piece:
        per_iteration, curve = self._config.sampling.per_iteration, []
        for number in range(call.done, call.done + call.iterations):
            before = time.perf_counter()
            timers = algorithm.train()["timers"]
            episodes = algorithm.episodes
            means = {name: float(np.mean(values)) for name, values in episodes.items() if values and name != "copy"}
            steps, seconds = float((number + 1) * per_iteration), time.perf_counter() - before
            sampling = float(timers["env_runner_sampling_timer"])
            curve.append({"steps": steps, "seconds": seconds, "sampling": sampling, **means})
        state = {"learner": algorithm.learner_group.get_state(), "groups": algorithm.groups}
        return Piece(pickle.dumps(state), curve, _weights(algorithm))

    def evaluate(self, task: tuple[NetworkKind | None, EnvironmentSection, Weights, int]) -> Evaluation:
        """Play a network of the run: kind (None acts at random), environment, weights, number of the training's seed."""
        kind, environment, weights, number = task
        seed = derive_small(self._config.run.seed, "evaluate", number)
        num_envs = self._config.experiment.evaluation_episodes
        return evaluate(kind, environment, self._config.network, weights, num_envs, seed)

    def certify(self, task: tuple[NetworkKind, Weights]) -> dict[str, Certificate]:
        """Certificates of a network through its RLlib module, by team; with no weights those of an untrained one."""
        kind, weights = task
        return certificates(self._config, kind, weights)

    def _algorithm(self, call: Call) -> TeamPPO:
        """The one at hand if it stands where the call begins, else a new one set to the call's state; no longer held."""
        held, self._held = self._held, None
        if held is not None and held[:2] == (call.unit, call.done):
            return held[2]
        if held is not None:
            held[2].stop()
        config, unit = self._config, call.unit
        seed = derive_small(config.run.seed, "training", unit.number)
        algorithm: TeamPPO = algorithm_config(config, unit.kind, seed).build_algo()
        try:
            if call.state is not None:
                state = pickle.loads(call.state)
                algorithm.learner_group.set_state(state["learner"])
                algorithm.groups = state["groups"]
        except BaseException:
            algorithm.stop()
            raise
        return algorithm

    def close(self) -> None:
        """Stop the algorithm and its runners."""
        if self._held is not None:
            self._held[2].stop()
            self._held = None


def _weights(algorithm: TeamPPO) -> Weights:
    modules = algorithm.learner_group.get_weights()
    prefix = "network."
    return {
        team: {name.removeprefix(prefix): array for name, array in modules[module].items() if name.startswith(prefix)}
        for team, module in algorithm.config.env_config["policies"].items()
    }


def check_environment(environment: EnvironmentSection) -> None:
    """Make the environment once, to see that it can be made.

    Raises:
        ConfigError: what making it raises.
        DataError: its first scene is not what its team says.
    """
    with closing(make_environment(environment, 1, 0)) as world:
        for team, scene in world.reset().items():
            if team not in world.teams:
                raise DataError(f"environment {environment.name}: team {team} is not declared")
            world.teams[team].check(scene)
