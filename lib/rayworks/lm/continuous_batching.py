"""The decode loop: rows of any length, finished rows leave at once, waiting rows take their slots.

One loop serves a single model and a base with guides: a :class:`LogitMixer` says which models a row needs at this token
and how their logits become one distribution.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.engine import FinishReason, GenerationRequest
from rayworks.lm.sampling import SamplingParameters, sample


@dataclass(eq=False)
class Row:
    """A request under way: its prompt ids for every model, and the tokens drawn so far."""

    request: GenerationRequest
    prompts: tuple[tuple[int, ...], ...]
    """Prompt ids, one entry per model: templates may differ."""
    context: Any = None
    """What the mixer keeps for the row."""
    on_token: Callable[["Row"], None] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    sampling_logprobs: list[float] = field(default_factory=list)
    reports: list[dict[str, float]] = field(default_factory=list)
    """What the mixer reported at each drawn token, the end token included."""
    finish_reason: FinishReason | None = None
    slot: int = -1
    uniforms: Tensor = field(default_factory=lambda: torch.empty(0))
    error: Exception | None = None
    """What kept this row, and no other, from going on."""

    def sequence(self, model: int) -> list[int]:
        """All ids that ``model`` has seen or must see."""
        return [*self.prompts[model], *self.tokens]

    def take(self, token: int, ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> None:
        """Add a drawn token or end with it, and tell ``on_token``."""
        if token in ends and not self.request.ignore_end:
            self.end("stop", tokenizer)
        else:
            self.tokens.append(token)
            if self.request.stop or self.on_token is not None:
                self.text = tokenizer.decode(self.tokens, skip_special_tokens=True)
            cut = [at for at in (self.text.find(stop) for stop in self.request.stop) if at >= 0]
            if cut:
                self.text, self.finish_reason = self.text[: min(cut)], "stop"
            elif len(self.tokens) >= self.request.max_new_tokens:
                self.end("length", tokenizer)
        if self.on_token is not None:
            self.on_token(self)

    def end(self, reason: FinishReason, tokenizer: PreTrainedTokenizerBase) -> None:
        """End the row with what was drawn."""
        self.finish_reason = reason
        if not self.request.stop:
            self.text = tokenizer.decode(self.tokens, skip_special_tokens=True)


@dataclass
class Mixed:
    """The distribution of the next token, and how to report it once tokens are drawn."""

    logits: Tensor
    """``[rows, vocabulary]`` float32."""
    report: Callable[[Tensor], dict[str, Tensor]]
    """Tokens ``[rows]`` to named values ``[rows]``."""


class LogitMixer(Protocol):
    """Turns the logits of several models into one distribution per row."""

    def guides(self, row: Row) -> Sequence[int]:
        """Models beside the base that this row needs for its next token."""

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """One distribution per row.

        ``base`` is ``[rows, vocabulary]``; ``guides`` maps a model to the indices of the rows that asked for it and their
        logits ``[those rows, vocabulary]``.
        """


class SingleModel:
    """The mixer of one model alone: its own distribution."""

    def guides(self, row: Row) -> Sequence[int]:
        """None."""
        return ()

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """The base's logits, reporting each token's log-probability."""
        norm = base.logsumexp(dim=-1)
        return Mixed(base, lambda tokens: {"logprob": base.gather(-1, tokens[:, None])[:, 0] - norm})


class ContinuousBatching:
    """Decodes submitted rows, up to ``slots`` at a time. Not thread-safe: one thread submits and steps.

    A row's result does not depend on the rows beside it, up to the rounding of batched products. Of the models, all made for
    that many slots, the base comes first.
    """

    def __init__(
        self, models: Sequence[CausalModel], tokenizer: PreTrainedTokenizerBase, mixer: LogitMixer, slots: int
    ) -> None:
        self._models, self._tokenizer, self._mixer = models, tokenizer, mixer
        self._free = list(range(slots))
        self._active: list[Row] = []
        self._waiting: deque[Row] = deque()
        self._end_ids = end_ids(tokenizer, models[0].model.generation_config)

    @property
    def idle(self) -> bool:
        """Whether no row is decoding or waiting."""
        return not self._active and not self._waiting

    def submit(self, row: Row) -> Row:
        """Queue a row.

        Raises:
            DataError: an empty prompt, or one that does not leave room for the tokens asked for.
        """
        for model, prompt in zip(self._models, row.prompts, strict=True):
            if not prompt:
                raise DataError("prompt: is empty; give at least one token")
            needed = len(prompt) + row.request.max_new_tokens
            if needed > model.max_length:
                raise DataError(
                    f"prompt: {len(prompt)} tokens and max_new_tokens {row.request.max_new_tokens} exceed the model's "
                    f"{model.max_length}; shorten either"
                )
        row.uniforms = torch.from_numpy(seeds.uniforms(row.request.seed, row.request.max_new_tokens, "sampling"))
        self._waiting.append(row)
        return row

    def cancel(self, row: Row) -> None:
        """End a row now; what was drawn stays in it."""
        if row in self._waiting:
            self._waiting.remove(row)
            row.finish_reason = "cancelled"
        elif row in self._active:
            row.end("cancelled", self._tokenizer)
            self._leave(row)

    def run(self, rows: Sequence[Row]) -> None:
        """Decode rows to their end, those that may become longest first, so that few slots idle at the end.

        Raises:
            DataError: a row does not fit; none is left behind in a slot.
        """
        try:
            for row in sorted(rows, key=lambda row: -row.request.max_new_tokens):
                self.submit(row)
            self.drain()
        except BaseException:
            for row in rows:
                self.cancel(row)
            raise

    def drain(self) -> None:
        """Step until nothing is left."""
        while not self.idle:
            self.step()

    def step(self) -> list[Row]:
        """Draw one token for every row that has a slot; the rows that this finished."""
        while self._waiting and self._free:
            row = self._waiting.popleft()
            row.slot = self._free.pop(0)
            for model in self._models:
                model.release(row.slot)
            self._active.append(row)
        rows = sorted(self._active, key=lambda row: row.slot)
        if not rows:
            return []
        mixed = self._next_distribution(rows)
        uniforms = torch.stack([row.uniforms[len(row.tokens)] for row in rows])
        tokens, logprobs = sample(mixed.logits, _parameters(rows, mixed.logits.device), uniforms)
        reports = {name: values.tolist() for name, values in mixed.report(tokens).items()}
        for index, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            row.sampling_logprobs.append(logprob)
            row.reports.append({name: values[index] for name, values in reports.items()})
            row.take(token, self._end_ids, self._tokenizer)
        finished = [row for row in rows if row.finish_reason is not None]
        for row in finished:
            self._leave(row)
        return finished

    def _next_distribution(self, rows: list[Row]) -> Mixed:
        base = self._logits(0, rows)
        asking: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            for model in self._mixer.guides(row):
                asking.setdefault(model, []).append(index)
        guides = {
            model: (torch.tensor(indices), self._logits(model, [rows[index] for index in indices]))
            for model, indices in asking.items()
        }
        return self._mixer.mix(base, guides, rows)

    def _logits(self, model: int, rows: list[Row]) -> Tensor:
        return self._models[model].next_logits([row.sequence(model) for row in rows], [row.slot for row in rows])

    def _leave(self, row: Row) -> None:
        self._active.remove(row)
        self._free.append(row.slot)
        self._free.sort()
        for model in self._models:
            model.release(row.slot)


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> frozenset[int]:
    """Ids that end a text: the tokenizer's end token and those of the model's generation config."""
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(index for index in (*ids, tokenizer.eos_token_id) if isinstance(index, int))


def _parameters(rows: list[Row], device: torch.device) -> SamplingParameters:
    names = ("temperature", "top_k", "top_p")
    return SamplingParameters(
        **{name: torch.tensor([getattr(row.request, name) for row in rows], device=device) for name in names}
    )
