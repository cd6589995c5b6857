"""What a policy answers without a search: greedily, by sampling, and by beams, all questions together.

A question that leaves the policy no room for an answer is not asked, and counts as not answered.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayworks.core import seeds
from rayworks.lm.decoding import Engine
from rayworks.lm.engine import Generation, GenerationRequest
from rayworks.lm.scoring import encode_prompt
from rayworks.systems.reasoning.config import Method, SearchSection
from rayworks.systems.reasoning.findings import UNASKED
from rayworks.systems.reasoning.search.requests import Completion, Critic, Scored
from rayworks.systems.reasoning.search.steps import StepEnds
from rayworks.systems.reasoning.tasks.questions import Question, Task


@dataclass(frozen=True)
class Answered:
    """One question's answer by a method, and what it cost."""

    correct: bool
    said: str | None
    tokens: int
    """Drawn."""
    completions: int
    """0: the question was not asked."""

    @property
    def mark(self) -> str:
        """``1`` right, ``0`` wrong, :data:`UNASKED` not asked."""
        return "01"[self.correct] if self.completions else UNASKED

    def as_list(self) -> list[object]:
        """As JSON values."""
        return [self.correct, self.said, self.tokens, self.completions]


def greedy(
    engine: Engine, task: Task, questions: Sequence[Question], response_tokens: int, longest: int
) -> list[Answered]:
    """The likeliest token at every step.

    Args:
        longest: tokens that the policy reads, prompt and answer together.
    """
    prompts = _fitting(engine, questions, response_tokens, longest)
    asked = [question for question in questions if question.uid in prompts]
    requests = [
        GenerationRequest(prompt=prompts[question.uid], max_new_tokens=response_tokens, temperature=0.0)
        for question in asked
    ]
    drawn = engine.generate(requests)
    found = {question.uid: _judged(task, question, [one], 0) for question, one in zip(asked, drawn, strict=True)}
    return _of_all(questions, found)


def sampled(
    method: Method,
    engine: Engine,
    task: Task,
    critics: Sequence[Critic],
    questions: Sequence[Question],
    section: SearchSection,
    longest: int,
    *,
    completions: int,
    seed: int,
) -> list[Answered]:
    """``completions`` of each question: the commonest answer (``self-consistency``), or the one that the critics of whole
    answers score highest (``best-of-n``). The first seen wins a tie.
    """
    prompts = _fitting(engine, questions, section.response_tokens, longest)
    asked = [question for question in questions if question.uid in prompts]
    requests = [
        GenerationRequest(
            prompt=prompts[question.uid],
            max_new_tokens=section.response_tokens,
            temperature=section.temperature,
            seed=seeds.derive_small(seed, method, question.uid, number),
        )
        for question in asked
        for number in range(completions)
    ]
    drawn = engine.generate(requests)
    groups = [drawn[start : start + completions] for start in range(0, len(drawn), completions)]
    if method == "self-consistency":
        chosen = [_commonest(task, question, group) for question, group in zip(asked, groups, strict=True)]
    else:
        outcomes = _outcomes(engine, critics, [(question, prompts[question.uid]) for question in asked], groups)
        chosen = [max(range(len(scores)), key=scores.__getitem__) for scores in outcomes]
    found = {
        question.uid: _judged(task, question, group, place)
        for question, group, place in zip(asked, groups, chosen, strict=True)
    }
    return _of_all(questions, found)


def beams(
    engine: Engine,
    task: Task,
    critics: Sequence[Critic],
    questions: Sequence[Question],
    section: SearchSection,
    longest: int,
    *,
    width: int,
    expansions: int,
    seed: int,
) -> list[Answered]:
    """Beam search over steps: of each round's continuations, the ``width`` that the critics score highest go on.

    Args:
        expansions: steps drawn of every beginning that is kept.
    """
    prompts = _fitting(engine, questions, section.response_tokens, longest)
    fitting = [question for question in questions if question.uid in prompts]
    kept: dict[str, list[_Beam]] = {uid: [_Beam(())] for uid in prompts}
    cost = {uid: [0, 0] for uid in prompts}
    for depth in range(section.depth):
        asked = [
            (question, rank, number)
            for question in fitting
            for rank, beam in enumerate(kept[question.uid])
            if not beam.finished
            for number in range(expansions)
        ]
        if not asked:
            break
        requests = [
            GenerationRequest(
                prompt=prompts[question.uid] + kept[question.uid][rank].tokens,
                seed=seeds.derive_small(seed, "beam", question.uid, depth, rank, number),
                **_step_bounds(section, depth, kept[question.uid][rank]),
            )
            for question, rank, number in asked
        ]
        grown: dict[str, dict[tuple[int, ...], _Beam]] = {uid: {} for uid in kept}
        for (question, rank, _), found in zip(asked, engine.generate(requests), strict=True):
            beam = _grown(kept[question.uid][rank], found, section, depth, engine)
            grown[question.uid].setdefault(beam.tokens, beam)
            cost[question.uid][0] += len(found.logprobs)
            cost[question.uid][1] += 1
        for uid, more in grown.items():
            kept[uid] = [*(beam for beam in kept[uid] if beam.finished), *more.values()]
        _prune(engine, critics, fitting, prompts, kept, width)
    answered = {}
    for question in fitting:
        best = next((beam for beam in kept[question.uid] if beam.finished), kept[question.uid][0])
        verdict = task.verify(question, engine.tokenizer.decode(best.tokens, skip_special_tokens=True))
        said = verdict.answer if best.ended else None
        answered[question.uid] = Answered(verdict.correct and best.ended, said, *cost[question.uid])
    return _of_all(questions, answered)


def _fitting(
    engine: Engine, questions: Sequence[Question], response_tokens: int, longest: int
) -> dict[str, tuple[int, ...]]:
    """By question, the ids of the prompts that leave room for an answer."""
    prompts = {question.uid: encode_prompt(engine.tokenizer, question.prompt) for question in questions}
    return {uid: prompt for uid, prompt in prompts.items() if 0 < len(prompt) <= longest - response_tokens}


def _of_all(questions: Sequence[Question], found: Mapping[str, Answered]) -> list[Answered]:
    return [found.get(question.uid, Answered(False, None, 0, 0)) for question in questions]


@dataclass(frozen=True)
class _Beam:
    tokens: tuple[int, ...]
    finished: bool = False
    ended: bool = False
    """Whether by an end of its own."""


def _step_bounds(section: SearchSection, depth: int, beam: _Beam) -> dict[str, Any]:
    """How far a step may go; the last goes to the end of the answer."""
    room, last = section.response_tokens - len(beam.tokens), depth + 1 == section.depth
    return {
        "max_new_tokens": room if last else min(room, section.step_tokens),
        "temperature": section.temperature,
        "stop": () if last or section.step_pattern else (section.step_end,),
    }


def _grown(beam: _Beam, found: Generation, section: SearchSection, depth: int, engine: Engine) -> _Beam:
    """A beginning with the step that was drawn after it."""
    last = depth + 1 == section.depth
    ends = StepEnds(engine.tokenizer, section.step_end, section.step_pattern, section.step_tokens)
    length = len(found.token_ids) if last else ends.first(found.token_ids)
    tokens = beam.tokens + found.token_ids[:length]
    ended = Completion.of(found).ended and length == len(found.token_ids)
    return _Beam(tokens, ended or last or len(tokens) >= section.response_tokens, ended)


def _prune(
    engine: Engine,
    critics: Sequence[Critic],
    questions: Sequence[Question],
    prompts: dict[str, tuple[int, ...]],
    kept: dict[str, list[_Beam]],
    width: int,
) -> None:
    """Leave each question the beams of the highest scores, best first."""
    texts, owners = [], []
    for question in questions:
        for beam in kept[question.uid]:
            text = engine.tokenizer.decode(beam.tokens, skip_special_tokens=True)
            texts.append(Scored(question, prompts[question.uid], beam.tokens, text, 0, beam.ended))
            owners.append((question.uid, beam))
    scored: dict[str, list[tuple[float, _Beam]]] = defaultdict(list)
    for (uid, beam), score in zip(owners, _scores(critics, texts), strict=True):
        scored[uid].append((score, beam))
    for uid, ranked in scored.items():
        kept[uid] = [beam for _, beam in sorted(ranked, key=lambda pair: -pair[0])[:width]]


def _scores(critics: Sequence[Critic], texts: Sequence[Scored]) -> list[float]:
    totals = [0.0] * len(texts)
    for critic in critics:
        totals = [total + critic.weight * one for total, one in zip(totals, critic.score(texts), strict=True)]
    return totals


def _outcomes(
    engine: Engine,
    critics: Sequence[Critic],
    asked: Sequence[tuple[Question, tuple[int, ...]]],
    groups: Sequence[Sequence[Generation]],
) -> list[list[float]]:
    texts = []
    for (question, prompt), group in zip(asked, groups, strict=True):
        for found in group:
            done = Completion.of(found)
            texts.append(Scored(question, prompt, done.tokens, found.text, 0, done.ended))
    scores = iter(_scores([critic for critic in critics if critic.kind == "outcome"], texts))
    return [[next(scores) for _ in group] for group in groups]


def _commonest(task: Task, question: Question, group: Sequence[Generation]) -> int:
    said = [task.verify(question, one.text).answer if one.finish_reason == "stop" else None for one in group]
    counts = Counter(answer for answer in said if answer is not None)
    return said.index(max(counts, key=counts.__getitem__)) if counts else 0


def _judged(task: Task, question: Question, group: Sequence[Generation], place: int) -> Answered:
    verdict, ended = task.verify(question, group[place].text), group[place].finish_reason == "stop"
    tokens = sum(len(one.logprobs) for one in group)
    return Answered(verdict.correct and ended, verdict.answer if ended else None, tokens, len(group))
