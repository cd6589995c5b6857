from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rayworks.lm.adapters import BASE
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.scoring import EncodedResponse, encode
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.systems.supervision.boosting.votes import FLOOR, VOTES, Vote, ensembles
from rayworks.systems.supervision.generation.decoding import Ensemble, answer_logits, ensemble_logprobs, missed_bits
from rayworks.systems.supervision.generation.tokens import unpacked
from tests.tiny_models import make_tokenizer, save_adapter

IDS = 50
END = 49
ALPHAS = np.array([0.9, 0.4, 1.7])


def small_model(seed: int = 0) -> PreTrainedModel:
    """A language model of 50 ids."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=IDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        eos_token_id=END,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [save_adapter(folder / str(seed), small_model(), seed) for seed in range(3)]


def merged(adapters: list[Path]) -> list[PreTrainedModel]:
    """Each expert as a whole model of its own."""
    from peft import PeftModel

    return [PeftModel.from_pretrained(small_model(), folder).merge_and_unload().eval() for folder in adapters]


def ensemble(adapters: list[Path], alphas: np.ndarray, vote: Vote, slots: int = 12) -> Ensemble:
    causal = CausalModel(small_model(), slots, adapters=len(adapters))
    numbers = [causal.adapters.add(str(folder), folder) for folder in adapters]
    return Ensemble(causal, make_tokenizer(), numbers, alphas, vote)


@torch.inference_mode()
def brute_force(
    models: list[PreTrainedModel], prompt: list[int], alphas: np.ndarray, vote: Vote, steps: int
) -> list[int]:
    """Every distribution from a forward of the whole text by each model, mixed in float64."""
    answer: list[int] = []
    for _ in range(steps):
        ids = torch.tensor([prompt + answer])
        said = np.stack([model(ids).logits[0, -1:].double().softmax(-1).numpy() for model in models])
        answer.append(int(ensembles(said, alphas, vote)[-1][0].argmax()))
    return answer


# decoding ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vote", VOTES)
def test_an_ensemble_writes_what_a_brute_force_mixture_writes(adapters: list[Path], vote: Vote) -> None:
    own, models = ensemble(adapters, ALPHAS, vote), merged(adapters)
    prompts = [[1, 2, 3], [7], [5, 6, 7, 8, 9, 10, 11], [30, 31], [2, 2, 2, 2]]
    rows = [own.row(tuple(prompt), 10, 3, ignore_end=True) for prompt in prompts]
    own.decoding(3).run(rows)
    for row, prompt in zip(rows, prompts, strict=True):
        assert row.tokens == brute_force(models, prompt, ALPHAS, vote, 10)
    # The experts do not agree, so that the mixture is none of them.
    alone = [brute_force([model], prompts[0], np.ones(1), vote, 10) for model in models]
    assert len({tuple(answer) for answer in alone}) > 1


def test_all_experts_advance_in_one_forward(adapters: list[Path]) -> None:
    own = ensemble(adapters, ALPHAS, "linear")
    causal, decoding = own._causal, own.decoding(3)
    for prompt in ((1, 2, 3), (7, 8, 9)):
        decoding.submit(own.row(prompt, 6, 3, ignore_end=True))
    decoding.step()
    before = causal.forwards, causal.tokens_fed
    decoding.step()
    assert (causal.forwards - before[0], causal.tokens_fed - before[1]) == (1, 2 * 3)
    decoding.drain()


@pytest.mark.parametrize("vote", VOTES)
def test_every_number_of_rounds_is_written_as_if_it_were_alone(adapters: list[Path], vote: Vote) -> None:
    own, prompts = ensemble(adapters, ALPHAS, vote, slots=5), [(1, 2, 3), (9, 8), (4,), (20, 21)]
    together = own.write(prompts, 8, [1, 2, 3])
    for rounds, found in zip((1, 2, 3), together, strict=True):
        apart = ensemble(adapters[:rounds], ALPHAS[:rounds], vote).write(prompts, 8, [rounds])[0]
        assert found.texts == apart.texts
        assert found.confidence == pytest.approx(apart.confidence, abs=1e-5)


@pytest.mark.parametrize("vote", VOTES)
def test_mixtures_are_those_of_the_votes(vote: Vote) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(4, IDS, generator=draw) for _ in range(3)]
    said = np.stack([part.double().softmax(-1).numpy() for part in logits])
    found = ensemble_logprobs(logits, ALPHAS.tolist(), vote).exp().numpy()
    assert found == pytest.approx(ensembles(said, ALPHAS, vote)[-1], abs=1e-6)
    alone = ensemble_logprobs(logits[:1], [1.0], vote).exp().numpy()
    assert alone == pytest.approx(said[0], abs=1e-6)


@pytest.mark.parametrize("vote", VOTES)
def test_scale_and_order_of_experts_and_equal_ones_change_nothing(adapters: list[Path], vote: Vote) -> None:
    prompts = [(1, 2, 3), (9, 8), (4,)]
    once = ensemble(adapters, ALPHAS, vote)
    causal, tokenizer, numbers = once._causal, make_tokenizer(), list(once._numbers)
    expected = once.write(prompts, 8, [3])[0]
    for others, alphas in ((numbers, 7 * ALPHAS), (numbers[::-1], ALPHAS[::-1])):
        found = Ensemble(causal, tokenizer, others, alphas, vote).write(prompts, 8, [3])[0]
        assert found.texts == expected.texts
        assert found.confidence == pytest.approx(expected.confidence, abs=1e-5)
    alone, thrice = (Ensemble(causal, tokenizer, [2] * n, ALPHAS[:n], vote).write(prompts, 8, [n])[0] for n in (1, 3))
    assert alone.texts == thrice.texts


@pytest.mark.parametrize("vote", VOTES)
def test_one_expert_writes_as_the_engine_does(tiny_model: str, vote: Vote) -> None:
    prompts = ["a dress:", "the fabric is", "Title of a customer review"]
    model, tokenizer = load_model(tiny_model), load_tokenizer(tiny_model)
    ids = [encode(tokenizer, prompt, "").prompt for prompt in prompts]
    written = Ensemble(CausalModel(model, 6), tokenizer, [BASE], np.ones(1), vote).write(ids, 9, [1])[0]
    engine = TransformersEngine(tiny_model)
    found = engine.generate([GenerationRequest(prompt=one, max_new_tokens=9, temperature=0.0) for one in prompts])
    assert written.texts == tuple(one.text for one in found)
    assert written.confidence == pytest.approx([np.mean(one.logprobs) for one in found], abs=1e-5)


# given answers -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("vote", VOTES)
def test_answers_weigh_what_a_brute_force_mixture_gives_them(adapters: list[Path], vote: Vote) -> None:
    answers = [
        EncodedResponse((1, 2, 3), (4, 5, END)),
        EncodedResponse((7,), (8, END)),
        EncodedResponse((9, 9), (9,) * 6),
    ]
    expected = np.zeros((3, len(answers)))
    for column, answer in enumerate(answers):
        ids = torch.tensor([answer.prompt + answer.response])
        with torch.inference_mode():
            said = np.stack([model(ids).logits[0].double().softmax(-1).numpy() for model in merged(adapters)])
        places = np.arange(len(answer.prompt) - 1, len(answer) - 1)
        of_token = ensembles(said, ALPHAS, vote)[:, places, list(answer.response)]
        expected[:, column] = np.log(np.maximum(of_token, FLOOR)).mean(axis=1)
    assert ensemble(adapters, ALPHAS, vote).weigh(answers, [1, 2, 3]) == pytest.approx(expected, abs=1e-5)
    assert ensemble(adapters, ALPHAS, vote).weigh(answers, [2]) == pytest.approx(expected[1:2], abs=1e-5)


def test_misses_are_bits_in_the_order_of_the_tokens(adapters: list[Path]) -> None:
    own = ensemble(adapters, ALPHAS, "linear")
    draw = np.random.default_rng(0)
    answers = [
        EncodedResponse(tuple(draw.integers(0, END, 3).tolist()), tuple(draw.integers(0, END, size).tolist()))
        for size in draw.integers(1, 7, 40).tolist()
    ]
    bits = missed_bits(own._causal.model, answers)
    tokens = sum(len(answer.response) for answer in answers)
    assert len(bits) == -(-tokens // 8)
    expected = [
        answer_logits(own._causal, [answer], BASE).argmax(-1) != torch.tensor(answer.response) for answer in answers
    ]
    assert unpacked(bits, tokens).astype(bool).tolist() == torch.cat(expected).tolist()
