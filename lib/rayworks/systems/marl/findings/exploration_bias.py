"""Measure the bias of untrained policies: how far a network that has learned nothing moves agents.

EGNN's expected output is its input position (arXiv 2410.02581, theorem 1): agents flee the centre. E2GN2's is zero
(theorem 2).
"""

from contextlib import closing

import numpy as np
import torch

from rayworks.core.seeds import derive_small, stream
from rayworks.systems.marl.config import Config, NetworkKind, NetworkSection
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.environments.scenes import ActionLayout, TeamSpec
from rayworks.systems.marl.networks.acting import Game
from rayworks.systems.marl.networks.graph_networks import GraphNetwork
from rayworks.systems.marl.networks.graphs import Graph
from rayworks.systems.marl.networks.policy_network import PolicyNetwork

ENTITIES = 6


def input_slope(kind: NetworkKind, layers: int, initialisations: int, seed: int) -> dict[str, float]:
    """Regression of an untrained network's mean output vector on the input position.

    Args:
        kind: a network with a vector stream.
        initialisations: draws of the weights, averaged over before the regression.

    Returns:
        ``slope`` (EGNN 1, E2GN2 0) and ``size``, the root mean square of the output over that of the input.
    """
    positions = torch.from_numpy(stream(seed, "bias", "positions").uniform(-1, 1, (1, ENTITIES, 2)).astype(np.float32))
    team = TeamSpec("bias", ENTITIES, ("agent",) * ENTITIES, ("one",), ActionLayout(vectors=True))
    present = torch.ones(1, ENTITIES, dtype=torch.bool)
    visible, targets = present[:, None].expand(1, ENTITIES, ENTITIES), torch.zeros(1, ENTITIES, 0, dtype=torch.long)
    graph = Graph(positions, torch.zeros_like(positions), torch.ones(1, ENTITIES, 1), present, visible, targets)
    options = NetworkSection(layers=layers, velocity="none")
    outputs = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for number in range(initialisations):
            torch.manual_seed(derive_small(seed, "bias", kind, layers, number))
            outputs.append(GraphNetwork(kind, team, options, ENTITIES, "policy").decode(graph).vector)
    vectors = torch.stack(outputs)
    inputs = positions.flatten()
    slope = (vectors.mean(0).flatten() @ inputs / (inputs @ inputs)).item()
    return {"slope": slope, "size": (vectors.square().mean().sqrt() / inputs.square().mean().sqrt()).item()}


def untrained_play(config: Config, seed: int) -> dict[str, dict[str, float]]:
    """What untrained policies get and where they lead: episodes played to their end by each of several initialisations.

    Returns:
        by kind: ``return`` and its standard error over initialisations, ``distance`` of agents from the centre at the end.
    """
    found, num_envs = {}, config.sampling.num_envs
    for kind in config.experiment.networks:
        returns, distances = [], []
        for number in range(config.experiment.initialisations):
            own = derive_small(seed, "untrained", kind, number)
            start = derive_small(seed, "untrained", number)
            with closing(make_environment(config.environment, num_envs, start)) as world:
                game = Game(world, own)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(own)
                    policies = {team: PolicyNetwork(kind, spec, config.network) for team, spec in world.teams.items()}
                rollout = game.play(policies, world.horizon)
            ended = [values.mean() for name, values in rollout.episodes.items() if name.startswith("return")]
            returns.append(float(np.sum(ended)))
            last = [own.cut.positions[:, : own.cut.agents] for own in rollout.teams.values()]
            far = [np.linalg.norm(positions, axis=-1).mean() for positions in last if positions.size]
            distances.append(float(np.mean(far or [0])))
        error = float(np.std(returns, ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else 0.0
        mean, distance = float(np.mean(returns)), float(np.mean(distances))
        found[str(kind)] = {"return": mean, "standard_error": error, "distance": distance}
    return found
