"""The decode loop: rows of any length, finished rows leave at once, waiting rows take their slots.

One loop serves a single model and a base with guides: a :class:`LogitMixer` says which models a row needs at this token
and how their logits become one distribution. Rows that a model has much to read of catch up between the steps of the others,
all a little at a time; what rows have in common from their start is read once.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.engine import FinishReason, GenerationRequest
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.sampling import SamplingParameters, sample

STEP = 4
"""Most tokens that a row reads in the step that draws its next one."""
READ_AHEAD = 8
"""How many chunks are read at once when no row waits to draw."""


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
    error: Exception | None = None
    """Why it failed, when that is how it finished."""
    slot: int = -1
    guides: Sequence[int] = ()
    """Models beside the base that its next token needs."""
    uniforms: Tensor = field(default_factory=lambda: torch.empty(0))

    def sequence(self, model: int) -> list[int]:
        """All ids that ``model`` has seen or must see."""
        return [*self.prompts[model], *self.tokens]


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

    A row's result does not depend on the rows beside it, up to the rounding of batched products, and what one row raises
    (its models, its mixer's ``guides``, its ``on_token``) ends no other.

    Args:
        models: the base, then its guides, all made for that many slots.
        chunk: tokens that all rows together catch up with between two steps, per model.
        keep_prefixes: whether what finished rows have read stays known to later ones, as a tree search wants it. Otherwise
            prompts are shared only among rows of one :meth:`run`, whose numbers then depend on no earlier one.
    """

    def __init__(
        self,
        models: Sequence[CausalModel],
        tokenizer: PreTrainedTokenizerBase,
        mixer: LogitMixer,
        slots: int,
        *,
        chunk: int = 128,
        keep_prefixes: bool = False,
    ) -> None:
        self._models, self._tokenizer, self._mixer = models, tokenizer, mixer
        self._chunk, self._keep_prefixes = chunk, keep_prefixes
        self._free = list(range(slots))
        self._active: list[Row] = []
        self._waiting: deque[Row] = deque()
        self._end_ids = end_ids(tokenizer, models[0])

    @property
    def idle(self) -> bool:
        """Whether no row is decoding or waiting."""
        return not self._active and not self._waiting

    def submit(self, row: Row) -> Row:
        """Queue a row.

        Raises:
            DataError: an empty prompt, one with ids that a model does not have, or one that does not leave room for the
                tokens asked for.
        """
        for model, prompt in zip(self._models, row.prompts, strict=True):
            _check(model, prompt, row.request.max_new_tokens)
        row.uniforms = torch.from_numpy(seeds.uniforms(row.request.seed, row.request.max_new_tokens, "sampling"))
        self._waiting.append(row)
        return row

    def cancel(self, row: Row) -> None:
        """End a row now; what was drawn stays in it."""
        if row in self._waiting:
            self._waiting.remove(row)
            row.finish_reason = "cancelled"
        elif row in self._active:
            self._leave(row, "cancelled")

    def run(self, rows: Sequence[Row]) -> None:
        """Decode rows to their end, those that may become longest first, so that few slots idle at the end.

        Raises:
            DataError: a row does not fit; none is left behind in a slot.
            Exception: what the first row that failed raised, after the others have finished.
        """
        if self.idle and not self._keep_prefixes:
            for model in self._models:
                model.prefixes.clear()
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

    def step(self) -> list[Row]:
        """Draw one token for every row that has a slot and has been read; the rows that finished."""
        self._admit()
        before = list(self._active)
        for row in before:
            with self._failing(row):
                row.guides = self._mixer.guides(row)
        behind = [self._behind(model) for model in range(len(self._models))]
        lagging = {id(row) for rows in behind for row in rows}
        ready = [row for row in self._active if id(row) not in lagging]
        for model, rows in enumerate(behind):
            # With nobody to hold up, larger pieces are read at less cost.
            self._catch_up(model, rows, self._chunk if ready else READ_AHEAD * self._chunk)
        if ready:
            self._draw(sorted(ready, key=lambda row: row.slot))
        return [row for row in before if row.finish_reason is not None]

    def _admit(self) -> None:
        while self._waiting and self._free:
            row = self._waiting.popleft()
            row.slot = self._free.pop(0)
            for model in self._models:
                model.release(row.slot)
            self._active.append(row)

    def _behind(self, model: int) -> list[Row]:
        """Rows whose next token needs the model, which has more to read than a step takes along."""
        asking = self._active if model == 0 else [row for row in self._active if model in row.guides]
        return [row for row in asking if len(self._unread(model, row)) > STEP]

    def _unread(self, model: int, row: Row) -> list[int]:
        return row.sequence(model)[self._models[model].held(row.slot) :]

    def _catch_up(self, model: int, rows: list[Row], budget: int) -> None:
        """Read a little of every row, but not what another row is reading already."""
        causal, leaders = self._models[model], list[Row]()
        for row in sorted(rows, key=lambda row: causal.held(row.slot) == 0):
            tokens = row.sequence(model)[:-1]
            if causal.held(row.slot) == 0:
                known = causal.prefixes.known(tokens)
                if causal.prefixes.keeps and any(
                    agreeing(tokens, other.sequence(model)[:-1]) > known + STEP for other in leaders
                ):
                    continue
                causal.take_up(row.slot, tokens)
            if causal.held(row.slot) < len(tokens):
                leaders.append(row)
        share = max(budget // max(len(leaders), 1), STEP)
        takes = {row.slot: self._unread(model, row)[:-1][:share] for row in leaders}
        for bucket in _alike(leaders, takes):
            for row in self._fed(model, bucket, takes)[0]:
                if len(self._unread(model, row)) == 1:
                    causal.keep(row.slot)

    def _draw(self, rows: list[Row]) -> None:
        logits = {0: self._logits(0, rows)}
        for model in sorted({model for row in rows for model in row.guides}):
            logits[model] = self._logits(model, [row for row in rows if model in row.guides and row.error is None])
        rows = [row for row in rows if row.error is None]
        if not rows:
            return
        at = {id(row): index for index, row in enumerate(rows)}
        chosen = {model: _of(rows, *found) for model, found in logits.items()}
        guides = {
            model: (torch.tensor([at[id(row)] for row in asking]), values)
            for model, (asking, values) in chosen.items()
            if model and asking
        }
        mixed = self._mixer.mix(chosen[0][1], guides, rows)
        uniforms = torch.stack([row.uniforms[len(row.tokens)] for row in rows])
        tokens, logprobs = sample(mixed.logits, _parameters(rows, mixed.logits.device), uniforms)
        reports = {name: values.tolist() for name, values in mixed.report(tokens).items()}
        # The largest logit is no number if any is none, and is infinite if all are forbidden.
        sound = mixed.logits.amax(dim=-1).isfinite().tolist()
        for index, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            with self._failing(row):
                if not sound[index]:
                    raise DataError(
                        f"the model's logits after {len(row.tokens)} tokens are not numbers; look at its weights"
                    )
                row.sampling_logprobs.append(logprob)
                row.reports.append({name: values[index] for name, values in reports.items()})
                self._take(row, token)

    def _logits(self, model: int, rows: list[Row]) -> tuple[list[Row], Tensor]:
        """Logits of the next token, of the rows that did not fail."""
        unread = {row.slot: self._unread(model, row) for row in rows}
        stepping = [row for row in rows if len(unread[row.slot]) == 1]
        others = [row for row in rows if len(unread[row.slot]) > 1]
        parts = [self._fed(model, part, unread) for part in (stepping, others) if part]
        if len(parts) == 1:
            return parts[0]
        return [row for found, _ in parts for row in found], torch.cat([values for _, values in parts])

    def _fed(self, model: int, rows: list[Row], takes: dict[int, list[int]]) -> tuple[list[Row], Tensor]:
        """Feed rows together; where that fails each alone, so that only those fail of which it is true."""
        rows = sorted(rows, key=lambda row: row.slot)
        causal = self._models[model]
        try:
            return rows, causal.feed([row.slot for row in rows], [takes[row.slot] for row in rows])
        except Exception as error:
            if len(rows) == 1:
                self._fail(rows[0], error)
                return [], torch.empty((0, causal.vocabulary_size))
        alone = [self._fed(model, [row], takes) for row in rows]
        return [row for found, _ in alone for row in found], torch.cat([values for _, values in alone])

    def _take(self, row: Row, token: int) -> None:
        if token in self._end_ids and not row.request.ignore_end:
            self._leave(row, "stop")
        else:
            row.tokens.append(token)
            if row.request.stop or row.on_token is not None:
                row.text = self._tokenizer.decode(row.tokens, skip_special_tokens=True)
            cut = [at for at in (row.text.find(stop) for stop in row.request.stop) if at >= 0]
            if cut:
                row.text = row.text[: min(cut)]
                self._leave(row, "stop")
            elif len(row.tokens) >= row.request.max_new_tokens:
                self._leave(row, "length")
        if row.on_token is not None:
            row.on_token(row)

    @contextmanager
    def _failing(self, row: Row) -> Iterator[None]:
        """What is raised inside is the row's end, not the loop's."""
        try:
            yield
        except Exception as error:
            self._fail(row, error)

    def _fail(self, row: Row, error: Exception) -> None:
        row.error = error
        if row in self._active:
            self._leave(row, "failed")

    def _leave(self, row: Row, reason: FinishReason) -> None:
        row.finish_reason = reason
        self._active.remove(row)
        self._free.append(row.slot)
        self._free.sort()
        for model in self._models:
            if self._keep_prefixes and reason != "failed":
                model.keep(row.slot)
            model.release(row.slot)
        if not row.request.stop:
            row.text = self._tokenizer.decode(row.tokens, skip_special_tokens=True)


def _check(model: CausalModel, prompt: Sequence[int], new_tokens: int) -> None:
    if not prompt:
        raise DataError("prompt: is empty; give at least one token")
    if not 0 <= min(prompt) <= max(prompt) < model.readable_ids:
        raise DataError(
            f"prompt: has the token id {min(prompt) if min(prompt) < 0 else max(prompt)}, a model that reads it has "
            f"{model.readable_ids} ids"
        )
    if len(prompt) + new_tokens > model.max_length:
        raise DataError(
            f"prompt: {len(prompt)} tokens and max_new_tokens {new_tokens} exceed the model's {model.max_length} "
            f"({model.max_length_reason}); shorten either"
        )


def _alike(rows: Sequence[Row], takes: Mapping[int, Sequence[int]]) -> list[list[Row]]:
    """Rows in batches of which the longest take is at most twice the shortest."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(takes[row.slot])):
        if batches and len(takes[row.slot]) <= 2 * len(takes[batches[-1][0].slot]):
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _of(rows: Sequence[Row], found: Sequence[Row], logits: Tensor) -> tuple[list[Row], Tensor]:
    """Those of ``rows`` that were found, in their order, and their logits."""
    index = {id(row): at for at, row in enumerate(found)}
    kept = [row for row in rows if id(row) in index]
    order = [index[id(row)] for row in kept]
    return kept, logits if order == list(range(len(found))) else logits[torch.tensor(order, device=logits.device)]


def end_ids(tokenizer: PreTrainedTokenizerBase, model: CausalModel) -> frozenset[int]:
    """Ids that end a text: the tokenizer's end token and those of the model's generation config."""
    configured = getattr(model.model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(index for index in (*ids, tokenizer.eos_token_id) if isinstance(index, int))


def _parameters(rows: list[Row], device: torch.device) -> SamplingParameters:
    names = ("temperature", "top_k", "top_p")
    return SamplingParameters(
        **{name: torch.tensor([getattr(row.request, name) for row in rows], device=device) for name in names}
    )
