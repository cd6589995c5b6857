"""Rows under way, and how the logits of several models become one distribution for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.adapters import BASE
from rayworks.lm.engine import FinishReason, GenerationRequest
from rayworks.lm.sampling import sample


@dataclass(eq=False)
class Row:
    """A request under way: its prompt ids for every model, and the tokens drawn so far."""

    request: GenerationRequest
    prompts: tuple[tuple[int, ...], ...]
    """Of each model: templates may differ."""
    context: Any = None
    """What the mixer keeps for the row."""
    adapters: tuple[int, ...] = ()
    """The adapter with which each model reads it; empty: none."""
    on_token: Callable[["Row"], None] | None = None
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    sampling_logprobs: list[float] = field(default_factory=list)
    reports: list[dict[str, float]] = field(default_factory=list)
    """What the mixer reported at each drawn token, the end token included."""
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    """Why it failed, when that is how it finished."""
    slot: int = -1
    guides: Sequence[int] = ()
    """Models beside the base that its next token needs."""

    @cached_property
    def uniforms(self) -> list[float]:
        """The number by which each of its tokens is drawn."""
        found: list[float] = seeds.uniforms(self.request.seed, self.request.max_new_tokens, "sampling").tolist()
        return found

    def sequence(self, model: int, start: int = 0) -> list[int]:
        """All ids that ``model`` has seen or must see, from a position on."""
        prompt = self.prompts[model]
        return self.tokens[start - len(prompt) :] if start >= len(prompt) else [*prompt[start:], *self.tokens]

    def take(self, drawn: "Drawn", ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> None:
        """Add a drawn token or end with it, and tell ``on_token``; raises why there is none."""
        if drawn.error is not None:
            raise drawn.error
        self.sampling_logprobs.append(drawn.logprob)
        self.reports.append(dict(drawn.report))
        token = drawn.token
        if token in ends and not self.request.ignore_end:
            self.end("stop", tokenizer)
        else:
            self.tokens.append(token)
            cut = list[int]()
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

    def adapter(self, model: int) -> int:
        """Number of the adapter with which ``model`` reads it."""
        return self.adapters[model] if self.adapters else BASE


def check_prompt(prompt: Sequence[int], new_tokens: int, longest: int, ids: int, reason: str) -> None:
    """Raise :class:`DataError` where a model, which holds ``longest`` tokens for that ``reason`` and has ``ids``, cannot read
    a row: the prompt is empty, has other ids or leaves no room for the new tokens.
    """
    if not prompt:
        raise DataError("prompt: is empty; give at least one token")
    if not 0 <= min(prompt) <= max(prompt) < ids:
        wrong = min(prompt) if min(prompt) < 0 else max(prompt)
        raise DataError(f"prompt: has the token id {wrong}, a model that reads it has {ids} ids")
    if len(prompt) + new_tokens > longest:
        asked, bound = f"{len(prompt)} tokens and max_new_tokens {new_tokens}", f"{longest} ({reason})"
        raise DataError(f"prompt: {asked} exceed the model's {bound}; shorten either")


@dataclass(frozen=True)
class Drawn:
    """One row's token, its log-probability under the sampling distribution and the mixer's report of it, or why not."""

    token: int
    logprob: float
    report: Mapping[str, float]
    error: Exception | None = None


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
        """Models beside the base that this row needs for its next token; none unless overridden."""
        return ()

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """One distribution per row, from the base's logits ``[rows, vocabulary]`` and, by model, the indices of the rows that
        asked for it and their logits ``[those rows, vocabulary]``.
        """


class SingleModel(LogitMixer):
    """The mixer of one model alone: its own distribution."""

    def mix(self, base: Tensor, guides: dict[int, tuple[Tensor, Tensor]], rows: Sequence[Row]) -> Mixed:
        """The base's logits, reporting each token's log-probability."""
        norm = base.logsumexp(dim=-1)
        return Mixed(base, lambda tokens: {"logprob": base.gather(-1, tokens[:, None])[:, 0] - norm})


def draw(mix: Callable[[Sequence[Row]], Mixed], rows: Sequence[Row]) -> list[Drawn]:
    """A token for each row, by its own uniform number; where ``mix`` fails for all of them, each is mixed alone."""
    try:
        return _drawn(mix(rows), rows)
    except Exception as error:
        if len(rows) == 1:
            return [Drawn(0, 0.0, {}, error)]
    return [drawn for row in rows for drawn in draw(mix, [row])]


def _drawn(mixed: Mixed, rows: Sequence[Row]) -> list[Drawn]:
    device = mixed.logits.device
    uniforms = torch.tensor([row.uniforms[len(row.tokens)] for row in rows], dtype=torch.float64)
    names = ("temperature", "top_k", "top_p")
    parameters = {name: torch.tensor([getattr(row.request, name) for row in rows], device=device) for name in names}
    tokens, logprobs = sample(mixed.logits, uniforms, **parameters)
    reports = {name: values.tolist() for name, values in mixed.report(tokens).items()}
    # The largest logit is no number if any is none, and is infinite if all are forbidden.
    sound = mixed.logits.amax(dim=-1).isfinite().tolist()
    drawn = []
    for index, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
        report = {name: values[index] for name, values in reports.items()}
        wrong = None
        if not sound[index]:
            wrong = DataError(f"the model's logits after {len(row.tokens)} tokens are not numbers; check it")
        drawn.append(Drawn(token, logprob, report, wrong))
    return drawn
