"""Data augmentation: rotate each scene of a batch at random, with its actions.

A baseline for networks that have it built in. The old probabilities are those that the policy gives the turned scenes now, so
that the first update starts from ratios of one.
"""

from collections.abc import Mapping
from typing import Any

import torch

from rayworks.systems.marl.networks.acting import log_probabilities
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from rayworks.systems.marl.networks.symmetry_groups import QUARTER_TURNS


def turned_at_random(rows: Mapping[str, Any], network: PolicyNetwork, generator: torch.Generator) -> dict[str, Any]:
    """Rows of a train batch, each turned: by any rotation or reflection for vector actions, else by one of a square's.

    They hold ``obs`` (a scene's arrays), ``actions`` (R, A) or (R, A, 2), ``action_dist_inputs``, ``action_logp``, others;
    the network is the policy before the update.
    """
    layout = network.team.actions
    count = len(rows["actions"])
    device = rows["actions"].device
    scene = dict(rows["obs"])
    if layout.vectors:
        angle = (2 * torch.pi * torch.rand(count, generator=generator)).to(device)
        mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0).to(device)
        cosine, sine = angle.cos(), angle.sin()
        turns = torch.stack([torch.stack([cosine, -sine * mirror], 1), torch.stack([sine, cosine * mirror], 1)], 1)
        actions = rows["actions"] @ turns.transpose(1, 2)
    else:
        chosen = torch.randint(len(QUARTER_TURNS), (count,), generator=generator).to(device)
        turns = torch.tensor(QUARTER_TURNS, dtype=torch.float32, device=device)[chosen]
        permutation = torch.stack([torch.from_numpy(layout.turned(turn)) for turn in QUARTER_TURNS]).to(device)[chosen]
        actions = permutation.gather(1, rows["actions"])
        back = permutation.argsort(1)[:, None].expand(-1, scene["allowed"].shape[1], -1)
        scene["allowed"] = scene["allowed"].gather(2, back)
    scene["positions"] = scene["positions"] @ turns.transpose(1, 2)
    scene["velocities"] = scene["velocities"] @ turns.transpose(1, 2)
    with torch.no_grad():
        inputs = network.action_dist_inputs(scene)
        log_probs = log_probabilities(inputs, actions.flatten(0, 1), vectors=layout.vectors)
    shape = actions.shape[:2]
    return {
        **rows,
        "obs": scene,
        "actions": actions,
        "action_dist_inputs": inputs.view(*shape, -1),
        "action_logp": log_probs.view(shape),
    }
