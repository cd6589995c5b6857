"""The generalisation heatmap without a cluster: problems, bins, summaries, fine-tuning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, DataError
from rayworks.core.sweep import TrialResult, read_sweep
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.scoring import encode
from rayworks.lm.training import TuningOptions
from rayworks.systems.difficulty import SPEC
from rayworks.systems.difficulty.answering import arithmetic, easy2hard
from rayworks.systems.difficulty.answering.generalisation import heatmap, mean_estimate, ratio_estimate, summarise_gains
from rayworks.systems.difficulty.answering.generalisation_items import binned_items, quantile_bins
from rayworks.systems.difficulty.answering.generalisation_report import sweep_summary
from rayworks.systems.difficulty.config import Config, GeneralisationSection
from tests.conftest import ROOT
from tests.unit.test_difficulty_data import synthetic_table

PROBLEMS = {
    "3+4": 1,
    "8+7": 2,
    "47+25": 3,
    "99+1": 4,
    "999+1": 6,
    "13-7": 3,
    "100-1": 5,
    "58-23": 2,
    "12*4": 2,
    "47*3": 4,
    "7*8": 2,
    "0*9": 1,
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_rating_is_columns_and_carries(problem: str) -> None:
    symbol = next(sign for sign in "+-*" if sign in problem)
    left, right = map(int, problem.split(symbol))
    assert arithmetic.rating(symbol, left, right) == PROBLEMS[problem]


@pytest.mark.parametrize("level", range(1, 7))
def test_problems_are_right_distinct_of_their_level_and_of_the_seed(level: int) -> None:
    found = arithmetic.problems(level, 60, list(arithmetic.SYMBOLS), seed=3)
    assert len(dict(found)) == 60
    for question, answer in found:
        symbol = next(sign for sign in "+-*" if sign in question)
        left, right = map(int, question.removesuffix("=").split(symbol))
        assert int(answer) == {"+": left + right, "-": left - right, "*": left * right}[symbol] >= 0
        assert arithmetic.rating(symbol, left, right) == level
    assert found[:20] == arithmetic.problems(level, 20, list(arithmetic.SYMBOLS), seed=3)
    assert found != arithmetic.problems(level, 60, list(arithmetic.SYMBOLS), seed=4)


def test_a_level_can_be_used_up() -> None:
    assert len(arithmetic.problems(1, 55, ["addition"], 0)) == 55
    with pytest.raises(DataError, match="level 1 has about 55 problems, 56 were asked for"):
        arithmetic.problems(1, 56, ["addition"], 0)


def test_bins_are_of_equal_size_and_ties_go_by_name() -> None:
    assert quantile_bins(np.array([3.0, 1, 2, 1, 3, 2]), list("abcdef"), 3).tolist() == [2, 0, 1, 0, 2, 1]
    assert quantile_bins(np.ones(4), ["d", "a", "c", "b"], 2).tolist() == [1, 0, 1, 0]
    assert np.bincount(quantile_bins(np.random.default_rng(0).random(11), [str(n) for n in range(11)], 4)).tolist() == [
        3,
        3,
        3,
        2,
    ]


def test_runs_of_two_training_bins_share_all_but_the_training_items() -> None:
    options: dict[str, Any] = {"bins": 4, "train_items": 21, "eval_items": 9}
    one, two, both = (
        binned_items(GeneralisationSection(train_bin=row, cumulative=cumulative, **options), seed=1)
        for row, cumulative in ((1, False), (3, False), (3, True))
    )
    assert one.evaluation == two.evaluation == both.evaluation
    assert [len(items) for items in one.evaluation] == [9] * 4
    assert one.ranges == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert len(one.training) == len(two.training) == len(both.training) == 21
    assert [{item.rating for item in items.training} for items in (one, two, both)] == [{2}, {4}, {1, 2, 3, 4}]
    asked = {item.prompt for items in one.evaluation for item in items}
    assert not asked & {item.prompt for items in (one, two, both) for item in items.training}
    assert one == binned_items(GeneralisationSection(train_bin=1, **options), seed=1)
    assert one != binned_items(GeneralisationSection(train_bin=1, **options), seed=2)


def test_two_digit_bins_differ_by_carries_alone() -> None:
    section = GeneralisationSection(operations=("addition",), digits=2, bins=3, train_items=20, eval_items=5)
    found = binned_items(section, seed=0)
    assert found.ranges == [(2, 2), (3, 3), (4, 4)]
    assert {len(part) for item in found.training for part in item.prompt.removesuffix("=").split("+")} == {2}


def save_items(path: Path, rows: int = 12, **changed: Any) -> str:
    table = pd.DataFrame(
        {
            "prompt": [f"q{n:02d} " for n in range(rows)],
            "answer": [str(n % 3) for n in range(rows)],
            "rating": np.arange(rows, dtype=float),
        }
    ).assign(**changed)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=True)
    return str(path)


@pytest.mark.parametrize("name", ["items.jsonl", "items.parquet"])
def test_a_file_is_cut_by_rating(name: str, tmp_path: Path) -> None:
    source = save_items(tmp_path / name)
    found = binned_items(GeneralisationSection(source=source, bins=2, train_items=4, eval_items=2, train_bin=1), seed=0)
    assert {item.rating for item in found.training} | {item.rating for item in found.evaluation[1]} == set(range(6, 12))
    item = found.training[0]
    assert item.answer == str(int(item.rating) % 3)
    assert item.correct(f" {item.answer}\n") == 1.0 and item.correct(f"{item.answer}1") == 0.0


def test_a_published_set_trains_on_its_train_split(tmp_path: Path) -> None:
    table = synthetic_table("E2H-AMC")
    for split in easy2hard.SCHEMAS["E2H-AMC"].splits:
        table.assign(problem=[f"{split} {n}" for n in range(len(table))], answer="42").to_parquet(
            tmp_path / f"{split}.parquet"
        )
    section = GeneralisationSection(source="amc", folder=str(tmp_path), bins=2, train_items=2, eval_items=2)
    found = binned_items(section, seed=0)
    assert all("train " in item.prompt and item.answer == "\\boxed{42}" for item in found.training)
    assert all("eval " in item.prompt for items in found.evaluation for item in items)
    assert found.training[0].correct("so \\boxed{42}") == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_bin": 5}, r"generalisation\.train_bin: is 5; the last of 5 bins is 4"),
        ({"source": "gsm8k"}, r"generalisation\.source: 'gsm8k' is unknown; one of arithmetic, amc"),
        ({"digits": 2}, r"generalisation\.bins: 2 digits carry 0 to 2 times; set bins to at most 3"),
    ],
)
def test_a_bad_setting_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        configs.resolve(Config, overrides={f"generalisation.{name}": value for name, value in change.items()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": None}, "row 0: answer is empty"),
        ({"rating": "hard"}, "row 0: rating is 'hard', not a number"),
        ({"prompt": "same"}, "row 1: repeats a prompt"),
        ({}, r"generalisation\.train_items: 5 asked for, bin 0 of .* has 4 beside those of the other part"),
    ],
)
def test_a_bad_file_is_refused_by_row(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = save_items(tmp_path / "items.jsonl", **change)
    with pytest.raises(DataError, match=words):
        binned_items(GeneralisationSection(source=source, bins=2, train_items=5, eval_items=2), seed=0)


def test_a_file_without_columns_names_them(tmp_path: Path) -> None:
    (tmp_path / "bare.jsonl").write_text(json.dumps({"prompt": "a", "text": "b"}) + "\n")
    section = GeneralisationSection(source=str(tmp_path / "bare.jsonl"))
    with pytest.raises(DataError, match="has no column answer, rating; found prompt, text"):
        binned_items(section, seed=0)
    with pytest.raises(DataError, match=r"none\.parquet.: cannot be read"):
        binned_items(GeneralisationSection(source=str(tmp_path / "none.parquet")), seed=0)


GAIN = np.array([[0.4, 0.2, 0.1], [0.3, 0.5, 0.2], [0.0, 0.3, 0.6]])


def test_summaries_of_a_matrix_made_by_hand() -> None:
    found = {name: estimate.value for name, estimate in summarise_gains(GAIN[None]).items()}
    assert found["diagonal"] == pytest.approx(0.5)
    assert found["easy_to_hard"] == pytest.approx((0.2 + 0.1 + 0.2) / 3)
    assert found["hard_to_easy"] == pytest.approx((0.3 + 0.0 + 0.3) / 3)
    # Over j > i the bins evaluated are 1, 2, 2: their own gains are .5, .6, .6.
    assert found["gap_recovered"] == pytest.approx(0.5 / 1.7)
    assert found["gap_recovered_extremes"] == pytest.approx(0.1 / 0.6)
    assert all(estimate.low is None for estimate in summarise_gains(GAIN[None]).values())


def test_decay_and_asymmetry_are_the_coefficients_of_distance_and_sign() -> None:
    i, j = np.indices((4, 4))
    gain = 0.6 - 0.1 * np.abs(i - j) + 0.05 * np.sign(j - i)
    found = summarise_gains(np.stack([gain, gain + 0.1]))
    for name, value in (("decay", -0.1), ("asymmetry", 0.05), ("diagonal", 0.65)):
        assert found[name].value == pytest.approx(value)
    # Seeds that agree exactly say nothing of the spread.
    assert found["decay"].low is None and found["diagonal"].low is not None


def test_intervals_are_students_and_fiellers() -> None:
    found = mean_estimate(np.array([0.1, 0.2, 0.3]))
    assert found.error == pytest.approx(0.1 / np.sqrt(3))
    assert (found.low, found.high) == pytest.approx((0.2 - 4.302653 * found.error, 0.2 + 4.302653 * found.error))
    # A denominator without noise leaves Student's interval of the numerator, divided.
    ratio = ratio_estimate(np.array([0.1, 0.2, 0.3]), np.full(3, 0.5))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((found.low / 0.5, 0.4, found.high / 0.5))
    assert ratio_estimate(np.array([0.1, 0.2]), np.array([-0.1, 0.0])).value is None
    assert ratio_estimate(np.zeros(3), np.array([0.3, 0.4, 0.5])).low is None
    noisy = ratio_estimate(np.array([0.1, 0.2]), np.array([-0.4, 0.9]))
    assert noisy.value == pytest.approx(0.6) and noisy.low is None


def trial(train_bin: int, seed: int, tuned: list[float], **values: Any) -> TrialResult:
    row = {
        "train_bin": train_bin,
        "seed": seed,
        "base": [0.1, 0.0],
        "tuned": tuned,
        "cumulative": False,
        "ranges": [(1, 1), (2, 2)],
        "training_items": 8,
        "evaluation_items": 4,
        "model": "tiny",
    }
    report = {"headline": {}, "details": {"generalisation": row}}
    return TrialResult(
        f"{train_bin}-{seed}", train_bin, seed, {"generalisation.train_bin": train_bin} | values, "", report
    )


def test_trials_become_a_heatmap_and_its_tables() -> None:
    trials = [trial(0, 0, [0.5, 0.1]), trial(0, 1, [0.7, 0.1]), trial(1, 0, [0.2, 0.4])]
    lost = TrialResult("lost", 1, 1, {"generalisation.train_bin": 1}, "", failure="data: lost")
    rows = [(t.report or {})["details"]["generalisation"] for t in trials]
    result = heatmap(rows)
    assert result.mean == pytest.approx(np.array([[0.5, 0.1], [0.1, 0.4]]))
    assert result.cell(0, 0).error == pytest.approx(0.1) and result.cell(1, 1).error is None
    assert result.summaries()["diagonal"].seeds == 1
    tables, figures = sweep_summary([*trials, lost])
    assert [table.title for table in tables] == [
        "Generalisation by training and evaluation bin",
        "Summaries of the heatmap",
    ]
    assert figures["heatmap.png"][0].startswith(b"\x89PNG") and "seeds 0, 1" in figures["heatmap.png"][1]
    two = [trial(row, 0, [0.5, 0.1], **{"generalisation.steps": steps}) for row in (0, 1) for steps in (5, 9)]
    assert list(sweep_summary(two)[1]) == ["heatmap.png", "heatmap_2.png"]
    assert sweep_summary([lost]) == ([], {})


@pytest.fixture
def make_tuner(tiny_model: str) -> Any:
    tokenizer = load_tokenizer(tiny_model)
    examples = [Example(encode(tokenizer, f"{n}+1=", str(n + 1))) for n in range(8)]

    def make(steps: int = 12, **options: Any) -> FineTuner:
        settings = TuningOptions(total_steps=steps, warmup_steps=round(0.1 * steps), learning_rate=0.01, **options)
        return FineTuner(load_model(tiny_model), examples, settings, batch_size=3, seed=5)

    return make


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_fine_tuning_in_pieces_equals_fine_tuning_at_once(make_tuner: Any, tuning: str, tmp_path: Path) -> None:
    whole, first, second = (make_tuner(tuning=tuning) for _ in range(3))
    whole.train(12)
    first.train(6)
    first.save(tmp_path)
    second.train(2)
    second.load(tmp_path)
    assert second.step == 6
    second.train(100)
    assert whole.finished and second.finished and second.train(1) == {}
    at_once, in_pieces = (dict(tuner.tuned().named_parameters()) for tuner in (whole, second))
    assert all(torch.equal(value, in_pieces[name]) for name, value in at_once.items())


def test_fine_tuning_learns_the_answers_and_leaves_the_embeddings(make_tuner: Any, tmp_path: Path) -> None:
    tuner = make_tuner(steps=60)
    before = tuner.model.get_input_embeddings().weight.clone()
    losses = [tuner.train(10)["loss"] for _ in range(6)]
    assert losses[-1] < 0.3 * losses[0]
    assert torch.equal(before, tuner.model.get_input_embeddings().weight)
    tuner.export(tmp_path, load_tokenizer(str(tuner.model.name_or_path)))
    again = load_model(str(tmp_path))
    ids = torch.arange(6)[None]
    assert torch.equal(again(ids).logits, tuner.model(ids).logits)


def test_what_can_not_be_tuned_is_refused(make_tuner: Any, tiny_model: str) -> None:
    with pytest.raises(ConfigError, match="lora_targets"):
        make_tuner(tuning="lora", lora_targets=("nowhere",))
    options = TuningOptions(total_steps=1, learning_rate=0.1)
    with pytest.raises(DataError, match="there is none to learn from"):
        FineTuner(load_model(tiny_model), [], options, batch_size=1, seed=0)
    with torch.no_grad():
        broken = make_tuner()
        next(iter(broken.model.parameters())).fill_(float("nan"))
    with pytest.raises(DataError, match="loss is nan"):
        broken.train(1)


def test_the_shipped_sweep_is_three_bins_by_three_seeds_of_equal_training() -> None:
    sweep = read_sweep(SPEC, ROOT / "jobs" / "configs" / "difficulty.sweep.yaml")
    sections = [trial.config.generalisation for trial in sweep.trials()]
    assert len(sections) == 9 and sorted({section.train_bin for section in sections}) == [0, 1, 2]
    assert len({section.model_copy(update={"train_bin": 0}) for section in sections}) == 1
    assert sweep.settings.metric == ("gain_on_trained_bins",)
