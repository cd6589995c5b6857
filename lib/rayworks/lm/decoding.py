"""What an engine offers: whole batches, or rows that are decoded step by step."""

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest
from rayworks.lm.rows import Row


class Decoding(Protocol):
    """Rows under way. One thread submits and steps; :class:`~rayworks.lm.background_decoding.BackgroundDecoding` is one."""

    @property
    def idle(self) -> bool:
        """Whether no row is decoding or waiting."""

    def submit(self, row: Row) -> Row:
        """Queue a row.

        Raises:
            DataError: this row cannot be decoded.
        """

    def cancel(self, row: Row) -> None:
        """End a row now; what was drawn stays in it."""

    def step(self) -> list[Row]:
        """Draw a token for every row that has its turn; the rows that this finished."""

    def run(self, rows: Sequence[Row]) -> None:
        """Decode rows to their end.

        Raises:
            DataError: a row cannot be decoded; none is left behind.
        """

    def drain(self) -> None:
        """Step until nothing is left."""


class Engine(Protocol):
    """One model that continues prompts and scores responses."""

    tokenizer: PreTrainedTokenizerBase

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One continuation per request, in the order of the requests."""

    def score(self, requests: Sequence[ScoringRequest]) -> list[Score]:
        """The score of one response per request, in the order of the requests."""
