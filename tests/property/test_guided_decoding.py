"""The GenARM properties of the specification, on models small enough to enumerate; numbers are those of its part 3."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaForCausalLM

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.continuous_batching import ContinuousBatching
from rayworks.lm.engine import GenerationRequest, ScoringRequest
from rayworks.lm.rows import Row
from rayworks.lm.sampling import sampling_logits
from rayworks.systems.alignment.baselines import sharpened_temperature
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import (
    Guide,
    GuidedEngine,
    GuidedGeneration,
    GuidedRequest,
    RewardMixer,
    describe_step,
    mix_logits,
)
from tests.tiny_models import save_adapter, save_tiny_model

V, ROWS = 9, 4


def logits(seed: int, scale: float = 2.0) -> Tensor:
    return torch.randn(ROWS, V, generator=torch.Generator().manual_seed(seed)) * scale


def guide(values: Tensor, strength: float, name: str = "r", rows: Tensor | None = None) -> Guide:
    rows = torch.arange(ROWS) if rows is None else rows
    return Guide(name, rows, torch.full((len(rows),), strength), values[rows])


strengths = st.floats(0.01, 4.0)
seeds = st.integers(0, 10_000)


# 1 -------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def engine(tiny_model: str, tiny_arm: str, tmp_path_factory: pytest.TempPathFactory) -> GuidedEngine:
    second = save_tiny_model(tmp_path_factory.mktemp("second-arm"), seed=2)
    return GuidedEngine(tiny_model, {"a": tiny_arm, "b": second}, slots=3)


def ask(engine: GuidedEngine, weights: dict[str, object], count: int = 5, tokens: int = 8) -> list[GuidedGeneration]:
    return engine.generate(
        [
            GuidedRequest(prompt="a dress:"[: 3 + n], max_new_tokens=tokens, seed=n, guidance=Guidance(weights))
            for n in range(count)
        ]
    )


def test_1_zero_weight_is_the_base_bit_for_bit_and_runs_no_reward_model(engine: GuidedEngine, tiny_model: str) -> None:
    before = [model.forwards for model in engine.models]
    zero = ask(engine, {"a": 0.0})
    assert [model.forwards for model in engine.models[1:]] == before[1:]
    base = GuidedEngine(tiny_model, {}, slots=3)
    plain = base.generate([GenerationRequest(prompt="a dress:"[: 3 + n], max_new_tokens=8, seed=n) for n in range(5)])
    assert [(g.token_ids, g.logprobs) for g in zero] == [(g.token_ids, g.logprobs) for g in plain]
    assert all(g.log_z == 0 and g.kl_to_base == 0 for g in zero)


def test_1_an_objective_of_weight_zero_is_not_run(engine: GuidedEngine) -> None:
    before = engine.models[2].forwards
    ask(engine, {"a": 1.0, "b": 0.0})
    assert engine.models[2].forwards == before


# 2, 3, 4, 5 ----------------------------------------------------------------------------------------------------------
@given(seeds, strengths)
def test_2_a_uniform_reward_model_changes_nothing(seed: int, strength: float) -> None:
    base = logits(seed)
    mixed = mix_logits(base, [guide(torch.full((ROWS, V), -1.3), strength)])
    assert torch.allclose(mixed.softmax(-1), base.softmax(-1), atol=1e-6)


@given(seeds, strengths)
def test_3_a_uniform_base_gives_the_reward_model_to_the_power(seed: int, strength: float) -> None:
    reward = logits(seed)
    mixed = mix_logits(torch.zeros(ROWS, V), [guide(reward, strength)])
    power = reward.softmax(-1) ** strength
    assert torch.allclose(mixed.softmax(-1), power / power.sum(-1, keepdim=True), atol=1e-5)


@given(seeds, strengths, st.floats(-20, 20), st.floats(-20, 20))
def test_4_raw_logits_mix_as_log_probabilities_do(seed: int, strength: float, shift: float, other: float) -> None:
    base, reward = logits(seed), logits(seed + 1)
    raw = mix_logits(base + shift, [guide(reward + other, strength)])
    normalised = mix_logits(base.log_softmax(-1), [guide(reward.log_softmax(-1), strength)])
    assert torch.allclose(raw.softmax(-1), normalised.softmax(-1), atol=1e-5)


@given(seeds, strengths, st.floats(0.3, 3.0))
def test_5_dividing_by_one_plus_a_is_a_change_of_temperature(seed: int, strength: float, temperature: float) -> None:
    """The authors' code divides by 1 + a and is asked for temperature / (1 + a); ours mixes first and tempers then."""
    mixed = mix_logits(logits(seed), [guide(logits(seed + 1), strength)])

    def drawn_from(values: Tensor, at: float) -> Tensor:
        keep_all = torch.zeros(ROWS, dtype=torch.long), torch.ones(ROWS)
        return sampling_logits(values, torch.full((ROWS,), at), *keep_all).softmax(-1)

    theirs = drawn_from(mixed / (1 + strength), sharpened_temperature(temperature, strength))
    assert torch.allclose(theirs, drawn_from(mixed, temperature), atol=1e-5)


# 6 -------------------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=20)
@given(seeds, strengths)
def test_6_no_other_distribution_does_better_at_reward_minus_kl(seed: int, strength: float) -> None:
    base, reward = logits(seed)[:1].double().log_softmax(-1), logits(seed + 1)[:1].double().log_softmax(-1)
    one = Guide("r", torch.arange(1), torch.tensor([strength], dtype=torch.double), reward)
    optimum = mix_logits(base, [one]).softmax(-1)

    def objective(probabilities: Tensor) -> Tensor:
        return (probabilities * reward).sum(-1) - (
            torch.xlogy(probabilities, probabilities) - probabilities * base
        ).sum(-1) / strength

    generator = torch.Generator().manual_seed(seed)
    others = torch.rand(10_000, V, generator=generator, dtype=torch.double).log().mul(-1)
    others = others / others.sum(-1, keepdim=True)
    near = optimum * (1 + 0.05 * torch.randn(1000, V, generator=generator, dtype=torch.double)).clamp(min=0.1)
    near = near / near.sum(-1, keepdim=True)
    assert bool((objective(torch.cat([others, near])) <= objective(optimum) + 1e-9).all())


# 9 -------------------------------------------------------------------------------------------------------------------
@given(seeds, strengths, strengths)
def test_9_order_does_not_matter_and_two_guides_are_their_weighted_sum(seed: int, first: float, second: float) -> None:
    base, a, b = logits(seed), logits(seed + 1), logits(seed + 2)
    ab = mix_logits(base, [guide(a, first, "a"), guide(b, second, "b")])
    ba = mix_logits(base, [guide(b, second, "b"), guide(a, first, "a")])
    summed = mix_logits(base, [guide(first * a + second * b, 1.0)])
    assert torch.allclose(ab, ba, atol=1e-4)
    assert torch.allclose(ab, summed, atol=1e-4)


def test_9_weights_changed_on_the_way_equal_a_restart_with_the_prefix_forced(engine: GuidedEngine) -> None:
    switched = ask(engine, {"a": [(0, 0.0), (3, 2.0)], "b": [(0, 1.0), (5, 0.0)]}, count=3, tokens=10)
    for n, found in enumerate(switched):
        prompt = engine.tokenizer("a dress:"[: 3 + n])["input_ids"]
        for at, token in enumerate(found.token_ids):
            log_probs = _log_probs(
                engine, [*prompt, *found.token_ids[:at]], {"a": 2.0 * (at >= 3), "b": 1.0 * (at < 5)}
            )
            assert found.logprobs[at] == pytest.approx(float(log_probs[token]), abs=1e-4)
        assert found.weights["a"][:3] == (0.0,) * min(3, len(found.weights["a"]))


def test_9_live_update_takes_effect_at_the_next_token(engine: GuidedEngine) -> None:
    live, planned = Guidance({"a": 0.0}), Guidance({"a": [(0, 0.0), (4, 3.0)]})
    row = engine.row(GuidedRequest(prompt="a dress:", max_new_tokens=9, seed=5, guidance=live))
    row.on_token = lambda r: live.update({"a": 3.0}) if len(r.tokens) == 4 else None
    engine.decoding.submit(row)
    engine.decoding.drain()
    expected = engine.generate([GuidedRequest(prompt="a dress:", max_new_tokens=9, seed=5, guidance=planned)])[0]
    assert tuple(row.tokens) == expected.token_ids
    assert [report.get("weight:a", 0.0) for report in row.reports] == list(expected.weights["a"])


# 10 ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 0.7, "b": 1.8}])
def test_10_cached_batched_decoding_equals_full_recomputation(engine: GuidedEngine, weights: dict[str, float]) -> None:
    for n, found in enumerate(ask(engine, dict(weights), count=7)):
        prompt = engine.tokenizer("a dress:"[: 3 + n])["input_ids"]
        for at, token in enumerate(found.token_ids):
            log_probs = _log_probs(engine, [*prompt, *found.token_ids[:at]], weights)
            assert found.logprobs[at] == pytest.approx(float(log_probs[token]), abs=1e-4)


def test_10_ragged_batches_equal_single_rows(engine: GuidedEngine) -> None:
    requests = [
        GuidedRequest(prompt="a dress:"[: 2 + n], max_new_tokens=2 + 3 * n, seed=n, guidance=Guidance({"a": 0.4 * n}))
        for n in range(6)
    ]
    together = engine.generate(requests)
    for request, found in zip(requests, together, strict=True):
        alone = engine.generate([request])[0]
        assert alone.token_ids == found.token_ids
        assert alone.logprobs == pytest.approx(found.logprobs, abs=1e-4)
        assert alone.kl_to_base == pytest.approx(found.kl_to_base, abs=1e-3)


def test_10_a_row_that_lost_its_cache_goes_on_as_before(engine: GuidedEngine) -> None:
    request = GuidedRequest(prompt="a dress:", max_new_tokens=10, seed=3, guidance=Guidance({"a": 1.0}))
    expected = engine.generate([request])[0]
    row = engine.decoding.submit(engine.row(request))
    for step in itertools.count():
        if engine.decoding.idle:
            break
        engine.decoding.step()
        if step % 3 == 2 and row.finish_reason is None:
            for model in engine.models:
                model.release(row.slot)
    assert tuple(row.tokens) == expected.token_ids


# 7: the identities the reported numbers rest on -----------------------------------------------------------------------
def test_7_log_z_and_kl_close_the_sequence_identities(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    """log pi~(y) = log pi_b(y) + a log pi_r(y) - sum log Z_t, E[prod Z_t] = Z, and KL(pi~||pi_b) = E[sum kl_t]."""
    vocabulary, length, strength = 5, 3, 0.7
    base, reward = random_llama(vocabulary, seed=1).double(), random_llama(vocabulary, seed=2).double()
    mass = partition = kl = expected_kl = expected_z = 0.0
    for sequence in itertools.product(range(vocabulary), repeat=length):
        base_logprob, reward_logprob, guided_logprob, log_z, step_kl = _walk(base, reward, sequence, strength)
        assert guided_logprob == pytest.approx(base_logprob + strength * reward_logprob - log_z, abs=1e-9)
        probability = math.exp(guided_logprob)
        mass += probability
        partition += math.exp(base_logprob + strength * reward_logprob)
        kl += probability * (guided_logprob - base_logprob)
        expected_kl += probability * step_kl
        expected_z += probability * math.exp(log_z)
    assert mass == pytest.approx(1.0, abs=1e-9)
    assert kl == pytest.approx(expected_kl, abs=1e-9)
    assert expected_z == pytest.approx(partition, abs=1e-9)


# 15 ------------------------------------------------------------------------------------------------------------------
def test_15_forbidden_tokens_stay_forbidden_at_every_weight() -> None:
    base = logits(0)
    base[:, 2] = -torch.inf
    for guides in ([], [guide(logits(1), 3.0)], [guide(logits(1), 3.0, rows=torch.tensor([1]))]):
        mixed = mix_logits(base, guides)
        assert bool((mixed[:, 2] == -torch.inf).all())
        assert not bool(mixed.isnan().any())
        values = describe_step(base, guides, mixed, torch.zeros(ROWS, dtype=torch.long))
        assert all(bool(value.isfinite().all()) for value in values.values())


def test_15_wider_vocabularies_are_cut_to_the_common_ids(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: str
) -> None:
    wide = save_tiny_model(tmp_path_factory.mktemp("wide"), seed=1, extra_ids=1)
    engine = GuidedEngine(tiny_model, {"a": wide}, slots=2)
    assert engine.models[1].vocabulary_size == engine.models[0].vocabulary_size + 1
    assert engine.id_range == engine.models[0].vocabulary_size
    assert all(max(g.token_ids, default=0) < engine.id_range for g in ask(engine, {"a": 5.0}))


def test_rows_with_their_own_templates_per_model(engine: GuidedEngine) -> None:
    own = GuidedRequest(
        prompt="a dress:",
        guide_prompts={"a": "a shirt: the fit"},
        max_new_tokens=5,
        seed=1,
        guidance=Guidance({"a": 1.0}),
    )
    found = engine.generate([own])[0]
    first = found.token_ids[0]
    base, reward = (engine.tokenizer(text)["input_ids"] for text in ("a dress:", "a shirt: the fit"))
    with torch.inference_mode():
        expected = [
            m.model(torch.tensor([ids])).logits[0, -1] for m, ids in zip(engine.models, (base, reward), strict=False)
        ]
    assert found.logprobs[0] == pytest.approx(float((expected[0] + expected[1]).log_softmax(-1)[first]), abs=1e-4)


def test_a_mixer_reports_rows_by_their_own_weights(
    random_llama: Callable[..., LlamaForCausalLM], tiny_tokenizer: object
) -> None:
    """Rows of one batch with different weights, one of them zero: each as if it were alone."""
    size = len(tiny_tokenizer)
    models = [CausalModel(random_llama(size, seed=n), 3) for n in range(2)]
    decoding = ContinuousBatching(models, tiny_tokenizer, RewardMixer(["r"], size), 3)

    class Context:
        def __init__(self, weight: float) -> None:
            self.guidance, self.strengths = Guidance({"r": weight}), {}

    rows = [
        decoding.submit(Row(GenerationRequest(prompt="-", max_new_tokens=4, seed=9), ((1, 2), (1, 2)), Context(weight)))
        for weight in (0.0, 1.0, 2.0)
    ]
    decoding.drain()
    assert [row.reports[0].get("weight:r") for row in rows] == [0.0, 1.0, 2.0]
    assert rows[0].reports[0]["kl"] == 0.0 < rows[1].reports[0]["kl"] < rows[2].reports[0]["kl"]


def _log_probs(engine: GuidedEngine, ids: list[int], weights: dict[str, float]) -> Tensor:
    """The guided log-probabilities after ``ids``, from full forwards."""
    with torch.inference_mode():
        parts = [model.model(torch.tensor([ids])).logits[0, -1] for model in engine.models]
    mixed = parts[0]
    for objective, part in zip(engine.objectives, parts[1:], strict=True):
        mixed = mixed + weights.get(objective, 0.0) * part
    return mixed.log_softmax(-1)


def _walk(
    base: LlamaForCausalLM, reward: LlamaForCausalLM, sequence: tuple[int, ...], strength: float
) -> tuple[float, float, float, float, float]:
    """Totals of base, reward and guided log-probability, log Z and KL along a sequence after the prompt [0]."""
    ids = torch.tensor([[0, *sequence]])
    with torch.inference_mode():
        base_logits, reward_logits = base(ids).logits[0, :-1], reward(ids).logits[0, :-1]
    tokens, steps = ids[0, 1:], torch.arange(len(sequence))
    guides = [Guide("r", steps, torch.full((len(sequence),), strength, dtype=torch.double), reward_logits)]
    values = describe_step(base_logits, guides, mix_logits(base_logits, guides), tokens)
    return tuple(float(values[key].sum()) for key in ("base_logprob", "reward_logprob:r", "logprob", "log_z", "kl"))


# reward models that are adapters of the base ---------------------------------------------------------------------------
def test_adapters_guide_as_the_models_that_they_are_merged_into(tiny_model: str, tiny_arm: str, tmp_path: Path) -> None:
    folders = {name: save_adapter(tmp_path / name, load_model(tiny_model), seed) for seed, name in enumerate("ab")}
    for folder in folders.values():
        load_tokenizer(tiny_model).save_pretrained(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": tiny_model}))
    whole = tmp_path / "merged"
    load_model(str(folders["b"])).save_pretrained(whole)
    load_tokenizer(tiny_model).save_pretrained(whole)
    rows = GuidedEngine(tiny_model, {"a": str(folders["a"]), "b": str(folders["b"]), "c": tiny_arm}, slots=3)
    apart = GuidedEngine(tiny_model, {"a": str(folders["a"]), "b": str(whole), "c": tiny_arm}, slots=3)
    assert len({id(model) for model in rows.models}) == 2
    weights = {"a": [(0, 0.0), (3, 1.0)], "b": 0.5, "c": 0.7}
    for found, expected in zip(ask(rows, weights, count=7), ask(apart, weights, count=7), strict=True):
        assert found.token_ids == expected.token_ids
        assert found.log_z == pytest.approx(expected.log_z, abs=1e-3)
        assert found.reward_logprobs["b"] == pytest.approx(expected.reward_logprobs["b"], abs=1e-4)
    asked = [ScoringRequest("a dress:", " good")]
    assert rows.score(asked, "b")[0].logprobs == pytest.approx(apart.score(asked, "b")[0].logprobs, abs=1e-4)
    assert rows.score(asked)[0].logprobs == pytest.approx(apart.score(asked)[0].logprobs, abs=1e-4)
