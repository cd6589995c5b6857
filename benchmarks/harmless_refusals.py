"""What does a harmless prompt that is refused cost, in lock-step against one at a time, and against paraphrase and filter?

The target is SmolLM2 made over-cautious, which refuses eight words in any sense; the toy is a model of some seventy words.
Prompts of the loop are the same. The rival draws paraphrases of the same seeds from the same content model; both count what
the target refuses in its reply, and what asking it costs. The vocabulary is scanned once per target: finds per
second are shown without the scan, as for many prompts, and with all of it counted for these few. CPU time, one thread, one
process. ``python -m benchmarks.harmless_refusals [--repeats N]``.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from benchmarks.results import ratios, spread, store
from rayworks.systems.refusal.generator.generation import Generated, generate
from rayworks.systems.refusal.generator.options import GeneratorOptions
from rayworks.systems.refusal.generator.rival import draw_paraphrases
from rayworks.systems.refusal.generator.vocabulary_scan import likely_words, scan_vocabulary
from rayworks.systems.refusal.targets import overcautious, planted
from rayworks.systems.refusal.targets.opening import Target, open_target
from rayworks.systems.refusal.targets.own_refusals import given_refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed, read_seeds

PROMPTS, ROUNDS, WORDS = 24, 4, 1500
OPTIONS = GeneratorOptions(together=PROMPTS)
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and its CPU seconds."""
    started = time.process_time()
    found = work()
    return found, time.process_time() - started


def says_sorry(reply: str) -> bool:
    """Whether a reply is the refusal of one of the two targets."""
    return reply.lower().startswith("sorry")


def finds(target: Target, prompts: Sequence[Generated]) -> int:
    """How many prompts the target refuses."""
    return sum(map(says_sorry, target.reply([prompt.prompt for prompt in prompts], 4)))


class Side:
    """A target with its seeds, and what is measured of it."""

    def __init__(self, name: str, seeds: Sequence[Seed], frame: str, refusal: str, answer: str) -> None:
        self.target, self.seeds = open_target(name, slots=PROMPTS), seeds
        ordinary = [self.target.tokenizer(answer, add_special_tokens=False)["input_ids"]]
        self.refusal = given_refusal(self.target, refusal, ordinary)
        self.scan, self.scan_seconds = timed(
            lambda: scan_vocabulary(self.target, self.refusal, likely_words(self.target, seeds, WORDS, 0, frame), frame)
        )

    def measure(self, run_seed: int) -> dict[str, float]:
        """CPU seconds of each way to write prompts, finds, and how many prompts the first two wrote alike."""

        def write(together: int) -> list[Generated]:
            options = dataclasses.replace(OPTIONS, together=together)
            return generate(self.target, self.refusal, self.seeds, options, run_seed, self.scan)

        ours, seconds = timed(lambda: write(PROMPTS))
        alone, alone_seconds = timed(lambda: write(1))
        drawn, drawn_seconds = timed(
            lambda: draw_paraphrases(self.target, self.refusal, self.seeds, OPTIONS, run_seed, ROUNDS)
        )
        found, check_seconds = timed(lambda: finds(self.target, ours))
        rival_found, rival_check_seconds = timed(lambda: finds(self.target, drawn))
        return {
            "seconds": seconds,
            "alone_seconds": alone_seconds,
            "alike": sum(one.ids == other.ids for one, other in zip(ours, alone, strict=True)),
            "finds": found,
            "finds_per_second": found / (seconds + check_seconds),
            "finds_per_second_with_scan": found / (self.scan_seconds + seconds + check_seconds),
            "rival_finds": rival_found,
            "rival_finds_per_second": rival_found / (drawn_seconds + rival_check_seconds),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    requests = [Seed(str(number), text) for number, text in enumerate(planted.toy_requests(5, PROMPTS))]
    sides = {
        "smollm2": Side("overcautious", read_seeds()[:PROMPTS], "How do I", overcautious.REFUSAL, "Here"),
        "toy": Side("planted", requests, "how do i", planted.REFUSAL, planted.ANSWER),
    }
    values: dict[str, list[float]] = {f"{name}_scan_seconds": [side.scan_seconds] for name, side in sides.items()}
    for repeat in range(options.repeats):
        for name, side in sides.items():
            measured = side.measure(repeat)
            for key, value in measured.items():
                values.setdefault(f"{name}_{key}", []).append(value)
            shown = "  ".join(f"{key} {value:.3g}" for key, value in measured.items())
            print(f"repeat {repeat + 1}, {name}: {shown}", flush=True)
    rows = {"SmolLM2: CPU s of the scan, once per target": values["smollm2_scan_seconds"]}
    for name, shown, goal in (("smollm2", "SmolLM2", 1.5), ("toy", "toy", 5)):
        mine = [values[f"{name}_{key}"] for key in ("seconds", "finds", "finds_per_second", "alike")]
        per_prompt = f"{shown}: CPU s a prompt" + (" (goal <= 3)" if name == "smollm2" else "")
        rows[per_prompt] = [value / PROMPTS for value in mine[0]]
        rows[f"{shown}: {PROMPTS} in lock-step, against one at a time (goal {goal:g})"] = ratios(
            values[f"{name}_alone_seconds"], mine[0]
        )
        rows[f"{shown}: prompts of {PROMPTS} that are the same alone"] = mine[3]
        rows[f"{shown}: prompts of {PROMPTS} that are refused"] = mine[1]
        rows[f"{shown}: paraphrases of {ROUNDS * PROMPTS} that are refused"] = values[f"{name}_rival_finds"]
        rows[f"{shown}: finds per CPU s"] = mine[2]
        if all(values[f"{name}_rival_finds"]):
            for key, what in (("finds_per_second", ""), ("finds_per_second_with_scan", ", scan counted")):
                rows[f"{shown}: finds per CPU s{what}, against paraphrase and filter (goal 2)"] = ratios(
                    values[f"{name}_{key}"], values[f"{name}_rival_finds_per_second"]
                )
    store("harmless_refusals", __doc__ or "", rows, values)
    for name, row in rows.items():
        print(f"{name}: {spread(row)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
