import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.systems.difficulty.answering import code_execution
from rayworks.systems.difficulty.answering.code_execution import Limits, passes_tests, run_program

QUICK = Limits(seconds=1)


@pytest.fixture(params=["namespaces", "audit hook alone"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox as this machine allows it, and as on a machine that allows no namespaces."""
    if request.param == "audit hook alone":
        monkeypatch.setattr(code_execution, "_isolation", tuple)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=5))
def test_programs_compute(numbers: list[int]) -> None:
    given_text = " ".join(map(str, numbers))
    assert passes_tests("print(sum(map(int, input().split())))", [given_text], [f"  {sum(numbers)}\n\n"])
    assert not passes_tests("print(sum(map(int, input().split())))", [given_text], [str(sum(numbers) + 1)])


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nprint(sys.stdin.readline())",
        "print(open(0).read())",
        "if __name__ == '__main__':\n    print(input())\n    raise SystemExit",
        "import threading\nt = threading.Thread(target=lambda: print(input()))\nt.start(); t.join()",
        "import sys\nsys.setrecursionlimit(10**5)\ndef f(n):\n    return 0 if n == 0 else f(n - 1)\nf(900)\nprint(input())",
        "from collections import *; import bisect, heapq, itertools, math, functools, re, decimal\nprint(input())",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: str\nprint(A(input()).x)",
    ],
)
def test_what_honest_programs_do_is_allowed(isolation: None, source: str) -> None:
    assert passes_tests(source, ["word"], ["word"])


@pytest.mark.parametrize(
    "source",
    [
        "x = bytearray(1 << 30)",
        "x = []\nwhile True: x.append('a' * 1_000_000)",
        "import os\nwhile True: os.fork()",
        "import posix\nposix.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os, sys\nos.execv(sys.executable, ['python', '-c', 'print(1)'])",
        "import _posixsubprocess",
        "import ctypes",
        "import socket\nsocket.socket()",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1')",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.remove('main.py')",
        "open('file', 'w')",
        "import os\nos.open('file', os.O_CREAT | os.O_WRONLY)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
        "import os\nos.abort()",
        "while True: print('a' * 100_000)",
        "raise SystemExit(1)",
        "1 / 0",
        "print(",
        "print(1)\x00",
        "",
    ],
)
def test_hostile_and_broken_programs_fail_and_nothing_else_does(isolation: None, source: str) -> None:
    assert not passes_tests(source + "\nprint(input())" if source else "", ["word"], ["word"], QUICK)


@pytest.mark.parametrize("source", ["while True: pass", "import time\ntime.sleep(60)"])
def test_time_ends(isolation: None, source: str) -> None:
    assert run_program(source, "", Limits(seconds=0.5)) is None


def test_a_program_sees_nothing_of_ours_and_leaves_nothing(
    isolation: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET", "secret")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    printed = run_program("import os, sys\nprint(os.environ, os.listdir(), sys.argv, sys.path)", "")
    assert printed is not None and "main.py" in printed
    assert "secret" not in printed and "rayworks" not in printed
    assert list(tmp_path.iterdir()) == []


def test_tests_must_pair_up() -> None:
    for inputs, outputs in (([], []), (["1"], [])):
        with pytest.raises(ValueError, match="one output for each input"):
            passes_tests("print(1)", inputs, outputs)
