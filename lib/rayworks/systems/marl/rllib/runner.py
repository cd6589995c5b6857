"""An RLlib env runner that plays groups of environments.

What it samples is a function of the weights and of each group's state, both of which are handed in: whichever runner plays a
group, the steps are the same, and a runner that dies takes nothing along.
"""

from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable

from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.environments.rollouts import Rollout
from rayworks.systems.marl.networks.acting import Game
from rayworks.systems.marl.rllib.module import TeamModule, quiet_rllib

State = dict[str, Any]


class TeamRunner(EnvRunner, Checkpointable):
    """Plays the groups it is asked to.

    ``env_config``: ``environment``, ``sampling``, ``policies`` (team to module), ``seeds`` (of each group).
    """

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        limit_torch_threads()
        quiet_rllib()
        self._options: Mapping[str, Any] = config.env_config
        self._device = torch.device("cpu")
        self._games: dict[int, tuple[Game, State]] = {}
        self.module: MultiRLModule
        self.make_module()

    def make_module(self) -> None:
        """The modules of all policies."""
        self.module = self.config.rl_module_spec.build()

    def sample(
        self, *, weights: Any = None, groups: Mapping[int, State | None] | None = None, **kwargs: Any
    ) -> dict[int, tuple[Rollout, State]]:
        """One fragment of each group, and its state after it.

        Weights, or a reference to them, go to the modules; None keeps those at hand. A state is as an earlier sample left it;
        None begins.
        """
        if weights is not None:
            self.module.set_state(ray.get(weights) if isinstance(weights, ray.ObjectRef) else weights)
        modules: dict[str, TeamModule] = {team: self.module[name] for team, name in self._options["policies"].items()}
        policies = {team: module.network for team, module in modules.items()}
        sampling, result = self._options["sampling"], {}
        for group, state in (groups or {}).items():
            game = self._game(group, state)
            rollout = game.play(policies, sampling.steps, device=self._device)
            left = game.state()
            self._games[group] = game, left
            result[group] = rollout, left
        return result

    def stop(self) -> None:
        """End all games."""
        for game, _ in self._games.values():
            game.environment.close()
        self._games.clear()

    def _game(self, group: int, state: State | None) -> Game:
        """A game at a state, no longer held; a new one begins as the group's seed says, however often it is asked for."""
        game, left = self._games.pop(group, (None, None))
        if game is not None and state is None:
            game.environment.close()
        if game is None or state is None:
            seed = self._options["seeds"][group]
            environment = make_environment(self._options["environment"], self._options["sampling"].num_envs, seed)
            game = Game(environment, seed)
        # Not every game can be put back, so one that stands there already is left alone.
        if state is not None and not _same_moment(left, state):
            game.restore(state)
        return game

    def get_spaces(self) -> dict[str, Any]:
        """Spaces of the modules, as their specs give them."""
        return {
            name: (module.observation_space, module.action_space) for name, module in self.module._rl_modules.items()
        }

    def get_metrics(self) -> dict[str, Any]:
        """Nothing: the algorithm counts what it receives."""
        reduced: dict[str, Any] = self.metrics.reduce()
        return reduced

    def get_state(self, *arguments: Any, **options: Any) -> State:
        """Weights only: games are handed over by :meth:`sample`."""
        return {"rl_module": self.module.get_state()}

    def set_state(self, state: State) -> None:
        """Restore such a state."""
        if "rl_module" in state:
            self.module.set_state(state["rl_module"])

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Arguments to make it again."""
        return (), {"config": self.config}

    def assert_healthy(self) -> None:
        """Fail if it was not made."""
        assert self.module, "no module"


def _same_moment(left: State | None, state: State) -> bool:
    """Whether a game was left there: what was drawn since tells moments apart even where the game's state does not."""
    return left is not None and all(left[part] == state[part] for part in ("environment", "generator"))
