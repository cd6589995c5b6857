"""Properties 11 and 12 of the specification: the loss in closed form, and a toy task that is learnt."""

import json
import math
import os
import random
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rayworks.core.errors import DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.continuous_batching import ContinuousBatching
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.pair_training import EncodedPair, PairTrainer
from rayworks.lm.preference_losses import bradley_terry_loss
from rayworks.lm.rows import Row
from rayworks.lm.scoring import EncodedResponse, response_logprobs
from rayworks.systems.alignment.autoregressive_reward import reward_model_trainer
from rayworks.systems.alignment.config import TrainingSection
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import RewardMixer

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
from trl.experimental.cpo import CPOTrainer  # it warns unless it is told not to

logps = st.lists(st.tuples(st.floats(-80, 0), st.floats(-80, 0)), min_size=1, max_size=6)


@given(logps, st.floats(0.01, 1.0), st.floats(0, 0.4))
def test_11_sigmoid_is_the_cpo_loss_of_trl(pairs: list[tuple[float, float]], beta: float, smoothing: float) -> None:
    chosen, rejected = torch.tensor(pairs, dtype=torch.double).T
    settings = types.SimpleNamespace(
        alpha=0.0,
        beta=beta,
        label_smoothing=smoothing,
        loss_type="sigmoid",
        accelerator=types.SimpleNamespace(device=torch.device("cpu")),
    )
    expected = CPOTrainer.cpo_loss(settings, chosen, rejected)[0]
    found = bradley_terry_loss(chosen, rejected, beta=beta, label_smoothing=smoothing)
    assert torch.allclose(found, expected, atol=1e-12)


@given(logps, st.floats(0.01, 1.0), st.integers(1, 30), st.integers(2, 1000))
def test_11_a_uniform_reference_of_equal_length_is_no_reference(
    pairs: list[tuple[float, float]], beta: float, length: int, vocabulary: int
) -> None:
    chosen, rejected = torch.tensor(pairs, dtype=torch.double).T
    reference = -length * math.log(vocabulary)
    dpo = -logsigmoid(beta * ((chosen - reference) - (rejected - reference)))
    assert torch.allclose(bradley_terry_loss(chosen, rejected, beta=beta), dpo, atol=1e-9)


@given(st.floats(-80, 0), st.floats(0.01, 1.0), st.floats(0, 0.4), st.floats(0, 3))
def test_11_closed_forms_at_a_tie(logp: float, beta: float, smoothing: float, margin: float) -> None:
    tie = torch.tensor([logp], dtype=torch.double)
    assert bradley_terry_loss(tie, tie, beta=beta, label_smoothing=smoothing).item() == pytest.approx(math.log(2))
    assert bradley_terry_loss(tie, tie, beta=beta, kind="hinge", margin=margin).item() == pytest.approx(1 + margin)
    assert bradley_terry_loss(tie, tie, beta=beta, margin=margin).item() == pytest.approx(math.log1p(math.exp(margin)))


def test_11_gradient_of_the_lead_and_none_at_the_prompt(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    """d(-log p(y))/d logits is softmax - onehot at response positions; a prompt's own next tokens are not predicted."""
    model = random_llama(7)
    row = EncodedResponse((1, 2, 3), (4, 5))
    seen: list[torch.Tensor] = []

    def keep(module: object, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = model.lm_head.register_forward_hook(keep)
    logprobs, mask = response_logprobs(model, [row])
    logprobs.sum().backward()
    handle.remove()
    (logits,) = seen
    assert logits.shape == (2, 7)
    assert logits.grad is not None
    onehot = torch.nn.functional.one_hot(torch.tensor(row.response), 7).float()
    assert torch.allclose(logits.grad, onehot - logits.softmax(-1), atol=1e-6)
    full = model(torch.tensor([row.prompt + row.response])).logits[0].log_softmax(-1)
    assert logprobs[mask].tolist() == pytest.approx([full[2, 4].item(), full[3, 5].item()], abs=1e-5)


# 12 ------------------------------------------------------------------------------------------------------------------
PROMPT, GOOD, BAD, END, SIZE = (1,), (2, 3, 4), (5, 6, 7), 0, 12


def toy_pairs(count: int, seed: int) -> list[EncodedPair]:
    """The response that has more good words is preferred."""
    draw = random.Random(seed)
    pairs: list[EncodedPair] = []
    while len(pairs) < count:
        first, second = ([draw.choice((*GOOD, *BAD)) for _ in range(4)] for _ in range(2))
        better, worse = sorted((first, second), key=lambda ids: -sum(i in GOOD for i in ids))
        if true_reward(better) > true_reward(worse):
            pairs.append(EncodedPair(*(EncodedResponse(PROMPT, (*ids, END)) for ids in (better, worse))))
    return pairs


def true_reward(ids: list[int]) -> int:
    return sum(index in GOOD for index in ids)


class _Tokenizer:
    eos_token_id = END

    def decode(self, ids: list[int], **options: object) -> str:
        return " ".join(map(str, ids))


def trainer(model: LlamaForCausalLM, pairs: list[EncodedPair], **changes: object) -> PairTrainer:
    settings = TrainingSection(**{"learning_rate": 0.01, "pairs_per_step": 16, "train_embeddings": True, **changes})
    return reward_model_trainer(model, pairs, settings, beta=0.5, seed=3, name="toy")


def test_12_toy_task_is_learnt_and_guidance_raises_reward_and_kl(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    learning = trainer(random_llama(SIZE, seed=5), toy_pairs(800, 0), epochs=4)
    learning.train(200)
    assert learning.step == 200
    assert learning.evaluate(toy_pairs(300, 99))["accuracy"] > 0.95
    base = random_llama(SIZE, seed=6)
    base.lm_head.weight.data.mul_(0.1)
    rewards, kls = [], []
    for weight in (0.0, 0.25, 0.5, 1.0):
        decoding = ContinuousBatching(
            [CausalModel(base, 64), CausalModel(learning.model, 64)],
            _Tokenizer(),
            RewardMixer(["r"], SIZE),
            64,
        )

        class Context:
            guidance, strengths = Guidance({"r": weight}), {}

        rows = [
            decoding.submit(Row(GenerationRequest(prompt="-", max_new_tokens=4, seed=n), (PROMPT, PROMPT), Context()))
            for n in range(400)
        ]
        decoding.drain()
        rewards.append(sum(true_reward(row.tokens) for row in rows) / len(rows))
        kls.append(sum(report["kl"] for row in rows for report in row.reports) / len(rows))
    assert rewards == sorted(rewards)
    assert rewards[-1] > rewards[0] + 0.5
    assert kls == sorted(kls)
    assert kls[0] == 0.0


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_training_goes_on_bit_for_bit_from_a_saved_state(
    random_llama: Callable[..., LlamaForCausalLM], tmp_path: Path, tuning: str
) -> None:
    def fresh() -> PairTrainer:
        return trainer(random_llama(SIZE, seed=5), toy_pairs(96, 0), tuning=tuning, pairs_per_pass=5, lora_dropout=0.2)

    straight = fresh()
    straight.train(6)
    first = fresh()
    first.train(2)
    first.save(tmp_path)
    resumed = fresh()
    resumed.load(tmp_path)
    torch.rand(7)
    resumed.train(4)
    assert resumed.step == straight.step == 6
    for mine, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_accumulated_passes_equal_one_large_pass(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    whole, parts = (
        trainer(random_llama(SIZE, seed=5), toy_pairs(16, 0), pairs_per_pass=size, max_grad_norm=1e9)
        for size in (16, 3)
    )
    assert whole.train(1)["loss"] == pytest.approx(parts.train(1)["loss"], abs=1e-5)
    for mine, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_frozen_embeddings_do_not_move_and_the_rest_does(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = random_llama(SIZE, seed=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer(model, toy_pairs(32, 0), train_embeddings=False).train(2)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert not any("embed" in name or "lm_head" in name for name in moved)


def test_a_loss_that_is_not_finite_is_a_data_error(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = random_llama(SIZE, seed=5)
    learning = trainer(model, toy_pairs(32, 0))
    model.model.norm.weight.data.fill_(torch.nan)
    with pytest.raises(DataError, match=r"objectives\.toy: loss is nan.*learning_rate"):
        learning.train(1)
    with pytest.raises(DataError, match="cannot be scored"):
        trainer(model, toy_pairs(32, 0))


def test_exported_adapters_are_merged(
    random_llama: Callable[..., LlamaForCausalLM], tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    learning = trainer(random_llama(SIZE, seed=5), toy_pairs(32, 0), tuning="lora")
    learning.train(2)
    ids = torch.tensor([[1, 2, 3]])
    learning.model.eval()
    expected = learning.model(ids).logits
    learning.export(tmp_path, tiny_tokenizer)
    assert "peft" not in json.dumps(json.loads((tmp_path / "config.json").read_text())).lower()
    assert torch.allclose(LlamaForCausalLM.from_pretrained(tmp_path)(ids).logits, expected, atol=1e-5)
