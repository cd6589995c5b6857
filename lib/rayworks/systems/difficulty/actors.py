"""Actors: calibrations and refits in a pool, and shards of subjects."""

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import ray

from rayworks.core.errors import DataError
from rayworks.runtime.actor_pool import ActorPool
from rayworks.runtime.placement import keep_ray_data_in_the_placement_group, worker_options
from rayworks.systems.difficulty import new_subjects
from rayworks.systems.difficulty.calibration import bootstrap_refit, calibrate, fit_options, grouped
from rayworks.systems.difficulty.config import Config, set_name
from rayworks.systems.difficulty.item_response.sharded_fit import Everywhere, Shard
from rayworks.systems.difficulty.rating_run import rate_games
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Duplicates
from rayworks.systems.difficulty.responses.sources import ResponseSet, read_games, read_responses


class CalibrationActor:
    """Reads sets and runs estimators on them; keeps nothing that another actor could not make again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._read = lru_cache(maxsize=4)(self._read_set)

    def calibrate(self, source: str) -> dict[str, Any]:
        """See :func:`~.calibration.calibrate`."""
        return calibrate(set_name(source), self._read(source)[0], self._config)

    def refits(self, call: tuple[str, int, int]) -> np.ndarray:
        """Difficulties of bootstrap refits number ``start`` to ``stop``, shape (stop - start, I)."""
        source, start, stop = call
        found, matrix = self._read(source)
        options, seed = fit_options(self._config), self._config.run.seed
        return np.array(
            [bootstrap_refit(found.responses, matrix, options, seed, number) for number in range(start, stop)]
        )

    def new_subjects(self, source: str) -> dict[str, Any]:
        """Adaptive tests, their errors, and the profiles of groups."""
        responses = self._read(source)[0].responses
        sizes = [size for size in self._config.adaptive_tests.sizes if size < len(responses.items)]
        return {
            "errors": new_subjects.adaptive_test_errors(responses, self._config),
            "subsets": {str(size): new_subjects.best_adaptive_test(responses, self._config, size) for size in sizes},
            "profiles": new_subjects.group_profiles(responses, self._config),
        }

    def rate(self, source: str) -> dict[str, Any]:
        """See :func:`~.rating_run.rate_games`."""
        players, periods, games = read_games(source)
        return rate_games(set_name(source), players, periods, games, self._config.ratings)

    def _read_set(self, source: str) -> tuple[ResponseSet, ResponseMatrix]:
        found = grouped(read_responses(source, self._config.data), self._config)
        return found, as_matrix(found.responses)


class ShardActor:
    """Holds shards; one that died starts empty and fetches its shards again when asked."""

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}

    def call(self, number: int, tables: list[Any], origin: tuple[Any, ...], method: str, *arguments: Any) -> Any:
        """A method of a shard, which is made from its parts at the first call."""
        if number not in self._shards:
            items, source, duplicates, attempts = origin
            whole = pd.concat(ray.get(tables), ignore_index=True)
            self._shards[number] = Shard(whole, items, source, number, duplicates, attempts)
        return getattr(self._shards[number], method)(*arguments)


def shards(source: str, config: Config, name: str) -> tuple[np.ndarray, Everywhere, ActorPool[Any, Any]]:
    """Read a table by Ray Data, parted by subject, into actors.

    Returns:
        item names; a function that calls a method of every shard; the pool, to be shut down.

    Raises:
        DataError: the source has no such columns.
    """
    read = ray.data.read_csv if source.endswith(".csv") else ray.data.read_parquet
    keep_ray_data_in_the_placement_group()
    data = read(source).materialize()
    columns = data.columns() or []
    missing = [column for column in ("subject", "item", "score") if column not in columns]
    if missing:
        raise DataError(f"{source}: has no column {', '.join(missing)}; found {', '.join(columns)}")
    count = config.data.shards
    part: Any = _part.options(num_returns=count + 1)
    parted: list[list[Any]] = [part.remote(block, count) for block in data.to_arrow_refs()]
    facts = ray.get([parts[0] for parts in parted])
    items = pd.unique(np.concatenate([names for names, _ in facts]))
    filled = np.sum([sizes for _, sizes in facts], axis=0)
    tables = [[parts[1 + number] for parts in parted] for number in range(count) if filled[number]]
    pool: ActorPool[Any, Any] = ActorPool(
        ShardActor, size=config.compute.workers, name=name, options=worker_options(config.compute)
    )
    duplicates: Duplicates = config.data.duplicates
    origin = (items, source, duplicates, config.data.attempts)

    def everywhere(method: str, *arguments: Any) -> list[Any]:
        # References inside a list stay references: Ray would resolve bare ones at every call.
        calls = [
            pool.submit("call", number, parts, origin, method, *arguments, slot=number % config.compute.workers)
            for number, parts in enumerate(tables)
        ]
        return [call.result() for call in calls]

    return items, everywhere, pool


@ray.remote
def _part(table: Any, shards: int) -> list[Any]:
    """Item names and rows per shard of a block, then its rows by shard: a subject is in one shard, whatever its block."""
    block: pd.DataFrame = table.to_pandas()
    subjects, names = pd.factorize(block["subject"].astype(str))
    shard = np.array([zlib.crc32(name.encode()) % shards for name in names], dtype=int)[subjects]
    sizes = np.bincount(shard, minlength=shards)
    return [(block["item"].astype(str).unique(), sizes), *(block[shard == number] for number in range(shards))]
