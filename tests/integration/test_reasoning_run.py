"""A run of reasoning on a real cluster: what must not depend on where it is searched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayworks.systems.reasoning.search import records
from tests import smallest
from tests.conftest import FinishedRun

SEARCH_ALONE = {
    "learning.rounds": "1",
    "learning.arms": "[]",
    "head.steps": "0",
    "task.count_validation": "0",
    "task.count_test": "0",
}


@pytest.mark.slow  # a run of its own, with engines of its own
def test_trees_do_not_depend_on_the_engines_that_draw_them(
    finished_runs: Callable[[str], FinishedRun], run_job: Callable[..., object], tmp_path: Path
) -> None:
    straight = finished_runs("reasoning")
    changes = {**SEARCH_ALONE, "model.replicas": "2", "critics.replicas": "2", "search.open_trees": "12"}
    words = [word for name, value in changes.items() for word in (f"--{name}", value)]
    storage = ("--run.storage", str(tmp_path), "--run.name", "replicas")
    done = run_job("reasoning", *smallest.reasoning(tmp_path), *words, *storage)
    assert done.returncode == 0, done.stderr
    first, second = (
        json.loads((folder / "report.json").read_text())["details"]["hashes"]["0"]
        for folder in (straight.directory, tmp_path / "reasoning" / "replicas")
    )
    assert first == second and len(first) == 24
    headline = json.loads((tmp_path / "reasoning/replicas/report.json").read_text())["headline"]
    assert headline["trees_per_second"] > 0 and headline["greedy_before"] is None


def test_trees_and_pairs_lie_open_in_the_run(finished_runs: Callable[[str], FinishedRun]) -> None:
    directory = finished_runs("reasoning").directory
    trees = [
        tree
        for file in sorted(directory.glob("trees/round-0/*.jsonl"))
        for tree in records.read(file.read_text(), file.name)
    ]
    assert len(trees) == 24 and all(tree["nodes"][0]["visits"] == tree["simulations"] for tree in trees)
    pairs = [json.loads(line) for line in (directory / "pairs/round-0.jsonl").read_text().splitlines()]
    assert {pair["uid"] for pair in pairs} <= {tree["uid"] for tree in trees}
    assert "</html>" in (directory / "trees/index.html").read_text()
    assert not list(directory.glob("trees/**/*.journal")) and not list(directory.glob("arms/*/*/states"))
