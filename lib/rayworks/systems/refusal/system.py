"""The run: how the target refuses, prompts that make it refuse, and how models fare on harmless and harmful ones."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from rayworks.core.models import locate
from rayworks.core.report import Report, Table
from rayworks.core.sweep import TrialResult
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.refusal import SPEC
from rayworks.systems.refusal.actors import RefusalActor
from rayworks.systems.refusal.config import GENERATED, OVERCAUTIOUS, PLANTED, TARGET, Config, ModelSection
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt
from rayworks.systems.refusal.exported import (
    PROMPTS,
    WORDS,
    ExportedRefusals,
    data_card,
    prompts_table,
    words_table,
    write_export,
)
from rayworks.systems.refusal.filter_actors import measured
from rayworks.systems.refusal.filtering.keeping import keep
from rayworks.systems.refusal.findings import LIKELY, OUTCOME, median
from rayworks.systems.refusal.judging.calibration import shipped_judge
from rayworks.systems.refusal.judging.verdicts import REFUSALS
from rayworks.systems.refusal.opening import check_models, different, read_person, seeds_of
from rayworks.systems.refusal.reporting import build_report
from rayworks.systems.refusal.sets import open_set
from rayworks.systems.refusal.sweep_report import sweep_summary

SEEDS_PER_CALL = 20


class RefusalSystem(StagedSystem[Config]):
    """Writes prompts that a model refuses without need, and measures models on them."""

    spec = SPEC
    in_flight_per_worker = 1

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """Target and models by name, seeds, sets and a person's labels."""
        for name in (config.target.name, config.target.content):
            if name is not None and name not in (PLANTED, OVERCAUTIOUS):
                locate(name)
        if config.generator.prompts:
            seeds_of(config)
        for name in config.evaluation.sets if config.evaluation.models else ():
            open_set(name, config.evaluation.most_per_set, config.run.seed)
        check_models(config)
        if config.filter.person is not None:
            read_person(config.filter.person)

    def start(self) -> None:
        """Plan."""
        limit_torch_threads()
        super().start()

    def plan(self) -> Sequence[Stage]:
        """Calibrate, write, filter, and evaluate every model on every set."""
        config = self.settings
        names = ("refusal", "floor", "judge", "replies", "harm")
        self.results |= dict.fromkeys(names)
        self.results |= {"scan": [], "seeds": [], "written": [], "rivals": [], "filtered": [], "rival_kept": []}
        self.results |= {"seconds": {"scan": 0.0, "write": 0.0, "rival": 0.0}, "outcomes": {}}
        stages = [Stage("judge", self._calibrate, share=0.3)]
        if config.generator.prompts:
            stages.append(Stage("refusal", self._find_refusal, share=3))
            if config.generator.preselection == "scan" and config.generator.w2 > 0:
                stages.append(Stage("scan", self._scan, share=2))
            stages.append(Stage("seeds", self._measure_seeds, self._measured_seeds, share=1))
            stages.append(Stage("write", self._write, self._written, share=4))
            if config.generator.rival:
                stages.append(Stage("rival", self._paraphrase, self._paraphrased, share=4))
            stages.append(Stage("filter", self._filter, share=2))
        for number, section in enumerate(config.evaluation.models):
            for name in (one for one in self._sets if not self._is_selected(section, one)):
                done = partial(self._evaluated, number, name)
                stages.append(Stage(f"{section.name}: {name}", partial(self._evaluate, number, name), done, share=2))
        return stages

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        return RefusalActor, self.settings, self.run_directory

    def export(self) -> None:
        """The judge, the prompts that were kept, the words of the scan, and a data card."""
        judge, agreement = shipped_judge(self.settings.run.seed)
        config = self.settings.model_dump(mode="json")
        write_export(ExportedRefusals(judge, agreement.as_dict(), config), self.export_file)
        if self.settings.generator.prompts:
            self.export_file(PROMPTS, prompts_table(self.results["filtered"]))
            self.export_file(WORDS, words_table(self.results["scan"]))
        self.export_file("README.md", data_card(self.settings, self.results))

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        return build_report(self.settings, self.results, SPEC.title)

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """Yield over knobs, and which of them keep prompts fluent and on topic."""
        return sweep_summary(trials)

    @cached_property
    def _sets(self) -> tuple[str, ...]:
        own = (GENERATED,) if self.settings.generator.prompts else ()
        return (*own, *self.settings.evaluation.sets)

    @staticmethod
    def _is_selected(section: ModelSection, name: str) -> bool:
        """Whether a set holds just what this model has refused already."""
        return name == GENERATED and section.model == TARGET and section.system_prompt is None

    def _calibrate(self) -> Metrics:
        self.results |= next(self.workers.map("calibrate", [0]))
        return {"judge_accuracy": self.results["judge"]["accuracy"][0]}

    def _find_refusal(self) -> Metrics:
        self.results |= next(self.workers.map("find_refusal", [0]))
        return {"refusal_share": self.results["refusal"]["share"]}

    def _scan(self) -> Metrics:
        began = time.perf_counter()
        self.results["scan"] = next(self.workers.map("scan", [self.results["refusal"]]))
        self.results["seconds"]["scan"] = time.perf_counter() - began
        return {"scan_top": self.results["scan"][0][2]}

    def _measure_seeds(self) -> Metrics:
        found, count = self.results["seeds"], len(different(seeds_of(self.settings)))
        found += self._wave("measure_seeds", len(found), count, SEEDS_PER_CALL)
        refused = sum(seed["kind"] in REFUSALS for seed in found)
        return {"seeds_refused": refused / len(found)}

    def _measured_seeds(self) -> float:
        return float(len(self.results["seeds"])) / len(different(seeds_of(self.settings)))

    def _write(self) -> Metrics:
        """A wave of prompts; their texts are labelled for harm before they leave a worker."""
        found, section = self.results["written"], self.settings.generator
        beside = (self.results["refusal"], self.results["floor"], self.results["scan"])
        began = time.perf_counter()
        found += self._wave("write", len(found), section.prompts, section.prompts_per_call, beside)
        self.results["seconds"]["write"] += time.perf_counter() - began
        return {"refusal_logprob": median([row["refusal_logprob"] for row in found]) or 0.0}

    def _written(self) -> float:
        return float(len(self.results["written"])) / self.settings.generator.prompts

    def _filter(self) -> Metrics:
        """Measure what was written, and those of the rival's that may be refused; the workers make room for it."""
        self.release()
        rows, rivals = self.results["written"], [row for row in self.results["rivals"] if row["prompt"]]
        found = measured(self.settings, self.run_directory, [*rows, *rivals])
        usual = median([seed["perplexity"] for seed in self.results["seeds"]]) or float("inf")
        self.results["filtered"] = keep(found[: len(rows)], self.settings.filter, usual)
        self.results["rival_kept"] = keep(found[len(rows) :], self.settings.filter, usual)
        return {"kept": sum(not row["dropped"] for row in self.results["filtered"]) / len(rows)}

    def _paraphrase(self) -> Metrics:
        """A wave of paraphrases, until they have cost as many tokens as the prompts that were written."""
        found, section = self.results["rivals"], self.settings.generator
        size = 4 * section.prompts_per_call
        stop = len(found) + size * self.settings.compute.workers
        began = time.perf_counter()
        drawn = self._wave("paraphrase", len(found), stop, size, (self.results["refusal"],))
        self.results["seconds"]["rival"] += time.perf_counter() - began
        budget = self._budget - sum(row["cost"] for row in found)
        for row in drawn:
            if budget > 0:
                unlikely = {name: row[name] for name in ("uid", "seed", "cost")} | {"prompt": ""}
                found.append(row if row["refusal_logprob"] > self._likely else unlikely)
                budget -= row["cost"]
        return {"paraphrases": len(found)}

    def _paraphrased(self) -> float:
        return min(1.0, float(sum(row["cost"] for row in self.results["rivals"])) / self._budget)

    @property
    def _likely(self) -> float:
        """The bound that spares the rival replies; none where a score says nothing of the target's own refusals."""
        own = self.settings.target.refusal is None and not self.settings.generator.mean
        return LIKELY if own else -float("inf")

    @property
    def _budget(self) -> int:
        """Tokens that writing has read, those of the scan too."""
        scan = len(self.results["scan"]) * int(self.results["refusal"]["behind"])
        return max(1, scan + sum(int(row["cost"]) for row in self.results["written"]))

    def _evaluate(self, number: int, name: str) -> Metrics:
        """A wave of the prompts of a set, for a model under test."""
        section, prompts = self.settings.evaluation, self._prompts(name)
        found = self.results["outcomes"].setdefault(f"{section.models[number].name}/{name}", [])
        size, workers = section.prompts_per_call, self.settings.compute.workers
        stops = [min(len(prompts), len(found) + size * (turn + 1)) for turn in range(workers)]
        starts = [len(found), *stops[:-1]]
        calls = [(number, prompts[start:stop]) for start, stop in zip(starts, stops, strict=True) if stop > start]
        judged = [one for part in self.workers.map("evaluate", calls) for one in part]
        if judged:
            lines = "".join(json.dumps(one) + "\n" for one in judged)
            folder = f"answers/{section.models[number].name}/{re.sub(r'[^A-Za-z0-9.-]+', '-', name)}"
            self.run_directory.write(f"{folder}/{len(found):06d}.jsonl", lines)
        found += [{key: one[key] for key in ("uid", *OUTCOME)} for one in judged]
        refused = sum(one["kind"] in REFUSALS for one in found)
        return {"refused": refused / max(1, len(found))}

    def _evaluated(self, number: int, name: str) -> float:
        key = f"{self.settings.evaluation.models[number].name}/{name}"
        count = len(self._prompts(name))
        return len(self.results["outcomes"].get(key, [])) / count if count else 1.0

    def _prompts(self, name: str) -> tuple[Prompt, ...]:
        """The prompts of a set; those written here are there once they are filtered."""
        if name == GENERATED:
            kept = [row for row in self.results["filtered"] if not row["dropped"]]
            return tuple(Prompt(row["uid"], row["prompt"], row["harm"], GENERATED, row["seed"]) for row in kept)
        if name not in self._opened:
            most = self.settings.evaluation.most_per_set
            self._opened[name] = open_set(name, most, self.settings.run.seed).prompts
        return self._opened[name]

    @cached_property
    def _opened(self) -> dict[str, tuple[Prompt, ...]]:
        return {}

    def _wave(self, method: str, start: int, count: int, size: int, beside: tuple[Any, ...] = ()) -> list[Any]:
        """Results of as many calls of ``size`` items as there are workers, in the order of the items."""
        stop = min(count, start + size * self.settings.compute.workers)
        calls = [(at, min(stop, at + size), *beside) for at in range(start, stop, size)]
        return [one for part in self.workers.map(method, calls) for one in part]
