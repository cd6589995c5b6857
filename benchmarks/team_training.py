"""How fast do teams sample and train on RLlib, against RLlib's own runner, connectors and learner on mpe2?

The same network (E2GN2 in the last of two layers, width 32, one graph per agent), the same PPO updates, simple_spread with
three agents, 1,000 environment steps an iteration. The peer is RLlib 2.55.1 with one environment in its runner, which is
its default, and with eight. Ours with a graph per agent has the peer's network; with one graph per team it has fewer
graphs, which is the point. Everything in one process, CPU seconds of one thread. Beside it the layer alone, dense and by
torch-geometric.
``python -m benchmarks.team_training [--iterations N] [--repeats N]``.
"""

import argparse
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch

from benchmarks.results import ratios, spread, store
from rayworks.systems.marl.config import Config, EnvironmentSection, NetworkSection, SamplingSection, TrainingSection
from rayworks.systems.marl.environments.observation_schema import spread_schema
from rayworks.systems.marl.environments.scenes import ActionLayout
from rayworks.systems.marl.networks.equivariant_layers import GraphLayer, Nodes
from rayworks.systems.marl.networks.sparse_messages import sparse_round
from rayworks.systems.marl.rllib.algorithm import algorithm_config
from rayworks.systems.marl.rllib.connectors import SceneFromVector
from rayworks.systems.marl.rllib.environment import plain_config
from rayworks.systems.marl.rllib.module import module_spec

STEPS = 1000
TRAINING = TrainingSection(normalise_values=False, minibatch_size=500, epochs=5)
SAMPLING = SamplingSection(groups=1, num_envs=40, steps=25)
ROWS, ENTITIES, HIDDEN = 500, 7, 32


def ours(graph: Any) -> Any:
    """Our runner and learner."""
    section = EnvironmentSection(name="mpe/simple_spread")
    config = Config(environment=section, network=NetworkSection(graph=graph), training=TRAINING, sampling=SAMPLING)
    return algorithm_config(config, "e2gn2-last", 0).build_algo()


def plain(num_envs: int) -> Any:
    """RLlib's, on mpe2's own vectors."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    from mpe2 import simple_spread_v3

    layout, schema = ActionLayout(), spread_schema()
    team = schema.team("agent", layout)
    return plain_config(
        simple_spread_v3.parallel_env,
        {"agent": module_spec("e2gn2-last", team, NetworkSection(graph="agent"))},
        lambda agent: "agent",
        TRAINING,
        steps=STEPS,
        num_envs=num_envs,
        connectors=lambda *_, **__: SceneFromVector(schemas={"agent": schema}, actions=layout),
    ).build_algo()


def per_second(algorithm: Any, iterations: int) -> tuple[float, float]:
    """Environment steps per CPU second: of sampling, and of everything."""
    algorithm.train()
    sampled, spent = [], []
    for _ in range(iterations):
        started = time.process_time()
        timers = algorithm.train()["timers"]
        spent.append(time.process_time() - started)
        sampled.append(timers["env_runner_sampling_timer"])
    algorithm.stop()
    return STEPS * iterations / sum(sampled), STEPS * iterations / sum(spent)


def layer_seconds(round_of: Callable[[Nodes, torch.Tensor], Nodes]) -> float:
    """Of forward and backward through one layer, full graphs of seven."""
    invariant = torch.randn(ROWS, ENTITIES, HIDDEN, requires_grad=True)
    vectors = torch.randn(ROWS, ENTITIES, 1, 2, requires_grad=True)
    edges = (1 - torch.eye(ENTITIES)).expand(ROWS, ENTITIES, ENTITIES).contiguous()
    for repeat in range(13):
        if repeat == 3:
            started = time.process_time()
        done = round_of(Nodes(invariant, vectors), edges)
        torch.autograd.backward(done.invariant.sum() + done.vectors.sum())
    return (time.process_time() - started) / 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    made: dict[str, Callable[[], Any]] = {
        "agent": lambda: ours("agent"),
        "team": lambda: ours("team"),
        "one": lambda: plain(1),
        "eight": lambda: plain(8),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    layers: dict[str, list[float]] = {"dense": [], "sparse": []}
    layer = GraphLayer(HIDDEN, 1, "e2gn2")
    for _ in range(options.repeats):
        for name, make in made.items():
            found[name].append(per_second(make(), options.iterations))
        layers["dense"].append(layer_seconds(layer))
        layers["sparse"].append(layer_seconds(lambda nodes, edges: sparse_round(layer, nodes, edges)))
    ray.shutdown()
    sampling = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    training = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}
    rows: dict[str, Sequence[float]] = {
        "sampling, ours, env steps/s": sampling["agent"],
        "sampling, ours / RLlib's default runner (goal 20)": ratios(sampling["agent"], sampling["one"]),
        "sampling, ours / RLlib's with eight environments": ratios(sampling["agent"], sampling["eight"]),
        "training, ours, graph per agent, env steps/s": training["agent"],
        "training, graph per agent / RLlib (goal 1.3)": ratios(training["agent"], training["one"]),
        "training, graph per agent / RLlib with eight environments": ratios(training["agent"], training["eight"]),
        "training, ours, graph per team, env steps/s": training["team"],
        "training, graph per team / RLlib (goal 2.5)": ratios(training["team"], training["one"]),
        "training, graph per team / RLlib with eight environments": ratios(training["team"], training["eight"]),
        "layer, torch-geometric's seconds / dense (goal 1)": ratios(layers["sparse"], layers["dense"]),
    }
    store("team_training", __doc__ or "", rows, {"found": found, "layers": layers})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
