"""The run: reward models trained side by side, then one point of the evaluation after the other, then the report."""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from rayworks.core import seeds
from rayworks.core.models import locate
from rayworks.core.report import Report
from rayworks.lm.checkpoints import load_tokenizer
from rayworks.lm.engine import ScoringRequest
from rayworks.lm.engines import check_engine
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.data_parallel import DataParallel, worker_bundles
from rayworks.runtime.placement import device_of, engine_bundles, engine_options, worker_options
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.alignment import SPEC
from rayworks.systems.alignment.actors import TRAINING, GuidedActor, RewardModelActor, training_loop
from rayworks.systems.alignment.baselines import keep_best, sharpened_temperature
from rayworks.systems.alignment.config import Config
from rayworks.systems.alignment.evaluation import Measurement, Point, measure, points, suites
from rayworks.systems.alignment.exported import ExportedModels, model_card, write_export
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedGeneration, GuidedRequest
from rayworks.systems.alignment.judges import load_judge
from rayworks.systems.alignment.pairs import check_source
from rayworks.systems.alignment.reporting import build_report
from rayworks.systems.alignment.vocabulary import common_id_range, read_vocabulary

TRAINING_SHARE = 1.5
"""Of the time, per point of the evaluation: for want of a better guess."""


class AlignmentSystem(StagedSystem[Config]):
    """Trains autoregressive reward models and measures their effect on a frozen base."""

    spec = SPEC

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """The run itself asks for nothing; training and generation share the workers, one after the other."""
        trainers, workers = len(config.objectives), config.compute.workers
        one = engine_bundles(config.compute, config.model, trainers)
        return [{}, *(one if len(one) > 1 else one * max(trainers, workers))]

    @classmethod
    def train_bundles(cls, config: Config) -> list[dict[str, float]]:
        """See :func:`~.data_parallel.worker_bundles`."""
        return worker_bundles(config.training_compute)

    def worker_options(self) -> dict[str, Any]:
        """See :func:`~rayworks.runtime.placement.engine_options`."""
        return engine_options(self.settings.compute, self.settings.model)

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The engine, models by name, whether they share token ids, and pairs by source."""
        check_engine(config.model, device_of(config.compute))
        for name in filter(None, (config.model.base, config.model.reward)):
            locate(name)
        if config.model.reward is not None:
            common_id_range(read_vocabulary(config.model.base), read_vocabulary(config.model.reward))
        for section in config.objectives.values():
            check_source(section.pairs)

    def start(self) -> None:
        """Plan, with no trainers yet."""
        limit_torch_threads()
        self._trainers: dict[str, ActorPool[Any, Any]] = {}
        self._in_step: DataParallel | None = None
        super().start()

    def plan(self) -> Sequence[Stage]:
        """All reward models side by side, then the points of the evaluation. The weights lie in the run directory."""
        names = self.settings.objectives
        self.results |= {"facts": {}, "proof": "", "held_out": {}, "measurements": []}
        self.results |= {"steps": dict.fromkeys(names, 0), "curves": {name: [] for name in names}}
        evaluation = points(self.settings)
        training = Stage("train", self._train, self._trained, share=TRAINING_SHARE * len(evaluation))
        return [training, *(Stage(point.label, partial(self._evaluate, point)) for point in evaluation)]

    def worker(self) -> tuple[Any, ...]:
        """Workers of the evaluation; reward models are trained by actors of their own."""
        return GuidedActor, self.settings, self.run_directory

    def export(self) -> None:
        """Beside the reward models, which their trainers have written: what base they belong to, and a model card."""
        held_out = self.results["held_out"]
        accuracy = {name: scores["accuracy"] for name, scores in held_out.items()}
        model, objectives = self.settings.model, tuple(self.settings.objectives)
        exported = ExportedModels(model.base, model.dtype, objectives, accuracy, self._prompts_by_suite())
        write_export(exported, self.export_file)
        self.export_file("README.md", model_card(self.settings, held_out))

    def report(self) -> Report:
        """See :func:`~rayworks.systems.alignment.reporting.build_report`."""
        found = self.results
        facts = {"pairs": found["facts"], "proof": found["proof"], "prompts": self._prompts_by_suite()}
        measurements = [Measurement.from_dict(values) for values in found["measurements"]]
        return build_report(self.settings, measurements, found["held_out"], found["curves"], facts, SPEC.title)

    def cleanup(self) -> None:
        """End the actors."""
        self._dismiss()
        super().cleanup()

    def _trained(self) -> float:
        """Counted in steps; what is trained is not done before it is measured."""
        total = sum(facts["steps"] for facts in self.results["facts"].values())
        return 1.0 if self.results["held_out"] else min(sum(self.results["steps"].values()) / total, 0.99)

    def _train(self) -> Metrics:
        """A few optimiser steps: of every reward model or, with several workers in step, of the one that they are at."""
        self._ensure_trainers()
        facts, steps = self.results["facts"], self.results["steps"]
        behind = [name for name in facts if steps[name] < facts[name]["steps"]]
        found = self._side_by_side(behind) if self.settings.training.workers == 1 else self._told_of(behind[0])
        metrics: Metrics = {}
        for name, result in found.items():
            steps[name] = int(result["step"])
            self.results["curves"][name].append(result)
            metrics |= {f"{name}_{key}": result[key] for key in ("loss", "accuracy")}
        if all(steps[name] >= facts[name]["steps"] for name in facts):
            self._finish_training()
            held_out = self.results["held_out"]
            metrics |= {f"{name}_held_out_accuracy": scores["accuracy"] for name, scores in held_out.items()}
        return metrics

    def _side_by_side(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        wanted, steps = self.settings.training.steps_per_checkpoint, self.results["steps"]
        calls = {name: self._trainers[name].submit("train", steps[name], wanted) for name in names}
        return {name: call.result() for name, call in calls.items()}

    def _told_of(self, name: str) -> dict[str, dict[str, float]]:
        """What the workers in step tell next."""
        if self._in_step is None:
            steps = {name: facts["steps"] for name, facts in self.results["facts"].items()}
            arguments = {"config": self.settings, "steps": steps}
            compute = self.settings.training_compute
            self._in_step = DataParallel(training_loop, arguments, self.run_directory, TRAINING, compute)
        return {name: self._in_step.next_record(f"{TRAINING}/{name}", self.results["steps"][name])}

    def _ensure_trainers(self) -> None:
        if self._trainers:
            return
        for name in self.settings.objectives:
            arguments, shown = (self.settings, self.run_directory, name), self.actor_name(f"train-{name}")
            options = worker_options(self.settings.compute)
            self._trainers[name] = ActorPool(RewardModelActor, *arguments, size=1, name=shown, options=options)
        calls = {name: trainer.submit("facts") for name, trainer in self._trainers.items()}
        if not any(self.results["steps"].values()):
            self.results["proof"] = next(iter(self._trainers.values())).submit("prove").result()
        self.results["facts"] = {name: call.result() for name, call in calls.items()}

    def _finish_training(self) -> None:
        """Measure and export all reward models, then give their workers to generation."""
        if self._in_step is not None:
            self._in_step.wait()
            self._in_step = None
        steps = self.results["steps"]
        calls = {name: trainer.submit("finish", steps[name]) for name, trainer in self._trainers.items()}
        self.results["held_out"] = {name: call.result() for name, call in calls.items()}
        self._dismiss()

    def _dismiss(self) -> None:
        for trainer in self._trainers.values():
            trainer.shutdown()
        self._trainers = {}

    def _evaluate(self, point: Point) -> Metrics:
        self.workers.broadcast("ready")
        started = time.perf_counter()
        generations, drawn = self._generate(point)
        tokens_per_second = drawn / (time.perf_counter() - started)
        texts = [generation.text for generation in generations]
        rewards = {name: judge(texts) for name, judge in self._judges.items()}
        decoding = self.settings.decoding
        plain = decoding.temperature == 1 and decoding.top_k == 0 and decoding.top_p == 1
        best_of = self.settings.evaluation.best_of
        measurement = measure(point, generations, rewards, tokens_per_second, best_of, plain)
        self.results["measurements"].append(measurement.as_dict())
        measures = {name: getattr(measurement, name) for name in ("kl", "perplexity", "tokens_per_second")}
        return {**{name: float(np.mean(scores)) for name, scores in rewards.items()}, **measures}

    def _generate(self, point: Point) -> tuple[list[GuidedGeneration], int]:
        """One continuation per sample, and how many tokens were drawn for them."""
        requests = self._requests(point)
        size = self._batch_size(len(requests))
        generations = [found for batch in self.workers.map("generate", _batches(requests, size)) for found in batch]
        drawn = sum(len(generation.base_logprobs) for generation in generations)
        if point.method != "best-of-n":
            return generations, drawn
        candidates = [
            ScoringRequest(request.prompt, found.token_ids, ends=len(found.logprobs) > len(found.token_ids))
            for request, found in zip(requests, generations, strict=True)
        ]
        calls = [(point.objective, batch) for batch in _batches(candidates, size)]
        rewards = [score.total for batch in self.workers.map("score", calls) for score in batch]
        return keep_best(generations, rewards, self.settings.evaluation.best_of), drawn

    def _requests(self, point: Point) -> list[GuidedRequest]:
        decoding, prompts = self.settings.decoding, self._prompts(point.suite)
        limit = self.settings.objectives[point.suite].pairs.response_tokens or decoding.max_new_tokens
        temperature = decoding.temperature
        if point.method == "sharpened":
            temperature = sharpened_temperature(temperature, point.strength)
        repeats = self.settings.evaluation.best_of if point.method == "best-of-n" else 1
        return [
            GuidedRequest(
                prompt=prompts[sample % len(prompts)],
                max_new_tokens=limit,
                temperature=temperature,
                top_k=decoding.top_k,
                top_p=decoding.top_p,
                stop=decoding.stop,
                seed=seeds.derive_small(self.settings.run.seed, "evaluation", sample, repeat),
                uid=f"{sample}.{repeat}",
                guidance=Guidance(point.weights),
            )
            for sample in range(self.settings.evaluation.samples)
            for repeat in range(repeats)
        ]

    def _prompts(self, suite: str) -> list[str]:
        given = list(self.settings.evaluation.prompts)
        return given or self.results["facts"][suite]["prompts"][: self.settings.evaluation.prompt_count]

    def _prompts_by_suite(self) -> dict[str, list[str]]:
        return {suite: self._prompts(suite) for suite in suites(self.settings)}

    def _batch_size(self, requests: int) -> int:
        """Long enough batches to keep all slots busy, and at least two per worker."""
        workers = self.settings.compute.workers
        return max(1, min(4 * self.settings.decoding.slots, -(-requests // (2 * workers))))

    @cached_property
    def _judges(self) -> dict[str, Any]:
        tokenizer = load_tokenizer(self.settings.model.base)
        return {name: load_judge(name, tokenizer) for name in self.settings.judges}


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
