"""What groups of experts ship decides as all of it would."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.lm.checkpoints import load_model
from rayworks.lm.scoring import EncodedResponse
from rayworks.systems.supervision.boosting.votes import Vote
from rayworks.systems.supervision.config import WeakSection
from rayworks.systems.supervision.generation.decoding import Ensemble
from rayworks.systems.supervision.generation.shipping import ExpertGroup, SpreadEnsemble, settled, shipped
from rayworks.systems.supervision.generation.tokens import Team
from rayworks.systems.supervision.weak.adapters import Adapter, AdapterBase
from tests.tiny_models import save_adapter

PROMPTS = [(5, 6, 7), (9,), (30, 31, 32, 33), (9, 9)]
ALPHAS = np.array([0.9, 0.4, 1.7])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 12), st.floats(0.02, 2.0), st.floats(0.1, 5.0)
)  # fmt: skip
def test_what_is_certain_is_the_likeliest_of_all(
    seed: int, groups: int, count: int, peak: float, weight: float
) -> None:
    draw = np.random.default_rng(seed)
    masses = [weight * draw.random() * draw.dirichlet(np.full(12, peak), 6) for _ in range(groups)]
    ids, mass, certain = settled([shipped(mass, count) for mass in masses])
    whole = sum(masses)
    assert (ids == whole.argmax(axis=1))[certain].all()
    assert mass[certain] == pytest.approx(whole.max(axis=1)[certain])
    if count == 12:
        assert certain.all()


def test_a_lead_smaller_than_the_rest_is_not_certain() -> None:
    one, other = np.array([[0.5, 0.3, 0.2]]), np.array([[0.0, 0.3, 0.7]])
    # Together the third has most, which neither the first nor the second group puts first alone.
    assert not settled([shipped(one, 1), shipped(other, 1)])[2][0]
    ids, mass, certain = settled([shipped(one, 3), shipped(other, 3)])
    assert (ids[0], mass[0], certain[0]) == (2, pytest.approx(0.9), True)
    # What is shipped of a group bounds what it has not shipped, whatever the mass of that.
    flat = np.full((1, 100), 0.01)
    flat[0, 7] = 0.5
    assert settled([shipped(flat, 2)])[2][0]
    # A tie is for those to part who see all; so is the mass of what one group has not shipped.
    assert not settled([shipped(np.full((1, 4), 0.25), 4)])[2][0]
    assert not settled([shipped(np.array([[0.9, 0.06, 0.04]]), 1), shipped(np.array([[0.02, 0.05, 0.03]]), 1)])[2][0]


@pytest.fixture(scope="module")
def experts(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    folder = tmp_path_factory.mktemp("experts")
    return [Adapter.load(save_adapter(folder / str(seed), load_model(tiny_model), seed)) for seed in range(3)]


def group(model: str, slots: int = 6) -> ExpertGroup:
    return ExpertGroup(AdapterBase(WeakSection(learner="adapter", model=model, layers=None), slots))


def here(groups: Sequence[ExpertGroup]) -> Callable[..., Callable[[], list[Any]]]:
    """Groups in this process."""
    return lambda question, teams, asked: (
        lambda: [getattr(one, question)(team, asked) for one, team in zip(groups, teams, strict=False)]
    )


def together(model: str, experts: Sequence[Adapter], vote: Vote) -> Ensemble:
    base = AdapterBase(WeakSection(learner="adapter", model=model, layers=None), 12)
    causal, numbers = base.beside(experts)
    return Ensemble(causal, base.tokenizer, numbers, ALPHAS, vote)


@pytest.mark.parametrize("vote", ["linear", "share"])
@pytest.mark.parametrize("groups", [2, 3, 5])
def test_groups_write_what_one_ensemble_writes(
    tiny_model: str, experts: list[Adapter], vote: Vote, groups: int
) -> None:
    others = here([group(tiny_model) for _ in range(groups - 1)])
    spread = SpreadEnsemble(Team(experts, ALPHAS, vote, [1, 2, 3]), group(tiny_model), others, groups)
    for found, expected in zip(
        spread.write(PROMPTS, 12, [1, 2, 3]), together(tiny_model, experts, vote).write(PROMPTS, 12, [1, 2, 3]), strict=True
    ):  # fmt: skip
        assert found.texts == expected.texts
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-4)
    assert spread.doubtful < 3 * 12 * len(PROMPTS)


def test_groups_weigh_what_one_ensemble_weighs(tiny_model: str, experts: list[Adapter]) -> None:
    answers = [EncodedResponse((5, 6), (7, 8, 0)), EncodedResponse((9,), (40,)), EncodedResponse((1, 2, 3), (4,) * 7)]
    spread = SpreadEnsemble(Team(experts, ALPHAS, "linear", [1, 3]), group(tiny_model), here([group(tiny_model)]), 2)
    expected = together(tiny_model, experts, "linear").weigh(answers, [1, 3])
    assert spread.weigh(answers, [1, 3]) == pytest.approx(expected, abs=1e-4)


def test_a_question_may_come_twice_and_to_a_new_group(tiny_model: str, experts: list[Adapter]) -> None:
    team, asked = Team(experts[:2], ALPHAS[:2], "linear", [2]), {0: (5, 6, 7, 8), 2: (9, 30)}
    old = group(tiny_model)
    old.say(team, {0: (5, 6, 7), 1: (4, 4), 2: (9,)})
    once, twice, new = old.whole(team, asked), old.whole(team, asked), group(tiny_model).whole(team, asked)
    assert once == pytest.approx(twice, abs=1e-5)
    assert once == pytest.approx(new, abs=1e-5)
    # More rows than slots were ever asked about: the first are forgotten.
    for first in range(0, 12, 3):
        old.whole(team, {row: (row + 1, 7) for row in range(first, first + 3)})
    assert old.whole(team, asked) == pytest.approx(new, abs=1e-5)
