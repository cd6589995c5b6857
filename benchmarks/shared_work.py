"""What does it save that rows share prefixes, one base under many adapters, and one backward?

The peer of each is the same engine without the sharing: prompts read anew, merged models one after the other, prompts one
at a time. One thread, one process. ``python -m benchmarks.shared_work [--repeats N]``.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.lm.adapters import BASE as NO_ADAPTER
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.gradients import GradientRequest, token_gradients
from rayworks.lm.transformers_engine import TransformersEngine

MODEL, SLOTS = "smollm2-135m-instruct", 16
ROWS, PREFIX, NEW = 64, 400, 16
NODES, DEPTH, STEP, ROOT = 200, 6, 12, 80
ADAPTERS, RANK = 8, 16
PROMPTS, PROMPT, HEADER, TARGET, SYSTEM = 16, 28, 4, 8, 32
DRAW = seeds.stream(0, "shared work")


def ids(count: int) -> tuple[int, ...]:
    """Random tokens."""
    return tuple(DRAW.integers(1000, 40_000, count).tolist())


def timed(run: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def engine_of(gib: float, *, keep: bool = False) -> TransformersEngine:
    """An engine with so much memory for prefixes."""
    return TransformersEngine(MODEL, slots=SLOTS, prefix_gib=gib, keep_prefixes=keep)


def one_prefix(engine: TransformersEngine, prefix: tuple[int, ...], endings: Sequence[tuple[int, ...]]) -> None:
    """Requests that begin alike."""
    engine.generate(
        [
            GenerationRequest(prompt=prefix + ending, max_new_tokens=NEW, seed=n, ignore_end=True)
            for n, ending in enumerate(endings)
        ]
    )


def tree_search(engine: TransformersEngine, root: tuple[int, ...]) -> None:
    """Grow a tree by a level at a time, all nodes of a level together: each continues its parent's text by a step."""
    engine.model.prefixes.clear()
    level, left = [root], NODES
    per_level = -(-NODES // DEPTH)
    for depth in range(DEPTH):
        count = min(left, per_level)
        prompts = [level[n % len(level)] for n in range(count)]
        found = engine.generate(
            [
                GenerationRequest(prompt=prompt, max_new_tokens=STEP, seed=1000 * depth + n, ignore_end=True)
                for n, prompt in enumerate(prompts)
            ]
        )
        level = [prompt + drawn.token_ids for prompt, drawn in zip(prompts, found, strict=True)]
        left -= count


def save_adapters(folder: Path) -> list[Path]:
    """Random adapters of all linear layers."""
    layers = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    folders = []
    for number in range(ADAPTERS):
        torch.manual_seed(number)
        config = LoraConfig(r=RANK, lora_alpha=32, target_modules=layers, init_lora_weights=False)
        get_peft_model(load_model(MODEL), config).save_pretrained(folder / str(number))
        folders.append(folder / str(number))
    return folders


def step_seconds(models: Sequence[CausalModel], rows: int, adapters: Sequence[int], steps: int = 16) -> float:
    """Seconds of a step of ``rows`` rows on every model in turn."""
    slots = list(range(rows))
    for model in models:
        for slot in slots:
            model.release(slot, adapters[slot])
        model.feed(slots, [[5 + slot] * 8 for slot in slots])
    return timed(lambda: [model.feed(slots, [[7]] * rows) for _ in range(steps) for model in models]) / steps


def gradients(model: CausalModel, requests: Sequence[GradientRequest], *, together: bool) -> None:
    """All in one backward, or one after the other."""
    for batch in [requests] if together else [[request] for request in requests]:
        token_gradients(model, batch)


def by_one_hots(model: PreTrainedModel, requests: Sequence[GradientRequest]) -> None:
    """What a user would write: a prompt at a time, all of it, with the one-hot of the position as the leaf."""
    table = model.get_input_embeddings().weight
    for request in requests:
        tokens = torch.tensor(request.tokens)
        one_hot = (
            torch.nn.functional.one_hot(tokens[list(request.positions)], len(table)).to(table.dtype).requires_grad_()
        )
        embedded = table[tokens].detach().index_put((torch.tensor(request.positions),), one_hot @ table.detach())
        start = len(tokens) - request.target_tokens
        logits = model(inputs_embeds=embedded[None], use_cache=False).logits[0, start - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(-1, tokens[start:, None])
        torch.autograd.grad(logprobs.sum(), one_hot)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    names = (
        "prefix",
        "prefix_apart",
        "tree",
        "tree_apart",
        "base",
        "rows",
        "merged",
        "gradients",
        "gradients_apart",
        "one_hots",
    )
    seconds: dict[str, list[float]] = {name: [] for name in names}
    sharing, kept, apart = engine_of(1.0), engine_of(1.0, keep=True), engine_of(0.0)
    with tempfile.TemporaryDirectory() as scratch:
        folders = save_adapters(Path(scratch))
        adapted = CausalModel(load_model(MODEL), SLOTS, adapters=ADAPTERS)
        for folder in folders:
            adapted.adapters.add(folder.name, folder)
        each = SLOTS // ADAPTERS
        merged = [
            CausalModel(PeftModel.from_pretrained(load_model(MODEL), str(folder)).merge_and_unload(), each)
            for folder in folders
        ]
    plain, own = [NO_ADAPTER] * SLOTS, [1 + slot // each for slot in range(SLOTS)]
    trainable, system = CausalModel(load_model(MODEL), PROMPTS, pack_layers=False), ids(SYSTEM)
    asked = [
        GradientRequest(system + ids(PROMPT + TARGET), TARGET, (SYSTEM + PROMPT - HEADER - 1,)) for _ in range(PROMPTS)
    ]
    token_gradients(trainable, asked[:1])
    for repeat in range(options.repeats):
        prefix, endings, root = ids(PREFIX), [ids(4) for _ in range(ROWS)], ids(ROOT)
        runs: dict[str, Callable[[], object]] = {
            "prefix": partial(one_prefix, sharing, prefix, endings),
            "prefix_apart": partial(one_prefix, apart, prefix, endings),
            "tree": partial(tree_search, kept, root),
            "tree_apart": partial(tree_search, apart, root),
            "gradients": partial(gradients, trainable, asked, together=True),
            "gradients_apart": partial(gradients, trainable, asked, together=False),
            "one_hots": partial(by_one_hots, trainable.model, asked),
        }
        for name, run in runs.items():
            trainable.prefixes.clear()
            seconds[name].append(timed(run))
        seconds["base"].append(step_seconds([adapted], SLOTS, plain))
        seconds["rows"].append(step_seconds([adapted], SLOTS, own))
        seconds["merged"].append(step_seconds(merged, each, plain))
        print(
            f"repeat {repeat + 1}: " + "  ".join(f"{name} {found[-1]:.3g}" for name, found in seconds.items()),
            flush=True,
        )
    rows = {
        "64 requests of one 400-token prefix, against each reading it (goal 3)": ratios(
            seconds["prefix_apart"], seconds["prefix"]
        ),
        "tree of 200 nodes, depth 6, against reading every path (goal 2)": ratios(
            seconds["tree_apart"], seconds["tree"]
        ),
        "8 adapters, 16 rows, against 8 merged models in turn (goal 2)": ratios(seconds["merged"], seconds["rows"]),
        "8 adapters, 16 rows, over the base alone (goal <= 1.35)": ratios(seconds["rows"], seconds["base"]),
        "gradients of 16 prompts, against one-hots a prompt at a time (goal 4)": ratios(
            seconds["one_hots"], seconds["gradients"]
        ),
        "gradients of 16 prompts, against ours one at a time": ratios(seconds["gradients_apart"], seconds["gradients"]),
    }
    shares = {
        "tree_reused_share": kept.model.prefixes.reused_share,
        "prefix_reused_share": sharing.model.prefixes.reused_share,
    }
    store("shared_work", __doc__ or "", rows, {**seconds, **shares})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    load_tokenizer(MODEL)
    sys.exit(main())
