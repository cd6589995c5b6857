"""What an engine offers: whole batches, or rows that are decoded step by step."""

import abc
from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest
from rayworks.lm.rows import Drawn, Row


class Decoding(abc.ABC):
    """Rows under way. One thread submits and steps; :class:`~rayworks.lm.background_decoding.BackgroundDecoding` is one."""

    tokens_drawn = 0
    """Since the start, by all rows."""
    _tokenizer: PreTrainedTokenizerBase

    @property
    @abc.abstractmethod
    def idle(self) -> bool:
        """Whether no row is decoding or waiting."""

    @abc.abstractmethod
    def submit(self, row: Row) -> Row:
        """Queue a row; :class:`DataError` where a model cannot read it (:func:`~rayworks.lm.rows.check_prompt`)."""

    @abc.abstractmethod
    def cancel(self, row: Row) -> None:
        """End a row now; what was drawn stays in it."""

    @abc.abstractmethod
    def step(self) -> list[Row]:
        """Draw a token for every row that has its turn; the rows that finished."""

    def run(self, rows: Sequence[Row]) -> None:
        """Decode rows to their end, those that may become longest first, so that few slots idle at the end. Raises
        :class:`DataError` where a row does not fit, with none left behind in a slot, and what the first row that failed
        raised, once the others have finished.
        """
        try:
            for row in sorted(rows, key=lambda row: -row.request.max_new_tokens):
                self.submit(row)
            self.drain()
        except BaseException:
            for row in rows:
                self.cancel(row)
            raise
        for row in rows:
            if row.error is not None:
                raise row.error

    def drain(self) -> None:
        """Step until nothing is left."""
        while not self.idle:
            self.step()

    def _take(self, row: Row, drawn: Drawn, ends: frozenset[int]) -> None:
        """Give a row what was drawn for it."""
        try:
            row.take(drawn, ends, self._tokenizer)
            self.tokens_drawn += 1
        except Exception as error:
            self._fail(row, error)

    def _fail(self, row: Row, error: Exception) -> None:
        """Make what was raised the row's end, not the loop's."""
        row.error = error
        row.end("failed", self._tokenizer)


class Engine(Protocol):
    """One model that continues prompts and scores responses."""

    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One continuation per request, in the order of the requests."""

    def score(self, requests: Sequence[ScoringRequest]) -> list[Score]:
        """The score of one response per request, in the order of the requests."""
