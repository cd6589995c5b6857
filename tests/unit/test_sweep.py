"""What a sweep's YAML means, and what is made of its trials."""

import csv
import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from rayworks.core.errors import ConfigError
from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Dimension, Sweep, SweepConfig, TrialResult, read_sweep
from rayworks.core.sweep_report import PARALLEL, PARETO, best_first, pareto_front, summarise, sweep_report, trials_csv
from tests.counting_system import SPEC

GRID: dict[str, Any] = {
    "base": {"run": {"name": "grid"}},
    "space": {"counting.to": {"grid": [2, 3]}, "counting.at": {"grid": [0, 1]}},
    "seeds": [0, 1],
    "metric": "total",
    "mode": "max",
}


def sweep_of(folder: Path, settings: dict[str, Any], **options: Any) -> Sweep[Any]:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(settings))
    return read_sweep(SPEC, file, **options)


def test_a_grid_is_all_combinations_times_the_seeds(tmp_path: Path) -> None:
    trials = sweep_of(tmp_path, GRID, overrides={"counting.pause_seconds": 0.25}).trials()
    assert len(trials) == 8 == sweep_of(tmp_path, GRID).planned
    assert [trial.name for trial in trials[:3]] == ["0000-seed-0", "0000-seed-1", "0001-seed-0"]
    assert {(trial.config.counting.to, trial.config.counting.at) for trial in trials} == {
        (2, 0),
        (2, 1),
        (3, 0),
        (3, 1),
    }
    assert [trial.config.run.seed for trial in trials[:2]] == [0, 1]
    assert trials[0].config.run.name == "grid.0000-seed-0"
    assert trials[0].config.counting.pause_seconds == 0.25


def test_a_smoke_sweep_is_the_smaller_one_that_the_file_names(tmp_path: Path) -> None:
    smaller = {"seeds": [5], "base": {"run": {"name": "little"}}, "space": {"counting.at": {"grid": [1]}}}
    both = {**GRID, "smoke": smaller}
    assert sweep_of(tmp_path, both).planned == 8
    little = sweep_of(tmp_path, both, smoke=True)
    assert [(trial.seed, dict(trial.values)) for trial in little.trials()] == [
        (5, {"counting.to": 2, "counting.at": 1}),
        (5, {"counting.to": 3, "counting.at": 1}),
    ]
    assert little.base.run.name == "little"
    with pytest.raises(ConfigError, match="seed"):
        sweep_of(tmp_path, {**GRID, "smoke": {"seed": [5]}}, smoke=True)


def test_random_designs_are_reproducible_and_a_longer_draw_begins_with_the_shorter(tmp_path: Path) -> None:
    space = {
        "counting.to": {"randint": [2, 5]},
        "counting.pause_seconds": {"loguniform": [0.001, 0.1]},
        "counting.at": {"choice": [0, 1]},
    }
    random = {"space": space, "search": "random", "metric": "total", "samples": 40}
    assert sweep_of(tmp_path, random | {"samples": 40, "seeds": [3, 4, 5]}).planned == 120
    longer, shorter = (sweep_of(tmp_path, random | {"samples": samples}).trials() for samples in (40, 7))
    assert [trial.values for trial in longer[:7]] == [trial.values for trial in shorter]
    assert {trial.values["counting.to"] for trial in longer} == {2, 3, 4, 5}
    other = sweep_of(tmp_path, random, overrides={"run.seed": 5}).trials()
    assert other[0].values != longer[0].values


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-3, 10), st.floats(0.01, 10))
def test_draws_stay_between_the_ends(uniform: float, low: float, width: float) -> None:
    for kind in ("uniform", "loguniform"):
        found = Dimension(**{kind: (low, low + width)}).at(uniform)
        assert low * (1 - 1e-12) <= found <= (low + width) * (1 + 1e-12)
    assert Dimension(randint=(2, 4)).at(uniform) in (2, 3, 4)
    assert Dimension(choice=["a", "b"]).at(uniform) in "ab"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space": {"counting.too": {"grid": [1]}}}, "counting.too: unknown field"),
        ({"space": {"counting.to": {"grid": [4, 0]}}}, "counting.to: input should be greater than or equal to 1"),
        ({"space": {"counting.to": {"grid": [1], "choice": [1]}}}, "exactly one of"),
        ({"space": {"counting.to": {}}}, "exactly one of"),
        ({"space": {"counting.to": {"values": [1]}}}, "unknown field"),
        ({"space": {"counting.to": {"randint": [1, 9]}}}, "a range has no grid"),
        ({"space": {"counting.to": {"uniform": [2, 1]}}}, "give the smaller number first"),
        ({"space": {"counting.to": {"loguniform": [0, 1]}}}, "has no logarithm"),
        ({"space": {}}, "space"),
        ({"space": {"run.seed": {"grid": [1, 2]}}}, "use seeds"),
        ({"metric": "accuracy"}, "'accuracy' is not a headline number of counting; one of count, total"),
        ({"metric": ["count", "total"]}, "give min or max for each"),
        ({"mode": "most"}, "mode"),
        ({"search": "random"}, "samples: needs a number of designs"),
        ({"samples": 3}, "samples: is not for a grid"),
        ({"seeds": [1, 1]}, "holds a seed twice"),
        ({"trials": 3}, "trials: unknown field"),
        ({"base": {"counting": {"too": 1}}}, "counting.too: unknown field"),
        (
            {"search": "optuna", "samples": 2, "space": {"counting.to": {"randint": [0, 4]}}},
            "counting.to: input should be greater",
        ),
    ],
)
def test_a_sweep_that_can_not_run_is_refused_by_field(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        sweep_of(tmp_path, GRID | change)


def test_an_option_that_the_sweep_varies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--counting\.to: the sweep varies it"):
        sweep_of(tmp_path, GRID, overrides={"counting.to": 3})


def test_optuna_that_is_missing_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rayworks.runtime.sweep import run_sweep

    monkeypatch.setitem(sys.modules, "optuna", None)
    settings = {"search": "optuna", "samples": 2, "space": {"counting.to": {"randint": [1, 4]}}}
    options = {"run.storage": str(tmp_path)}
    assert run_sweep(sweep_of(tmp_path, GRID | settings, overrides=options)) == 2
    assert "pip install 'rayworks[sweep]'" in capsys.readouterr().err


def test_a_learning_search_hears_the_mean_over_seeds_and_survives_a_restart(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    from rayworks.runtime.sweep_search import DesignSearch

    class Inner(Searcher):
        heard: list[Any] = []

        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"counting.to": 2 + len(self.heard), "counting.at": 0}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self.heard.append((trial_id, result, error))

        def save(self, checkpoint_path: str) -> None:
            """Its state is the class's."""

        def restore(self, checkpoint_path: str) -> None:
            """Its state is the class's."""

    sweep = sweep_of(tmp_path, GRID | {"search": "optuna", "samples": 3})
    written: list[str] = []
    directory = RunDirectory(str(tmp_path), "counting", "grid")
    search = DesignSearch(sweep, directory, lambda _, trial: written.append(trial.name), Inner())
    first = search.suggest("a")
    assert first == {"storage": str(tmp_path), "sweep": "grid", "trial": "0000-seed-0"}
    search.save(str(tmp_path / "state"))
    again = DesignSearch(sweep, directory, lambda _, trial: written.append(trial.name), Inner())
    again.restore(str(tmp_path / "state"))
    assert (again.suggest("b") or {})["trial"] == "0000-seed-1"
    again.on_trial_complete("a", {"total": 3.0})
    assert not Inner.heard
    again.on_trial_complete("b", {"total": 5.0})
    assert Inner.heard == [("design-0", {"total": 4.0}, False)]
    again.suggest("c")
    again.suggest("d")
    again.on_trial_complete("c", error=True)
    again.on_trial_complete("d", error=True)
    assert Inner.heard[1] == ("design-1", None, True)


def test_a_learning_search_takes_up_designs_begun_after_its_last_save(tmp_path: Path) -> None:
    from ray.tune.search import Searcher

    from rayworks.runtime.sweep import write_design
    from rayworks.runtime.sweep_search import DesignSearch

    class Inner(Searcher):
        """Never gives the same design twice."""

        asked = 1
        heard: list[str] = []

        def suggest(self, trial_id: str) -> dict[str, Any]:
            type(self).asked += 1
            return {"counting.to": self.asked}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self.heard.append(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """Its state is the class's."""

        def restore(self, checkpoint_path: str) -> None:
            """Its state is the class's."""

    space = {"counting.to": {"randint": [1, 99]}}
    sweep = sweep_of(tmp_path, GRID | {"search": "optuna", "samples": 3, "space": space, "seeds": [0]})
    directory = RunDirectory(str(tmp_path), "counting", "grid")
    cut_off = DesignSearch(sweep, directory, write_design, Inner())
    cut_off.suggest("a")
    again = DesignSearch(sweep, directory, write_design, Inner())
    assert [(again.suggest(trial) or {})["trial"] for trial in ("b", "c")] == ["0000-seed-0", "0001-seed-0"]
    designs = [directory.read_json(f"trials/{index:04d}-seed-0/design.json")["values"] for index in (0, 1)]
    assert designs == [{"counting.to": 2}, {"counting.to": 3}]
    again.on_trial_complete("b", {"total": 3.0})
    again.on_trial_complete("c", {"total": 3.0})
    assert Inner.heard == ["design-1"]


def result(design: int, seed: int, to: int, count: float | None, total: float = 0) -> TrialResult:
    report = None if count is None else {"headline": {"count": count, "total": total}}
    values = {"counting.to": to, "counting.at": design}
    failure = "" if report else "data: item 2: is poison; drop it"
    return TrialResult(f"{design:04d}-seed-{seed}", design, seed, values, "there", report, failure)


TRIALS = [
    result(0, 0, 2, 1.0, 9.0),
    result(0, 1, 2, 3.0, 9.0),
    result(1, 0, 3, 4.0, 1.0),
    result(1, 1, 3, None),
    result(2, 0, 4, None),
    result(3, 0, 5, 1.0, 1.0),
]


def test_designs_are_means_over_their_finished_seeds() -> None:
    designs = summarise(TRIALS)
    assert [design.finished for design in designs] == [2, 1, 0, 1]
    assert designs[0].means == {"count": 2.0, "total": 9.0}
    assert designs[0].deviations["count"] == pytest.approx(2**0.5)
    assert [design.index for design in best_first(designs, "count", "max")] == [1, 0, 3, 2]
    assert [design.index for design in best_first(designs, "count", "min")] == [3, 0, 1, 2]
    assert [design.index for design in pareto_front(designs, ["count", "total"], ["max", "max"])] == [0, 1]
    assert [design.index for design in pareto_front(designs, ["count", "total"], ["min", "min"])] == [3]


def test_the_report_and_its_csv_hold_every_trial(tmp_path: Path) -> None:
    SweepConfig.model_validate(GRID)
    sweep = sweep_of(tmp_path, GRID | {"metric": ["count", "total"], "mode": ["max", "max"]})
    report = sweep_report(sweep, TRIALS)
    assert report.headline == {
        "trials": 6,
        "finished": 4,
        "best_design": "counting.to=3, counting.at=1",
        "best_count": 4.0,
        "total_of_best_design": 1.0,
    }
    assert set(report.figures) == {PARALLEL, PARETO}
    assert [table.title for table in report.tables] == ["Designs", "Trials", "Trials that did not finish"]
    assert len(report.tables[1].rows) == 6
    rows = list(csv.DictReader(io.StringIO(trials_csv(sweep, TRIALS))))
    assert rows[0]["counting.to"] == "2"
    assert rows[3]["failure"].startswith("data: ")
    assert sweep_report(sweep, TRIALS[3:5]).headline["best_design"] is None


def test_the_process_wide_generators_follow_the_seed_alone() -> None:
    from rayworks.runtime.checkpoints import seed_random_state

    def draws(seed: int) -> list[float]:
        seed_random_state(seed)
        return [random.random(), float(np.random.random()), float(torch.rand(()))]

    first = draws(1)
    assert draws(2) != first
    assert draws(1) == first
