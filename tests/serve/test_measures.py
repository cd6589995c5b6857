"""What Prometheus would read of each application, and that the board asks for nothing else."""

import json
import re
import time

import httpx
import pytest
import ray

from rayworks.systems import REGISTRY
from tests.conftest import ROOT
from tests.serve.deployment import Deployment

SECONDS = 60.0
BOARD = ROOT / "cluster" / "grafana.json"
LINE = re.compile(r"^(ray_rayworks_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


def scraped() -> list[tuple[str, dict[str, str], float]]:
    """All of our metrics of all nodes that live: name, labels, value."""
    found = []
    for node in filter(lambda node: node["Alive"], ray.nodes()):
        text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10).text
        found += [(name, dict(LABEL.findall(labels)), float(value)) for name, labels, value in LINE.findall(text)]
    return found


def value(name: str, **labels: str) -> float:
    """Sum of a metric over what else it tells apart."""
    return sum(number for found, told, number in scraped() if found == name and labels.items() <= told.items())


def until_is(expected: float, name: str, **labels: str) -> None:
    """Ray passes metrics on every few seconds."""
    deadline = time.monotonic() + SECONDS
    while value(name, **labels) != expected:
        assert time.monotonic() < deadline, (name, labels, value(name, **labels), scraped())
        time.sleep(0.5)


@pytest.fixture(scope="module")
def asked(deployment: Deployment) -> Deployment:
    """All applications, each asked six times: Ray takes seconds to pass that on, which all tests wait for together."""
    for name in deployment.names():
        for _ in range(3):
            assert httpx.get(f"{deployment.url(name)}/no/such/path-{time.time_ns()}", timeout=30).status_code == 401
            assert httpx.head(f"{deployment.url(name)}/healthz", timeout=30).status_code == 200
    return deployment


@pytest.mark.parametrize("system", REGISTRY)
def test_requests_are_counted_by_route_and_status(system: str, asked: Deployment) -> None:
    name = next(name for name in asked.names() if name.partition("-")[0] == system)
    until_is(3, "ray_rayworks_requests_total", application=name, method="HEAD", path="/healthz", status="200")
    until_is(3, "ray_rayworks_request_seconds_count", application=name, method="HEAD", path="/healthz")
    assert value("ray_rayworks_requests_total", application=name, path="none", status="401") >= 3
    assert {told["path"] for _, told, _ in scraped() if "path-" in told.get("path", "")} == set()
    until_is(0, "ray_rayworks_requests_under_way", application=name)


@pytest.mark.parametrize("system", ["alignment"])
def test_tokens_are_counted(system: str, deployment: Deployment) -> None:
    model = deployment.ask("alignment", "v1/models").json()["data"][0]["id"]
    before = [value("ray_rayworks_tokens_total", application="alignment", kind=kind) for kind in ("prompt", "drawn")]
    body = {"model": model, "prompt": "A title:", "max_tokens": 3, "n": 2, "temperature": 0}
    used = deployment.ask("alignment", "v1/completions", **body).json()["usage"]
    for kind, start in zip(("prompt", "drawn"), before, strict=True):
        counted = used[f"{'completion' if kind == 'drawn' else kind}_tokens"]
        assert counted > 0
        until_is(start + counted, "ray_rayworks_tokens_total", application="alignment", kind=kind)


def test_the_board_asks_for_metrics_that_there_are() -> None:
    board = json.loads(BOARD.read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", ())
        for name in re.findall(r"ray_rayworks_\w+", target["expr"])
    }
    source = (ROOT / "serve" / "common" / "measures.py").read_text()
    there = {f"ray_{name}" for name in re.findall(r'"(rayworks_\w+)"', source)}
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked} == there
