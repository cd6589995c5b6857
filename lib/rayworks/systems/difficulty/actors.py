"""What runs on the cluster: calibrations and refits in a pool, shards of subjects, and models answering through Ray Data."""

import json
import tempfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from transformers import PreTrainedModel

from rayworks.core.config import ComputeSection
from rayworks.core.errors import DataError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.fine_tuning import FineTuner, FineTuningOptions
from rayworks.lm.scoring import chat_prompt, encode
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.failures import Failure, classify
from rayworks.runtime.placement import device_of, keep_ray_data_in_the_placement_group, worker_options
from rayworks.systems.difficulty import new_subjects
from rayworks.systems.difficulty.answering.generalisation_items import BinnedItems, Item
from rayworks.systems.difficulty.answering.generalisation_report import BASE
from rayworks.systems.difficulty.calibration import bootstrap_refit, calibrate, fit_options
from rayworks.systems.difficulty.config import Config, EvaluationSection, set_name
from rayworks.systems.difficulty.evaluation import Row, score_answer
from rayworks.systems.difficulty.item_response.sharded_fit import Everywhere, Shard
from rayworks.systems.difficulty.rating_run import rate_games
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Duplicates
from rayworks.systems.difficulty.responses.sources import ResponseSet, read_games, read_responses

STATES = "states"
STATES_KEPT = 3


class CalibrationActor:
    """Reads sets and runs estimators on them; keeps nothing that another actor could not make again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._read = lru_cache(maxsize=4)(self._read_set)

    def calibrate(self, source: str) -> dict[str, Any]:
        """See :func:`~.calibration.calibrate`."""
        return calibrate(set_name(source), self._read(source)[0], self._config)

    def refits(self, call: tuple[str, int, int]) -> np.ndarray:
        """Difficulties of bootstrap refits number ``start`` to ``stop``, shape (stop - start, I)."""
        source, start, stop = call
        found, matrix = self._read(source)
        options, seed = fit_options(self._config), self._config.run.seed
        return np.array(
            [bootstrap_refit(found.responses, matrix, options, seed, number) for number in range(start, stop)]
        )

    def new_subjects(self, source: str) -> dict[str, Any]:
        """Subset errors, the subsets themselves, and the profiles of groups."""
        responses = self._read(source)[0].responses
        sizes = [size for size in self._config.subsets.sizes if size < len(responses.items)]
        return {
            "errors": new_subjects.subset_errors(responses, self._config),
            "subsets": {str(size): new_subjects.best_subset(responses, self._config, size) for size in sizes},
            "profiles": new_subjects.group_profiles(responses, self._config),
        }

    def rate(self, source: str) -> dict[str, Any]:
        """See :func:`~.rating_run.rate_games`."""
        players, periods, games = read_games(source)
        return rate_games(set_name(source), players, periods, games, self._config.ratings)

    def _read_set(self, source: str) -> tuple[ResponseSet, ResponseMatrix]:
        found = read_responses(source, self._config.data)
        return found, as_matrix(found.responses)


class ShardActor:
    """Holds shards; one that died starts empty and fetches its shards again when asked."""

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}

    def call(self, number: int, tables: list[Any], origin: tuple[Any, ...], method: str, *arguments: Any) -> Any:
        """A method of a shard, which is made from its parts at the first call."""
        if number not in self._shards:
            items, source, duplicates = origin
            whole = pd.concat(ray.get(tables), ignore_index=True)
            self._shards[number] = Shard(whole, items, source, number, duplicates)
        return getattr(self._shards[number], method)(*arguments)


def shards(source: str, config: Config, name: str) -> tuple[np.ndarray, Everywhere, ActorPool[Any, Any]]:
    """Read a table by Ray Data, parted by subject, into actors.

    Returns:
        item names; a function that calls a method of every shard; the pool, to be shut down.

    Raises:
        DataError: the source has no such columns.
    """
    read = ray.data.read_csv if source.endswith(".csv") else ray.data.read_parquet
    keep_ray_data_in_the_placement_group()
    data = read(source).materialize()
    columns = data.columns() or []
    missing = [column for column in ("subject", "item", "score") if column not in columns]
    if missing:
        raise DataError(f"{source}: has no column {', '.join(missing)}; found {', '.join(columns)}")
    count = config.data.shards
    part: Any = _part.options(num_returns=count + 1)
    parted: list[list[Any]] = [part.remote(block, count) for block in data.to_arrow_refs()]
    facts = ray.get([parts[0] for parts in parted])
    items = np.unique(np.concatenate([names for names, _ in facts]))
    filled = np.sum([sizes for _, sizes in facts], axis=0)
    tables = [[parts[1 + number] for parts in parted] for number in range(count) if filled[number]]
    pool: ActorPool[Any, Any] = ActorPool(
        ShardActor, size=config.compute.workers, name=name, options=worker_options(config.compute)
    )
    duplicates: Duplicates = config.data.duplicates
    origin = (items, source, duplicates)

    def everywhere(method: str, *arguments: Any) -> list[Any]:
        # References inside a list stay references: Ray would resolve bare ones at every call.
        calls = [
            pool.submit("call", number, parts, origin, method, *arguments, slot=number % config.compute.workers)
            for number, parts in enumerate(tables)
        ]
        return [call.result() for call in calls]

    return items, everywhere, pool


@ray.remote
def _part(table: Any, shards: int) -> list[Any]:
    """Item names and rows per shard of a block, then its rows by shard: a subject is in one shard, whatever its block."""
    block: pd.DataFrame = table.to_pandas()
    subjects, names = pd.factorize(block["subject"].astype(str))
    shard = np.array([zlib.crc32(name.encode()) % shards for name in names], dtype=int)[subjects]
    sizes = np.bincount(shard, minlength=shards)
    return [(block["item"].astype(str).unique(), sizes), *(block[shard == number] for number in range(shards))]


class Answering:
    """A model as a Ray Data stage: batches of prompts in, outputs beside them."""

    def __init__(self, model: str, section: EvaluationSection, compute: ComputeSection) -> None:
        limit_torch_threads()
        self._section = section
        self._engine = TransformersEngine(model, section.dtype, section.slots, None, device_of(compute))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Greedy answers to a batch; a prompt the model can not take has none, and any other failure comes as a value."""
        numbers, prompts = batch["number"], [str(prompt) for prompt in batch["prompt"]]
        outputs, failure = [""] * len(prompts), ""
        answered = [True] * len(prompts)
        try:
            outputs = self._generate(prompts)
        except DataError:
            for place, prompt in enumerate(prompts):
                try:
                    outputs[place] = self._generate([prompt])[0]
                except DataError:
                    answered[place] = False
        except Exception as error:
            # Ray Data passes on the text of an exception only: what kind it is would be lost.
            failure = json.dumps(vars(classify(error)))
        texts = np.array(outputs, dtype=object)
        return {
            "number": numbers,
            "output": texts,
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
                uid=str(place),
            )
            for place, prompt in enumerate(prompts)
        ]
        outputs = {generation.uid: generation.text for generation in self._engine.generate(requests)}
        return [outputs[str(place)] for place in range(len(prompts))]


class GeneralisationActor:
    """Tunes a model on the items of a bin, and answers items with the untuned or the tuned one.

    The state of training lives in the run directory, so that any actor can take it up or answer with it.
    """

    def __init__(self, config: Config, directory: RunDirectory, items: BinnedItems) -> None:
        limit_torch_threads()
        self._section, self._seed, self._device = config.generalisation, config.run.seed, device_of(config.compute)
        self._directory, self._items = directory, items
        self._asked = [item for bin_items in items.evaluation for item in bin_items]
        self._tokenizer = load_tokenizer(self._section.model)
        self._tuner: FineTuner | None = None
        self._engine: tuple[str, TransformersEngine] | None = None

    def train(self, call: tuple[int, int]) -> dict[str, float]:
        """Go from step ``start`` up to ``steps`` further and keep the state reached; loss and step."""
        start, steps = call
        tuner = self._tuner_at(start)
        metrics = tuner.train(steps)
        with tempfile.TemporaryDirectory() as scratch:
            tuner.save(Path(scratch))
            self._directory.put_folder(Path(scratch), f"{STATES}/{tuner.step:08d}")
        for name in [name for name in self._directory.list(STATES) if name.isdigit()][:-STATES_KEPT]:
            self._directory.remove_folder(f"{STATES}/{name}")
        return {**metrics, "step": tuner.step}

    def answer(self, call: tuple[str, int, int]) -> list[str]:
        """Greedy answers of the untuned or the tuned model to evaluation items number ``start`` to ``stop``."""
        model, start, stop = call
        # Where an answer is one line, what follows it can not make it right.
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
            options = FineTuningOptions(
                steps=section.steps,
                batch_size=section.batch_size,
                learning_rate=section.learning_rate,
                tuning=section.tuning,
            )
            examples = [encode(self._tokenizer, self._prompt(item), item.answer) for item in self._items.training]
            self._engine = None
            self._tuner = FineTuner(self._load(), examples, options, seed=self._seed)
            if step:
                with tempfile.TemporaryDirectory() as scratch:
                    self._tuner.load(self._directory.get_folder(f"{STATES}/{step:08d}", Path(scratch) / "state"))
        return self._tuner

    def _load(self) -> PreTrainedModel:
        return load_model(self._section.model, "float32", self._section.layers, self._device)

    def _prompt(self, item: Item) -> str:
        return chat_prompt(self._tokenizer, item.prompt) if self._section.chat else item.prompt


def answer(model: str, rows: list[Row], config: Config) -> list[Row]:
    """Prompt, engine, scorer as one Ray Data pipeline; result rows in the order of the items."""
    keep_ray_data_in_the_placement_group()
    section, compute = config.evaluation, config.compute
    numbered = [{"number": number, "prompt": row["prompt"]} for number, row in enumerate(rows)]
    size = max(1, min(4 * section.slots, -(-len(rows) // (2 * compute.workers))))
    options = worker_options(compute)
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
