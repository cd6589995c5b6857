"""Source ids through a pipeline: which row of the data each view was made of.

A loop of one's own needs three lines more::

    loader = DataLoader(SourceRows(dataset), 64, shuffle=True, collate_fn=with_sources())
    saflex = weigher((trusted_inputs, trusted_labels), sources=len(dataset))
    for inputs, labels, sources in loader:
        labels = saflex.targets(model, inputs, labels, sources)
        loss = cross_entropy(model(inputs), labels)
"""

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.augmentation.engine.losses import Loss
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.engine.settings import EngineSettings
from rayworks.systems.augmentation.engine.validation import ValidationBatches
from rayworks.systems.augmentation.upstream.views import Upstream

SOURCE = "source"
"""Key of the source ids in batches that are mappings."""


def weigher(
    validation: tuple[Tensor, Tensor],
    settings: EngineSettings | None = None,
    loss: Loss | None = None,
    *,
    batch: int = 16,
    sources: int = 0,
    optimiser: torch.optim.Optimizer | None = None,
    seed: int = 0,
) -> Saflex:
    """An engine on inputs and labels of trusted rows.

    Args:
        batch: validation rows of a step; a quarter of the training batch is enough.
        sources: number of source rows, where the settings average gains.
    """
    draws = ValidationBatches(*validation, batch, seed, classes=loss is None)
    return Saflex(settings or EngineSettings(), draws, loss, sources=sources, optimiser=optimiser, seed=seed)


class _Row(NamedTuple):
    item: Any
    source: int


class SourceRows(Dataset[Any]):
    """A data set whose items remember their row; collate them by :func:`with_sources`."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        rows: Sized = self._rows
        return len(rows)

    def __getitem__(self, row: int) -> Any:
        return _Row(self._rows[row], int(row))


def with_sources(collate: Callable[[list[Any]], Any] = default_collate) -> Callable[[Sequence[Any]], Any]:
    """A collate function of items of :class:`SourceRows`: the batch of ``collate`` with its source ids ``(B,)`` at the end.

    In batches that are mappings they are under ``source``.
    """

    def collated(items: Sequence[Any]) -> Any:
        if not all(isinstance(item, _Row) for item in items):
            raise DataError(
                "sources: the pipeline has dropped the source ids; wrap the data set that the loader reads in SourceRows"
            )
        batch, sources = collate([item.item for item in items]), torch.tensor([item.source for item in items])
        return {**batch, SOURCE: sources} if isinstance(batch, Mapping) else [*batch, sources]

    return collated


def ray_views(
    dataset: Any, upstream: Upstream, classes: int, seed: int, *, source: str = SOURCE, batch: int | None = None
) -> Any:
    """A Ray data set of views, by the tasks of the cluster; the model stays in the training loop.

    Args:
        dataset: of columns ``inputs``, ``labels`` (class numbers) and the source ids.
        batch: rows of a block that the upstream sees together, among which it mixes.

    Returns:
        A Ray data set of columns ``inputs``, ``labels`` (distributions), ``source``, ``operation`` and ``strength``.
    """
    return dataset.map_batches(ViewsOfBatch(upstream, classes, seed, source), batch_format="numpy", batch_size=batch)


class ViewsOfBatch:
    """Views of a batch of columns: what :func:`ray_views` maps, and any other pipeline of columns may.

    What is drawn depends on the seed and the source ids alone.
    """

    def __init__(self, upstream: Upstream, classes: int, seed: int, source: str = SOURCE) -> None:
        self._upstream, self._classes, self._seed, self._source = upstream, classes, seed, source

    def __call__(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Columns of views.

        Raises:
            DataError: a column is missing.
        """
        missing = [name for name in ("inputs", "labels", self._source) if name not in columns]
        if missing:
            raise DataError(f"views: the batch has no column {missing[0]!r}; it has {', '.join(columns)}")
        ids = columns[self._source].astype(np.int64)
        labels = torch.nn.functional.one_hot(torch.from_numpy(columns["labels"].astype(np.int64)), self._classes)
        random = seeds.stream(self._seed, "views", ids.tobytes().hex())
        views = self._upstream(torch.from_numpy(np.ascontiguousarray(columns["inputs"])), labels.float(), random)
        return {
            "inputs": views.inputs.numpy(),
            "labels": views.labels.numpy(),
            self._source: ids[views.sources.numpy()],
            "operation": np.array(views.names)[views.operations.numpy()],
            "strength": views.strengths.numpy(),
        }
