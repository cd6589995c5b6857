"""How long do users wait for each application at a quarter, half and four fifths of what it can answer, and at twice as much?

Every application is deployed alone on a cluster of this command's own, with the settings of ``serve/config.smoke.yaml`` and
two replicas, and asked the question of ``jobs.service_requests``. An empty route is measured in the same way.
``python -m benchmarks.serving_load [--system NAME ...] [--runs FOLDER] [--seconds S] [--repeats N] [--output FOLDER]``.
"""

import argparse
import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import results, serving_load_shown
from benchmarks.open_loop import NO_ANSWER, NOT_SENT, Answer, Load, quantile
from cluster import local
from jobs.service_faults import application
from jobs.service_requests import request_of
from rayworks.core.errors import InfrastructureError, RayworksError
from rayworks.core.run_directory import EXPORT
from rayworks.systems import REGISTRY
from serve.common import keys

ROOT = Path(__file__).resolve().parent.parent
BARE = "bare"
"""The peer."""
BARE_ENTRY = {"name": BARE, "route_prefix": "/bare", "import_path": "benchmarks.bare_service:build"}
REPLICAS, CPUS = 2, 16
"""The cluster's processors are a word, of which every replica takes as much as in the config."""
USERS = 8
"""Keys: one alone would meet its own limit before the queues are full."""
CLIENTS = 32
"""That ask one after another to find what an application can answer."""
SHARES = (0.25, 0.5, 0.8)
SATURATED = 2.0
WARM_UP_SECONDS = 3.0
LEAST, MOST_SECONDS = 50, 60.0
"""Requests that a quantile is of: slow applications are asked for longer, but no longer than that."""
RECOVERY_SECONDS = 30.0
"""How long the calm after the saturation is watched."""
BACK = 2.0
"""The latency is back in the first second whose median is at most so many times that of before."""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


PORT = free_port()
"""Of all deployments: Serve can not change it while a proxy runs."""


@dataclass(frozen=True)
class Target:
    """Where to ask what, and whose keys to use."""

    url: str
    body: dict[str, Any]
    keys: list[str]


@contextlib.contextmanager
def own_cluster(folder: Path) -> Iterator[None]:
    """A cluster that begins and ends with the block, for this process and those that it starts."""
    os.environ["RAYWORKS_CLUSTER"] = str(folder / "cluster")
    for name in ("RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    if local.up(nodes=1, cpus_per_node=CPUS, dashboard_port=free_port()):
        raise InfrastructureError("the cluster of this benchmark did not come up; end other work and repeat")
    try:
        os.environ.update(local.environment())
        yield
    finally:
        local.down()


def export_of(system: str, runs: Path) -> Path:
    """The export of a smoke run, which is made where there is none."""
    folder = runs / system / "smoke" / EXPORT
    if not folder.exists():
        print(f"{system}: a smoke run comes first", flush=True)
        command("jobs.run", system, "--smoke", "--run.storage", str(runs))
    return folder


def command(module: str, *words: str, given: str = "") -> str:
    """What a module prints, run in a process of its own.

    Raises:
        InfrastructureError: it fails.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "lib"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        **{"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": paths}, "input": given},  # type: ignore[call-overload]
        **{"capture_output": True, "text": True, "check": False},
    )
    if done.returncode:
        raise InfrastructureError(f"{module} {' '.join(words)}: ended with {done.returncode}: {done.stderr[-500:]}")
    return str(done.stdout)


def deployed(name: str, folder: Path, runs: Path) -> Target:
    """One application, alone on the cluster; what was deployed before is gone."""
    folder.mkdir()
    users = [keys.create(f"user_{number}", str(folder / "keys")) for number in range(USERS)]
    entry, path, body = question(name, folder, runs)
    http = {"host": "127.0.0.1", "port": PORT}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "http_options": http, "applications": [entry]}))
    command("serve.deploy", str(file))
    return Target(f"http://127.0.0.1:{PORT}{entry['route_prefix']}{path}", body, users)


def question(name: str, folder: Path, runs: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The application's entry in a Serve config, and the path and body that it is asked."""
    if name == BARE:
        args = {"replicas": REPLICAS}
        return {**BARE_ENTRY, "args": args}, "/", {}
    export, entry = export_of(name, runs), application(name)
    assert entry is not None
    entry["args"] |= {"export": str(export), "api_keys": str(folder / "keys"), "replicas": REPLICAS}
    if name == "regulation":
        entry["args"]["database"] = str(folder / "ledger.sqlite")
    _, path, body = request_of(name, export)
    return entry, path, body


def asked(target: Target, phases: Sequence[tuple[float, float]], clients: int | None = None) -> list[Answer]:
    """Answers that the client's process got."""
    load = Load(target.url, target.body, target.keys, list(phases), clients)
    found = json.loads(command("benchmarks.open_loop", given=json.dumps(asdict(load))))
    return [Answer(**one) for one in found]


def measure(target: Target, seconds: float) -> dict[str, Any]:
    """What one application can answer, and its latencies at shares of that."""
    asked(target, [(0, WARM_UP_SECONDS)], CLIENTS)
    capacity = summary(asked(target, [(0, seconds)], CLIENTS))["per_second"]
    if not capacity:
        raise InfrastructureError(f"{target.url}: answers nothing in {seconds:g} s; see the log of the cluster")
    loads = {}
    for share in SHARES:
        phase = (share * capacity, long_enough(share * capacity, seconds))
        loads[f"{share:.0%}"] = summary(asked(target, [phase]))
    after = asked(target, [(SATURATED * capacity, seconds), (SHARES[0] * capacity, RECOVERY_SECONDS)])
    loads[f"{SATURATED:.0%}"] = summary([answer for answer in after if answer.phase == 0])
    calmed = [answer for answer in after if answer.phase == 1]
    recovery = recovered(calmed, seconds, loads[f"{SHARES[0]:.0%}"]["p50"])
    return {"capacity": capacity, "loads": loads, "recovery_seconds": recovery, "load_average": os.getloadavg()[0]}


def long_enough(rate: float, seconds: float) -> float:
    """Seconds in which ``LEAST`` requests are due, if that is not too long."""
    return max(seconds, min(LEAST / rate, MOST_SECONDS))


def summary(answers: Sequence[Answer]) -> dict[str, Any]:
    """Of one phase: latencies in ms of what succeeded, successes a second, and the share of each kind of answer."""
    good = [answer for answer in answers if answer.kind == "2xx"]
    latencies = [1e3 * answer.latency for answer in good if answer.latency is not None]
    begin = min((answer.due for answer in answers), default=0.0)
    end = max((answer.due + (answer.latency or 0) for answer in answers), default=0.0)
    sent = [1e3 * answer.late for answer in answers if answer.kind != NOT_SENT]
    return {
        **{f"p{share:.0f}": quantile(latencies, share / 100) for share in (50, 95, 99)},
        "asked": len(answers),
        "per_second": len(good) / (end - begin) if good else 0.0,
        "kinds": {kind: count / len(answers) for kind, count in Counter(one.kind for one in answers).items()},
        "late_p99": quantile(sent, 0.99),
    }


def recovered(answers: Sequence[Answer], begin: float, before: float) -> float:
    """Seconds after the end of the saturation until latency is back; NaN for not at all."""
    windows: dict[int, list[Answer]] = {}
    for answer in answers:
        windows.setdefault(math.floor(answer.due - begin), []).append(answer)
    for second, window in sorted(windows.items()):
        found = summary(window)
        if found["kinds"] == {"2xx": 1.0} and found["p50"] <= BACK * before:
            return float(second)
    return math.nan


def defects(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What nobody should meet: other answers than successes and, under load, refusals that say when to come again."""
    wrong = [
        f"{name} at {load}: {share:.2%} {kind}"
        for name, repeats in measured.items()
        for one in repeats
        for load, found in one["loads"].items()
        for kind, share in found["kinds"].items()
        if kind.startswith(("status", NO_ANSWER)) or (kind not in ("2xx", NOT_SENT) and load == f"{SHARES[0]:.0%}")
    ]
    stuck = [name for name, repeats in measured.items() if any(math.isnan(one["recovery_seconds"]) for one in repeats)]
    return [*wrong, *(f"{name}: latency is not back {RECOVERY_SECONDS:g} s after saturation" for name in stuck)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, draw and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", nargs="+", choices=[*REGISTRY], default=[*REGISTRY], metavar="NAME")
    parser.add_argument("--runs", type=Path, help="storage of smoke runs; what is not there is made there")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="folder for the values and the figure, instead of the repository's")
    options = parser.parse_args(arguments)
    try:
        measured = measure_all([BARE, *options.system], options)
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    serving_load_shown.show(measured)
    serving_load_shown.draw_loads(measured, options.output)
    rows = serving_load_shown.rows(measured)
    results.store("serving_load", __doc__ or "", rows, measured, options.output or results.FOLDER)
    found = defects(measured)
    print("\n".join(found), file=sys.stderr)
    return bool(found)


def measure_all(names: Sequence[str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Application to its measurements; repeats go round all of them."""
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="serving-load-") as folder, own_cluster(Path(folder)):
        runs = (options.runs or Path(folder) / "runs").expanduser().absolute()
        for repeat in range(options.repeats):
            for name in names:
                target = deployed(name, Path(folder) / f"{name}-{repeat}", runs)
                found = measure(target, options.seconds)
                measured[name].append(found)
                print(
                    f"{name}: {found['capacity']:.1f} requests/s, back after {found['recovery_seconds']:g} s",
                    flush=True,
                )
    return measured


if __name__ == "__main__":
    sys.exit(main())
