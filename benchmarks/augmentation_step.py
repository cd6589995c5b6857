"""What does a training step with learned weights and soft labels cost, against a plain one and against the literature's?

One small convolutional net, batch 64, 16 validation rows, one thread, CPU seconds, all ways in alternation, step by step,
in one process.
``python -m benchmarks.augmentation_step [--rounds N]``.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.augmentation_rivals import betty_step, higher_slopes, two_pass_slopes
from benchmarks.results import ratios, spread, store
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.engine.settings import EngineSettings

BATCH, HELD, SIDE, WIDTH, CLASSES = 64, 16, 32, 16, 10
STEPS = 8
"""Steps of a round, so that each round has one refresh of eight."""
GOALS = {"every step": 2.1, "refresh 8": 1.6, "last layer": 1.2}
FASTER = 1.6
RIVALS = ("two-pass L2RW", "higher", "betty")


def net() -> nn.Module:
    """Three convolutions and a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, WIDTH), (WIDTH, 2 * WIDTH)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(2 * WIDTH, 4 * WIDTH, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * WIDTH, CLASSES))


Slopes = Callable[[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor]


def ways(names: Sequence[str] = ("plain", *GOALS, *RIVALS)) -> dict[str, Callable[[], None]]:
    """One step of each way of training, each with a model of its own and the same start."""
    torch.manual_seed(0)
    batch = torch.rand(BATCH, 3, SIDE, SIDE), torch.randint(0, CLASSES, (BATCH,))
    held = torch.rand(HELD, 3, SIDE, SIDE), torch.randint(0, CLASSES, (HELD,))

    def trained(loss_of: Callable[[nn.Module], Tensor]) -> Callable[[], None]:
        model, optimiser = started()

        def step() -> None:
            optimiser.zero_grad()
            torch.autograd.backward(loss_of(model))
            optimiser.step()

        return step

    def weighed(settings: EngineSettings) -> Callable[[], None]:
        engine = Saflex(settings, lambda _: held)
        return trained(lambda model: engine.weigh(model, *batch).mean_loss())

    def reweighted(slopes: Slopes) -> Callable[[], None]:
        def loss(model: nn.Module) -> Tensor:
            weights = (-slopes(model, batch, held)).clamp_min(0)
            losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
            return (weights / weights.mean().clamp_min(1e-12) * losses).mean()

        return trained(loss)

    at_once = EngineSettings(warm_up=0, progress=0.0)
    made: dict[str, Callable[[], Callable[[], None]]] = {
        "plain": lambda: trained(lambda model: F.cross_entropy(model(batch[0]), batch[1])),
        "every step": lambda: weighed(at_once),
        "refresh 8": lambda: weighed(replace(at_once, refresh=8, backend="one_sided")),
        "last layer": lambda: weighed(replace(at_once, backend="last_layer")),
        "two-pass L2RW": lambda: reweighted(two_pass_slopes),
        "higher": lambda: reweighted(higher_slopes),
        "betty": lambda: betty_step(*started(), batch, held),
    }
    return {name: made[name]() for name in names}


def started() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimiser, the same at every call."""
    torch.manual_seed(1)
    model = net()
    return model, torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made = ways()
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(options.rounds + 1):
        spent = dict.fromkeys(made, 0.0)
        for name, step in STEPS * list(made.items()):
            begun = time.process_time()
            step()
            spent[name] += time.process_time() - begun
        if turn:  # The first round loads kernels.
            for name, value in spent.items():
                seconds[name].append(value / STEPS)
    rows = {"CPU ms a step, plain": [1000 * value for value in seconds["plain"]]}
    for name, goal in GOALS.items():
        rows[f"step cost, {name}, over plain (goal <= {goal})"] = ratios(seconds[name], seconds["plain"])
    for name in RIVALS:
        rows[f"step cost, {name}, over plain"] = ratios(seconds[name], seconds["plain"])
        rows[f"times as fast as {name} (goal {FASTER})"] = ratios(seconds[name], seconds["every step"])
    store("augmentation_step", __doc__ or "", rows, seconds)
    for name, values in rows.items():
        print(f"{name}: {spread(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
