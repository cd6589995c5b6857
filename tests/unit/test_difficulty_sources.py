"""What is read from files, and what is refused by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayworks.core.config import resolve
from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty import figures
from rayworks.systems.difficulty.calibration import calibrate
from rayworks.systems.difficulty.config import Config, DataSection, RatingSection
from rayworks.systems.difficulty.evaluation import benchmark_rows
from rayworks.systems.difficulty.rating_run import rate_games
from rayworks.systems.difficulty.ratings.glicko2 import Glicko2Options
from rayworks.systems.difficulty.responses.sources import read_games, read_responses
from tests.small_evidence import response_table, save_games

GAMES = "period,player,opponent,score,weight\n1,a,b,1,2\n1,b,c,0.5,1\n2,c,a,0,1\n"


def test_problems_are_players_that_win_when_they_are_not_solved(tmp_path: Path) -> None:
    path = tmp_path / "contest.csv"
    path.write_text("period,problem,contestant,solved\n1,1A,ann,1\n1,1B,ann,0\n")
    names, periods, games = read_games(str(path))
    assert names == ["1A", "1B", "ann"]
    assert periods.names == ["1"]
    assert games.score.tolist() == [0.0, 1.0]


def test_weights_of_games_count(tmp_path: Path) -> None:
    path = tmp_path / "league.csv"
    path.write_text(GAMES)
    names, periods, games = read_games(str(path))
    assert games.weight is not None
    assert games.weight.tolist() == [2.0, 1.0, 1.0]
    path.write_text(GAMES.replace("a,b,1,2", "a,b,1,1"))
    light = rate_games("league", *read_games(str(path)), RatingSection())
    heavy = rate_games("league", names, periods, games, RatingSection())
    assert heavy["table"]["deviation"] != light["table"]["deviation"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GAMES.replace("a,b,1,2", "a,b,1,-5"), "row 1 has weight -5"),
        (GAMES.replace("b,c,0.5", "b,c,"), "row 2 has score"),
        (GAMES.splitlines()[0] + "\n", "has no rows"),
        (GAMES.replace("2,c,a", "0,c,a"), "row 3 is of period 0"),
    ],
)
def test_bad_games_are_refused_by_row(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "league.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_games(str(path))


def test_ids_that_look_like_nothing_or_like_numbers_are_ids(tmp_path: Path) -> None:
    table = response_table(subjects=8, items=4)
    table.loc[table["subject"] == "model-001", "subject"] = "NA"
    table.to_csv(tmp_path / "exam.csv", index=False)
    assert "NA" in read_responses(str(tmp_path / "exam.csv"), DataSection()).responses.subjects
    rows = [{"subject": subject, "item": "q", "score": 1} for subject in (1, "1", 2)]
    pd.DataFrame(rows).to_json(tmp_path / "mixed.jsonl", orient="records", lines=True)
    with pytest.raises(DataError, match="row 2 repeats subject 1"):
        read_responses(str(tmp_path / "mixed.jsonl"), DataSection())


def test_names_with_dollar_signs_are_drawn(tmp_path: Path) -> None:
    table = response_table(subjects=30, items=6)
    table["item"] = table["item"].str.replace("item-00", r"$\frac{1}{$", regex=False)
    table.to_csv(tmp_path / "exam.csv", index=False)
    config = Config()
    result = calibrate("cost in $ and $", read_responses(str(tmp_path / "exam.csv"), config.data), config)
    for picture in (figures.difficulties(result, None), figures.item_curves(result), figures.wright_map(result)):
        assert picture.startswith(b"\x89PNG")


def test_converged_ratings_report_their_own_caps_and_who_still_moves(tmp_path: Path) -> None:
    path = save_games(tmp_path / "league.csv", players=8, rounds=2)
    capped = RatingSection(mode="converged", glicko2=Glicko2Options(max_rating_change=5.0))
    found = rate_games("league", *read_games(path), capped)
    assert found["passes"] == 100
    assert found["moving"]
    assert 0 < found["capped"]["rating change"] <= 16
    free = rate_games("league", *read_games(path), RatingSection(mode="converged"))
    assert free["passes"] < 100
    assert not free["moving"]
    assert free["capped"]["rating change"] == 0


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.reader": "ray-data"}, "ray-data reads CSV and Parquet by path"),
        (
            {"data.reader": "ray-data", "data.responses": ["/a/b.csv"], "uncertainty.standard_errors": "sandwich"},
            "shards have the cross-product only",
        ),
        ({"model.name": "3PL", "model.guessing": 0.25, "model.estimator": "nuts"}, "model.guessing"),
        ({"evaluation.models": ["a/m", "b/m"]}, "evaluation.models"),
        ({"ratings.glicko2.min_deviation": 600.0}, "min_deviation"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(overrides: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(Config, overrides=overrides)


def test_chess_mates_are_a_benchmark_of_their_own() -> None:
    section = Config().evaluation.model_copy(update={"benchmark": "chess-mates", "max_items": 9})
    rows = benchmark_rows(section, {})
    assert len(rows) == 9
    assert {row["rating"] for row in rows} == {0.0, 0.5, 1.0}
    assert np.all(np.diff([row["quantile"] for row in sorted(rows, key=lambda row: row["rating"])]) >= 0)
