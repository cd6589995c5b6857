"""The run: search, take pairs, learn, and search again; at the end all that was measured without the answers."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from rayworks.core.errors import DataError
from rayworks.core.models import locate
from rayworks.core.report import Report, Table
from rayworks.core.run_directory import EXPORT
from rayworks.core.sweep import TrialResult
from rayworks.lm.engines import check_engine
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.data_parallel import DataParallel, worker_bundles
from rayworks.runtime.placement import device_of, worker_bundle
from rayworks.runtime.stages import Stage, StagedSystem
from rayworks.runtime.system import Metrics
from rayworks.systems.reasoning import SPEC
from rayworks.systems.reasoning.actors import ReasoningActor, questions_of, training_loop
from rayworks.systems.reasoning.config import RECIPE, VERIFIER, Arm, Config
from rayworks.systems.reasoning.exported import ExportedPolicy, model_card, write_export
from rayworks.systems.reasoning.files import Files
from rayworks.systems.reasoning.findings import Way, share
from rayworks.systems.reasoning.replica_actors import Replicas
from rayworks.systems.reasoning.reporting import TREES_PAGE, build_report
from rayworks.systems.reasoning.search.opening import HEAD, check_critics
from rayworks.systems.reasoning.search.viewer import trees_page
from rayworks.systems.reasoning.sweep_report import sweep_summary
from rayworks.systems.reasoning.tasks.opening import open_task
from rayworks.systems.reasoning.tasks.questions import Question, Split

CONTROLS = ("traces",)
QUESTIONS_PER_CALL = 256
"""That a worker answers without a search in one call."""


class ReasoningSystem(StagedSystem[Config]):
    """Searches with a policy, and teaches it what the search found."""

    spec = SPEC
    in_flight_per_worker = 1
    _replicas: Replicas | None = None
    _in_step: DataParallel | None = None

    @classmethod
    def bundles(cls, config: Config) -> list[dict[str, float]]:
        """The run itself asks for nothing; its stages share the workers, and replicas stand beside them."""
        actors = config.compute.workers + config.model.replicas + config.critics.replicas
        return [{}, *[worker_bundle(config.compute)] * actors]

    @classmethod
    def train_bundles(cls, config: Config) -> list[dict[str, float]]:
        """See :func:`~.data_parallel.worker_bundles`."""
        return worker_bundles(config.training_compute)

    @classmethod
    def check_inputs(cls, config: Config) -> None:
        """The engine, the policy by name, the critics by their words, and that the task has the questions asked for.

        Raises:
            DataError: it gives fewer, or two by one name.
        """
        check_engine(config.model, device_of(config.compute))
        if config.model.policy != RECIPE:
            locate(config.model.policy)
        check_critics(config.critics)
        task = open_task(config.task, config.run.seed)
        splits: tuple[Split, ...] = ("search", "validation", "test")
        for split in splits:
            _check_questions(questions_of(task, config, split), config, split)

    def start(self) -> None:
        """Plan."""
        limit_torch_threads()
        super().start()

    def plan(self) -> Sequence[Stage]:
        """Round by round: search, pairs, arms; then the tests, in which nobody knows the answers."""
        config, learning = self.settings, self.settings.learning
        self.results |= {"greedy": {}, "search": {}, "pairs": {}, "arms": {}, "kept": [], "head": None, "answers": {}}
        self.results["step_head"] = None
        stages = [Stage("greedy before", partial(self._greedy, 0), share=0.5)]
        if config.model.policy == RECIPE:
            stages.insert(0, self.finding("policy", self._make_policy, share=2))
        if config.critics.process == HEAD:
            stages.append(Stage("head of steps", self._train_step_head, share=1.5))
        for number in range(learning.rounds):
            label = f"round {number + 1}"
            stages.append(Stage(f"{label}: search", partial(self._search, number), partial(self._searched, number), 2))
            stages.append(Stage(f"{label}: pairs", partial(self._take_pairs, number), share=0.3))
            if number == 0 and config.head.steps:
                stages.append(Stage("head", self._train_head, share=1.5))
            arms = len(self._arms(number))
            if arms:
                done = partial(self._share_of_arms, number, arms)
                stages.append(Stage(f"{label}: learn", partial(self._learn, number), done, share=arms))
                stages.append(Stage(f"{label}: keep", partial(self._keep, number), share=0.1))
        for way in self._ways():
            pieces = {"fraction": partial(self._answered, way)} if way.method == "search" else {}
            stages.append(Stage(way.name, partial(self._answer, way), **pieces, share=0.5))
        return stages

    def worker(self) -> tuple[Any, ...]:
        """Workers of all stages."""
        return ReasoningActor, self.settings, self.run_directory

    def export(self) -> None:
        """The last policy and the head, some trees as pages, and a card."""
        last = self._files.policy(self._last)
        exported = ExportedPolicy.of(self.settings, last, self._files.head(), self.run_directory)
        if (steps := self._files.step_head()) is not None:
            self.run_directory.put_folder(steps, f"{EXPORT}/{Files.STEP_HEAD}")
        write_export(exported, self.export_file)
        self.export_file("README.md", model_card(self.settings, self.results))
        page = trees_page(self._files.trees(0), f"Trees of run {self.settings.run.name}, first round")
        self.run_directory.write(TREES_PAGE, page)

    def report(self) -> Report:
        """See :mod:`~.reporting`."""
        return build_report(self.settings, self.results, SPEC.title)

    @classmethod
    def summarise_sweep(cls, trials: Sequence[TrialResult]) -> tuple[Sequence[Table], Mapping[str, tuple[bytes, str]]]:
        """The arms over seeds."""
        return sweep_summary(trials)

    def cleanup(self) -> None:
        """End the actors."""
        self._dismiss()
        super().cleanup()

    @cached_property
    def _files(self) -> Files:
        return Files(self.settings, self.run_directory)

    @property
    def _last(self) -> int:
        """The round that the last policy is for: 0 where nothing was learned."""
        return len(self.results["kept"])

    def _arms(self, number: int) -> list[Arm]:
        """All in the first round; later the one that is kept, or that was best on validation in the first.

        How many depends on the settings alone.
        """
        learning = self.settings.learning
        if number == 0:
            return list(learning.arms)
        if learning.keep != "best":
            return [learning.keep]
        first, able = self._searchers(0), [arm for arm in learning.arms if arm not in CONTROLS]
        return [max(first, key=lambda arm: _validation(first[arm]))] if first else able[:1]

    def _searchers(self, number: int) -> dict[Arm, Any]:
        """What a round's arms came to, without those that learned nothing from a search."""
        found = self.results["arms"].get(str(number), {})
        return {arm: one for arm, one in found.items() if one is not None and arm not in CONTROLS}

    def _make_policy(self) -> str:
        return str(next(self.workers.map("make_policy", [0])))

    def _greedy(self, number: int) -> Metrics:
        """What a round's policy answers at once, on validation and test questions."""
        found = {}
        for split, count in (
            ("validation", self.settings.task.count_validation),
            ("test", self.settings.task.count_test),
        ):
            calls = [(number, split, start, stop) for start, stop in _parts(count)]
            found[split] = "".join(self.workers.map("greedy", calls))
        self.results["greedy"][str(number)] = found
        return {"greedy_accuracy": share(found["test"])} if found["test"] else {}

    def _search(self, number: int) -> Metrics:
        found = self.results["search"].setdefault(str(number), [])
        beside = self._beside(number)
        first = len(found)
        stop = min(self._pieces(self.settings.task.count_search), first + self.settings.compute.workers)
        began = time.perf_counter()
        pieces = list(self.workers.map("search", [(number, piece, beside) for piece in range(first, stop)]))
        found += [piece | {"seconds": (time.perf_counter() - began) / len(pieces)} for piece in pieces]
        if self._searched(number) >= 1.0:
            self._dismiss()
            failed = [reason for piece in found for reason in piece["failed"]]
            if len(failed) == self.settings.task.count_search:
                raise DataError(f"search: all {len(failed)} questions failed; the first, {failed[0]}")
        solved = [one for piece in pieces for one in piece["solved"]]
        return {"solved": sum(solved) / len(solved)}

    def _searched(self, number: int) -> float:
        return len(self.results["search"].get(str(number), [])) / self._pieces(self.settings.task.count_search)

    def _take_pairs(self, number: int) -> Metrics:
        self.results["pairs"][str(number)] = found = next(self.workers.map("pairs", [number]))
        return {"pairs": found["pairs"]}

    def _train_head(self) -> Metrics:
        self.results["head"] = found = next(self.workers.map("train_head", [0]))
        return {"head_loss": found["loss"]} if found else {}

    def _train_step_head(self) -> Metrics:
        self.results["step_head"] = found = next(self.workers.map("train_step_head", [0]))
        if found is None:
            raise DataError("head.step_labels: are all of one question; nothing is left to learn from")
        return {"step_head_loss": found["loss"]}

    def _learn(self, number: int) -> Metrics:
        """As many arms as there are workers or, with several in step, the one that they are at."""
        done = self.results["arms"].setdefault(str(number), {})
        if not self.results["pairs"][str(number)]["pairs"]:
            done |= dict.fromkeys(self._arms(number))
            return {}
        left = [arm for arm in self._arms(number) if arm not in done]
        if self.settings.learning.workers > 1:
            wave = {left[0]: self._learned_in_step(number, left)}
        else:
            calls = [(number, arm) for arm in left[: self.settings.compute.workers]]
            wave = {arm: found for (_, arm), found in zip(calls, self.workers.map("learn", calls), strict=True)}
        done |= wave
        return {f"{arm}_accuracy": share(found["test"]) for arm, found in wave.items() if found is not None}

    def _learned_in_step(self, number: int, left: Sequence[Arm]) -> dict[str, Any] | None:
        """What the first of the arms came to that are left; the last ends those who learn."""
        if self._in_step is None:
            arguments = {"config": self.settings, "round": number, "arms": left}
            folder, compute = f"training/round-{number}", self.settings.training_compute
            self._in_step = DataParallel(training_loop, arguments, self.run_directory, folder, compute)
        self._in_step.wait(lambda: self._files.arm(number, left[0]) is not None)
        if len(left) == 1:
            self._in_step.wait()
            self._in_step = None
        return self._files.arm(number, left[0])

    def _share_of_arms(self, number: int, arms: int) -> float:
        return len(self.results["arms"].get(str(number), {})) / arms

    def _keep(self, number: int) -> Metrics:
        """The policy of the best arm goes on; the one before it where no arm is better on validation."""
        found = self._searchers(number)
        wanted = self.settings.learning.keep
        if wanted != "best":
            found = {wanted: found[wanted]} if wanted in found else {}
        before = share(self.results["greedy"][str(number)]["validation"])
        scores = {arm: _validation(one) for arm, one in found.items()}
        best = max(scores, key=scores.__getitem__, default=None)
        if best is not None and (scores[best] > before or wanted != "best"):
            self._files.take_over(number, best)
        else:
            best = None
        self.results["kept"].append(best)
        return self._greedy(number + 1)

    def _ways(self) -> list[Way]:
        """Ways to answer the test questions, searches first: baselines draw as much as these did."""
        config = self.settings
        critics = config.test_critics if config.task.count_test else ()
        ways = [Way("search", critic) for critic in critics]
        for method in config.evaluation.methods if critics else ():
            fitting = {"self-consistency": critics[:1], "beam": [one for one in critics if one != VERIFIER]}
            ways += [Way(method, critic) for critic in fitting.get(method, critics)]
        return ways

    def _answer(self, way: Way) -> Metrics:
        """Some pieces of a search, or all of a baseline, with as many completions as cost what the search did.

        ``None`` where there was nothing that its critic could learn from.
        """
        questions, answers = self.settings.evaluation.questions, self.results["answers"]
        if way.critic == HEAD and self.results["head"] is None:
            answers[way.name] = None
            return {}
        if way.method == "search":
            found = answers.setdefault(way.name, [])
            first = len(found)
            stop = min(self._pieces(questions), first + self.settings.compute.workers)
            found += list(self.workers.map("answer_by_search", [(piece, way.critic) for piece in range(first, stop)]))
            correct = [one for piece in found for one in piece["correct"]]
            return {f"{way.name}_accuracy": sum(correct) / len(correct)}
        pieces = answers[Way("search", way.critic).name]
        drawn = sum(sum(piece["tokens"]) for piece in pieces) / questions
        seen = sum(piece["answers"] for piece in pieces)
        # Where no search came to an answer, none is shorter than it may be.
        longest = self.settings.search.response_tokens
        whole = sum(piece["answer_tokens"] for piece in pieces) / seen if seen else longest
        completions = max(1, round(drawn / max(1.0, whole)))
        calls = [(way.method, way.critic, completions, start, stop) for start, stop in _parts(questions)]
        answered = [one for part in self.workers.map("answer", calls) for one in part]
        answers[way.name] = answered
        return {f"{way.name}_accuracy": sum(one[0] for one in answered) / len(answered)}

    def _answered(self, way: Way) -> float:
        found = self.results["answers"].get(way.name, [])
        return 1.0 if found is None else len(found) / self._pieces(self.settings.evaluation.questions)

    def _pieces(self, count: int) -> int:
        return math.ceil(count / self.settings.search.open_trees)

    def _beside(self, number: int) -> Mapping[str, Sequence[str]]:
        """Names of the replicas of policy and critics, which are started with a round's first piece."""
        wanted = self.settings.model.replicas + self.settings.critics.replicas
        if wanted and self._replicas is None:
            self._replicas = Replicas(self.settings, self.run_directory, number, self.actor_name)
        return {} if self._replicas is None else self._replicas.names

    def _dismiss(self) -> None:
        if self._replicas is not None:
            self._replicas.shutdown()
            self._replicas = None


def _check_questions(questions: Sequence[Question], config: Config, split: Split) -> None:
    """Built-in tasks see to it themselves; a user's own may not."""
    name, count = f"task.count_{split}", getattr(config.task, f"count_{split}")
    if len(questions) != count:
        raise DataError(f"{name}: is {count}, but {config.task.name} gave {len(questions)} questions; lower it to that")
    [(uid, times), *_] = Counter(question.uid for question in questions).most_common(1) or [("", 0)]
    if times > 1:
        raise DataError(
            f"{name}: {config.task.name} gave {times} questions of the uid {uid!r}; give each one of its own"
        )


def _parts(count: int) -> list[tuple[int, int]]:
    """Starts and ends of parts that do not depend on the number of workers, so that neither do roundings."""
    return [(start, min(start + QUESTIONS_PER_CALL, count)) for start in range(0, count, QUESTIONS_PER_CALL)]


def _validation(arm: Mapping[str, Any]) -> float:
    """Of its best epoch."""
    return max(float(epoch["validation"]) for epoch in arm["epochs"])
