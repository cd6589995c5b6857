"""An RLlib connector from flat observations to scenes, so that stock environments train these modules."""

from typing import Any

import gymnasium
import numpy as np
from ray.rllib.connectors.env_to_module.observation_preprocessor import MultiAgentObservationPreprocessor

from rayworks.core.errors import DataError
from rayworks.systems.marl.environments.observation_schema import ObservationSchema
from rayworks.systems.marl.environments.scenes import ActionLayout
from rayworks.systems.marl.environments.spaces import observation_space


class SceneFromVector(MultiAgentObservationPreprocessor):
    """Replaces each agent's vector by its own scene, in the episode, so that the learner gets scenes too.

    Schemas are by the first part of agents' names, before the last underscore.

    Raises:
        DataError: an agent of the environment has no schema.
    """

    def __init__(
        self,
        input_observation_space: Any = None,
        input_action_space: Any = None,
        *,
        schemas: dict[str, ObservationSchema],
        actions: ActionLayout,
        **kwargs: Any,
    ) -> None:
        self._schemas, self._actions = schemas, actions
        super().__init__(input_observation_space, input_action_space, **kwargs)

    def recompute_output_observation_space(self, input_observation_space: Any, input_action_space: Any) -> Any:
        """Spaces of scenes, by agent."""
        teams = {agent: self._schema(agent).team("own", self._actions) for agent in input_observation_space}
        return gymnasium.spaces.Dict({agent: observation_space(team) for agent, team in teams.items()})

    def preprocess(self, observations: dict[str, Any], episode: Any) -> dict[str, Any]:
        """Vectors by agent to arrays of own scenes by agent."""
        found = {}
        for agent, vector in observations.items():
            scene = self._schema(agent).scene(np.asarray(vector)[None], self._actions)
            found[agent] = {name: array[0] for name, array in scene.arrays().items()}
        return found

    def _schema(self, agent: str) -> ObservationSchema:
        kind = agent.rpartition("_")[0]
        if kind not in self._schemas:
            raise DataError(
                f"schemas: agent {agent} has none; give one for {kind!r} beside {', '.join(map(repr, self._schemas))}"
            )
        return self._schemas[kind]
