import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model
from rayworks.lm.key_value_cache import SlotCache
from rayworks.lm.prefix_tree import GIB, PrefixTree, agreeing

BYTES_PER_TOKEN = 2 * 4
"""Of :func:`cache`: keys and values of one layer, one head, one number each."""


def cache(tokens: list[int]) -> SlotCache:
    """A cache whose first slot holds tokens, each with keys and values that tell all of its prefix."""
    made = SlotCache(LlamaConfig(num_hidden_layers=1), 2)
    sums = torch.tensor(tokens, dtype=torch.float).cumsum(0)
    made.paste(0, 0, [(sums[None, :, None], -sums[None, :, None])])
    return made


def held(tree: PrefixTree, tokens: list[int]) -> list[float]:
    """What a slot gets of a prefix."""
    target = SlotCache(LlamaConfig(num_hidden_layers=1), 1)
    length = tree.load(tokens, target, 0)
    return target.copied(0, 0, length)[0][0].flatten().tolist() if length else []


sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


@settings(deadline=None)
@given(sequences, st.lists(st.integers(0, 2), max_size=10))
def test_the_longest_known_prefix_is_found_whole(stored: list[list[int]], asked: list[int]) -> None:
    tree = PrefixTree(1.0)
    for tokens in stored:
        tree.store(tokens, cache(tokens), 0)
    expected = max(agreeing(tokens, asked) for tokens in stored)
    assert tree.known(asked) == expected
    assert held(tree, asked) == [float(sum(asked[: n + 1])) for n in range(expected)]
    distinct = {tuple(tokens[: n + 1]) for tokens in stored for n in range(len(tokens))}
    assert tree.nbytes() == BYTES_PER_TOKEN * len(distinct)


@settings(deadline=None)
@given(sequences, st.integers(1, 12))
def test_memory_stays_within_its_bound_and_what_is_left_is_right(stored: list[list[int]], tokens_kept: int) -> None:
    tree = PrefixTree(tokens_kept * BYTES_PER_TOKEN / GIB)
    for tokens in stored:
        tree.store(tokens, cache(tokens), 0)
        assert tree.nbytes() <= tokens_kept * BYTES_PER_TOKEN
        known = tree.known(tokens)
        assert held(tree, tokens) == [float(sum(tokens[: n + 1])) for n in range(known)]
        if len(tokens) <= tokens_kept:
            assert known == len(tokens)


def test_the_least_recently_used_branch_goes_first() -> None:
    tree = PrefixTree(6 * BYTES_PER_TOKEN / GIB)
    for tokens in ([1, 2], [3, 4], [5, 6]):
        tree.store(tokens, cache(tokens), 0)
    tree.load([1, 2], cache([0]), 1)
    tree.store([7, 8], cache([7, 8]), 0)
    assert [tree.known(tokens) for tokens in ([1, 2], [3, 4], [5, 6], [7, 8])] == [2, 0, 2, 2]


def test_the_share_that_was_reused_is_told() -> None:
    tree = PrefixTree(1.0)
    assert tree.reused_share == 0.0
    tree.load([1, 2, 3, 4], cache([1]), 1)
    tree.store([1, 2, 3, 4], cache([1, 2, 3, 4]), 0)
    tree.load([1, 2, 3, 9], cache([1]), 1)
    assert tree.reused_share == pytest.approx(3 / 8)
    tree.clear()
    assert (len(tree), tree.nbytes(), tree.known([1])) == (0, 0, 0)


def test_without_memory_nothing_is_kept() -> None:
    tree = PrefixTree(0.0)
    tree.store([1, 2], cache([1, 2]), 0)
    assert tree.known([1, 2]) == 0


def test_slots_fork_rewind_and_take_up_what_was_known(tiny_model: str) -> None:
    model = CausalModel(load_model(tiny_model), 3)
    ids = random.Random(0).choices(range(300), k=40)
    expected = CausalModel(load_model(tiny_model), 1, prefix_gib=0.0).feed([0], [ids])[0]
    model.feed([0], [ids[:30]])
    model.fork(0, 2, 25)
    assert torch.allclose(model.feed([2], [ids[25:]])[0], expected, atol=1e-4)
    model.rewind(0, 10)
    assert torch.allclose(model.feed([0], [ids[10:]])[0], expected, atol=1e-4)
    model.keep(0)
    model.take_up(1, [*ids[:35], 1, 2])
    assert model.held(1) == 35
    fed = model.tokens_fed
    assert torch.allclose(model.feed([1], [ids[35:]])[0], expected, atol=1e-4)
    assert model.tokens_fed == fed + 5
