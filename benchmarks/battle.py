"""How many agents of the embedded battle act per second on one core?

Full scenes, masks and rewards, episodes that end and begin, the heuristic enemy; allies follow the script, whose own time is
left out. CPU seconds of one thread. ``python -m benchmarks.battle [--seconds S] [--repeats N]``.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from benchmarks.results import spread, store
from rayworks.systems.marl.environments.battle import BattleEnvironment, BattleOptions
from rayworks.systems.marl.environments.battle_scene import TEAM
from rayworks.systems.marl.environments.battle_scripts import scripted_actions

SMALL, LARGE = ("terran_5_vs_5", "protoss_5_vs_5", "zerg_5_vs_5"), "zerg_20_vs_23"
COPIES = (1, 32, 256, 1024)
GOAL = 20_000


def agent_steps_per_second(scenario: str, num_envs: int, seconds: float) -> float:
    """Of one core, after a few steps to warm up."""
    battle = BattleEnvironment(scenario, num_envs, 0, BattleOptions())
    scene = battle.reset()[TEAM]
    spent, steps = 0.0, -5
    while spent < seconds:
        actions = {TEAM: scripted_actions(scene, battle.spec.actions)}
        started = time.process_time()
        scene = battle.step(actions).scenes[TEAM]
        spent += time.process_time() - started if steps >= 0 else 0.0
        steps += 1
    return steps * num_envs * battle.scenario.agents / spent


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    cases = [(scenario, num_envs) for scenario in SMALL for num_envs in COPIES] + [(LARGE, 256)]
    rows: dict[str, list[float]] = {
        f"{scenario}, {num_envs} copies: agent steps/s per core (goal {GOAL:,})": [] for scenario, num_envs in cases
    }
    for _ in range(options.repeats):
        for found, (scenario, num_envs) in zip(rows.values(), cases, strict=True):
            found.append(agent_steps_per_second(scenario, num_envs, options.seconds))
    store("battle", __doc__ or "", rows, {"agent_steps_per_second": rows})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
