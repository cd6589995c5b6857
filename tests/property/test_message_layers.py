"""The layers of the graph networks against what their papers prove, and against each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import Scene, TeamSpec
from rayworks.systems.marl.findings.symmetry import TOLERANCE, certify
from rayworks.systems.marl.networks.equivariant_layers import GraphLayer, Nodes
from rayworks.systems.marl.networks.graph_networks import GraphNetwork
from rayworks.systems.marl.networks.graphs import Graph
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from tests.small_scenes import random_scene, small_team, tensors

SHIFT = torch.tensor([0.7, -1.3], dtype=torch.float64)
GRAPH_KINDS: tuple[NetworkKind, ...] = ("gnn", "egnn", "e2gn2", "e2gn2-last", "penguin")


def doubled(scene: Scene) -> Graph:
    graph = Graph.of(tensors(scene))
    return Graph(*[value.double() if value.dtype == torch.float32 else value for value in vars(graph).values()])


def after_all_layers(kind: NetworkKind, layers: int, shift: float, messages: str = "dense", seed: int = 0) -> Nodes:
    """Nodes in double precision; everything is moved by ``shift`` times SHIFT."""
    team = small_team()
    graph = doubled(random_scene(team, 6, seed))
    moved = replace(graph, positions=graph.positions + shift * SHIFT)
    options = NetworkSection.model_validate({"layers": layers, "velocity": "none", "messages": messages})
    torch.manual_seed(seed)
    network = GraphNetwork(kind, team, options, team.agents, "policy").double()
    with torch.no_grad():
        found: Nodes = network(moved, team.entities)
    return found


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_translations_move_egnn_and_leave_the_features_of_e2gn2_last(layers: int) -> None:
    here, there = (after_all_layers("egnn", layers, shift) for shift in (0.0, 1.0))
    assert (there.vectors - here.vectors - SHIFT).abs().max() < 1e-12
    assert (there.invariant - here.invariant).abs().max() < 1e-12
    here, there = (after_all_layers("e2gn2-last", layers, shift) for shift in (0.0, 1.0))
    assert (there.invariant - here.invariant).abs().max() < 1e-12
    assert (there.vectors - here.vectors - SHIFT).abs().max() > 1e-2
    here, there = (after_all_layers("e2gn2", layers, shift) for shift in (0.0, 1.0))
    changed = float((there.invariant - here.invariant).abs().max())
    assert changed < 1e-12 if layers == 1 else changed > 1e-6, "true of one layer only, whatever the rebuttal says"


@pytest.mark.parametrize(("bias", "symmetric"), [(40.0, True), (-200.0, False)])
def test_penguin_is_equivariant_where_its_score_is_one_and_not_where_it_is_zero(bias: float, symmetric: bool) -> None:
    team, options = small_team(vectors=True), NetworkSection()
    torch.manual_seed(0)
    policy = PolicyNetwork("penguin", team, options)
    for module in policy.modules():
        if isinstance(module, GraphLayer):
            last = module.symmetry_score[-1]
            assert isinstance(last, torch.nn.Linear)
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.constant_(last.bias, bias)
    errors = certify(
        lambda scene: (policy.action_dist_inputs(scene), policy.values(scene)),
        "penguin",
        team,
        options,
        random_scene(team, 16, 0),
        0,
    ).errors
    for group in ("rotations", "reflections"):
        assert errors[group] < TOLERANCE if symmetric else errors[group] > 1e-2


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(GRAPH_KINDS), st.integers(1, 3), st.integers(0, 10**6))
def test_sparse_and_dense_rounds_differ_by_rounding_only(kind: NetworkKind, layers: int, seed: int) -> None:
    dense, sparse = (after_all_layers(kind, layers, 0.0, messages, seed) for messages in ("dense", "sparse"))
    for one, other in zip(dense, sparse, strict=True):
        assert one is not None and other is not None
        assert (one - other).abs().max() < 1e-11


def with_garbage(scene: Scene, extra: int, seed: int) -> Scene:
    """Absent entities behind the others, full of numbers."""
    random, rows = np.random.default_rng(seed), scene.rows

    def behind(array: np.ndarray) -> np.ndarray:
        noise = random.normal(size=(rows, extra, *array.shape[2:])) * 50
        return np.concatenate([array, noise.astype(array.dtype)], 1)

    nobody = np.zeros((rows, extra), bool)
    return replace(
        scene,
        positions=behind(scene.positions),
        velocities=behind(scene.velocities),
        features=behind(scene.features),
        present=np.concatenate([scene.present, nobody], 1),
        visible=np.concatenate([scene.visible, np.ones((rows, scene.agents, extra), bool)], 2),
    )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(GRAPH_KINDS), st.sampled_from(["team", "agent"]), st.booleans(), st.integers(0, 10**6))
def test_masked_nodes_change_nothing(kind: NetworkKind, graph: str, sparse: bool, seed: int) -> None:
    options = NetworkSection.model_validate({"graph": graph, "messages": "sparse" if sparse else "dense"})
    small, large = small_team(), small_team(others=5)
    scene = random_scene(small, 6, seed)
    torch.manual_seed(seed)
    policy = PolicyNetwork(kind, small, options)
    wider = PolicyNetwork(kind, large, options)
    wider.load(policy.state_dict())
    padded = with_garbage(scene, 2, seed)
    here = torch.from_numpy(scene.present[:, : small.agents].reshape(-1))
    before, after = tensors(scene), tensors(padded)
    assert (wider.action_dist_inputs(after) - policy.action_dist_inputs(before))[here].abs().max() < 1e-5
    assert (wider.values(after) - policy.values(before))[here].abs().max() < 1e-5


@pytest.mark.parametrize("kind", GRAPH_KINDS)
def test_the_mean_of_what_agents_see_says_nothing_of_what_they_do_not(kind: NetworkKind) -> None:
    team: TeamSpec = small_team(complete=False)
    scene = random_scene(team, 6, 3)
    hidden = scene.visible.copy()
    hidden[..., -1] = False
    scene = replace(scene, visible=hidden)
    moved = scene.positions.copy()
    moved[:, -1] += 5
    torch.manual_seed(0)
    policy = PolicyNetwork(kind, team, NetworkSection(frame="centroid"))
    there = tensors(replace(scene, positions=moved))
    here = torch.from_numpy(scene.present[:, : team.agents].reshape(-1))
    assert torch.equal(policy.action_dist_inputs(there)[here], policy.action_dist_inputs(tensors(scene))[here])
