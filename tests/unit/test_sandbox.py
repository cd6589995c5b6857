import errno
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayworks.core import sandbox
from rayworks.core.errors import ConfigError, InfrastructureError
from rayworks.core.sandbox import Limits, passes_tests, run_program
from rayworks.systems.difficulty.config import Config
from rayworks.systems.difficulty.system import DifficultySystem

QUICK = Limits(seconds=1)
MEBIBYTE = 1 << 20


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
        "print(open('/dev/stdin').read())",
        "import os\nprint(os.read(0, 100).decode())",
        "if __name__ == '__main__':\n    print(input())\n    raise SystemExit",
        "import sys\nprint(input())\nsys.exit(0)",
        "import sys\nsys.stdout.write(input())\nsys.stdout.flush()\nimport os\nos._exit(0)",
        "import threading\nt = threading.Thread(target=lambda: print(input()))\nt.start(); t.join()",
        "import threading\nthreading.stack_size(1 << 26)\nt = threading.Thread(target=lambda: print(input()))\nt.start()",
        "from concurrent.futures import ThreadPoolExecutor as P\nprint(*P(8).map(str, [input()]))",
        "import sys\nsys.setrecursionlimit(10**5)\ndef f(n):\n    return 0 if n == 0 else f(n - 1)\nf(900)\nprint(input())",
        "def f(n):\n    return f(n + 1)\ntry:\n    f(0)\nexcept RecursionError:\n    print(input())",
        "from collections import *; import bisect, heapq, itertools, math, functools, re, decimal\nprint(input())",
        "import fractions, random, string, json, datetime, statistics, zlib, bz2, lzma, hashlib, sqlite3\nprint(input())",
        "from datetime import datetime\nfrom zoneinfo import ZoneInfo\ndatetime.now(ZoneInfo('UTC'))\nprint(input())",
        "import random\nassert random.random() != random.random()\nprint(input())",
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: str\nprint(A(input()).x)",
        "import pickle\nclass A: pass\na = A()\na.x = input()\nprint(pickle.loads(pickle.dumps(a)).x)",
        "import atexit\natexit.register(lambda: print(input()))",
        "open('file', 'w').write(input())\nprint(open('file').read())",
        "import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write(input()); f.seek(0); print(f.read())",
        "import os\nopen(os.devnull, 'w').write('gone')\nprint(input())",
        "import time\ntime.sleep(0.01)\nprint(input())",
        "import sys\nprint('noise', file=sys.stderr)\nprint(input())",
        "from resource import *\nsetrlimit(RLIMIT_STACK, (1 << 23, getrlimit(RLIMIT_STACK)[1]))\nprint(input())",
        "# π ≠ 3\nnaïve = input()\nprint(naïve)",
    ],
)
def test_what_honest_programs_do_is_allowed(source: str) -> None:
    assert passes_tests(source, ["word"], ["word"])


@pytest.mark.parametrize(
    "source",
    [
        "x = bytearray(1 << 30)",
        "x = []\nwhile True: x.append('a' * 1_000_000)",
        "while True: print('a' * 100_000)",
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import signal\nfor s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()",
        "import os\nos.abort()",
        "import ctypes\nctypes.string_at(0)",
        "import sys\nsys.exit('words')",
        "raise SystemExit(1)",
        "raise KeyboardInterrupt",
        "1 / 0",
        "print(",
        "print(1)\x00",
        "import numpy",
        "import os\nos.close(1)",
        "",
    ],
)
def test_broken_and_greedy_programs_fail(source: str) -> None:
    assert not passes_tests(source + "\nprint(input())" if source else "", ["word"], ["word"], QUICK)


def test_output_and_working_folder_are_bounded() -> None:
    limits = Limits(seconds=5, output_mebibytes=1)
    most = run_program(f"import sys\nsys.stdout.write('a' * {MEBIBYTE})", "", limits)
    assert most is not None and len(most) == MEBIBYTE
    assert run_program(f"import sys\nsys.stdout.write('a' * {MEBIBYTE + 1})", "", limits) is None
    assert run_program("import os\nos.ftruncate(1, 1 << 40)", "", limits) is None
    assert run_program("#" * (MEBIBYTE + 1), "", limits) is None


def test_a_program_leaves_nothing_for_the_next() -> None:
    first = run_program("import builtins\nbuiltins.left = 1\nopen('left', 'w').write('left behind')", "left input")
    assert first == ""
    source = """
import builtins, ctypes, os
words = [hasattr(builtins, 'left'), os.path.exists('left')]
print(words, repr(input()))
"""
    assert run_program(source, "new") == "[False, False] 'new'\n"


def test_sets_have_the_same_order_whoever_launches() -> None:
    printed = set()
    for _ in range(2):
        printed |= {run_program("print(set('abcdefgh'), hash('x'))", "") for _ in range(2)}
        sandbox._end_all()
    assert len(printed) == 1 and None not in printed


@pytest.mark.parametrize("text", ["π ≠ 3 🙂", "a\x00b", "", "\ud800", "a\r\nb\rc", "x" * (20 * MEBIBYTE)])
def test_any_text_goes_in_and_out(text: str) -> None:
    source = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[-100:])"
    expected = text.encode(errors="replace").decode().replace("\r\n", "\n").replace("\r", "\n")[-100:]
    assert run_program(source, text, Limits(seconds=5)) == expected


def test_many_threads_of_ours_run_programs_at_once() -> None:
    with ThreadPoolExecutor(4) as threads:
        printed = list(threads.map(lambda n: run_program("print(int(input()) ** 2)", str(n)), range(40)))
    assert printed == [f"{n * n}\n" for n in range(40)]


@pytest.fixture
def launched_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A sandbox without warm launchers, before and after."""
    sandbox._end_all()
    yield monkeypatch
    sandbox._end_all()


def test_a_launcher_that_is_killed_is_replaced(launched_by: pytest.MonkeyPatch) -> None:
    assert run_program("print(1)", "") == "1\n"
    waiting = sandbox._Launcher.waiting[-1]
    waiting._process.kill()
    waiting._process.wait()
    assert run_program("print(2)", "") == "2\n"
    launched_by.setattr(sandbox, "_COMMAND", ["/bin/false"])
    sandbox._end_all()
    with pytest.raises(InfrastructureError, match="launcher was killed"):
        run_program("print(1)", "")


WITHOUT_NAMESPACES = [
    *("unshare", "--user", "--map-root-user"),
    *("sh", "-c", 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh"),
]


def test_a_machine_without_namespaces_runs_nothing(launched_by: pytest.MonkeyPatch) -> None:
    launched_by.setattr(sandbox, "_COMMAND", [*WITHOUT_NAMESPACES, *sandbox._COMMAND])
    with pytest.raises(ConfigError, match=r"refuses namespaces: .*allow user namespaces"):
        passes_tests("print(1)", [""], ["1"])
    assert sandbox._Launcher.waiting == []


@pytest.mark.parametrize(
    "settings_",
    [
        {"evaluation": {"models": ["smollm2-135m-instruct"], "benchmark": "codeforces"}},
        {"generalisation": {"enabled": True, "source": "codeforces"}},
    ],
)
def test_a_run_that_needs_the_sandbox_is_refused_before_it_starts(
    launched_by: pytest.MonkeyPatch, settings_: dict[str, Any]
) -> None:
    launched_by.setattr(sandbox, "_COMMAND", [*WITHOUT_NAMESPACES, *sandbox._COMMAND])
    with pytest.raises(ConfigError, match="sandbox: this machine refuses namespaces"):
        DifficultySystem.check_inputs(Config.model_validate(settings_))


REFUSE = """
import ctypes, os, struct, sys
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (6, 0, 0, {answer}), (6, 0, 0, 0x7fff0000)]
array = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(array)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A filter that the launcher inherits, as a container's would, answers one system call."""
KILLED = 0x80000000


def answering(number: int, answer: int) -> list[str]:
    refuse = REFUSE.format(number=number, answer=answer)
    return [sys.executable, "-S", "-c", refuse, *sandbox._COMMAND]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (56, "namespaces"),
        (165, "private mounts"),
        (442, "mount_setattr"),
        (155, "pivot_root"),
        (126, "capset"),
        (317, "seccomp"),
    ],
)
def test_a_machine_that_allows_only_part_of_it_runs_nothing(
    launched_by: pytest.MonkeyPatch, number: int, name: str
) -> None:
    launched_by.setattr(sandbox, "_COMMAND", answering(number, 0x50000 + errno.EPERM))
    with pytest.raises(ConfigError, match=rf"sandbox: this machine refuses {name}: Operation not permitted"):
        run_program("print(1)", "")


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [
        *[(56, 0x50000 + number, "namespaces: ") for number in (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC)],
        (165, 0x50000 + errno.ENOMEM, "private mounts: Cannot allocate memory"),
        (155, KILLED, "walls: ended or not up after"),
    ],
)
def test_a_machine_that_has_too_little_left_just_now_may_be_asked_again(
    launched_by: pytest.MonkeyPatch, number: int, answer: int, words: str
) -> None:
    launched_by.setattr(sandbox, "_COMMAND", answering(number, answer))
    with pytest.raises(InfrastructureError, match=f"too little left for {words}"):
        run_program("print(1)", "")


def test_tests_must_pair_up() -> None:
    for inputs, outputs in (([], []), (["1"], [])):
        with pytest.raises(ValueError, match="one output for each input"):
            passes_tests("print(1)", inputs, outputs)
