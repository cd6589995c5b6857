"""The walls around one program: a root of its own, no rights, limits, and a filter of system calls.

Called by a process that is the first of its new namespaces (see ``sandbox_launcher``). Each step raises OSError where
the machine refuses it, and none is skipped.
"""

import ctypes
import functools
import os
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rayworks.core import sandbox_filter

NOBODY = 65534
WORK = "/work"
INPUT = "/dev/stdin"
_PLACE = "/proc"
"""Where the new root is built: a folder that every Linux has and that no Python lies in."""
_PACKAGES = ("site-packages", "dist-packages")
_THREADS, _OPEN_FILES, _FILES_IN_WORK = 64, 64, 256

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
_DETACH = 2
_READ_ONLY, _NO_SETUID, _NO_DEVICES = 0x1, 0x2, 0x4
_HERE, _EVERY_MOUNT = -100, 0x8000
_PIVOT_ROOT, _CAPSET, _SECCOMP, _MOUNT_SETATTR = 155, 126, 317, 442
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITIES_VERSION = 0x20080522

libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class Request(NamedTuple):
    """What a launcher is asked: sizes in bytes of what follows the request, and the limits of the run."""

    source: int
    given: int
    memory: int
    output: int
    processor_seconds: int
    wall_seconds: float


def raise_walls(request: Request) -> None:
    """Move into the new root, its input read from descriptor 0, and become nobody; the limits come last of all.

    Raises:
        OSError: the machine refuses a step; ``filename`` names it.
    """
    _build_root(request)
    _become_nobody()
    Path(os.__file__).open("rb").close()  # or every import of the program would fail, and look like its fault


def lock(request: Request) -> None:
    """Give up all rights for good, set the limits and the filter of system calls.

    Raises:
        OSError: the machine refuses a step.
    """
    _set_limits(request)
    libc_call("no new privileges", libc.prctl, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    filter_ = sandbox_filter.compiled()
    array = ctypes.create_string_buffer(filter_, len(filter_))
    program = _FilterProgram(len(filter_) // 8, ctypes.addressof(array))
    system_call("seccomp", _SECCOMP, 1, 0, ctypes.byref(program))


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]


def system_call(step: str, number: int, *arguments: object) -> int:
    """One system call.

    Raises:
        OSError: it failed; ``step`` says at what.
    """
    return libc_call(step, libc.syscall, ctypes.c_long(number), *arguments)


def libc_call(step: str, function: object, *arguments: object) -> int:
    """One call of the C library; raises OSError as ``system_call`` does."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    returned = int(function(*wide))  # type: ignore[operator]  # a function of ctypes has no type
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), step)
    return returned


@functools.cache
def view() -> tuple[list[Path], list[Path]]:
    """The folders of this machine that the program sees, and those within them that it does not.

    It sees the standard library and the C libraries that it loads, and no installed packages.
    """
    base = Path(sys.base_prefix)
    libraries = [*map(Path, ("/lib", "/lib64", "/usr/lib", "/usr/lib64")), base / "lib", base / sys.platlibdir]
    shown: list[Path] = []
    for path in [*libraries, *map(Path, sys.path), Path("/usr/share/zoneinfo")]:
        if path.is_dir() and not any(path == other or other in path.parents for other in shown):
            shown.append(path)
    standard = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    packages = [parent / name for parent in (*standard, Path("/usr/lib/python3")) for name in _PACKAGES]
    return shown, [path for path in packages if path.is_dir()]


def _build_root(request: Request) -> None:
    _mount("private mounts", None, "/", None, _MS_REC | _MS_PRIVATE)
    shown, hidden = view()
    room = request.source + request.given + (1 << 20)
    _mount("tmpfs", "tmpfs", _PLACE, "tmpfs", _MS_NOSUID, f"size={room},mode=755")
    os.chdir(_PLACE)
    for path in shown:
        inside = f".{path}"
        if path.is_symlink() and path.parent == Path("/"):
            Path(inside).symlink_to(path.readlink())
        else:
            Path(inside).mkdir(parents=True)
            _mount(f"bind of {path}", str(path), inside, None, _MS_BIND | _MS_REC)
    for path in hidden:
        _mount(f"cover of {path}", "tmpfs", f".{path}", "tmpfs", _MS_NOSUID, "size=4k,mode=755")
    for folder in ("./dev", f".{WORK}"):
        Path(folder).mkdir()
    for device in ("/dev/null", "/dev/urandom"):
        Path(f".{device}").touch()
    with Path(f".{INPUT}").open("wb", buffering=0) as file:
        for part in parts(0, request.given):
            file.write(part)
    Path(f".{INPUT}").chmod(0o444)
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY | _NO_SETUID | _NO_DEVICES, 0, 0, 0)
    system_call("mount_setattr", _MOUNT_SETATTR, _HERE, b".", _EVERY_MOUNT, ctypes.byref(attributes), 32)
    for device in ("/dev/null", "/dev/urandom"):
        _mount(f"bind of {device}", device, f".{device}", None, _MS_BIND)
    options = f"size={request.output},nr_inodes={_FILES_IN_WORK},mode=700,uid={NOBODY},gid={NOBODY}"
    _mount("tmpfs", "tmpfs", f".{WORK}", "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    system_call("pivot_root", _PIVOT_ROOT, b".", b".")
    libc_call("umount", libc.umount2, b".", _DETACH)
    libc_call("sethostname", libc.sethostname, b"sandbox", 7)
    os.chdir(WORK)


def _mount(step: str, source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    libc_call(step, libc.mount, *texts[:3], flags, texts[3])


def _become_nobody() -> None:
    """Leave the user, the group and every capability; only then ask to die with the launcher, which a change undoes."""
    if os.getuid() != NOBODY:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
    last = 0
    while last < 64 and libc.prctl(_PR_CAPBSET_DROP, ctypes.c_long(last), 0, 0, 0) == 0:
        last += 1
    if os.getuid() != NOBODY:
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
    system_call("capset", _CAPSET, ctypes.byref(header), ctypes.byref(none))
    os.setsid()
    libc_call("death with the launcher", libc.prctl, _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _set_limits(request: Request) -> None:
    for what, bound in (
        (resource.RLIMIT_AS, request.memory),
        (resource.RLIMIT_CPU, request.processor_seconds),
        (resource.RLIMIT_FSIZE, request.output + 1),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_NPROC, _THREADS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (bound, bound))


def parts(descriptor: int, size: int) -> Iterator[bytes]:
    """``size`` bytes of a pipe as they come.

    Raises:
        EOFError: it ends before.
    """
    while size:
        part = os.read(descriptor, min(size, 1 << 16))
        if not part:
            raise EOFError("the request ends early")
        yield part
        size -= len(part)
