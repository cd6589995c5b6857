"""``.ci/run`` runs every stage, fails if one does, and ends with one line for the tests of all; with stand-ins."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAKE = '#!/bin/sh\necho "make $*" >> "$LOG"\ncase "$*" in *"$FAIL"*) exit 2 ;; esac\n'
PYTHON = f"""#!/bin/sh
case "$*" in *count_tests*) exec {sys.executable} "$@" ;; esac
echo "pytest $*" >> "$LOG"
for word; do case "$word" in --junitxml=*) file=${{word#*=}} ;; esac; done
case "$*" in *"$FAIL"*) failures=1 ;; *) failures=0 ;; esac
[ -n "$CRASH" ] || cat > "$file" <<END
<testsuites><testsuite tests="3" failures="$failures" errors="0" skipped="1" time="7.5">
<testcase classname="tests.one" name="slow" time="6.25"/><testcase classname="tests.one" name="quick" time="0.5"/>
</testsuite></testsuites>
END
exit $failures
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the script in a folder of stand-ins for make and pytest."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in ((tmp_path / "bin" / "make", MAKE), (tmp_path / ".venv" / "bin" / "python", PYTHON)):
        path.parent.mkdir(parents=True)
        path.write_text(text)
        path.chmod(0o755)

    def script(*stages: str, fail: str = "nothing", crash: str = "") -> subprocess.CompletedProcess[str]:
        variables = {"LOG": str(tmp_path / "log"), "FAIL": fail, "CRASH": crash}
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", **variables}
        command = [str(tmp_path / ".ci" / "run"), *stages]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return script


def called(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def test_all_stages_run_and_the_last_line_counts_both_test_runs(run: Run, tmp_path: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "4 passed, 2 skipped in 15.0s"
    assert [line for line in lines if line.startswith("== ")][:4] == [
        "== set-up",
        "== lint",
        "== unit and property tests",
        "== all other tests",
    ]
    assert lines[lines.index("== slowest tests") + 1] == "   6.2 s  tests.one::slow"
    assert len(called(tmp_path)) == 4
    assert "-n 2" in called(tmp_path)[2]
    assert "-n 2" not in called(tmp_path)[3]


@pytest.mark.parametrize(
    ("fail", "stage", "last"),
    [
        ("lint", "lint", "4 passed, 2 skipped in 15.0s"),
        ("-n 2", "unit and property tests", "1 failed, 3 passed, 2 skipped in 15.0s"),
        ("--ignore", "all other tests", "1 failed, 3 passed, 2 skipped in 15.0s"),
    ],
)
def test_a_stage_that_fails_fails_the_whole_and_the_others_still_run(
    run: Run, tmp_path: Path, fail: str, stage: str, last: str
) -> None:
    done = run(fail=fail)
    assert done.returncode != 0
    assert f"{stage}: failed" in done.stdout
    assert done.stdout.splitlines()[-1] == last
    assert len(called(tmp_path)) == 4


def test_without_an_environment_nothing_else_runs(run: Run, tmp_path: Path) -> None:
    assert run(fail="setup").returncode == 2
    assert len(called(tmp_path)) == 1


def test_a_test_run_that_breaks_off_is_an_error(run: Run) -> None:
    done = run("unit", "rest", crash="yes")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 passed, 2 errors in 0.0s"


def test_an_unknown_stage_is_refused(run: Run) -> None:
    done = run("everything")
    assert done.returncode == 2
    assert "set-up, lint, unit and rest" in done.stderr
