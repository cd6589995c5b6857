from dataclasses import replace

import numpy as np
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.marl.environments.observation_schema import (
    ObservationSchema,
    SeenEntity,
    spread_schema,
    tag_schema,
)
from rayworks.systems.marl.environments.particle_environment import ParticleEnvironment
from rayworks.systems.marl.environments.particle_scenarios import ParticleOptions
from rayworks.systems.marl.environments.scenes import ActionLayout
from rayworks.systems.marl.rllib.connectors import SceneFromVector


@pytest.mark.parametrize("name", ["simple_spread", "simple_tag"])
def test_mpe2s_vectors_hold_the_scenes_that_agents_see(name: str) -> None:
    world = ParticleEnvironment(name, 5, 0, ParticleOptions())
    scenes = world.reset()
    world.step({team: np.full((5, spec.agents), 2) for team, spec in world.teams.items()})
    scenes, vectors = world.scenes(), world.flat_observations()
    for team, spec in world.teams.items():
        own = scenes[team].own()
        schema = spread_schema() if name == "simple_spread" else tag_schema(team)
        declared = schema.team(team, spec.actions)
        assert replace(declared, name=team) == spec.own()
        for number in range(spec.agents):
            found = schema.scene(vectors[f"{team}_{number}"], spec.actions)
            declared.check(found)
            rows = slice(number, None, spec.agents)
            np.testing.assert_allclose(found.positions, own.positions[rows], atol=1e-6)
            np.testing.assert_array_equal(found.features, own.features[rows])
            np.testing.assert_allclose(found.velocities[:, 0], own.velocities[rows, 0], atol=1e-6)


SELF = SeenEntity("agent", (0, 2), relative=False)


@pytest.mark.parametrize(
    ("entities", "said"),
    [
        ((), "entities: none"),
        ((replace(SELF, position=None),), r"entities\.0\.position: missing"),
        ((SELF, SeenEntity("ball", (5, 7))), r"entities\.1\.position: 5 to 7 is not within"),
        ((SELF, SeenEntity("ball", (2, 5))), r"entities\.1\.position: 3 numbers; give 2"),
        ((SELF, SeenEntity("ball", (1, 3))), r"entities\.1\.position: overlaps schema\.entities\.0\.position"),
        ((replace(SELF, relative=True),), "cannot lie relative to itself"),
        (
            (replace(SELF, features=(2, 3)), SeenEntity("ball", (4, 6), features=(6, 8))),
            "different numbers of features",
        ),
    ],
)
def test_a_schema_that_can_not_be_is_refused(entities: tuple[SeenEntity, ...], said: str) -> None:
    size = 8 if len(entities) == 2 and entities[0].features else 6
    with pytest.raises(ConfigError, match=said):
        ObservationSchema(entities, 1, size)


def test_vectors_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="18, but observations have 17"):
        spread_schema().scene(np.zeros((2, 17)), ActionLayout())


def test_vectors_that_are_no_numbers_are_refused_by_place() -> None:
    vectors = np.zeros((2, 18))
    vectors[1, 7] = np.nan
    with pytest.raises(DataError, match="number 7 is not finite"):
        spread_schema().scene(vectors, ActionLayout())


def test_agents_without_a_schema_are_named() -> None:
    connector = SceneFromVector(schemas={"agent": spread_schema()}, actions=ActionLayout())
    assert set(connector.preprocess({"agent_0": np.zeros(18)}, None)) == {"agent_0"}
    with pytest.raises(DataError, match="agent adversary_0 has none"):
        connector.preprocess({"adversary_0": np.zeros(18)}, None)


def test_features_come_along() -> None:
    schema = ObservationSchema((replace(SELF, features=(2, 4)), SeenEntity("ball", (4, 6))), 1, 6, scale=2.0)
    scene = schema.scene(np.arange(6.0)[None], ActionLayout())
    assert schema.team("x", ActionLayout()).features == ("agent", "ball", "feature_0", "feature_1", "self")
    assert scene.features[0].tolist() == [[1, 0, 2, 3, 1], [0, 1, 0, 0, 0]]
    assert scene.positions[0].tolist() == [[0, 0.5], [2, 3]]
