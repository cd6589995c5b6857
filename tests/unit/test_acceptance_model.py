"""The acceptance model: what a prediction depends on, and that its three ways of computing it agree."""

import numpy as np
import pytest
import torch

from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, PAD, REJECTED, EventLog, event_log
from rayworks.systems.recommendation.logs.sequences import sequences
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions, History, predict
from rayworks.systems.recommendation.models.backbones import BackboneName
from rayworks.systems.recommendation.models.histories import (
    Histories,
    acceptance,
    equally_long,
    histories,
    histories_of,
    states_after,
)

BACKBONES: tuple[BackboneName, ...] = ("gru", "attention", "convolution", "filter")
HISTORIES: tuple[History, ...] = ("all", "shown", "natural", "first-order")
ITEMS, LENGTH = 9, 12


def model_of(backbone: BackboneName = "gru", history: History = "all") -> AcceptanceModel:
    torch.manual_seed(0)
    options = AcceptanceOptions(items=ITEMS, length=LENGTH, backbone=backbone, history=history, width=8, dropout=0.0)
    model = AcceptanceModel(options)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def events(users: int = 4, length: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    item = torch.randint(1, ITEMS + 1, (users, length), generator=draw)
    kind = torch.randint(NATURAL, ACCEPTED + 1, (users, length), generator=draw)
    return item, kind


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_nothing_at_or_after_a_decision_moves_its_prediction_but_the_item(
    backbone: BackboneName, history: History
) -> None:
    model, (item, kind) = model_of(backbone, history), events()
    before = model(item, kind)
    place = 6
    later_item, later_kind = item.clone(), kind.clone()
    later_item[:, place + 1 :] = later_item[:, place + 1 :] % ITEMS + 1
    later_kind[:, place:] = torch.where(later_kind[:, place:] == ACCEPTED, REJECTED, ACCEPTED)
    after = model(later_item, later_kind)
    torch.testing.assert_close(after[:, : place + 1], before[:, : place + 1], rtol=0, atol=0)
    other = item.clone()
    other[:, place] = other[:, place] % ITEMS + 1
    assert (model(other, kind)[:, place] != before[:, place]).all()


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_one_event_at_a_time_is_the_whole_pass(backbone: BackboneName, history: History) -> None:
    model, (item, kind) = model_of(backbone, history), events()
    with torch.no_grad():
        whole = model(item, kind)
        memory = model.remember(len(item))
        for place in range(item.shape[1]):
            now = model.score(memory.state, item[:, place : place + 1] - 1)[:, 0]
            torch.testing.assert_close(now, whole[:, place], atol=1e-5, rtol=1e-5)
            memory = model.extend(memory, item[:, place], kind[:, place])
        past = Histories(item, kind)
        torch.testing.assert_close(states_after(model, past), memory.state, atol=1e-5, rtol=1e-5)


def test_what_each_history_sees() -> None:
    item, kind = events()
    shown = kind >= REJECTED
    flipped = torch.where(kind == ACCEPTED, REJECTED, torch.where(kind == REJECTED, ACCEPTED, kind))
    renamed = torch.where(shown, item % ITEMS + 1, item)
    last = torch.tensor([[1]]).expand(4, 1)

    def after(history: History, items: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        return acceptance([model_of(history=history)], Histories(items, kinds), last)[0]

    assert (after("all", item, flipped) != after("all", item, kind)).any()
    torch.testing.assert_close(after("shown", item, flipped), after("shown", item, kind), rtol=0, atol=0)
    assert (after("shown", renamed, kind) != after("shown", item, kind)).any()
    torch.testing.assert_close(after("natural", renamed, flipped), after("natural", item, kind), rtol=0, atol=0)
    # First order: only the last recommendation and its decision count.
    places = torch.where(shown, torch.arange(10), -1)
    is_last = places == places.max(1, keepdim=True).values
    earlier = torch.where(is_last, item, renamed), torch.where(is_last, kind, flipped)
    torch.testing.assert_close(after("first-order", *earlier), after("first-order", item, kind), rtol=0, atol=0)
    assert (after("first-order", item, flipped) != after("first-order", item, kind)).any()


def test_users_with_any_number_of_events_are_scored_together() -> None:
    model = model_of()
    pasts = [[(0, NATURAL), (3, REJECTED)], [], [(1, ACCEPTED)] * 14]
    found = acceptance([model], histories(pasts))[0]
    for row, past in enumerate(pasts):
        alone = acceptance([model], histories([past]))[0]
        torch.testing.assert_close(found[row : row + 1], alone, atol=1e-6, rtol=1e-6)
    short = acceptance([model], histories([[(1, ACCEPTED)] * (LENGTH - 1)]))[0]
    torch.testing.assert_close(found[2:], short, atol=1e-6, rtol=1e-6)
    rows = {int(row): int(same.item.shape[1]) for rows, same in equally_long(histories(pasts)) for row in rows}
    assert rows == {0: 2, 1: 0, 2: 14}


def log_of(counts: list[int]) -> EventLog:
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(len(counts)), counts)
    kind = draw.integers(NATURAL, ACCEPTED + 1, len(user))
    kind[0] = ACCEPTED
    time = np.concatenate([np.arange(count) for count in counts])
    names = [str(code) for code in range(ITEMS)]
    users = [str(user) for user in range(len(counts))]
    return event_log(user, draw.integers(0, ITEMS, len(user)), kind, time, users=users, items=names)


@pytest.mark.parametrize("length", [4, 5, 8])
def test_long_users_are_cut_so_that_each_decision_is_predicted_once(length: int) -> None:
    log = log_of([1, 3, 4, 5, 9, 23, 40])
    rows = sequences(log, length)
    scored = rows.row[rows.scored].numpy()
    np.testing.assert_array_equal(np.sort(scored), np.flatnonzero(log.recommended))
    kept = rows.row >= 0
    np.testing.assert_array_equal(rows.item[kept] - 1, log.item[rows.row[kept].numpy()])
    assert (rows.kind[~kept] == PAD).all()
    places = rows.scored.int().argmax(1)
    first = rows.row[:, 0].numpy()
    begins = np.isin(first, log.offsets[:-1])
    # Whatever does not begin with its user has half a row of history before its first prediction.
    assert (places.numpy()[~begins] >= length // 2).all()


def test_predictions_of_a_log_lie_at_their_rows() -> None:
    log = log_of([6, 9])
    model = model_of()
    found = predict(model, sequences(log, LENGTH), len(log))
    assert torch.isnan(found[~torch.from_numpy(log.recommended)]).all()
    for row in np.flatnonzero(log.recommended):
        user = log.user[row]
        past = histories_of(log.keep(np.arange(len(log)) < row), np.array([user]))
        expected = model.score(states_after(model, past), torch.tensor([[int(log.item[row])]]))
        assert float(found[row]) == pytest.approx(expected.item(), abs=1e-5)
