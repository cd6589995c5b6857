"""The policy that search improves: made once from a recipe, kept in the cache, never shipped as weights."""

import hashlib
import json
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rayworks.core import cache, seeds
from rayworks.core.errors import DataError
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import TuningOptions
from rayworks.systems.reasoning.config import RecipeSection
from rayworks.systems.reasoning.policy.characters import character_tokenizer, require_known
from rayworks.systems.reasoning.tasks.questions import Task

_VERSION = 1
"""Of what is done here; a new one makes all policies anew."""


def make_policy(section: RecipeSection, task: Task, seed: int) -> Path:
    """The folder of a policy that learnt a task's solutions, with its tokenizer, for transformers to load.

    Made at the first call for a recipe, the texts it learns, and a seed.

    Raises:
        DataError: the task has too few questions, a solution is missing, longer than the policy, or has characters that
            it does not know, or the cache cannot be written.
    """
    traces = _traces(section, task)
    said = json.dumps([_VERSION, section.model_dump(mode="json"), seed, traces])
    name = f"reasoning-{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    return cache.make_once(cache.root() / "models" / name, lambda folder: _train(section, traces, seed, folder))


def _traces(section: RecipeSection, task: Task) -> list[tuple[str, str]]:
    traces = []
    for question in task.questions("supervision", section.traces):
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


def _train(section: RecipeSection, traces: list[tuple[str, str]], seed: int, folder: Path) -> None:
    tokenizer = character_tokenizer(section.positions)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=section.width,
        intermediate_size=3 * section.width,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        max_position_embeddings=section.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive_small(seed, "recipe", "weights"))
        model = LlamaForCausalLM(shape)
        prompts, solutions = (tokenizer(list(texts))["input_ids"] for texts in zip(*traces, strict=True))
        end = tokenizer.eos_token_id
        examples = [
            Example(EncodedResponse(tuple(prompt), (*solution, end)))
            for prompt, solution in zip(prompts, solutions, strict=True)
        ]
        options = TuningOptions(
            learning_rate=section.learning_rate,
            total_steps=section.steps,
            warmup_steps=min(section.warmup_steps, section.steps - 1),
            weight_decay=section.weight_decay,
            train_embeddings=True,
        )
        learning_seed = seeds.derive_small(seed, "recipe", "learning")
        tuner = FineTuner(model, examples, options, batch_size=section.batch_size, seed=learning_seed)
        tuner.train(section.steps)
    tuner.export(folder, tokenizer)
