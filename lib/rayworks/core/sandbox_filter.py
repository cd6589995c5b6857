"""The system calls that one Python program needs, as a seccomp filter; every other call is refused.

A list of what is allowed, not of what is forbidden: no new process, socket, memfd, shared segment, device, link,
namespace, signal to another, tracing or change of identity, and nothing that a later kernel adds. x86-64 only.
"""

import struct

MACHINE = "x86_64"
_ARCHITECTURE = 0xC000003E
_ALLOWED = (
    *range(16),  # read write open close stat fstat lstat poll lseek mmap mprotect munmap brk, signal handlers
    *(
        17,
        18,
        19,
        20,
        21,
        22,
        23,
        24,
        25,
        28,
        32,
        33,
        34,
        35,
        36,
        37,
        38,
        39,
        40,
    ),  # pread ... access, pipe, select, dup
    *(60, 63, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 87, 89),  # exit, uname, flock, files of its own folder
    *(95, 96, 97, 98, 99, 100, 102, 104, 107, 108, 110, 111, 115, 127, 128, 130, 131),  # umask, times, ids, signals
    *(137, 138, 186, 201, 202, 204, 217, 218, 219, 228, 229, 230, 231, 234),  # statfs, gettid, futex, clocks, tgkill
    *(257, 258, 262, 263, 264, 267, 269, 270, 271, 273, 274, 292, 293, 302, 309, 316, 318),  # openat ... getrandom
    *(324, 332, 334, 436, 439),  # membarrier, statx, rseq, close_range, faccessat2
)
_ALLOWED_WITH = {
    56: (0, (0x3D0F00, 0x7D0F00)),  # clone: a thread, as glibc and musl make one
    72: (1, (0, 1, 2, 3, 4, 1030)),  # fcntl: duplicates and flags, not the size of a pipe nor signals
    16: (1, (0x5401, 0x5413, 0x5421, 0x5450, 0x5451, 0x541B)),  # ioctl: is it a terminal, blocking, close on exec
}
"""Calls allowed for some values of one argument: its index and those values."""
_CLONE3 = 435
"""Its flags lie in memory, where a filter cannot look; C libraries fall back to clone when it does not exist."""

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NOT_PERMITTED, _NOT_IMPLEMENTED = 1, 38
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


def compiled() -> bytes:
    """The filter as an array of ``struct sock_filter``."""
    steps = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, _ARCHITECTURE, otherwise=-1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    for call, (index, values) in _ALLOWED_WITH.items():
        steps += [
            _step(_EQUAL, call, otherwise=2 * len(values) + 2),
            _step(_LOAD, _ARGUMENTS_AT + 8 * index),
            *_allow(values),
            _step(_RETURN, _ERROR | _NOT_PERMITTED),
        ]
    steps += _allow(_ALLOWED)
    steps += [
        _step(_EQUAL, _CLONE3, otherwise=1),
        _step(_RETURN, _ERROR | _NOT_IMPLEMENTED),
        _step(_RETURN, _ERROR | _NOT_PERMITTED),
    ]
    return b"".join(steps)


def _allow(values: tuple[int, ...]) -> list[bytes]:
    return [step for value in values for step in (_step(_EQUAL, value, otherwise=1), _step(_RETURN, _ALLOW))]


def _step(code: int, operand: int, otherwise: int = 0) -> bytes:
    """One instruction; a comparison that fails skips ``otherwise`` ones, and with -1 one that holds skips one."""
    return struct.pack("=HBBI", code, int(otherwise < 0), max(otherwise, 0), operand)
