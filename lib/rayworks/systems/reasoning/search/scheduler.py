"""The search of many trees at once: completions of all of them decode side by side, and nobody waits for the slowest.

A tree with one completion on its way is the same at any number of workers, engines or restarts, since what is drawn depends
only on the run's seed, the question, the node and how often that was asked. With more on their way it depends on the order
in which they come back.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.scoring import encode_prompt
from rayworks.systems.reasoning.config import SearchSection
from rayworks.systems.reasoning.search.requests import Completion, Critic, Draw, Scored, Service
from rayworks.systems.reasoning.search.steps import StepEnds
from rayworks.systems.reasoning.search.tree import Node, Tree
from rayworks.systems.reasoning.tasks.questions import Question, Task

PATIENCE = 0.002
"""Seconds to wait for one service while another has work too."""
OVERTIME = 10
"""Times the simulations that a search goes on for ``min_terminals``."""


@dataclass(frozen=True)
class Answer:
    """A whole answer that a search has seen."""

    tokens: tuple[int, ...]
    text: str
    said: str | None
    """What it says, as the task reads it; ``None`` where nobody can."""
    correct: bool
    """For reports; a search sees it only through a critic that verifies."""
    ended: bool
    """Whether by an end of its own, not for want of room."""
    outcome: float
    """By the outcome critics, weighted."""
    leaf: tuple[int, ...] | None
    """Path of the node that it is, where it is no roll-out."""


@dataclass(frozen=True)
class Budget:
    """What a search may cost, and the seed of its draws."""

    simulations: int
    most_tokens: int | None
    """Drawn; ``None``: no bound."""
    seed: int


@dataclass(eq=False)
class Search:
    """The state of one question's search."""

    question: Question
    prompt: tuple[int, ...]
    tree: Tree
    budget: Budget
    on_node: "OnNode"
    """Called with the search and the node that a simulation has just been counted at."""
    simulations: int = 0
    flying: int = 0
    tokens: int = 0
    """Drawn."""
    completions: int = 0
    answers: list[Answer] = field(default_factory=list)
    journal: dict[str, Completion] = field(default_factory=dict)
    failed: str | None = None
    stopped: str = ""
    """Why it ended: ``budget``, ``solved`` where nothing was left to try, ``agreement``, ``failed`` or ``cancelled``."""
    began: float = 0.0
    seconds: float = 0.0


OnNode = Callable[[Search, Node], None]


@dataclass(eq=False)
class _Simulation:
    """One completion, its roll-outs, and their scores on the way."""

    search: Search
    node: Node
    number: int
    drawn: dict[int, Completion] = field(default_factory=dict)
    step: tuple[int, ...] = ()
    terminal: bool = False
    cut: bool = False


class Scheduler:
    """Searches questions with a policy and critics.

    Args:
        policy: draws completions; takes :class:`~.requests.Draw`, gives :class:`~.requests.Completion`.
        scorer: takes a sequence of :class:`~.requests.Scored` and gives, for each critic, a number for each.
        critics: kinds and weights of the scorer's numbers.
        policy_tokenizer: of the policy.
        longest: tokens that the policy reads, prompt and answer together.
        seed: of the run.
    """

    def __init__(
        self,
        section: SearchSection,
        task: Task,
        policy: Service,
        scorer: Service,
        critics: Sequence[Critic],
        policy_tokenizer: PreTrainedTokenizerBase,
        longest: int,
        seed: int,
    ) -> None:
        self._section, self._task, self._policy, self._scorer, self._critics = section, task, policy, scorer, critics
        self._tokenizer, self._longest, self._seed = policy_tokenizer, longest, seed
        self._ends = StepEnds(policy_tokenizer, section.step_end, section.step_pattern, section.step_tokens)
        self._tickets: dict[int, tuple[_Simulation, int]] = {}
        self._scoring: dict[int, tuple[_Simulation, list[Scored], list[Scored]]] = {}
        self._next = 0
        self._open: list[Search] = []
        self._replayed: deque[tuple[_Simulation, int, Completion]] = deque()

    def run(
        self,
        questions: Iterable[Question],
        journals: Mapping[str, Mapping[str, Completion]] | None = None,
        watch: Callable[[], None] = lambda: None,
    ) -> Iterator[Search]:
        """Search questions; each as it ends, in any order.

        Args:
            journals: by question, completions that an earlier attempt has seen; none of them is drawn again.
            watch: called between any two steps.
        """
        waiting = deque(questions)
        room = 1 if self._section.mode == "serial" else self._section.open_trees
        while waiting or self._open:
            while waiting and len(self._open) < room:
                question = waiting.popleft()
                self.start(question, journal=(journals or {}).get(question.uid, {}))
            yield from self.step()
            watch()

    @property
    def open(self) -> Sequence[Search]:
        """Searches under way."""
        return self._open

    def start(
        self,
        question: Question,
        budget: Budget | None = None,
        journal: Mapping[str, Completion] = {},
        on_node: OnNode = lambda search, node: None,
    ) -> Search:
        """Open a search, which :meth:`step` then works on beside all others.

        Args:
            budget: ``None``: the section's, with the run's seed.
            journal: completions that an earlier attempt has seen.
            on_node: see :class:`Search`.
        """
        budget = budget or Budget(self._section.simulations, self._section.most_tokens, self._seed)
        prompt = encode_prompt(self._tokenizer, question.prompt)
        search = Search(question, prompt, Tree(self._section), budget, on_node, began=time.perf_counter())
        search.journal = dict(journal)
        self._open.append(search)
        if not prompt:
            search.failed = "question: is empty; give at least one token"
        elif len(prompt) + self._section.response_tokens > self._longest:
            search.failed = (
                f"question: {len(prompt)} tokens and response_tokens {self._section.response_tokens} exceed the model's "
                f"{self._longest}; shorten either"
            )
        return search

    def step(self) -> list[Search]:
        """Take what comes back next, and ask for what the open searches want then; those that have ended."""
        if self._busy:
            self._collect()
        if self._section.mode != "barrier" or not self._busy:
            self._fill()
        ended = [search for search in self._open if self._has_ended(search)]
        for search in ended:
            self._open.remove(search)
            search.seconds = time.perf_counter() - search.began
        return ended

    def cancel(self, search: Search) -> None:
        """Ask for nothing more; the search ends once what it has asked for is back."""
        search.stopped = search.stopped or "cancelled"

    @property
    def _busy(self) -> bool:
        return bool(self._tickets or self._scoring or self._replayed)

    def _fill(self) -> None:
        """Ask for completions, one tree after the other, so that none holds up the rest."""
        for _ in range(self._section.leaves):
            for search in self._open:
                if search.flying < self._section.leaves and self._goes_on(search):
                    self._simulate(search)

    def _goes_on(self, search: Search) -> bool:
        section, budget, under_way = self._section, search.budget, search.simulations + search.flying
        if search.failed is not None or search.stopped:
            return False
        if budget.most_tokens is not None and search.tokens >= budget.most_tokens:
            return False
        leaves = sum(answer.leaf is not None for answer in search.answers) if section.min_terminals else 0
        short = leaves < section.min_terminals and under_way < OVERTIME * budget.simulations
        return under_way < budget.simulations or short

    def _has_ended(self, search: Search) -> bool:
        if search.flying:
            return False
        if search.failed is not None:
            search.stopped = "failed"
        elif search.tree.root.closed:
            search.stopped = "solved"
        elif not search.stopped and not self._goes_on(search):
            search.stopped = "budget"
        return bool(search.stopped)

    def _simulate(self, search: Search) -> None:
        node = search.tree.select()
        if node is None:
            if not search.flying:
                search.stopped = "solved"
            return
        if node.terminal:
            assert node.score is not None
            search.tree.back_up(node, node.score)
            search.simulations += 1
            search.on_node(search, node)
            return
        simulation = _Simulation(search, node, search.tree.reserve(node))
        search.flying += 1
        self._draw(simulation, 0, node.tokens(), node.depth)

    def _draw(self, simulation: _Simulation, rollout: int, answer: tuple[int, ...], depth: int) -> None:
        """Ask for a completion of a partial answer, or take it from the journal."""
        section, search = self._section, simulation.search
        path, number = simulation.node.path, simulation.number
        step_alone = section.rollouts == 0 and depth + 1 < section.depth
        room = section.response_tokens - len(answer)
        request = GenerationRequest(
            prompt=search.prompt + answer,
            max_new_tokens=min(room, section.step_tokens) if step_alone else room,
            temperature=0.0 if number == 0 and rollout == 0 else section.temperature,
            stop=(section.step_end,) if step_alone and section.step_pattern is None else (),
            seed=seeds.derive_small(search.budget.seed, search.question.uid, *path, "completion", number, rollout),
        )
        draw = Draw(path, number, rollout, request)
        known = search.journal.get(draw.key)
        if known is not None:
            self._replayed.append((simulation, rollout, known))
            return
        self._next += 1
        self._tickets[self._next] = (simulation, rollout)
        self._policy.submit(self._next, search.question.uid, draw)

    def _collect(self) -> None:
        while self._replayed:
            simulation, rollout, completion = self._replayed.popleft()
            self._arrived(simulation, rollout, completion)
        if self._tickets:
            for ticket, found in self._policy.collect(PATIENCE if self._scoring else math.inf):
                simulation, rollout = self._tickets.pop(ticket)
                self._settle(simulation, rollout, found)
        if self._scoring:
            for ticket, found in self._scorer.collect(PATIENCE if self._tickets else math.inf):
                self._scored(*self._scoring.pop(ticket), found)

    def _settle(self, simulation: _Simulation, rollout: int, found: Completion | Exception) -> None:
        if isinstance(found, DataError):
            self._fail(simulation, str(found))
        elif isinstance(found, Exception):
            raise found
        else:
            number = simulation.number
            search = simulation.search
            key = Draw(simulation.node.path, number, rollout, GenerationRequest(prompt=(0,))).key
            search.journal[key] = found
            self._arrived(simulation, rollout, found)

    def _arrived(self, simulation: _Simulation, rollout: int, found: Completion) -> None:
        search, section = simulation.search, self._section
        search.tokens += len(found.tokens) + found.ended
        search.completions += 1
        simulation.drawn[rollout] = found
        if rollout == 0:
            self._take_step(simulation, found)
            if not simulation.terminal:
                beginning = simulation.node.tokens() + simulation.step
                for further in range(1, section.rollouts):
                    self._draw(simulation, further, beginning, simulation.node.depth + 1)
        if simulation.terminal or len(simulation.drawn) >= max(1, section.rollouts):
            self._ask_for_scores(simulation)

    def _take_step(self, simulation: _Simulation, found: Completion) -> None:
        """What of the first completion is the new step, and whether the answer ends with it."""
        node, section = simulation.node, self._section
        last = node.depth + 1 >= section.depth
        length = len(found.tokens) if last else self._ends.first(found.tokens)
        simulation.step = found.tokens[:length]
        whole = length == len(found.tokens)
        # A step drawn alone stops at the text that ends it, which is no end of the answer.
        ended = found.ended and not (section.rollouts == 0 and not last and self._ends.find(found.tokens) is not None)
        full = len(node.tokens()) + length >= section.response_tokens
        simulation.terminal = whole and (ended or last or full)
        simulation.cut = simulation.terminal and not ended

    def _ask_for_scores(self, simulation: _Simulation) -> None:
        search, kinds = simulation.search, {critic.kind for critic in self._critics}
        before = simulation.node.tokens()
        beginning = before + simulation.step
        steps: list[Scored] = []
        if kinds & {"value", "process"} and not simulation.terminal:
            steps = [self._text(search, beginning, len(before), ended=False)]
        wholes: list[Scored] = []
        if simulation.terminal:
            wholes = [self._text(search, beginning, len(before), ended=not simulation.cut)]
        elif self._section.rollouts:
            for rollout, found in sorted(simulation.drawn.items()):
                tokens = (before if rollout == 0 else beginning) + found.tokens
                wholes.append(self._text(search, tokens, len(before), ended=found.ended))
        self._next += 1
        self._scoring[self._next] = (simulation, steps, wholes)
        self._scorer.submit(self._next, search.question.uid, [*steps, *wholes])

    def _text(self, search: Search, tokens: tuple[int, ...], step: int, *, ended: bool) -> Scored:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Scored(search.question, search.prompt, tokens, text, step, ended)

    def _scored(
        self,
        simulation: _Simulation,
        steps: list[Scored],
        wholes: list[Scored],
        found: Mapping[int, Sequence[float]] | Exception,
    ) -> None:
        """Back up what the critics say: a weighted sum of means (arXiv 2404.12253, equation of section 4.4)."""
        if isinstance(found, Exception):
            if not isinstance(found, DataError):
                raise found
            self._fail(simulation, str(found))
            return
        search, parts, outcomes = simulation.search, dict[str, float](), [0.0] * len(wholes)
        value = 0.0
        for number, critic in enumerate(self._critics):
            numbers = found[number][len(steps) :] if critic.kind == "outcome" else found[number][: len(steps)]
            if not all(map(math.isfinite, numbers)):
                self._fail(simulation, f"critics: the {critic.kind} of a text is {list(numbers)}; check that critic")
                return
            if numbers:
                mean = sum(numbers) / len(numbers)
                parts[critic.kind] = parts.get(critic.kind, 0.0) + critic.weight * mean
                value += critic.weight * mean
            if critic.kind == "outcome":
                outcomes = [total + critic.weight * one for total, one in zip(outcomes, numbers, strict=True)]
        tree, node = search.tree, simulation.node
        first = simulation.drawn[0]
        tree.release(node)
        logprob = sum(first.logprobs[: len(simulation.step)])
        child = tree.add(node, simulation.step, logprob, terminal=simulation.terminal, cut=simulation.cut)
        if child.score is None:
            child.score, child.parts = value, parts
        tree.back_up(child, value)
        search.flying -= 1
        search.simulations += 1
        self._note_answers(search, wholes, outcomes, child.path if simulation.terminal else None)
        search.on_node(search, child)

    def _note_answers(
        self, search: Search, wholes: Sequence[Scored], outcomes: Sequence[float], leaf: tuple[int, ...] | None
    ) -> None:
        for whole, outcome in zip(wholes, outcomes, strict=True):
            verdict = self._task.verify(search.question, whole.text)
            said = verdict.answer if whole.ended else None
            correct = verdict.correct and whole.ended
            search.answers.append(Answer(whole.tokens, whole.text, said, correct, whole.ended, outcome, leaf))
        section = self._section
        if section.agreement is not None and len(search.answers) >= section.agreement_answers:
            counts = Counter(answer.said for answer in search.answers if answer.said is not None)
            if counts and max(counts.values()) >= section.agreement * len(search.answers):
                search.stopped = "agreement"

    def _fail(self, simulation: _Simulation, reason: str) -> None:
        """End one question's search; the other trees go on."""
        simulation.search.tree.release(simulation.node)
        simulation.search.flying -= 1
        simulation.search.failed = simulation.search.failed or reason
