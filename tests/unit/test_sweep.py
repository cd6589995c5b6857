"""What a sweep's YAML means, and what is made of its trials."""

import csv
import io
import json
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.search import Searcher

from rayworks.core import manifest
from rayworks.core.errors import ConfigError
from rayworks.core.registry import find
from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Dimension, Halving, Sweep, SweepConfig, TrialResult, read_sweep
from rayworks.core.sweep_report import PARALLEL, PARETO, best_first, pareto_front, summarise, sweep_report, trials_csv
from rayworks.runtime import launch, placement
from rayworks.runtime import sweep as sweeps
from rayworks.runtime.sweep import run_sweep, write_design
from rayworks.runtime.sweep_halving import ResumedHalving
from rayworks.runtime.sweep_search import DesignSearch
from rayworks.runtime.sweep_trial import trial_directory
from rayworks.runtime.system import scalars
from rayworks.systems import REGISTRY
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


def test_trials_lack_what_the_base_has_removed(tmp_path: Path) -> None:
    settings = {
        "base": {"run": {"name": "one"}, "objectives": {"brevity": {"beta": 0.2}}},
        "space": {"training.learning_rate": {"grid": [0.001, 0.01]}},
        "metric": "pair_accuracy",
        "mode": "max",
        "smoke": {"base": {"objectives": {"brevity": None}}},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(settings))
    sweep = read_sweep(find(REGISTRY, "alignment"), file, smoke=True)
    assert [list(one.config.objectives) for one in sweep.trials()] == [["sentiment"]] * 2


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
    monkeypatch.setitem(sys.modules, "optuna", None)
    settings = {"search": "optuna", "samples": 2, "space": {"counting.to": {"randint": [1, 4]}}}
    options = {"run.storage": str(tmp_path)}
    assert run_sweep(sweep_of(tmp_path, GRID | settings, overrides=options)) == 2
    assert "pip install 'rayworks[sweep]'" in capsys.readouterr().err


def test_a_sweep_that_is_told_to_end_leaves_a_record_of_it_and_of_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sweep_of(tmp_path, GRID, overrides={"run.storage": str(tmp_path / "runs")})

    def told_to_end(sweep: Sweep[Any], directory: RunDirectory) -> None:
        for trial, ended in zip(sweep.trials(), (True, False), strict=False):
            run = trial_directory(directory, trial.name)
            attempt = manifest.begin_attempt(run, SPEC.name, trial.config)
            if ended:
                manifest.end_attempt(run, attempt, "done")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(launch, "attach", lambda reserved: None)
    monkeypatch.setattr(placement, "require", lambda *arguments: None)
    monkeypatch.setattr(sweeps, "_fit_until_settled", told_to_end)
    assert run_sweep(asked) == 75
    directory = RunDirectory(str(tmp_path / "runs"), SPEC.name, "grid")
    stored = directory.read_json("sweep.json")
    assert (stored["state"], stored["reason"]) == (
        "failed",
        "SIGTERM asked for the end; repeat the command to go on",
    )
    ends = [directory.read_json(f"trials/{name}/manifest.json") for name in directory.list("trials")]
    assert [(end["state"], end["attempts"][-1]["outcome"]) for end in ends] == [("done", "done"), ("failed", "failed")]


class Inner(Searcher):
    """Never gives the same design twice, and minds what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []
        self.asked = 0

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.asked += 1
        return {"counting.to": 1 + self.asked + 10 * len(self.heard)}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.heard.append((trial_id, result, error))

    def save(self, checkpoint_path: str) -> None:
        raise NotImplementedError

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError


@pytest.fixture
def learning(tmp_path: Path) -> Sweep[Any]:
    space = {"counting.to": {"randint": [1, 99]}}
    return sweep_of(tmp_path, GRID | {"search": "optuna", "samples": 3, "space": space})


def begin(sweep: Sweep[Any], directory: RunDirectory, *ended: TrialResult) -> tuple[DesignSearch, Inner]:
    inner = Inner()
    return DesignSearch(sweep, directory, write_design, ended, inner), inner


def test_a_learning_search_hears_the_mean_over_seeds(tmp_path: Path, learning: Sweep[Any]) -> None:
    directory = RunDirectory(str(tmp_path), "counting", "grid")
    search, inner = begin(learning, directory)
    assert search.suggest("a") == {"storage": str(tmp_path), "sweep": "grid", "trial": "0000-seed-0"}
    assert (search.suggest("b") or {})["trial"] == "0000-seed-1"
    search.on_trial_complete("a", {"total": 3.0})
    assert not inner.heard
    search.on_trial_complete("b", {"total": 5.0})
    assert inner.heard == [("design-0", {"total": 4.0}, False)]
    for trial in "cd":
        name = (search.suggest(trial) or {})["trial"]
        search.on_trial_complete(trial, error=True)
        assert len(inner.heard) == 1, "what infrastructure stopped goes on later"
        directory.write_json(f"trials/{name}/failure.json", {"kind": "data", "message": "is poison"})
    search, inner = begin(learning, directory, result(0, 0, 2, 1, 3.0), result(0, 1, 2, 1, 5.0))
    for trial in "cd":
        assert len(inner.heard) == 1
        search.suggest(trial)
        search.on_trial_complete(trial, error=True)
    assert inner.heard[1] == ("design-1", {"total": 4.0}, False), "no better than the worst"


def test_a_learning_search_stands_after_any_death_where_it_stood(tmp_path: Path, learning: Sweep[Any]) -> None:
    steps = [
        ("suggest", "a"),
        ("suggest", "b"),
        ("suggest", "c"),
        ("end", "b"),
        ("end", "a"),
        ("suggest", "d"),
        ("end", "d"),
    ]
    steps += [("end", "c"), ("suggest", "e"), ("suggest", "f"), ("end", "f"), ("end", "e")]
    scores = dict(zip("abcdef", (1.0, 5.0, None, 2.0, 9.0, 4.0), strict=True))

    def run(directory: RunDirectory, deaths: set[int]) -> tuple[list[Any], list[Any]]:
        search, inner = begin(learning, directory)
        named: dict[str, str] = {}
        ended: list[TrialResult] = []
        for at, (what, trial) in enumerate(steps):
            if at in deaths:
                search, inner = begin(learning, directory, *ended)
                for waiting in [one for one in named if named[one] not in {each.name for each in ended}]:
                    assert (search.suggest(waiting) or {})["trial"] == named[waiting]
            if what == "suggest":
                named[trial] = (search.suggest(trial) or {})["trial"]
            else:
                design, seed = int(named[trial][:4]), int(named[trial][-1])
                ended.append(result(design, seed, 0, 1, scores[trial]))
                search.on_trial_complete(trial, scalars({"total": scores[trial]}))
        designs = [directory.read_json(f"trials/{index:04d}-seed-0/design.json")["values"] for index in range(3)]
        return inner.heard, designs

    undisturbed = run(RunDirectory(str(tmp_path), "counting", "undisturbed"), set())
    assert len(undisturbed[0]) == 3
    for at in range(len(steps)):
        assert run(RunDirectory(str(tmp_path), "counting", f"died-{at}"), {at}) == undisturbed, at
    assert run(RunDirectory(str(tmp_path), "counting", "died"), set(range(len(steps)))) == undisturbed


def test_a_refused_design_is_told_once_and_is_no_trial(tmp_path: Path, learning: Sweep[Any]) -> None:
    directory = RunDirectory(str(tmp_path), "counting", "grid")
    search, inner = begin(learning, directory)
    inner.asked = -3
    assert (search.suggest("a") or {})["trial"] == "0001-seed-0", "-1 is too few"
    assert inner.heard == [("design-0", None, True)]
    again, other = begin(learning, directory)
    assert other.heard == inner.heard
    assert (again.suggest("a") or {})["trial"] == "0001-seed-0"


def test_halving_goes_on_with_what_earlier_attempts_reached(tmp_path: Path) -> None:
    directory = RunDirectory(str(tmp_path), "counting", "grid")
    settings = Halving(metric="progress", mode="max", time="count", first=1, reduction=2, last=100)

    def line(progress: float, count: int) -> str:
        return json.dumps({"training_iteration": count, "count": count, "progress": progress}) + "\n"

    def trial(name: str) -> Any:
        return SimpleNamespace(trial_id=f"id-of-{name}", config={"trial": name})

    for name, progress in (("0000-seed-0", 0.5), ("0001-seed-0", 0.7)):
        directory.write(f"tune/{name}/result.json", line(progress, 1) + '{"count": 2, "pro')
    behind, ahead = ResumedHalving(settings, directory, ["0000-seed-0"]), ResumedHalving(settings, directory, [])
    known = trial("0001-seed-0")
    behind.on_trial_add(None, known)
    assert behind.on_trial_result(None, known, {"count": 1, "progress": 0.0}) == "CONTINUE", "is decided already"
    for name, halving, decision in (("0002-seed-0", ahead, "CONTINUE"), ("0003-seed-0", behind, "STOP")):
        halving.on_trial_add(None, trial(name))
        assert halving.on_trial_result(None, trial(name), {"count": 1, "progress": 0.2}) == decision
        assert directory.exists(f"trials/{name}/stopped.json") == (decision == "STOP")
    assert directory.read_json("trials/0003-seed-0/stopped.json") == {"why": "count 1, progress 0.2"}


def result(design: int, seed: int, to: int, count: float | None, total: float | None = 0) -> TrialResult:
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
