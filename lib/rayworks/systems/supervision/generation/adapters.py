"""Language models that write answers: LoRA experts of one cut base as rows of one batch, and tuned students."""

import abc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from rayworks.core.errors import DataError
from rayworks.lm.adapters import BASE
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.fine_tuning import Example
from rayworks.lm.scoring import EncodedResponse, encode, encode_prompt
from rayworks.systems.supervision.generation.decoding import Ensemble, missed_bits
from rayworks.systems.supervision.generation.shipping import ExpertGroup, Others, SpreadEnsemble
from rayworks.systems.supervision.generation.tokens import Team, Tokens, Written, unpacked
from rayworks.systems.supervision.students.tuned import TunedModel
from rayworks.systems.supervision.weak.adapters import MISSED, Adapter, AdapterBase

SLOTS = 64
"""Sequences, of all experts together, that are decoded at once."""
STUDENT_SLOTS = 16


class LanguageWriter(abc.ABC):
    """Writes answers to the prompts of examples, none longer than the answers that it was given."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]) -> None:
        self._tokenizer, self._prompts = tokenizer, prompts
        lengths = [len(encode(tokenizer, "", answer).response) for answer in answers]
        self._longest, self._mean = max(lengths), float(np.mean(lengths))

    def write(self, team: Team, rows: np.ndarray) -> list[Written]:
        """Greedy answers; all experts go on from the tokens that they chose together."""
        prompts = [encode_prompt(self._tokenizer, self._prompts[row]) for row in rows.tolist()]
        return self._ensemble(team).write(prompts, self._longest, team.rounds)

    def weigh(self, team: Team, rows: np.ndarray, answers: Sequence[str]) -> np.ndarray:
        """Mean log-probability of the tokens of answers to the prompts ``rows``, ``[rounds, answers]``."""
        pairs = zip(rows.tolist(), answers, strict=True)
        encoded = [encode(self._tokenizer, self._prompts[row], answer) for row, answer in pairs]
        return self._ensemble(team).weigh(encoded, team.rounds)

    @abc.abstractmethod
    def _ensemble(self, team: Team) -> Ensemble | SpreadEnsemble:
        """The models of a team."""


class TunedWriter(LanguageWriter):
    """A tuned student, the only expert of its teams."""

    def __init__(self, tuned: TunedModel, prompts: Sequence[str], answers: Sequence[str]) -> None:
        super().__init__(tuned.tokenizer, prompts, answers)
        self._causal = CausalModel(tuned.model, STUDENT_SLOTS)

    def _ensemble(self, team: Team) -> Ensemble:
        return Ensemble(self._causal, self._tokenizer, [BASE], team.alphas, team.vote)


class AdapterWriters(LanguageWriter):
    """Adapters that write with the base's tokenizer.

    Args:
        prompts: of all examples.
        answers: that are known.
        others: processes beside this one among which experts are dealt out, if there are any.
    """

    def __init__(
        self, base: AdapterBase, prompts: Sequence[str], answers: Sequence[str], others: Others | None = None
    ) -> None:
        if not isinstance(base.tokenizer.eos_token_id, int):
            raise DataError(
                f"weak.model {base.section.model!r}: has no end token, so that no answer would end; take another"
            )
        super().__init__(base.tokenizer, prompts, answers)
        self._base, self.vocabulary = base, len(base.tokenizer)
        self._own, self._others = ExpertGroup(base), others

    def tokens(self, answers: Sequence[str]) -> Tokens:
        """Ids of answers, each with the end token."""
        return Tokens.of([encode(self._tokenizer, "", answer).response for answer in answers])

    def fit(self, rows: np.ndarray, tokens: Tokens, weights: np.ndarray, seed: int) -> Adapter:
        """An expert of the answers to the prompts ``rows``, with weights ``[tokens]``; of weight 0 it learns nothing.

        It takes the bits of what it misses along, of all of these tokens.
        """
        prompts = [encode_prompt(self._tokenizer, self._prompts[row]) for row in rows.tolist()]
        texts = [EncodedResponse(prompt, tokens[at]) for at, prompt in enumerate(prompts)]
        ends = zip(texts, tokens.starts[:-1], tokens.starts[1:], strict=True)
        tuner = self._base.fit([Example(text, tuple(weights[start:end].tolist())) for text, start, end in ends], seed)
        return self._base.adapter(tuner, missed_bits(tuner.model, texts))

    def misses(self, expert: Adapter, rows: np.ndarray, tokens: Tokens) -> np.ndarray:
        """``[tokens]``: 1 where another token was likelier after the true ones; of the tokens that it was fitted to."""
        return unpacked(expert.files[MISSED], len(tokens.values))

    def save(self, expert: Adapter, folder: Path) -> None:
        """Write an expert."""
        expert.save(folder)

    def load(self, folder: Path) -> Adapter:
        """What :meth:`save` wrote."""
        return Adapter.load(folder)

    def cost(self, experts: int, learned: np.ndarray, labelled: np.ndarray) -> dict[str, float | None]:
        """6 operations for each weight and token that is learned from, 2 for each that is read to label or written."""
        learning, labelling = (
            sum(len(encode_prompt(self._tokenizer, self._prompts[row])) + self._mean for row in rows.tolist())
            for rows in (learned, labelled)
        )
        per_token = float(experts * self._base.parameters)
        return {"train": 6 * per_token * learning * self._base.section.epochs, "label": 2 * per_token * labelling}

    def _ensemble(self, team: Team) -> Ensemble | SpreadEnsemble:
        if self._others is not None:
            return SpreadEnsemble(team, self._own, self._others, self._base.section.processes)
        causal, numbers = self._base.beside(team.experts[: max(team.rounds)])
        return Ensemble(causal, self._tokenizer, numbers, team.alphas, team.vote)
