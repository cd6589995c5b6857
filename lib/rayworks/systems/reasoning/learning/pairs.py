"""Pairs of steps and of whole answers out of finished trees (AlphaLLM-CPL, arXiv 2410.06508, section 3.2)."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from typing import Any, Literal

from rayworks.lm.pair_training import EncodedPair
from rayworks.lm.scoring import EncodedResponse
from rayworks.systems.reasoning.config import PairsSection
from rayworks.systems.reasoning.search.records import Record


@dataclass(frozen=True)
class StepPair:
    """Two continuations of one context, and where they come from."""

    uid: str
    """The question's."""
    kind: Literal["step", "path"]
    context: tuple[int, ...]
    """Ids of the prompt and of all that both share."""
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    chosen_ends: bool
    """Whether the end token belongs to it; so for the other."""
    rejected_ends: bool
    score_chosen: float
    score_rejected: float
    visits_chosen: int
    visits_rejected: int
    depth: int

    @property
    def gap(self) -> float:
        """The preference reward gap: by how much the chosen one scores higher."""
        return self.score_chosen - self.score_rejected

    def encoded(self, end: int) -> EncodedPair:
        """As the trainer takes it.

        Args:
            end: the end token's id.
        """
        return EncodedPair(
            EncodedResponse(self.context, (*self.chosen, end) if self.chosen_ends else self.chosen),
            EncodedResponse(self.context, (*self.rejected, end) if self.rejected_ends else self.rejected),
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StepPair":
        """What :meth:`as_dict` gave."""
        tuples = {name: tuple(values[name]) for name in ("context", "chosen", "rejected")}
        return cls(**{**values, **tuples})


def extract(trees: Sequence[Record], section: PairsSection) -> list[StepPair]:
    """Pairs of all trees, in their order, each once."""
    found: dict[tuple[Any, ...], StepPair] = {}
    for tree in trees:
        mine = sorted(
            _step_pairs(tree, section), key=lambda pair: (-pair.gap, -pair.visits_chosen - pair.visits_rejected)
        )
        for pair in [*mine[: section.per_question], *_path_pairs(tree, section)]:
            found.setdefault((pair.context, pair.chosen, pair.rejected, pair.chosen_ends, pair.rejected_ends), pair)
    return list(found.values())


def best_paths(trees: Sequence[Record]) -> list[tuple[str, EncodedResponse]]:
    """For every tree that has seen a correct answer, its question and the first of them, the end token left out."""
    found = []
    for tree in trees:
        best = next((answer for answer in tree["answers"] if answer["correct"]), None)
        if best is not None and best["tokens"]:
            found.append((tree["uid"], EncodedResponse(tuple(tree["prompt"]), tuple(best["tokens"]))))
    return found


def audit(pairs: Sequence[StepPair], solutions: Mapping[str, tuple[int, ...]]) -> dict[str, float | int | None]:
    """What is known of the pairs before anything is learned from them.

    Args:
        solutions: by question, prompt and written-out solution as ids, where there is just one.
    """
    gaps = Counter(round(pair.gap, 6) for pair in pairs)
    judged = [pair for pair in pairs if pair.uid in solutions]
    winners = [pair.context + pair.chosen for pair in judged]
    right = sum(solutions[pair.uid][: len(whole)] == whole for pair, whole in zip(judged, winners, strict=True))
    return {
        "pairs": len(pairs),
        "step_pairs": sum(pair.kind == "step" for pair in pairs),
        "questions": len({pair.uid for pair in pairs}),
        "tied_gaps": max(gaps.values()) / len(pairs) if pairs else 0.0,
        "mean_gap": sum(pair.gap for pair in pairs) / len(pairs) if pairs else 0.0,
        "false_winners": 1 - right / len(judged) if judged else None,
    }


def _step_pairs(tree: Record, section: PairsSection) -> Iterator[StepPair]:
    """Of each parent's children, those that the section selects and that are far enough apart."""
    nodes, prompt = tree["nodes"], tuple(tree["prompt"])
    prefixes, children, right = _prefixes(nodes), _children(nodes), _leads_to_a_correct_answer(tree)
    for parent, siblings in children.items():
        able = [node for node in siblings if node["visits"] >= section.min_visits and _score(node, section) is not None]
        # Earlier children win ties, so that the order is fixed.
        ranked = sorted(able, key=lambda node: (-_score(node, section), -node["visits"], node["id"]))
        taken = 0
        for winner, loser in _selected(ranked, section):
            gap = _score(winner, section) - _score(loser, section)
            if gap < section.threshold or gap <= 0 or winner["tokens"] == loser["tokens"]:
                continue
            if section.losers == "never-correct" and loser["id"] in right:
                continue
            if taken == section.per_parent:
                break
            taken += 1
            yield StepPair(
                uid=tree["uid"],
                kind="step",
                context=prompt + prefixes[parent],
                chosen=tuple(winner["tokens"]),
                rejected=tuple(loser["tokens"]),
                chosen_ends=winner["terminal"] and not winner["cut"],
                rejected_ends=loser["terminal"] and not loser["cut"],
                score_chosen=_score(winner, section),
                score_rejected=_score(loser, section),
                visits_chosen=winner["visits"],
                visits_rejected=loser["visits"],
                depth=winner["depth"],
            )


def _selected(ranked: Sequence[Mapping[str, Any]], section: PairsSection) -> Iterator[tuple[Any, Any]]:
    """Winners and losers, by falling gap within a winner."""
    if len(ranked) < 2:
        return
    if section.selection == "best-worst":
        yield ranked[0], ranked[-1]
        return
    winners = ranked[:1] if section.selection == "best-each" else ranked[:-1]
    for place, winner in enumerate(winners):
        for loser in reversed(ranked[place + 1 :]):
            yield winner, loser


def _path_pairs(tree: Record, section: PairsSection) -> Iterator[StepPair]:
    """Whole answers: the best correct against the worst others, each once, from where they differ."""
    answers = tree["answers"]
    correct = max((one for one in answers if one["correct"]), key=lambda one: one["outcome"], default=None)
    wrong = sorted((one for one in answers if not one["correct"]), key=lambda one: one["outcome"])
    if correct is None:
        return
    pairs: dict[tuple[Any, ...], StepPair] = {}
    for loser in wrong:
        winning, losing = tuple(correct["tokens"]), tuple(loser["tokens"])
        shared = len(list(takewhile(lambda both: both[0] == both[1], zip(winning, losing, strict=False))))
        pair = StepPair(
            uid=tree["uid"],
            kind="path",
            context=tuple(tree["prompt"]) + winning[:shared],
            chosen=winning[shared:],
            rejected=losing[shared:],
            chosen_ends=correct["ended"],
            rejected_ends=loser["ended"],
            score_chosen=correct["outcome"],
            score_rejected=loser["outcome"],
            visits_chosen=1,
            visits_rejected=1,
            depth=0,
        )
        # A side without a token of its own teaches nothing.
        both = all((pair.chosen or pair.chosen_ends, pair.rejected or pair.rejected_ends))
        if both and pair.gap > 0 and pair.gap >= section.threshold:
            pairs.setdefault((losing, loser["ended"]), pair)
    yield from islice(pairs.values(), section.paths_per_question)


def _score(node: Mapping[str, Any], section: PairsSection) -> Any:
    return node[{"mean": "value", "evaluation": "score", "visits": "visits"}[section.score]]


def _prefixes(nodes: Sequence[Mapping[str, Any]]) -> dict[int, tuple[int, ...]]:
    """By node, ids of the answer so far."""
    found: dict[int, tuple[int, ...]] = {}
    for node in nodes:
        before = () if node["parent"] is None else found[node["parent"]]
        found[node["id"]] = before + tuple(node["tokens"])
    return found


def _children(nodes: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for node in nodes:
        if node["parent"] is not None:
            found.setdefault(node["parent"], []).append(node)
    return found


def _leads_to_a_correct_answer(tree: Record) -> set[int]:
    """Nodes that a correct answer goes through, finished leaves and roll-outs alike."""
    correct = [tuple(answer["tokens"]) for answer in tree["answers"] if answer["correct"]]
    prefixes = _prefixes(tree["nodes"])
    return {number for number, prefix in prefixes.items() if any(one[: len(prefix)] == prefix for one in correct)}
