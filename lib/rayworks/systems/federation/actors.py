"""The federation's own engine: persistent actors that hold the client app, behind Flower's ``Grid``.

One call carries a slice of clients. Arrays that many messages share, a round's model above all, lie in the object store once.
What clients remember belongs to the driver, record by record; actors keep copies and fetch only those that they lack. So a
dead actor or node loses nothing, and who computed what changes no result. What an app is handed is its own: it may change a
message or its state in place, as if both had come over a network.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from ray.util.metrics import Gauge

from rayworks.core.config import ComputeSection
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.actor_pool import ActorPool, ItemFailed
from rayworks.runtime.placement import worker_options
from rayworks.systems.federation.messages.records import Record, all_private, private
from rayworks.systems.federation.rounds.federated_training import RoundRecord

Reference: TypeAlias = "ray.ObjectRef[Any]"
SERVER = 1
"""Number of the server; clients' nodes are their partitions plus 2."""
FIRST_NODE = 2
CALLS_PER_WORKER = 4
CLIENTS_SHOWN = 20
"""Clients whose accuracy is a metric of its own."""
CLIENTS_KEPT = 64
"""Whose states an actor keeps beside those it is asked for."""
SHARED_RECORDS_KEPT = 8
"""Shared records that an actor keeps, of the latest rounds."""


@dataclass
class Request:
    """One client's message, on its way to an actor."""

    message: Message
    """The message without the records below."""
    shared: dict[str, Reference]
    """Record to where it lies."""
    state: dict[str, tuple[str, Reference]]
    """What the client remembers: the message that made it, and where it lies."""
    node_config: dict[str, Any]
    """Of the client alone, beside what :class:`Served` says of all."""


@dataclass
class Answer:
    """The client's reply."""

    reply: Message
    remembered: dict[str, Record]
    """Records of the client's state that are new."""
    forgotten: list[str]


def _node(request: Request) -> int:
    return request.message.metadata.dst_node_id


@dataclass(frozen=True)
class Served:
    """The federation that a call belongs to."""

    identity: str
    factory: Callable[..., ClientApp]
    """Makes its client app."""
    arguments: tuple[Any, ...]
    clients: int
    run_config: Mapping[str, Any]


class ClientHost:
    """Answers for clients inside an actor, of one federation at a time: what it keeps of it is a cache."""

    def __init__(self) -> None:
        limit_torch_threads()
        self._identity = ""
        self._app = ClientApp()
        self._shared: dict[Reference, Record] = {}
        self._states: dict[int, dict[str, tuple[str, Record]]] = {}

    def answer(self, call: tuple[Served, list[Request]]) -> list[Answer]:
        """One after the other; a client's exception is its error reply."""
        served, requests = call
        if served.identity != self._identity:
            self._app = served.factory(*served.arguments)
            self._identity, self._shared, self._states = served.identity, {}, {}
        self._fetch(requests)
        return [self._answer(request, served) for request in requests]

    def _fetch(self, requests: list[Request]) -> None:
        """Bring what is not here: shared records, and remembered ones that were made elsewhere."""
        asked = {_node(request) for request in requests}
        for node in [node for node in self._states if node not in asked][:-CLIENTS_KEPT]:
            del self._states[node]
        needed = dict.fromkeys(reference for request in requests for reference in request.shared.values())
        absent = [reference for reference in needed if reference not in self._shared]
        self._shared.update(zip(absent, ray.get(absent), strict=True))
        for reference in [reference for reference in self._shared if reference not in needed][:-SHARED_RECORDS_KEPT]:
            del self._shared[reference]
        missing = [
            (_node(request), name, maker, reference)
            for request in requests
            for name, (maker, reference) in request.state.items()
            if self._states.get(_node(request), {}).get(name, (None, None))[0] != maker
        ]
        found = ray.get([reference for _, _, _, reference in missing])
        for (node, name, maker, _), record in zip(missing, found, strict=True):
            self._states.setdefault(node, {})[name] = (maker, record)

    def _answer(self, request: Request, served: Served) -> Answer:
        message, node = request.message, _node(request)
        shared = {name: private(self._shared[reference]) for name, reference in request.shared.items()}
        message.content = RecordDict({**message.content, **shared})
        held = self._states.setdefault(node, {})
        before = {name: held[name][1] for name in request.state}
        settings = {"partition-id": node - FIRST_NODE, "num-partitions": served.clients, **request.node_config}
        state = all_private(RecordDict(dict(before)))
        context = Context(message.metadata.run_id, node, settings, state, dict(served.run_config))
        try:
            reply = self._app(message, context)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Answer(Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message), {}, [])
        # By content: an app may change a record that it holds.
        new = {name: private(record) for name, record in context.state.items() if before.get(name) != record}
        if reply.has_content():
            reply.content = all_private(reply.content)
        held.update({name: (message.metadata.message_id, record) for name, record in new.items()})
        return Answer(reply, new, [name for name in before if name not in context.state])


ClientPool = ActorPool[tuple[Served, list[Request]], list[Answer]]


def client_pool(compute: ComputeSection, name: str = "federation") -> ClientPool:
    """Actors for the clients of any number of federations, one after the other or in turns."""
    return ActorPool(ClientHost, size=compute.workers, name=name, options=worker_options(compute))


class RayGrid(Grid):
    """The clients of one federation on a pool of actors, as a Flower grid.

    Args:
        pool: pool of :func:`client_pool`; it may serve other grids too, whose caches an actor drops at every change.
        workers: its number of actors.
        factory: makes the client app inside an actor.
        clients: number of partitions; client i is node ``i + 2``.
        clients_per_task: clients of one call; None for four calls per worker.
        run_config: what every client's context has as ``run_config``.
        node_config: of each client, beside ``partition-id`` and ``num-partitions``.
    """

    def __init__(
        self,
        pool: ClientPool,
        workers: int,
        factory: Callable[..., ClientApp],
        *arguments: Any,
        clients: int,
        clients_per_task: int | None = None,
        run_config: Mapping[str, Any] | None = None,
        node_config: Callable[[int], Mapping[str, Any]] | None = None,
    ) -> None:
        self._pool, self._clients, self._workers, self._per_task = pool, clients, workers, clients_per_task
        self._served = Served(os.urandom(8).hex(), factory, arguments, clients, dict(run_config or {}))
        self._node_config = node_config or (lambda partition: {})
        self._states: dict[int, dict[str, tuple[str, Reference]]] = {}
        self._shared: dict[int, tuple[Record, Reference]] = {}
        self._deadly: dict[int, Error] = {}
        self._identities = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(run_id=int.from_bytes(os.urandom(4), "little") + 1)

    def get_node_ids(self) -> Iterable[int]:
        """All clients."""
        return range(FIRST_NODE, FIRST_NODE + self._clients)

    def stream(self, messages: Iterable[Message], timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of the messages, each as soon as those before it are there.

        A client that fails answers with an error, an actor that dies is replaced, and a client that takes every actor with it
        is found by asking it alone, and not asked again. A node that does not exist answers that it is not there.

        Args:
            messages: to clients.
            timeout: seconds that one call may take; a client that takes longer alone is left out of this round, with an
                error for its answer. None: for ever.
        """
        sent = list(messages)
        for message, answer in zip(sent, self._answers(self._requests(sent), timeout), strict=True):
            self._remember(message.metadata.dst_node_id, answer)
            answer.reply.metadata.__dict__["_message_id"] = str(next(self._identities))
            yield answer.reply

    def _answers(self, requests: list[Request], timeout: float | None) -> Iterator[Answer]:
        """Answers in the order of the requests."""
        size = self._per_task or max(1, -(-len(requests) // (CALLS_PER_WORKER * self._workers)))
        left_out = {
            node: Error(ErrorCode.NODE_UNAVAILABLE, "there is no such node") for node in self._unknown(requests)
        }
        done = 0
        while done < len(requests):
            out = {**self._deadly, **left_out}
            end = next((at for at in range(done, len(requests)) if _node(requests[at]) in out), len(requests))
            waiting = requests[done:end]
            slices = [(self._served, waiting[start : start + size]) for start in range(0, len(waiting), size)]
            first = done
            calls = self._pool.map("answer", slices, seconds_per_call=timeout, retry_late=False)
            try:
                for answers in calls:
                    done += len(answers)
                    yield from answers
            except ItemFailed as error:
                if size == 1:
                    culprit = _node(requests[first + error.index])
                    if error.late:
                        left_out[culprit] = Error(ErrorCode.MESSAGE_UNAVAILABLE, f"no answer in time ({error})")
                    else:
                        reason = f"its process dies each time; not asked again ({error})"
                        self._deadly[culprit] = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
                size = 1
                continue
            if done < len(requests):
                yield Answer(Message(out[_node(requests[done])], reply_to=requests[done].message), {}, [])
                done += 1

    def _unknown(self, requests: list[Request]) -> list[int]:
        known = range(FIRST_NODE, FIRST_NODE + self._clients)
        return [node for node in map(_node, requests) if node not in known]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """All replies, in the order of the messages."""
        return list(self.stream(messages, timeout))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answer at once and keep the replies for :meth:`pull_messages`."""
        sent = list(messages)
        for reply in self.stream(sent):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies to those messages that are there; each is handed out once."""
        return [self._replies.pop(identity) for identity in message_ids if identity in self._replies]

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message; Flower prefers ``Message(...)``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Run) -> None:
        """Change the run that messages belong to."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def _requests(self, messages: list[Message]) -> list[Request]:
        """Take shared array records out of messages, and number those."""
        uses: dict[int, int] = {}
        for message in messages:
            for arrays in message.content.array_records.values():
                uses[id(arrays)] = uses.get(id(arrays), 0) + 1
        self._shared = {key: entry for key, entry in self._shared.items() if uses.get(key, 0) > 1}
        requests = []
        for message in messages:
            metadata = message.metadata.__dict__
            metadata.update(_run_id=self._run.run_id, _src_node_id=SERVER, _message_id=str(next(self._identities)))
            own: dict[str, Any] = {}
            shared: dict[str, Reference] = {}
            for name, record in message.content.items():
                if uses.get(id(record), 0) > 1:
                    shared[name] = self._stored(record)
                else:
                    # Messages may share a config that a mod changes at the other end.
                    own[name] = private(record)
            light = Message(RecordDict(own), message.metadata.dst_node_id, message.metadata.message_type)
            light.__dict__["_metadata"] = message.metadata
            node = message.metadata.dst_node_id
            state, settings = dict(self._states.get(node, {})), dict(self._node_config(node - FIRST_NODE))
            requests.append(Request(light, shared, state, settings))
        return requests

    def _stored(self, record: Record) -> Reference:
        if id(record) not in self._shared:
            self._shared[id(record)] = (record, ray.put(record))
        return self._shared[id(record)][1]

    def _remember(self, node: int, answer: Answer) -> None:
        held = self._states.setdefault(node, {})
        for name in answer.forgotten:
            held.pop(name, None)
        for name, record in answer.remembered.items():
            held[name] = (answer.reply.metadata.reply_to_message_id, ray.put(record))


class RoundGauges:
    """The newest round of a run as metrics of Ray, which its dashboard and Prometheus read."""

    def __init__(self, run: str) -> None:
        self._run = run
        described = {
            "round": "rounds done",
            "accuracy": "on held-out examples",
            "bytes_down": "from the server in the round",
            "bytes_up": "to the server in the round",
            "clients_failed": "without a good answer in the round",
        }
        self._values = {name: self._gauge(name, description) for name, description in described.items()}
        self._clients = self._gauge("client_accuracy", "on a client's labels", "client")

    def _gauge(self, name: str, description: str, *tags: str) -> Gauge:
        return Gauge(f"rayworks_federation_{name}", description=description, tag_keys=("run", "training", *tags))

    def set(self, training: str, record: RoundRecord) -> None:
        """Publish a round of a training."""
        tags = {"run": self._run, "training": training}
        for name, gauge in self._values.items():
            value = record.failed if name == "clients_failed" else getattr(record, name)
            if value is not None:
                gauge.set(value, tags)
        for client, accuracy in enumerate((record.client_accuracies or ())[:CLIENTS_SHOWN]):
            if accuracy is not None:
                self._clients.set(accuracy, {**tags, "client": str(client)})
