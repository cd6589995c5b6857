"""The do-recursion against summing over all paths of decisions."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.causes.do_recursion import do_recursion, intervene
from rayworks.systems.recommendation.logs.events import ACCEPTED, REJECTED
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions, History


def enumerated(first: float, if_rejected: np.ndarray, if_accepted: np.ndarray) -> list[float]:
    found = []
    for step in range(1, len(if_rejected) + 2):
        total = 0.0
        for path in itertools.product((0, 1), repeat=step):
            chance = first if path[0] else 1 - first
            for t in range(1, step):
                yes = if_accepted[t - 1] if path[t - 1] else if_rejected[t - 1]
                chance *= yes if path[t] else 1 - yes
            total += chance * path[-1]
        found.append(total)
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 10_000))
def test_the_recursion_is_the_sum_over_all_paths(steps: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    first, rejected, accepted = draw.random(3), draw.random((3, steps - 1)), draw.random((3, steps - 1))
    found = do_recursion(first, rejected, accepted)
    for row in range(3):
        np.testing.assert_allclose(found[row], enumerated(first[row], rejected[row], accepted[row]), atol=1e-12)


def test_a_finite_world_is_met_exactly() -> None:
    """Three contexts, four items, four steps: all 768 interventions, by the recursion and by brute force."""
    draw = np.random.default_rng(0)
    chance = draw.random((3, 4, 5, 2))
    worst = 0.0
    for context, items in itertools.product(range(3), itertools.product(range(4), repeat=4)):
        first = chance[context, items[0], 4, 0]
        pairs = list(itertools.pairwise(items))
        rejected = np.array([chance[context, now, before, 0] for before, now in pairs])
        accepted = np.array([chance[context, now, before, 1] for before, now in pairs])
        error = np.abs(do_recursion(np.array(first), rejected, accepted) - enumerated(first, rejected, accepted))
        worst = max(worst, float(error.max()))
    assert worst < 1e-12


def test_values_that_are_no_chances_are_refused() -> None:
    with pytest.raises(DataError, match="if_accepted"):
        do_recursion(np.array(0.5), np.array([0.5]), np.array([1.5]))


def model_of(history: History) -> AcceptanceModel:
    torch.manual_seed(0)
    model = AcceptanceModel(AcceptanceOptions(items=5, length=16, history=history, width=8, dropout=0.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model.double().eval()


def by_hand(model: AcceptanceModel, items: list[int]) -> list[float]:
    """Sum over all paths, each through the whole-sequence pass."""
    found = []
    for step in range(1, len(items) + 1):
        total = 0.0
        for path in itertools.product((0, 1), repeat=step - 1):
            kinds = [ACCEPTED if yes else REJECTED for yes in path]
            item = torch.tensor([[code + 1 for code in items[:step]]])
            kind = torch.tensor([[*kinds, REJECTED]])
            chances = torch.sigmoid(model(item, kind))[0].tolist()
            weight = np.prod([p if yes else 1 - p for p, yes in zip(chances[:-1], path, strict=True)])
            total += float(weight) * chances[-1]
        found.append(total)
    return found


@pytest.mark.parametrize("history", ["all", "first-order", "shown"])
def test_interventions_on_a_model_are_sums_over_its_own_paths(history: History) -> None:
    model, items = model_of(history), [3, 1, 1, 4, 0]
    with torch.no_grad():
        found = intervene(model, model.remember(1), torch.tensor([items]), paths=16)
        np.testing.assert_allclose(found.probability[0].tolist(), by_hand(model, items), atol=1e-12)
    assert found.exact


def test_a_first_order_model_needs_two_paths_however_long_it_is() -> None:
    model = model_of("first-order")
    items = torch.randint(0, 5, (3, 8), generator=torch.Generator().manual_seed(1))
    two = intervene(model, model.remember(3), items, paths=2)
    assert two.exact
    model.options = AcceptanceOptions(**{**vars(model.options), "history": "all"})
    other = model_of("all")
    assert not intervene(other, other.remember(3), items, paths=2).exact


def test_sampled_paths_come_near_the_exact_sum_and_are_repeatable() -> None:
    model, items = model_of("all"), torch.tensor([[3, 1, 1, 4, 0]])
    exact = intervene(model, model.remember(1), items, paths=16).probability
    sampled = intervene(model, model.remember(1), items.expand(1, 5), paths=15, seed=3)
    assert not sampled.exact
    many = intervene(model, model.remember(400), items.expand(400, 5), paths=15, seed=3).probability.mean(0)
    torch.testing.assert_close(many, exact[0], atol=0.01, rtol=0)
    torch.testing.assert_close(
        intervene(model, model.remember(1), items, paths=15, seed=3).probability, sampled.probability
    )
