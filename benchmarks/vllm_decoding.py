"""How fast does vLLM decode beside the transformers engine on a CPU, and what does guidance cost inside it?

Both sides are ours, with the same weights, prompts, lengths, dtype and drawing, one thread, in this process.
``python -m benchmarks.vllm_decoding [--repeats N]``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.core.config import EngineSection
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedRequest
from rayworks.systems.alignment.vllm_guidance import VllmGuidedEngine

BASE, LAYERS, WEIGHT, SLOTS = "smollm2-135m-instruct", 8, 1.0, 16
OBJECTIVE = "arm"
WORDS = """the dress is warm and the colour of this shirt was lovely but its fabric felt thin after one wash""".split()


def requests(count: int, weight: float) -> list[GuidedRequest]:
    """Ragged prompts of 4-20 words, 32 tokens each; the end token is not drawn, so that all sides write the same lengths."""
    draw = seeds.stream(0, "benchmark", "vllm-decoding")
    return [
        GuidedRequest(
            prompt=" ".join(draw.choice(WORDS, int(draw.integers(4, 21)))),
            max_new_tokens=32,
            seed=number,
            ignore_end=True,
            guidance=Guidance({OBJECTIVE: weight}),
        )
        for number in range(count)
    ]


def tokens_per_second(engine: GuidedEngine, asked: Sequence[GuidedRequest]) -> float:
    """Of one batch, prefills included."""
    started = time.perf_counter()
    drawn = sum(len(found.token_ids) for found in engine.generate(asked))
    return drawn / (time.perf_counter() - started)


def step_seconds(engine: GuidedEngine, weight: float) -> float:
    """Median seconds of a step of a full batch without prefills, drawing and report included."""
    for request in requests(SLOTS, weight):
        engine.decoding.submit(engine.row(request))
    engine.decoding.step()
    seconds = []
    for _ in range(24):
        started = time.perf_counter()
        engine.decoding.step()
        seconds.append(time.perf_counter() - started)
    engine.decoding.drain()
    return sorted(seconds)[len(seconds) // 2]


def arm_seconds(engine: GuidedEngine) -> float:
    """Median seconds of such a step of the reward model alone."""
    arm, slots = engine.models[1], list(range(SLOTS))
    arm.feed(slots, [[5 + row] * 16 for row in slots])
    seconds = []
    for _ in range(24):
        started = time.perf_counter()
        arm.feed(slots, [[7]] * SLOTS)
        seconds.append(time.perf_counter() - started)
    for slot in slots:
        arm.release(slot)
    return sorted(seconds)[len(seconds) // 2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        load_model(BASE, layers=LAYERS).save_pretrained(folder)
        load_tokenizer(BASE).save_pretrained(folder)
        vllm = VllmGuidedEngine(BASE, {OBJECTIVE: folder}, "float32", SLOTS, "cpu", EngineSection(engine="vllm"))
        transformers = GuidedEngine(BASE, {OBJECTIVE: folder}, slots=SLOTS)
    for engine in (vllm, transformers):
        tokens_per_second(engine, requests(2, WEIGHT))
    values: dict[str, Any] = {f"{side}_{n}": [] for side in ("vllm", "transformers") for n in (8, 16)}
    values |= {name: [] for name in ("base_step", "arm_step", "guided_step")}
    for repeat in range(options.repeats):
        for count in (8, 16):
            values[f"vllm_{count}"].append(tokens_per_second(vllm, requests(count, 0.0)))
            values[f"transformers_{count}"].append(tokens_per_second(transformers, requests(count, 0.0)))
        values["base_step"].append(step_seconds(vllm, 0.0))
        values["arm_step"].append(arm_seconds(transformers))
        values["guided_step"].append(step_seconds(vllm, WEIGHT))
        print(
            f"repeat {repeat + 1}: " + "  ".join(f"{name} {seen[-1]:.3g}" for name, seen in values.items()), flush=True
        )
    alone = [base + arm for base, arm in zip(values["base_step"], values["arm_step"], strict=True)]
    rows = {
        "tokens/s, vLLM, 8 requests": values["vllm_8"],
        "tokens/s, vLLM, 16 requests": values["vllm_16"],
        "vLLM over transformers, 8 requests": ratios(values["vllm_8"], values["transformers_8"]),
        "vLLM over transformers, 16 requests": ratios(values["vllm_16"], values["transformers_16"]),
        "guided step in vLLM over base + ARM alone (goal <= 1.2)": ratios(values["guided_step"], alone),
    }
    store("vllm_decoding", __doc__ or "", rows, values)
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
