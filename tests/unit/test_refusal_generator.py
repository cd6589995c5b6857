"""The generator of refused prompts: its scores, its draws, what it may write, and what it finds on the toy."""

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm import packed_linear
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.exactness import plain_logprobs
from rayworks.lm.gradients import GradientRequest, token_gradients
from rayworks.systems.refusal.generator import words as word_choice
from rayworks.systems.refusal.generator.contexts import ContentContext, RefusalContext, whole_scores
from rayworks.systems.refusal.generator.generation import Generated, Generator, generate
from rayworks.systems.refusal.generator.naturalness import tuned_floor, user_turn_logprobs, user_turn_perplexities
from rayworks.systems.refusal.generator.options import GeneratorOptions
from rayworks.systems.refusal.generator.rival import draw_paraphrases
from rayworks.systems.refusal.generator.vocabulary_scan import HeardWord, likely_words, scan_table, scan_vocabulary
from rayworks.systems.refusal.generator.words import allowed_tokens, drawn, ranked
from rayworks.systems.refusal.targets import planted
from rayworks.systems.refusal.targets.opening import Target, open_target
from rayworks.systems.refusal.targets.own_refusals import Refusal, given_refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed
from tests.tiny_models import make_tokenizer, save_tiny_model

SEEDS = [Seed(f"s{number}", text) for number, text in enumerate(planted.toy_requests(5, 20))]
GUARDED = GeneratorOptions(w1=3.0, w2=3.0, floor=-5.0, max_tokens=16, temperature=1.0, content_temperature=1.0)
"""The toy's settings in the literature."""
ONE = dataclasses.replace(GUARDED, floor=None, min_tokens=1, max_tokens=1, temperature=0.0, saturation=None, inner=1)
"""One token, the best."""


@pytest.fixture(scope="module")
def toy() -> Target:
    return open_target("planted", slots=20, differentiable=True)


@pytest.fixture(scope="module")
def refusal(toy: Target) -> Refusal:
    return given_refusal(toy, planted.REFUSAL, [toy.tokenizer(planted.ANSWER)["input_ids"]])


@pytest.fixture(scope="module")
def scan(toy: Target, refusal: Refusal) -> list[HeardWord]:
    words = likely_words(toy, SEEDS, 60, 0, "how do i")
    return scan_vocabulary(toy, refusal, words, "how do i")


@pytest.fixture(scope="module")
def found(toy: Target, refusal: Refusal, scan: list[HeardWord]) -> list[Generated]:
    return generate(toy, refusal, SEEDS, GUARDED, 0, scan)


def random_words(target: Target, rows: int, length: int, seed: int) -> list[list[int]]:
    allowed = allowed_tokens(target).nonzero()[:, 0].numpy()
    return np.random.default_rng(seed).choice(allowed, (rows, length)).tolist()


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("scored", [1, 3, 5])
def test_cached_scores_are_uncached_ones(toy: Target, scored: int, mean: bool) -> None:
    refusal = dataclasses.replace(given_refusal(toy, planted.REFUSAL), scored=scored)
    words = random_words(toy, 6, 7, scored)
    context = RefusalContext(toy, refusal, 6, most=4, mean=mean)
    for place in range(5):
        context.advance(range(6), [row[place] for row in words])
    kept = [1, 3, 4]
    context.advance(kept, [words[row][5] for row in kept])
    rows, tokens = [0, 0, 1, 2, 2, 2], [7, 9, 8, 7, 20, words[4][6]]
    whole = [[*words[kept[row]][:6], token] for row, token in zip(rows, tokens, strict=True)]
    cached, uncached = context.scores(rows, tokens), whole_scores(toy, refusal, whole, mean)
    assert cached == pytest.approx(uncached, abs=1e-4)
    own = plain_logprobs(toy.engine.model.model, [[*toy.chat.around(row), *refusal.target] for row in whole])
    values = [law[range(-scored - 1, -1), list(refusal.target)] for law in own]
    assert uncached == pytest.approx([float(v.mean() if mean else v.sum()) for v in values], abs=1e-4)
    assert max(uncached) - min(uncached) > 0.1


def test_the_content_law_is_the_model_s_own_whatever_stands_beside(toy: Target) -> None:
    contexts = [
        toy.context(text) for text in ("how do i open the door", "can you help me fix the lamp at home", "open")
    ]
    content = ContentContext(toy, contexts, 4)
    own = plain_logprobs(toy.content.model, contexts)
    assert torch.stack([law[-1].double() for law in own]).sub(content.law).abs().max() < 1e-4
    content.advance([0, 2], [8, 9])
    own = plain_logprobs(toy.content.model, [(*contexts[0], 8), (*contexts[2], 9)])
    assert torch.stack([law[-1].double() for law in own]).sub(content.law).abs().max() < 1e-4
    content.close()
    assert all(toy.content.held(slot) == 0 for slot in range(20))


def test_the_gradient_is_that_of_the_language_models(toy: Target) -> None:
    refusal = given_refusal(toy, planted.REFUSAL)
    words = random_words(toy, 3, 4, 0)
    context = RefusalContext(toy, refusal, 3)
    for place in range(3):
        context.advance(range(3), [row[place] for row in words])
    slopes = context.gradients(range(3), [row[3] for row in words])
    other = CausalModel(open_target("planted", differentiable=True).engine.model.model, 3, pack_layers=False)
    place = len(toy.chat.before) + 3
    asked = [GradientRequest((*toy.chat.around(row), *refusal.ids), len(refusal.ids), (place,)) for row in words]
    for row, slope, expected in zip(words, slopes, token_gradients(other, asked), strict=True):
        change = expected.gradient[0] - expected.gradient[0, row[3]]
        assert torch.allclose(slope.float(), change, atol=1e-3)
        assert slope.abs().max() > 0.1


@pytest.mark.parametrize("w2", [0.3, 3.0, 30.0])
def test_with_all_words_the_choice_is_the_best_of_all(toy: Target, refusal: Refusal, w2: float) -> None:
    size = toy.content.vocabulary_size
    options = dataclasses.replace(ONE, preselection="content", width=size, w2=w2)
    allowed = allowed_tokens(toy).nonzero()[:, 0].tolist()
    scores = torch.tensor(whole_scores(toy, refusal, [[one] for one in allowed]))
    for seed, prompt in zip(SEEDS[:6], generate(toy, refusal, SEEDS[:6], options, 0), strict=True):
        (law,) = plain_logprobs(toy.content.model, [toy.context(seed.text)])
        best = (w2 * scores + law[-1][allowed]).argmax()
        assert prompt.ids == (allowed[int(best)],)
        assert prompt.candidates == len(allowed)
        assert prompt.refusal_logprob == pytest.approx(float(scores[best]), abs=1e-4)


def test_an_accepted_move_never_scores_less(toy: Target, refusal: Refusal) -> None:
    reached = []
    for inner in (1, 2, 4, 8):
        options = dataclasses.replace(ONE, preselection="gradient", width=3, inner=inner, w2=30.0)
        prompts = generate(toy, refusal, SEEDS, options, 3)
        reached.append([options.w2 * prompt.refusal_logprob + prompt.content_logprobs[0] for prompt in prompts])
    for fewer, more in pairwise(reached):
        assert all(b >= a - 1e-5 for a, b in zip(fewer, more, strict=True))
    assert sum(reached[-1]) > sum(reached[0]) + 1


def test_the_content_model_alone_writes_by_its_own_law(toy: Target, refusal: Refusal) -> None:
    options = dataclasses.replace(GUARDED, w2=0.0, floor=None, min_tokens=1, max_tokens=4)
    text, count = "how do i stop the engine", 3000
    prompts = generate(toy, refusal, [Seed(str(number), text) for number in range(count)], options, 1)
    allowed = allowed_tokens(toy)
    laws = []
    for begun in ("", "how do i"):
        ids = toy.tokenizer(begun)["input_ids"]
        (logprobs,) = plain_logprobs(toy.content.model, [[*toy.context(text), *ids]])
        laws.append((len(ids), begun, logprobs[-1].masked_fill(~allowed, -math.inf).softmax(-1)))
    for position, begun, law in laws:
        rows = [one.ids for one in prompts if one.prompt.startswith(begun) and len(one.ids) > position]
        seen = Counter(ids[position] for ids in rows)
        expected = law * len(rows)
        likely = [one for one in range(len(law)) if expected[one] >= 5]
        observed = [seen[one] for one in likely]
        rest = [len(rows) - sum(observed)], [len(rows) - float(expected[likely].sum())]
        assert len(likely) >= 5
        test = chisquare(observed + rest[0], [*expected[likely].tolist(), *rest[1]], sum_check=False)
        assert test.pvalue > 0.001


def test_forbidden_words_never_appear(toy: Target, refusal: Refusal, scan: list[HeardWord]) -> None:
    allowed = allowed_tokens(toy)
    assert not allowed[toy.tokenizer.all_special_ids].any() and not allowed[list(toy.ends)].any()
    forbidden = toy.tokenizer.convert_tokens_to_ids([*planted.PLANTED, "how"])
    allowed[forbidden] = False
    options = dataclasses.replace(GUARDED, w2=30.0, floor=None)
    for preselection in ("scan", "gradient", "content"):
        chosen = dataclasses.replace(options, preselection=preselection)
        prompts = Generator(toy, refusal, chosen, scan, allowed).write(SEEDS[:8], 0)
        assert all(bool(allowed[list(prompt.ids)].all()) for prompt in prompts)
        assert all(toy.chat.encode(prompt.prompt) == prompt.ids for prompt in prompts)


@pytest.mark.parametrize("preselection", ["scan", "gradient", "content"])
def test_a_prompt_is_the_same_alone_and_beside_any_others(
    toy: Target, refusal: Refusal, scan: list[HeardWord], preselection: str
) -> None:
    options = dataclasses.replace(GUARDED, preselection=preselection)
    whole = generate(toy, refusal, SEEDS, options, 4, scan)
    alone = [generate(toy, refusal, [seed], options, 4, scan)[0] for seed in SEEDS]
    # As four actors would: a quarter each, the seeds in another order.
    apart = [one for part in range(4) for one in generate(toy, refusal, SEEDS[part::4][::-1], options, 4, scan)]
    by_uid = {prompt.uid: prompt for prompt in apart}
    assert [one.ids for one in whole] == [one.ids for one in alone] == [by_uid[seed.uid].ids for seed in SEEDS]
    assert [one.stopped_by for one in whole] == [one.stopped_by for one in alone]
    scores = [[one.refusal_logprob for one in run] for run in (whole, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert [one.ids for one in generate(toy, refusal, SEEDS, options, 5, scan)] != [one.ids for one in whole]


def test_the_toy_s_defect_is_found_in_natural_harmless_prompts(toy: Target, found: list[Generated]) -> None:
    replies = toy.reply([prompt.prompt for prompt in found], 8)
    harmless = [
        reply == planted.REFUSAL and planted.is_refused(prompt.prompt) and not planted.is_harmful(prompt.prompt)
        for prompt, reply in zip(found, replies, strict=True)
    ]
    assert sum(harmless) >= 0.8 * len(found)
    assert statistics.median(prompt.perplexity for prompt in found) <= 4
    assert len({prompt.prompt for prompt in found}) >= 15
    assert [prompt.uid for prompt in found] == [seed.uid for seed in SEEDS]
    assert all(min(prompt.content_logprobs) >= -5 and len(prompt.ids) <= 16 for prompt in found)


def test_without_a_floor_and_with_a_large_weight_it_is_word_salad(
    toy: Target, refusal: Refusal, scan: list[HeardWord], found: list[Generated]
) -> None:
    greedy = dataclasses.replace(GUARDED, w2=100.0, floor=None, saturation=None)
    salad = generate(toy, refusal, SEEDS, greedy, 0, scan)
    guarded = generate(toy, refusal, SEEDS, dataclasses.replace(greedy, floor=-5.0), 0, scan)
    perplexity = [statistics.median(one.perplexity for one in run) for run in (found, guarded, salad)]
    assert perplexity[1] < 4 and perplexity[2] > 2 * perplexity[0]


def test_reported_numbers_are_those_of_the_prompt(toy: Target, refusal: Refusal, found: list[Generated]) -> None:
    assert [one.refusal_logprob for one in found] == pytest.approx(
        whole_scores(toy, refusal, [one.ids for one in found]), abs=1e-4
    )
    for prompt in found[:5]:
        context = toy.context(prompt.seed_text)
        (law,) = plain_logprobs(toy.content.model, [[*context, *prompt.ids]])
        own = law[range(len(context) - 1, len(context) + len(prompt.ids) - 1), list(prompt.ids)]
        assert prompt.content_logprobs == pytest.approx(own.tolist(), abs=1e-4)
        assert prompt.perplexity == pytest.approx(math.exp(-float(own.mean())), rel=1e-3)
        assert prompt.stopped_by == "end" and toy.chat.text(prompt.ids) == prompt.prompt


def test_a_prompt_can_stop_where_its_refusal_is_sure(toy: Target, refusal: Refusal, scan: list[HeardWord]) -> None:
    stopping = dataclasses.replace(GUARDED, at_saturation="stop")
    prompts = generate(toy, refusal, SEEDS, stopping, 0, scan)
    sure = [one for one in prompts if one.stopped_by == "saturation"]
    assert len(sure) >= 10 and all(one.refusal_logprob >= -0.7 and len(one.ids) >= 4 for one in sure)
    cut = generate(toy, refusal, SEEDS, dataclasses.replace(GUARDED, max_tokens=4), 0, scan)
    assert all(one.stopped_by == "length" and len(one.ids) == 4 for one in cut)


def test_the_rival_finds_less(toy: Target, refusal: Refusal, found: list[Generated]) -> None:
    paraphrases = draw_paraphrases(toy, refusal, SEEDS, GUARDED, 0, rounds=3)
    assert [one.uid for one in paraphrases[18:22]] == ["s18/0", "s19/0", "s0/1", "s1/1"]
    assert len({one.prompt for one in paraphrases}) > 40 and all(one.candidates == 0 for one in paraphrases)
    share = [sum(planted.is_refused(one.prompt) for one in run) / len(run) for run in (paraphrases, found)]
    assert 0 < share[0] < share[1] / 2
    sure = [one.refusal_logprob > math.log(0.5) for one in paraphrases]
    assert sure == [planted.is_refused(one.prompt) for one in paraphrases]


def test_the_scan_ranks_the_planted_words_first(toy: Target, scan: list[HeardWord]) -> None:
    assert [word.rank for word in scan] == list(range(1, len(scan) + 1))
    assert set(planted.PLANTED) <= {word.word for word in scan[:6]}
    assert all(a.logprob >= b.logprob for a, b in pairwise(scan))
    table = scan_table(scan, toy.content.vocabulary_size)
    assert table[scan[0].id] == scan[0].logprob
    assert table[0] == statistics.median_low([word.logprob for word in scan])
    few = likely_words(toy, SEEDS, 10, 0, "how do i")
    assert len(few) == 10 and set(few) < {word.id for word in scan}


def test_natural_words_are_scored_as_a_user_s_turn(toy: Target) -> None:
    texts = ["how do i open the door", "child child child", "show me how to wash the shirt at home"]
    own = user_turn_logprobs(toy, texts)
    for text, values in zip(texts, own, strict=True):
        ids = toy.chat.encode(text)
        (law,) = plain_logprobs(toy.content.model, [[*toy.chat.before, *ids]])
        start = len(toy.chat.before) - 1
        assert values == pytest.approx(law[range(start, start + len(ids)), list(ids)].tolist(), abs=1e-4)
    perplexities = user_turn_perplexities(toy, texts)
    assert perplexities[1] > 3 * max(perplexities[0], perplexities[2])


def test_the_floor_lets_prompts_have_words_as_rare_as_people_s_own(toy: Target) -> None:
    values = np.concatenate(user_turn_logprobs(toy, [seed.text for seed in SEEDS]))
    floor = tuned_floor(toy, SEEDS)
    assert np.mean(values < floor + 1) == pytest.approx(0.1, abs=0.02)
    assert tuned_floor(toy, SEEDS, slack=3.0) == pytest.approx(floor - 2)
    assert tuned_floor(toy, SEEDS, rarer=0.01) < floor < tuned_floor(toy, SEEDS, rarer=0.5) < 0
    with pytest.raises(DataError, match="give at least one"):
        tuned_floor(toy, [])


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=40), st.floats(0, 1, exclude_max=True))
def test_a_draw_inverts_the_distribution_function(law: list[float], uniform: float) -> None:
    weights = torch.tensor(law, dtype=torch.float64).exp()
    place = drawn(torch.tensor(law, dtype=torch.float64), uniform)
    before = float(weights[:place].sum() / weights.sum())
    assert before - 1e-9 <= uniform <= before + float(weights[place] / weights.sum()) + 1e-9


@given(st.lists(st.sampled_from([-math.inf, -3.0, -2.0, -1.0, 0.0]), min_size=1, max_size=30), st.integers(1, 40))
def test_ranking_takes_the_highest_and_of_equal_ones_the_lower_id(scores: list[float], most: int) -> None:
    expected = sorted(
        (one for one in range(len(scores)) if scores[one] > -math.inf), key=lambda one: (-scores[one], one)
    )
    assert ranked(torch.tensor(scores), most) == expected[:most]


def bpe_target(folder: Path, **options: Any) -> Target:
    return open_target(save_tiny_model(folder, 0, make_tokenizer()), paraphrase="{request}", examples=(), **options)


def test_candidates_that_would_merge_are_dropped(tmp_path: Path) -> None:
    target = bpe_target(tmp_path, slots=4)
    refusal = given_refusal(target, "bad")
    options = GeneratorOptions(w2=0.0, floor=None, max_tokens=12, content_temperature=1.0)
    guided = dataclasses.replace(options, w2=1.0, preselection="content", width=6)
    for chosen in (options, guided):
        seeds = [Seed(str(number), "a dress") for number in range(12)]
        for prompt in generate(target, refusal, seeds, chosen, 0):
            assert not prompt.ids or target.chat.encode(prompt.prompt) == prompt.ids
            assert prompt.prompt.isascii() and prompt.prompt.isprintable()


def test_it_ends_where_no_word_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = bpe_target(tmp_path, slots=4)
    tried: list[Sequence[int]] = []

    def nothing(chat: object, words: Sequence[Sequence[int]]) -> list[bool]:
        tried.extend(words)
        return [False] * len(words)

    monkeypatch.setattr(type(target.chat), "keep", nothing)
    options = GeneratorOptions(preselection="content", max_tokens=8)
    prompts = generate(target, given_refusal(target, "bad"), [Seed("a", "a dress")], options, 0)
    assert (prompts[0].ids, prompts[0].stopped_by, prompts[0].perplexity) == ((), "no_candidate", math.inf)
    assert 16 < len(tried) <= 80 and math.isfinite(prompts[0].refusal_logprob)


def test_one_seed_is_enough_and_a_bad_one_is_named(toy: Target, refusal: Refusal, scan: list[HeardWord]) -> None:
    assert len(generate(toy, refusal, SEEDS[:1], GUARDED, 0, scan)) == 1
    assert generate(toy, refusal, [], GUARDED, 0, scan) == []
    with pytest.raises(DataError, match="seed empty: is empty"):
        generate(toy, refusal, [SEEDS[0], Seed("empty", "  ")], GUARDED, 0, scan)
    with pytest.raises(DataError, match=r"seed long: 65 tokens .*exceed the 48 left"):
        generate(toy, refusal, [SEEDS[0], Seed("long", "how " * 60)], GUARDED, 0, scan)
    assert len(generate(toy, refusal, SEEDS[:1], GUARDED, 0, scan)) == 1


def test_what_is_missing_is_said(
    toy: Target, refusal: Refusal, scan: list[HeardWord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="scan the vocabulary first"):
        generate(toy, refusal, SEEDS, GUARDED, 0)
    with pytest.raises(DataError, match="none is left"):
        Generator(toy, refusal, GUARDED, scan, torch.zeros(toy.content.vocabulary_size, dtype=torch.bool))
    with pytest.raises(DataError, match="max_tokens: 64 make a chat of 68, the target reads 64"):
        Generator(toy, refusal, dataclasses.replace(GUARDED, max_tokens=64), scan)
    with pytest.raises(DataError, match="none to scan"):
        scan_vocabulary(toy, refusal, [])
    with pytest.raises(DataError, match="give at least one request"):
        likely_words(toy, [], 5, 0)
    monkeypatch.setattr(packed_linear, "SMALLEST", 0)
    packed = bpe_target(tmp_path)
    options = GeneratorOptions(preselection="gradient")
    with pytest.raises(DataError, match="open it with differentiable=True"):
        generate(packed, given_refusal(packed, "bad"), [Seed("a", "a dress")], options, 0)


def test_a_vocabulary_without_printable_words_is_refused(toy: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(toy.tokenizer), "batch_decode", lambda self, ids, **options: ["\n"] * len(ids))
    with pytest.raises(DataError, match="none is left"):
        word_choice.allowed_tokens(toy)


@pytest.mark.parametrize(
    "options",
    [
        {"w1": -1.0},
        {"w2": -0.1},
        {"width": 0},
        {"inner": 0},
        {"temperature": -1.0},
        {"content_temperature": 0.0},
        {"floor": 0.0},
        {"max_tokens": 3},
        {"preselection": "guess"},
        {"at_saturation": "go"},
    ],
)
def test_an_option_out_of_bounds_is_named(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(options))}: "):
        GeneratorOptions(**options)
