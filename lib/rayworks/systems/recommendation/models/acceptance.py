"""The acceptance model: the probability that a recommended item is accepted, given the user's history.

Every position of a sequence is predicted in the same pass, from the positions before its instant only.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rayworks.systems.recommendation.logs.events import ACCEPTED, REJECTED
from rayworks.systems.recommendation.logs.sequences import Sequences
from rayworks.systems.recommendation.models.backbones import BackboneName, Cache, make_backbone

PRIOR_DECISIONS = 5.0
"""Decisions at the rate of all that stand beside a user's own."""
SHOWN = ACCEPTED + 1
"""Kind of a recommendation whose decision is hidden from the model."""
History = Literal["all", "shown", "natural", "first-order"]
"""What the model sees of the past: all; no decisions; no recommendations at all; natural events, the last recommendation and
its decision. Only for the last does the recursion of :mod:`~.do_recursion` hold exactly."""


@dataclass(frozen=True)
class AcceptanceOptions:
    """Size and shape of the network."""

    items: int
    length: int
    """Most events of a sequence."""
    backbone: BackboneName = "gru"
    history: History = "all"
    width: int = 32
    layers: int = 1
    heads: int = 2
    dropout: float = 0.2


@dataclass(frozen=True)
class UserMemory:
    """State of the model for B users after their last event."""

    state: Tensor
    """(B, d + 1), from which any item is scored; the last is added to the logits of every item."""
    cache: Cache
    """Cache of the backbone."""
    shown: Tensor
    """(B, d), the token of the last recommendation, 0 before the first."""
    times: Tensor
    """int64 (B,), recommendations so far."""
    taken: Tensor
    """int64 (B,), those of them that were accepted."""

    def take(self, rows: Tensor) -> "UserMemory":
        """Some users (int64 (b,)), also repeatedly."""
        cache = [part[rows] for part in self.cache]
        return UserMemory(self.state[rows], cache, self.shown[rows], self.times[rows], self.taken[rows])


class AcceptanceModel(nn.Module):
    """Embeds items and kinds of events, encodes them causally and scores the item shown next.

    Padding, natural, rejected and accepted are four different kinds: a rejection is seen. The decision at a position and all
    that follows it are not among what its prediction depends on.
    """

    calibration: Tensor
    """(4,), see :class:`~.measures.calibration.Calibration`: to the network's logits the third times the item's rate and the
    fourth times the user's are added, then they are multiplied by the first, and the second is added. 1, 0, 0, 0 at first."""
    for_any_item: Tensor
    """(4,), the same for an item that is chosen whatever the log's recommender would have done; 0 where it is not known."""
    rates: Tensor
    """(I,), logits of the items' smoothed rates of acceptance in training, over that of all."""
    rate: Tensor
    """(), the logit of all."""

    def __init__(self, options: AcceptanceOptions) -> None:
        super().__init__()
        self.options = options
        width = options.width
        self.item = nn.Embedding(options.items + 1, width, padding_idx=0)
        self.kind = nn.Embedding(SHOWN + 1, width, padding_idx=0)
        self.start = nn.Parameter(torch.zeros(width))
        self.normalise, self.dropout = nn.LayerNorm(width), nn.Dropout(options.dropout)
        self.backbone = make_backbone(
            options.backbone, width, options.layers, options.heads, options.length, options.dropout
        )
        self.shown_before = nn.Embedding(options.length + 1, 1)
        self.offset = nn.Linear(width, 1)
        self.register_buffer("calibration", torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("for_any_item", torch.zeros(4))
        self.register_buffer("rates", torch.zeros(options.items))
        self.register_buffer("rate", torch.tensor(0.0))
        self.last_shown = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
        self.output = nn.Embedding(options.items, width)
        self.bias = nn.Embedding(options.items, 1)
        for table in (self.item, self.kind, self.output, self.bias):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.shown_before.weight)
        with torch.no_grad():
            self.item.weight[0], self.kind.weight[0] = 0, 0

    def forward(self, item: Tensor, kind: Tensor, past: Tensor | None = None) -> Tensor:
        """Logits (B, T) that the item at each position would be accepted, from the first ``past`` (int64 (B, T)) of ``item``
        and ``kind`` (B, T); if None, from all before it, each event having a time of its own.
        """
        states = self.states(item, kind)
        if past is not None:
            states = at_positions(states, past)
        return self.score(states, (item - 1).clamp(min=0)[..., None])[..., 0]

    def states(self, item: Tensor, kind: Tensor) -> Tensor:
        """(B, T, d + 1): the user's state before each position."""
        tokens, shown = self._tokens(item, kind)
        before = torch.cat([self.start.expand(len(item), 1, -1), tokens[:, :-1]], 1)
        states: Tensor = self.backbone(self.dropout(self.normalise(before)))
        shown_before = (kind[:, :-1] >= REJECTED).cumsum(1)
        shown_before = torch.cat([shown_before.new_zeros(len(shown_before), 1), shown_before], 1)
        taken_before = (kind[:, :-1] == ACCEPTED).cumsum(1)
        taken_before = torch.cat([taken_before.new_zeros(len(taken_before), 1), taken_before], 1)
        if self.options.history != "first-order":
            return self._with_offset(states, shown_before, taken_before)
        recommended = kind[:, :-1] >= REJECTED
        positions = torch.where(recommended, torch.arange(1, kind.shape[1], device=kind.device), 0).cummax(1).values
        positions = torch.cat([positions.new_zeros(len(positions), 1), positions], 1)
        before = torch.cat([torch.zeros_like(before[:, :1]), shown[:, :-1]], 1)
        last = before.gather(1, positions[..., None].expand_as(before))
        return self._with_offset(self._with_last_shown(states, last), shown_before, taken_before)

    def score(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Logits (..., k) of the items coded 0..I-1 (int64 (..., k)) in ``states`` (..., d + 1); of all items if None."""
        scale, shift, by_item = self.calibration[0], self.calibration[1], self.calibration[2]
        states, offset = states[..., :-1], states[..., -1:]
        if items is None:
            every = self.bias.weight[:, 0] + by_item * self.rates
            return (states @ self.output.weight.T + every + offset) * scale + shift
        found: Tensor = (self.output(items) * states[..., None, :]).sum(-1) + self.bias(items)[..., 0]
        return (found + by_item * self.rates[items] + offset) * scale + shift

    def calibrated(self, values: Tensor) -> "AcceptanceModel":
        """A copy with another calibration (4,)."""
        found = copy.deepcopy(self)
        found.calibration.copy_(values)
        return found

    def of_any_item(self) -> "AcceptanceModel":
        """The model for questions about items that the log's recommender did not choose; itself where it has no such form."""
        return self.calibrated(self.for_any_item) if bool(self.for_any_item.any()) else self

    def remember(self, count: int) -> UserMemory:
        """``count`` users of whom nothing is known."""
        cache = self.backbone.start(count, self.start)
        state, cache = self.backbone.extend(self.dropout(self.normalise(self.start.expand(count, -1))), cache)
        shown, times = self.start.new_zeros(count, self.options.width), torch.zeros(count, dtype=torch.int64)
        return UserMemory(self._after(state, shown, times, times), cache, shown, times, times)

    def extend(self, memory: UserMemory, item: Tensor, kind: Tensor) -> UserMemory:
        """Add an event to each of B users: ``item`` (int64 (B,), code + 1) and ``kind`` (int64 (B,))."""
        tokens, shown = self._tokens(item[:, None], kind[:, None])
        state, cache = self.backbone.extend(self.dropout(self.normalise(tokens[:, 0])), memory.cache)
        last = torch.where((kind >= REJECTED)[:, None], shown[:, 0], memory.shown)
        times, taken = memory.times + (kind >= REJECTED), memory.taken + (kind == ACCEPTED)
        return UserMemory(self._after(state, last, times, taken), cache, last, times, taken)

    def read(self, item: Tensor, kind: Tensor) -> UserMemory:
        """The memory of users with the same number of events (B, T), T >= 0, in T steps of :meth:`extend`."""
        memory = self.remember(len(item))
        for position in range(item.shape[1]):
            memory = self.extend(memory, item[:, position], kind[:, position])
        return memory

    def _tokens(self, item: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """What the backbone reads, and what a first-order model knows of a recommendation; both (B, T, d)."""
        full: Tensor = self.item(item) + self.kind(kind)
        if self.options.history == "all":
            return full, full
        recommended = kind >= REJECTED
        hidden = self.kind(torch.where(recommended, SHOWN, kind))
        if self.options.history == "shown":
            return self.item(item) + hidden, full
        return torch.where(recommended[..., None], hidden, full), full

    def _after(self, states: Tensor, shown: Tensor, times: Tensor, taken: Tensor) -> Tensor:
        if self.options.history == "first-order":
            states = self._with_last_shown(states, shown)
        return self._with_offset(states, times, taken)

    def _with_offset(self, states: Tensor, shown_before: Tensor, taken_before: Tensor) -> Tensor:
        """Append what is added to the logits of every item; the first recommendations have a level of their own."""
        own: Tensor = self.offset(states) + self.shown_before(shown_before.clamp(max=self.options.length))
        if self.options.history == "all":
            mean = torch.sigmoid(self.rate)
            user = torch.logit((taken_before + PRIOR_DECISIONS * mean) / (shown_before + PRIOR_DECISIONS)) - self.rate
            own = own + self.calibration[3] * user[..., None]
        return torch.cat([states, own], -1)

    def _with_last_shown(self, states: Tensor, shown: Tensor) -> Tensor:
        added: Tensor = self.last_shown(torch.cat([states, shown], -1))
        return states + added


def at_positions(values: Tensor, position: Tensor) -> Tensor:
    """``values`` (B, T, ...) of each row at ``position`` (int64 (B, S))."""
    return values[torch.arange(len(values), device=values.device)[:, None], position]


@torch.no_grad()
def predict(model: AcceptanceModel, rows: Sequences, count: int, batch: int = 512) -> Tensor:
    """Logits (N,) at the scored positions of ``rows``, NaN at the log's other rows.

    Args:
        model: is put into evaluation mode.
        count: N, its events.
    """
    model.eval()
    device = model.start.device
    found = torch.full((count,), torch.nan)
    for part in rows.batches(batch):
        logits = model(part.item.to(device), part.kind.to(device), part.past.to(device)).cpu()
        found[part.row[part.scored]] = logits[part.scored].float()
    return found
