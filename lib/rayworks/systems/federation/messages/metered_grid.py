"""A Flower grid that counts the bytes of its messages."""

from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from rayworks.systems.federation.messages.records import content_bytes


class MeteredGrid(Grid):
    """Another grid's messages, their bytes counted in ``down`` and ``up``."""

    def __init__(self, inner: Grid) -> None:
        self._inner, self.down, self.up = inner, 0, 0

    def stream(self, messages: Iterable[Message], timeout: float | None = None) -> Iterator[Message]:
        """Replies as they come, where the other grid can."""
        sent = list(messages)
        self.down += sum(map(content_bytes, sent))
        # What hands out replies as they come need not have them all in memory.
        ask = getattr(self._inner, "stream", self._inner.send_and_receive)
        for reply in ask(sent, timeout=timeout):
            self.up += content_bytes(reply)
            yield reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """All replies."""
        return list(self.stream(messages, timeout))

    def set_run(self, run: Run) -> None:
        """Pass on to the other grid."""
        self._inner.set_run(run)

    @property
    def run(self) -> Run:
        """Pass on to the other grid."""
        return self._inner.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Pass on to the other grid."""
        return self._inner.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Pass on to the other grid."""
        return self._inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Pass on to the other grid, not counted."""
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pass on to the other grid, not counted."""
        return self._inner.pull_messages(message_ids)
