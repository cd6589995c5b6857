"""Token prefixes whose keys and values are computed once, as a tree: a branch may leave at any token.

A slot gets a copy of the longest known prefix, so what is evicted was never in use; a node that has branches outlives them.
"""

from collections import OrderedDict
from collections.abc import Sequence

from rayworks.lm.key_value_cache import KeysAndValues, SlotCache

GIB = 2**30


class _Node:
    """A run of tokens behind its parent's."""

    def __init__(self, tokens: tuple[int, ...], parts: KeysAndValues, parent: "_Node | None") -> None:
        self.tokens, self.parts, self.parent = tokens, parts, parent
        self.branches: dict[int, _Node] = {}

    def nbytes(self) -> int:
        return sum(tensor.nbytes for part in self.parts for tensor in part)


class PrefixTree:
    """Known prefixes of one model, each adapter's apart: up to ``gib`` GiB, the least recently used dropped; 0 keeps none."""

    def __init__(self, gib: float) -> None:
        self.keeps = gib > 0
        self._bound = gib * GIB
        self.asked_tokens = self.reused_tokens = 0
        self.clear()

    def clear(self) -> None:
        """Forget all prefixes; the counts of tokens stay."""
        self._roots: dict[int, _Node] = {}
        self._nbytes = 0
        # From the least recently used on. An ancestor is always used after its descendants, so the first is a leaf.
        self._by_use: OrderedDict[_Node, None] = OrderedDict()

    @property
    def reused_share(self) -> float:
        """Of all prompt tokens that rows needed, how many were copied instead of computed."""
        return self.reused_tokens / self.asked_tokens if self.asked_tokens else 0.0

    def nbytes(self) -> int:
        """Bytes held."""
        return self._nbytes

    def __len__(self) -> int:
        """Runs of tokens held."""
        return len(self._by_use)

    def known(self, tokens: Sequence[int], adapter: int = 0) -> int:
        """How many of the first ``tokens`` are known."""
        return sum(count for _, count in self._path(tuple(tokens), adapter))

    def room(self, cache: SlotCache) -> int:
        """The longest prefix that fits."""
        size = cache.token_nbytes()
        return int(self._bound // size) if size else 0

    def load(self, tokens: Sequence[int], cache: SlotCache, slot: int, adapter: int = 0) -> int:
        """Copy the longest known prefix of ``tokens`` to the start of a slot; its length."""
        path, at = self._path(tuple(tokens), adapter), 0
        for node, count in path:
            cache.paste(slot, at, [(keys[:, :count], values[:, :count]) for keys, values in node.parts])
            at += count
        self._used([node for node, _ in path])
        self.asked_tokens += len(tokens)
        self.reused_tokens += at
        return at

    def store(self, tokens: Sequence[int], cache: SlotCache, slot: int, adapter: int = 0) -> None:
        """Keep what a slot holds of its first ``tokens``, as many as fit; only what is new is copied."""
        tokens = tuple(tokens[: self.room(cache)])
        path = self._path(tokens, adapter)
        at = sum(count for _, count in path)
        parent = self._roots.setdefault(adapter, _Node((), [], None))
        if path:
            parent, count = path[-1]
            if at < len(tokens) and count < len(parent.tokens):
                parent = self._split(parent, count)
        self._used([node for node, _ in path])
        if at < len(tokens) and self.keeps:
            node = _Node(tokens[at:], cache.copied(slot, at, len(tokens)), parent)
            parent.branches[tokens[at]] = node
            self._nbytes += node.nbytes()
            self._used([node])
        while self._nbytes > self._bound:
            node, _ = self._by_use.popitem(last=False)
            assert node.parent is not None and not node.branches
            del node.parent.branches[node.tokens[0]]
            self._nbytes -= node.nbytes()

    def _path(self, tokens: tuple[int, ...], adapter: int) -> list[tuple[_Node, int]]:
        """Nodes along the tokens, from the root on, and how much of each agrees: all of it but for the last."""
        root = self._roots.get(adapter)
        path, at, node = [], 0, root.branches.get(tokens[0]) if root and tokens else None
        while node is not None:
            count = agreeing(node.tokens, tokens[at : at + len(node.tokens)])
            path.append((node, count))
            at += count
            node = node.branches.get(tokens[at]) if count == len(node.tokens) and at < len(tokens) else None
        return path

    def _split(self, node: _Node, count: int) -> _Node:
        """Cut a node in two; the upper part, which keeps the node's place."""
        parent = node.parent
        assert parent is not None
        first = [(keys[:, :count].clone(), values[:, :count].clone()) for keys, values in node.parts]
        upper = _Node(node.tokens[:count], first, parent)
        parent.branches[upper.tokens[0]] = upper
        node.tokens, node.parent = node.tokens[count:], upper
        node.parts = [(keys[:, count:].clone(), values[:, count:].clone()) for keys, values in node.parts]
        upper.branches[node.tokens[0]] = node
        return upper

    def _used(self, nodes: Sequence[_Node]) -> None:
        """Mark nodes and all above them as used, the uppermost last."""
        node = nodes[-1] if nodes else None
        while node is not None and node.parent is not None:
            self._by_use[node] = None
            self._by_use.move_to_end(node)
            node = node.parent


def agreeing(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their start."""
    low = high = min(len(first), len(second))
    if first[:high] != second[:high]:
        low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[:middle] == second[:middle] else (low, middle - 1)
    return low
