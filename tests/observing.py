"""Waiting for what a test has set in motion, and finding what it may kill."""

import time
from collections.abc import Callable

import ray
import ray.util.state


def cluster_address() -> str:
    """Of the cluster that this process is attached to, for the state API, which may find another one on this machine."""
    address: str = ray.get_runtime_context().gcs_address
    return address


def actor_processes(name: str) -> list[int]:
    """Processes of the living actors of a class, of a run that is under way."""
    found = ray.util.state.list_actors(cluster_address(), filters=[("class_name", "=", name), ("state", "=", "ALIVE")])
    return [actor.pid for actor in found if actor.pid]


def actors_on(node: str, prefix: str) -> int:
    """How many living actors whose names begin so are on a node."""
    found = ray.util.state.list_actors(cluster_address(), filters=[("state", "=", "ALIVE"), ("node_id", "=", node)])
    return sum((actor.name or "").startswith(prefix) for actor in found)


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)
