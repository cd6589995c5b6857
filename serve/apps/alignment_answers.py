"""The models of one export, and a request's rows as the OpenAI protocol tells of them, whole or in chunks."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rayworks.core.config import EngineSection
from rayworks.lm.rows import Row
from rayworks.systems.alignment.engines import open_engine
from rayworks.systems.alignment.exported import GUIDANCE, read_export, reward_folder
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedGeneration, as_guided_generation

from ..common.openai_answers import (
    Choice,
    Completion,
    DrawnToken,
    DrawnTokens,
    GuidanceReport,
    Model,
    Usage,
    chat_logprobs,
    completion_logprobs,
)


def read_engine(export: str, slots: int, device: str, section: EngineSection) -> tuple[GuidedEngine, Model]:
    """The base of a finished run with its reward models, and how ``GET /v1/models`` names it.

    Raises:
        ConfigError: vLLM is missing or does not fit the machine.
        DataError: the folder holds no export.
    """
    exported = read_export(export)
    folder = Path(export).expanduser()
    arms = {name: str(folder / reward_folder(name)) for name in exported.objectives}
    engine = open_engine(section, exported.base, arms, exported.dtype, slots, device)
    created = int((folder / GUIDANCE).stat().st_mtime)
    card = Model(id=exported.base, created=created, objectives=engine.objectives, proof=_proof(engine))
    return engine, card


def _proof(engine: Any) -> str | None:
    """How the base was found to be exact, of engines that say so."""
    models = getattr(engine, "models", None) or [None]
    return getattr(models[0], "proof", None) or None


@dataclass(frozen=True)
class Asked:
    """A request under way."""

    id: str
    rows: list[Row]
    n: int
    """Rows of each prompt, one behind the other."""
    chat: bool
    logprobs: bool
    model: Model
    tokenizer: PreTrainedTokenizerBase

    def answer(self) -> Completion:
        """All of it, once every row has finished."""
        choices = []
        for index, row in enumerate(self.rows):
            found = self._drawn(row)
            said: dict[str, Any] = {"text": None if self.chat else found.text}
            said["message"] = {"role": "assistant", "content": found.text} if self.chat else None
            tokens = self.tokens(row).take(len(row.text)) if self.logprobs else None
            said["logprobs"] = self._logprobs(tokens)
            guidance = _report(found, tokens)
            choices.append(Choice(index=index, finish_reason=found.finish_reason, guidance=guidance, **said))
        return Completion(
            id=self.id,
            object="chat.completion" if self.chat else "text_completion",
            created=int(time.time()),
            model=self.model.id,
            choices=choices,
            usage=self.usage(),
        )

    def chunk(
        self,
        index: int,
        piece: str = "",
        reason: str | None = None,
        tokens: Sequence[DrawnToken] | None = None,
        *,
        first: bool = False,
    ) -> dict[str, Any]:
        """A piece of one row's text and its tokens; with the reason why it ended, what guidance did to it."""
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": self._logprobs(tokens)}
        if self.chat:
            choice["delta"] = {**({"role": "assistant"} if first else {}), "content": piece}
        else:
            choice["text"] = piece
        if reason:
            choice["guidance"] = _report(self._drawn(self.rows[index]), tokens).model_dump(exclude_none=True)
        elif tokens:
            choice["guidance"] = {"tokens": [token.guidance.model_dump() for token in tokens]}
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": int(time.time()),
            "model": self.model.id,
            "choices": [choice],
        }

    def tokens(self, row: Row) -> DrawnTokens:
        """One by one."""
        return DrawnTokens(row, self.tokenizer)

    def usage(self) -> Usage:
        """Tokens counted; rows of one prompt count it once."""
        used = sum(len(row.reports) for row in self.rows)
        asked = sum(len(row.prompts[0]) for row in self.rows[:: self.n])
        return Usage(prompt_tokens=asked, completion_tokens=used, total_tokens=asked + used)

    def _logprobs(self, tokens: Sequence[DrawnToken] | None) -> dict[str, Any] | None:
        if tokens is None:
            return None
        return chat_logprobs(tokens) if self.chat else completion_logprobs(tokens)

    def _drawn(self, row: Row) -> GuidedGeneration:
        return as_guided_generation(row, self.model.objectives)


def _report(found: GuidedGeneration, tokens: Sequence[DrawnToken] | None) -> GuidanceReport:
    return GuidanceReport(
        log_z=found.log_z,
        kl_to_base=found.kl_to_base,
        base_logprob=sum(found.base_logprobs),
        reward_logprobs={name: sum(values) for name, values in found.reward_logprobs.items() if any(values)},
        weights={name: list(values) for name, values in found.weights.items() if any(values)},
        tokens=None if tokens is None else [token.guidance for token in tokens],
    )
