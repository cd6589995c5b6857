"""The process between us and the programs: bare, it forks one walled-in child per program and outlives them all.

It never holds what a program is or prints: the child reads the request from our pipe and writes into a memory file that
the kernel copies to our other pipe. So a child finds nothing of an earlier one in its memory. Nothing of ours is
inherited by the launcher, and only descriptors 0 to 2 by a program.
"""

import ctypes
import errno
import os
import platform
import select
import signal
import struct
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from rayworks.core import sandbox_filter, sandbox_walls
from rayworks.core.sandbox_walls import NOBODY, Request

REQUEST = struct.Struct("=QQQQQd")
REPLY = struct.Struct("=cQ")
PRINTED, FAILED, REFUSED, TROUBLED = b"p", b"f", b"r", b"t"
"""Kinds of reply; the second field is the length of the output or of the reason that follows."""
_PASSING = {errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.ESRCH, errno.EPIPE}
"""What a machine answers that has too little left just now; the last two where a child was killed for its memory."""
_READY = b"ready"
_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""Of mounts, control groups, host name, shared memory, users, processes and network."""
_CLONE = 56
_SECONDS_FOR_WALLS = 60


def serve() -> dict[str, Any] | None:
    """Answer requests until their pipe closes; in a child, return the program to run as ``code`` and ``module``."""
    while True:
        try:
            header = b"".join(sandbox_walls.parts(0, REQUEST.size))
        except EOFError:
            return None
        if (sys.platform, platform.machine()) != ("linux", sandbox_filter.MACHINE):
            _end(REFUSED, f"{sys.platform} on {platform.machine()}: only linux on {sandbox_filter.MACHINE} is known")
        sandbox_walls.view()
        request = Request(*REQUEST.unpack(header))
        output = os.memfd_create("output")
        status, written = os.pipe()
        go, gone = os.pipe()
        try:
            child = _clone()
        except OSError as error:
            _end(_kind(error), f"{error.filename}: {error.strerror}")
        if child == 0:
            os.close(status)
            os.close(gone)
            return _enter(request, output, written, go)
        os.close(written)
        os.close(go)
        _attend(request, child, output, status, gone)
        for descriptor in (output, status):
            os.close(descriptor)


def run(program: dict[str, Any]) -> None:
    """Run the program as the main module of this process; its exceptions are the interpreter's to report."""
    sys.modules["__main__"] = program["module"]
    exec(program["code"](), program["module"].__dict__)


def _clone() -> int:
    """Fork into new namespaces; 0 in the child."""
    flags = ctypes.c_long(_NAMESPACES | signal.SIGCHLD)
    return sandbox_walls.system_call("namespaces", _CLONE, flags, 0, 0, 0, 0)


def _attend(request: Request, child: int, output: int, status: int, gone: int) -> None:
    """Map the child's users, wait for its end or its deadline or ours, and answer."""
    try:
        _map_users(child)
        os.write(gone, b"1")
    except OSError as error:
        os.kill(child, signal.SIGKILL)
        _end(_kind(error), f"user map: {error.strerror}")
    finally:
        os.close(gone)
    ended = os.pidfd_open(child)
    watched = select.poll()
    watched.register(ended, select.POLLIN)
    watched.register(0, 0)  # closed by whoever asks: they are gone, or tired of waiting
    reason = _read_all(status, time.monotonic() + _SECONDS_FOR_WALLS)
    over = reason == _READY and watched.poll(request.wall_seconds * 1000)
    os.kill(child, signal.SIGKILL)
    os.close(ended)
    _, code = os.waitpid(child, 0)
    if reason != _READY:
        text = reason[1:].decode(errors="replace") or f"walls: ended or not up after {_SECONDS_FOR_WALLS} seconds"
        _end(reason[:1] or TROUBLED, text)
    size = os.fstat(output).st_size
    if not over or code != 0 or size > request.output:
        os.write(1, REPLY.pack(FAILED, 0))
        return
    os.write(1, REPLY.pack(PRINTED, size))
    sent = 0
    while sent < size:
        sent += os.sendfile(1, output, sent, size - sent)


def _read_all(descriptor: int, deadline: float) -> bytes:
    """What a pipe says until it closes, or until the deadline."""
    text = b""
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        part = os.read(descriptor, 1024)
        if not part:
            break
        text += part
    return text


def _kind(error: BaseException) -> bytes:
    """Whether this machine refuses for good, or has too little left just now."""
    number = getattr(error, "errno", None)
    passing = number in _PASSING and not (number == errno.ENOSPC and _allows_none())
    return TROUBLED if passing or isinstance(error, MemoryError) else REFUSED


def _allows_none() -> bool:
    """Whether it never gives the namespaces of some kind, which it words as if there were too many."""
    return any(bound.read_text().strip() == "0" for bound in Path("/proc/sys/user").glob("max_*_namespaces"))


def _end(kind: bytes, reason: str) -> NoReturn:
    """Answer that no program is held, and end: what is left of the request was not read."""
    text = reason.encode()
    os.write(1, REPLY.pack(kind, len(text)) + text)
    os._exit(0)


def _map_users(child: int) -> None:
    """Nobody inside is this user outside; for root, nobody inside is nobody outside, and root only builds the walls."""
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        users = groups = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
    else:
        users, groups = f"{NOBODY} {user} 1\n", f"{NOBODY} {group} 1\n"
        _write(f"/proc/{child}/setgroups", "deny")
    _write(f"/proc/{child}/uid_map", users)
    _write(f"/proc/{child}/gid_map", groups)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _enter(request: Request, output: int, status: int, go: int) -> dict[str, Any]:
    """In the child: raise the walls, say so, and return what to run."""
    try:
        if os.read(go, 1) != b"1":
            raise EOFError("the launcher ended")
        source = b"".join(sandbox_walls.parts(0, request.source))
        sandbox_walls.raise_walls(request)
        with open("main.py", "wb") as file:  # noqa: PTH123  # pathlib would be one more import
            file.write(source)
        os.dup2(output, 1)
        os.dup2(os.open(sandbox_walls.INPUT, os.O_RDONLY), 0)
        os.closerange(3, status)
        os.closerange(status + 1, 1 << 20)
        program = _program(source)
        sandbox_walls.lock(request)
    except Exception as error:
        step, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        os.write(status, _kind(error) + f"{step or 'walls'}: {reason or repr(error)}".encode())
        os._exit(1)
    os.write(status, _READY)
    os.close(status)
    return program


def _program(source: bytes) -> dict[str, Any]:
    """The main module with fresh standard streams, and what compiles its code."""
    os.environ.clear()
    sys.argv[:] = ["main.py"]
    streams = {"encoding": "utf-8", "errors": "surrogateescape", "closefd": False}
    # Both stay open as long as the program runs; typeshed has no dunder streams that can be set.
    sys.stdin = sys.__stdin__ = open(0, **streams)  # type: ignore[misc,call-overload]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", **streams)  # type: ignore[misc,call-overload]  # noqa: SIM115
    return {
        "module": ModuleType("__main__"),
        "code": lambda: compile(source.decode(errors="replace"), "main.py", "exec"),
    }
