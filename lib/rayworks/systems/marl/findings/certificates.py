"""Certify symmetry through the RLlib module: one policy, or every network in every frame of every environment."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
import torch

from rayworks.core.config import resolve
from rayworks.core.seeds import derive_small
from rayworks.systems.marl.config import Config, NetworkKind
from rayworks.systems.marl.environments.environment import Environment
from rayworks.systems.marl.environments.particle_scenarios import SCENARIOS
from rayworks.systems.marl.environments.registry import make_environment, most_envs
from rayworks.systems.marl.environments.scenes import Scene, joined
from rayworks.systems.marl.findings.evaluation import Weights
from rayworks.systems.marl.findings.symmetry import Certificate, certify
from rayworks.systems.marl.rllib.module import TeamModule, module_spec

FRAMES = (("team", "absolute"), ("team", "centroid"), ("agent", "absolute"), ("agent", "own"), ("agent", "centroid"))
"""Every kind of graph with every origin of coordinates that it can have."""
BATTLES = ("battle/terran_3_vs_3", "battle/protoss_2_vs_3", "battle/zerg_4_vs_4")
SETTINGS = (
    *({"name": f"mpe/{name}", "actions": actions} for name in SCENARIOS for actions in ("vectors", "discrete")),
    *({"name": name} for name in BATTLES),
)
"""Environments in which :func:`every_certificate` tries."""


@dataclass(frozen=True)
class Tried:
    """One network, in one frame, for one team of one environment."""

    environment: str
    actions: str
    team: str
    graph: str
    frame: str
    certificate: Certificate


def every_certificate(
    environments: Sequence[Mapping[str, Any]] = SETTINGS, network: Mapping[str, Any] | None = None, scenes: int = 16
) -> Iterator[Tried]:
    """Certificates of all untrained networks in all frames, each through its RLlib module; some milliseconds each.

    Args:
        environments: settings of ``environment``.
        network: settings of ``network`` beside graph and frame.

    Raises:
        ConfigError: settings that are not of the config.
    """
    for environment, (graph, frame) in product(environments, FRAMES):
        sections = {"environment": dict(environment), "network": {**(network or {}), "graph": graph, "frame": frame}}
        config = resolve(Config, overrides={**sections, "experiment.certificate_scenes": scenes})
        section = config.environment
        for kind in get_args(NetworkKind):
            for team, certificate in certificates(config, kind, {}).items():
                yield Tried(section.name, section.actions, team, graph, frame, certificate)


def certificates(config: Config, kind: NetworkKind, weights: Weights) -> dict[str, Certificate]:
    """Errors of a policy under all groups, end to end through the RLlib module, in scenes that random play led to.

    By team; without weights those of a network as initialised.

    Raises:
        DataError: weights of another shape.
    """
    seed, rows = config.run.seed, config.experiment.certificate_scenes
    num_envs = most_envs(config.environment, rows)
    with closing(make_environment(config.environment, num_envs, derive_small(seed, "certificate"))) as world:
        scenes = _scenes_of_random_play(world, rows, derive_small(seed, "certificate", "actions"))
    found = {}
    for team, spec in world.teams.items():
        torch.manual_seed(derive_small(seed, "certificate", kind))
        module: TeamModule = module_spec(kind, spec, config.network).build()
        if weights:
            module.network.load({name: torch.from_numpy(np.array(array)) for name, array in weights[team].items()})

        def answer(scene: Mapping[str, torch.Tensor], module: TeamModule = module) -> tuple[Any, Any]:
            batch = {"obs": scene}
            return module._forward(batch)["action_dist_inputs"], module.compute_values(batch)

        found[team] = certify(answer, kind, spec, config.network, scenes[team], seed)
    return found


def _scenes_of_random_play(world: Environment, rows: int, seed: int) -> dict[str, Scene]:
    """Scenes by team, ``rows`` each: from as many copies after some steps, or one after the other from a single copy."""
    random = np.random.default_rng(seed)
    scenes: Mapping[str, Scene] = world.reset()
    met = [scenes]
    for _ in range(min(10, world.horizon - 1) if world.num_envs == rows else rows - 1):
        actions = {}
        for team, spec in world.teams.items():
            if spec.actions.vectors:
                actions[team] = random.normal(size=(world.num_envs, spec.agents, 2))
            else:
                actions[team] = (random.random(scenes[team].allowed.shape) * scenes[team].allowed).argmax(-1)
        scenes = world.step(actions).scenes
        met.append(scenes)
    if world.num_envs == rows:
        return dict(scenes)
    return {team: joined([one[team] for one in met]) for team in world.teams}
