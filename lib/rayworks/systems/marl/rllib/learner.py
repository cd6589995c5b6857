"""PPO on rollouts of teams, inside RLlib's learner.

RLlib makes a train batch of episodes, one agent after the other, through connectors. Here episodes are arrays of whole teams
already: one pass of the critic gives all values, one loop over time all advantages, and a row of a minibatch is a scene with
all its agents. Loss, optimiser, gradient clipping, metrics and checkpoints stay RLlib's.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BytesIO
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from rayworks.systems.marl.environments.rollouts import Rollout, advantages, next_values
from rayworks.systems.marl.networks.acting import as_tensors
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from rayworks.systems.marl.rllib.augmentation import turned_at_random
from rayworks.systems.marl.rllib.module import TeamModule

VALUE_ROWS = 4096
"""Scenes valued at once."""
SMOOTHING = 0.9
"""Decay of the running spread of returns."""
PER_AGENT = (
    Columns.ACTIONS,
    Columns.ACTION_DIST_INPUTS,
    Columns.ACTION_LOGP,
    Columns.LOSS_MASK,
    Postprocessing.ADVANTAGES,
    Postprocessing.VALUE_TARGETS,
)


class TeamLearner(PPOTorchLearner):
    """See the module. ``config.learner_config_dict``: ``training``, our settings, and ``policies``, team to module."""

    def build(self) -> None:
        """Build RLlib's learner, with a generator of our own for the order of rows."""
        super().build()
        self._order = torch.Generator().manual_seed(self.config.seed or 0)

    def get_state(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """RLlib's state, and the generator's."""
        state: dict[str, Any] = super().get_state(*arguments, **options)
        return {**state, "order": self._order.get_state().numpy()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore such a state."""
        super().set_state({name: value for name, value in state.items() if name != "order"})
        if "order" in state:
            self._order.set_state(torch.from_numpy(np.array(state["order"])))

    def _get_optimizer_state(self) -> dict[str, Any]:
        """Optimiser states as torch writes them: RLlib rounds Adam's settings and loses its moments on the way back."""
        states = {name: optimizer.state_dict() for name, optimizer in self._named_optimizers.items()}
        file = BytesIO()
        torch.save(states, file)
        return {"torch": file.getvalue()}

    def _set_optimizer_state(self, state: Mapping[str, Any]) -> None:
        states = torch.load(BytesIO(state["torch"]), map_location=self._device, weights_only=True)
        for name, kept in states.items():
            self._named_optimizers[name].load_state_dict(kept)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: Mapping[str, Any], fwd_out: Mapping[str, Any]
    ) -> Tensor:
        """PPO's, over agents: the columns of a scene's agents laid end to end, as the module's outputs are."""
        flat = {name: batch[name].flatten(0, 1) for name in PER_AGENT}
        loss: Tensor = super().compute_loss_for_module(
            module_id=module_id, config=config, batch={**batch, **flat}, fwd_out=fwd_out
        )
        return loss

    def _create_iterator_if_necessary(
        self, *, training_data: TrainingData, num_epochs: int = 1, **kwargs: Any
    ) -> Iterator[MultiAgentBatch]:
        rollouts: list[Rollout] = training_data.episodes
        parts: dict[str, list[dict[str, Any]]] = {}
        for team, module in self.config.learner_config_dict["policies"].items():
            found = [self._columns(self.module[module].unwrapped(), team, rollout) for rollout in rollouts]
            parts.setdefault(module, []).extend(found)
        columns = {
            module: self._ready(self.module[module].unwrapped(), _mapped(lambda *some: torch.cat(some), *found))
            for module, found in parts.items()
        }
        size = self.config.learner_config_dict["training"].minibatch_size
        return self._minibatches(columns, num_epochs, size, sum(len(rollout) for rollout in rollouts))

    def _minibatches(
        self, columns: Mapping[str, dict[str, Any]], epochs: int, size: int, steps: int
    ) -> Iterator[MultiAgentBatch]:
        """Each scene once per epoch, in random order; modules with fewer scenes have smaller minibatches, of one at least."""
        shapes = {module: found[Columns.ACTIONS].shape[:2] for module, found in columns.items()}
        count = max(1, max(round(rows * agents / size) for rows, agents in shapes.values()))
        count = min(count, *(rows for rows, _ in shapes.values()))
        for _ in range(epochs):
            orders = {
                module: torch.randperm(rows, generator=self._order).to(self._device).tensor_split(count)
                for module, (rows, _) in shapes.items()
            }
            for number in range(count):
                chosen = {module: itemgetter(orders[module][number]) for module in columns}
                rows = {module: SampleBatch(_mapped(chosen[module], found)) for module, found in columns.items()}
                yield MultiAgentBatch(rows, steps)

    def _columns(self, module: TeamModule, team: str, rollout: Rollout) -> dict[str, Any]:
        """One row per scene: what was seen and done, and what became of it, in units of reward."""
        own = rollout.teams[team]
        steps, num_envs, agents = own.rewards.shape
        scenes = {name: values[: steps * num_envs] for name, values in own.scenes.arrays().items()}
        columns = {
            Columns.OBS: scenes,
            Columns.ACTIONS: _by_scene(own.actions),
            Columns.ACTION_DIST_INPUTS: _by_scene(own.dist_inputs),
            Columns.ACTION_LOGP: _by_scene(own.log_probs),
            Columns.LOSS_MASK: _by_scene(own.acting),
        }
        with torch.no_grad():
            values = self._expected_returns(module, as_tensors(own.scenes)).view(steps + 1, num_envs, agents)
            cut = self._expected_returns(module, as_tensors(own.cut)).view(-1, agents)
            following, goes_on = next_values(values, cut, own, rollout)
            rewards = torch.tensor(own.rewards, device=values.device)
            gains = advantages(
                rewards, values[:-1], following, goes_on, gamma=self.config.gamma, gae_lambda=self.config.lambda_
            )
        returns = {
            Postprocessing.ADVANTAGES: gains.flatten(0, 1),
            Postprocessing.VALUE_TARGETS: (gains + values[:-1]).flatten(0, 1),
        }
        return {**_mapped(partial(torch.tensor, device=self._device), columns), **returns}

    def _ready(self, module: TeamModule, rows: dict[str, Any]) -> dict[str, Any]:
        """Standardised advantages and values in the module's units; turned at random if asked."""
        training, acting = self.config.learner_config_dict["training"], rows[Columns.LOSS_MASK]
        gains, targets = rows[Postprocessing.ADVANTAGES], rows[Postprocessing.VALUE_TARGETS]
        if training.normalise_values:
            _follow_returns(module.network, targets[acting])
        rows[Postprocessing.ADVANTAGES] = (gains - gains[acting].mean()) / _spread(gains[acting]).clamp(min=1e-4)
        rows[Postprocessing.VALUE_TARGETS] = (targets - module.network.value_shift) / module.network.value_scale
        return turned_at_random(rows, module.network, self._order) if training.augment else rows

    def _expected_returns(self, module: TeamModule, scenes: Mapping[str, Tensor]) -> Tensor:
        rows = len(scenes["positions"])
        parts = []
        for first in range(0, rows, VALUE_ROWS):
            some = {name: array[first : first + VALUE_ROWS].to(self._device) for name, array in scenes.items()}
            parts.append(module.network.expected_returns(some))
        return torch.cat(parts) if parts else torch.zeros(0, device=self._device)


def _follow_returns(network: PolicyNetwork, returns: Tensor) -> None:
    """Move the units of values towards the mean and spread of the returns at hand."""
    first = network.value_scale == 1
    keep = torch.where(first, 0.0, SMOOTHING)
    network.value_shift.copy_(keep * network.value_shift + (1 - keep) * returns.mean())
    network.value_scale.copy_(keep * network.value_scale + (1 - keep) * _spread(returns).clamp(min=1e-3))


def _spread(values: Tensor) -> Tensor:
    """Standard deviation; 0 of a single value, of which torch makes NaN."""
    return values.std() if len(values) > 1 else values.new_zeros(())


def _by_scene(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, *values.shape[2:])


def _mapped(change: Callable[..., Any], *parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a change makes of the arrays of each name in all parts; those of a scene lie one level deeper."""
    return {
        name: _mapped(change, *some) if isinstance(some[0], Mapping) else change(*some)
        for name, some in ((name, [part[name] for part in parts]) for name in parts[0])
    }
