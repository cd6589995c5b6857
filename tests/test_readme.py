"""What the README and the documentation tell people to type is checked to exist and to be accepted."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.comparisons import COMPARISONS, SYSTEMS
from benchmarks.results import FOLDER
from benchmarks.table import BEGIN, END, SHOWN, full_table, is_met, short_table
from benchmarks.table import PAGES as TABLES
from cluster import local
from rayworks.systems.difficulty import command as difficulty_command
from serve import deploy

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_BY_OTHERS = {"library.md"}
"""Whose Python blocks tests/test_packaging.py runs."""


def commands() -> list[str]:
    """Each line of each shell block, with continuation lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL):
            joined = re.sub(r"\\\n\s*", " ", block)
            found += [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]
    return list(dict.fromkeys(found))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("command", commands())
def test_documented_command_is_accepted(command: str, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "export" or "=" in words[0]:
        return
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        listed = run("make", "help").stdout
        assert all(re.search(rf"^{target}\b", listed, re.MULTILINE) for target in targets), command
        parts = " ".join(words).partition("ARGS=")[2].split()
        assert all((ROOT / part).exists() for part in parts if part.startswith("tests")), command
        return
    if words[0] in ("git", "cd", "eval", "curl", "open"):
        check_other(words, command)
        return
    if "--" in words:
        assert words[:3] == ["ray", "job", "submit"], command
        words = words[words.index("--") + 1 :]
    if words[0] == "rayworks":
        # From beside the interpreter: a virtual environment need not be active.
        asked = words[1:3] if words[1] == "difficulty" and words[2] in difficulty_command.COMMANDS else words[1:2]
        done = run(str(Path(sys.executable).parent / "rayworks"), *asked, "--help")
        flags = [word for word in words[2:] if word.startswith("--")]
        assert done.returncode == 0 and all(flag in done.stdout for flag in flags), f"{command}\n{done.stderr}"
        return
    assert words[0].endswith("python") or words[0].endswith("tensorboard"), command
    if words[1:3] == ["-m", "jobs.run"] or words[1:3] == ["-m", "jobs.submit"]:
        given = [word for word in words[3:] if word not in ("--no-wait", "--print-config", "--dry-run")]
        done = run(sys.executable, "-m", "jobs.run", *given, "--run.storage", str(tmp_path), "--print-config")
    elif words[1:3] == ["-m", "jobs.sweep"]:
        given = [word for word in words[3:] if word != "--dry-run"]
        done = run(sys.executable, "-m", "jobs.sweep", *given, "--run.storage", str(tmp_path), "--dry-run")
    elif words[1] == "-m":
        done = run(sys.executable, "-m", words[2], "--help") if words[2] != "rayworks.lm.checkpoints" else run("true")
    else:
        return
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def check_other(words: list[str], command: str) -> None:
    if words[0] == "curl" and local.METRICS in command:
        return
    if words[0] == "curl":
        path = re.search(r":8000/([a-z]+)(/[A-Za-z0-9/$]*)", command)
        assert path, command
        api = importlib.import_module(f"serve.apps.{path.group(1)}").api
        known = {re.sub(r"\{[^}]*\}", "$ID", known) for known in api.openapi()["paths"]}
        assert path.group(2) in {*known, "/openapi.json"}, command
    if words[0] == "eval":
        assert run(sys.executable, "-m", "cluster.local", "--help").returncode == 0


def test_documented_serve_configs_are_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", "".join(page.read_text() for page in PAGES), re.DOTALL)
    configs = [block for block in blocks if "applications:" in block]
    assert configs
    for block in configs:
        (tmp_path / "my.yaml").write_text(block)
        assert deploy.load_config(tmp_path / "my.yaml")["applications"]


def test_the_first_screen_shows_the_two_commands() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "make demo" in screen
    assert "make test" in screen


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_benchmark_tables_are_the_stored_results() -> None:
    for page, made in zip(TABLES, (full_table(), short_table()), strict=True):
        assert page.read_text().partition(BEGIN)[2].partition(END)[0].strip() == made, "make bench writes it"


def test_every_stored_result_is_in_the_table() -> None:
    names = [name for names in SYSTEMS.values() for name in names]
    assert sorted(names) == sorted(path.stem for path in FOLDER.glob("*.json"))
    assert COMPARISONS.keys() <= set(names)
    lines = full_table().splitlines()
    for name in names:
        result = json.loads((FOLDER / f"{name}.json").read_text())
        compared = [part for line in COMPARISONS.get(name, ()) for part in (line.ours, line.peer, line.ratio)]
        assert {line.ratio for line in COMPARISONS.get(name, ())} - {""} <= set(result["rows"]), name
        assert result["repeats"].keys() == result["rows"].keys()
        for row in result["rows"]:
            alone = row.partition(" (goal")[0]
            assert row in compared or any(line.startswith(f"| {alone} |") for line in lines), row


def test_the_readme_shows_eight_results_and_a_missed_goal() -> None:
    lines = short_table().splitlines()[2:]
    assert len(lines) == len(SHOWN) == 8
    assert sum("**no**" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("row", "median", "met"),
    [
        ("times as fast (goal 20)", 19.9, False),
        ("times as fast (goal at least 20,000)", 20000, True),
        ("ms (goal < 30)", 30, False),
        ("ratio (goal <= 1.15)", 1.15, True),
        ("ratio (goal at most 1.3)", 1.31, False),
        ("ratio", 1, None),
    ],
)
def test_goals_are_read_as_they_are_written(row: str, median: float, met: bool | None) -> None:
    assert is_met(row, median) is met


def test_documented_tree_and_paths_exist() -> None:
    """What CONTRIBUTING's tree lists, and every path that a page names, but for placeholders in capitals."""
    tree = re.search(r"```text\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert tree
    named = [line.split()[0] for line in tree.group(1).splitlines()]
    top = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
    for page in PAGES:
        named += re.findall(rf"`((?:{top})/[A-Za-z0-9_./-]*)`", page.read_text())
    assert len(named) > 20
    for path in named:
        assert re.search(r"\b[A-Z]{3}", path) or (ROOT / path).exists(), path


def python_blocks() -> list[tuple[str, str]]:
    return [
        (page.name, block)
        for page in PAGES
        if page.name not in RUN_BY_OTHERS
        for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ]


@pytest.mark.parametrize(("page", "code"), python_blocks(), ids=[page for page, _ in python_blocks()])
def test_documented_python_runs(page: str, code: str) -> None:
    # Training on Ray takes half a minute; tests/integration/test_team_training.py does it with the same function.
    before_ray = code.partition("algorithm = config.build_algo()")[0]
    done = run(sys.executable, "-c", before_ray)
    assert done.returncode == 0, f"{page}\n{done.stderr}"


def test_figures_of_the_documentation_are_small() -> None:
    figures = sorted((ROOT / "docs" / "figures").iterdir())
    assert figures
    assert all(path.suffix == ".png" and path.stat().st_size < 200_000 for path in figures)
