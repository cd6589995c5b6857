"""Policy and critics in the process of the search: one batched call across all trees."""

from collections.abc import Sequence

from rayworks.core.errors import DataError
from rayworks.lm.decoding import Decoding
from rayworks.lm.rows import Row
from rayworks.lm.transformers_engine import as_generation
from rayworks.systems.reasoning.search.requests import Completion, Critic, Draw, Scored

Numbers = list[list[float]]
"""By critic, one number per text."""


class LocalPolicy:
    """Completions by a decode loop: rows of all trees together, a token of each per step."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._tickets: dict[int, int] = {}
        self._refused: list[tuple[int, DataError]] = []

    def submit(self, ticket: int, uid: str, request: Draw) -> None:
        """Queue a completion."""
        prompt = request.request.prompt
        assert not isinstance(prompt, str)
        row = Row(request.request, (prompt,))
        try:
            self._decoding.submit(row)
        except DataError as error:
            self._refused.append((ticket, error))
        else:
            self._tickets[id(row)] = ticket

    def collect(self, seconds: float) -> list[tuple[int, Completion | Exception]]:
        """Draw one token for all rows; those that finished with it."""
        found: list[tuple[int, Completion | Exception]] = list(self._refused)
        self._refused.clear()
        if found or self._decoding.idle:
            return found
        for row in self._decoding.step():
            ticket = self._tickets.pop(id(row))
            found.append((ticket, row.error or Completion.of(as_generation(row))))
        return found


class LocalScorer:
    """Scores by critics in this process, all texts that wait in one batch."""

    def __init__(self, critics: Sequence[Critic]) -> None:
        self._critics = critics
        self._waiting: list[tuple[int, Sequence[Scored]]] = []

    def submit(self, ticket: int, uid: str, request: Sequence[Scored]) -> None:
        """Queue texts."""
        self._waiting.append((ticket, request))

    def collect(self, seconds: float) -> list[tuple[int, Numbers | Exception]]:
        """Score what waits. Where the whole fails each is scored alone, so that only those fail of which it is true."""
        waiting, self._waiting = self._waiting, []
        texts = [text for _, batch in waiting for text in batch]
        try:
            numbers = [critic.score(texts) for critic in self._critics]
        except DataError:
            return [(ticket, self._alone(batch)) for ticket, batch in waiting]
        found: list[tuple[int, Numbers | Exception]] = []
        start = 0
        for ticket, batch in waiting:
            found.append((ticket, [row[start : start + len(batch)] for row in numbers]))
            start += len(batch)
        return found

    def _alone(self, batch: Sequence[Scored]) -> Numbers | Exception:
        try:
            return [critic.score(batch) for critic in self._critics]
        except DataError as error:
            return error
