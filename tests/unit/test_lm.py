import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rayworks.core.errors import DataError, InfrastructureError
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.checkpoints import load_model, load_tokenizer, truncate
from rayworks.lm.continuous_batching import ContinuousBatching
from rayworks.lm.engine import GenerationRequest, ScoringRequest
from rayworks.lm.packed_linear import PackedLinear
from rayworks.lm.rows import Row, SingleModel
from rayworks.lm.scoring import (
    EncodedResponse,
    encode,
    encode_prompt,
    length_batches,
    response_logprobs,
    shared_prompt_logprobs,
)
from rayworks.lm.transformers_engine import TransformersEngine
from tests.tiny_models import make_tokenizer

PROMPTS = ["a dress:", "a", "the fabric of the shirt is good and the colour", "Title of a customer"]


@pytest.fixture(scope="module")
def engine(tiny_model: str) -> TransformersEngine:
    return TransformersEngine(tiny_model, slots=3)


def requests(**options: object) -> list[GenerationRequest]:
    return [
        GenerationRequest(prompt=prompt, max_new_tokens=4 + 5 * n, seed=n, uid=str(n), **options)
        for n, prompt in enumerate(PROMPTS * 2)
    ]


def test_ragged_rows_in_few_slots_equal_each_row_alone(engine: TransformersEngine, tiny_model: str) -> None:
    together = engine.generate(requests())
    alone = TransformersEngine(tiny_model, slots=1)
    for request, found in zip(requests(), together, strict=True):
        expected = alone.generate([request])[0]
        assert found.token_ids == expected.token_ids
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
        assert found.uid == request.uid


def test_logprobs_equal_those_of_a_full_recomputation(engine: TransformersEngine) -> None:
    for found, request in zip(engine.generate(requests()), requests(), strict=True):
        ids = engine.tokenizer(request.prompt)["input_ids"]
        ended = (engine.tokenizer.eos_token_id,) if found.finish_reason == "stop" else ()
        row = EncodedResponse(tuple(ids), found.token_ids + ended)
        with torch.inference_mode():
            logprobs, mask = response_logprobs(engine.model.model, [row])
        assert found.logprobs == pytest.approx(logprobs[mask].tolist(), abs=1e-4)
        assert found.sampling_logprobs == pytest.approx(found.logprobs, abs=1e-5)


def test_greedy_equals_transformers_generate(engine: TransformersEngine, tiny_model: str) -> None:
    reference = load_model(tiny_model)
    found = engine.generate(requests(temperature=0.0))
    for request, mine in zip(requests(), found, strict=True):
        ids = torch.tensor([engine.tokenizer(request.prompt)["input_ids"]])
        theirs = reference.generate(ids, do_sample=False, max_new_tokens=request.max_new_tokens, pad_token_id=0)
        new = [token for token in theirs[0, ids.shape[1] :].tolist() if token != engine.tokenizer.eos_token_id]
        assert list(mine.token_ids) == new


def test_stop_texts_end_the_text_before_themselves(engine: TransformersEngine) -> None:
    free = engine.generate([GenerationRequest(prompt="a dress:", max_new_tokens=30, seed=3)])[0]
    stop = free.text[3:5]
    cut = engine.generate([GenerationRequest(prompt="a dress:", max_new_tokens=30, seed=3, stop=(stop,))])[0]
    assert cut.text == free.text[: free.text.find(stop)]
    assert cut.finish_reason == "stop"


def test_slots_are_reused_and_no_row_is_left(engine: TransformersEngine) -> None:
    before = engine.generate(requests())
    assert engine.generate(requests()) == before
    assert [engine.model.held(slot) for slot in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": -1}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}, {"stop": ("",)}, {"stop": "x"}],
)
def test_requests_outside_their_bounds_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        GenerationRequest(prompt="x", **options)


def test_prompts_that_do_not_fit_are_refused(engine: TransformersEngine) -> None:
    with pytest.raises(DataError, match="exceed the model's 256"):
        engine.generate([GenerationRequest(prompt="a", max_new_tokens=256)])
    with pytest.raises(DataError, match="empty"):
        engine.generate([GenerationRequest(prompt="")])


def test_ids_may_come_as_lists_and_arrays(engine: TransformersEngine) -> None:
    ids = engine.tokenizer("a dress:")["input_ids"]
    for given in (ids, np.array(ids), torch.tensor(ids)):
        assert engine.generate([GenerationRequest(prompt=given, seed=1)]) == engine.generate(
            [GenerationRequest(prompt="a dress:", seed=1)]
        )
        assert engine.score([ScoringRequest(given, given)]) == engine.score([ScoringRequest(tuple(ids), tuple(ids))])
    for wrong in ([1.5], 7, ["a"]):
        with pytest.raises(DataError, match=r"prompt: is .*, must be a text or token ids"):
            GenerationRequest(prompt=wrong)
    with pytest.raises(DataError, match=r"response: is .*, must be a text or token ids"):
        ScoringRequest("a", None)


def test_one_request_is_no_list_of_them(engine: TransformersEngine) -> None:
    with pytest.raises(DataError, match="requests: is a GenerationRequest, must be a list"):
        engine.generate(GenerationRequest(prompt="a"))
    with pytest.raises(DataError, match="requests: is a ScoringRequest, must be a list"):
        engine.score(ScoringRequest("a", "b"))


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tiny_model: str) -> None:
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_tokens(["<more>"])
    with pytest.raises(DataError, match="its tokenizer has ids up to 320, its embedding 320"):
        TransformersEngine.holding(load_model(tiny_model), tokenizer)


def test_a_folder_without_a_tokenizer_says_what_is_missing(tiny_model: str, tmp_path: Path) -> None:
    load_model(tiny_model).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"its tokenizer cannot be loaded \(.*[a-z]\.?\)$"):
        load_tokenizer(str(tmp_path))


def test_scores_are_those_of_single_rows(engine: TransformersEngine) -> None:
    asked = [ScoringRequest(prompt, " good" * n) for n, prompt in enumerate(PROMPTS, 1)]
    together = engine.score(asked)
    for request, score in zip(asked, together, strict=True):
        alone = engine.score([request])[0]
        assert score.token_ids[-1] == engine.tokenizer.eos_token_id
        assert score.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert score.total == pytest.approx(sum(alone.logprobs), abs=1e-3)


def test_responses_that_share_a_prompt_score_as_if_they_did_not(tiny_model: str) -> None:
    model = load_model(tiny_model)
    prompts = [(3, 4, 5), (6,), (7, 8, 9, 10)]
    responses = [((11, 12), (13,)), ((14, 15, 16, 17), (14, 15)), ((18,), (19, 20, 21))]
    rows = [EncodedResponse(p, r) for p, group in zip(prompts, responses, strict=True) for r in group]
    alone, _ = response_logprobs(model, rows)
    shared = shared_prompt_logprobs(model, prompts, responses)
    assert torch.allclose(shared, alone.sum(-1).view(3, 2), atol=1e-4)
    gradients = []
    for total in (shared, alone.sum(-1).view(3, 2)):
        model.zero_grad()
        (total[:, 0] - 0.3 * total[:, 1]).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3)
    with pytest.raises(DataError):
        shared_prompt_logprobs(model, [(1,)], [((), (2,))])


def test_length_batches_cover_every_row_once() -> None:
    rows = [EncodedResponse((1,) * n, (2,)) for n in (5, 1, 9, 3, 30, 2)]
    batches = length_batches(rows, 20)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(len(rows[i]) for i in batch) <= 20 for batch in batches)


def test_responses_that_are_cut_do_not_end(engine: TransformersEngine) -> None:
    whole = encode(engine.tokenizer, "a", " good lovely fine")
    assert whole.response[-1] == engine.tokenizer.eos_token_id
    cut = encode(engine.tokenizer, "a", " good lovely fine", response_tokens=2)
    assert cut.response == whole.response[:2]
    assert encode(engine.tokenizer, "a", " good lovely fine", response_tokens=len(whole.response) - 1) == whole
    assert encode(engine.tokenizer, whole.prompt, whole.response[:-1]) == whole
    with pytest.raises(DataError, match="at least one token"):
        response_logprobs(engine.model.model, [EncodedResponse((1,), ())])


def test_truncated_models_are_the_first_layers(tiny_model: str) -> None:
    whole, short = load_model(tiny_model), load_model(tiny_model, layers=1)
    ids = torch.tensor([[1, 2, 3]])
    hidden = whole(ids, output_hidden_states=True).hidden_states[1]
    expected = whole.lm_head(whole.model.norm(hidden))
    assert torch.allclose(short(ids).logits, expected, atol=1e-5)
    with pytest.raises(DataError, match="2 layers"):
        truncate(whole, 3)


def test_models_and_tokenizers_that_are_not_there_are_data_errors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for load in (load_model, load_tokenizer):
        with pytest.raises(DataError, match="cannot be loaded"):
            load(str(tmp_path))


def test_rows_from_other_threads_get_their_tokens_and_can_be_cancelled(engine: TransformersEngine) -> None:
    background = BackgroundDecoding(ContinuousBatching([engine.model], engine.tokenizer, SingleModel(), 3))
    ids = tuple(engine.tokenizer("a dress:")["input_ids"])
    seen: list[str] = []
    row = Row(
        GenerationRequest(prompt="a dress:", max_new_tokens=8, seed=1), (ids,), on_token=lambda r: seen.append(r.text)
    )
    expected = engine.generate([row.request])[0]
    assert background.submit(row).result(timeout=30).text == expected.text
    assert seen[-1] == expected.text
    long = Row(GenerationRequest(prompt="a dress:", max_new_tokens=200, seed=1), (ids,))
    future = background.submit(long)
    background.cancel(long)
    assert future.result(timeout=30).finish_reason == "cancelled"
    with pytest.raises(DataError):
        background.submit(Row(GenerationRequest(prompt="a", max_new_tokens=999), (ids,))).result(timeout=30)
    background.stop()
    with pytest.raises(InfrastructureError, match="stopped"):
        background.submit(Row(long.request, (ids,)))


def test_a_waiter_that_gives_up_leaves_the_decoding_thread_alive(engine: TransformersEngine) -> None:
    background = BackgroundDecoding(ContinuousBatching([engine.model], engine.tokenizer, SingleModel(), 3))
    ids = tuple(engine.tokenizer("a dress:")["input_ids"])
    slow = Row(GenerationRequest(prompt="a dress:", max_new_tokens=240, seed=1, ignore_end=True), (ids,))

    async def give_up() -> None:
        async with asyncio.timeout(0.02):
            await asyncio.wrap_future(background.submit(slow))

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    background.cancel(slow)
    again = Row(GenerationRequest(prompt="a dress:", max_new_tokens=4, seed=1), (ids,))
    assert background.submit(again).result(timeout=30).finish_reason is not None
    assert background.load == 0
    background.stop()


def test_a_failed_step_fails_its_rows_and_every_later_one(engine: TransformersEngine) -> None:
    class Broken(ContinuousBatching):
        def step(self) -> list[Row]:
            raise ZeroDivisionError("a defect")

    background = BackgroundDecoding(Broken([engine.model], engine.tokenizer, SingleModel(), 3))
    ids = tuple(engine.tokenizer("a dress:")["input_ids"])
    row = Row(GenerationRequest(prompt="a dress:"), (ids,))
    with pytest.raises(ZeroDivisionError):
        background.submit(row).result(timeout=30)
    with pytest.raises(InfrastructureError, match="a defect"):
        background.submit(row)
    expected = TransformersEngine.generate(engine, [GenerationRequest(prompt="a dress:", max_new_tokens=6, seed=4)])
    assert expected == engine.generate([GenerationRequest(prompt="a dress:", max_new_tokens=6, seed=4)])


def test_an_aborted_batch_leaves_nothing_in_the_cache(tiny_model: str) -> None:
    fresh = TransformersEngine(tiny_model, slots=2)
    request = GenerationRequest(prompt="the fabric of", max_new_tokens=6, seed=2)
    expected = fresh.generate([request])
    decoding = ContinuousBatching([fresh.model], fresh.tokenizer, SingleModel(), 2)
    decoding.submit(Row(GenerationRequest(prompt="a", max_new_tokens=50, ignore_end=True), ((5, 6, 7),)))
    for _ in range(len(fresh.tokenizer("the fabric of")["input_ids"]) - 3):
        decoding.step()
    assert fresh.generate([request]) == expected
    with pytest.raises(DataError, match="exceed"):
        fresh.generate([request, GenerationRequest(prompt="a", max_new_tokens=999)])
    assert fresh.generate([request]) == expected


def test_a_begin_token_is_not_doubled(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    begin = tokenizer.bos_token_id
    assert encode_prompt(tokenizer, "a dress").count(begin) == 1
    assert encode_prompt(tokenizer, "<s>a dress") == encode_prompt(tokenizer, "a dress")


def test_packed_layers_compute_what_the_layers_they_replace_do() -> None:
    layer = torch.nn.Linear(24, 40, bias=True)
    rows = torch.randn(3, 5, 24)
    assert torch.allclose(PackedLinear(layer)(rows), layer(rows), atol=1e-5)
