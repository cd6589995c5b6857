"""What the README and the documentation tell people to type is checked to exist and to be accepted."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import FOLDER, table
from benchmarks.run import BEGIN, BENCHMARKS, END

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
        return
    if words[0] in ("git", "cd", "eval", "curl", "open"):
        check_other(words, command)
        return
    if "--" in words:
        assert words[:3] == ["ray", "job", "submit"], command
        words = words[words.index("--") + 1 :]
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
    if words[0] == "curl":
        path = re.search(r":8000/([a-z]+)(/[A-Za-z0-9/$]*)", command)
        assert path, command
        api = importlib.import_module(f"serve.apps.{path.group(1)}").api
        known = {re.sub(r"\{[^}]*\}", "$ID", known) for known in api.openapi()["paths"]}
        assert path.group(2) in {*known, "/openapi.json"}, command
    if words[0] == "eval":
        assert run(sys.executable, "-m", "cluster.local", "--help").returncode == 0


def test_the_first_screen_shows_the_two_commands() -> None:
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "make demo" in screen
    assert "make test" in screen


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_benchmark_table_is_the_stored_one() -> None:
    for name in BENCHMARKS:
        assert json.loads((FOLDER / f"{name}.json").read_text())["rows"], name
    text = (ROOT / "README.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table().strip(), "make bench writes it"


def test_documented_trees_exist() -> None:
    """Every path in the README's tree of folders is there."""
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    for line in tree.group(1).splitlines():
        path = line.split()[0] if line.strip() else ""
        if path.endswith("/") or path.endswith(".py"):
            assert (ROOT / path).exists(), path
