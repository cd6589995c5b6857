"""Every network under every group it claims; and those that claim nothing, visibly failing."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayworks.systems.marl.config import NetworkKind, NetworkSection
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.findings.symmetry import TOLERANCE, certify
from rayworks.systems.marl.networks.equivariant_layers import GraphLayer, Nodes, Update
from rayworks.systems.marl.networks.graphs import Graph, joined
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from rayworks.systems.marl.networks.symmetry_groups import Group, orthogonal
from tests.small_scenes import random_scene, small_team, tensors

KINDS: tuple[NetworkKind, ...] = ("e2gn2-last", "e2gn2", "egnn", "gnn", "mlp", "penguin")
OPTIONS: st.SearchStrategy[dict[str, object]] = st.builds(
    dict,
    graph=st.sampled_from(["team", "agent"]),
    velocity=st.sampled_from(["channel", "tip", "speed", "none"]),
    frame=st.sampled_from(["absolute", "own", "centroid"]),
    target_decoder=st.sampled_from(["edge", "node"]),
    critic=st.sampled_from(["own", "central"]),
    symmetrise=st.sampled_from(["none", "average", "canonical"]),
    messages=st.sampled_from(["dense", "sparse"]),
    layers=st.integers(1, 3),
    mean_messages=st.booleans(),
    vector_bound=st.sampled_from([None, 5.0]),
)


def network(kind: NetworkKind, team: TeamSpec, options: NetworkSection, seed: int) -> PolicyNetwork:
    torch.manual_seed(seed)
    made = PolicyNetwork(kind, team, options)
    for parameter in made.parameters():
        parameter.data *= 1.3
    return made


def allowed_options(drawn: dict[str, object]) -> NetworkSection:
    if drawn["graph"] == "team":
        drawn = {**drawn, "frame": "centroid" if drawn["frame"] == "own" else drawn["frame"]}
        drawn |= {"symmetrise": "average" if drawn["symmetrise"] == "canonical" else drawn["symmetrise"]}
    if drawn["symmetrise"] == "canonical":
        drawn = {**drawn, "critic": "own"}
    return NetworkSection.model_validate(drawn)


CENTRAL_CRITIC_OF_OWN_VIEWS = {"graph": "agent", "frame": "own", "critic": "central", "symmetrise": "none", "layers": 2}


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS), OPTIONS, st.booleans(), st.booleans(), st.integers(0, 10**6))
@example("e2gn2", CENTRAL_CRITIC_OF_OWN_VIEWS, False, False, 0)
def test_claims_hold(kind: NetworkKind, drawn: dict[str, object], vectors: bool, complete: bool, seed: int) -> None:
    options, team = allowed_options(drawn), small_team(vectors=vectors, complete=complete)
    policy = network(kind, team, options, seed)
    certificate = certify(
        lambda scene: (policy.action_dist_inputs(scene), policy.values(scene)),
        kind,
        team,
        options,
        random_scene(team, 6, seed),
        seed,
    )
    for group in certificate.claims:
        assert certificate.errors[group] < TOLERANCE, (group, certificate.errors)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["mlp", "gnn", "penguin"]),
    st.sampled_from(["absolute", "own", "centroid"]),
    st.booleans(),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(["moving", "still", "alone"]),
    st.integers(0, 10**6),
)
@example("mlp", "absolute", True, 1, 1, "still", 0)
@example("gnn", "absolute", True, 2, 1, "alone", 1)
def test_views_turned_to_one_side_are_symmetric_even_where_there_is_no_side(
    kind: NetworkKind, frame: str, vectors: bool, agents: int, others: int, what: str, seed: int
) -> None:
    options = NetworkSection.model_validate({"graph": "agent", "frame": frame, "symmetrise": "canonical"})
    team = small_team(vectors=vectors, agents=agents, others=others)
    policy, scene = network(kind, team, options, seed), random_scene(team, 8, seed)
    if what != "moving":
        scene = replace(scene, velocities=np.zeros_like(scene.velocities))
    if what == "alone":
        here = scene.present & (np.arange(team.entities) == 0)
        scene = replace(scene, present=here, visible=scene.visible & here[:, None])
    certificate = certify(
        lambda scene: (policy.action_dist_inputs(scene), policy.values(scene)), kind, team, options, scene, seed
    )
    for group in certificate.claims:
        assert certificate.errors[group] < TOLERANCE, (group, certificate.errors)


def test_answers_that_are_no_numbers_are_no_symmetry() -> None:
    team = small_team(vectors=True)
    scene = random_scene(team, 4, 0)

    def answer(scene: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((4 * team.agents, 4), math.nan), torch.zeros(4 * team.agents)

    certificate = certify(answer, "e2gn2", team, NetworkSection(), scene, 0)
    assert not certificate.holds and set(certificate.errors.values()) == {math.inf}


@pytest.mark.parametrize(
    ("kind", "group"), [("gnn", "rotations"), ("mlp", "rotations"), ("mlp", "permutations"), ("penguin", "rotations")]
)
def test_networks_without_the_symmetry_fail_visibly(kind: NetworkKind, group: Group) -> None:
    team = small_team(vectors=True)
    policy = network(kind, team, NetworkSection(), 0)
    certificate = certify(
        lambda scene: (policy.action_dist_inputs(scene), policy.values(scene)),
        kind,
        team,
        NetworkSection(),
        random_scene(team, 16, 0),
        0,
    )
    assert group not in certificate.claims
    assert certificate.errors[group] > 1e-2


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["gnn", "egnn", "e2gn2", "e2gn2-last", "penguin"]), OPTIONS, st.integers(0, 10**6))
def test_sparse_and_dense_messages_agree(kind: NetworkKind, drawn: dict[str, object], seed: int) -> None:
    options, team = allowed_options({**drawn, "symmetrise": "none", "messages": "dense"}), small_team(complete=False)
    dense = network(kind, team, options, seed)
    sparse = network(kind, team, options.model_copy(update={"messages": "sparse"}), seed)
    scene = tensors(random_scene(team, 8, seed))
    assert (dense.action_dist_inputs(scene) - sparse.action_dist_inputs(scene)).abs().max() < 1e-5
    assert (dense.values(scene) - sparse.values(scene)).abs().max() < 1e-5
    alone = {**scene, "visible": torch.zeros_like(scene["visible"])}
    assert (dense.action_dist_inputs(alone) - sparse.action_dist_inputs(alone)).abs().max() < 1e-5, "no edge at all"


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(KINDS), st.booleans(), st.integers(0, 10**6))
def test_what_is_absent_changes_nothing(kind: NetworkKind, vectors: bool, seed: int) -> None:
    team = small_team(vectors=vectors)
    policy = network(kind, team, NetworkSection(), seed)
    scene = random_scene(team, 6, seed)
    garbage = np.random.default_rng(seed).normal(size=scene.positions.shape).astype(np.float32) * 50
    hidden = ~scene.present[..., None]
    changed = {**tensors(scene), "positions": torch.from_numpy(np.where(hidden, garbage, scene.positions))}
    here = torch.from_numpy(scene.present[:, : team.agents].reshape(-1))
    difference = policy.action_dist_inputs(changed) - policy.action_dist_inputs(tensors(scene))
    assert difference[here].abs().max() < 1e-5
    assert (policy.values(changed) - policy.values(tensors(scene)))[here].abs().max() < 1e-5


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 2 * math.pi), st.booleans(), st.integers(0, 1000))
def test_double_precision_leaves_nothing_but_rounding(angle: float, reflected: bool, seed: int) -> None:
    team = small_team(vectors=True)
    graph = Graph.of(tensors(random_scene(team, 6, seed)))
    graph = Graph(*[v.double() if v.dtype == torch.float32 else v for v in vars(graph).values()])
    matrix = torch.from_numpy(orthogonal(angle, reflected=reflected))
    with torch.no_grad():
        edges = graph.edges(joined(team), team.entities).double()
        straight, turned = (_through_layers(g, edges) for g in (graph, graph.turned(matrix)))
    assert (turned[0] - straight[0]).abs().max() < 1e-11
    assert (turned[1] - straight[1] @ matrix.T).abs().max() < 1e-11


def _through_layers(graph: Graph, edges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    features = torch.ones(len(edges), edges.shape[1], 8).double()
    nodes = Nodes(features, torch.stack([graph.positions, graph.velocities], 2))
    kinds: tuple[Update, ...] = ("egnn", "e2gn2", "e2gn2")
    for update in kinds:
        nodes = GraphLayer(8, 2, update).double()(nodes, edges)
    return nodes.invariant, nodes.vectors
