"""Policy and critics in the process of the search: one batched call across all trees."""

from collections.abc import Sequence
from itertools import islice

from rayworks.core.errors import DataError
from rayworks.lm.decoding import Decoding
from rayworks.lm.rows import Row
from rayworks.lm.transformers_engine import as_generation
from rayworks.systems.reasoning.search.requests import Completion, Critic, Draw, ToScore

Numbers = list[list[float]]
"""By critic, one number per text of its kind."""


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
        self._waiting: list[tuple[int, ToScore]] = []

    def submit(self, ticket: int, uid: str, request: ToScore) -> None:
        """Queue texts."""
        self._waiting.append((ticket, request))

    def collect(self, seconds: float) -> list[tuple[int, Numbers | Exception]]:
        """Score what waits. Where the whole fails each is scored alone, so that only those fail of which it is true."""
        waiting, self._waiting = self._waiting, []
        try:
            return self._together(waiting)
        except DataError:
            return [self._alone(ticket, request) for ticket, request in waiting]

    def _together(self, waiting: Sequence[tuple[int, ToScore]]) -> list[tuple[int, Numbers | Exception]]:
        rows = []
        for critic in self._critics:
            texts = [text for _, request in waiting for text in request.of(critic.kind)]
            numbers = critic.score(texts) if texts else []
            if len(numbers) != len(texts):
                raise DataError(
                    f"critics.{critic.kind}: gave {len(numbers)} numbers for {len(texts)} texts; one for each"
                )
            rows.append(iter(numbers))
        return [
            (ticket, [list(islice(row, len(request.of(c.kind)))) for row, c in zip(rows, self._critics, strict=True)])
            for ticket, request in waiting
        ]

    def _alone(self, ticket: int, request: ToScore) -> tuple[int, Numbers | Exception]:
        try:
            return self._together([(ticket, request)])[0]
        except DataError as error:
            return ticket, error
