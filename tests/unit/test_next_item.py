"""Next-item models: what they are trained on, what they learn, and how they are ranked."""

import numpy as np
import pytest
import torch

from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog
from rayworks.systems.recommendation.measures.metrics import ndcg
from rayworks.systems.recommendation.models.next_item import (
    NextItemLoss,
    NextItemModel,
    NextItemObjective,
    NextItemOptions,
    natural_sequences,
    rank_held_out,
)
from rayworks.systems.recommendation.models.training import Trainer, TrainingOptions


def log_of(histories: list[list[int]], kinds: list[list[int]] | None = None, items: int = 12) -> EventLog:
    kinds = kinds or [[NATURAL] * len(one) for one in histories]
    count = sum(map(len, histories))
    return EventLog(
        np.repeat(np.arange(len(histories)), [len(one) for one in histories]).astype(np.int32),
        np.concatenate(histories).astype(np.int32),
        np.concatenate(kinds).astype(np.int8),
        np.arange(count, dtype=np.float64),
        np.full(count, np.nan),
        users=[f"u{number}" for number in range(len(histories))],
        items=[f"i{number}" for number in range(items)],
    )


def cyclic(users: int = 24, steps: int = 14, items: int = 12) -> EventLog:
    return log_of([[(user + step) % items for step in range(steps)] for user in range(users)], items=items)


def trained(log: EventLog, options: NextItemOptions, epochs: int = 25) -> NextItemModel:
    train, valid = natural_sequences(log, options.length + 1, 2)
    training = TrainingOptions(epochs=epochs, batch_size=8, learning_rate=1e-2, patience=epochs, microbatches=1)
    trainer = Trainer(lambda: NextItemObjective(options), training, train, valid, seed=0)
    while not trainer.finished:
        trainer.epoch()
    return trainer.trained()


@pytest.mark.parametrize("loss", ["cross-entropy", "bpr", "bce"])
def test_a_cycle_is_learned(loss: NextItemLoss) -> None:
    log = cyclic()
    model = trained(log, NextItemOptions(12, 8, width=16, layers=1, dropout=0.0, loss=loss))
    assert ndcg(rank_held_out(model, log), 1) == 1


def test_training_sees_nothing_that_is_held_out() -> None:
    log = log_of([[0, 1, 2, 3, 4, 5], [6, 7], [8, 9, 10]])
    train, valid = natural_sequences(log, 10, 2)
    assert [row[row > 0].tolist() for row in train.item] == [[1, 2, 3, 4]]
    assert train.scored[0].nonzero().flatten().tolist() == [1, 2, 3]
    assert [row[row > 0].tolist() for row in valid.item] == [[1, 2, 3, 4, 5], [9, 10]]
    assert [scored.nonzero().flatten().tolist() for scored in valid.scored] == [[4], [1]]
    _, short = natural_sequences(log, 3, 2)
    assert [row[row > 0].tolist() for row in short.item] == [[3, 4, 5], [9, 10]]


def test_recommendations_are_no_choice_of_the_user() -> None:
    kinds = [[NATURAL, ACCEPTED, NATURAL, REJECTED, NATURAL, NATURAL, NATURAL]]
    train, valid = natural_sequences(log_of([[0, 1, 2, 3, 4, 5, 6]], kinds), 10, 2)
    assert train.item[0][train.item[0] > 0].tolist() == [1, 3, 5]
    assert valid.item[0][valid.scored[0]].tolist() == [6]


def test_each_item_but_the_first_is_predicted_once_however_long_the_user() -> None:
    train, _ = natural_sequences(log_of([[step % 12 for step in range(40)]]), 8, 2)
    rows = train.row[train.scored]
    assert sorted(rows.tolist()) == list(range(1, 38))


def test_ranks_are_those_of_a_loop() -> None:
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    histories = [draw.integers(0, 12, length).tolist() for length in (1, 2, 3, 9, 17, 30)]
    log = log_of(histories)
    model = NextItemModel(NextItemOptions(12, 6, width=8, layers=1)).eval()
    for exclude in (False, True):
        expected = []
        for history in histories[1:]:
            before, target = history[-7:-1], history[-1]
            with torch.no_grad():
                scores = model.scores(torch.tensor([before]) + 1, torch.tensor([len(before)]))[0]
            rivals = set(range(12)) - {target} - (set(before) if exclude else set())
            expected.append(1 + sum(bool(scores[item] > scores[target]) for item in rivals))
        assert rank_held_out(model, log, exclude_seen=exclude).tolist() == expected


def test_ranks_need_the_last_items_of_the_history_only() -> None:
    model = NextItemModel(NextItemOptions(12, 4, width=8, layers=1)).eval()
    tail = [3, 1, 4, 1, 5]
    first, second = rank_held_out(model, log_of([[7, 8, 9, *tail], [10, 2, *tail]]))
    assert first == second


def test_validation_is_cross_entropy_whatever_the_loss() -> None:
    log = cyclic()
    _, valid = natural_sequences(log, 9, 2)
    found = []
    for loss in ("cross-entropy", "bpr", "bce"):
        torch.manual_seed(0)
        objective = NextItemObjective(NextItemOptions(12, 8, width=8, layers=1, loss=loss)).eval()
        scores = objective.model.scores(valid.item[:, :-1], valid.scored.int().argmax(1))
        target = valid.item[valid.scored] - 1
        expected = -torch.log_softmax(scores, 1)[torch.arange(len(target)), target]
        found.append(objective(valid)[valid.scored].detach())
        torch.testing.assert_close(found[-1], expected)
    assert all(torch.equal(found[0], other) for other in found)
