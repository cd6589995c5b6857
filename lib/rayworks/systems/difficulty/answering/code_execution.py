"""Programs that a language model wrote, run against tests in a sandboxed subprocess.

The child has its own network and process namespaces where the kernel allows it, an empty environment, a temporary
working folder, limits on CPU seconds, memory and output, and an audit hook that refuses sockets, processes and
changes to files. That holds off accidents and idle mischief; against a determined attacker run the job in a container.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use."""

    seconds: float = 2.0
    """Of CPU, rounded up to whole seconds; the clock on the wall may show four times as much and two seconds."""
    memory_mebibytes: int = 256
    """Of address space, the interpreter's own (about 20) included."""
    output_mebibytes: int = 16


def passes_tests(source: str, inputs: Sequence[str], outputs: Sequence[str], limits: Limits | None = None) -> bool:
    """Whether the Python program prints the expected tokens for every input; stops at the first that it does not.

    Raises:
        ValueError: there are no tests, or inputs and outputs differ in number.
    """
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs; give one output for each input")
    for given, expected in zip(inputs, outputs, strict=True):
        printed = run_program(source, given, limits)
        if printed is None or printed.split() != expected.split():
            return False
    return True


def run_program(source: str, given: str, limits: Limits | None = None) -> str | None:
    """What a Python program prints for the standard input ``given``; None if it fails or exceeds a limit."""
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        files = {name: Path(folder, name) for name in ("input", "output", "runner.py", "work")}
        files["work"].mkdir()
        files["input"].write_text(given, encoding="utf-8", errors="replace")
        program = files["work"] / "main.py"
        program.write_text(source, encoding="utf-8", errors="replace")
        files["runner.py"].write_text(_RUNNER)
        command = [*_isolation(), sys.executable, "-I", "-S", "-B", str(files["runner.py"]), json.dumps(asdict(limits))]
        with files["input"].open("rb") as read, files["output"].open("wb") as written:
            child = subprocess.Popen(
                command,
                cwd=files["work"],
                env={},
                stdin=read,
                stdout=written,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                returned = child.wait(timeout=4 * limits.seconds + 2)
            except subprocess.TimeoutExpired:
                returned = -1
            finally:
                _end(child)
        return files["output"].read_text(encoding="utf-8", errors="replace") if returned == 0 else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started; a namespace of processes dies with its first."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


@functools.cache
def _isolation() -> tuple[str, ...]:
    """The command before the command that gives it its own network and processes, as far as this machine allows."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    alone = (unshare, "--net", "--pid", "--fork", "--kill-child")
    for command in (alone, (*alone, "--user", "--map-root-user")):
        tried = subprocess.run([*command, sys.executable, "-I", "-S", "-c", ""], capture_output=True, check=False)
        if tried.returncode == 0:
            return command
    return ()


_RUNNER = """\
import json, math, os, resource, sys

def confine(limits):
    processor = math.ceil(limits["seconds"])
    memory, output = limits["memory_mebibytes"] << 20, limits["output_mebibytes"] << 20
    for what, bound in (
        (resource.RLIMIT_CPU, processor),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (bound, bound))
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    modules = frozenset({"ctypes", "_ctypes", "_posixsubprocess"})
    refused = (
        "socket.", "subprocess.", "shutil.", "ctypes.", "signal.", "os.exec", "os.fork", "os.kill", "os.spawn",
        "os.posix_spawn", "os.system", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown",
        "os.link", "os.symlink", "os.truncate", "os.utime", "os.putenv", "resource.setrlimit", "resource.prlimit",
        "pty.", "tempfile.", "fcntl.", "sys.addaudithook",
    )

    def watch(event, arguments):
        if event == "open":
            path, _, flags = arguments
            wrong = not isinstance(path, int) and bool((flags or 0) & writing)
        elif event == "import":
            wrong = arguments[0] in modules
        else:
            wrong = event.startswith(refused)
        if wrong:
            raise PermissionError(event)

    sys.addaudithook(watch)

with open("main.py", encoding="utf-8") as file:
    text = file.read()
confine(json.loads(sys.argv[1]))
del sys.argv[1:]
exec(compile(text, "main.py", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
"""
