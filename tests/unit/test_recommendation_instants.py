"""Events of one instant are no inputs to each other, and the audit names them; baselines that know items and users."""

from typing import Any

import numpy as np
import pytest
import torch

from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, EventLog, Windows, event_log
from rayworks.systems.recommendation.logs.sequences import sequences
from rayworks.systems.recommendation.measures.audit_baselines import score_baselines
from rayworks.systems.recommendation.measures.audits import audit
from rayworks.systems.recommendation.measures.metrics import auc
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions, predict
from rayworks.systems.recommendation.models.constraint import AcceptanceObjective
from rayworks.systems.recommendation.models.training import Trainer, TrainingOptions

ITEMS, SPLIT = 8, Windows(test=2, valid=2)


def log_of(rows: list[tuple[int, int, int, float]]) -> EventLog:
    user, item, kind, time = (np.array(column) for column in zip(*rows, strict=True))
    users = [f"u{number}" for number in range(int(user.max()) + 1)]
    return event_log(user, item, kind, time, users=users, items=[f"i{number}" for number in range(ITEMS)])


def told_twice(users: int, first: bool, seed: int = 3) -> EventLog:
    """Decisions by a coin of .3; what is accepted is logged as a natural event in the same second too, before or after."""
    draw, rows = np.random.default_rng(seed), []
    for user in range(users):
        for step in range(8):
            item, accepted = int(draw.integers(ITEMS)), bool(draw.random() < 0.3)
            pair = [(user, item, ACCEPTED if accepted else REJECTED, float(step))]
            pair += [(user, item, NATURAL, float(step))] * accepted
            rows += pair[::-1] if first else pair
    return log_of(rows)


def test_the_past_of_an_event_ends_before_its_instant() -> None:
    times = [1.0, 1.0, 2.0, 3.0, 3.0, 3.0]
    log = log_of([(0, 0, REJECTED, at) for at in times] + [(1, 0, NATURAL, 3.0), (1, 0, ACCEPTED, 3.0)])
    assert log.instant.tolist() == [0, 0, 2, 3, 3, 3, 6, 6]
    rows = sequences(log, 8)
    assert rows.past[0, :6].tolist() == [0, 0, 2, 3, 3, 3]
    assert rows.past[1, :2].tolist() == [0, 0]
    short = sequences(log, 4)
    assert (short.past <= torch.arange(short.past.shape[1])).all()


@pytest.mark.parametrize("backbone", ["gru", "attention", "convolution"])
@pytest.mark.parametrize("history", ["all", "shown", "natural", "first-order"])
def test_a_prediction_sees_nothing_of_its_own_instant(history: Any, backbone: Any) -> None:
    torch.manual_seed(0)
    model = AcceptanceModel(AcceptanceOptions(ITEMS, 12, backbone, history, dropout=0.0))
    before = [(0, 1, NATURAL, 1.0), (0, 2, ACCEPTED, 2.0)]
    found = []
    for slate in (
        [(0, 3, REJECTED, 3.0), (0, 4, ACCEPTED, 3.0)],
        [(0, 3, ACCEPTED, 3.0), (0, 4, ACCEPTED, 3.0)],
        [(0, 3, NATURAL, 3.0), (0, 4, ACCEPTED, 3.0)],
        [(0, 4, ACCEPTED, 3.0), (0, 3, ACCEPTED, 3.0)],
    ):
        log = log_of([*before, *slate])
        logits = predict(model, sequences(log, 12), len(log))
        found.append(float(logits[2 + [event[1] for event in slate].index(4)]))
    assert found == pytest.approx([found[0]] * 4, abs=1e-6)
    later = log_of([*before, (0, 3, REJECTED, 2.5), (0, 4, ACCEPTED, 3.0)])
    if history != "natural":
        assert float(predict(model, sequences(later, 12), 4)[3]) != pytest.approx(found[0], abs=1e-6), "the past does"


@pytest.mark.parametrize("first", [True, False])
def test_a_decision_that_is_logged_twice_is_not_read_off(first: bool) -> None:
    """The finding: test AUC 1.000. Nothing tells a coin, so one half is right; the audit names the copies."""
    log = told_twice(150, first)
    training = TrainingOptions(epochs=6, batch_size=64, learning_rate=5e-3, microbatches=1)
    train = sequences(log.keep(SPLIT.train_mask(log)), 20)
    trainer = Trainer(
        lambda: AcceptanceObjective(AcceptanceOptions(ITEMS, 20)),
        training,
        train,
        sequences(log, 20, SPLIT.valid_mask(log)),
        seed=0,
    )
    while not trainer.finished:
        trainer.epoch()
    tested = SPLIT.test_mask(log)
    logits = predict(trainer.trained(), sequences(log, 20, tested), len(log)).numpy()[tested]
    assert 0.4 < auc((log.kind == ACCEPTED)[tested].astype(float), logits.astype(float)) < 0.6
    finding = audit(log, SPLIT, 0)["ties"]
    assert finding.severity == "warning"
    assert "100% " not in finding.sentence.split(";")[0]
    assert "of which 100% are accepted, and 0% of the others" in finding.sentence


def test_slates_alone_are_no_warning() -> None:
    log = log_of(
        [
            (user, (user + place) % ITEMS, ACCEPTED if (user * place) % 3 else REJECTED, float(place // 2))
            for user in range(30)
            for place in range(8)
        ]
    )
    finding = audit(log, SPLIT, 0)["ties"]
    assert (finding.severity, finding.value) == ("info", 1.0)


def test_item_rates_and_users_are_baselines() -> None:
    """Items differ and users differ: each baseline sees what it knows, and both together see more."""
    draw, rows = np.random.default_rng(1), []
    quality, mood = draw.normal(0, 1.5, ITEMS), draw.normal(0, 1.5, 200)
    for user in range(200):
        for step in range(16):
            item = int(draw.integers(ITEMS))
            accepted = draw.random() < 1 / (1 + np.exp(-(quality[item] + mood[user])))
            rows.append((user, item, ACCEPTED if accepted else REJECTED, float(step)))
    found = score_baselines(log_of(rows), SPLIT, 0)
    scores = {name: one.auc for name, one in found.items()}
    assert (
        scores["item rate"] is not None and scores["user and item"] is not None and scores["per-step prior"] is not None
    )
    assert scores["user and item"] > scores["item rate"] + 0.05 > scores["per-step prior"] + 0.1
    assert found["user and item"].bce < found["item rate"].bce < found["always accept"].bce


def test_baselines_of_one_decision_alone_are_finite() -> None:
    for kind in (ACCEPTED, REJECTED):
        found = score_baselines(
            log_of([(user, user, kind, float(step)) for user in range(3) for step in range(6)]), SPLIT, 0
        )
        assert all(np.isfinite(one.bce) and one.auc is None for one in found.values())
