"""Faults of a service: one of two replicas that serve a run's export, or Serve's controller, dies while questions arrive."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from jobs.disturbed_run import ROOT, until
from jobs.service_requests import request_of
from rayworks.core.errors import InfrastructureError

CONFIG = ROOT / "serve" / "config.smoke.yaml"
KILLED = {"replica killed": "SERVE_REPLICA::{name}#", "Serve controller killed": "SERVE_CONTROLLER_ACTOR"}
"""Beginning of the name of the actor that dies."""
SHARED = "#Shared#"
"""In the name of the actor that an application's replicas agree by, which is none of them."""
REPLICAS = 2
INTERVAL_SECONDS = 0.2
ANSWER_SECONDS = 30.0
"""A question without an answer by then has failed."""
RECOVERY_SECONDS = 180.0
SETTLING_SECONDS = 2.0
"""Requests go on for as long after it: proxies learn late of what has changed."""


@dataclass
class Service:
    """An application, and a question to it that makes it compute."""

    name: str
    question: Callable[[], urllib.request.Request]
    environment: Mapping[str, str]
    failed: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def answers(self) -> bool:
        """Whether the question is answered in time, with 200."""
        try:
            with urllib.request.urlopen(self.question(), timeout=ANSWER_SECONDS) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def ask(self) -> None:
        """Count it if it fails."""
        good = self.answers()
        with self._counting:
            self.failed += not good

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """The question at a fixed rate for as long as the block lasts."""
        ended, asking = threading.Event(), list[threading.Thread]()

        def ask_on() -> None:
            while not ended.wait(INTERVAL_SECONDS):
                asking.append(threading.Thread(target=self.ask))
                asking[-1].start()

        rate = threading.Thread(target=ask_on)
        rate.start()
        try:
            yield
        finally:
            ended.set()
            rate.join()
            for thread in asking:
                thread.join()

    def processes(self, fault: str) -> set[int]:
        """Of what a fault kills."""
        from ray.util.state import list_actors

        beginning = KILLED[fault].format(name=self.name)
        alive = list_actors(self.environment["RAY_DASHBOARD_ADDRESS"], filters=[("state", "=", "ALIVE")])
        named = {actor.name: actor.pid for actor in alive if actor.pid and actor.name}
        return {pid for name, pid in named.items() if name.startswith(beginning) and SHARED not in name}

    def disturbed(self, fault: str) -> tuple[float | None, int]:
        """Kill one such process while requests arrive.

        Returns:
            seconds until another is in its place and the question is answered, None for never; and how many times it was not.
        """
        before, self.failed = self.processes(fault), 0
        with self.asked():
            os.kill(min(before), signal.SIGKILL)
            at = time.monotonic()
            good = until(lambda: self.processes(fault) - before and self.answers(), RECOVERY_SECONDS)
            seconds = time.monotonic() - at
            time.sleep(SETTLING_SECONDS)
        return (seconds if good else None), self.failed


def application(system: str) -> dict[str, Any] | None:
    """Its entry in the Serve config of smoke runs; None where there is none."""
    entries = yaml.safe_load(CONFIG.read_text())["applications"]
    return next((entry for entry in entries if entry["name"] == system), None)


@contextlib.contextmanager
def served(system: str, export: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[Service]:
    """Two replicas of an application on the cluster, which must be nobody else's.

    Args:
        system: one with an :func:`application`.
        export: what it serves.
        folder: for its config, its keys and its log.
        environment: of the cluster.

    Raises:
        InfrastructureError: it does not come up or does not answer, with what was said.
    """
    entry = application(system)
    assert entry is not None
    entry["args"] |= {"export": str(export), "api_keys": str(folder / "keys"), "replicas": REPLICAS}
    if system == "regulation":
        entry["args"]["database"] = str(folder / "ledger.sqlite")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    http = {"host": "127.0.0.1", "port": port}
    file = folder / "serve.yaml"
    file.write_text(yaml.safe_dump({"proxy_location": "HeadOnly", "http_options": http, "applications": [entry]}))
    key = _said("serve.common.keys", "new", "faults", "--file", str(folder / "keys"), environment=environment)
    _said("serve.deploy", str(file), environment=environment)
    method, path, body = request_of(system, export)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    url = f"http://127.0.0.1:{port}{entry['route_prefix']}{path}"
    question = partial(urllib.request.Request, url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(question(), timeout=RECOVERY_SECONDS):
            pass
        yield Service(entry["name"], question, environment)
    except urllib.error.HTTPError as error:
        raise InfrastructureError(f"{url}: is answered with {error.code}: {error.read().decode()[-300:]}") from None
    finally:
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        ServeSubmissionClient(environment["RAY_DASHBOARD_ADDRESS"]).delete_applications()  # type: ignore[no-untyped-call]  # Ray does not annotate it


def _said(*command: str, environment: Mapping[str, str]) -> str:
    """What a command of this tree prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InfrastructureError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()
