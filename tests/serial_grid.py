"""A Flower grid that answers every message in this process, one after the other, and may shuffle the replies."""

from collections.abc import Iterable

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class SerialGrid(Grid):
    """Nodes ``first``, ``first + step``, ... are partitions 0, 1, ..."""

    def __init__(
        self, app: ClientApp, clients: int, shuffle_seed: int | None = None, first: int = 2, step: int = 1
    ) -> None:
        self._app, self._shuffle = app, shuffle_seed
        self._nodes = {first + step * partition: partition for partition in range(clients)}
        self.states = {node: RecordDict() for node in self._nodes}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self._nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = [self._answer(message) for message in messages]
        if self._shuffle is not None:
            order = np.random.default_rng([self._shuffle, self._sent]).permutation(len(replies))
            replies = [replies[place] for place in order]
        return replies

    def _answer(self, message: Message) -> Message:
        self._sent += 1
        message.metadata.__dict__.update(_run_id=1, _src_node_id=1, _message_id=str(self._sent))
        message.content = RecordDict({name: record.copy() for name, record in message.content.items()})
        node = message.metadata.dst_node_id
        context = Context(1, node, {"partition-id": self._nodes[node]}, self.states[node], {})
        try:
            return self._app(message, context)
        except Exception as error:
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error)), reply_to=message)

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError
