import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
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

    def wait_at_zero(self, item: int) -> int:
        while item == 0 and not (self._folder / "gate").exists():
            time.sleep(0.02)
        return self.square(item)

    def hang_once_at_three(self, item: int) -> int:
        if item == 3 and not (self._folder / "hung").exists():
            (self._folder / "hung").write_text(str(os.getpid()))
            time.sleep(3600)
        return self.square(item)

    def hang(self, item: int) -> int:
        time.sleep(3600)
        return item

    def tell_and_wait(self, item: int) -> int:
        """Our process, after a while in which the test can cut the connection to it."""
        (self._folder / f"begun-{time.time_ns()}").write_text(str(os.getpid()))
        time.sleep(1)
        return os.getpid()

    def pid(self) -> int:
        return os.getpid()


class SlowlyMade(Worker):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        time.sleep(3)


def cut_connections(other: int) -> None:
    """Break what connects this process to another, which both survive."""
    theirs = {link.laddr: link.raddr for link in psutil.Process(other).net_connections("tcp") if link.raddr}
    cut = 0
    for link in psutil.Process().net_connections("tcp"):
        if link.raddr and theirs.get(link.raddr) == link.laddr:
            with socket.fromfd(link.fd, socket.AF_INET, socket.SOCK_STREAM) as copy:
                copy.shutdown(socket.SHUT_RDWR)
            cut += 1
    assert cut


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


def test_results_that_wait_for_an_earlier_one_are_bounded(make_pool: MakePool, tmp_path: Path) -> None:
    taken = []

    def source() -> Iterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    def open_the_gate() -> None:
        while len(list(tmp_path.glob("[1-9]*-*"))) < 6:  # all of the 8 but the first and the one queued behind it
            time.sleep(0.02)
        time.sleep(0.5)  # in which a pool without a bound would draw on
        (tmp_path / "gate").touch()

    opener = threading.Thread(target=open_the_gate)
    opener.start()
    results = make_pool(size=2, in_flight_per_actor=2).map("wait_at_zero", source())
    assert next(results) == 0
    assert len(taken) == 8
    most = 0
    for returned, _ in enumerate(results, 2):
        most = max(most, len(taken) - returned)
    opener.join()
    assert len(taken) == 100 and most <= 8


def test_a_call_past_its_deadline_is_tried_elsewhere_and_its_actor_killed(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(seconds_per_call=5)
    assert list(pool.map("hang_once_at_three", range(12))) == [n * n for n in range(12)]
    assert pool.replaced == 1
    hung = int((tmp_path / "hung").read_text())
    while Path(f"/proc/{hung}").exists():
        time.sleep(0.02)


def test_calls_that_always_hang_fail_within_bounds(make_pool: MakePool) -> None:
    pool = make_pool(size=1, seconds_per_call=1, retries=1)
    with pytest.raises(InfrastructureError, match=r"item 0: failed 2 times; last: ran longer than seconds_per_call, 1"):
        list(pool.map("hang", range(3)))
    with pytest.raises(InfrastructureError, match="timed out"):
        pool.submit("hang", 0).result()
    assert pool.submit("pid").result() > 0


def test_neither_making_an_actor_nor_waiting_in_its_queue_counts_as_a_call(tmp_path: Path) -> None:
    pool: ActorPool[int, int] = ActorPool(
        SlowlyMade,
        str(tmp_path),
        size=1,
        name="test/slow",
        options={"num_cpus": 0.5},
        in_flight_per_actor=20,
        seconds_per_call=2.5,
    )
    try:
        assert pool.submit("square", 3).result() == 9
        assert list(pool.map("square_slowly", range(20))) == [n * n for n in range(20)]
        assert pool.replaced == 0
    finally:
        pool.shutdown()


@pytest.mark.slow  # a driver whose connections were cut is no driver for other tests
def test_an_actor_whose_connection_breaks_is_asked_again_and_not_replaced(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(size=1)
    process = pool.submit("pid").result()

    def cut() -> None:
        while not list(tmp_path.glob("begun-*")):
            time.sleep(0.02)
        cut_connections(process)

    cutter = threading.Thread(target=cut)
    cutter.start()
    assert list(pool.map("tell_and_wait", range(2))) == [process, process]
    cutter.join()
    assert len(list(tmp_path.glob("begun-*"))) > 2  # at least once, and here more
    assert pool.replaced == 0

    call = pool.submit("tell_and_wait", 2)
    cut_connections(process)
    assert call.result() == process and pool.replaced == 0


@pytest.mark.slow  # a driver whose connections were cut is no driver for other tests
def test_an_actor_that_does_not_come_back_is_replaced(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(size=1, seconds_to_return=1.0)
    process = pool.submit("pid").result()
    results = pool.map("tell_and_wait", range(1))

    def stop() -> None:
        while not list(tmp_path.glob("begun-*")):
            time.sleep(0.02)
        os.kill(process, signal.SIGSTOP)
        cut_connections(process)

    stopper = threading.Thread(target=stop)
    stopper.start()
    assert next(results) != process
    stopper.join()
    assert pool.replaced == 1


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
