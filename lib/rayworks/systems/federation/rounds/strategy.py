"""The server's part of a round as a Flower ``Strategy``, for stock Flower and for our own engine.

Cohorts are drawn over partitions by seed, and replies are reduced in the order of the partitions: neither node numbers nor
the order of arrival change a bit of the result.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.seeds import stream
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.messages.records import (
    ARRAYS,
    CONFIG,
    METRICS,
    arrays_of,
    number,
    to_arrays,
    to_record,
)
from rayworks.systems.federation.privacy import update_clipping
from rayworks.systems.federation.rounds.client_app import BOUND, ROUND
from rayworks.systems.federation.rounds.pool_exchange import Members, describe, distribute
from rayworks.systems.federation.training.aggregation import Arrays, ServerState, Update, aggregate, cast_like

Gradient = Callable[[Arrays], Arrays]
"""The gradient of the server's loss at a model."""


@dataclass
class Tally:
    """Replies and failures of a round's requests."""

    asked: list[int] = field(default_factory=list)
    """Partitions."""
    answered: list[int] = field(default_factory=list)
    """Those of them that sent something back, usable or not."""
    failed: dict[int, str] = field(default_factory=dict)
    """Partition to what kept it from answering, where it could say."""
    rejected: dict[int, str] = field(default_factory=dict)
    stragglers: int = 0
    losses: list[float] = field(default_factory=list)
    examples: list[int] = field(default_factory=list)
    within_bound: int = 0

    @property
    def loss(self) -> float:
        """Mean over the examples of those who answered; 0 where nobody has any."""
        total = sum(self.examples)
        products = zip(self.losses, self.examples, strict=True)
        return sum(loss * count for loss, count in products) / total if total else 0.0


class FederatedStrategy(Strategy):
    """FedAvg, FedProx, SCAFFOLD, FedNova, MOON or FedDyn over clients of :func:`client_app`, with pseudo-images.

    Args:
        clients: how many to wait for at the start, C; None for data.clients.
        gradient: balance.reweighting by the server's gradient: makes it from the model once a round.

    Raises:
        ConfigError: the server's gradient is asked for and not given.
    """

    def __init__(self, config: Config, seed: int, clients: int | None = None, gradient: Gradient | None = None) -> None:
        if config.weighs_pseudo_images and gradient is None:
            raise ConfigError("balance.reweighting: server-gradient needs a gradient; give the strategy one")
        self.config, self.seed = config, seed
        self.state = ServerState()
        self.bound = config.privacy.clip_norm
        self.members: Members | None = None
        self.tally = Tally()
        self.pseudo_images = 0
        self._gradient, self._sent = gradient, dict[str, Any]()
        self._metrics: dict[int, MetricRecord] = {}
        self._edition = -1
        self._clients = clients or config.data.clients

    def summary(self) -> None:
        """Log what is run."""
        log(INFO, "\t└──> %s over %s", self.config.strategy.name, self.config.data.source)

    def join(self, grid: Grid, edition: int = 0) -> Members:
        """Meet the clients and hand out the pseudo-images of an edition, unless both is done."""
        if self.members is None:
            self.members = describe(grid, self._clients)
        if edition != self._edition:
            self.pseudo_images = distribute(grid, self.members, self.config, self.seed, edition)
            self._edition = edition
        return self.members

    def edition(self, server_round: int) -> int:
        """How often pseudo-images were renewed before a round."""
        refresh = self.config.balance.refresh
        return (server_round - 1) // refresh if refresh else 0

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *arguments: Any, **options: Any) -> Result:
        """Start a training; unlike Flower's own start, which cannot aggregate securely.

        Raises:
            ConfigError: privacy.secure_aggregation is asked for.
        """
        if self.config.privacy.secure_aggregation:
            raise ConfigError("privacy.secure_aggregation: takes a server_app or a Federation, not the strategy alone")
        return super().start(grid, initial_arrays, *arguments, **options)

    def cohort(self, server_round: int) -> list[int]:
        """Partitions of a round, ascending: a share of those that answered at the start, at least one."""
        known = list(self.known.nodes)
        share = self.config.strategy.participation
        if share == 1:
            return known
        size = max(1, round(share * len(known)))
        chosen = stream(self.seed, "round", server_round, "cohort").choice(len(known), size, replace=False)
        return [known[index] for index in np.sort(chosen)]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages to the round's cohort; all share the same array records."""
        self.join(grid, self.edition(server_round))
        self._sent = to_arrays(arrays)
        settings: dict[str, Any] = {**config, ROUND: server_round}
        if self.config.privacy.clipping != "none":
            settings[BOUND] = self.bound
        records = {ARRAYS: arrays}
        if self.config.strategy.name == "scaffold":
            variate = {
                name: np.asarray(self.state.variate.get(name, np.zeros_like(value)), value.dtype)
                for name, value in self._sent.items()
            }
            records["variate"] = to_record(variate)
        if self._gradient is not None and self.config.weighs_pseudo_images:
            records["gradient"] = to_record(self._gradient(self._sent))
        self.tally, self._metrics = Tally(asked=self.cohort(server_round)), {}
        return self._messages("train", server_round, self.tally.asked, records, settings)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The next model, and the round's numbers; replies may stream in."""
        done = aggregate(
            self.config.strategy.name,
            self._sent,
            self._updates(replies),
            self.state,
            clients=self.known.clients,
            weighting=self.config.strategy.weighting,
            alpha=self.config.strategy.proximal_mu,
        )
        self.tally.rejected.update(done.rejected)
        for partition, reported in self._metrics.items():
            if partition not in done.rejected:
                self._count(reported)
        self.state = done.state
        weights = self._protected(server_round, done.weights, done.counted)
        metrics: dict[str, Any] = {
            "answered": len(self.tally.answered),
            "failed": len(self.tally.asked) - len(self.tally.answered),
            "rejected": len(self.tally.rejected),
            "stragglers": self.tally.stragglers,
            "loss": self.tally.loss,
        }
        return to_record(weights), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the round's cohort how the model does on its own real examples."""
        self.join(grid, self.edition(server_round))
        settings: dict[str, Any] = {**config, ROUND: server_round}
        return self._messages("evaluate", server_round, self.cohort(server_round), {ARRAYS: arrays}, settings)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Means over the clients' examples; None where nobody has any."""
        total, accuracy, loss = 0.0, 0.0, 0.0
        for _, reply in in_order(replies, self.known.partition_of, self.cohort(server_round)):
            if reply.has_content():
                record = reply.content.metric_records[METRICS]
                examples = number(record, "num-examples")
                total += examples
                accuracy += examples * number(record, "accuracy")
                loss += examples * number(record, "loss")
        if total == 0:
            return None
        return MetricRecord({"accuracy": accuracy / total, "loss": loss / total, "num-examples": int(total)})

    @property
    def known(self) -> Members:
        """The clients that answered at the start.

        Raises:
            DataError: nobody was asked yet.
        """
        if self.members is None:
            raise DataError("strategy: it has not met its clients; call join with the grid first")
        return self.members

    def _messages(
        self, kind: str, server_round: int, partitions: list[int], records: Mapping[str, ArrayRecord], settings: Any
    ) -> list[Message]:
        """All share the same array records."""
        nodes, group = self.known.nodes, str(server_round)
        return [
            Message(RecordDict({**records, CONFIG: ConfigRecord(settings)}), nodes[partition], kind, group_id=group)
            for partition in partitions
        ]

    def _updates(self, replies: Iterable[Message]) -> Iterator[Update]:
        for partition, reply in in_order(replies, self.known.partition_of, self.tally.asked):
            if not reply.has_content():
                self.tally.failed[partition] = reply.error.reason or "gave no reason"
                continue
            self.tally.answered.append(partition)
            try:
                update = _update(partition, reply)
                self._metrics[partition] = reply.content.metric_records[METRICS]
            except (DataError, KeyError) as error:
                self.tally.rejected[partition] = str(error)
                continue
            yield update

    def _count(self, metrics: MetricRecord) -> None:
        """Count an update that goes into the mean."""
        tally = self.tally
        examples, loss = int(number(metrics, "num-examples")), number(metrics, "loss")
        if examples:
            tally.losses.append(loss)
            tally.examples.append(examples)
            tally.within_bound += int(number(metrics, "within-bound"))
        tally.stragglers += int(number(metrics, "straggler"))

    def take_mean(self, server_round: int, mean: Arrays | None, metrics: Mapping[int, MetricRecord]) -> Arrays:
        """The next model from a mean that was made elsewhere, as secure aggregation does; None leaves the model.

        It is of the round that :meth:`configure_train` was last called for; metrics are by node, of those that took part.
        """
        for node, record in metrics.items():
            self.tally.answered.append(self.known.partition_of[node])
            self._count(record)
        if mean is None:
            return dict(self._sent)
        return self._protected(server_round, cast_like(mean, self._sent), len(self.tally.examples))

    def _protected(self, server_round: int, weights: Arrays, clients: int) -> Arrays:
        """Noise on the mean, and the next bound."""
        privacy = self.config.privacy
        if privacy.clipping == "none" or clients == 0:
            return weights
        noisy = privacy.noise_multiplier > 0
        if noisy:
            multiplier = privacy.noise_multiplier
            if privacy.clipping == "adaptive":
                multiplier = update_clipping.adaptive_multiplier(multiplier, len(self.tally.asked))
            deviation = update_clipping.noise_deviation(multiplier, self.bound, clients)
            weights = update_clipping.noised(weights, deviation, self._draw(server_round, "noise"))
        if privacy.clipping == "adaptive":
            draw, within = self._draw(server_round, "count") if noisy else None, self.tally.within_bound
            rates = privacy.clip_quantile, privacy.clip_rate
            self.bound = update_clipping.adapted_bound(self.bound, within, clients, *rates, draw)
        return weights

    def _draw(self, server_round: int, purpose: str) -> np.random.Generator:
        return stream(self.seed, "round", server_round, purpose)


def in_order(
    replies: Iterable[Message], partition_of: dict[int, int], partitions: list[int]
) -> Iterator[tuple[int, Message]]:
    """Replies in the order of the partitions, each as soon as all before it are there or known to be missing."""
    waiting: dict[int, Message] = {}
    expected = iter(partitions)
    following = next(expected, None)
    for reply in replies:
        waiting[partition_of[reply.metadata.src_node_id]] = reply
        while following in waiting:
            yield following, waiting.pop(following)
            following = next(expected, None)
    yield from sorted(waiting.items())


def _update(partition: int, reply: Message) -> Update:
    metrics = reply.content.metric_records[METRICS]
    variate = arrays_of(reply.content, "variate") if "variate" in reply.content else None
    examples, normaliser = int(number(metrics, "num-examples")), number(metrics, "normaliser")
    return Update(partition, arrays_of(reply.content), examples, normaliser, variate)
