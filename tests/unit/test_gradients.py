import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.core.errors import DataError
from rayworks.lm import packed_linear
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.gradients import GradientRequest, token_gradients
from rayworks.lm.transformers_engine import TransformersEngine
from tests.unit.test_exactness import make


def by_one_hot(model: PreTrainedModel, request: GradientRequest) -> tuple[float, Tensor]:
    """The definition: one row, no cache, the embedding a product with one-hots."""
    embed = model.get_input_embeddings()
    one_hot = torch.nn.functional.one_hot(torch.tensor(request.tokens), embed.num_embeddings).float().requires_grad_()
    table = embed(torch.arange(embed.num_embeddings)).detach()
    logprobs = model(inputs_embeds=(one_hot @ table)[None]).logits[0].log_softmax(-1)
    start = len(request.tokens) - request.target_tokens
    total = sum(logprobs[at - 1, request.tokens[at]] for at in range(start, len(request.tokens)))
    (gradient,) = torch.autograd.grad(total, one_hot)
    return float(total.detach()), gradient[list(request.positions)]


REQUESTS = [
    GradientRequest((5, 6, 7, 8, 9, 10, 11), 2, (3,)),
    GradientRequest((5, 6, 7, 1, 2, 3, 9, 4, 12, 13), 3, (6, 3, 5)),
    GradientRequest((5, 6, 7, 20, 30), 1, (3, 2)),
]


# The last two scale their embeddings.
@pytest.mark.parametrize("name", ["LlamaConfig", "GPT2Config", "GemmaConfig", "GraniteConfig"])
def test_gradients_of_a_batch_are_those_by_one_hots(name: str) -> None:
    options = {
        "GPT2Config": {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
        "GemmaConfig": {"head_dim": 8},
        "GraniteConfig": {"embedding_multiplier": 3.0, "logits_scaling": 2.0},
    }.get(name, {})
    model = make(name, **options)
    expected = [by_one_hot(model, request) for request in REQUESTS]
    causal = CausalModel(model, 2, pack_layers=False)
    for found, (logprob, gradient) in zip(token_gradients(causal, REQUESTS), expected, strict=True):
        assert found.logprob == pytest.approx(logprob, abs=1e-4)
        assert torch.allclose(found.gradient, gradient, atol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_stands_before_a_position_is_read_once(tiny_model: str) -> None:
    engine = TransformersEngine(tiny_model, slots=4, differentiable=True, keep_prefixes=True)
    requests = [GradientRequest((*range(1, 31), 40 + n, 50, 60), 1, (30,)) for n in range(4)]
    first = engine.gradients(requests)
    assert engine.model.tokens_fed == 30
    longer = [GradientRequest((*range(1, 32), 40 + n, 50, 60), 1, (31,)) for n in range(4)]
    engine.gradients(longer)
    assert engine.model.tokens_fed == 31
    again = engine.gradients(requests)
    assert engine.model.tokens_fed == 31
    for one, other in zip(first, again, strict=True):
        assert torch.allclose(one.gradient, other.gradient, atol=1e-5)


def test_a_step_along_the_gradient_changes_the_target_as_told() -> None:
    model = make("LlamaConfig")
    request = REQUESTS[1]
    found = token_gradients(CausalModel(model, 1, pack_layers=False), [request])[0]
    token, step = int(found.gradient[0].argmax()), 1e-3
    embed = model.get_input_embeddings()
    embedded = embed(torch.tensor([request.tokens])).detach()
    embedded[0, 6] += step * embed.weight[token].detach()
    with torch.inference_mode():
        logprobs = model(inputs_embeds=embedded).logits[0].log_softmax(-1)
    after = float(sum(logprobs[at - 1, request.tokens[at]] for at in range(7, 10)))
    assert (after - found.logprob) / step == pytest.approx(float(found.gradient[0, token]), rel=0.02)


def test_an_engine_gives_gradients_when_it_is_loaded_for_them(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "SMALLEST", 0)
    engine = TransformersEngine(tiny_model, differentiable=True)
    found = engine.gradients(REQUESTS)
    for part, request in zip(found, REQUESTS, strict=True):
        logprob, gradient = by_one_hot(load_model(tiny_model), request)
        assert part.logprob == pytest.approx(logprob, abs=1e-4)
        assert torch.allclose(part.gradient, gradient, atol=1e-3)
    with pytest.raises(DataError, match="differentiable=True"):
        TransformersEngine.holding(load_model(tiny_model), load_tokenizer(tiny_model)).gradients(REQUESTS)


@pytest.mark.parametrize(
    ("tokens", "target", "positions", "words"),
    [
        ((1, 2), 0, (0,), "target_tokens: 0 of 2"),
        ((1, 2), 2, (0,), "target_tokens: 2 of 2"),
        ((1, 2, 3), 1, (2,), "from 0 to 1"),
        ((1, 2, 3), 1, (), "from 0 to 1"),
        ((1, 2, 3), 1, (1, 1), "different ones"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    tokens: tuple[int, ...], target: int, positions: tuple[int, ...], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        GradientRequest(tokens, target, positions)


def test_gradients_depend_on_no_earlier_call_and_wait_for_rows(tiny_model: str) -> None:
    engine = TransformersEngine(tiny_model, differentiable=True)
    first, again = engine.gradients(REQUESTS), engine.gradients(REQUESTS)
    assert all(torch.equal(one.gradient, other.gradient) for one, other in zip(first, again, strict=True))
    engine.decoding.submit(engine.row(GenerationRequest(prompt="a dress", max_new_tokens=4)))
    engine.decoding.step()
    with pytest.raises(DataError, match="rows are decoding"):
        engine.gradients(REQUESTS)
    engine.decoding.drain()
    with pytest.raises(DataError, match="ids that the model does not have"):
        engine.gradients([GradientRequest((1, 2, 9999), 1, (0,))])


def test_what_the_model_cannot_hold_is_refused() -> None:
    model = make("LlamaConfig")
    with pytest.raises(DataError, match="exceed the model's 64"):
        token_gradients(CausalModel(model, 1, pack_layers=False), [GradientRequest((*range(1, 64), 5, 6), 1, (0,))])
