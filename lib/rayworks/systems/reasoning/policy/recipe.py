"""The policy that search improves: made once from a recipe, kept in the cache, never shipped as weights."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from rayworks.core import cache, seeds
from rayworks.core.errors import DataError
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.scoring import EncodedResponse, encode, hidden_states, output_logits
from rayworks.lm.training import TuningOptions
from rayworks.systems.reasoning.config import RecipeSection
from rayworks.systems.reasoning.policy.characters import character_tokenizer, require_known
from rayworks.systems.reasoning.tasks.questions import Split, Task

_VERSION = 1
"""Of what is done here; a new one makes all policies anew."""
_SPREAD = 0.05
"""Of the first weights: with the usual 0.02, so narrow a model had learnt nothing after 400 steps with one seed of three."""
Traces = list[tuple[str, str]]


def make_policy(section: RecipeSection, task: Task, seed: int) -> Path:
    """The folder of a policy that learnt a task's solutions, with its tokenizer, for transformers to load.

    Made at the first call for a recipe, the texts it learns, and a seed. Training ends once the accuracy is reached, since
    where seeds take off differs by hundreds of steps, and a policy at its plateau leaves search little to find.

    Raises:
        DataError: the task has too few questions, a solution is missing, longer than the policy, or has characters that
            it does not know, or the cache cannot be written.
    """
    learnt = _traces(section, task, "supervision", section.traces)
    held_out = _traces(section, task, "validation", section.validation)
    said = json.dumps([_VERSION, section.model_dump(mode="json"), seed, learnt, held_out])
    name = f"reasoning-{hashlib.sha256(said.encode()).hexdigest()[:16]}"

    def build(folder: Path) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more would add up in another order, to another policy
        try:
            with torch.random.fork_rng(devices=[]):
                _train(section, learnt, held_out, seed, folder)
        finally:
            torch.set_num_threads(threads)

    return cache.make_once(cache.root() / "models" / name, build)


def share_solved(model: PreTrainedModel, rows: Sequence[EncodedResponse]) -> float:
    """The share of rows whose response, to its end, is what greedy decoding would write."""
    with torch.inference_mode():
        likeliest = output_logits(model, hidden_states(model, rows)).argmax(dim=-1).tolist()
    return sum(
        tuple(tokens[len(row.prompt) - 1 : len(row) - 1]) == row.response
        for row, tokens in zip(rows, likeliest, strict=True)
    ) / len(rows)


def _traces(section: RecipeSection, task: Task, split: Split, count: int) -> Traces:
    traces = []
    for question in task.questions(split, count):
        solution = task.solution(question)
        if not solution:
            raise DataError(f"question {question.uid}: has no written-out solution to learn; name a policy of your own")
        if len(question.prompt) + len(solution) >= section.positions:
            raise DataError(
                f"question {question.uid}: is longer with its solution than recipe.positions {section.positions}; raise it"
            )
        traces.append((question.prompt, solution))
    require_known("".join(text for trace in traces for text in trace))
    return traces


def _train(section: RecipeSection, learnt: Traces, held_out: Traces, seed: int, folder: Path) -> None:
    tokenizer = character_tokenizer(section.positions)
    torch.manual_seed(seeds.derive_small(seed, "recipe", "weights"))
    model = LlamaForCausalLM(_shape(section, tokenizer))
    options = TuningOptions(
        learning_rate=section.learning_rate,
        total_steps=section.steps,
        warmup_steps=min(section.warmup_steps, section.steps - 1),
        weight_decay=section.weight_decay,
        train_embeddings=True,
    )
    tuner = FineTuner(
        model,
        [Example(encode(tokenizer, *trace)) for trace in learnt],
        options,
        batch_size=section.batch_size,
        seed=seeds.derive_small(seed, "recipe", "learning"),
    )
    measured = [encode(tokenizer, *trace) for trace in held_out]
    while not tuner.finished:
        tuner.train(section.steps_per_check)
        model = tuner.tuned()
        promising = (
            share_solved(model, measured[::5]) >= section.accuracy / 2
        )  # a fifth of the cost while there is none
        if promising and share_solved(model, measured) >= section.accuracy:
            break
    tuner.export(folder, tokenizer)


def _shape(section: RecipeSection, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=section.width,
        intermediate_size=3 * section.width,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        max_position_embeddings=section.positions,
        initializer_range=_SPREAD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
