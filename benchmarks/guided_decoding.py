"""How fast is guided decoding against what a user would write today?

The peer is transformers ``generate`` with a ``LogitsProcessor`` that runs a cached second model. Same weights, prompts,
lengths and dtype, one thread, in this process. ``python -m benchmarks.guided_decoding [--prompts N] [--repeats N]``.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicCache

from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedRequest

BASE, LAYERS, WEIGHT, BATCH = "smollm2-135m-instruct", 8, 1.0, 8
WORDS = """the dress is warm and the colour of this shirt was lovely but its fabric felt thin after one wash""".split()


class SecondModel(LogitsProcessor):
    """What a user would write: keep a cache for the reward model and add its logits."""

    def __init__(self, model: PreTrainedModel, weight: float, mask: torch.Tensor) -> None:
        self._model, self._weight, self._mask = model, weight, mask
        self._cache: DynamicCache | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Called by ``generate`` before each token."""
        if self._cache is None:
            self._cache, new = DynamicCache(config=self._model.config), input_ids
        else:
            new = input_ids[:, -1:]
            self._mask = torch.cat([self._mask, self._mask.new_ones((len(new), 1))], dim=-1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
        output = self._model(
            new,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        mixed: torch.Tensor = scores + self._weight * output.logits[:, -1].float()
        return mixed


def workload(prompts: int) -> list[tuple[str, int]]:
    """Ragged prompts of 4-20 words, and ragged lengths of 8-64 tokens."""
    draw = seeds.stream(0, "benchmark", "guided-decoding")
    return [
        (" ".join(draw.choice(WORDS, int(draw.integers(4, 21)))), int(draw.integers(8, 65))) for _ in range(prompts)
    ]


def peer(
    base: PreTrainedModel, arm: PreTrainedModel, tokenizer: Any, work: Sequence[tuple[str, int]], batch: int
) -> int:
    """Static batches of left-padded prompts; a batch ends with its longest row. Returns the tokens asked for."""
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    for start in range(0, len(work), batch):
        rows = work[start : start + batch]
        encoded = tokenizer([prompt for prompt, _ in rows], return_tensors="pt", padding=True)
        length = max(length for _, length in rows)
        base.generate(
            **encoded,
            do_sample=True,
            top_k=0,
            min_new_tokens=length,
            max_new_tokens=length,
            pad_token_id=tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([SecondModel(arm, WEIGHT, encoded["attention_mask"])]),
        )
    return sum(length for _, length in work)


def ours(engine: GuidedEngine, work: Sequence[tuple[str, int]], weight: float) -> int:
    """Continuous batches; the end token is not drawn, so that both sides write the same lengths."""
    requests = [
        GuidedRequest(prompt=prompt, max_new_tokens=length, seed=n, ignore_end=True, guidance=Guidance({"arm": weight}))
        for n, (prompt, length) in enumerate(work)
    ]
    return sum(len(found.token_ids) for found in engine.generate(requests))


def timed(run: Callable[[], int]) -> float:
    """Tokens per second of one run."""
    started = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - started)


def step_seconds(engine: GuidedEngine, models: Sequence[int], steps: int = 24) -> float:
    """Seconds per step of full batches of the given models alone: the cost that guidance can not go below."""
    slots = list(range(BATCH))
    for model in models:
        engine.models[model].feed(slots, [[5 + row] * 12 for row in slots])
    started = time.perf_counter()
    for _ in range(steps):
        for model in models:
            engine.models[model].feed(slots, [[7]] * BATCH)
    elapsed = (time.perf_counter() - started) / steps
    for used in engine.models:
        for slot in slots:
            used.release(slot)
    return elapsed


def guided_step_seconds(engine: GuidedEngine, steps: int = 24) -> float:
    """Seconds per step of a full guided batch, sampling and report included, prefill not."""
    for row in range(BATCH):
        request = GuidedRequest(
            prompt=f"{WORDS[row]} dress",
            max_new_tokens=steps + 2,
            seed=row,
            ignore_end=True,
            guidance=Guidance({"arm": WEIGHT}),
        )
        engine.decoding.submit(engine.row(request))
    engine.decoding.step()
    started = time.perf_counter()
    for _ in range(steps):
        engine.decoding.step()
    elapsed = (time.perf_counter() - started) / steps
    engine.decoding.drain()
    return elapsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(BASE)
    work = workload(options.prompts)
    base, arm = load_model(BASE), load_model(BASE, layers=LAYERS)
    with tempfile.TemporaryDirectory() as folder:
        arm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        engine = GuidedEngine(BASE, {"arm": folder}, slots=BATCH)
    values: dict[str, list[float]] = {name: [] for name in ("ours", "peer_batch_1", "peer_batch_8", "overhead")}
    ours(engine, work[:2], WEIGHT)
    peer(base, arm, tokenizer, work[:1], 1)
    for repeat in range(options.repeats):
        values["ours"].append(timed(lambda: ours(engine, work, WEIGHT)))
        values["peer_batch_8"].append(timed(lambda: peer(base, arm, tokenizer, work, BATCH)))
        values["peer_batch_1"].append(timed(lambda: peer(base, arm, tokenizer, work[:8], 1)))
        alone = step_seconds(engine, [0]) + step_seconds(engine, [1])
        values["overhead"].append(guided_step_seconds(engine) / alone)
        print(
            f"repeat {repeat + 1}: " + "  ".join(f"{name} {seen[-1]:.2f}" for name, seen in values.items()), flush=True
        )
    memory = {
        "weights_and_cache_mib": sum(model.nbytes() for model in engine.models) / 2**20,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
    }
    rows = {
        "tokens/s, ours, batch 8": values["ours"],
        "against peer at batch 1 (goal 4)": ratios(values["ours"], values["peer_batch_1"]),
        "against peer at batch 8, ragged lengths (goal 1.3)": ratios(values["ours"], values["peer_batch_8"]),
        "guided step over base + ARM alone (goal <= 1.15)": values["overhead"],
    }
    store("guided_decoding", __doc__ or "", rows, {**values, **memory})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    print(
        f"memory, both sides loaded: {memory['weights_and_cache_mib']:.0f} MiB weights and cache, "
        f"{memory['peak_rss_mib']:.0f} MiB peak"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
