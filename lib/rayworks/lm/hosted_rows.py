"""The worker's side of the vLLM engine: its logits come in, the tokens that our mixing and sampling draw go out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.engine import GenerationRequest
from rayworks.lm.rows import Drawn, LogitMixer, Mixed, Row, SingleModel, draw

SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True)
class Hosted:
    """What a worker does with the base's logits."""

    mixer: LogitMixer = field(default_factory=SingleModel)
    guides: Sequence[CausalModel] = ()
    """Those after the base."""
    context: Callable[[Any], Any] = lambda told: None
    """What the mixer keeps for a row, from what :func:`tell` was given of it."""


def tell(row: Row, name: str, context: Any) -> str:
    """A row as the JSON text that its worker reads; ``context`` is whatever :attr:`Hosted.context` understands."""
    own = [None if prompt == row.prompts[0] else prompt for prompt in row.prompts[1:]]
    sampling = {key: getattr(row.request, key) for key in SAMPLING}
    return json.dumps({"name": name, "sampling": sampling, "prompts": own, "context": context})


class HostedRows:
    """The rows in the places of another engine's batch, with a slot of the guides' caches each: an empty one when they enter,
    be it again after preemption, whose caches are made anew from their tokens.
    """

    def __init__(self, hosted: Hosted, slots: int) -> None:
        self.hosted = hosted
        self._rows: dict[int, Row] = {}
        self._free = list(range(slots))
        self._drawn: dict[str, Drawn] = {}

    def enter(self, place: int, told: str | None, prompt: Sequence[int], tokens: list[int]) -> None:
        """Put a row into a place, whoever was there: what :func:`tell` wrote, or ``None`` for a request that draws nothing;
        the base's prompt ids; the list of what was drawn, to which the engine adds. :meth:`follow` brings both otherwise.
        """
        self.leave(place)
        if told is None:
            return
        fields = json.loads(told)
        request = GenerationRequest(prompt="", uid=fields["name"], **fields["sampling"])
        prompts = (tuple(prompt), *(tuple(own or prompt) for own in fields["prompts"]))
        context, slot = self.hosted.context(fields["context"]), self._free.pop(0)
        self._rows[place] = Row(request, prompts, context, tokens=tokens, slot=slot)

    def leave(self, place: int) -> None:
        """Empty a place."""
        row = self._rows.pop(place, None)
        if row is not None:
            self._free.append(row.slot)
            self._free.sort()
            for guide in self.hosted.guides:
                guide.release(row.slot)

    def move(self, source: int, target: int, *, swap: bool) -> None:
        """The row of one place goes to another, whose row takes its place or leaves."""
        rows = {target: self._rows.pop(source, None), source: self._rows.pop(target, None) if swap else None}
        self.leave(target)
        self._rows |= {place: row for place, row in rows.items() if row is not None}

    def follow(self, place: int, length: int, last: int, prompt_length: int, read: Callable[[], list[int]]) -> None:
        """Bring a row up to the ``length`` ids, ``last`` at their end, that its next token follows; ``read`` gives all of
        them, and is only asked when more than the last is new.
        """
        row = self._rows.get(place)
        if row is None:
            return
        known = len(row.prompts[0]) + len(row.tokens)
        if row.prompts[0] and known == length - 1:
            row.tokens.append(last)
        elif not row.prompts[0] or known != length:
            ids = read()
            row.prompts = tuple(prompt or tuple(ids[:prompt_length]) for prompt in row.prompts)
            row.tokens[:] = ids[prompt_length:]

    def change(self, name: str, context: Any) -> None:
        """A row's context from its next token on."""
        for row in self._rows.values():
            if row.request.uid == name:
                row.context = self.hosted.context(context)

    def draw(self, logits: Tensor, places: Sequence[int]) -> Tensor:
        """Draw a token for each row of ``[rows, vocabulary]``, and leave it the only possible one, in place; where there is
        no row in a place, the logits stay.
        """
        here = [(self._rows[place], index) for index, place in enumerate(places) if place in self._rows]
        if not here:
            return logits
        rows, at = (list(part) for part in zip(*sorted(here, key=lambda one: one[0].slot), strict=True))
        which = torch.tensor(at, device=logits.device)
        base = (logits if at == list(range(len(logits))) else logits[which]).float()
        number = {id(row): index for index, row in enumerate(rows)}

        def mix(some: Sequence[Row]) -> Mixed:
            return self._mix(base[[number[id(row)] for row in some]] if len(some) < len(rows) else base, some)

        drawn = draw(mix, rows)
        self._drawn |= {row.request.uid: one for row, one in zip(rows, drawn, strict=True)}
        logits[which] = -torch.inf
        logits[which, torch.tensor([one.token for one in drawn], device=logits.device)] = 0.0
        return logits

    def take_drawn(self) -> dict[str, Drawn]:
        """What was drawn since the last call, by the rows' names; a row that was still in its prefill drew in vain."""
        drawn, self._drawn = self._drawn, {}
        return drawn

    def _mix(self, base: Tensor, rows: Sequence[Row]) -> Mixed:
        asking: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            for model in self.hosted.mixer.guides(row):
                asking.setdefault(model, []).append(index)
        guides = {}
        for model, indices in asking.items():
            asked = [rows[index] for index in indices]
            guide, slots = self.hosted.guides[model - 1], [row.slot for row in asked]
            for row in asked:
                # A row that drew in vain, in vLLM's prefill, has its last token once more.
                guide.rewind(row.slot, len(row.sequence(model)) - 1)
            unread = [row.sequence(model, guide.held(row.slot)) for row in asked]
            guides[model] = torch.tensor(indices), guide.read(slots, unread)
        return self.hosted.mixer.mix(base, guides, rows)
