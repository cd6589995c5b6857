"""A deterministic policy with the symmetry plays a mirrored battle to the mirrored end; runs do not depend on hash seeds."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rayworks.systems.marl.config import EnvironmentSection, NetworkKind, NetworkSection
from rayworks.systems.marl.environments.battle import BattleEnvironment, BattleOptions
from rayworks.systems.marl.environments.battle_combat import Units
from rayworks.systems.marl.environments.registry import make_environment
from rayworks.systems.marl.networks.acting import Game, as_tensors, draw
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from tests.conftest import ROOT

COPIES, STEPS = 16, 60
MIRROR = np.array([-1.0, 1.0])[:, None, None]


def first_episodes(policy: PolicyNetwork, world: BattleEnvironment, units: Units) -> tuple[np.ndarray, np.ndarray]:
    """Returns (B,) and paths (steps, B, N, 2), zeros after a battle's end."""
    scene, going = world.begin(units)["allies"], np.ones(COPIES, bool)
    returns, path = np.zeros(COPIES), []
    for _ in range(STEPS):
        chosen, _ = draw(policy.action_dist_inputs(as_tensors(scene)).detach(), vectors=False, generator=None)
        step = world.step({"allies": chosen.numpy().reshape(COPIES, -1)})
        returns += going * step.rewards["allies"].sum(1)
        path.append(step.last["allies"].positions * going[:, None, None])
        going &= ~step.ended
        scene = step.scenes["allies"]
    return returns, np.stack(path)


@pytest.mark.parametrize("kind", ["e2gn2-last", "egnn", "mlp"])
def test_a_mirrored_start_leads_to_the_mirrored_end(kind: NetworkKind) -> None:
    options = BattleOptions(starts="surrounded", side="left", fully_observable=True)
    world = BattleEnvironment("terran_3_vs_3", COPIES, 0, options)
    world.reset()
    units = world.units
    mirrored = replace(units, position=units.position * MIRROR, look=units.look * MIRROR)
    torch.manual_seed(1)
    policy = PolicyNetwork(kind, world.spec, NetworkSection(vector_scale=3.0))
    for name, bias in policy.policy.named_parameters():
        if name == "target_readout.bias":
            bias.data += 1
    returns, path = first_episodes(policy, world, units)
    other_returns, other_path = first_episodes(policy, world, mirrored)
    assert np.ptp(returns) > 0 and np.abs(np.diff(path, axis=0)).max() > 0
    if kind == "mlp":
        assert not np.array_equal(returns, other_returns), "it knows nothing of mirrors"
        return
    np.testing.assert_array_equal(other_returns, returns)
    np.testing.assert_array_equal(other_path, path * [-1, 1])


def bits() -> str:
    """A digest of what untrained policies see, do and get."""
    seen = hashlib.sha256()
    for name in ("mpe/simple_tag", "battle/zerg_3_vs_4"):
        world = make_environment(EnvironmentSection(name=name), 4, 7)
        torch.manual_seed(7)
        policies = {team: PolicyNetwork("penguin", spec, NetworkSection()) for team, spec in world.teams.items()}
        for team in Game(world, 7).play(policies, 40).teams.values():
            for array in (*team.scenes.arrays().values(), team.actions, team.dist_inputs, team.rewards):
                seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()


def test_the_same_seed_gives_the_same_bits_in_a_process_that_hashes_otherwise() -> None:
    program = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()}); from {__name__} import bits; print(bits())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == bits(), done.stderr
