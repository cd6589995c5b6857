"""``.ci/set-up`` finds an interpreter, says where it stopped, and goes on from there; with stand-ins, without a network."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = (
    "bash",
    "sh",
    "env",
    "cat",
    "cksum",
    "grep",
    "tail",
    "head",
    "rm",
    "mkdir",
    "cp",
    "touch",
    "dirname",
    "basename",
)
STAND_IN = """#!/bin/sh
printf '%s %s\\n' "$(basename "$0")" "$*" | head -n 1 >> "$LOG"
[ -z "$FAIL" ] || case "$*" in *"$FAIL"*)
    echo "WARNING: Location 'x' is ignored: it is neither a file nor a directory."
    echo "No space left on device" >&2
    exit 1
esac
case "$*" in
    "-m venv "*|"venv "*) for last; do :; done; mkdir -p "$last/bin"; cp "$PYTHON_STAND_IN" "$last/bin/python" ;;
esac
"""
SetUp = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of three files, and a PATH that holds the tools of the script and no Python."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "set-up", tmp_path / ".ci")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    stand_in(tmp_path / "stand-in")
    return tmp_path


@pytest.fixture
def set_up(tree: Path) -> SetUp:
    def run(fail: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(tree / "bin"), "LOG": str(tree / "log"), "FAIL": fail}
        environment |= {"PYTHON_STAND_IN": str(tree / "stand-in"), **variables}
        (tree / "log").write_text("")
        return subprocess.run([tree / ".ci" / "set-up"], env=environment, capture_output=True, text=True, check=False)

    return run


def stand_in(path: Path, text: str = STAND_IN) -> None:
    path.write_text(text)
    path.chmod(0o755)


def called(tree: Path) -> list[str]:
    return (tree / "log").read_text().splitlines()


def test_the_first_interpreter_that_runs_is_taken(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "python3.11", "#!/bin/sh\necho 'python3.11: command not found' >&2\nexit 127\n")
    stand_in(tree / "bin" / "python3.12")
    stand_in(tree / "bin" / "python3")
    done = set_up()
    assert done.returncode == 0, done.stderr
    assert "python3.12 -m venv .venv" in called(tree)
    assert (tree / ".venv" / ".ready").exists()
    assert not done.stderr
    assert done.stdout.splitlines()[-1] == "set-up: done"


def test_without_an_interpreter_a_sentence_says_what_to_install(tree: Path, set_up: SetUp) -> None:
    done = set_up()
    assert done.returncode == 1
    assert "no CPython 3.11, 3.12 or 3.13 with its venv module: install one" in done.stderr
    named = set_up(PYTHON="/nowhere/python")
    assert "PYTHON=/nowhere/python" in named.stderr


def test_the_interpreter_that_is_named_wins(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "python3.11")
    stand_in(tree / "mine")
    assert set_up(PYTHON=str(tree / "mine")).returncode == 0
    assert "mine -m venv .venv" in called(tree)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("-r requirements.lock", "the packages of requirements.lock"),
        ("-e .", "this library"),
        ("fetch movielens-100k", "data: film ratings"),
    ],
)
def test_what_broke_off_goes_on_where_it_was(tree: Path, set_up: SetUp, broken: str, said: str) -> None:
    stand_in(tree / "bin" / "python3.13")
    first = set_up(fail=broken)
    assert first.returncode == 1
    assert f"set-up: stopped at: {said}" in first.stderr
    assert "No space left on device" in first.stderr
    assert "is ignored" not in first.stderr
    assert not (tree / ".venv" / ".ready").exists()
    before = called(tree)
    again = set_up()
    assert again.returncode == 0
    done_already = {line for line in before if broken not in line and "-c" not in line}
    assert "python3.13 -m venv .venv" in done_already
    assert not done_already & set(called(tree))
    assert any(broken in line for line in called(tree))


def test_a_half_made_environment_is_made_anew(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "python3.11")
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "left-over").touch()
    done = set_up()
    assert done.returncode == 0
    assert "making it anew" in done.stdout
    assert not (tree / ".venv" / "left-over").exists()
    (tree / ".venv" / "bin" / "python").unlink()
    assert "making it anew" in set_up().stdout


def test_a_changed_lock_is_installed_into_the_same_environment(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "python3.11")
    set_up()
    (tree / "requirements.lock").write_text("another==1\n")
    assert set_up().returncode == 0
    assert "python3.11 -m venv .venv" not in called(tree)
    assert "python -m pip install -qq --no-deps -r requirements.lock" in called(tree)


def test_a_torch_that_lacks_libraries_gets_them(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "python3.11")
    done = set_up(fail="import torch")
    assert "python -m pip install -qq --constraint requirements.lock torch" in called(tree)
    assert "stopped at: PyTorch" in done.stderr


def test_uv_is_used_where_it_exists(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "uv", STAND_IN.replace('"$*" | head', '"$* ($UV_FIND_LINKS)" | head'))
    done = set_up(PIP_FIND_LINKS="/wheels /more")
    assert done.returncode == 0, done.stderr
    installed = [line for line in called(tree) if line.startswith("uv ")]
    assert installed[0].startswith("uv venv")
    assert (
        "uv pip install --quiet --python .venv/bin/python --no-deps -r requirements.lock (/wheels,/more)" in installed
    )


def test_data_that_only_debian_carries_may_be_missing(tree: Path, set_up: SetUp) -> None:
    stand_in(tree / "bin" / "python3.11")
    done = set_up(fail="fetch ability")
    assert done.returncode == 0
    assert "goes on without ability" in done.stdout
    assert (tree / ".venv" / ".ready").exists()
