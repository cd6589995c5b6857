"""Training: the same result for any number of workers and after any interruption; the constraint; calibration."""

import threading
from collections.abc import Mapping

import numpy as np
import pytest
import torch

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED, Windows
from rayworks.systems.recommendation.logs.sequences import Sequences, sequences
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from rayworks.systems.recommendation.measures.calibration import calibration
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.constraint import (
    AcceptanceObjective,
    Constraint,
    ConstraintOptions,
    previous_place,
)
from rayworks.systems.recommendation.models.training import Gather, Trainer, TrainingOptions, bootstrap_weights

ITEMS, LENGTH = 12, 24
OPTIONS = AcceptanceOptions(items=ITEMS, length=LENGTH, width=8)
TRAINING = TrainingOptions(epochs=4, batch_size=20, microbatches=4, patience=10)


@pytest.fixture(scope="module")
def rows() -> tuple[Sequences, Sequences]:
    log, _ = Simulator(SimulatorOptions(users=60, items=ITEMS, observed=4, steps=10), 0).log()
    windows = Windows(2, 2)
    return sequences(log.keep(windows.train_mask(log)), LENGTH), sequences(log, LENGTH, windows.valid_mask(log))


def trainer(rows: tuple[Sequences, Sequences], **group: object) -> Trainer[AcceptanceModel]:
    return Trainer(lambda: AcceptanceObjective(OPTIONS), TRAINING, *rows, seed=7, **group)


def tensors(model: AcceptanceModel) -> list[torch.Tensor]:
    return list(model.state_dict().values())


class Exchange:
    """Workers in threads that meet at a barrier and read each other's parts."""

    def __init__(self, workers: int) -> None:
        self._barrier, self._lock = threading.Barrier(workers), threading.RLock()
        self._parts: dict[int, torch.Tensor] = {}

    def gather(self, parts: Mapping[int, torch.Tensor]) -> list[torch.Tensor]:
        with self._lock:
            self._parts.update(parts)
        self._barrier.wait()
        found = [self._parts[number] for number in sorted(self._parts)]
        self._barrier.wait()
        return found


class OneAtATime:
    """Runs what torch's global generator serves under one lock, as processes would have generators of their own."""

    def __init__(self, inner: Trainer[AcceptanceModel], lock: threading.RLock) -> None:
        gradient = inner._gradient

        def locked(rows: torch.Tensor, number: int, part: int) -> torch.Tensor:
            with lock:
                return gradient(rows, number, part)

        inner._gradient = locked  # the seam between parts


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_any_number_of_workers_trains_the_same_model_to_the_bit(
    rows: tuple[Sequences, Sequences], workers: int
) -> None:
    alone = trainer(rows)
    while not alone.finished:
        alone.epoch()
    exchange, lock, group = Exchange(workers), threading.RLock(), []
    for rank in range(workers):
        gather: Gather = exchange.gather
        group.append(trainer(rows, gather=gather, rank=rank, workers=workers))
        OneAtATime(group[-1], lock)

    def run(one: Trainer[AcceptanceModel]) -> None:
        while not one.finished:
            one.epoch()

    threads = [threading.Thread(target=run, args=(one,)) for one in group]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in group:
        assert [e["valid_loss"] for e in one.progress.history] == [e["valid_loss"] for e in alone.progress.history]
        for found, expected in zip(tensors(one.trained()), tensors(alone.trained()), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_restored_training_ends_where_an_undisturbed_one_does(rows: tuple[Sequences, Sequences]) -> None:
    straight = trainer(rows)
    straight.epoch()
    straight.epoch()
    kept = straight.state()
    other = trainer(rows)
    other.restore(kept)
    for one in (straight, other):
        while not one.finished:
            one.epoch()
    assert other.progress.history == straight.progress.history
    for found, expected in zip(tensors(other.trained()), tensors(straight.trained()), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_training_lowers_the_loss_and_stops_when_validation_does_not_improve(rows: tuple[Sequences, Sequences]) -> None:
    patient = TrainingOptions(epochs=200, batch_size=20, learning_rate=0.03, patience=3)
    one = Trainer(lambda: AcceptanceObjective(OPTIONS), patient, *rows, seed=0)
    while not one.finished:
        one.epoch()
    losses = [epoch["train_loss"] for epoch in one.progress.history]
    assert losses[-1] < 0.9 * losses[0]
    assert one.progress.epoch == one.progress.best_epoch + 3 < 200
    assert one.progress.best == min(epoch["valid_loss"] for epoch in one.progress.history)


def test_weights_count_users(rows: tuple[Sequences, Sequences]) -> None:
    weights = bootstrap_weights(60, seed=0, member=1)
    assert weights.sum() == 60 and weights.max() > 1 and (weights == 0).any()
    assert (bootstrap_weights(60, seed=0, member=0) == 1).all()
    assert not torch.equal(weights, bootstrap_weights(60, seed=0, member=2))
    only_first = torch.zeros(60)
    only_first[0] = 5
    one = trainer(rows, weights=only_first)
    assert one._update(torch.arange(60), 0)[1] == 5 * int(rows[0].scored[0].sum())


def test_more_workers_than_parts_and_nothing_to_learn_are_refused(rows: tuple[Sequences, Sequences]) -> None:
    with pytest.raises(DataError, match="microbatches"):
        trainer(rows, workers=5)
    with pytest.raises(DataError, match=r"split\.valid_steps"):
        trainer((rows[0].take(torch.arange(0)), rows[1]))


def test_the_last_recommendation_before_a_place() -> None:
    recommended = torch.tensor([[False, True, False, True, True], [False] * 5])
    assert previous_place(recommended).tolist() == [[-1, -1, 1, 1, 3], [-1] * 5]


@pytest.mark.parametrize("form", ["raw", "calibrated"])
def test_the_constraint_is_the_squared_distance_from_the_recursion(form: str) -> None:
    item = torch.tensor([[1, 2, 3, 4]])
    kind = torch.tensor([[NATURAL, REJECTED, NATURAL, ACCEPTED]])
    row = torch.arange(4)[None]
    batch = Sequences(
        item, kind, row, kind >= REJECTED, torch.zeros(1, dtype=torch.int64), torch.arange(kind.shape[1])[None]
    )
    log_natural = torch.log(torch.tensor([[0.5, 0.5], [0.1, 0.2], [0.5, 0.5], [0.05, 0.3]]))
    options = ConstraintOptions(weight=2.0, form="raw" if form == "raw" else "calibrated")
    constraint = Constraint(options, log_natural, items=ITEMS)
    logits = torch.tensor([[0.3, 0.7, -0.2, -1.0]], requires_grad=True)
    found = constraint(logits, batch)
    p = torch.sigmoid(logits.detach())[0]
    q0, q1 = (0.05, 0.3) if form == "raw" else (torch.sigmoid(torch.log(torch.tensor(q * ITEMS))) for q in (0.05, 0.3))
    expected = 2 * (p[3] - (q1 * p[1] + q0 * (1 - p[1]))) ** 2
    torch.testing.assert_close(found.detach(), torch.tensor([[0.0, 0.0, 0.0, float(expected)]]))
    found.sum().backward()
    assert logits.grad is not None
    # Calibrated, the target gives no gradient to the step before.
    assert (logits.grad[0, 1] == 0) == (form == "calibrated")
    assert logits.grad[0, 0] == logits.grad[0, 2] == 0


def test_a_constrained_model_trains_its_scale_too(rows: tuple[Sequences, Sequences]) -> None:
    count = int(rows[0].row.max()) + 1
    pull = ConstraintOptions(weight=1.0)
    columns = torch.full((count, 2), -2.0)
    one = Trainer(lambda: AcceptanceObjective(OPTIONS, 0.1, Constraint(pull, columns, ITEMS)), TRAINING, *rows, seed=0)
    one.epoch()
    moved = {name: value for name, value in one._objective.named_parameters() if "_constraint" in name}
    assert set(moved) == {"_constraint.scale", "_constraint.shift"}
    assert (moved["_constraint.shift"] != 0).all()


def test_calibration_has_the_lowest_cross_entropy_and_the_right_mean() -> None:
    draw = np.random.default_rng(0)
    honest = draw.normal(1, 2, 20_000)
    outcome = (draw.random(20_000) < 1 / (1 + np.exp(-honest))).astype(float)
    found = calibration(honest, outcome)
    scale, shift = found.scale, found.shift
    assert scale == pytest.approx(1.0, abs=0.05)
    assert shift == pytest.approx(0.0, abs=0.05)
    other = calibration(3 * honest + 2, outcome)
    assert other.scale == pytest.approx(scale / 3, rel=1e-5)
    assert other.shift == pytest.approx(shift - 2 * scale / 3, abs=1e-5)
    calibrated = 1 / (1 + np.exp(-(scale * honest + shift)))
    assert calibrated.mean() == pytest.approx(outcome.mean(), abs=1e-4)


def test_decisions_all_alike_are_calibrated_to_finite_numbers() -> None:
    draw = np.random.default_rng(0)
    found = calibration(draw.normal(0, 1, 50), np.ones(50), [draw.normal(0, 1, 50)])
    assert found.scale == 1 and found.others == (0,) and np.isfinite(found.shift) and found.shift > 2
    with pytest.raises(DataError, match="validation"):
        calibration(np.empty(0), np.empty(0))


def test_calibration_never_turns_an_order_around() -> None:
    draw = np.random.default_rng(1)
    logits = draw.normal(0, 1, 200)
    against = (draw.random(200) < 1 / (1 + np.exp(logits))).astype(float)
    found = calibration(logits, against)
    scale, shift = found.scale, found.shift
    assert scale == pytest.approx(0.05)
    calibrated = 1 / (1 + np.exp(-(scale * logits + shift)))
    assert calibrated.mean() == pytest.approx(against.mean(), abs=0.01)
    found = calibration(np.array([-900.0, 900.0, 900.0, -900.0] * 10), np.array([0.0, 1.0, 1.0, 1.0] * 10))
    assert found.scale >= 0.05


def test_a_training_that_diverges_says_so(rows: tuple[Sequences, Sequences]) -> None:
    one = trainer(rows)
    with torch.no_grad():
        one._objective.model.output.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="learning rate"):
        one.epoch()


def test_a_model_scales_and_shifts_its_log_odds() -> None:
    def make(*calibration: float) -> AcceptanceModel:
        torch.manual_seed(0)
        model = AcceptanceModel(OPTIONS).eval()
        if calibration:
            model.calibration.copy_(torch.tensor(calibration))
        return model

    item, kind = torch.tensor([[1, 2, 3]]), torch.tensor([[NATURAL, ACCEPTED, REJECTED]])
    past = torch.arange(3)[None]
    found = make(0.5, 0.25, 0.0, 0.0)
    torch.testing.assert_close(found(item, kind, past), make()(item, kind, past) * 0.5 + 0.25)
    everything = found.score(found.states(item, kind))
    torch.testing.assert_close(everything.gather(2, item[..., None] - 1)[..., 0], found(item, kind, past))
