"""The models of one export, and a request's rows as the OpenAI protocol tells of them, whole or in chunks."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayworks.core.config import EngineSection
from rayworks.lm.rows import Row
from rayworks.systems.alignment.engines import open_engine
from rayworks.systems.alignment.exported import GUIDANCE, read_export, reward_folder
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedGeneration, as_guided_generation

from ..common.openai import Choice, Completion, GuidanceReport, Model, Usage


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
    return engine, Model(id=exported.base, created=created, objectives=engine.objectives)


@dataclass(frozen=True)
class Asked:
    """A request under way."""

    id: str
    rows: list[Row]
    chat: bool
    model: Model

    def answer(self) -> Completion:
        """All of it, once every row has finished."""
        choices = []
        for index, row in enumerate(self.rows):
            found = self._drawn(row)
            said: dict[str, Any] = {"text": None if self.chat else found.text}
            said["message"] = {"role": "assistant", "content": found.text} if self.chat else None
            choices.append(Choice(index=index, finish_reason=found.finish_reason, guidance=_report(found), **said))
        return Completion(
            id=self.id,
            object="chat.completion" if self.chat else "text_completion",
            created=int(time.time()),
            model=self.model.id,
            choices=choices,
            usage=self.usage(),
        )

    def chunk(self, index: int, piece: str = "", reason: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """A piece of one row's text; with the reason why it ended, what guidance did to it."""
        choice: dict[str, Any] = {"index": index, "finish_reason": reason}
        if self.chat:
            choice["delta"] = {**({"role": "assistant"} if first else {}), "content": piece}
        else:
            choice.update(text=piece, logprobs=None)
        if reason:
            choice["guidance"] = _report(self._drawn(self.rows[index])).model_dump()
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": int(time.time()),
            "model": self.model.id,
            "choices": [choice],
        }

    def usage(self) -> Usage:
        """Tokens counted; all rows have one prompt."""
        found = [self._drawn(row) for row in self.rows]
        used, asked = sum(len(one.base_logprobs) for one in found), found[0].prompt_tokens
        return Usage(prompt_tokens=asked, completion_tokens=used, total_tokens=asked + used)

    def _drawn(self, row: Row) -> GuidedGeneration:
        return as_guided_generation(row, self.model.objectives)


def _report(found: GuidedGeneration) -> GuidanceReport:
    return GuidanceReport(
        log_z=found.log_z,
        kl_to_base=found.kl_to_base,
        base_logprob=sum(found.base_logprobs),
        reward_logprobs={name: sum(values) for name, values in found.reward_logprobs.items() if any(values)},
        weights={name: list(values) for name, values in found.weights.items() if any(values)},
    )
