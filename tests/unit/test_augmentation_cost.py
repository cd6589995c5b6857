"""What a step costs, in floating-point operations: counted, so that no clock decides."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.augmentation_rivals import two_pass_slopes
from benchmarks.augmentation_step import BATCH, CLASSES, HELD, SIDE, STEPS, net, ways


@pytest.fixture(scope="module")
def costs() -> dict[str, float]:
    """Operations of eight steps of each way, over those of plain ones."""
    made = ways(("plain", "every step", "refresh 8", "last layer"))
    counted = {}
    for name, step in made.items():
        step()
        with FlopCounterMode(display=False) as counter:
            for _ in range(STEPS):
                step()
        counted[name] = counter.get_total_flops()
    return {name: value / counted["plain"] for name, value in counted.items()}


@pytest.mark.parametrize(("way", "most"), [("every step", 2.1), ("refresh 8", 1.6), ("last layer", 1.2)])
def test_a_step_costs_what_is_promised(costs: dict[str, float], way: str, most: float) -> None:
    assert 1 < costs[way] <= most


def test_weights_cost_less_than_the_two_passes_of_the_literature(costs: dict[str, float]) -> None:
    """Those add a virtual step, a pass on trusted rows and a second backward pass to a plain step."""
    model, batch, held = net(), (torch.rand(BATCH, 3, SIDE, SIDE), torch.zeros(BATCH).long()), HELD
    rows = torch.rand(held, 3, SIDE, SIDE), torch.arange(held) % CLASSES
    with FlopCounterMode(display=False) as counter:
        two_pass_slopes(model, batch, rows)
    with FlopCounterMode(display=False) as plain:
        torch.autograd.backward(model(batch[0]).sum())
    assert costs["every step"] <= 0.7 * (1 + counter.get_total_flops() / plain.get_total_flops())
