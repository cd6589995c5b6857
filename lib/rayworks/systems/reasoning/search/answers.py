"""Which answer a finished search gives: the four rules of AlphaLLM (arXiv 2404.12253, section 4.5)."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from rayworks.systems.reasoning.search.scheduler import Answer, Search
from rayworks.systems.reasoning.search.tree import Node

Rule = Literal["greedy", "best-leaf", "rerank", "vote"]
RULES: tuple[Rule, ...] = get_args(Rule)


def choose(search: Search, rule: Rule) -> Answer | None:
    """The answer by a rule; ``None`` where the search has seen none.

    * ``greedy``: from the root along the children of highest mean value; where that line ends before an answer does, the
      best answer that goes on from there.
    * ``best-leaf``: the finished leaf of the highest score.
    * ``rerank``: of all answers, roll-outs too, the one of the highest outcome.
    * ``vote``: of all that an answer can be read from, what is said with the highest sum of outcomes (counted from the lowest
      where some are below 0); where all sums are 0, most often. Greedy completions that only repeat do not vote.

    The first seen wins a tie.
    """
    rules: Mapping[Rule, Callable[[Search], Answer | None]] = {
        "greedy": _greedy,
        "best-leaf": _best_leaf,
        "rerank": lambda searched: _highest(searched.answers),
        "vote": _vote,
    }
    return rules[rule](search)


def support(search: Search, answer: Answer) -> float:
    """Share of the answers seen that say the same."""
    return sum(other.said == answer.said for other in search.answers) / len(search.answers)


def _highest(answers: Sequence[Answer]) -> Answer | None:
    return max(answers, key=lambda answer: answer.outcome, default=None)


def _greedy(search: Search) -> Answer | None:
    node: Node = search.tree.root
    while live := [child for child in node.children if child.visits]:
        node = max(live, key=lambda child: child.mean)
    path = node.path
    exact = [answer for answer in search.answers if answer.leaf == path]
    if exact:
        return _highest(exact)
    for passed in reversed(node.line()):
        tokens = passed.tokens()
        through = [answer for answer in search.answers if answer.tokens[: len(tokens)] == tokens]
        if through:
            return _highest(through)
    return None


def _best_leaf(search: Search) -> Answer | None:
    return _highest([answer for answer in search.answers if answer.leaf is not None])


def _vote(search: Search) -> Answer | None:
    read = [answer for answer in search.answers if answer.said is not None and not answer.repeated]
    # A critic may score below 0; a vote counts for what is said all the same.
    low = min((answer.outcome for answer in read if answer.outcome < 0), default=0.0)
    mass: dict[str | None, float] = defaultdict(float)
    for answer in read:
        mass[answer.said] += answer.outcome - low
    if not any(mass.values()):
        for answer in read:
            mass[answer.said] += 1
    if not mass:
        return None
    said = max(mass, key=lambda key: mass[key])
    return _highest([answer for answer in read if answer.said == said])
