"""What runs on workers: searching a piece of the questions, answering without a search, learning an arm."""

import gc
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rayworks.core.errors import ConfigError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.checkpoints import load_config, load_model, load_tokenizer
from rayworks.lm.decoding import Engine
from rayworks.lm.engines import open_engine
from rayworks.lm.pair_training import EncodedPair
from rayworks.lm.positions import exact_length
from rayworks.lm.scoring import EncodedResponse, encode
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.training import ALONE, Shard, Trainer, keep_state, take_up_state
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.runtime.data_parallel import agreed, place
from rayworks.runtime.placement import device_of
from rayworks.systems.reasoning import evaluation
from rayworks.systems.reasoning.config import Arm, Config, CriticsSection, Method, TaskSection
from rayworks.systems.reasoning.files import Files, Journal
from rayworks.systems.reasoning.findings import share
from rayworks.systems.reasoning.learning.arms import Material, Plan, drift, new_trainer, pair_logprobs, tokens_read
from rayworks.systems.reasoning.learning.outcome_head import Labelled, outcome_texts, step_texts, train_head
from rayworks.systems.reasoning.learning.pairs import audit, best_paths, extract
from rayworks.systems.reasoning.learning.training import CurriculumTrainer
from rayworks.systems.reasoning.policy.recipe import make_policy
from rayworks.systems.reasoning.replica_actors import RemoteCritics, RemotePolicy
from rayworks.systems.reasoning.search import records
from rayworks.systems.reasoning.search.answers import RULES, Rule
from rayworks.systems.reasoning.search.opening import named_critics, open_critics
from rayworks.systems.reasoning.search.requests import Critic, CriticOf, Service
from rayworks.systems.reasoning.search.scheduler import Scheduler, Search
from rayworks.systems.reasoning.search.services import LocalPolicy, LocalScorer
from rayworks.systems.reasoning.tasks.opening import open_task
from rayworks.systems.reasoning.tasks.questions import Question, Split, Task
from rayworks.systems.reasoning.tasks.word_problems import TEMPLATE, step_labels

Found = dict[str, Any]
Beside = Mapping[str, Sequence[str]]
"""Names of actors that serve a search: those of the policy, and those of its critics."""


class ReasoningActor:
    """One worker. What it has done lies in the run directory; the engines that it holds can be made again."""

    def __init__(self, config: Config, directory: RunDirectory, shard: Shard = ALONE) -> None:
        limit_torch_threads()
        self._config, self._directory, self._shard = config, directory, shard
        self._files = Files(config, directory)
        self._task = open_task(config.task, config.run.seed)
        self._judge = open_task(judging(config.task), config.run.seed)
        self._device = device_of(config.compute)
        self._engines: dict[str, Engine] = {}
        self._known_critics: dict[tuple[str, str], list[Critic]] = {}

    def make_policy(self, _: int) -> str:
        """Make the policy that the run begins with, where the config names none."""
        folder = make_policy(self._config.recipe, self._task, self._config.run.seed)
        return self._directory.put_folder(folder, self._files.policy_folder(0))

    def greedy(self, call: tuple[int, Split, int, int]) -> str:
        """Marks of a round's policy on a part of a split: (round, split, start, stop)."""
        number, split, start, stop = call
        return self._greedy(self._engine(number), self._files.policy(number), split, start, stop)

    def search(self, call: tuple[int, int, Beside]) -> Found:
        """Search a piece of the questions of a round: (round, piece, names of actors beside, by what they do).

        What was drawn before a death is not drawn again.
        """
        number, piece, beside = call
        size = self._config.search.open_trees
        questions = self._questions("search", piece * size, (piece + 1) * size)
        head = self._files.head() if number else None
        return self._searched(number, questions, self._config, head, f"round-{number}/{piece:05d}", beside)

    def answer_by_search(self, call: tuple[int, str]) -> Found:
        """Search test questions with a critic that does not know their answers: (piece, critic)."""
        piece, critic = call
        config = self._config
        size, most = config.search.open_trees, config.evaluation.questions
        questions = self._questions("test", piece * size, min((piece + 1) * size, most))
        search = config.search.model_copy(update={"temperature": config.evaluation.temperature})
        blind = config.model_copy(update={"critics": self._blind(critic), "search": search})
        name = f"test-{critic.replace('/', '-')}/{piece:05d}"
        return self._searched(0, questions, blind, self._files.head(), name, judge=self._judge)

    def answer(self, call: tuple[Method, str, int, int, int]) -> list[list[object]]:
        """Answers of a part of the test questions by a baseline: (method, critic, completions, start, stop)."""
        method, critic, completions, start, stop = call
        config, engine = self._config, self._engine(0)
        questions = self._questions("test", start, stop)
        critics = self._critics(self._blind(critic), 0, self._files.head())
        longest = self._longest(0)
        search = config.search.model_copy(update={"temperature": config.evaluation.temperature})
        seed = config.run.seed
        if method == "beam":
            width = config.evaluation.beams
            expansions = max(1, round(completions / width))
            sizes = {"width": width, "expansions": expansions, "seed": seed}
            found = evaluation.beams(engine, self._judge, critics, questions, search, longest, **sizes)
        else:
            more = {"completions": completions, "seed": seed}
            found = evaluation.sampled(method, engine, self._judge, critics, questions, search, longest, **more)
        return [one.as_list() for one in found]

    def _blind(self, critic: str) -> CriticsSection:
        """The critics of a test: this one of answers alone."""
        return self._config.critics.model_copy(update={"outcome": critic, "value": None, "process": None})

    def pairs(self, number: int) -> Found:
        """Take the pairs out of a round's trees, and look at them."""
        trees = self._files.trees(number)
        pairs = extract(trees, self._config.pairs)
        self._files.write_pairs(number, pairs)
        tokenizer, solutions = self._tokenizer(number), {}
        for question in self._questions("search", 0, self._config.task.count_search):
            solution = self._task.solution(question)
            if solution is not None:
                solutions[question.uid] = _whole(encode(tokenizer, question.prompt, solution))
        return audit(pairs, solutions) | {"paths": len(best_paths(trees))}

    def learn(self, call: tuple[int, Arm]) -> Found | None:
        """One arm of a round, epoch by epoch; its policy is that of the epoch which is best on validation: (round, arm).

        ``None`` where there is nothing for it to learn from, and for all but the first of several workers in step.
        """
        number, arm = call
        found = self._files.arm(number, arm)
        if self._agreed(found is not None):
            return found
        config, material = self._config, self._material(number)
        seed, leads = config.run.seed, self._shard.rank == 0
        if not material.suffices(arm):
            return None
        self._drop_engines()
        model = load_model(self._files.policy(number), device=self._device)
        encoded = [pair.encoded(material.end) for pair in material.pairs]
        before = pair_logprobs(model, encoded)
        trainer = new_trainer(arm, model, material, config.learning, seed, self._shard)
        plan, states = Plan.of(material, config.learning, seed), self._files.states(number, arm)
        epochs: list[Found] = self._files.epochs(number, arm)
        begun = self._agreed(len(epochs))
        take_up_state(trainer, self._directory, states, begun * plan.steps_per_epoch)
        for _ in range(begun, plan.epochs):
            found = trainer.train(plan.steps_per_epoch)
            if leads:
                with tempfile.TemporaryDirectory() as scratch:
                    found |= self._looked_at(trainer, scratch, number, encoded, before)
                    if found["validation"] > max((epoch["validation"] for epoch in epochs), default=-1.0):
                        self._files.write_policy(number, arm, Path(scratch))
                epochs.append(found)
                keep_state(trainer, self._directory, states)
                self._files.write_epochs(number, arm, epochs)
            # However long the first one looks, the others do not wait for it within a step.
            self._agreed(begun)
        if not leads:
            return None
        best = max(range(len(epochs)), key=lambda place: epochs[place]["validation"])
        return self._files.write_arm(
            number,
            arm,
            {
                "arm": arm,
                "epochs": epochs,
                "best_epoch": best + 1,
                "test": self._measured(self._files.arm_policy(number, arm), "test"),
                "steps": trainer.total_steps,
                "tokens": tokens_read(arm, material, config.learning, seed),
                "taus": trainer.taus() if isinstance(trainer, CurriculumTrainer) else [],
                "preferred_before": float((before[:, 0] > before[:, 1]).double().mean()),
            },
        )

    def _looked_at(
        self, trainer: Trainer, folder: str, number: int, pairs: Sequence[EncodedPair], before: Tensor
    ) -> Found:
        """What an epoch came to; its policy is left in a folder, and answers from there as every policy does."""
        model = trainer.tuned(copied=True)
        found: Found = dict(drift(model, pairs, before))
        model.save_pretrained(folder)
        self._tokenizer(number).save_pretrained(folder)
        del model
        return found | {"validation": share(self._measured(folder, "validation"))}

    def _agreed(self, value: int) -> int:
        return value if self._shard.workers == 1 else agreed(value)

    def _measured(self, folder: str, split: Split) -> str:
        """Marks of the policy of a folder on all of a split, by an engine that is given up after."""
        marks = self._greedy(self._opened(folder), folder, split, 0, getattr(self._config.task, f"count_{split}"))
        gc.collect()
        return marks

    def train_head(self, number: int) -> Found | None:
        """Train the head that tells right answers from wrong ones on a round's trees, on a copy of its policy.

        ``None`` where the trees leave nothing to learn from.
        """
        end, most = int(self._tokenizer(number).eos_token_id), self._config.head.texts
        texts = outcome_texts(self._files.trees(number), end, most, self._config.run.seed)
        return self._trained_head(number, texts, self._files.HEAD)

    def train_step_head(self, _: int) -> Found | None:
        """Train the head that tells right steps from wrong ones on solutions whose first wrong step is known, on a copy of
        the policy that the run begins with.
        """
        config, tokenizer = self._config, self._tokenizer(0)
        labels, template = step_labels(config.head.step_labels), config.task.template or TEMPLATE
        texts = step_texts(labels, tokenizer, template, self._longest(0), config.head.texts, config.run.seed)
        return self._trained_head(0, texts, self._files.STEP_HEAD)

    def _trained_head(self, number: int, texts: Sequence[Labelled], name: str) -> Found | None:
        self._drop_engines()
        policy, tokenizer, config = self._files.policy(number), self._tokenizer(number), self._config
        with tempfile.TemporaryDirectory() as scratch:
            found = train_head(policy, tokenizer, texts, config.head, Path(scratch), config.run.seed, self._device)
            if found is not None:
                self._directory.put_folder(Path(scratch), name)
        return found

    def _searched(
        self,
        number: int,
        questions: Sequence[Question],
        config: Config,
        head: Path | None,
        name: str,
        beside: Beside = MappingProxyType({}),
        judge: Task | None = None,
    ) -> Found:
        """Search questions, and write their trees to a file of that name."""
        replicas = beside.get("policy", ())
        engine = None if replicas else self._engine(number)
        tokenizer = self._tokenizer(number)
        if isinstance(engine, TransformersEngine):
            # A piece then draws the same whatever this worker has searched before.
            engine.model.prefixes.clear()
            asked, reused = engine.model.prefixes.asked_tokens, engine.model.prefixes.reused_tokens
        scorer, critics = self._scorer(config.critics, number, head, beside.get("critics", ()))
        policy = RemotePolicy(replicas, config.model.slots) if engine is None else LocalPolicy(engine.decoding)
        longest, seed = self._longest(number), config.run.seed
        task = judge or self._task
        scheduler = Scheduler(config.search, task, policy, scorer, critics, tokenizer, longest, seed)
        journal = Journal(self._directory, f"{name}.journal")
        done: list[Search] = []
        watch = partial(journal.keep, lambda: [*done, *scheduler.open])
        for search in scheduler.run(questions, journal.read(), watch):
            done.append(search)
        found = {search.question.uid: records.as_record(search, tokenizer, f"round-{number}") for search in done}
        trees = [found[question.uid] for question in questions]
        self._files.write_trees(name, trees)
        journal.remove()
        summary = _summary(trees, config.evaluation.rule)
        if isinstance(engine, TransformersEngine):
            prefixes = engine.model.prefixes
            summary |= {"asked": prefixes.asked_tokens - asked, "reused": prefixes.reused_tokens - reused}
        return summary

    def _engine(self, number: int) -> Engine:
        """The engine of a round's policy; one is held at a time."""
        name = self._files.policy(number)
        if name not in self._engines:
            self._tokenizer(number)
            self._drop_engines()
            self._engines[name] = self._opened(name)
        return self._engines[name]

    def _opened(self, name: str) -> Engine:
        section = self._config.model
        return open_engine(section, name, section.dtype, section.slots, self._device, keep_prefixes=True)

    def _drop_engines(self) -> None:
        """Make room for another model."""
        self._engines.clear()
        self._known_critics.clear()
        gc.collect()

    def _tokenizer(self, number: int) -> PreTrainedTokenizerBase:
        """That of a round's policy.

        Raises:
            ConfigError: it has no end token, with which a policy says that an answer is whole.
        """
        tokenizer = load_tokenizer(self._files.policy(number))
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                f"model.policy: the tokenizer of {self._config.model.policy} has no end token; set its eos_token, or choose "
                "another policy"
            )
        return tokenizer

    def _longest(self, number: int) -> int:
        """Tokens that a round's policy reads."""
        return exact_length(load_config(self._files.policy(number)))[0]

    def _critics(self, section: CriticsSection, number: int, head: Path | None) -> list[Critic]:
        key = (self._files.policy(number), section.model_dump_json())
        if key not in self._known_critics:
            self._known_critics.clear()
            policy, tokenizer = partial(self._engine, number), self._tokenizer(number)
            found = open_critics(
                section, self._task, policy, tokenizer, self._config.model, head, self._device, self._files.step_head()
            )
            self._known_critics[key] = found
        return self._known_critics[key]

    def _scorer(
        self, section: CriticsSection, number: int, head: Path | None, replicas: Sequence[str]
    ) -> tuple[Service, Sequence[Critic | CriticOf]]:
        """What scores, here or in replicas, and kinds and weights of its numbers."""
        if replicas:
            return RemoteCritics(replicas), [CriticOf(kind, weight) for kind, _, weight in named_critics(section)]
        critics = self._critics(section, number, head)
        return LocalScorer(critics), critics

    def _questions(self, split: Split, start: int, stop: int) -> list[Question]:
        return questions_of(self._task, self._config, split)[start:stop]

    def _greedy(self, engine: Engine, name: str, split: Split, start: int, stop: int) -> str:
        """Marks of a policy in an engine, by its name."""
        questions, longest = self._questions(split, start, stop), exact_length(load_config(name))[0]
        found = evaluation.greedy(engine, self._judge, questions, self._config.search.response_tokens, longest)
        return "".join(one.mark for one in found)

    def _material(self, number: int) -> Material:
        """What the arms of a round learn from."""
        config, tokenizer = self._config, self._tokenizer(number)
        end = int(tokenizer.eos_token_id)
        paths = [
            EncodedResponse(path.prompt, (*path.response, end)) for _, path in best_paths(self._files.trees(number))
        ]
        traces: list[EncodedResponse] = []
        if "traces" in config.learning.arms:
            questions = self._task.questions("supervision", config.recipe.traces)
            traces = [encode(tokenizer, one.prompt, self._task.solution(one) or "") for one in questions]
        return Material(self._files.pairs(number), paths, traces, end)


def training_loop(arguments: Mapping[str, Any], directory: RunDirectory, folder: str) -> None:
    """Learn a round's arms one after the other, each by all workers; see :class:`~.data_parallel.DataParallel`.

    Args:
        arguments: ``config``, the number of the ``round``, and its ``arms``.
    """
    worker = ReasoningActor(arguments["config"], directory, Shard(*place()))
    for arm in arguments["arms"]:
        worker.learn((arguments["round"], arm))


def questions_of(task: Task, config: Config, split: Split) -> list[Question]:
    """All questions of a split that the config asks for."""
    return task.questions(split, getattr(config.task, f"count_{split}"))


def judging(section: TaskSection) -> TaskSection:
    """By what accuracies are counted: final answers, also where searches learn from those alone whose every line is right."""
    return section.model_copy(update={"verifier": "number"}) if section.checks_lines else section


def _whole(text: EncodedResponse) -> tuple[int, ...]:
    return text.prompt + text.response


def _summary(trees: Sequence[records.Record], rule: Rule) -> Found:
    """What the report needs of a piece, as JSON values."""
    return {
        "trees": len(trees),
        "solved": [any(answer["correct"] for answer in tree["answers"]) for tree in trees],
        "correct": [bool(tree["chosen"][rule] and tree["chosen"][rule]["correct"]) for tree in trees],
        "by_rule": {
            name: sum(bool(tree["chosen"][name] and tree["chosen"][name]["correct"]) for tree in trees)
            for name in RULES
        },
        "tokens": [tree["drawn_tokens"] for tree in trees],
        "answers": sum(len(tree["answers"]) for tree in trees),
        "answer_tokens": sum(len(answer["tokens"]) + 1 for tree in trees for answer in tree["answers"]),
        "simulations": sum(tree["simulations"] for tree in trees),
        "completions": sum(tree["completions"] for tree in trees),
        "stopped": dict(Counter(tree["stopped"] for tree in trees)),
        "failed": [f"{tree['uid']}: {tree['failed']}" for tree in trees if tree["failed"]],
        "hash": [records.tree_hash(tree) for tree in trees],
    }
