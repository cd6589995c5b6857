"""The policy of one export as a search uses it: questions checked before they are asked, and what became of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rayworks.core.config import EngineSection
from rayworks.lm.checkpoints import load_config, load_tokenizer
from rayworks.lm.engines import open_engine
from rayworks.lm.positions import exact_length
from rayworks.lm.scoring import encode_prompt
from rayworks.systems.reasoning.config import CriticsSection, SearchSection
from rayworks.systems.reasoning.exported import HEAD, ExportedPolicy, read_export
from rayworks.systems.reasoning.search import records
from rayworks.systems.reasoning.search.answers import RULES, Rule
from rayworks.systems.reasoning.search.background import BackgroundSearch
from rayworks.systems.reasoning.search.opening import HEAD_OF, open_critics
from rayworks.systems.reasoning.search.scheduler import Budget, Scheduler, Search
from rayworks.systems.reasoning.search.services import LocalPolicy, LocalScorer
from rayworks.systems.reasoning.search.tree import Node
from rayworks.systems.reasoning.tasks.asking import AskedTask
from rayworks.systems.reasoning.tasks.questions import Question

from ..common.problems import Problem
from .reasoning_schemas import NodeEvent, SolveAnswer

ALIKE = "rayworks.systems.reasoning.search.critics:alike"
FOR_JOBS = {"lines": "number", "number": "number", "symbolic": "symbolic"}
"""How a job reads what a task's rule does: it has the question in a file, whose rules these are."""


@dataclass(frozen=True)
class ServedPolicy:
    """What a replica serves."""

    exported: ExportedPolicy
    folder: Path
    task: AskedTask
    section: SearchSection
    critics: CriticsSection
    tokenizer: PreTrainedTokenizerBase
    """For threads other than that of the search."""
    longest: int
    search: BackgroundSearch

    def ask(self, text: str) -> Question:
        """A question that the policy can read.

        Raises:
            Problem: 422 when it cannot, or when question and answer are longer than the model.
        """
        question = self.task.ask(text)
        self._require_known(text)
        prompt, room = len(encode_prompt(self.tokenizer, question.prompt)), self.section.response_tokens
        if prompt + room > self.longest:
            raise Problem(
                422,
                f"question: is {prompt} tokens, which with {room} of an answer exceed the model's {self.longest}; shorten it",
            )
        return question

    def record(self, search: Search) -> dict[str, Any]:
        """The tree of a search that has ended."""
        return records.as_record(search, self.tokenizer, self.exported.policy)

    def event(self, search: Search, node: Node) -> NodeEvent:
        """A node as it is now."""
        return NodeEvent(
            simulation=search.simulations,
            node=list(node.path),
            text=self.tokenizer.decode(node.step, skip_special_tokens=True),
            visits=node.visits,
            value=round(node.mean, records.DIGITS),
            terminal=node.terminal,
            tokens=search.tokens,
        )

    def job_settings(self, budget: Budget, rule: Rule) -> dict[str, Any]:
        """Settings of a run that searches one question, but for the file that holds it.

        Raises:
            Problem: 422 when a run cannot read the answers of this task.
        """
        if self.task.rule not in FOR_JOBS:
            raise Problem(
                422, "simulations: so many would be a job, which this task's answers cannot be; ask for fewer"
            )
        search = self.section.model_dump(mode="json") | {
            "simulations": budget.simulations,
            "most_tokens": budget.most_tokens,
        }
        return {
            **{f"search.{name}": value for name, value in search.items()},
            **{f"critics.{name}": value for name, value in self.critics.model_dump(mode="json").items()},
            "task.template": self.task.template,
            "task.verifier": FOR_JOBS[self.task.rule],
            "task.answer_pattern": self.exported.task.answer_pattern,
            "task.count_search": 1,
            "task.count_validation": 0,
            "task.count_test": 0,
            "model.policy": self.exported.policy_of(self.folder),
            "model.dtype": self.exported.dtype,
            "learning.rounds": 1,
            "learning.arms": [],
            "head.steps": 0,
            "evaluation.rule": rule,
            "run.seed": budget.seed,
            "compute.workers": 1,
        }

    def _require_known(self, text: str) -> None:
        """Whether the policy has ids for all of a text, none of which it takes for more than text."""
        special = set(self.tokenizer.all_special_ids)

        def unreadable(part: str) -> bool:
            return not special.isdisjoint(self.tokenizer(part, add_special_tokens=False)["input_ids"])

        if unreadable(text):
            characters = [character for character in dict.fromkeys(text) if unreadable(character)]
            told = "".join(characters[:10]) or "the name of a special token"
            raise Problem(422, f"question: has {told!r}, which the policy does not read as text; leave that out")


def open_policy(export: str, section: EngineSection, slots: int, device: str) -> ServedPolicy:
    """The policy of a finished run, ready to search.

    Raises:
        ConfigError: vLLM is missing or does not fit the machine.
        DataError: the folder holds no export.
    """
    exported, folder = read_export(export), Path(export).expanduser()
    name = exported.policy_of(folder)
    engine = open_engine(section, name, exported.dtype, slots, device, keep_prefixes=True)
    head = folder / HEAD if exported.head else None
    word = ALIKE if head is None else f"{HEAD_OF}{head}"
    # One completion of a tree at a time: the same seed then gives the same tree, whatever else is asked.
    fixed = {"mode": "asynchronous", "leaves": 1, "min_terminals": 0, "rollouts": max(1, exported.search.rollouts)}
    search = exported.search.model_copy(update=fixed)
    critics = CriticsSection(outcome=word)
    task = AskedTask(exported.task)
    opened = open_critics(critics, task, lambda: engine, engine.tokenizer, section, head, device)
    longest = exact_length(load_config(name))[0]
    scheduler = Scheduler(
        search,
        task,
        LocalPolicy(engine.decoding),
        LocalScorer(opened),
        opened,
        engine.tokenizer,
        longest,
        exported.seed,
    )
    background = BackgroundSearch(scheduler)
    return ServedPolicy(exported, folder, task, search, critics, load_tokenizer(name), longest, background)


def answer_of(record: Mapping[str, Any], rule: Rule, seed: int, *, head: bool, tree: bool) -> SolveAnswer:
    """The answer that a finished tree gives by a rule.

    Args:
        head: whether its outcomes are a head's.
        tree: whether the answer carries it.
    """
    chosen, answers = record["chosen"][rule], record["answers"]
    said, text = (chosen["said"], chosen["text"]) if chosen else (None, None)
    alike = [answer for answer in answers if answer["said"] == said]
    outcomes = [answer["outcome"] for answer in alike if answer["text"] == text]
    return SolveAnswer(
        answer=said,
        text=text,
        support=None if said is None else len(alike) / len(answers),
        confidence=max(outcomes) if head and outcomes else None,
        by_rule={name: record["chosen"][name] and record["chosen"][name]["said"] for name in RULES},
        answers=len(answers),
        simulations=record["simulations"],
        completions=record["completions"],
        tokens=record["drawn_tokens"],
        stopped=record["stopped"],
        seed=seed,
        seconds=record["timing"]["seconds"],
        tree=_unjudged(record) if tree else None,
    )


def _unjudged(record: Mapping[str, Any]) -> dict[str, Any]:
    """A tree without what it says of right and wrong: nobody knew the answer."""
    answers = [{**answer, "correct": None} for answer in record["answers"]]
    chosen = {rule: one and {**one, "correct": None} for rule, one in record["chosen"].items()}
    return {**record, "expected": None, "answers": answers, "chosen": chosen}
