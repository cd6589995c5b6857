"""Trees and their statistics: selection, virtual loss, widths, merging."""

import math
import random

import pytest

from rayworks.systems.reasoning.config import TreeSection
from rayworks.systems.reasoning.search.tree import Tree, distance


def test_without_exploration_the_best_mean_is_taken_and_with_much_all_in_turn() -> None:
    for exploration, most in ((0.0, None), (1e6, 1)):
        tree = Tree(TreeSection(exploration=exploration, root_width=4, width=1, depth=1, terminals="revisit"))
        for number in range(4):
            tree.reserve(tree.root)
            tree.release(tree.root)
            child = tree.add(tree.root, (number,), -1.0, terminal=True, cut=False)
            child.score = number / 10
            tree.back_up(child, child.score)
        for _ in range(80):
            chosen = tree.select()
            assert chosen is not None and chosen.score is not None
            if most is None:
                assert chosen.mean == max(child.mean for child in tree.root.children)
            tree.back_up(chosen, chosen.score)
        visits = [child.visits for child in tree.root.children]
        if most is not None:
            assert max(visits) - min(visits) <= most


def test_puct_follows_the_prior_where_values_are_equal() -> None:
    tree = Tree(TreeSection(rule="puct", root_width=2, width=1, terminals="revisit", depth=1))
    for number, logprob in enumerate((math.log(0.8), math.log(0.2))):
        tree.reserve(tree.root)
        tree.release(tree.root)
        child = tree.add(tree.root, (number,), logprob, terminal=True, cut=False)
        child.score = 0.5
        tree.back_up(child, 0.5)
    for _ in range(100):
        chosen = tree.select()
        assert chosen is not None
        tree.back_up(chosen, 0.5)
    likely, unlikely = (child.visits for child in tree.root.children)
    assert 3 < likely / unlikely < 5


def test_virtual_loss_is_taken_back() -> None:
    tree = Tree(TreeSection(root_width=3, width=2))
    parents = []
    for _ in range(3):
        node = tree.select()
        assert node is tree.root
        tree.reserve(node)
        parents.append(node)
    assert tree.select() is None, "all that the root has room for is on its way"
    for number, node in enumerate(parents):
        tree.release(node)
        tree.back_up(tree.add(node, (number,), -1.0, terminal=False, cut=False), number / 2)
    check_visits = [(node.visits, node.total, node.pending) for node in tree.root.below()]
    assert check_visits == [(3, 1.5, 0), (1, 0.0, 0), (1, 0.5, 0), (1, 1.0, 0)]
    first = tree.select()
    assert first is not None
    tree.reserve(first)
    assert tree.select() is not first, "the visit on its way counts as a loss"


@pytest.mark.parametrize(
    ("alpha", "values", "width"),
    [(0.0, (0.0, 1.0), 2), (4.0, (0.5, 0.5), 2), (4.0, (0.0, 1.0), 3), (8.0, (0.0, 1.0), 5), (100.0, (0.0, 1.0), 6)],
)
def test_width_by_importance(alpha: float, values: tuple[float, float], width: int) -> None:
    tree = Tree(TreeSection(root_width=2, importance=alpha, most_root_width=6))
    for number, value in enumerate(values):
        tree.reserve(tree.root)
        tree.release(tree.root)
        tree.back_up(tree.add(tree.root, (number,), -1.0, terminal=False, cut=False), value)
    assert tree.root.width == width  # min(floor(alpha max|v - mean|) + 1, most), and never less than before


def test_width_only_grows() -> None:
    tree = Tree(TreeSection(root_width=1, importance=10.0, most_root_width=60))
    widths = []
    for number, value in enumerate((0.0, 1.0, 0.5, 0.5, 0.5)):
        tree.back_up(tree.add(tree.root, (number,), -1.0, terminal=False, cut=False), value)
        widths.append(tree.root.width)
    assert widths == sorted(widths) and widths[-1] > widths[0]


@pytest.mark.parametrize("threshold", [1, 2, 4])
def test_siblings_differ_by_the_merge_distance(threshold: int) -> None:
    random.seed(threshold)
    tree = Tree(TreeSection(root_width=50, merge_distance=threshold, merges=1000))
    for _ in range(200):
        step = tuple(random.choices(range(4), k=random.randint(1, 6)))
        tree.back_up(tree.add(tree.root, step, -1.0, terminal=False, cut=False), 0.0)
    steps = [child.step for child in tree.root.children]
    pairs = [(one, other) for place, one in enumerate(steps) for other in steps[place + 1 :]]
    assert len(steps) > 3
    assert all(distance(one, other) >= threshold for one, other in pairs)
    assert tree.root.visits == 200, "a repeated step is a visit of the one it repeats"


def test_a_node_that_repeats_itself_is_asked_no_more() -> None:
    tree = Tree(TreeSection(root_width=5, width=1, merges=3))
    for _ in range(4):
        assert tree.select() is tree.root
        tree.back_up(tree.add(tree.root, (1,), -1.0, terminal=False, cut=False), 0.0)
    assert tree.root.full and tree.select() is tree.root.children[0]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [((), (), 0), ((1,), (), 1), ((1, 2, 3), (1, 3), 1), ((1, 2), (2, 1), 2), ((1,) * 5, (2,) * 5, 5)],
)
def test_edit_distance(one: tuple[int, ...], other: tuple[int, ...], expected: int) -> None:
    assert distance(one, other) == distance(other, one) == expected


def test_an_ending_is_no_step_and_two_endings_are_two_answers() -> None:
    tree = Tree(TreeSection(root_width=9, merge_distance=20))
    for number, (step, terminal) in enumerate((((1, 2), False), ((1, 2), True), ((1, 3), True), ((1, 4), False))):
        tree.back_up(tree.add(tree.root, step, -1.0, terminal=terminal, cut=False), 0.0)
        assert tree.root.visits == number + 1
    assert [(child.step, child.terminal) for child in tree.root.children] == [
        ((1, 2), False),
        ((1, 2), True),
        ((1, 3), True),
    ]


def test_a_tree_deeper_than_the_stack_is_written() -> None:
    tree = Tree(TreeSection(root_width=1, width=1, depth=3000))
    node = tree.root
    for _ in range(2500):
        node = tree.add(node, (1,), -1.0, terminal=False, cut=False)
    tree.back_up(node, 1.0)
    assert sum(1 for _ in tree.root.below()) == 2501
