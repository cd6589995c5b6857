"""A tree of steps: which leaf is next, and what a completion changes (eta-MCTS of AlphaLLM, arXiv 2404.12253).

Pure bookkeeping over token ids: nothing here draws, scores or waits.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rayworks.systems.reasoning.config import TreeSection

MERGED_AT_MOST = 64
"""Token positions that the distance of two steps looks at; longer steps differ by more than any threshold."""


@dataclass(eq=False, slots=True)
class Node:
    """A partial answer: its parent's, and one step more."""

    step: tuple[int, ...]
    """Token ids; empty at the root."""
    parent: "Node | None"
    number: int = 0
    """Among the children of its parent, in the order made."""
    depth: int = 0
    logprob: float = 0.0
    """Of the step under the policy, summed over its tokens."""
    terminal: bool = False
    """Whether the answer ends here."""
    cut: bool = False
    """Whether it ends for want of room, without an end of its own."""
    score: float | None = None
    """The node's own evaluation when it was made: the weighted sum of ``parts``."""
    parts: Mapping[str, float] = field(default_factory=dict)
    visits: int = 0
    total: float = 0.0
    """Sum of the values of its visits."""
    looks: int = 0
    """Visits that ended here: its own evaluation, completions that merged into it, returns to a terminal."""
    pending: int = 0
    """Visits on their way below it or at it."""
    reserved: int = 0
    """Completions asked of it that have not come back."""
    asked: int = 0
    """Completions ever asked of it: the number of the next one."""
    merges: int = 0
    """Completions that repeated a child."""
    width: int = 1
    full: bool = False
    """Whether it repeated itself too often to be asked again."""
    closed: bool = False
    """Whether nothing is left to try at it and below."""
    children: list["Node"] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean value of its visits; 0 before the first."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def path(self) -> tuple[int, ...]:
        """Numbers of the children that lead here from the root."""
        return tuple(node.number for node in self.line())[1:]

    def line(self) -> list["Node"]:
        """The nodes from the root to here."""
        found: list[Node] = []
        node: Node | None = self
        while node is not None:
            found.append(node)
            node = node.parent
        return found[::-1]

    def tokens(self) -> tuple[int, ...]:
        """The partial answer: ids of all steps from the root to here."""
        return tuple(token for node in self.line() for token in node.step)

    def below(self) -> Iterator["Node"]:
        """This node and all below it, parents before children, siblings in the order made."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)


class Tree:
    """The statistics of one search.

    A visit of a node is a value that was backed up through it, so that ``visits == looks + sum of the children's visits``
    at every node, and the root's visits are the simulations.
    """

    def __init__(self, section: TreeSection) -> None:
        self.section, self.root = section, Node((), None)
        self.root.width = section.root_width

    def select(self) -> Node | None:
        """The node that the next simulation asks for a completion, or, where terminals are returned to, a terminal.

        ``None`` where nothing is left to try, or all that is waits for completions on their way.
        """
        node = self.root
        while not node.closed:
            if node.terminal or self._has_room(node):
                return node
            live = [child for child in node.children if not child.closed]
            if not live:
                return None
            node = max(live, key=self._bound(node))
        return None

    def reserve(self, node: Node) -> int:
        """Mark a completion as asked of a node, as a loss on the way there until it comes back; its number there."""
        for passed in node.line():
            passed.pending += 1
        node.reserved, node.asked = node.reserved + 1, node.asked + 1
        return node.asked - 1

    def release(self, node: Node) -> None:
        """Take the mark back: the completion has come, or never will."""
        for passed in node.line():
            passed.pending -= 1
        node.reserved -= 1

    def add(self, node: Node, step: tuple[int, ...], logprob: float, *, terminal: bool, cut: bool) -> Node:
        """The child of a node for a step: a new one, or the sibling that it repeats."""
        # What ends here is no step that goes on, and two endings that differ at all are two answers.
        alike = [child for child in node.children if (child.terminal, child.cut) == (terminal, cut)]
        twin = min(alike, key=lambda child: distance(child.step, step), default=None)
        if twin is not None and distance(twin.step, step) < (1 if terminal else self.section.merge_distance):
            node.merges += 1
            node.full = node.merges >= self.section.merges
            return twin
        child = Node(step, node, len(node.children), node.depth + 1, logprob, terminal, cut)
        child.width = self.section.width
        node.children.append(child)
        return child

    def back_up(self, node: Node, value: float) -> None:
        """Count a value at a node and on the way to it, widen what its values spread, and close what is done."""
        node.looks += 1
        line = node.line()
        for passed in line:
            passed.visits += 1
            passed.total += value
        for passed in reversed(line):
            self._widen(passed)
            passed.closed = self._is_done(passed)

    def _widen(self, node: Node) -> None:
        """Width by importance, ``min(floor(alpha max |v_child - v|) + 1, most)``: it only grows (equation of section 4.3)."""
        section = self.section
        if not section.importance or not node.children:
            return
        own = node.mean if node.score is None else node.score
        spread = max(abs(child.mean - own) for child in node.children if child.visits) if node.visits else 0.0
        most = section.most_root_width if node.parent is None else section.most_width
        node.width = max(node.width, min(math.floor(section.importance * spread) + 1, most))

    def _has_room(self, node: Node) -> bool:
        return not node.full and len(node.children) + node.reserved < node.width

    def _is_done(self, node: Node) -> bool:
        if node.terminal:
            return self.section.terminals == "close"
        exhausted = node.full or len(node.children) >= node.width
        return exhausted and not node.reserved and all(child.closed for child in node.children)

    def _bound(self, parent: Node) -> "_Bound":
        return _Bound(self.section, parent)


class _Bound:
    """The upper bound by which a parent's children are chosen; visits on their way count as losses."""

    def __init__(self, section: TreeSection, parent: Node) -> None:
        self._section = section
        count = max(1, parent.visits + parent.pending)
        self._root, self._log = math.sqrt(count), math.log(count)
        if section.rule == "puct":
            highest = max(child.logprob for child in parent.children)
            self._mass = sum(math.exp(child.logprob - highest) for child in parent.children)
            self._highest = highest

    def __call__(self, child: Node) -> float:
        section, count = self._section, child.visits + child.pending
        if section.rule == "puct":
            prior = math.exp(child.logprob - self._highest) / self._mass
            explored = section.exploration * prior * self._root / (1 + count)
        else:
            explored = section.exploration * math.sqrt(self._log / max(1, count))
        mean = (child.total - section.virtual_loss * child.pending) / count if count else 0.0
        return mean + explored


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Edit distance of two steps in tokens, of their first :data:`MERGED_AT_MOST`."""
    if one == other:
        return 0
    one, other = one[:MERGED_AT_MOST], other[:MERGED_AT_MOST]
    before = list(range(len(other) + 1))
    for row, token in enumerate(one, 1):
        here = [row]
        for column, compared in enumerate(other, 1):
            swapped = before[column - 1] + (token != compared)
            here.append(min(swapped, before[column] + 1, here[-1] + 1))
        before = here
    return max(1, before[-1])
