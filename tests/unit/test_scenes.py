import numpy as np
import pytest
import torch

from rayworks.core.errors import DataError
from rayworks.systems.marl.environments.scenes import MPE_DIRECTIONS, ActionLayout, Scene
from rayworks.systems.marl.networks.graphs import Graph, joined
from rayworks.systems.marl.networks.symmetry_groups import QUARTER_TURNS, orthogonal
from tests.small_scenes import AGENTS, ENTITIES, random_scene, small_team, tensors


def test_arrays_and_back() -> None:
    scene = random_scene(small_team(), 4, 0)
    again = Scene.of(scene.arrays())
    assert all(np.array_equal(again.arrays()[name], array) for name, array in scene.arrays().items())


def test_an_agents_own_scene_has_itself_first_and_only_what_it_sees() -> None:
    scene = random_scene(small_team(), 4, 1)
    own = scene.own()
    assert own.rows == 4 * AGENTS
    for row in range(4):
        for agent in range(AGENTS):
            view = own.map(lambda array, at=row * AGENTS + agent: array[at])
            order = [agent, *(k for k in range(ENTITIES) if k != agent)]
            seen = scene.visible[row, agent] & scene.present[row]
            assert view.present.tolist() == seen[order].tolist()
            assert np.array_equal(view.positions, np.where(seen[order, None], scene.positions[row, order], 0))
            assert view.features[:, -1].tolist() == [1, *[0] * (ENTITIES - 1)]
            assert [order[k] for k in view.targets[0]] == scene.targets[row, agent].tolist()


@pytest.mark.parametrize("complete", [True, False])
def test_the_networks_own_graphs_are_those_scenes(complete: bool) -> None:
    scene = random_scene(small_team(complete=complete), 5, 2)
    graph, expected = Graph.of(tensors(scene)).own(), Graph.of(tensors(scene.own()))
    for name, value in vars(expected).items():
        assert torch.equal(getattr(graph, name), value), name


def test_edges_are_what_agents_see_both_ways() -> None:
    team = small_team(complete=False)
    scene = random_scene(team, 8, 3)
    edges = Graph.of(tensors(scene)).edges(joined(team), ENTITIES).bool().numpy()
    for row in range(8):
        for to in range(ENTITIES):
            for sender in range(ENTITIES):
                there = scene.present[row, to] and scene.present[row, sender] and to != sender
                if to < AGENTS:
                    expected = there and scene.visible[row, to, sender]
                else:
                    expected = there and sender < AGENTS and scene.visible[row, sender, to]
                assert edges[row, to, sender] == expected


def test_reordering_moves_targets_along() -> None:
    scene = random_scene(small_team(), 3, 4)
    order = np.array([2, 0, 1, 5, 3, 4])
    moved = scene.reordered(order)
    for row in range(3):
        for slot in range(2):
            where = moved.targets[row, 0, slot]
            assert np.array_equal(moved.positions[row, where], scene.positions[row, scene.targets[row, 2, slot]])
    with pytest.raises(DataError, match="agents must stay"):
        scene.reordered(np.array([3, 1, 2, 0, 4, 5]))


def test_quarter_turns_permute_moves() -> None:
    layout = ActionLayout(still=1, targets=2)
    for matrix in QUARTER_TURNS:
        indices = layout.turned(matrix)
        assert indices[0] == 0
        assert indices[-2:].tolist() == [5, 6]
        for number, direction in enumerate(MPE_DIRECTIONS):
            assert np.allclose(matrix @ direction, MPE_DIRECTIONS[indices[1 + number] - 1])
    with pytest.raises(DataError, match="quarter turns"):
        layout.turned(orthogonal(0.3))


def test_a_scene_of_another_shape_or_with_nan_is_refused() -> None:
    team = small_team()
    scene = random_scene(team, 2, 5)
    team.check(scene)
    with pytest.raises(DataError, match="positions: shape"):
        team.check(Scene.of({**scene.arrays(), "positions": scene.positions[:, :-1]}))
    broken = scene.features.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="features: not finite"):
        team.check(Scene.of({**scene.arrays(), "features": broken}))
