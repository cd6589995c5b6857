import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

from rayworks.core.errors import DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.exactness import plain_logprobs, prove_scoring, shares_prompts, trial_rows
from rayworks.lm.positions import batched_length, exact_length
from rayworks.lm.scoring import EncodedResponse, response_logprobs

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
OLD_SHAPE = {"vocab_size": 64, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}
TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}

RUN = {
    "LlamaConfig": {},
    "GPT2Config": OLD_SHAPE,
    "GPTJConfig": {**OLD_SHAPE, "rotary_dim": 4},
    "GPTNeoXConfig": {},
    "OPTConfig": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Qwen2Config": {},
    "MixtralConfig": {},
    "GemmaConfig": {"head_dim": 8},
    "MptConfig": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "GPTNeoConfig": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 32},
    # These change their logits behind the output layer.
    "GraniteConfig": {"logits_scaling": 8.0},
    "CohereConfig": {"logit_scale": 0.25},
    "Gemma3TextConfig": {"head_dim": 8, "sliding_window": 32, "final_logit_softcapping": 2.0},
}
REFUSED = {
    "BloomConfig": (
        {"n_layer": 2, "n_head": 4, "max_position_embeddings": None},
        "be told where a token stands .ALiBi.",
    ),
    "MambaConfig": ({}, "has no attention whose keys and values"),
    "Gemma2Config": ({"head_dim": 8, "sliding_window": 32}, "caps its attention scores"),
    "GptOssConfig": ({"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, "attention sinks"),
    "MistralConfig": ({"sliding_window": 8}, "holds 8 tokens .its attention window"),
}


def make(name: str, **options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, name)(**{**SHAPE, **options}))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


@pytest.mark.parametrize("name", RUN)
def test_families_that_pass_decode_and_score_as_they_do_by_themselves(name: str) -> None:
    model = make(name, **RUN[name])
    rows = trial_rows(model, (20, 3, 11, 7))
    expected = plain_logprobs(model, rows)
    causal = CausalModel(model, 4)
    assert "proved on this model at load" in causal.proof
    causal.feed([0, 1, 2, 3], [row[:2] for row in rows])
    causal.feed([0, 2, 3], [rows[0][2:19], rows[2][2:9], rows[3][2:6]])
    logits = causal.feed([0, 3], [rows[0][19:], rows[3][6:]])
    for row, found in zip((0, 3), logits, strict=True):
        assert torch.allclose(found.log_softmax(-1), expected[row][-1], atol=1e-4)
    with torch.inference_mode():
        scores, mask = response_logprobs(model, [EncodedResponse(tuple(row[:1]), tuple(row[1:])) for row in rows])
    own = torch.cat([part[range(len(row) - 1), row[1:]] for row, part in zip(rows, expected, strict=True)])
    assert torch.allclose(scores[mask], own, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_would_be_decoded_wrongly_are_refused_in_one_sentence(name: str) -> None:
    options, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as refusal:
        CausalModel(make(name, **options), 1)
    assert "\n" not in str(refusal.value)


def test_a_model_that_gives_no_numbers_is_refused() -> None:
    model = make("LlamaConfig")
    model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(DataError, match="nan nats"):
        CausalModel(model, 1)
    with pytest.raises(DataError, match="nan nats"):
        prove_scoring(model)


@pytest.mark.parametrize(
    ("name", "options", "length", "reason"),
    [
        ("LlamaConfig", {}, 64, "positions"),
        ("MistralConfig", {"sliding_window": 40}, 40, "window"),
        ("MistralConfig", {"sliding_window": None}, 64, "positions"),
        ("Qwen2Config", {"sliding_window": 8, "use_sliding_window": False}, 64, "positions"),
        ("GPTNeoConfig", {"num_layers": 2, "attention_types": [[["local"], 2]], "window_size": 16}, 16, "window"),
        (
            "Phi3Config",
            {"original_max_position_embeddings": 32, "rope_parameters": LONG_ROPE, **TOKENS},
            32,
            "longrope",
        ),
    ],
)
def test_a_model_is_used_up_to_where_a_cache_of_slots_is_exact(
    name: str, options: dict[str, object], length: int, reason: str
) -> None:
    found, why = exact_length(make(name, **options).config)
    assert found == length
    assert reason in why


def test_prompts_are_shared_only_where_responses_cannot_see_each_other() -> None:
    assert shares_prompts(make("LlamaConfig"))
    assert shares_prompts(make("MistralConfig", sliding_window=20))
    mixed = make("Lfm2Config", layer_types=["conv", "full_attention"], block_ff_dim=64)
    assert not shares_prompts(mixed)
    prove_scoring(mixed)


def test_the_trial_leaves_training_as_it_was() -> None:
    model = make("LlamaConfig").train()
    prove_scoring(model)
    assert shares_prompts(model)
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_no_row_changes_the_positions_of_those_beside_it() -> None:
    model = make("Phi3Config", original_max_position_embeddings=32, rope_parameters=LONG_ROPE, **TOKENS)
    assert batched_length(model.config)[0] == 32
    short, long = (EncodedResponse((1,), tuple(range(2, 2 + n))) for n in (5, 40))
    response_logprobs(model, [short])
    with pytest.raises(DataError, match=r"41 tokens .* exceed the model's 32 .*longrope"):
        response_logprobs(model, [short, long])
    assert batched_length(make("MistralConfig", sliding_window=8).config)[0] == 64


def test_a_full_memory_is_no_fault_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("LlamaConfig")

    def full(*arguments: object, **options: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(model, "forward", full)
    monkeypatch.setattr(model.base_model, "forward", full)
    for tried in (lambda: CausalModel(model, 1), lambda: prove_scoring(model), lambda: shares_prompts(model)):
        with pytest.raises(torch.OutOfMemoryError):
            tried()
