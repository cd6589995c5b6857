"""Actors with language models: one answers behind Ray Data, one is tuned bin by bin."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray
from transformers import PreTrainedModel

from rayworks.core.config import ComputeSection
from rayworks.core.errors import DataError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.engines import open_engine
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.scoring import chat_prompt, encode
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.training import ALONE, Shard, TuningOptions, keep_state, take_up_state
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.runtime.data_parallel import place, train_in_step
from rayworks.runtime.failures import Failure, classify
from rayworks.runtime.placement import device_of, engine_options, keep_ray_data_in_the_placement_group
from rayworks.systems.difficulty.answering.generalisation_items import BinnedItems, Item
from rayworks.systems.difficulty.answering.generalisation_report import BASE
from rayworks.systems.difficulty.config import Config, EvaluationSection
from rayworks.systems.difficulty.evaluation import Row, score_answer

STATES, TRAINING, RECORDS = "states", "training", "training/records"
WARMUP_SHARE = 0.1


class Answering:
    """A model as a Ray Data stage: batches of prompts in, outputs beside them."""

    def __init__(self, model: str, section: EvaluationSection, compute: ComputeSection) -> None:
        limit_torch_threads()
        self._section = section
        self._engine = open_engine(section, model, section.dtype, section.slots, device_of(compute))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Greedy answers to a batch; a prompt the model cannot take has none, and any other failure comes as a value."""
        numbers, prompts = batch["number"], [str(prompt) for prompt in batch["prompt"]]
        outputs, failure = [""] * len(prompts), ""
        answered = [True] * len(prompts)
        try:
            outputs = self._generate(prompts)
        except DataError:
            for position, prompt in enumerate(prompts):
                try:
                    outputs[position] = self._generate([prompt])[0]
                except DataError:
                    answered[position] = False
        except Exception as error:
            # Ray Data passes on the text of an exception only: what kind it is would be lost.
            failure = json.dumps(vars(classify(error)))
        return {
            "number": numbers,
            "output": np.array(outputs, dtype=object),
            "answered": np.array(answered),
            "failure": np.array([failure] * len(prompts)),
        }

    def _generate(self, prompts: list[str]) -> list[str]:
        requests = [
            GenerationRequest(
                prompt=chat_prompt(self._engine.tokenizer, prompt),
                max_new_tokens=self._section.max_new_tokens,
                temperature=0.0,
                seed=0,
                uid=str(position),
            )
            for position, prompt in enumerate(prompts)
        ]
        outputs = {generation.uid: generation.text for generation in self._engine.generate(requests)}
        return [outputs[str(position)] for position in range(len(prompts))]


def scores_of_model(
    model: str, section: EvaluationSection, rows: Mapping[str, Row]
) -> Callable[[Sequence[str]], list[float]]:
    """A language model that answers items, and the benchmark's scorer; an item it cannot take counts as not solved.

    Args:
        model: catalogue name, hub id or folder.
        section: benchmark, engine and length of an answer.
        rows: of the benchmark by item; see :func:`~.evaluation.benchmark_rows`.
    """
    engine = Answering(model, section, ComputeSection())

    def scored(names: Sequence[str]) -> list[float]:
        prompts = np.array([rows[name]["prompt"] for name in names], dtype=object)
        found = engine({"number": np.arange(len(names)), "prompt": prompts})
        if found["failure"][0]:
            raise Failure(**json.loads(found["failure"][0])).as_error()
        outputs = zip(names, found["output"], found["answered"], strict=True)
        return [
            float(answered and score_answer(section.benchmark, rows[name], str(output))["correct"])
            for name, output, answered in outputs
        ]

    return scored


class GeneralisationActor:
    """Tunes a model on the items of a bin, or its part of it, and answers items with the untuned or the tuned one.

    The state of training lives in the run directory, so that any actor can take it up or answer with it.
    """

    def __init__(self, config: Config, directory: RunDirectory, items: BinnedItems, shard: Shard = ALONE) -> None:
        limit_torch_threads()
        self._section, self._seed, self._device = config.generalisation, config.run.seed, device_of(config.compute)
        self._directory, self._items, self._shard = directory, items, shard
        self._asked = [item for bin_items in items.evaluation for item in bin_items]
        self._tokenizer = load_tokenizer(self._section.model)
        self._tuner: FineTuner | None = None
        self._engine: tuple[str, TransformersEngine] | None = None

    def train(self, call: tuple[int, int]) -> dict[str, float]:
        """Go from step ``start`` up to ``steps`` further; the first worker keeps the state reached. Loss and step."""
        start, steps = call
        tuner = self._tuner_at(start)
        metrics = tuner.train(steps)
        if self._shard.rank == 0:
            keep_state(tuner, self._directory, STATES)
        return {**metrics, "step": tuner.step}

    def answer(self, call: tuple[str, int, int]) -> list[str]:
        """Greedy answers of the untuned or the tuned model to evaluation items number ``start`` to ``stop``."""
        model, start, stop = call
        # Where an answer is one line, what follows it cannot make it right.
        stops = () if any(item.content is not None or "\n" in item.answer for item in self._asked) else ("\n",)
        requests = [
            GenerationRequest(
                prompt=self._prompt(item), max_new_tokens=self._section.max_new_tokens, temperature=0.0, stop=stops
            )
            for item in self._asked[start:stop]
        ]
        return [generation.text for generation in self._engine_of(model).generate(requests)]

    def _engine_of(self, name: str) -> TransformersEngine:
        if self._engine is None or self._engine[0] != name:
            model = self._load() if name == BASE else self._tuner_at(self._section.steps).tuned()
            # The engine repacks the weights.
            self._tuner = None
            self._engine = (name, TransformersEngine.holding(model, self._tokenizer, self._section.slots))
        return self._engine[1]

    def _tuner_at(self, step: int) -> FineTuner:
        if self._tuner is None or self._tuner.step != step:
            section = self._section
            options = TuningOptions(
                learning_rate=section.learning_rate,
                total_steps=section.steps,
                warmup_steps=round(WARMUP_SHARE * section.steps),
                tuning=section.tuning,
            )
            texts = [encode(self._tokenizer, self._prompt(item), item.answer) for item in self._items.training]
            examples = [Example(text) for text in texts]
            self._engine = None
            self._tuner = FineTuner(
                self._load(), examples, options, batch_size=section.batch_size, seed=self._seed, shard=self._shard
            )
            take_up_state(self._tuner, self._directory, STATES, step)
        return self._tuner

    def _load(self) -> PreTrainedModel:
        return load_model(self._section.model, "float32", self._section.layers, self._device)

    def _prompt(self, item: Item) -> str:
        return chat_prompt(self._tokenizer, item.prompt) if self._section.chat else item.prompt


def training_loop(arguments: Mapping[str, Any], directory: RunDirectory, folder: str) -> None:
    """Tune the model by all workers in step; see :class:`~.data_parallel.DataParallel`.

    Args:
        arguments: ``config`` and ``items``.
        folder: of the training; its records are in :data:`RECORDS`.
    """
    config: Config = arguments["config"]
    section = config.generalisation
    worker = GeneralisationActor(config, directory, arguments["items"], Shard(*place()))
    train_in_step(lambda start: worker.train((start, section.steps_per_checkpoint)), section.steps, directory, RECORDS)


def answer(model: str, rows: list[Row], config: Config) -> list[Row]:
    """Prompt, engine, scorer as one Ray Data pipeline; result rows in the order of the items."""
    keep_ray_data_in_the_placement_group()
    section, compute = config.evaluation, config.compute
    numbered = [{"number": number, "prompt": row["prompt"]} for number, row in enumerate(rows)]
    size = max(1, min(4 * section.slots, -(-len(rows) // (2 * compute.workers))))
    options = engine_options(compute, section)
    outputs = ray.data.from_items(numbered, override_num_blocks=max(1, -(-len(rows) // size))).map_batches(
        Answering,
        fn_constructor_args=(model, section, compute),
        batch_size=size,
        compute=ray.data.ActorPoolStrategy(size=compute.workers),
        **{key: value for key, value in options.items() if key != "runtime_env"},
        runtime_env=options["runtime_env"],
    )
    kept = ray.put(rows)
    benchmark = section.benchmark

    def scored(record: dict[str, Any]) -> dict[str, Any]:
        row = ray.get(kept)[int(record["number"])]
        passed = {key: record[key] for key in ("number", "answered", "failure")}
        return {**passed, **score_answer(benchmark, row, str(record["output"]))}

    found = outputs.map(scored, num_cpus=0, concurrency=compute.workers).take_all()
    failed = next((record["failure"] for record in found if record["failure"]), None)
    if failed is not None:
        raise Failure(**json.loads(failed)).as_error()
    found.sort(key=lambda record: int(record["number"]))
    return [{key: value for key, value in record.items() if key not in ("number", "failure")} for record in found]
