"""What groups of experts ship decides as all of it would."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.systems.supervision.boosting.votes import Vote
from rayworks.systems.supervision.generation.decoding import Ensemble
from rayworks.systems.supervision.generation.shipping import ExpertGroup, settled, shipped, write_spread
from tests.tiny_models import save_adapter


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 12), st.floats(0.02, 2.0), st.floats(0.1, 5.0)
)  # fmt: skip
def test_what_is_certain_is_the_likeliest_of_all(
    seed: int, groups: int, count: int, peak: float, weight: float
) -> None:
    draw = np.random.default_rng(seed)
    masses = [weight * draw.random() * draw.dirichlet(np.full(12, peak), 6) for _ in range(groups)]
    ids, certain = settled([shipped(mass, count) for mass in masses])
    whole = sum(masses)
    assert (ids == whole.argmax(axis=1))[certain].all()
    if count == 12:
        assert certain.all()


def test_a_lead_smaller_than_the_rest_is_not_certain() -> None:
    one, other = np.array([[0.5, 0.3, 0.2]]), np.array([[0.0, 0.3, 0.7]])
    # Together the third has most, which neither the first nor the second group puts first alone.
    assert not settled([shipped(one, 1), shipped(other, 1)])[1][0]
    ids, certain = settled([shipped(one, 3), shipped(other, 3)])
    assert (ids[0], certain[0]) == (2, True)
    # What is shipped of a group bounds what it has not shipped, whatever the mass of that.
    flat = np.full((1, 100), 0.01)
    flat[0, 7] = 0.5
    assert settled([shipped(flat, 2)])[1][0]


@pytest.mark.parametrize("vote", ["linear", "share"])
def test_groups_write_what_one_ensemble_writes(tiny_model: str, tmp_path: Path, vote: Vote) -> None:
    alphas, prompts = [0.9, 0.4, 1.7], [(5, 6, 7), (9,), (30, 31, 32, 33)]
    folders = [save_adapter(tmp_path / str(seed), load_model(tiny_model), seed) for seed in range(3)]

    def group(which: list[int], slots: int) -> tuple[CausalModel, list[int], list[float]]:
        causal = CausalModel(load_model(tiny_model), slots, adapters=3)
        return causal, [causal.adapters.add(str(n), folders[n]) for n in which], [alphas[n] for n in which]

    groups = [ExpertGroup(*group(which, 9), vote) for which in ([0, 2], [1])]
    tokenizer = load_tokenizer(tiny_model)
    answers, doubtful = write_spread(
        lambda method, *given: [getattr(one, method)(*given) for one in groups],
        prompts,
        frozenset([tokenizer.eos_token_id]),
        12,
    )
    causal, numbers, weights = group([0, 1, 2], 9)
    together = Ensemble(causal, tokenizer, numbers, np.array(weights), vote).write(prompts, 12, [3])[0]
    assert tuple(tokenizer.decode(answer) for answer in answers) == together.texts
    assert doubtful < sum(map(len, answers))
