"""Exchange label counts and pseudo-images before training (specification 2.2, steps 1 to 4).

The server asks owners for mixups and hands them on to others; of noise images it only says how many. What owners send is
checked before anybody is given it: an owner that sends something else counts as one that failed.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from rayworks.core.errors import DataError
from rayworks.core.seeds import derive_small
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.messages.records import ARRAYS, CONFIG, METRICS, arrays_of, number, numbers, to_record
from rayworks.systems.federation.rounds.client_app import EDITION
from rayworks.systems.federation.rounds.clients import MEANS
from rayworks.systems.federation.training import label_balance

Counts = NDArray[np.int64]
POLL_SECONDS, PATIENCE_SECONDS = 0.05, 60.0
"""Seconds between two looks for clients, and until training begins without the missing ones."""
LABEL_ERROR = 1e-3
"""Tolerance of the sum of a row of soft labels."""


@dataclass(frozen=True)
class Members:
    """The nodes that take part."""

    nodes: Mapping[int, int]
    """Partition to node."""
    counts: Counts
    """``(C, K)`` examples of each label, by partition; zeros for a client that did not answer."""
    shape: tuple[int, ...]
    """Shape of one input."""

    @property
    def clients(self) -> int:
        """C."""
        return len(self.counts)

    @property
    def partition_of(self) -> dict[int, int]:
        """Node to partition."""
        return {node: partition for partition, node in self.nodes.items()}


@dataclass
class Demand:
    """Pseudo-images of each label by where they come from, each ``(C, K)``."""

    orders: Counts
    """``(rows, 4)`` owner, client, label, count: mixups through the pool."""
    local: Counts
    """Mixups of the client's own examples."""
    noise: Counts
    copies: Counts

    @property
    def total(self) -> int:
        """Pseudo-images of all kinds."""
        return int(self.orders[:, 3].sum() + self.local.sum() + self.noise.sum() + self.copies.sum())


def ask(grid: Grid, messages: Iterable[Message], partition_of: Mapping[int, int]) -> dict[int, RecordDict]:
    """Send and wait; the contents of good answers by partition, in its order."""
    replies = grid.send_and_receive(list(messages))
    answers = {partition_of[reply.metadata.src_node_id]: reply.content for reply in replies if reply.has_content()}
    return dict(sorted(answers.items()))


def connected(grid: Grid, clients: int, patience_seconds: float) -> list[int]:
    """Nodes in ascending order, once there are ``clients`` of them or patience is over."""
    deadline = time.monotonic() + patience_seconds
    while len(nodes := sorted(grid.get_node_ids())) < clients and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return nodes


def describe(grid: Grid, clients: int, patience_seconds: float = PATIENCE_SECONDS) -> Members:
    """Ask every node for its partition and its counts of labels; whoever is there when patience is over takes part.

    Raises:
        DataError: nobody answers, two nodes have one partition, or the numbers of labels or shapes of inputs differ.
    """
    identities = connected(grid, clients, patience_seconds)
    messages = [Message(RecordDict(), node, "query.describe", group_id="0") for node in identities]
    answers = ask(grid, messages, {node: node for node in identities})
    if not answers:
        raise DataError("clients: none of them could say what it holds; see their log, or start some")
    nodes: dict[int, int] = {}
    found: dict[int, list[int]] = {}
    shapes: set[tuple[int, ...]] = set()
    for node, content in answers.items():
        partition = int(number(content.metric_records[METRICS], "partition"))
        if partition in nodes:
            raise DataError(f"partition-id: {partition} is that of two nodes; give every node its own")
        nodes[partition], found[partition] = node, numbers(content, METRICS, "counts")
        shapes.add(tuple(numbers(content, METRICS, "shape")))
    labels = {len(counts) for counts in found.values()}
    if len(labels) != 1:
        raise DataError(f"clients: they differ in the number of labels ({sorted(labels)}); give all the same data")
    if len(shapes) != 1:
        raise DataError(f"clients: their inputs differ in shape ({sorted(shapes)}); give all the same data")
    counts = np.zeros((max(max(nodes) + 1, clients), labels.pop()), np.int64)
    for partition, row in found.items():
        counts[partition] = row
    return Members(dict(sorted(nodes.items())), counts, shapes.pop())


def demand(config: Config, counts: Counts, seed: int) -> Demand:
    """How many pseudo-images every client is to have, and of which kind.

    Mixups of a label that no other client owns are made by the client itself if it has the label, and are noise else. Where
    mixups stay with their client, labels that it lacks come from noise.
    """
    balance = config.balance
    nothing = np.zeros_like(counts)
    present = label_balance.present_labels(counts)
    missing = label_balance.deficits(counts, present, balance) if balance.level else nothing
    if balance.source == "owned":
        return Demand(np.zeros((0, 4), np.int64), nothing, nothing, missing * (counts > 0))
    owned = counts > 0
    mixups, noise = label_balance.split(missing, counts, balance.mixup_share)
    if config.mixup.sharing == "local":
        return Demand(np.zeros((0, 4), np.int64), mixups * owned, noise + mixups * ~owned, nothing)
    plan = label_balance.pool_plan(counts, mixups, derive_small(seed, "pool-plan"))
    return Demand(plan.orders, plan.unmet * owned, noise + plan.unmet * ~owned, nothing)


def distribute(grid: Grid, members: Members, config: Config, seed: int, edition: int) -> int:
    """Build the pool and hand out pseudo-images, and FedMix's means; returns the number of pseudo-images.

    Where an owner fails or sends no valid encoding, its clients get noise in place of its mixups, which counts too.

    Raises:
        DataError: no client has any in the end.
    """
    wanted = demand(config, members.counts, seed)
    pool = _collect(grid, members, wanted, edition)
    means = _means(grid, members, config) if config.local.objective == "fedmix" else None
    if wanted.total == 0 and means is None:
        return 0
    messages = []
    for partition, node in members.nodes.items():
        kinds = {"local-mixups": wanted.local, "noise": wanted.noise, "copies": wanted.copies}
        counts = {name: kind[partition].tolist() for name, kind in kinds.items()}
        content = RecordDict({CONFIG: ConfigRecord({EDITION: edition, **counts})})
        if partition in pool:
            content[ARRAYS] = _joined(pool[partition])
        if means is not None:
            content[MEANS] = means
        messages.append(Message(content, node, "train.receive", group_id="0"))
    replies = list(grid.send_and_receive(messages))
    reasons = [reply.error.reason for reply in replies if not reply.has_content()]
    if replies and len(reasons) == len(replies):
        raise DataError(f"pseudo-images: no client could take or make its own; the first says: {reasons[0]}")
    return sum(_taken(reply.content) for reply in replies if reply.has_content())


def _taken(content: RecordDict) -> int:
    """How many pseudo-images a client says it has; 0 if it says nothing of use."""
    try:
        return int(number(content.metric_records[METRICS], "num-examples"))
    except (DataError, KeyError):
        return 0


def _collect(grid: Grid, members: Members, wanted: Demand, edition: int) -> dict[int, list[dict[str, NDArray[Any]]]]:
    """Mixups by client: every owner is asked once for all it is to encode; one that fails leaves its rows to noise."""
    by_owner: dict[int, list[tuple[int, int, int]]] = {}
    for owner, client, label, count in wanted.orders.tolist():
        by_owner.setdefault(owner, []).append((label, client, count))
    messages = []
    for owner, rows in by_owner.items():
        rows.sort()
        labels = sorted({label for label, _, _ in rows})
        counts = [sum(count for other, _, count in rows if other == label) for label in labels]
        settings = ConfigRecord({EDITION: edition, "labels": labels, "counts": counts})
        messages.append(Message(RecordDict({CONFIG: settings}), members.nodes[owner], "train.pool", group_id="0"))
    answers = ask(grid, messages, members.partition_of) if messages else {}
    pool: dict[int, list[dict[str, NDArray[Any]]]] = {}
    for owner, rows in by_owner.items():
        ordered = sum(count for _, _, count in rows)
        made = _usable(owner, answers[owner], members, ordered) if owner in answers else None
        start = 0
        for label, client, count in rows:
            if made is None:
                wanted.noise[client, label] += count
                continue
            part = {name: array[start : start + count] for name, array in made.items()}
            pool.setdefault(client, []).append(part)
            start += count
    return pool


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> ArrayRecord:
    """Inputs and labels of all, one after the other."""
    return to_record({name: np.concatenate([part[name] for part in parts]) for name in ("inputs", "labels")})


def _means(grid: Grid, members: Members, config: Config) -> ArrayRecord | None:
    """FedMix: all clients' means in one record, shuffled by nothing: the order is that of the partitions.

    How many a client has to give is known only where label counts are exact.
    """
    sizes = members.counts.sum(1)
    rows = np.maximum(sizes // config.local.fedmix_batch, np.minimum(sizes, 1)).tolist()
    exact = config.privacy.histogram_epsilon == 0
    messages = [
        Message(RecordDict({CONFIG: ConfigRecord({EDITION: 0, "means": 1})}), node, "train.pool", group_id="0")
        for node in members.nodes.values()
    ]
    answers = ask(grid, messages, members.partition_of)
    usable = [
        _usable(partition, content, members, rows[partition] if exact else None)
        for partition, content in answers.items()
    ]
    found = [arrays for arrays in usable if arrays is not None and len(arrays["inputs"])]
    return _joined(found) if found else None


def _usable(owner: int, content: RecordDict, members: Members, rows: int | None) -> dict[str, NDArray[Any]] | None:
    """The inputs and labels that a client shares; None, and a warning, where they are not what was asked for."""
    try:
        arrays = arrays_of(content)
        require_encodings(arrays, members.shape, members.counts.shape[1], rows)
    except DataError as error:
        logging.getLogger(__name__).warning("client %d: what it shares is not used: %s", owner, error)
        return None
    return arrays


def require_encodings(
    arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...], classes: int, rows: int | None
) -> None:
    """Refuse encodings or means that are unfit for other clients.

    Args:
        arrays: ``inputs`` (n, *shape), uint8 images or floating-point features in [0, 1], and soft ``labels`` (n, classes).
        rows: n that was ordered; None: any, as for means.

    Raises:
        DataError: says what is wrong.
    """
    if arrays.keys() != {"inputs", "labels"}:
        raise DataError(f"encodings: are arrays {sorted(arrays)}; send inputs and labels")
    inputs, labels = arrays["inputs"], arrays["labels"]
    wanted = len(labels) if rows is None and labels.ndim else rows
    if inputs.shape != (wanted, *shape) or labels.shape != (wanted, classes):
        raise DataError(
            f"encodings: inputs {inputs.shape} and labels {labels.shape} do not fit; send {wanted} rows of "
            f"inputs {shape} and of {classes} labels"
        )
    images = len(shape) == 3
    if not (inputs.dtype == np.uint8 if images else inputs.dtype.kind == "f" and _within_unit(inputs)):
        raise DataError(f"encodings: inputs must be {'bytes' if images else 'numbers in [0, 1]'}; scale them")
    if labels.dtype.kind != "f" or not _within_unit(labels) or np.abs(labels.sum(1) - 1).max(initial=0) > LABEL_ERROR:
        raise DataError("encodings: rows of labels must be shares of at least 0 that sum to 1; normalise them")


def _within_unit(values: NDArray[Any]) -> bool:
    """Whether all lie in [0, 1], which no NaN does; a little above is rounding."""
    return bool(np.all((values >= 0) & (values <= 1 + LABEL_ERROR)))
