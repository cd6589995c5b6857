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
from rayworks.systems.reasoning.search.critics import judged
from rayworks.systems.reasoning.search.requests import (
    Completion,
    Critic,
    CriticOf,
    Draw,
    Scored,
    Service,
    ToScore,
    draw_key,
)
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
    repeated: bool = False
    """Whether it is the greedy completion of a node and was seen before."""


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
    dead: bool = False
    """Whether it has failed; what still comes back of it is nobody's."""


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
        critics: Sequence[Critic | CriticOf],
        policy_tokenizer: PreTrainedTokenizerBase,
        longest: int,
        seed: int,
    ) -> None:
        self._section, self._task, self._policy, self._scorer, self._critics = section, task, policy, scorer, critics
        self._tokenizer, self._longest, self._seed = policy_tokenizer, longest, seed
        self._ends = StepEnds(policy_tokenizer, section.step_end, section.step_pattern, section.step_tokens)
        self._tickets: dict[int, tuple[_Simulation, int, str]] = {}
        self._scoring: dict[int, tuple[_Simulation, ToScore]] = {}
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
        section, search, number = self._section, simulation.search, simulation.number
        key = draw_key(answer, number, rollout)
        step_alone = section.rollouts == 0 and depth + 1 < section.depth
        room = section.response_tokens - len(answer)
        request = GenerationRequest(
            prompt=search.prompt + answer,
            max_new_tokens=min(room, section.step_tokens) if step_alone else room,
            temperature=0.0 if number == 0 and rollout == 0 else section.temperature,
            stop=(section.step_end,) if step_alone and section.step_pattern is None else (),
            seed=seeds.derive_small(search.budget.seed, search.question.uid, "completion", key),
        )
        known = search.journal.get(key)
        if known is not None:
            self._replayed.append((simulation, rollout, known))
            return
        self._next += 1
        self._tickets[self._next] = (simulation, rollout, key)
        self._policy.submit(self._next, search.question.uid, Draw(key, request))

    def _collect(self) -> None:
        while self._replayed:
            simulation, rollout, completion = self._replayed.popleft()
            self._arrived(simulation, rollout, completion)
        if self._tickets:
            for ticket, found in self._policy.collect(PATIENCE if self._scoring else math.inf):
                self._settle(*self._tickets.pop(ticket), found)
        if self._scoring:
            for ticket, found in self._scorer.collect(PATIENCE if self._tickets else math.inf):
                self._scored(*self._scoring.pop(ticket), found)

    def _settle(self, simulation: _Simulation, rollout: int, key: str, found: Completion | Exception) -> None:
        if isinstance(found, DataError):
            self._fail(simulation, str(found))
        elif isinstance(found, Exception):
            raise found
        else:
            simulation.search.journal[key] = found
            self._arrived(simulation, rollout, found)

    def _arrived(self, simulation: _Simulation, rollout: int, found: Completion) -> None:
        if simulation.dead:
            return
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
        full = len(node.tokens()) + length >= section.response_tokens
        simulation.terminal = whole and (found.ended or last or full)
        simulation.cut = simulation.terminal and not found.ended

    def _ask_for_scores(self, simulation: _Simulation) -> None:
        search, kinds = simulation.search, {critic.kind for critic in self._critics}
        before = simulation.node.tokens()
        beginning = before + simulation.step
        steps, wholes = list[Scored](), list[Scored]()
        if kinds & {"value", "process"}:
            # Ends too, so that siblings have the same parts and none is preferred for going on.
            steps = [self._text(search, beginning, len(before), ended=False)]
        if simulation.terminal:
            wholes = [self._text(search, beginning, len(before), ended=not simulation.cut)]
        elif self._section.rollouts:
            for rollout, found in sorted(simulation.drawn.items()):
                tokens = (before if rollout == 0 else beginning) + found.tokens
                wholes.append(self._text(search, tokens, len(before), ended=found.ended))
        self._next += 1
        asked = ToScore(tuple(steps), tuple(wholes))
        self._scoring[self._next] = (simulation, asked)
        self._scorer.submit(self._next, search.question.uid, asked)

    def _text(self, search: Search, tokens: tuple[int, ...], step: int, *, ended: bool) -> Scored:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Scored(search.question, search.prompt, tokens, text, step, ended)

    def _scored(self, simulation: _Simulation, asked: ToScore, found: Sequence[Sequence[float]] | Exception) -> None:
        """Back up what the critics say: a weighted sum of means (arXiv 2404.12253, equation of section 4.4)."""
        try:
            if isinstance(found, Exception):
                raise found
            parts, outcomes = self._weighed(found, len(asked.wholes))
            verdicts = [judged(self._task, simulation.search.question, whole.text) for whole in asked.wholes]
        except DataError as error:
            self._fail(simulation, str(error))
            return
        search, node, first = simulation.search, simulation.node, simulation.drawn[0]
        search.tree.release(node)
        logprob, value = sum(first.logprobs[: len(simulation.step)]), sum(parts.values())
        child = search.tree.add(node, simulation.step, logprob, terminal=simulation.terminal, cut=simulation.cut)
        if child.score is None:
            child.score, child.parts = value, parts
        search.tree.back_up(child, value)
        search.flying -= 1
        search.simulations += 1
        known = {answer.tokens for answer in search.answers}
        leaf = child.path if simulation.terminal else None
        for place, (whole, verdict, outcome) in enumerate(zip(asked.wholes, verdicts, outcomes, strict=True)):
            said, correct = (verdict.answer, verdict.correct) if whole.ended else (None, False)
            # The likeliest completion of a node is often that of its parent once more, which is no further vote.
            repeated = simulation.number == 0 and place == 0 and whole.tokens in known
            answer = Answer(whole.tokens, whole.text, said, correct, whole.ended, outcome, leaf, repeated)
            search.answers.append(answer)
        if self._agree(search):
            search.stopped = search.stopped or "agreement"
        search.on_node(search, child)

    def _weighed(self, found: Sequence[Sequence[float]], wholes: int) -> tuple[dict[str, float], list[float]]:
        """Weighted means by kind of critic, and the weighted outcome of each answer.

        Raises:
            DataError: a critic's number is none.
        """
        parts, outcomes = dict[str, float](), [0.0] * wholes
        for critic, numbers in zip(self._critics, found, strict=True):
            if not all(map(math.isfinite, numbers)):
                raise DataError(f"critics: the {critic.kind} of a text is {list(numbers)}; check that critic")
            if numbers:
                mean = sum(numbers) / len(numbers)
                parts[critic.kind] = parts.get(critic.kind, 0.0) + critic.weight * mean
            if critic.kind == "outcome":
                outcomes = [total + critic.weight * one for total, one in zip(outcomes, numbers, strict=True)]
        return parts, outcomes

    def _agree(self, search: Search) -> bool:
        """Whether enough answers say the same to stop early."""
        section, votes = self._section, [answer.said for answer in search.answers if not answer.repeated]
        if section.agreement is None or len(votes) < section.agreement_answers:
            return False
        counts = Counter(said for said in votes if said is not None)
        return max(counts.values(), default=0) >= section.agreement * len(votes)

    def _fail(self, simulation: _Simulation, reason: str) -> None:
        """End one question's search, once whatever of a simulation fails first; the other trees go on."""
        if simulation.dead:
            return
        simulation.dead = True
        simulation.search.tree.release(simulation.node)
        simulation.search.flying -= 1
        simulation.search.failed = simulation.search.failed or reason
