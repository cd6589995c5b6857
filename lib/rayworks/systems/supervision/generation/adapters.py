"""Language models as experts of texts: LoRA adapters of one cut base, which write as rows of one batch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rayworks.core.errors import DataError
from rayworks.lm.adapters import BASE
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.fine_tuning import Example
from rayworks.lm.scoring import EncodedResponse, encode, encode_prompt
from rayworks.systems.supervision.boosting.votes import Vote
from rayworks.systems.supervision.generation.decoding import Ensemble, missed_bits
from rayworks.systems.supervision.generation.tokens import Tokens, Written, unpacked
from rayworks.systems.supervision.students.tuned import TunedModel
from rayworks.systems.supervision.weak.adapters import MISSED, Adapter, AdapterBase

SLOTS = 64
"""Sequences, of all experts together, that are decoded at once."""
STUDENT_SLOTS = 16


class TunedWriter:
    """A tuned student, which writes answers no longer than those that it learned from."""

    def __init__(self, tuned: TunedModel, prompts: Sequence[str], answers: Sequence[str]) -> None:
        self._tokenizer, self._prompts = tuned.tokenizer, prompts
        self._longest = max(len(encode(tuned.tokenizer, "", answer).response) for answer in answers)
        causal = CausalModel(tuned.model, STUDENT_SLOTS)
        self._ensemble = Ensemble(causal, tuned.tokenizer, [BASE], np.ones(1))

    def write(self, experts: Sequence[TunedModel], alphas: np.ndarray, vote: Vote, rows: np.ndarray) -> Written:
        """Greedy answers to the prompts ``rows``; it is the only expert."""
        prompts = [encode_prompt(self._tokenizer, self._prompts[row]) for row in rows.tolist()]
        return self._ensemble.write(prompts, self._longest)

    def weigh(
        self, experts: Sequence[TunedModel], alphas: np.ndarray, vote: Vote, rows: np.ndarray, answers: Sequence[str]
    ) -> np.ndarray:
        """Mean log-probability of the tokens of answers to the prompts ``rows``, ``[answers]``."""
        pairs = zip(rows.tolist(), answers, strict=True)
        return self._ensemble.weigh([encode(self._tokenizer, self._prompts[row], answer) for row, answer in pairs])


class AdapterWriters:
    """Adapters that write answers, with the base's tokenizer.

    Args:
        prompts: of all examples.
        answers: that are known, none longer than which will be written.
    """

    def __init__(self, base: AdapterBase, prompts: Sequence[str], answers: Sequence[str]) -> None:
        self._base, self._prompts = base, [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
        if not isinstance(base.tokenizer.eos_token_id, int):
            raise DataError(
                f"weak.model {base.section.model!r}: has no end token, so that no answer would end; take another"
            )
        self.vocabulary = len(base.tokenizer)
        lengths = [len(self._encoded((), answer).response) for answer in answers]
        self._longest, self._mean = max(lengths), float(np.mean(lengths))

    def tokens(self, answers: Sequence[str]) -> Tokens:
        """Ids of answers, each with the end token."""
        return Tokens.of([self._encoded((), answer).response for answer in answers])

    def fit(self, rows: np.ndarray, tokens: Tokens, weights: np.ndarray, seed: int) -> Adapter:
        """An expert of the answers to the prompts ``rows``, with weights ``[tokens]``; of weight 0 it learns nothing.

        It takes the bits of what it misses along, of all of these tokens.
        """
        texts = [EncodedResponse(self._prompts[row], tokens[at]) for at, row in enumerate(rows.tolist())]
        examples = [
            Example(text, tuple(weights[start:end].tolist()))
            for text, start, end in zip(texts, tokens.starts[:-1], tokens.starts[1:], strict=True)
        ]
        tuner = self._base.fit(examples, seed)
        return self._base.adapter(tuner, missed_bits(tuner.model, texts))

    def misses(self, expert: Adapter, rows: np.ndarray, tokens: Tokens) -> np.ndarray:
        """``[tokens]``: 1 where another token was likelier after the true ones; of the tokens that it was fitted to."""
        return unpacked(expert.files[MISSED], len(tokens.values))

    def write(self, experts: Sequence[Adapter], alphas: np.ndarray, vote: Vote, rows: np.ndarray) -> Written:
        """Greedy answers; all experts go on from the tokens that they chose together."""
        return self._ensemble(experts, alphas, vote).write([self._prompts[row] for row in rows.tolist()], self._longest)

    def weigh(
        self, experts: Sequence[Adapter], alphas: np.ndarray, vote: Vote, rows: np.ndarray, answers: Sequence[str]
    ) -> np.ndarray:
        """Mean log-probability of the tokens of answers to the prompts ``rows``, ``[answers]``, by all experts together."""
        pairs = zip(rows.tolist(), answers, strict=True)
        return self._ensemble(experts, alphas, vote).weigh(
            [self._encoded(self._prompts[r], answer) for r, answer in pairs]
        )

    def save(self, expert: Adapter, folder: Path) -> None:
        """Write an expert."""
        expert.save(folder)

    def load(self, folder: Path) -> Adapter:
        """What :meth:`save` wrote."""
        return Adapter.load(folder)

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """6 operations for each weight and token that is learned from, 2 for each that is read to label or written."""
        weights, epochs = self._base.parameters, self._base.section.epochs
        learning, labelling = (
            sum(len(self._prompts[row]) + self._mean for row in rows.tolist()) for rows in (learned, labelled)
        )
        return {"train": 6.0 * experts * weights * learning * epochs, "label": 2.0 * experts * weights * labelling}

    def _ensemble(self, experts: Sequence[Adapter], alphas: np.ndarray, vote: Vote) -> Ensemble:
        causal, numbers = self._base.beside(experts)
        return Ensemble(causal, self._base.tokenizer, numbers, alphas, vote)

    def _encoded(self, prompt: tuple[int, ...], answer: str) -> EncodedResponse:
        return encode(self._base.tokenizer, prompt, answer)
