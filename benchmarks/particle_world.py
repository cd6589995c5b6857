"""How many steps per second do the vectorised particle environments take on one core?

The peers are mpe2 1.1.1 itself, whose numbers ours are to the last bit, one environment after the other, and ``vmas`` 1.5.2
at the same batch on its own simple_spread, which has other physics. Ours builds its scenes and rewards; forces in the
plane; episodes end and begin. CPU seconds of one thread. ``python -m benchmarks.particle_world [--seconds S] [--repeats N]``.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks import peers
from benchmarks.results import ratios, spread, store
from rayworks.systems.marl.environments.particle_environment import ParticleEnvironment
from rayworks.systems.marl.environments.particle_scenarios import ParticleOptions

COPIES = (1, 32, 256, 2048)
AGENTS = 3
SLOWEST_MPE2, SLOWEST_VMAS = 100, 1
REQUIREMENTS = {
    "gym_notices": "gym-notices==0.0.8",
    "gym": "gym==0.26.2",
    "six": "six==1.17.0",
    "pyglet": "pyglet==1.5.27",
}


def per_second(step: Callable[[], object], num_envs: int, seconds: float) -> float:
    """Environment steps per CPU second, after a few to warm up."""
    for _ in range(10):
        step()
    count, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        for _ in range(10):
            step()
        count += 10
    return count * num_envs / (time.process_time() - started)


def ours(num_envs: int, seconds: float) -> float:
    """With scenes."""
    world = ParticleEnvironment("simple_spread", num_envs, 0, ParticleOptions(vectors=True))
    world.reset()
    actions = {"agent": np.random.default_rng(0).uniform(-1, 1, (num_envs, AGENTS, 2))}
    return per_second(lambda: world.step(actions), num_envs, seconds)


def mpe2(seconds: float) -> float:
    """One environment, reset when its episode ends."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from mpe2 import simple_spread_v3

    world = simple_spread_v3.parallel_env(continuous_actions=True)
    world.reset(seed=0)
    actions = {agent: np.full(5, 0.5, np.float32) for agent in world.possible_agents}

    def step() -> None:
        if not world.agents:
            world.reset()
        world.step(actions)

    return per_second(step, 1, seconds)


def vmas(num_envs: int, seconds: float) -> float:
    """A batch of torch tensors; all copies begin anew after 25 steps, as ours."""
    for name, requirement in REQUIREMENTS.items():
        peers.module(name, requirement)
    world = peers.module("vmas", "vmas==1.5.2").make_env(
        "simple_spread", num_envs=num_envs, device="cpu", continuous_actions=True, seed=0
    )
    world.reset()
    actions = [torch.rand(num_envs, 2) * 2 - 1 for _ in range(AGENTS)]
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        if taken % 25 == 0:
            world.reset()
        world.step(actions)

    return per_second(step, num_envs, seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    reference: list[float] = []
    own: dict[int, list[float]] = {num_envs: [] for num_envs in COPIES}
    peer: dict[int, list[float]] = {num_envs: [] for num_envs in COPIES}
    for _ in range(options.repeats):
        reference.append(mpe2(options.seconds))
        for num_envs in COPIES:
            own[num_envs].append(ours(num_envs, options.seconds))
            peer[num_envs].append(vmas(num_envs, options.seconds))
    rows: dict[str, list[float]] = {"mpe2, env steps/s": reference}
    for num_envs in COPIES:
        rows[f"ours, {num_envs} copies, env steps/s"] = own[num_envs]
        rows[f"ours / mpe2, {num_envs} copies" + (f" (goal {SLOWEST_MPE2})" if num_envs >= 256 else "")] = ratios(
            own[num_envs], reference
        )
        rows[f"ours / vmas, {num_envs} copies (goal {SLOWEST_VMAS})"] = ratios(own[num_envs], peer[num_envs])
    store("particle_world", __doc__ or "", rows, {"mpe2": reference, "ours": own, "vmas": peer})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
