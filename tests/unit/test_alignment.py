"""Pairs, guidance schedules, baselines, measurements and judges of the alignment system."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.alignment.baselines import best_of_n_kl_bound, keep_best, sharpened_temperature
from rayworks.systems.alignment.config import Config, PairsSection
from rayworks.systems.alignment.evaluation import Measurement, Point, distinct_n, measure, paired_bootstrap, points
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedGeneration
from rayworks.systems.alignment.judges import load_judge
from rayworks.systems.alignment.pairs import Pair, bodies_by_rating, build, encode_pair, shorter_title, titles_by_rating
from rayworks.systems.alignment.reporting import _pairs_table
from tests.tiny_models import save_pairs


def reviews(count: int = 400) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "Title": [f"title {n} " + "word " * int(draw.integers(0, 5)) for n in range(count)],
            "Review Text": [f"body {n}" for n in range(count)],
            "Rating": draw.integers(1, 6, count),
            "Class Name": draw.choice(["Dresses", "Knits"], count),
        }
    )


def test_rated_pairs_prefer_five_stars_of_the_same_class_and_use_each_review_once() -> None:
    table = reviews()
    for builder, column in ((titles_by_rating, "Title"), (bodies_by_rating, "Review Text")):
        pairs = builder(table, np.random.default_rng(1))
        by_text = table.set_index(column)
        for pair in pairs:
            good, bad = by_text.loc[pair.chosen[1:]], by_text.loc[pair.rejected[1:]]
            assert good["Rating"] == 5
            assert bad["Rating"] <= 2
            assert good["Class Name"] == bad["Class Name"]
            assert good["Class Name"] in pair.prompt
        texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        assert len(set(texts)) == len(texts)
        disliked = (table["Rating"] <= 2).groupby(table["Class Name"]).sum()
        liked = (table["Rating"] == 5).groupby(table["Class Name"]).sum()
        assert len(pairs) == np.minimum(disliked, liked).sum()


def test_brevity_pairs_prefer_fewer_words_at_equal_rating() -> None:
    table = reviews()
    rating = table.set_index("Title")["Rating"]
    pairs = shorter_title(table, np.random.default_rng(1))
    assert len(pairs) > 50
    for pair in pairs:
        assert len(pair.chosen.split()) < len(pair.rejected.split())
        assert rating[pair.chosen[1:]] == rating[pair.rejected[1:]]


def test_the_packaged_reviews_split_without_sharing_a_title(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    split = build(PairsSection(), "sentiment", 0, tiny_tokenizer)
    plain = [
        {"".join(filter(str.isalnum, text.casefold())) for pair in side for text in (pair.chosen, pair.rejected)}
        for side in (split.training, split.held_out)
    ]
    assert not plain[0] & plain[1]
    assert len(split.training) > 1500
    assert 200 < len(split.held_out) < 500
    assert build(PairsSection(), "sentiment", 0, tiny_tokenizer) == split
    assert build(PairsSection(), "sentiment", 1, tiny_tokenizer).training != split.training
    assert build(PairsSection(max_pairs=10), "sentiment", 0, tiny_tokenizer).training == split.training[:10]


def test_files_and_hub_folders_are_read(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    file = save_pairs(tmp_path / "train.jsonl")
    from_file = build(PairsSection(source=file, held_out=0.3), "x", 0, tiny_tokenizer)
    assert len(from_file.training) > 2 * len(from_file.held_out) > 10
    hub = build(PairsSection(source=f"hub:{tmp_path}", held_out=0.3), "x", 0, tiny_tokenizer)
    assert hub == from_file
    trained = {text for pair in from_file.training for text in (pair.chosen, pair.rejected)}
    assert not any(text in trained for pair in from_file.held_out for text in (pair.chosen, pair.rejected))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "has no rows"),
        ([{"prompt": "a", "chosen": "b"}], "has no column rejected"),
        ([{"prompt": "a", "chosen": "b", "rejected": 3}], "row 0"),
        ([{"prompt": "a", "chosen": "b", "rejected": ""}], "row 0"),
    ],
)
def test_bad_files_name_column_or_row(
    tmp_path: Path, rows: list[dict[str, object]], words: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=words):
        build(PairsSection(source=str(file)), "x", 0, tiny_tokenizer)


@pytest.mark.parametrize("source", ["nonsense", "/nowhere/p.jsonl", "hub:/nowhere"])
def test_missing_sources_are_data_errors(source: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"pairs\.source"):
        build(PairsSection(source=source), "x", 0, tiny_tokenizer)


def test_length_filters_count_what_they_say(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    file = save_pairs(tmp_path / "p.jsonl")
    whole = build(PairsSection(source=file, length_filter="none"), "x", 0, tiny_tokenizer)
    chars = build(PairsSection(source=file, length_filter="chars", max_length=22), "x", 0, tiny_tokenizer)
    assert 0 < len(chars.training) < len(whole.training)
    assert all(len(p.prompt) + max(len(p.chosen), len(p.rejected)) <= 22 for p in chars.training)

    def length(pair: Pair) -> int:
        counts = [len(tiny_tokenizer(text)["input_ids"]) for text in (pair.prompt, pair.chosen, pair.rejected)]
        return counts[0] + max(counts[1:])

    limit = sorted(length(pair) for pair in whole.training)[len(whole.training) // 2]
    tokens = build(
        PairsSection(source=file, length_filter="tokens", max_length=limit, held_out=0.3), "x", 0, tiny_tokenizer
    )
    assert all(length(pair) <= limit for pair in tokens.training)
    assert tokens.dropped > 0
    with pytest.raises(DataError, match=r"objectives\.x\.pairs: no training pair is left"):
        build(PairsSection(source=file, max_length=2), "x", 0, tiny_tokenizer)


def test_encoded_pairs_end_unless_they_are_cut(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    pair = build(PairsSection(source=save_pairs(tmp_path / "p.jsonl")), "x", 0, tiny_tokenizer).training[0]
    whole, cut = encode_pair(pair, tiny_tokenizer, None), encode_pair(pair, tiny_tokenizer, 2)
    assert whole.chosen.response[-1] == whole.rejected.response[-1] == tiny_tokenizer.eos_token_id
    assert (cut.chosen.response, cut.rejected.response) == (whole.chosen.response[:2], whole.rejected.response[:2])


# guidance ------------------------------------------------------------------------------------------------------------
def test_guidance_is_constant_scheduled_or_called() -> None:
    guidance = Guidance({"a": 2.0, "b": [(2, 1.0), (5, 0.0)], "c": lambda token: token / 10}, beta=2.0)
    assert guidance.at(0) == {"a": 1.0}
    assert guidance.at(3) == {"a": 1.0, "b": 0.5, "c": pytest.approx(0.15)}
    assert guidance.at(9) == {"a": 1.0, "c": pytest.approx(0.45)}
    guidance.update({"a": 0.0})
    assert "a" not in guidance.at(3)


@pytest.mark.parametrize(
    "weights", [{"a": -1.0}, {"a": math.nan}, {"a": math.inf}, {"a": [(3, 1.0), (1, 2.0)]}, {"a": [(0, -1.0)]}]
)
def test_bad_weights_are_refused_and_change_nothing(weights: dict[str, object]) -> None:
    guidance = Guidance({"a": 1.0, "b": 2.0})
    with pytest.raises(ConfigError, match=r"guidance\.a"):
        guidance.update({"b": 5.0, **weights})
    assert guidance.at(0) == {"a": 1.0, "b": 2.0}
    with pytest.raises(ConfigError, match="beta"):
        Guidance({}, beta=0.0)


def test_guidance_travels_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(Guidance({"a": [(0, 1.0)]}, beta=0.5)))
    copy.update({"b": 1.0})
    assert copy.at(0) == {"a": 2.0, "b": 2.0}


# baselines and measurements ------------------------------------------------------------------------------------------
@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_best_of_n_keeps_the_best_of_each_group(rewards: list[float]) -> None:
    kept = keep_best(list(range(6)), rewards, 3)
    assert [rewards[index] for index in kept] == [max(rewards[:3]), max(rewards[3:])]
    assert kept[0] < 3 <= kept[1]


def test_13_best_of_n_stays_below_its_kl_bound() -> None:
    """Exact distribution of best-of-n on a finite alphabet of distinct rewards against log n - (n-1)/n."""
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    upper = np.cumsum(probabilities)
    for n in (2, 4, 16):
        best = upper**n - np.concatenate([[0], upper[:-1]]) ** n
        assert (best * np.log(best / probabilities)).sum() <= best_of_n_kl_bound(n) + 1e-12


@given(st.floats(0.3, 2.0), st.floats(0, 4.0))
def test_sharpening_is_mixing_with_copies_of_the_base(temperature: float, strength: float) -> None:
    logits = np.array([1.0, -0.5, 2.0])

    def softmax(values: np.ndarray) -> np.ndarray:
        return np.exp(values - values.max()) / np.exp(values - values.max()).sum()

    mixed = softmax((logits + strength * logits) / temperature)
    assert np.allclose(mixed, softmax(logits / sharpened_temperature(temperature, strength)))


def test_distinct_n_in_closed_form() -> None:
    assert distinct_n(["a b a b"], 1) == 0.5
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["", "a"], 2) == 0.0


def test_paired_bootstrap_sees_a_shift_and_covers_nothing() -> None:
    draw = np.random.default_rng(0)
    control = draw.normal(size=300)
    mean, low, high = paired_bootstrap(list(control + 0.5), list(control), seed=0, resamples=500, confidence=0.95)
    assert (mean, low, high) == pytest.approx((0.5, 0.5, 0.5))
    noisy = control + draw.normal(size=300)
    mean, low, high = paired_bootstrap(list(noisy), list(control), seed=0, resamples=2000, confidence=0.95)
    assert low < mean < high
    half = 1.96 * (noisy - control).std(ddof=1) / math.sqrt(300)
    assert high - low == pytest.approx(2 * half, rel=0.15)


def test_points_hold_every_control_of_what_they_compare() -> None:
    plan = points(Config())
    guided = [point for point in plan if point.method == "guided"]
    assert {point.strength for point in guided} <= {point.strength for point in plan if point.method == "sharpened"}
    assert len({point.label for point in plan}) == len(plan)
    own = configs.resolve(Config, overrides={"objectives.brevity.measured_with": None})
    assert {point.suite for point in points(own)} == {"sentiment", "brevity"}
    for suite in ("sentiment", "brevity"):
        assert {"base", "sharpened", "guided", "best-of-n"} == {p.method for p in points(own) if p.suite == suite}


def test_measurements_survive_a_checkpoint() -> None:
    generation = GuidedGeneration(
        uid="",
        text="a b",
        token_ids=(1, 2),
        finish_reason="stop",
        logprobs=(-1.0, -2.0, -0.5),
        sampling_logprobs=(-0.5, -1.0, -0.2),
        prompt_tokens=2,
        base_logprobs=(-1.0, -2.0, -0.5),
        reward_logprobs={},
        weights={},
        log_z=-3.0,
        kl_to_base=0.4,
    )
    found = measure(
        Point("sharpened", "sentiment", strength=1.0), [generation] * 2, {"vader": np.array([0.5, 0.1])}, 9.0, 4
    )
    assert found.kl == pytest.approx(1.8)
    assert found.perplexity == pytest.approx(math.exp(3.5 / 3))
    assert found.tokens == 3
    assert Measurement.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_judges_rank_what_anyone_would(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("vader", "imdb"):
        good, bad = load_judge(name, tiny_tokenizer)(["I love it, wonderful!", "Terrible, awful, I hate it."])
        assert good > bad, name
    short, long = load_judge("brevity", tiny_tokenizer)(["good", "good good good"])
    assert short > long


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training.loss": "hinge", "training.label_smoothing": 0.1}, r"training\.label_smoothing"),
        ({"evaluation.headline_weight": 3.0}, r"evaluation\.headline_weight"),
        ({"objectives.brevity.measured_with": "nobody"}, r"objectives\.brevity\.measured_with"),
        ({"objectives.sentiment.measured_with": "brevity"}, "measured_with"),
        ({"evaluation.weights": [0.0, 1.0]}, r"evaluation\.weights"),
        ({"objectives.not-a-name.beta": 0.1}, r"objectives\.not-a-name"),
        ({"objectives.sentiment": None, "objectives.brevity": None}, "objectives"),
        ({"objectives.sentiment.judges": ["nobody"]}, r"objectives\.sentiment\.judges"),
    ],
)
def test_contradictions_in_the_config_are_named(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.resolve(Config, overrides=overrides)


def test_the_share_of_cut_responses_is_told_as_such() -> None:
    scores = {"accuracy": 0.75, "lead": 1.0, "logprob_chosen": -3.0, "logprob_rejected": -4.0}
    counts = {"training": 8, "held_out": 2, "dropped": 1, "cut": 0.25}
    table = _pairs_table({"brevity": scores}, {"pairs": {"brevity": counts}})
    assert dict(zip(table.columns, table.rows[0], strict=True))["cut responses"] == "25.0%"
