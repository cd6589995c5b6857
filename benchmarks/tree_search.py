"""How fast is a search of many trees at once, against one question at a time, and against waiting for the slowest?

The same policy, questions, budget and statistics on all sides, one completion per simulation, one thread, one process.
The peer decodes as open search code does: one question, one completion at a time, by transformers' ``generate``, reading
each prompt anew. ``python -m benchmarks.tree_search [--repeats N]``.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import ray
import torch

from benchmarks.latency_engine import Cost, LatencyEngine
from benchmarks.results import ratios, spread, store
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.reasoning.config import Config, SearchSection
from rayworks.systems.reasoning.policy.recipe import make_policy
from rayworks.systems.reasoning.search.critics import Verifier
from rayworks.systems.reasoning.search.requests import Completion, Draw
from rayworks.systems.reasoning.search.scheduler import Scheduler, Search
from rayworks.systems.reasoning.search.services import LocalPolicy, LocalScorer
from rayworks.systems.reasoning.tasks.opening import open_task

CONFIG = Config()
TREES, ASKED, ONE_BY_ONE = 64, 128, 6
TASK = open_task(CONFIG.task, 0)
QUESTIONS = TASK.questions("search", 4 * TREES)
MANY, WORKERS = TASK.questions("search", 500), 4
SLEPT = 0.01
"""Seconds waited for each that the engine counts: a step of 64 rows takes 23 milliseconds."""


class Generate:
    """A policy as open code has it: ``generate``, one request after the other."""

    def __init__(self, folder: str) -> None:
        self._model, self._tokenizer = load_model(folder).eval(), load_tokenizer(folder)
        self._waiting: list[tuple[int, Draw]] = []

    def submit(self, ticket: int, uid: str, request: Draw) -> None:
        """Queue a request."""
        self._waiting.append((ticket, request))

    def collect(self, seconds: float) -> list[tuple[int, Completion]]:
        """Draw one."""
        ticket, draw = self._waiting.pop(0)
        prompt = torch.tensor([draw.request.prompt])
        sampling = {"do_sample": True, "top_k": 0} if draw.request.temperature else {"do_sample": False}
        torch.manual_seed(draw.request.seed)
        with torch.inference_mode():
            found = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=draw.request.max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                **sampling,
            )
        tokens = tuple(found[0, prompt.shape[1] :].tolist())
        ended = tokens[-1:] == (self._tokenizer.eos_token_id,)
        tokens = tokens[:-1] if ended else tokens
        return [(ticket, Completion(tokens, (0.0,) * len(tokens), ended))]


class Timed:
    """A service, and how long it worked."""

    def __init__(self, service: Any) -> None:
        self._service, self.seconds, self.calls = service, 0.0, 0
        self.submit = service.submit

    def collect(self, seconds: float) -> Any:
        """As the service does."""
        began = time.process_time()
        found = self._service.collect(seconds)
        self.seconds += time.process_time() - began
        self.calls += 1
        return found


def search(
    section: SearchSection, policy: Any, questions: Sequence[Any], tokenizer: Any, seed: int = 0
) -> tuple[list[Search], float]:
    """Searches, and the CPU seconds they took."""
    critics = [Verifier(TASK)]
    scheduler = Scheduler(
        section, TASK, policy, LocalScorer(critics), critics, tokenizer, CONFIG.recipe.positions, seed
    )
    began = time.process_time()
    found = list(scheduler.run(questions))
    return found, time.process_time() - began


def simulations(found: Sequence[Search]) -> int:
    """That were made."""
    return sum(one.simulations for one in found)


def solved(found: Sequence[Search]) -> float:
    """Share of the questions."""
    return sum(any(answer.correct for answer in one.answers) for one in found) / len(found)


def measure(folder: str, repeat: int) -> dict[str, float]:
    """One repeat of everything: CPU milliseconds of a simulation, and what else a search tells."""
    tokenizer = load_tokenizer(folder)
    some = QUESTIONS[repeat * ASKED % len(QUESTIONS) :][:ASKED]
    values: dict[str, float] = {}
    for name, mode, count, leaves in (
        ("ours", "asynchronous", ASKED, 1),
        ("barrier", "barrier", ASKED, 1),
        ("width4", "asynchronous", ASKED, 4),
        ("sixteen", "asynchronous", 16, 1),
        ("alone", "serial", ONE_BY_ONE, 1),
    ):
        engine = TransformersEngine(folder, slots=TREES, keep_prefixes=True)
        section = CONFIG.search.model_copy(update={"mode": mode, "leaves": leaves, "open_trees": TREES})
        policy = Timed(LocalPolicy(engine.decoding))
        found, seconds = search(section, policy, some[:count], tokenizer)
        values[name] = 1000 * seconds / simulations(found)
        values[f"{name}_solved"] = solved(found)
        values[f"{name}_reuse"] = engine.model.prefixes.reused_share
        values[f"{name}_outside"] = (seconds - policy.seconds) / policy.seconds
    section = CONFIG.search.model_copy(update={"mode": "serial"})
    found, seconds = search(section, Generate(folder), some[:ONE_BY_ONE], tokenizer)
    values["generate"] = 1000 * seconds / simulations(found)
    return values


def model_of_costs(folder: str) -> dict[str, float]:
    """Share of the ideal that each mode reaches with an engine that only counts: 256 questions, 64 slots."""
    found, tokenizer = {}, load_tokenizer(folder)
    for mode in ("asynchronous", "barrier", "serial"):
        engine = LatencyEngine(Cost(), tokenizer.convert_tokens_to_ids("\n"))
        section = CONFIG.search.model_copy(update={"mode": mode, "open_trees": TREES})
        search(section, engine, QUESTIONS, tokenizer)
        found[mode] = engine.ideal_seconds() / engine.seconds
    return found


class Worker:
    """Searches a part of the questions by an engine of its own, which sleeps for what a step costs."""

    def search(self, folder: str, questions: Sequence[Any]) -> tuple[float, float]:
        """Seconds of the whole, and the mean of a tree's."""
        tokenizer = load_tokenizer(folder)
        engine = LatencyEngine(Cost(slept=SLEPT), tokenizer.convert_tokens_to_ids("\n"))
        section = CONFIG.search.model_copy(update={"mode": "asynchronous", "open_trees": TREES})
        began = time.perf_counter()
        found, _ = search(section, engine, questions, tokenizer)
        return time.perf_counter() - began, sum(one.seconds for one in found) / len(found)


def over_workers(folder: str) -> tuple[float, float]:
    """500 trees on four actors: seconds of a tree over those of one actor that searches a quarter, and how many times faster
    than one actor that searched all four quarters.
    """
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        workers: list[Any] = [ray.remote(Worker).options(num_cpus=1).remote() for _ in range(WORKERS)]
        parts = [MANY[place::WORKERS] for place in range(WORKERS)]
        ray.get([worker.search.remote(folder, part[:1]) for worker, part in zip(workers, parts, strict=True)])
        alone = [ray.get(workers[0].search.remote(folder, part)) for part in parts]
        together = ray.get([worker.search.remote(folder, part) for worker, part in zip(workers, parts, strict=True)])
    finally:
        ray.shutdown()
    slower = sum(tree for _, tree in together) / sum(tree for _, tree in alone)
    return slower, sum(whole for whole, _ in alone) / max(whole for whole, _ in together)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args(arguments).repeats
    torch.set_num_threads(1)
    folder = str(make_policy(CONFIG.recipe, TASK, 0))
    measure(folder, 0)  # what is loaded on first use is loaded
    found = [measure(folder, repeat) for repeat in range(repeats)]
    columns = {name: [one[name] for one in found] for name in found[0]}
    ideal = model_of_costs(folder)
    slower, faster = over_workers(folder)
    rows = {
        "CPU ms a simulation, 64 trees at once": columns["ours"],
        "64 trees, against one question at a time by generate (goal 12)": ratios(columns["generate"], columns["ours"]),
        "64 trees, against one question at a time on our engine": ratios(columns["alone"], columns["ours"]),
        "64 trees, against waiting for the slowest": ratios(columns["barrier"], columns["ours"]),
        "share of prompt tokens reused (goal .85)": columns["ours_reuse"],
        "scheduler over engine at 16 rows (goal <= 0.05)": columns["sixteen_outside"],
        "solved, one completion of a tree at a time": columns["ours_solved"],
        "solved, four at a time": columns["width4_solved"],
        "share of the ideal, engine that only counts (goal .9)": [ideal["asynchronous"]],
        "share of the ideal, waiting for the slowest": [ideal["barrier"]],
        "500 trees on 4 workers: seconds of a tree, over a quarter of them on one (goal 1)": [slower],
        "500 trees on 4 workers: times faster than on one": [faster],
    }
    store("tree_search", __doc__ or "", rows, columns)
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
