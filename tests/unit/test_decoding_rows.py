"""What rows of one decoding do to each other: nothing, but for the work that they share."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rayworks.core.errors import DataError
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.continuous_batching import STEP, ContinuousBatching
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.rows import LogitMixer, Mixed, Row, SingleModel
from tests.tiny_models import make_tokenizer

IDS = 320
TOKENIZER = make_tokenizer()


@pytest.fixture
def model(random_llama: Callable[..., LlamaForCausalLM]) -> CausalModel:
    return CausalModel(random_llama(IDS, seed=1), 4)


def decoding(models: Sequence[CausalModel], mixer: LogitMixer | None = None, **options: object) -> ContinuousBatching:
    return ContinuousBatching(models, TOKENIZER, mixer or SingleModel(), 4, **options)


def row(prompt: Sequence[int], tokens: int = 6, seed: int = 0, models: int = 1, **options: object) -> Row:
    request = GenerationRequest(prompt="", max_new_tokens=tokens, seed=seed, ignore_end=True, **options)
    return Row(request, (tuple(prompt),) * models)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(IDS, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Both(SingleModel):
    """A base and one guide, which is asked at every third token."""

    def guides(self, row: Row) -> Sequence[int]:
        return (1,) if len(row.tokens) % 3 == 0 else ()

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        for which, logits in guides.values():
            base = base.index_add(0, which, logits)
        return super().mix(base, {}, rows)


# errors --------------------------------------------------------------------------------------------------------------
def failing_on(model: CausalModel, bad: int, error: Exception) -> None:
    feed = model.feed

    def fails(slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> Tensor:
        if any(bad in new for new in tokens):
            raise error
        return feed(slots, tokens)

    model.feed = fails  # type: ignore[method-assign]


@pytest.mark.parametrize("length", [2, 40])
def test_a_row_that_a_model_raises_on_fails_alone(model: CausalModel, length: int) -> None:
    expected = [row(prompt(n)) for n in (3, 30, 9)]
    decoding([model]).run(expected)
    failing_on(model, 319, torch.OutOfMemoryError("out of memory"))
    background = BackgroundDecoding(decoding([model]))
    bad = row([*(token % 300 for token in prompt(length)), 319, 5])
    rows = [row(r.prompts[0]) for r in expected]
    futures = [background.submit(each) for each in (rows[0], bad, *rows[1:])]
    with pytest.raises(torch.OutOfMemoryError):
        futures[1].result(timeout=30)
    assert bad.finish_reason == "failed"
    assert [futures[n].result(timeout=30).tokens for n in (0, 2, 3)] == [each.tokens for each in expected]
    assert background.submit(row(prompt(3))).result(timeout=30).tokens == expected[0].tokens
    assert background.load == 0
    background.stop()


def test_a_batch_reports_the_row_that_failed_when_the_others_are_done(model: CausalModel) -> None:
    failing_on(model, 319, ValueError("no such thing"))
    rows = [row(prompt(5)), row([1, 319, 2]), row(prompt(6))]
    with pytest.raises(ValueError, match="no such thing"):
        decoding([model]).run(rows)
    assert [each.finish_reason for each in rows] == ["length", "failed", "length"]


def test_ids_are_checked_against_every_model_that_reads_them(
    model: CausalModel, random_llama: Callable[..., LlamaForCausalLM]
) -> None:
    small = CausalModel(random_llama(20, seed=2), 4)
    running = decoding([model, small], Both())
    for ids, words in (([5, 20], "token id 20, .* 20 ids"), ([5, -1], "token id -1"), ([], "is empty")):
        with pytest.raises(DataError, match=words):
            running.submit(row(ids, models=2))
    assert running.idle


def test_logits_that_are_no_numbers_fail_their_row(model: CausalModel) -> None:
    class Poisoned(SingleModel):
        def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
            spoiled = [n for n, each in enumerate(rows) if each.context is not None and len(each.tokens) == 2]
            base = base.clone()
            base[spoiled] = base.new_tensor([rows[n].context for n in spoiled])[:, None]
            return super().mix(base, guides, rows)

    rows = [row(prompt(n)) for n in (3, 4, 5, 6)]
    for each, value in zip(rows, (None, torch.nan, -torch.inf, torch.inf), strict=True):
        each.context = value
    with pytest.raises(DataError, match="after 2 tokens are not numbers"):
        decoding([model], Poisoned()).run(rows)
    assert [each.finish_reason for each in rows] == ["length", "failed", "failed", "failed"]
    assert [len(each.tokens) for each in rows] == [6, 2, 2, 2]


@pytest.mark.parametrize("where", ["guides", "on_token"])
def test_what_belongs_to_a_row_and_raises_ends_that_row(model: CausalModel, where: str) -> None:
    def broken(each: Row) -> Sequence[int]:
        if each is rows[0] and len(each.tokens) == 2:
            raise ZeroDivisionError("a defect")
        return ()

    mixer = SingleModel()
    rows = [row(prompt(3)), row(prompt(4))]
    if where == "guides":
        mixer.guides = broken  # type: ignore[method-assign]
    else:
        rows[0].on_token = broken
    with pytest.raises(ZeroDivisionError):
        decoding([model], mixer).run(rows)
    assert [each.finish_reason for each in rows] == ["failed", "length"]


# shared and late work ------------------------------------------------------------------------------------------------
def test_rows_of_one_prompt_read_it_once(model: CausalModel) -> None:
    alone = [row(prompt(60), seed=n) for n in range(4)]
    for each in alone:
        decoding([CausalModel(model.model, 4, prefix_gib=0.0)]).run([each])
    fed = model.tokens_fed
    rows = [row(prompt(60), seed=n) for n in range(4)]
    decoding([model], chunk=16).run(rows)
    assert [each.tokens for each in rows] == [each.tokens for each in alone]
    # 59 of the prompt once; then each row its last token and those that it drew but for the final one.
    assert model.tokens_fed - fed == 59 + 4 * 6


def test_prompts_that_begin_alike_read_the_beginning_once(model: CausalModel) -> None:
    rows = [row([*prompt(50), *prompt(10, seed=n)], tokens=1) for n in range(1, 5)]
    fed = model.tokens_fed
    decoding([model]).run(rows)
    assert model.tokens_fed - fed == 60 + 3 * 10


def test_runs_depend_on_no_earlier_one_unless_prefixes_are_kept(model: CausalModel) -> None:
    counts = []
    for keep in (False, True):
        running = decoding([model], keep_prefixes=keep)
        for _ in range(2):
            fed = model.tokens_fed
            first = row(prompt(40))
            running.run([first])
            counts.append(model.tokens_fed - fed)
    assert counts == [45, 45, 6, 6]
    fed = model.tokens_fed
    running.run([row([*prompt(40), *first.tokens, 7])])
    # What a finished row drew is known too, but for its last token, which no model has read.
    assert model.tokens_fed - fed == 2 + 5


def test_a_long_prompt_holds_no_short_one_up(model: CausalModel) -> None:
    running = decoding([model], chunk=8)
    # One short prompt begins as the long one does.
    long, short = row(prompt(100), tokens=2), [row(prompt(n), tokens=8) for n in (3, 5, 12)]
    for each in (long, *short):
        running.submit(each)
    steps = 0
    while any(each.finish_reason is None for each in short):
        running.step()
        steps += 1
    assert steps <= 14
    assert long.tokens == []
    running.drain()
    alone = row(prompt(100), tokens=2)
    decoding([model]).run([alone])
    assert long.tokens == alone.tokens


def test_a_guide_that_pauses_reads_only_what_it_missed(
    model: CausalModel, random_llama: Callable[..., LlamaForCausalLM]
) -> None:
    guide = CausalModel(random_llama(IDS, seed=2), 4)
    rows = [row(prompt(20), tokens=30, seed=n, models=2) for n in range(2)]
    decoding([model, guide], Both()).run(rows)
    # The prompt once but for its last token, which each row reads; then every token but the last two, which it never needs.
    assert guide.tokens_fed == 19 + 2 * (1 + 27)
    assert STEP >= 3
    full = CausalModel(guide.model, 4, prefix_gib=0.0)
    for each in rows:
        again = row(each.prompts[0], tokens=30, seed=each.request.seed, models=2)
        decoding([model, full], Both()).run([again])
        assert again.tokens == each.tokens


def test_a_row_that_mixing_fails_for_fails_alone(model: CausalModel) -> None:
    class Full(SingleModel):
        def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
            if any(each.context for each in rows):
                raise torch.OutOfMemoryError("out of memory")
            return super().mix(base, guides, rows)

    expected, rows = [row(prompt(n)) for n in (3, 5)], [row(prompt(n)) for n in (3, 4, 5)]
    decoding([model]).run(expected)
    rows[1].context = True
    with pytest.raises(torch.OutOfMemoryError):
        decoding([model], Full()).run(rows)
    assert [each.tokens for each in rows] == [expected[0].tokens, [], expected[1].tokens]


def test_a_row_without_numbers_leaves_none_behind(random_llama: Callable[..., LlamaForCausalLM]) -> None:
    network = random_llama(IDS, seed=1)
    model, good = CausalModel(network, 4), random_llama(IDS, seed=1)
    network.get_input_embeddings().weight.data[319] = torch.nan
    running = decoding([model])
    with pytest.raises(DataError, match="not numbers"):
        running.run([row([*prompt(20), 319, 5])])
    rows = [row([token % 319 for token in prompt(n)]) for n in (3, 30)]
    running.run(rows)
    for each in rows:
        alone = row(each.prompts[0])
        decoding([CausalModel(good, 4)]).run([alone])
        assert each.tokens == alone.tokens
        good = random_llama(IDS, seed=1)


def test_prompts_that_no_memory_holds_are_read_side_by_side(model: CausalModel) -> None:
    small = CausalModel(model.model, 4, prefix_gib=1e-6)
    rows = [row(prompt(60), seed=n) for n in range(4)]
    decoding([small], chunk=1000).run(rows)
    # One row learns how little fits, the others read together; in turn it would be 13.
    assert small.forwards <= 10
    alone = [row(prompt(60), seed=n) for n in range(4)]
    decoding([model]).run(alone)
    assert [each.tokens for each in rows] == [each.tokens for each in alone]


def test_a_failing_row_is_no_sign_of_life(model: CausalModel) -> None:
    failing_on(model, 319, ValueError("no such thing"))
    background = BackgroundDecoding(decoding([model]))
    before = background._stepped_at
    with pytest.raises(ValueError, match="no such thing"):
        background.submit(row([319, 2])).result(timeout=30)
    assert background._stepped_at == before
    background.submit(row([1, 2])).result(timeout=30)
    assert background._stepped_at > before
    background.stop()
