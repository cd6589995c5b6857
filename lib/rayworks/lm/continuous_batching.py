"""The decode loop: rows of any length, finished rows leave at once, waiting rows take their slots.

A :class:`LogitMixer` says which models a row needs at this token and how their logits become one distribution. Long rows
are read between the steps of the others, all a little at a time; what rows have in common from their start is read once.
"""

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rayworks.lm.causal_model import CausalModel, alike
from rayworks.lm.decoding import Decoding
from rayworks.lm.prefix_tree import agreeing
from rayworks.lm.rows import LogitMixer, Mixed, Row, check_prompt, draw

STEP = 4
"""Most tokens that a row reads in the step that draws its next one."""
READ_AHEAD = 8
"""How many chunks are read at once when no row waits to draw."""

Entry = tuple[int, Row]
"""A row as one of the models reads it."""
Fed = list[tuple[list[Entry], Tensor]]
"""Batches, and the logits after each of their entries, ``[entries, vocabulary]``."""


class ContinuousBatching(Decoding):
    """Decodes submitted rows, up to ``slots`` at a time. A row's result does not depend on the rows beside it, up to the
    rounding of batched products, and what one row raises (its models, its mixer, its ``on_token``) ends no other.

    Args:
        models: the base, then its guides, all made for that many slots; one that stands in several places, which rows read
            with adapters of their own, for that many times the slots.
        chunk: tokens that all rows together catch up with between two steps, per model.
        keep_prefixes: whether what finished rows have drawn stays known, as a tree search wants it; otherwise every
            :meth:`run` forgets all prefixes first, so that its numbers depend on no earlier one.
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
        self._places = [slots * sum(other is model for other in models[:lane]) for lane, model in enumerate(models)]
        self._free = list(range(slots))
        self._active: list[Row] = []
        self._waiting: deque[Row] = deque()
        self._end_ids = end_ids(tokenizer, models[0].model.generation_config)

    @property
    def idle(self) -> bool:
        """Whether no row is decoding or waiting."""
        return not self._active and not self._waiting

    def submit(self, row: Row) -> Row:
        """Queue a row."""
        for model, prompt in zip(self._models, row.prompts, strict=True):
            new, reason = row.request.max_new_tokens, model.max_length_reason
            check_prompt(prompt, new, model.max_length, model.readable_ids, reason)
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
        """See :meth:`~rayworks.lm.decoding.Decoding.run`."""
        if self.idle and not self._keep_prefixes:
            for model in self._models:
                model.prefixes.clear()
        super().run(rows)

    def step(self) -> list[Row]:
        """Draw one token for every row that has a slot and has been read; the rows that finished."""
        while self._waiting and self._free:
            row = self._waiting.popleft()
            row.slot = self._free.pop(0)
            for lane, causal in enumerate(self._models):
                causal.release(self._slot((lane, row)), row.adapter(lane))
            self._active.append(row)
        before = list(self._active)
        for row in before:
            try:
                row.guides = self._mixer.guides(row)
            except Exception as error:
                self._fail(row, error)
        alive = [row for row in before if row.error is None]
        behind = [entry for entry in self._entries(alive) if self._left(entry) > STEP]
        lagging = {id(row) for _, row in behind}
        ready = [row for row in alive if id(row) not in lagging]
        for causal, entries in self._by_model(behind):
            # With nobody to hold up, larger pieces are read at less cost.
            self._catch_up(causal, entries, self._chunk if ready else READ_AHEAD * self._chunk)
        if ready:
            self._draw(sorted(ready, key=lambda row: row.slot))
        finished = [row for row in before if row.finish_reason is not None]
        for row in finished:
            self._leave(row)
        return finished

    def _entries(self, rows: Sequence[Row]) -> list[Entry]:
        """What rows need for their next tokens."""
        return [(lane, row) for row in rows for lane in (0, *row.guides)]

    def _by_model(self, entries: Sequence[Entry]) -> list[tuple[CausalModel, list[Entry]]]:
        """Entries by the model that reads them, in the order of their slots."""
        found: dict[int, list[Entry]] = {}
        for entry in sorted(entries, key=self._slot):
            found.setdefault(id(self._models[entry[0]]), []).append(entry)
        return [(self._models[group[0][0]], group) for group in found.values()]

    def _slot(self, entry: Entry) -> int:
        """The lanes of one model have its slots one behind the other, so that the rows of each are neighbours."""
        return self._places[entry[0]] + entry[1].slot

    def _unread(self, entry: Entry) -> list[int]:
        lane, row = entry
        return row.sequence(lane, self._models[lane].held(self._slot(entry)))

    def _left(self, entry: Entry) -> int:
        """How many tokens are unread."""
        lane, row = entry
        return len(row.prompts[lane]) + len(row.tokens) - self._models[lane].held(self._slot(entry))

    def _catch_up(self, causal: CausalModel, entries: list[Entry], budget: int) -> None:
        """Read a little of every row, but not what another row is reading already."""
        leaders = list[Entry]()
        for entry in sorted(entries, key=lambda entry: causal.held(self._slot(entry)) == 0):
            slot, tokens = self._slot(entry), entry[1].sequence(entry[0])[:-1]
            if causal.held(slot) == 0:
                if causal.prefixes.keeps and self._is_led(entry, tokens, causal.known(slot, tokens), leaders):
                    continue
                causal.take_up(slot, tokens)
            if causal.held(slot) < len(tokens):
                leaders.append(entry)
        share = max(budget // max(len(leaders), 1), STEP)
        takes = {self._slot(entry): self._unread(entry)[:-1][:share] for entry in leaders}
        for batch in alike([len(takes[self._slot(entry)]) for entry in leaders]):
            together = sorted((leaders[index] for index in batch), key=self._slot)
            for entries, _ in self._fed(causal, together, takes):
                for entry in entries:
                    # At once, for those who wait for a part of it.
                    causal.keep(self._slot(entry))

    def _is_led(self, entry: Entry, tokens: Sequence[int], known: int, leaders: Sequence[Entry]) -> bool:
        """Whether it pays to wait for what another row is reading."""
        adapter, causal = entry[1].adapter(entry[0]), self._models[entry[0]]
        room = causal.prefixes.room(causal.cache) if causal.cache.nbytes() else len(tokens)
        others = [other.sequence(lane)[:-1] for lane, other in leaders if other.adapter(lane) == adapter]
        return any(min(agreeing(tokens, other), room) > known + STEP for other in others)

    def _draw(self, rows: list[Row]) -> None:
        places = dict[Entry, int]()
        logits = dict[int, Tensor]()
        for causal, entries in self._by_model(self._entries(rows)):
            unread = {self._slot(entry): self._unread(entry) for entry in entries}
            parts: tuple[list[Entry], list[Entry]] = [], []
            for entry, new in zip(entries, unread.values(), strict=True):
                # Rows that read one token would wait for those that read several.
                parts[len(new) > 1].append(entry)
            fed = [batch for part in parts if part for batch in self._fed(causal, part, unread)]
            if fed:
                known = [entry for batch, _ in fed for entry in batch]
                places |= {entry: place for place, entry in enumerate(known)}
                found = torch.cat([part for _, part in fed]) if len(fed) > 1 else fed[0][1]
                logits |= dict.fromkeys((lane for lane, _ in known), found)
        rows = [row for row in rows if row.error is None]
        if not rows:
            return

        def mix(some: Sequence[Row]) -> Mixed:
            lanes = dict[int, tuple[Tensor, Tensor]]()
            for lane, found in logits.items():
                asked = [index for index, row in enumerate(some) if (lane, row) in places]
                taken = [places[lane, some[index]] for index in asked]
                if taken:
                    own = found if taken == list(range(len(found))) else found[taken]
                    lanes[lane] = torch.tensor(asked), own
            return self._mixer.mix(lanes.pop(0)[1], lanes, some)

        for row, drawn in zip(rows, draw(mix, rows), strict=True):
            self._take(row, drawn, self._end_ids)

    def _fed(self, causal: CausalModel, entries: list[Entry], takes: Mapping[int, list[int]]) -> Fed:
        """Feed rows, by slot, together; where that fails each alone, so that only those fail of which it is true."""
        slots = [self._slot(entry) for entry in entries]
        try:
            return [(entries, causal.feed(slots, [takes[slot] for slot in slots]))]
        except Exception as error:
            if len(entries) == 1:
                self._fail(entries[0][1], error)
                return []
        return [batch for one in entries for batch in self._fed(causal, [one], takes)]

    def _leave(self, row: Row) -> None:
        if row not in self._active:
            return
        self._active.remove(row)
        self._free.append(row.slot)
        self._free.sort()
        for lane, causal in enumerate(self._models):
            slot = self._slot((lane, row))
            if self._keep_prefixes and row.error is None:
                causal.keep(slot)
            causal.release(slot)


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig | None) -> frozenset[int]:
    """Ids that end a text: the tokenizer's end token and those of the model's generation config."""
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(index for index in (*ids, tokenizer.eos_token_id) if isinstance(index, int))
