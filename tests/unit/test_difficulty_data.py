import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.answering import easy2hard
from rayworks.systems.difficulty.answering.answer_scoring import SCORERS, score_move
from rayworks.systems.difficulty.answering.prompts import PROMPTS
from rayworks.systems.difficulty.responses import evidence
from tests.published_points import PUBLISHED_POINTS

SIZES = {
    "ability": (1509, 16, 23257),
    "champ": (72, 85, 6120),
    "lsat6": (1000, 5, 5000),
    "lsat7": (1000, 5, 5000),
    "math-exam": (729, 13, 9477),
    "verbal-aggression": (316, 24, 7584),
}


def synthetic_table(config: str) -> pd.DataFrame:
    """A table in the exact schema of a set, whose ratings are the published points."""
    points = np.array(PUBLISHED_POINTS[config])
    values: dict[str, list[Any]] = {
        "rating_quantile": points[:, 0].tolist(),
        "rating": points[:, 1].tolist(),
        "rating_std": points[:, 2].tolist(),
        "choices": [{"label": ["A", "B"], "text": ["one", "two"]}] * 4,
        "inputs": [["1 2", "3 4"]] * 4,
        "answers": [["3", "7"]] * 4,
        "sample_inputs": [["1 2"]] * 4,
        "sample_outputs": [["3"]] * 4,
        "fen": ["6k1/5ppp/8/8/8/8/8/R6K w - - 0 1"] * 4,
        "answer_uci": ["a1a8"] * 4,
        "answerKey": ["A"] * 4,
        "year": [2010, 2011, 2012, 2013],
        "contest_id": [1, 1, 2, 3],
    }
    return pd.DataFrame(
        {name: values.get(name, [f"{name} {row}" for row in range(4)]) for name in easy2hard.SCHEMAS[config].columns}
    )


@pytest.mark.parametrize("name", SIZES)
def test_embedded_responses_are_tidy(name: str) -> None:
    found = evidence.read_responses(name)
    responses = found.responses
    assert (responses["subject"].nunique(), responses["item"].nunique(), len(responses)) == SIZES[name]
    assert not responses.isna().any(axis=None)
    assert not responses.duplicated(["subject", "item"]).any()
    assert set(responses["score"]) == {0.0, 1.0}
    assert set(responses["item"]) == set(found.items["item"])
    assert set(responses["subject"]) <= set(found.subjects["subject"])
    assert found.items["item"].is_unique and found.subjects["subject"].is_unique
    assert found.items["text"].str.len().gt(0).all()
    assert found.provenance


def test_champ_models_are_as_able_as_measured() -> None:
    responses = evidence.read_responses("champ").responses
    means = responses.groupby("family")["score"].mean()
    measured = {"GPT-4 Turbo": 0.44, "GPT-4": 0.39, "GPT-3.5": 0.24, "PaLM 2 Medium": 0.13}
    assert set(means.index) == set(measured)
    for family, mean in measured.items():
        assert means[family] == pytest.approx(mean, abs=0.01)


def test_solve_rates_of_the_classical_sets() -> None:
    rates = {
        name: evidence.read_responses(name).responses.groupby("item")["score"].mean() for name in ("ability", "lsat6")
    }
    assert (rates["ability"].min(), rates["ability"].max()) == pytest.approx((0.19, 0.74), abs=0.005)
    assert rates["lsat6"].to_numpy() == pytest.approx([0.924, 0.709, 0.553, 0.763, 0.870])


def test_games_come_in_order_one_row_each() -> None:
    games = evidence.read_games("bundesliga")
    assert len(games) == 14018
    assert games["period"].is_monotonic_increasing and games["period"].nunique() == 46
    assert set(games["score"]) == {0.0, 0.5, 1.0}
    assert len(set(games["player"]) | set(games["opponent"])) == 52
    assert (games["player"] != games["opponent"]).all()
    assert games["score"].mean() > 0.6, "the home side is ahead"


def test_mates_are_scored_by_the_rule_for_moves() -> None:
    mates = evidence.read_chess_mates()
    assert mates["mate_in"].value_counts().to_dict() == {2: 166, 3: 375, 4: 373}
    assert mates["puzzle"].is_unique
    assert (mates["solution"].str.split().map(len) == 2 * mates["mate_in"] - 1).all()
    row = mates.iloc[0].to_dict()
    assert score_move(f"The move is {row['answer_uci']}.", row) == 1.0


def test_unknown_evidence_is_named() -> None:
    with pytest.raises(ConfigError, match="lsat6"):
        evidence.read_responses("nothing")
    with pytest.raises(ConfigError, match="bundesliga"):
        evidence.read_games("nothing")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("config", easy2hard.SCHEMAS)
def test_a_table_in_the_published_schema_is_read_and_prompted(tmp_path: Path, config: str, suffix: str) -> None:
    table, folder = synthetic_table(config), tmp_path / config
    folder.mkdir()
    if suffix == "parquet":
        table.to_parquet(folder / "eval-0000.parquet")
        table.to_parquet(folder / "train-0000.parquet")
    else:
        table.to_json(folder / "eval.jsonl", orient="records", lines=True)
    loaded = easy2hard.load(config, "eval", str(tmp_path))
    assert len(loaded.table) == 4
    assert loaded.table["item"].is_unique
    assert loaded.absent == loaded.unknown == ()
    assert loaded.table["rating"].is_monotonic_increasing
    for row in loaded.table.to_dict("records"):
        prompt = PROMPTS[config](row)
        assert "_START]" in prompt and "nan" not in prompt
        assert SCORERS[config]("nothing to see", row) == 0.0


def test_schema_faults_are_named(tmp_path: Path) -> None:
    schema, table = easy2hard.SCHEMAS["E2H-AMC"], synthetic_table("E2H-AMC")
    with pytest.raises(DataError, match="has no column rating_std, tag; it has contest"):
        easy2hard.check(schema, table.drop(columns=["rating_std", "tag"]), "file")
    with pytest.raises(DataError, match=r"row 2: rating is 1\.5"):
        easy2hard.check(schema, table.assign(rating=[0, 0.5, 1.5, 1]), "file")
    with pytest.raises(ConfigError, match="E2H-AMC"):
        easy2hard.load("E2H-MATH")
    with pytest.raises(ConfigError, match="eval only"):
        easy2hard.load("E2H-ARC", "train")
    for source in (tmp_path, tmp_path / "none.parquet"):
        with pytest.raises(DataError, match="correct the path"):
            easy2hard.load("E2H-ARC", "eval", str(source))
    (tmp_path / "eval.jsonl").write_text("{broken")
    with pytest.raises(DataError, match="cannot be read"):
        easy2hard.load("E2H-ARC", "eval", str(tmp_path))


def test_the_hub_is_asked_for_the_config_and_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, ...]] = []

    def load_dataset(name: str, config: str, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        if name == "no/where":
            raise ValueError("there is no such set\nat all")
        return datasets.Dataset.from_pandas(synthetic_table("E2H-ARC"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(easy2hard.load("E2H-ARC").table) == 4
    easy2hard.load("E2H-ARC", source="hub:a/b:other")
    with pytest.raises(
        DataError, match=r"E2H-ARC eval .hub:no/where:E2H-ARC.: cannot be read \(there is no such set\)"
    ):
        easy2hard.load("E2H-ARC", source="hub:no/where")
    assert asked[:2] == [("furonghuang-lab/Easy2Hard-Bench", "E2H-ARC", "eval"), ("a/b", "other", "eval")]


def test_columns_that_are_only_reported_may_be_absent_or_new() -> None:
    table = synthetic_table("E2H-GSM8K").drop(columns="model_avg_acc").assign(colour="red")
    loaded = easy2hard.check(easy2hard.SCHEMAS["E2H-GSM8K"], table, "file")
    assert (loaded.absent, loaded.unknown) == (("model_avg_acc",), ("colour",))
    assert loaded.table["item"].tolist() == ["0", "1", "2", "3"]


def test_truncated_tests_are_dropped_and_counted() -> None:
    table = synthetic_table("E2H-Codeforces")
    table["inputs"] = [["1", "2"], ["1...", "2"], ["1 ...\n", "2"], None]
    table["answers"] = [["1", "2"], ["1", "2"], ["1", "2..."], None]
    loaded = easy2hard.check(easy2hard.SCHEMAS["E2H-Codeforces"], table, "file")
    assert (loaded.dropped_tests, loaded.untestable, len(loaded.table)) == (3, 2, 2)
    assert loaded.table["inputs"].tolist() == [["1", "2"], ["2"]]
    assert loaded.table["answers"].tolist() == [["1", "2"], ["2"]]


def test_the_fixtures_rise_and_every_set_has_them() -> None:
    assert set(PUBLISHED_POINTS) == set(easy2hard.SCHEMAS)
    for points in PUBLISHED_POINTS.values():
        assert np.all(np.diff(np.array(points)[:, :2], axis=0) > 0)
    assert set(PROMPTS) == set(SCORERS)
    assert json.dumps(PUBLISHED_POINTS)
