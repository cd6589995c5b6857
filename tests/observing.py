"""Waiting for what a test has set in motion, and finding what it may kill."""

import time
from collections.abc import Callable

import ray
import ray.util.state


def actor_processes(name: str) -> list[int]:
    """Processes of the living actors of a class, of a run that is under way."""
    address = ray.get_runtime_context().gcs_address
    found = ray.util.state.list_actors(address, filters=[("class_name", "=", name), ("state", "=", "ALIVE")])
    return [actor.pid for actor in found if actor.pid]


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
