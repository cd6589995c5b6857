"""Programs that a language model wrote, run where they can reach nothing of ours.

Each runs as nobody in its own namespaces (users, mounts, processes, network, shared memory, host name), on a read-only
root that holds the standard library and C libraries alone, with an empty working folder in memory, no environment, no
capability, limits on what it uses, and a list of allowed system calls (``sandbox_walls``, ``sandbox_filter``). Root is
not needed. It does not stop a fault of the kernel itself, nor what can be learnt from timing; and a machine that refuses
any part of it runs nothing.
"""

import atexit
import math
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayworks.core.errors import ConfigError, InfrastructureError
from rayworks.core.sandbox_launcher import PRINTED, REFUSED, REPLY, REQUEST, TROUBLED
from rayworks.core.sandbox_walls import Request

_PACKAGE_ROOT = Path(__file__).parents[2]
_START = (
    f"import sys; sys.path.append({str(_PACKAGE_ROOT)!r}); from rayworks.core.sandbox_launcher import run, serve\n"
    "sys.path.pop(); program = serve(); program and run(program)"
)
_COMMAND = [sys.executable, "-s", "-S", "-P", "-B", "-c", _START]
_FIX = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0; in a container "
    "--security-opt seccomp=unconfined) on Linux 5.12 or later, or leave out what runs programs"
)
_SLACK_SECONDS = 90.0
"""How much longer than the program the launcher may take before it counts as lost."""


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use."""

    seconds: float = 2.0
    """Of CPU, rounded up to whole seconds; the clock on the wall may show four times as much and two seconds."""
    memory_mebibytes: int = 256
    """Of address space, the interpreter's own (about 20) included; files in memory beyond it are counted below."""
    output_mebibytes: int = 16
    """Of output, and as much again of files in the working folder."""


def passes_tests(source: str, inputs: Sequence[str], outputs: Sequence[str], limits: Limits | None = None) -> bool:
    """Whether the Python program prints the expected tokens for every input; stops at the first that it does not.

    Raises:
        ValueError: there are no tests, or inputs and outputs differ in number.
        ConfigError, InfrastructureError: as ``run_program``.
    """
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs; give one output for each input")
    for given, expected in zip(inputs, outputs, strict=True):
        printed = run_program(source, given, limits)
        if printed is None or printed.split() != expected.split():
            return False
    return True


def run_program(source: str, given: str, limits: Limits | None = None) -> str | None:
    """What a Python program prints for the standard input ``given``; None if it fails or exceeds a limit.

    Raises:
        ConfigError: this machine refuses a part of the sandbox; nothing was run.
        InfrastructureError: the launcher was killed from outside, or the machine has too little left just now.
    """
    limits = limits or Limits()
    program, text = (part.encode(errors="replace") for part in (source, given))
    output = limits.output_mebibytes << 20
    if len(program) > output:
        return None
    request = Request(
        len(program),
        len(text),
        limits.memory_mebibytes << 20,
        output,
        math.ceil(limits.seconds),
        4 * limits.seconds + 2,
    )
    launcher = _Launcher.idle()
    try:
        printed = launcher.ask(request, program + text)
    except BaseException:
        launcher.end()
        raise
    launcher.release()
    if printed is None:
        return None
    return printed.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def check() -> None:
    """Raise the errors of ``run_program`` that say that this machine runs no programs, before any is there."""
    run_program("", "")


class _Launcher:
    """A warm ``sandbox_launcher``, of which a process has as many as it runs programs at once."""

    waiting: list["_Launcher"] = []
    _process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _COMMAND,
            bufsize=0,
            cwd="/",
            env={"PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @classmethod
    def idle(cls) -> "_Launcher":
        """One that waits, or a new one where none does or the one that did has died."""
        while True:
            try:
                launcher = cls.waiting.pop()
            except IndexError:
                return cls()
            if launcher._process.poll() is None:
                return launcher
            launcher.end()

    def release(self) -> None:
        """Let it wait for the next program."""
        self.waiting.append(self)

    def disown(self) -> None:
        """Close our ends of its pipes; another process waits for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.returncode = 0

    def end(self) -> None:
        """Kill it, and with it the program it runs."""
        self._process.kill()
        self._process.wait()
        self.disown()

    def ask(self, request: Request, program: bytes) -> bytes | None:
        """What the program printed, or None."""
        self._send(REQUEST.pack(*request) + program)
        kind, size = REPLY.unpack(self._receive(REPLY.size, request.wall_seconds + _SLACK_SECONDS))
        answer = self._receive(size, _SLACK_SECONDS)
        if kind == REFUSED:
            raise ConfigError(
                f"sandbox: this machine refuses {answer.decode()}, so no program of a model is run; {_FIX}"
            )
        if kind == TROUBLED:
            raise InfrastructureError(
                f"sandbox: this machine has too little left for {answer.decode()}; give it more memory or less to do, and "
                "repeat"
            )
        return answer if kind == PRINTED else None

    def _send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        rest = memoryview(message)
        try:
            while rest:
                rest = rest[os.write(self._process.stdin.fileno(), rest) :]
        except BrokenPipeError:
            return  # it has refused, which its reply explains

    def _receive(self, size: int, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, answer = self._process.stdout.fileno(), bytearray()
        while len(answer) < size:
            ready = select.select([descriptor], [], [], seconds)[0]
            part = os.read(descriptor, size - len(answer)) if ready else b""
            if not part:
                raise InfrastructureError(
                    "sandbox: its launcher was killed or hangs; give the node more memory and repeat"
                )
            answer += part
        return bytes(answer)


@atexit.register
def _end_all() -> None:
    while _Launcher.waiting:
        _Launcher.waiting.pop().end()


def _forget_all() -> None:
    """In a forked child: the launchers are the parent's."""
    for launcher in _Launcher.waiting:
        launcher.disown()
    _Launcher.waiting.clear()


os.register_at_fork(after_in_child=_forget_all)
