import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from rayworks.core.errors import DataError, InfrastructureError, RayworksError
from rayworks.runtime.actor_pool import ActorPool

pytestmark = pytest.mark.usefixtures("cluster")


class Worker:
    """Squares numbers and notes each call in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def square(self, item: int) -> int:
        (self._folder / f"{item}-{time.time_ns()}").touch()
        return item * item

    def square_slowly(self, item: int) -> int:
        time.sleep(0.2)
        return self.square(item)

    def die_once_at_five(self, item: int) -> int:
        if item == 5 and not (self._folder / "died").exists():
            (self._folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.square(item)

    def always_die_at_two(self, item: int) -> int:
        if item == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    def poison_at_three(self, item: int) -> int:
        if item == 3:
            (self._folder / f"poison-{time.time_ns()}").touch()
            raise DataError("the row is broken")
        return item

    def lose_connection(self, item: int) -> int:
        first = not (self._folder / f"lost-{item}").exists()
        (self._folder / f"lost-{item}").touch()
        if first:
            raise ConnectionResetError("peer went away")
        return item

    def bug(self, item: int) -> int:
        raise ZeroDivisionError("division by zero")

    def pid(self) -> int:
        return os.getpid()


MakePool = Callable[..., ActorPool[int, int]]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    pools: list[ActorPool[int, int]] = []

    def make(size: int = 2, **options: Any) -> ActorPool[int, int]:
        pool: ActorPool[int, int] = ActorPool(
            Worker,
            str(tmp_path),
            size=size,
            name="test/pool",
            options={"num_cpus": 0.5},
            backoff_seconds=0.1,
            **options,
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.shutdown()


def test_results_come_in_order_and_unordered_ones_with_their_index(make_pool: MakePool) -> None:
    pool = make_pool()
    assert list(pool.map("square", range(20))) == [n * n for n in range(20)]
    assert sorted(pool.map_unordered("square", range(20))) == [(n, n * n) for n in range(20)]
    assert list(pool.map("square", [])) == []


def test_no_more_than_the_bound_is_in_flight(make_pool: MakePool) -> None:
    taken = []

    def source() -> Iterator[int]:
        for n in range(12):
            taken.append(n)
            yield n

    results = make_pool(size=2, in_flight_per_actor=2).map_unordered("square_slowly", source())
    next(results)
    assert len(taken) <= 5
    assert len(list(results)) == 11


def test_a_killed_actor_is_replaced_and_nothing_finished_is_done_again(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool()
    assert list(pool.map("die_once_at_five", range(12))) == [n * n for n in range(12)]
    assert pool.replaced == 1
    calls = [path.name.split("-")[0] for path in tmp_path.iterdir() if path.name != "died"]
    repeated = {item for item in calls if calls.count(item) > 1}
    assert len(repeated) <= 1  # the one call that was queued behind the death


def test_actors_killed_from_outside_lose_no_result(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pids = pool.broadcast("pid")
    results = pool.map("square_slowly", range(16))
    assert next(results) == 0
    os.kill(pids[0], signal.SIGKILL)
    assert list(results) == [n * n for n in range(1, 16)]
    assert pool.broadcast("pid")[0] != pids[0]


def test_data_errors_are_not_retried_and_name_the_item(make_pool: MakePool, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="item 3: the row is broken"):
        list(make_pool().map("poison_at_three", range(6)))
    assert len(list(tmp_path.glob("poison-*"))) == 1


def test_infrastructure_errors_are_retried_within_bounds(make_pool: MakePool) -> None:
    assert list(make_pool().map("lose_connection", range(4))) == [0, 1, 2, 3]
    with pytest.raises(InfrastructureError, match="item 2: failed 2 times"):
        list(make_pool(retries=1).map("always_die_at_two", [0, 1, 2]))


def test_unknown_errors_keep_their_name_and_are_not_retried(make_pool: MakePool) -> None:
    with pytest.raises(RayworksError, match="ZeroDivisionError") as caught:
        list(make_pool().map("bug", [1]))
    assert type(caught.value) is RayworksError


def test_single_calls_survive_a_death(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    before = pool.submit("pid").result()
    os.kill(before, signal.SIGKILL)
    assert pool.submit("pid").result() != before


def test_actors_are_named_for_the_dashboard(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.broadcast("pid")
    names = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    assert sum(name.startswith("test/pool-") for name in names) == 2


def test_a_worker_that_can_not_be_made_reports_why(tmp_path: Path) -> None:
    pool: ActorPool[int, int] = ActorPool(Worker, size=1, name="test/broken", options={"num_cpus": 0.5})
    with pytest.raises(RayworksError, match="folder"):
        pool.broadcast("pid")
    pool.shutdown()
