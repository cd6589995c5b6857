"""How long does a user wait for the chances of acceptance of a slate, at a steady rate of requests?

Open loop: requests are due at a fixed rate whatever the answers do, and a latency counts from when its request was due. The
application is deployed here, on a Ray of its own, or asked at ``--url`` with the key in ``RAYWORKS_API_KEY``. Without
``--export`` it serves three untrained models of 1,000 items.
``python -m benchmarks.acceptance_serving [--export FOLDER | --url URL] [--rate N] [--seconds S] [--repeats N]``.
"""

import argparse
import asyncio
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.results import spread, store
from rayworks.core import seeds
from rayworks.systems.recommendation.exported import DESCRIPTION, Exported, write_export
from rayworks.systems.recommendation.logs.events import NATURAL
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.histories import Histories

ITEMS, LENGTH, WIDTH, MEMBERS = 1000, 64, 64, 3
PAST, SLATE = 50, 20
WARM_UP_SECONDS = 3.0
KINDS = ("natural", "accepted", "rejected")
QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Service:
    """Where to ask, and about which items."""

    url: str
    key: str
    items: Sequence[str]


def untrained_export(folder: Path) -> None:
    """Models of the size of a real one, with random weights."""
    torch.manual_seed(seeds.derive_small(0, "benchmark", "acceptance-serving", "weights"))
    options = AcceptanceOptions(ITEMS, LENGTH, width=WIDTH)
    reference = Histories(torch.ones(1, 1, dtype=torch.int64), torch.full((1, 1), NATURAL))
    models = [AcceptanceModel(options) for _ in range(MEMBERS)]
    names = [f"item-{number}" for number in range(ITEMS)]
    write_export(Exported(models, names, reference), lambda name, content: (folder / name).write_bytes(content))


@contextmanager
def deployed(export: Path) -> Iterator[Service]:
    """The application on a Ray that begins and ends with the block."""
    # Ray reads its switches when it is first imported.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0", OMP_NUM_THREADS="1")
    import ray
    from ray import serve as ray_serve

    from serve.apps.recommendation import Args, build
    from serve.common import keys

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = str(export / "api-keys")
    key = keys.create("benchmark", file)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        ray_serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"log_level": "WARNING"})
        # A wait is measured, not a refusal.
        args = Args(export=str(export), api_keys=file, max_waiting=1000, concurrent_per_key=1000)
        ray_serve.run(build(args), route_prefix="/recommendation")
        items = json.loads((export / DESCRIPTION).read_text())["items"]
        yield Service(f"http://127.0.0.1:{port}/recommendation", key, items)
    finally:
        ray.shutdown()


def workload(items: Sequence[str], count: int) -> list[dict[str, Any]]:
    """Bodies of ``accept``: a past and a slate each, drawn at random."""
    draw = seeds.stream(0, "benchmark", "acceptance-serving", "requests")
    pasts, kinds = draw.choice(items, (count, PAST)), draw.choice(KINDS, (count, PAST))
    slates = draw.choice(items, (count, SLATE))
    return [
        {
            "events": [{"item": item, "kind": kind} for item, kind in zip(past, kind, strict=True)],
            "items": slate.tolist(),
        }
        for past, kind, slate in zip(pasts.tolist(), kinds.tolist(), slates, strict=True)
    ]


async def latencies(service: Service, route: str, bodies: Sequence[dict[str, Any]], rate: float) -> np.ndarray:
    """Milliseconds (N,) from when each request was due to its whole answer.

    Raises:
        httpx.HTTPStatusError: a request was refused or failed.
    """
    headers = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/json"}
    contents = [json.dumps(body).encode() for body in bodies]
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=30) as client:
        begin = time.perf_counter() + 0.1

        async def ask(number: int) -> float:
            due = begin + number / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            answer = await client.post(f"/v1/recommendation/{route}", content=contents[number])
            answer.raise_for_status()
            return 1e3 * (time.perf_counter() - due)

        return np.array(await asyncio.gather(*(ask(number) for number in range(len(bodies)))))


def measure(service: Service, rate: float, seconds: float, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Quantiles of the latencies of each route and repeat, in ms."""
    accepts = workload(service.items, round(rate * max(seconds, WARM_UP_SECONDS)))
    ranks = [{"events": body["events"], "k": 10, "exclude_seen": True} for body in accepts]
    found: dict[str, list[dict[str, float]]] = {"accept": [], "rank": []}
    for route, bodies in (("accept", accepts), ("rank", ranks)):
        asyncio.run(latencies(service, route, bodies[: round(rate * WARM_UP_SECONDS)], rate))
        for repeat in range(repeats):
            values = asyncio.run(latencies(service, route, bodies[: round(rate * seconds)], rate))
            quantiles = {f"p{100 * q:g}": float(np.quantile(values, q)) for q in QUANTILES}
            found[route].append({**quantiles, "largest": float(values.max()), "load": os.getloadavg()[0]})
            shown = "  ".join(f"{name} {value:.1f}" for name, value in found[route][-1].items())
            print(f"{route}, repeat {repeat + 1}: {shown}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--export", type=Path, help="folder of a finished run's export")
    place.add_argument("--url", help="of a deployed application; its catalogue is taken from --items")
    parser.add_argument("--items", type=Path, help=f"with --url: the export's {DESCRIPTION}")
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    if options.url and not options.items:
        parser.error("--url: needs --items")
    asked = (options.rate, options.seconds, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        if options.url:
            items = json.loads(options.items.read_text())["items"]
            found = measure(Service(options.url, os.environ["RAYWORKS_API_KEY"], items), *asked)
        else:
            export = Path(folder)
            if options.export is None:
                untrained_export(export)
            else:
                for file in options.export.iterdir():
                    (export / file.name).write_bytes(file.read_bytes())
            with deployed(export) as service:
                found = measure(service, *asked)
    rows = {
        f"{route}, {what}, {options.rate:g} requests/s: {name} ms{goal}": [one[name] for one in found[route]]
        for route, what in (("accept", f"past {PAST}, slate {SLATE}"), ("rank", f"past {PAST}, best 10"))
        for name, goal in (("p50", ""), ("p95", " (goal < 30)" if route == "accept" else ""), ("p99", ""))
    }
    store("acceptance_serving", __doc__ or "", rows, {"milliseconds": found})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
