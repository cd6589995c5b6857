"""Partition training examples among clients: the label-skewed partitions of the federated literature.

Every scheme gives each example one owner, or none. Clients may be left without examples.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.systems.federation.config import DataSection
from rayworks.systems.federation.data.examples import Examples, Indices

NOBODY = -1
TRIES = 10
"""Draws of a Dirichlet partition before the least number of examples counts as out of reach."""


def partition(train: Examples, data: DataSection, seed: int) -> list[Indices]:
    """Sorted indices of each client's examples, disjoint.

    ``labels`` is #C=k of NIID-Bench (Li et al. 2022): client i has label i mod K and k - 1 drawn ones, and the holders of a
    label divide its examples evenly; examples of labels that nobody holds are left out. ``dirichlet`` draws the shares of
    the clients in each label (Hsu et al. 2019), ``shards`` deals runs of the examples sorted by label (McMahan et al. 2017).

    Raises:
        ConfigError: naming the setting that these examples do not allow.
    """
    generator = seeds.stream(seed, "partition", data.partition)
    if data.partition == "natural":
        if train.groups is None:
            raise ConfigError(f"data.partition natural: {data.source} has no natural clients; choose another partition")
        return _parts(train.groups, len(train.group_names))
    schemes = {"labels": _by_labels, "dirichlet": _by_dirichlet, "shards": _by_shards, "iid": _evenly}
    return _parts(schemes[data.partition](train, data, generator), data.clients)


def label_counts(train: Examples, parts: Sequence[Indices]) -> NDArray[np.int64]:
    """(clients, K): examples of each label at each client."""
    classes = len(train.classes)
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    labels = train.labels[np.concatenate([*parts, np.zeros(0, np.int64)])]
    counts = np.bincount(owners * classes + labels, minlength=len(parts) * classes)
    return counts.reshape(len(parts), classes).astype(np.int64)


def _parts(owners: NDArray[np.int64], clients: int) -> list[Indices]:
    order = np.argsort(owners, kind="stable").astype(np.int64)
    bounds = np.searchsorted(owners[order], np.arange(clients + 1))
    return [order[low:high] for low, high in pairwise(bounds)]


def _by_labels(train: Examples, data: DataSection, generator: np.random.Generator) -> NDArray[np.int64]:
    classes, wanted = len(train.classes), data.labels_per_client
    if wanted > classes:
        raise ConfigError(f"data.labels_per_client {wanted}: there are only {classes} labels; lower it")
    keys = generator.random((data.clients, classes))
    keys[np.arange(data.clients), np.arange(data.clients) % classes] = -1.0
    held = np.argsort(keys, axis=1)[:, :wanted]
    owners = np.full(len(train), NOBODY, np.int64)
    for label in range(classes):
        holders = generator.permutation(np.flatnonzero((held == label).any(1)))
        members = generator.permutation(np.flatnonzero(train.labels == label))
        if len(holders):
            owners[members] = holders[np.arange(len(members)) * len(holders) // max(len(members), 1)]
    return owners


def _by_dirichlet(train: Examples, data: DataSection, generator: np.random.Generator) -> NDArray[np.int64]:
    if data.min_examples * data.clients > len(train):
        raise ConfigError(
            f"data.min_examples {data.min_examples}: {data.clients} clients would need "
            f"{data.min_examples * data.clients} examples, there are {len(train)}; lower it or data.clients"
        )
    for _ in range(TRIES):
        owners = _dirichlet_draw(train, data, generator)
        if np.bincount(owners, minlength=data.clients).min() >= data.min_examples:
            return owners
    raise ConfigError(
        f"data.min_examples {data.min_examples}: not reached in {TRIES} draws; lower it or raise data.concentration"
    )


def _dirichlet_draw(train: Examples, data: DataSection, generator: np.random.Generator) -> NDArray[np.int64]:
    owners = np.full(len(train), NOBODY, np.int64)
    sizes = np.zeros(data.clients, np.int64)
    for label in range(len(train.classes)):
        members = generator.permutation(np.flatnonzero(train.labels == label))
        shares = generator.dirichlet(np.full(data.clients, data.concentration))
        if data.self_balancing:
            open_ = sizes < len(train) / data.clients
            shares = np.where(open_, shares, 0.0)
            shares = shares / shares.sum() if shares.sum() > 0 else open_ / open_.sum()
        bounds = np.floor(np.cumsum(shares)[:-1] * len(members) + 1e-9)
        owners[members] = np.searchsorted(bounds, np.arange(len(members)), side="right")
        sizes += np.bincount(owners[members], minlength=data.clients)
    return owners


def _by_shards(train: Examples, data: DataSection, generator: np.random.Generator) -> NDArray[np.int64]:
    shards = data.clients * data.labels_per_client
    if shards > len(train):
        raise ConfigError(
            f"data.labels_per_client {data.labels_per_client}: {data.clients} clients need {shards} shards of "
            f"{len(train)} examples; lower it or data.clients"
        )
    order = generator.permutation(len(train))
    order = order[np.argsort(train.labels[order], kind="stable")]
    dealt = generator.permutation(shards) // data.labels_per_client
    owners = np.empty(len(train), np.int64)
    owners[order] = dealt[np.arange(len(train)) * shards // len(train)]
    return owners


def _evenly(train: Examples, data: DataSection, generator: np.random.Generator) -> NDArray[np.int64]:
    owners = np.empty(len(train), np.int64)
    owners[generator.permutation(len(train))] = np.arange(len(train)) % data.clients
    return owners
