"""Answer batches of questions about acceptance with the models of one export, without HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypedDict

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.causes.attribution import member_error, member_quantile
from rayworks.systems.recommendation.exported import KnownPast, read_export
from rayworks.systems.recommendation.logs.events import KINDS
from rayworks.systems.recommendation.models.held_out import choices_of
from rayworks.systems.recommendation.models.histories import histories, states_after

from .recommendation_schemas import MOST_NAMED, AcceptBody, Event, LikeIt, Limits, RankBody, ScoredItem

Past = Sequence[tuple[int, int]]
"""Item code and kind of each event, as :func:`~rayworks.systems.recommendation.models.histories.histories` takes them."""
KIND = {name: number for number, name in enumerate(KINDS)}


ChancesOf = Literal["any item", "logged recommendations"]


class LeftOut(TypedDict):
    """What an answer says of the events that a model does not know, and of what its chances are."""

    chances_of: ChancesOf
    unknown_events: int
    unknown_items: list[str]


@dataclass(frozen=True)
class Slate:
    """Which chances have these items?"""

    past: Past
    items: Sequence[int]
    left_out: LeftOut


@dataclass(frozen=True)
class Ranking:
    """Which items have the best chances?"""

    past: Past
    count: int
    excluded: Sequence[int]
    """Each once, and not all items."""
    left_out: LeftOut


@dataclass(frozen=True)
class Scored:
    """The answer to both."""

    items: Sequence[int]
    probability: np.ndarray
    """(M, k): of each model."""
    choices: int
    """How many of the first items are among those that the model would choose itself from all."""


class Recommender:
    """The acceptance models of one export and their catalogue.

    Args:
        folder: ``export`` of a finished run.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, folder: str, limits: Limits) -> None:
        exported = read_export(folder)
        self.limits, self.reference = limits, exported.reference
        # Whoever asks chooses the items, not the log's recommender.
        self.models = [model.of_any_item() for model in exported.models]
        weighted = self.models[0] is not exported.models[0]
        self.chances_of: ChancesOf = "any item" if weighted else "logged recommendations"
        self._bands = {chosen: exported.bands("chosen" if chosen else "all") for chosen in (False, True)}
        self.items = exported.items
        self.choices = choices_of(len(self.items))
        self.holds = self.models[0].options.length - 1
        """Events of a past that the models can hold."""
        self.quantile = member_quantile(len(self.models))
        """Standard errors to each side of a 95 % interval."""
        self._exported = exported

    def check(self) -> None:
        """A real prediction, of every model.

        Raises:
            DataError: it is not a probability.
        """
        [found] = self.answer([Slate([(0, KIND["accepted"])], [0], self.left_out(KnownPast([], 0, [])))])
        if not ((found.probability >= 0) & (found.probability <= 1)).all():
            raise DataError(f"export: the models answer {found.probability.tolist()}, which are not probabilities")

    def slate(self, body: AcceptBody) -> Slate:
        """A request's question.

        Raises:
            DataError: naming the event or item at fault.
        """
        require_at_most("items", len(body.items), self.limits.items)
        past = self.past(body.events)
        return Slate(last(past.events, self.holds), self.codes(body.items, "items"), self.left_out(past))

    def ranking(self, body: RankBody) -> Ranking:
        """A request's question.

        Raises:
            DataError: as :meth:`slate`; nothing is left to rank.
        """
        require_at_most("k", body.k, self.limits.items)
        past = self.past(body.events)
        seen = [code for code, _ in past.events] if body.exclude_seen else []
        excluded = sorted({*self.codes(body.exclude, "exclude"), *seen})
        if len(excluded) == len(self.items):
            raise DataError(f"exclude, exclude_seen: leave none of the {len(self.items):,} items; exclude fewer")
        return Ranking(last(past.events, self.holds), body.k, excluded, self.left_out(past))

    @torch.inference_mode()
    def answer(self, questions: Sequence[Slate | Ranking]) -> list[Scored]:
        """Answer together: one pass per model over all pasts, padded to the longest."""
        past = histories([question.past for question in questions])
        states = [states_after(model, past) for model in self.models]
        items = [torch.tensor(question.items if isinstance(question, Slate) else []) for question in questions]
        rankings = [(row, one) for row, one in enumerate(questions) if isinstance(one, Ranking)]
        scores = self.models[0].score(states[0][[row for row, _ in rankings]]) if rankings else torch.empty(0)
        choices = {}
        for (row, ranking), score in zip(rankings, scores, strict=True):
            least = score.topk(self.choices).values[-1]
            score[ranking.excluded] = -torch.inf
            best = score.topk(min(ranking.count, len(score) - len(ranking.excluded)))
            items[row], choices[row] = best.indices, int((best.values >= least).sum())
        slates = pad_sequence(items, batch_first=True)
        logits = torch.stack([model.score(state, slates) for model, state in zip(self.models, states, strict=True)])
        probability = torch.sigmoid(logits).numpy()
        return [
            Scored(one.tolist(), probability[:, row, : len(one)], choices.get(row, 0)) for row, one in enumerate(items)
        ]

    def scored_items(self, scored: Scored) -> list[ScoredItem]:
        """An answer by name, by the first model."""
        columns = (scored.items, scored.probability[0].tolist(), as_floats(member_error(scored.probability)))
        return [
            ScoredItem(
                item=self.items[code],
                probability=probability,
                model_spread=spread,
                held_out=self.like_it(probability, chosen=place < scored.choices),
            )
            for place, (code, probability, spread) in enumerate(zip(*columns, strict=True))
        ]

    def like_it(self, probability: float, *, chosen: bool) -> LikeIt | None:
        """What came of held-out decisions that were given about this chance; ``chosen`` by the model from all items."""
        band = self._bands[chosen].of(probability)
        if band is None:
            return None
        low, high = band.interval()
        return LikeIt(said=band.said, low=low, high=high, decisions=band.decisions)

    def left_out(self, past: KnownPast) -> LeftOut:
        """How many events of a past a model does not know, and the first of their items; and what chances are of."""
        unknown = list(past.unknown[:MOST_NAMED])
        return LeftOut(chances_of=self.chances_of, unknown_events=past.skipped, unknown_items=unknown)

    def past(self, events: Sequence[Event]) -> KnownPast:
        """A request's events, checked; those on items that are not in the catalogue are left out.

        Raises:
            DataError: naming the event whose time is missing or goes backwards.
        """
        require_at_most("events", len(events), self.limits.events)
        _require_order([event.time for event in events])
        return self._exported.past([(event.item, KIND[event.kind]) for event in events])

    def codes(self, names: Sequence[str], field: str) -> list[int]:
        """Codes of items.

        Raises:
            DataError: naming the first that is not in the catalogue.
        """
        return [self._codes_of(name, f"{field}.{number}") for number, name in enumerate(names)]

    def _codes_of(self, name: str, field: str) -> int:
        code = self._exported.codes.get(name)
        if code is None:
            raise DataError(f"{field}: {name[:80]!r} is not in the catalogue of {len(self.items):,} items")
        return code


def last(past: Past, count: int) -> Past:
    """The last ``count`` events."""
    return past[max(len(past) - count, 0) :]


def require_at_most(field: str, count: int, most: int) -> None:
    """Return if a request asks for no more than the deployment takes.

    Raises:
        DataError: naming the field.
    """
    if count > most:
        raise DataError(f"{field}: {count:,} are more than the {most:,} that are taken here; send fewer")


def interval(
    value: float, error: float | None, quantile: float, least: float, most: float
) -> tuple[float, float] | None:
    """``quantile`` errors to each side of ``value``, cut to what is possible; ``None`` without an error."""
    if error is None:
        return None
    return max(value - quantile * error, least), min(value + quantile * error, most)


def as_floats(values: np.ndarray) -> list[float | None]:
    """A (k,) array for JSON: NaN is null."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def _require_order(times: Sequence[float | None]) -> None:
    if all(time is None for time in times):
        return
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        raise DataError(f"events.{times.index(None)}.time: is missing while other events have one; give all or none")
    for number, (before, time) in enumerate(pairwise(known), 1):
        if time < before:
            raise DataError(
                f"events.{number}.time: {time:g} is before {before:g} of the event before it; send events in order of time"
            )
