"""What does a step of an ensemble of LoRA experts cost, as rows of one batch, against one expert and a loop over experts?

All mix the experts' distributions and take the likeliest token, on the same engine. The loop reads with one adapter after the
other, or with models that these are merged into. CPU time, one thread, one process.
``python -m benchmarks.ensemble_decoding [--repeats N]``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.lm.adapters import BASE
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.systems.supervision.generation.decoding import Ensemble, ensemble_logprobs

MODEL, LAYERS, RANK = "smollm2-135m-instruct", 8, 8
EXPERTS, PROMPT, STEPS = 8, 24, 16
BATCHES = (1, 16)
NAMES = ("ours", "alone", "loop", "merged")
GOALS = {1: (2, 4), 16: (4.2, 1.9)}
"""By rows: most of one expert's time, and least gain over the loop."""


def save_experts(folder: Path) -> list[Path]:
    """Random adapters of all linear layers."""
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    folders = []
    for number in range(EXPERTS):
        torch.manual_seed(number)
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=layers, init_lora_weights=False)
        get_peft_model(load_model(MODEL, layers=LAYERS), config).save_pretrained(folder / str(number))
        folders.append(folder / str(number))
    return folders


def prompts(count: int) -> list[tuple[int, ...]]:
    """Random tokens."""
    draw = seeds.stream(0, "ensemble decoding")
    return [tuple(draw.integers(1000, 40_000, PROMPT).tolist()) for _ in range(count)]


def together(ensemble: Ensemble, rounds: int, batch: int) -> float:
    """Seconds of a step of the first so many experts, each row's own all in one batch."""
    decoding = ensemble.decoding(rounds)
    for prompt in prompts(batch):
        decoding.submit(ensemble.row(prompt, STEPS + 4, rounds, ignore_end=True))
    while decoding.tokens_drawn < batch:
        decoding.step()
    started = time.process_time()
    for _ in range(STEPS):
        decoding.step()
    elapsed = (time.process_time() - started) / STEPS
    decoding.drain()
    return elapsed


def in_turn(models: Sequence[CausalModel], numbers: Sequence[int], alphas: Sequence[float], batch: int) -> float:
    """Seconds of a step of one expert after the other, each a model and the number of an adapter of it."""
    lanes = []
    for place, (model, number) in enumerate(zip(models, numbers, strict=True)):
        first = place * batch if models[0] is models[-1] else 0
        slots = list(range(first, first + batch))
        for slot in slots:
            model.release(slot, number)
        model.read(slots, [list(prompt) for prompt in prompts(batch)])
        lanes.append((model, slots))
    tokens = [[7]] * batch
    started = time.process_time()
    for _ in range(STEPS):
        mixed = ensemble_logprobs([model.feed(slots, tokens) for model, slots in lanes], alphas, "linear")
        tokens = mixed.argmax(dim=-1)[:, None].tolist()
    return (time.process_time() - started) / STEPS


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    alphas = np.linspace(0.5, 1.5, EXPERTS)
    with tempfile.TemporaryDirectory() as scratch:
        folders = save_experts(Path(scratch))
        base = CausalModel(load_model(MODEL, layers=LAYERS), EXPERTS * max(BATCHES), adapters=EXPERTS)
        numbers = [base.adapters.add(folder.name, folder) for folder in folders]
        merged = [
            CausalModel(
                PeftModel.from_pretrained(load_model(MODEL, layers=LAYERS), str(folder)).merge_and_unload(),
                max(BATCHES),
            )
            for folder in folders
        ]
    ensemble = Ensemble(base, load_tokenizer(MODEL), numbers, alphas)
    seconds: dict[str, list[float]] = {f"{name}_{batch}": [] for batch in BATCHES for name in NAMES}
    for repeat in range(options.repeats):
        for batch in BATCHES:
            seconds[f"ours_{batch}"].append(together(ensemble, EXPERTS, batch))
            seconds[f"alone_{batch}"].append(together(ensemble, 1, batch))
            seconds[f"loop_{batch}"].append(in_turn([base] * EXPERTS, numbers, alphas.tolist(), batch))
            seconds[f"merged_{batch}"].append(in_turn(merged, [BASE] * EXPERTS, alphas.tolist(), batch))
        shown = "  ".join(f"{name} {1000 * found[-1]:.1f}" for name, found in seconds.items())
        print(f"repeat {repeat + 1}, CPU ms a step: {shown}", flush=True)
    rows = {}
    for batch, (most, least) in GOALS.items():
        ours, alone, loop, whole = (seconds[f"{name}_{batch}"] for name in NAMES)
        rows[f"CPU ms a step of 8 experts, batch {batch}"] = [1000 * value for value in ours]
        rows[f"8 experts over one, batch {batch} (goal <= {most})"] = ratios(ours, alone)
        rows[f"8 experts, batch {batch}, against a loop over them (goal {least})"] = ratios(loop, ours)
        rows[f"8 experts, batch {batch}, against 8 merged models in turn"] = ratios(whole, ours)
    store("ensemble_decoding", __doc__ or "", rows, seconds)
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
