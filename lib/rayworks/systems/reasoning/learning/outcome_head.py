"""The head that learns from trees how likely a beginning or an answer is to be right (arXiv 2404.12253, section 4.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayworks.core import seeds
from rayworks.lm.scoring import EncodedResponse
from rayworks.systems.reasoning.search.records import Record


@dataclass(frozen=True)
class Labelled:
    """A text, and the share of answers through it that were correct."""

    uid: str
    text: EncodedResponse
    label: float
    whole: bool
    """Whether it is a whole answer."""


def outcome_texts(trees: Sequence[Record], end: int, most: int, seed: int) -> list[Labelled]:
    """Whole answers with their verdicts, and beginnings with the share of right ones among the answers that they lead to.

    Args:
        end: the end token's id.
        most: texts; more are drawn from at random.
    """
    found: list[Labelled] = []
    for tree in trees:
        prompt = tuple(tree["prompt"])
        answers = {(tuple(one["tokens"]), one["ended"]): one["correct"] for one in tree["answers"]}
        for (tokens, ended), correct in answers.items():
            text = EncodedResponse(prompt, (*tokens, end) if ended else tokens)
            if text.response:
                found.append(Labelled(tree["uid"], text, float(correct), whole=True))
        seen: dict[tuple[int, ...], list[bool]] = {}
        for answer in tree["answers"]:
            seen.setdefault(tuple(answer["tokens"]), []).append(answer["correct"])
        for prefix in _beginnings(tree):
            through = [one for tokens, verdicts in seen.items() if tokens[: len(prefix)] == prefix for one in verdicts]
            if through and prefix:
                found.append(
                    Labelled(tree["uid"], EncodedResponse(prompt, prefix), float(np.mean(through)), whole=False)
                )
    if len(found) <= most:
        return found
    drawn = seeds.stream(seed, "head", "texts").permutation(len(found))[:most]
    return [found[place] for place in sorted(drawn)]


def held_out(texts: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Those to learn from, and those of other questions to measure on; of one question there are none to learn from."""
    questions = sorted({text.uid for text in texts})
    order = seeds.stream(seed, "head", "held out").permutation(len(questions))
    kept = {questions[place] for place in order[: max(1, round(share * len(questions)))]}
    return [text for text in texts if text.uid not in kept], [text for text in texts if text.uid in kept]


def area_under_curve(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Chance that a right answer scores above a wrong one, ties by half; ``None`` where all are of one kind."""
    from scipy.stats import rankdata

    right = np.asarray(labels) > 0.5
    if right.all() or not right.any():
        return None
    ranks = rankdata(scores)
    above = ranks[right].sum() - right.sum() * (right.sum() + 1) / 2
    return float(above / (right.sum() * (~right).sum()))


def _beginnings(tree: Record) -> list[tuple[int, ...]]:
    prefixes: dict[int, tuple[int, ...]] = {}
    found = []
    for node in tree["nodes"]:
        before = () if node["parent"] is None else prefixes[node["parent"]]
        prefixes[node["id"]] = before + tuple(node["tokens"])
        if not node["terminal"]:
            found.append(prefixes[node["id"]])
    return found
