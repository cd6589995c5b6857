"""The same fit over shards of subjects, for responses that exceed one memory: sums of sums, wherever the shards are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rayworks.core import seeds
from rayworks.systems.difficulty.item_response.abilities import Abilities, posterior_means
from rayworks.systems.difficulty.item_response.curves import Quadrature
from rayworks.systems.difficulty.item_response.expectations import expectation, item_totals
from rayworks.systems.difficulty.item_response.marginal_likelihood import Calibration, fit_by
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import score_products
from rayworks.systems.difficulty.item_response.working import Counts, Expectation, Working
from rayworks.systems.difficulty.responses.response_matrix import ResponseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Duplicates, Responses, from_table

Half = tuple[int, int, int]
"""Seed, number of the halving, and which half: 0 or 1."""


class Shard:
    """The subjects of one shard, their items numbered as in the whole table."""

    def __init__(
        self,
        table: pd.DataFrame,
        items: np.ndarray,
        source: str,
        number: int,
        duplicates: Duplicates,
        attempts: float = 1.0,
    ) -> None:
        name = f"{source}, part {number} of its subjects"
        part = from_table(
            table, name, duplicates=duplicates, attempts=attempts, allow_disconnected=True, least_subjects=1
        )
        position = pd.Index(items).get_indexer(part.items.astype(str))
        self.responses: Responses = replace(part, items=items, item=position[part.item].astype(np.int32))
        self.matrix: ResponseMatrix = as_matrix(self.responses)
        self._number = number

    def totals(self, half: Half | None = None) -> Counts:
        """Item totals of the shard, or of a random half of its subjects."""
        return item_totals(self.matrix, self._frequency(half))

    def expect(self, working: Working, quadrature: Quadrature, half: Half | None = None) -> Expectation:
        """The shard's part of the E-step."""
        return expectation(self.matrix, self._frequency(half))(working, quadrature)

    def score_products(self, calibration: Calibration) -> np.ndarray:
        """Sum of products of per-subject scores, shape (K, K): the shard's part of the cross-product information."""
        return score_products(self.matrix, calibration)

    def subjects(self) -> list[str]:
        """Names of the shard's subjects."""
        return list(map(str, self.responses.subjects))

    def parts(self) -> list[np.ndarray]:
        """Items that subjects of this shard tie together, by position."""
        return self.responses.components()

    def abilities(self, calibration: Calibration) -> Abilities:
        """Posterior means of the shard's subjects."""
        return posterior_means(self.matrix, calibration)

    def _frequency(self, half: Half | None) -> np.ndarray | None:
        if half is None:
            return None
        seed, repeat, side = half
        drawn = seeds.stream(seed, "split-half", repeat, self._number).random(self.matrix.shape[0]) < 0.5
        return np.asarray(drawn if side == 0 else ~drawn).astype(float)


Everywhere = Callable[..., list[Any]]
"""Calls a method of every shard with the same arguments and returns the results in the order of the shards."""


@dataclass(frozen=True)
class ShardedFit:
    """Fits whose E-steps are sums over shards; the result does not depend on where the shards are."""

    everywhere: Everywhere

    def fit(self, options: FitOptions, half: Half | None = None) -> Calibration:
        """Fit all subjects, or one half of a random halving."""

        def expect(working: Working, quadrature: Quadrature) -> Expectation:
            parts: list[Expectation] = self.everywhere("expect", working, quadrature, half)
            return sum(parts[1:], parts[0])

        return fit_by(expect, self.totals(half), options)

    def totals(self, half: Half | None = None) -> Counts:
        """Item totals of all shards."""
        parts: list[Counts] = self.everywhere("totals", half)
        scored, seen = (np.sum([getattr(part, name) for part in parts], axis=0) for name in ("scored", "seen"))
        return Counts(scored, seen, float(sum(part.subjects for part in parts)), max(part.groups for part in parts))

    def information(self, calibration: Calibration) -> np.ndarray:
        """Cross-product information of the free parameters, shape (K, K)."""
        return np.asarray(np.sum(self.everywhere("score_products", calibration), axis=0))

    def subjects(self) -> list[str]:
        """Names of all subjects, shard after shard."""
        return [name for names in self.everywhere("subjects") for name in names]

    def components(self, items: int) -> list[np.ndarray]:
        """Items by connected component of the whole design."""
        pairs = [(part[0], item) for parts in self.everywhere("parts") for part in parts for item in part]
        rows, columns = np.array(pairs).T
        graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(items, items))
        count, label = connected_components(graph, directed=False)
        return [np.flatnonzero(label == number) for number in range(count)]

    def abilities(self, calibration: Calibration) -> Abilities:
        """Of all subjects, shard after shard."""
        parts: list[Abilities] = self.everywhere("abilities", calibration)
        ability, error = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ability", "error"))
        return Abilities(ability, error, "EAP")
