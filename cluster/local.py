"""A Ray cluster of several nodes on this machine: ``python -m cluster.local up | down | status | env``.

It starts and ends only its own processes, and ``down`` removes what they wrote. They listen on loopback, metrics too, and
every other call needs the token in ``~/.rayworks/cluster/token``, which ``eval "$(python -m cluster.local env)"`` gives to a
shell.
"""

import argparse
import datetime
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
UP_SECONDS = 120
DOWN_SECONDS = 30
ASKED_SECONDS = 5
OBJECT_STORE_BYTES = 300 * 2**20
DASHBOARD_PORT = 8265
LOOPBACK = "127.0.0.1"
EVAL = 'eval "$(python -m cluster.local env)"'
"""What gives a shell the cluster's variables, until the cluster is started again."""
METRICS = "ray/prom_metrics_service_discovery.json"
"""Below its sessions: where Ray says which addresses Prometheus has to ask."""
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has Ray take loopback for this machine's address, as on macOS: otherwise no driver joins nodes that listen there."""


def folder() -> Path:
    """Where the cluster keeps its token, its state and its log."""
    return Path(os.environ.get("RAYWORKS_CLUSTER", "~/.rayworks/cluster")).expanduser()


def environment() -> dict[str, str]:
    """Environment variables that a process needs to reach the cluster; empty if none is up."""
    state = read_state()
    if state is None:
        return {}
    return {
        "RAY_ADDRESS": state["address"],
        "RAY_DASHBOARD_ADDRESS": state["dashboard"],
        "RAY_API_SERVER_ADDRESS": state["dashboard"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token_file()),
        **ON_LOOPBACK,
    }


def join() -> str:
    """Take the local cluster's variables into this process and return the address of its job server.

    Ray reads its authentication mode when it is first imported, so call this before. Variables that are set already win.

    Raises:
        LookupError: no local cluster is up and ``RAY_DASHBOARD_ADDRESS`` names no other.
    """
    os.environ.update({name: value for name, value in environment().items() if name not in os.environ})
    if "RAY_DASHBOARD_ADDRESS" not in os.environ:
        raise LookupError("no local cluster is up and RAY_DASHBOARD_ADDRESS is not set; start one with make cluster")
    return os.environ["RAY_DASHBOARD_ADDRESS"]


def remedy(address: str) -> str:
    """What to do when nothing answers at this process's ``RAY_DASHBOARD_ADDRESS``."""
    state = read_state()
    if state is None:
        return f"no local cluster is up: start one with make cluster and, where {EVAL} was used, repeat that"
    if address.rstrip("/") != state["dashboard"]:
        return f"the local cluster is at {state['dashboard']} now: repeat {EVAL}"
    return "the local cluster is up but does not answer: try again, or make down and make cluster"


def read_state() -> dict[str, Any] | None:
    """The running cluster's addresses, or ``None``."""
    try:
        state: dict[str, Any] = json.loads(_state_file().read_text())
        keeper = psutil.Process(state["pid"])
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return state if keeper.create_time() == state["created"] else None


def up(nodes: int, cpus_per_node: float, dashboard_port: int | None = None) -> int:
    """Start the cluster and return once all nodes have joined. Without a port: the usual one, or a free one."""
    state = read_state()
    if state is not None:
        print(f"already up: {state['nodes']} nodes at {state['address']}, dashboard {state['dashboard']}")
        return 0
    port = _usable_port(dashboard_port)
    if port is None:
        print(f"config error: --dashboard-port {dashboard_port}: is taken; give another or none", file=sys.stderr)
        return 2
    _write_token()
    _state_file().unlink(missing_ok=True)
    with _log().open("w") as output:
        command = [sys.executable, "-m", "cluster.local", "keep", str(nodes), str(cpus_per_node), str(port)]
        keeper = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True, env=_keeper_environment()
        )
    deadline, state = time.monotonic() + UP_SECONDS, None
    try:
        while state is None and time.monotonic() < deadline and keeper.poll() is None:
            time.sleep(0.2)
            state = read_state()
    finally:
        if state is None and keeper.poll() is None:
            keeper.terminate()
    if state is not None:
        _say(state)
        return 0
    print(f"infrastructure error: the cluster did not come up; see {_log()}", file=sys.stderr)
    return 75


def down() -> int:
    """End the cluster's processes, and only those; remove its sessions and logs; say which jobs ended with it."""
    state = read_state()
    if state is None:
        print("no local cluster is up")
        return 0
    ended = _under_way(state)
    keeper = psutil.Process(state["pid"])
    started = [keeper, *keeper.children(recursive=True)]
    keeper.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(started, timeout=DOWN_SECONDS)
    for process in alive:
        process.kill()
    # The token stays: shells and processes that have read it would fail on the next cluster.
    for file in (_state_file(), _log()):
        file.unlink(missing_ok=True)
    for index in range(state["nodes"]):
        shutil.rmtree(_place(index), ignore_errors=True)
    for job in ended:
        print(f"ended with it: {job}; once a cluster is up, the same command resumes")
    print(f"the local cluster is down; its sessions and logs in {sessions()} are removed")
    return 0


def status() -> int:
    """Print the addresses, and whether each process is alive."""
    state = read_state()
    if state is None:
        print("no local cluster is up")
        return 1
    _say(state)
    alive = len(psutil.Process(state["pid"]).children(recursive=True))
    print(f"  processes  {alive} below pid {state['pid']}")
    return 0


def keep(nodes: int, cpus_per_node: float, dashboard_port: int) -> None:
    """Own the cluster until SIGTERM. Runs in a process of its own, started by :func:`up`."""
    from ray.cluster_utils import Cluster

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    size: dict[str, Any] = {
        "num_cpus": cpus_per_node,
        "object_store_memory": OBJECT_STORE_BYTES,
        "node_ip_address": LOOPBACK,
    }
    head = {
        **size,
        "include_dashboard": True,
        "dashboard_host": LOOPBACK,
        "dashboard_port": dashboard_port,
        # The default port is taken when another Ray runs on this machine, and then no job can be submitted.
        "dashboard_agent_listen_port": 0,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for index in range(1, nodes):
            # Nodes that share a folder delete and unpack each other's working directories under a running job.
            cluster.add_node(**size, temp_dir=_place(index))
        state = {
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "address": cluster.address,
            "dashboard": f"http://{cluster.webui_url}",
            "nodes": nodes,
            "cpus_per_node": cpus_per_node,
        }
        partial = _state_file().with_suffix(".partial")
        partial.write_text(json.dumps(state))
        partial.rename(_state_file())
        print(f"{datetime.datetime.now():%F %T} up: {nodes} nodes at {cluster.address}, pid {os.getpid()}", flush=True)
        while True:
            signal.pause()
    finally:
        print(f"{datetime.datetime.now():%F %T} ending", flush=True)
        cluster.shutdown()


def sessions() -> str:
    """Where Ray keeps its sessions: short, since sockets lie below, and no other cluster's.

    In a folder that two of them share, the second's address takes the place of the first's, whose jobs then join the second.
    """
    own = hashlib.sha256(str(folder()).encode()).hexdigest()[:6] if "RAYWORKS_CLUSTER" in os.environ else ""
    return f"{tempfile.gettempdir()}/rayworks{own}"


def _place(index: int) -> str:
    """Where a node keeps its sessions."""
    return f"{sessions()}-{index}" if index else sessions()


def _under_way(state: dict[str, Any]) -> list[str]:
    """Ids and commands of the jobs that have not ended, as far as the cluster answers."""
    # Never through the proxy that a shell may name.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        header = {"Authorization": f"Bearer {_token_file().read_text()}"}
        request = urllib.request.Request(f"{state['dashboard']}/api/jobs/", headers=header)
        with direct.open(request, timeout=ASKED_SECONDS) as answer:
            jobs = json.load(answer)
    except (OSError, ValueError):
        return []
    return [
        f"{job['submission_id'] or job['job_id']} ({job['entrypoint']})"
        for job in jobs
        if job["status"] in ("PENDING", "RUNNING")
    ]


def _usable_port(asked: int | None) -> int | None:
    for port in [DASHBOARD_PORT, 0] if asked is None else [asked]:
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return None


def _say(state: dict[str, Any]) -> None:
    print(f"local cluster: {state['nodes']} nodes x {state['cpus_per_node']:g} CPUs")
    print(f"  address    {state['address']}")
    print(f"  dashboard  {state['dashboard']}  (token: {_token_file()})")
    print(f"  logs       {sessions()}/ray/session_latest/logs, removed when it ends; its keeper's: {_log()}")
    print(f"  metrics    {sessions()}/{METRICS}, for Prometheus")
    print(f"  use it     {EVAL}  (again each time it is started)")


def _keeper_environment() -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "lib"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token_file()),
        **ON_LOOPBACK,
        "RAY_TMPDIR": sessions(),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.common.gateway:middlewares",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _write_token() -> None:
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _token_file().exists():
        descriptor = os.open(_token_file(), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def _token_file() -> Path:
    return folder() / "token"


def _state_file() -> Path:
    return folder() / "state.json"


def _log() -> Path:
    return folder() / "cluster.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m cluster.local", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("up", help="start it")
    starting.add_argument("--nodes", type=int, default=2, metavar="N")
    starting.add_argument("--cpus-per-node", type=float, default=2, metavar="C")
    starting.add_argument(
        "--dashboard-port", type=int, metavar="PORT", help=f"default: {DASHBOARD_PORT}, or a free one"
    )
    commands.add_parser("down", help="end it")
    commands.add_parser("status", help="show it")
    commands.add_parser("env", help="print export lines for a shell")
    keeping = commands.add_parser("keep")
    for name, kind in (("nodes", int), ("cpus_per_node", float), ("dashboard_port", int)):
        keeping.add_argument(name, type=kind)
    options = parser.parse_args(arguments)
    if options.command == "up":
        if options.nodes < 1 or options.cpus_per_node <= 0:
            parser.error("--nodes must be at least 1 and --cpus-per-node above 0")
        return up(options.nodes, options.cpus_per_node, options.dashboard_port)
    if options.command == "keep":
        keep(options.nodes, options.cpus_per_node, options.dashboard_port)
        return 0
    if options.command == "env":
        variables = environment()
        if not variables:
            print("no local cluster is up; start one: python -m cluster.local up", file=sys.stderr)
            return 1
        print("\n".join(f"export {name}={value}" for name, value in variables.items()))
        return 0
    return down() if options.command == "down" else status()


if __name__ == "__main__":
    sys.exit(main())
