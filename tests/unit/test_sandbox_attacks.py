import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rayworks.core import sandbox
from rayworks.core.sandbox import Limits, passes_tests, run_program

QUICK = Limits(seconds=1)
PACKAGE = Path(sandbox.__file__).parents[1]
_SANDBOX = [f"core/{path.name}" for path in (PACKAGE / "core").glob("sandbox*.py")]


BY_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.mark.parametrize(
    "attack",
    [
        "import os\nos.fork()",
        "import posix\nposix.fork()",
        "import subprocess\nsubprocess.run(['/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2', '--help'], check=True)",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import os, sys\nos.execv(sys.executable, ['python', '-c', 'print(1)'])",
        "import os\nif os.system('true'): raise OSError",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        BY_LIBC + "assert libc.syscall(56, 17, 0, 0, 0, 0) >= 0",  # clone of a process
        BY_LIBC + "assert libc.syscall(435, bytes(88), 88) >= 0",  # clone3
        BY_LIBC + "assert libc.vfork() >= 0",
        "import socket\nsocket.socket()",
        "import socket\nsocket.socketpair()",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1')",
        BY_LIBC + "assert libc.socket(1, 1, 0) >= 0",
        "import os\nos.kill(1, 9)",
        "import os\nos.kill(os.getppid(), 9)",
        "import os\nos.kill(-1, 9)",
        "import os\nos.killpg(0, 9)",
        BY_LIBC + "assert libc.tgkill(1, 2, 9) == 0",
        BY_LIBC + "assert libc.ptrace(16, 1, 0, 0) == 0",
        BY_LIBC + "assert libc.process_vm_readv(1, None, 0, None, 0, 0) >= 0",
        "import os\nos.mknod('device', 0o20666, os.makedev(1, 1))",
        "import os\nos.mknod('plain')",
        "import os\nos.mkfifo('pipe')",
        "import os\nos.symlink('/etc/shadow', 'link')",
        "import os\nos.link('/dev/stdin', 'link')",
        "import os\nos.memfd_create('held')",
        "from multiprocessing.shared_memory import SharedMemory\nSharedMemory(create=True, size=4096)",
        BY_LIBC + "assert libc.shmget(0, 4096, 0o1600) >= 0",
        BY_LIBC + "assert libc.unshare(0x10000000) == 0",
        BY_LIBC + "assert libc.mount(b'none', b'/work', b'tmpfs', 0, None) == 0",
        BY_LIBC + "assert libc.umount2(b'/work', 2) == 0",
        BY_LIBC + "assert libc.prctl(38, 0, 0, 0, 0) == 0",
        BY_LIBC + "assert libc.syscall(425, 8, bytes(120)) >= 0",  # io_uring_setup
        BY_LIBC + "assert libc.syscall(321, 0, bytes(64), 64) >= 0",  # bpf
        "import os\nos.setuid(0)",
        "import os\nos.setsid()",
        "import os\nos.chroot('/work')",
        "import os\nos.chmod('main.py', 0o4755)",
        "import fcntl, os\nfcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
        "import os\nwhile True: os.pipe()",
        "with open('file', 'wb') as f:\n    while True: f.write(bytes(1 << 20))",
        "import os\nfor n in range(1000): os.mkdir(str(n))",
        "for n in range(10): open(str(n), 'wb').write(bytes(4 << 20))",
        *(
            f"open({path!r}, 'a')"
            for path in ("/file", "/dev/stdin", "/dev/shm/file", "/lib/file", "/tmp/file", "/etc/file", "/usr/lib/file")
        ),
        *(
            f"open({path!r})"
            for path in ("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/environ", "/sys/kernel/notes")
        ),
        *(
            f"import os\nassert os.listdir({path!r})"
            for path in ("/tmp", "/home", "/etc", "/proc", "/sys", "/bin", "/run")
        ),
    ],
)
def test_attacks_are_refused_by_the_kernel(attack: str) -> None:
    """Each alone; the program goes on."""
    source = (
        f"REFUSED = OSError, AssertionError, ValueError\ntry:\n{_indented(attack)}\nexcept REFUSED:\n    print(input())"
    )
    assert passes_tests(source, ["refused"], ["refused"], QUICK)


def test_a_system_call_of_another_architecture_kills() -> None:
    code = "b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'"  # mov eax, 20; int 0x80; ret: getpid as on i386
    source = (
        f"import ctypes, mmap\npage = mmap.mmap(-1, 4096, prot=7)\npage.write({code})\n"
        "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\nctypes.CFUNCTYPE(ctypes.c_int)(at)()\nprint('ran')"
    )
    assert run_program(source, "", QUICK) is None


def test_nothing_outside_can_be_written_or_read_whatever_python_is_made_to_forget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    token = home / ".rayworks/cluster/token"
    token.parent.mkdir(parents=True)
    token.write_text("the token")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SECRET", "the secret")
    tmp_path.chmod(0o777)
    source = f"""
import ctypes, gc, os, sys
for item in gc.get_objects():  # what held the audit hook of a sandbox in Python
    if isinstance(item, set) and "socket." in item:
        item.clear()
libc = ctypes.CDLL(None)
def tried(path):
    names = [path.encode(), b"/work/../.." + path.encode(), b"/dev/../" + path.encode()]
    return [libc.open(name, flags, 0o666) for name in names for flags in (0, os.O_CREAT | os.O_RDWR)]
opened = tried({str(token)!r}) + tried({str(tmp_path / "written")!r}) + tried("/root/written") + tried("/etc/shadow")
print([descriptor for descriptor in opened if descriptor >= 0])
print(os.listdir("/root") if os.path.exists("/root") else [])
print(os.environ, os.uname().nodename, os.getuid(), os.getppid())
"""
    printed = run_program(source, "")
    assert printed is not None
    opened, root, rest = printed.splitlines()
    own_python = Path(sys.base_prefix).parts
    assert opened == "[]"
    assert set(eval(root)) <= ({own_python[2]} if own_python[1] == "root" else set())
    assert rest == "environ({}) sandbox 65534 0"
    assert list(tmp_path.iterdir()) == [home]


def test_no_descriptor_is_inherited() -> None:
    inherited = [os.dup(descriptor) for descriptor in os.pipe() for _ in range(20)]
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)
    source = """
import os
found = []
for descriptor in range(1000):
    try:
        os.fstat(descriptor)
        found.append(descriptor)
    except OSError:
        pass
print(found)
"""
    try:
        assert passes_tests(source, [""], ["[0, 1, 2]"])
    finally:
        for descriptor in inherited:
            os.close(descriptor)


def test_memory_is_bounded_however_it_is_held() -> None:
    """Mapped and shared memory, files in memory and pipes together; 600 MiB are never there."""
    source = """
import mmap, os
held, total = [], 0
def hold(make):
    global total
    while True:
        try: held.append(make()); total += 1 << 20
        except (OSError, MemoryError, ValueError): return
def shared():
    m = mmap.mmap(-1, 1 << 20); m.write(bytes(1 << 20)); return m
def file():
    f = os.open(str(len(held)), os.O_CREAT | os.O_RDWR)
    if os.write(f, b"a" * (1 << 20)) < 1 << 20: raise OSError
    return os.close(f)
hold(lambda: os.memfd_create("held")); hold(file); hold(shared)
held.clear()
print(total >> 20)
"""
    printed = run_program(source, "", Limits(seconds=5, memory_mebibytes=128, output_mebibytes=8))
    assert printed is not None and 20 <= int(printed) <= 128 + 8


def _processes_of(parent: int) -> set[int]:
    """Descendants of a process, from /proc."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, added = set(), {parent}
    while added:
        added = {child for child, of in parents.items() if of in added}
        found |= added
    return found


def _wait_until_gone(processes: set[int]) -> None:
    while any(Path(f"/proc/{process}").exists() for process in processes):
        time.sleep(0.02)


def test_a_program_dies_with_us_and_with_the_launcher() -> None:
    """Nothing that it may ignore keeps it alive when we are killed."""
    ours = (
        "from rayworks.core.sandbox import *\n"
        "run_program('import signal\\nfor s in range(1, 32):\\n    try: signal.signal(s, signal.SIG_IGN)\\n'"
        "    '    except OSError: pass\\nimport time\\nwhile True: time.sleep(9)', '', Limits(seconds=1000))"
    )
    for victim in ("ours", "launcher"):
        process = subprocess.Popen([sys.executable, "-c", ours], env={"PYTHONPATH": os.pathsep.join(sys.path)})
        while len(started := _processes_of(process.pid)) < 2:
            time.sleep(0.02)
        launcher = min(started, key=lambda pid: pid not in _children(process.pid))
        os.kill(process.pid if victim == "ours" else launcher, signal.SIGKILL)
        process.wait()
        _wait_until_gone(started)
        assert not [one for one in started if Path(f"/proc/{one}").exists()]


def _children(parent: int) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become someone else")
def test_it_needs_no_root() -> None:
    """Where we and the launcher run as the same user as the program, it reaches neither."""
    python = next(filter(_is_for_everyone, ("/usr/bin/python3", sys.executable)), None)
    if python is None:
        pytest.skip("needs a Python of version 3.11 or later that everyone may run")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        for file in ("__init__.py", "core/__init__.py", "core/errors.py", *_SANDBOX):
            copied = Path(folder, "rayworks", file)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACKAGE / file, copied)
        ours = f"from rayworks.core.sandbox import run_program\nprint(run_program({UNDER_ONE_USER!r}, 'word'), end='')"
        command = [*AS_ANOTHER, python, "-s", "-c", ours]
        done = subprocess.run(command, env={"PYTHONPATH": folder}, cwd="/", capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("0 65534 65534 word\n", 0), done.stderr


AS_ANOTHER = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
UNDER_ONE_USER = """
import os
done = 0
for attack in (
    lambda: os.kill(0, 9), lambda: os.killpg(os.getpgrp(), 9), lambda: os.kill(os.getppid(), 9), lambda: os.kill(-1, 9),
    lambda: open("/etc/passwd"), lambda: os.memfd_create("held"), lambda: open("/lib/file", "w"), os.fork,
    lambda: os.setuid(0), lambda: os.chmod("/lib", 0o777), lambda: open("/dev/stdin", "w"),
):
    try:
        attack()
        done += 1
    except OSError:
        pass
open("file", "w").write("mine")
print(done, os.getuid(), os.getgid(), input())
"""


def _is_for_everyone(python: str) -> bool:
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return (
            subprocess.run([*AS_ANOTHER, python, "-I", "-c", check], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
