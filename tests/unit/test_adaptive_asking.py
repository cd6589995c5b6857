"""Adaptive tests of a user's function and of a language model, as a command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.difficulty.adaptive_asking import by_name, read_bank, rows_of_benchmark
from rayworks.systems.difficulty.answering_actors import scores_of_model
from rayworks.systems.difficulty.command import main
from rayworks.systems.difficulty.config import EvaluationSection
from rayworks.systems.difficulty.item_response.adaptive_loop import AdaptiveSession, Rules, run_test

DIFFICULTIES = np.linspace(-3, 3, 25)
ITEMS = [f"{n:02d}" for n in range(25)]


def solves_the_easy_ones(names: Sequence[str]) -> list[bool]:
    """Named on the command line."""
    return [DIFFICULTIES[int(name)] < 1.0 for name in names]


def wrong(names: Sequence[str]) -> Any:
    return None


def raises(names: Sequence[str]) -> Any:
    raise KeyError(names[0])


@pytest.fixture
def items(tmp_path: Path) -> Path:
    file = tmp_path / "items.csv"
    pd.DataFrame({"item": ITEMS, "difficulty": DIFFICULTIES}).to_csv(file, index=False)
    return file


def test_a_function_of_the_users_own_is_asked(items: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["ask", str(items), "--function", f"{__name__}:solves_the_easy_ones", "--error", "0", "--most", "20"]
    assert main([*command, "--among", "1", "--population-sd", "2"]) == 0
    told = capsys.readouterr()
    assert "after 20 of 25 items (the most items)" in told.err
    rows = [line.split(",") for line in told.out.splitlines()]
    assert rows[0] == ["item", "difficulty", "score", "ability", "standard_error"]
    assert all(float(score) == (float(difficulty) < 1.0) for _, difficulty, score, *_ in rows[1:])
    assert abs(float(rows[-1][3]) - 1.0) < 0.75
    # Items near the ability come first.
    assert np.mean([abs(float(row[1]) - 1) for row in rows[8:15]]) < np.mean([abs(value - 1) for value in DIFFICULTIES])
    output = tmp_path / "asked.csv"
    assert main([*command, "--output", str(output)]) == 0
    assert len(pd.read_csv(output)) == 20


def test_answers_that_are_no_scores_end_with_a_sentence(items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(items), "--function", f"{__name__}:wrong"]) == DataError.exit_code
    assert "return a number in [0, 1] for each item" in capsys.readouterr().err
    assert main(["ask", str(items), "--function", "nowhere"]) == ConfigError.exit_code
    assert "is no module:function" in capsys.readouterr().err
    assert main(["ask", str(items), "--function", "x:y", "--most", "0"]) == ConfigError.exit_code
    assert "most: is 0" in capsys.readouterr().err
    bank = read_bank(items)
    with pytest.raises(KeyError):
        run_test(AdaptiveSession(bank.parameters, Rules()), by_name(bank, raises))
    with pytest.raises(ConfigError, match="population_sd: is 0"):
        read_bank(items, 0.0)
    with pytest.raises(DataError, match="none of the bank's is known to whoever answers"):
        bank.only(["another"])
    with pytest.raises(DataError, match="items: none has an estimate of its own"):
        read_bank(pd.DataFrame({"item": ["a"], "difficulty": [1.0], "note": ["all or none solved it"]}))


def test_a_language_model_is_asked_through_its_engine(tiny_model: str) -> None:
    """A model of random weights on real prompts: its text is scored by the benchmark's scorer, and nothing is solved."""
    section = EvaluationSection(benchmark="chess-mates", max_new_tokens=4, slots=2, max_items=12)
    named = pd.DataFrame({"item": ["none"], "difficulty": [0.0]})
    names = list(rows_of_benchmark(read_bank(named), section))
    bank = read_bank(pd.DataFrame({"item": [*names, "elsewhere"], "difficulty": np.linspace(-1, 1, len(names) + 1)}))
    rows = rows_of_benchmark(bank, section)
    bank = bank.only(names)
    assert len(bank.names) == len(names)
    result = run_test(
        AdaptiveSession(bank.parameters, Rules(error=0, most=6, batch=3)),
        by_name(bank, scores_of_model(tiny_model, section, rows)),
    )
    assert len(result.asked) == 6
    assert {one.score for one in result.asked} == {0.0}
    assert result.ability < 0
