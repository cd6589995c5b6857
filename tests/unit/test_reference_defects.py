"""The fourteen defects of the reference code (specification 3.4): ours shares none."""

import importlib
import math
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rayworks.systems import recommendation
from rayworks.systems.recommendation.config import Config
from rayworks.systems.recommendation.evaluation import NEXT_ITEM, TOP_RULE, evaluate, probabilities
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, PAD, REJECTED, EventLog, Windows, event_log
from rayworks.systems.recommendation.logs.sequences import Sequences, sequences
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from rayworks.systems.recommendation.measures.audits import audit, leaked_labels
from rayworks.systems.recommendation.measures.metrics import accuracy, best_threshold, ranks
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.backbones import make_backbone
from rayworks.systems.recommendation.models.constraint import AcceptanceObjective, Constraint, ConstraintOptions
from rayworks.systems.recommendation.models.natural_scores import natural_scores
from rayworks.systems.recommendation.models.next_item import NaturalPreference, NextItemModel, NextItemOptions
from rayworks.systems.recommendation.models.training import Trainer, TrainingOptions

ITEMS, LENGTH = 6, 16
OPTIONS = AcceptanceOptions(items=ITEMS, length=LENGTH, width=8)


class AfterLast(NaturalPreference):
    """P(next = j | last item i) is given, so that what was appended and what was read can be told from the number."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.length = ITEMS, LENGTH
        self.table = torch.randn(ITEMS, ITEMS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def scores(self, history: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        last = history[torch.arange(len(history)), lengths - 1] - 1
        return self.table[last]


@pytest.fixture(scope="module")
def log() -> EventLog:
    return Simulator(SimulatorOptions(users=60, items=ITEMS, observed=4, steps=9), 0).log()[0]


def two_steps() -> EventLog:
    """Natural item 0; item 1 accepted; item 2 rejected."""
    kind = np.array([NATURAL, ACCEPTED, REJECTED])
    return event_log(np.zeros(3), np.arange(3), kind, np.arange(3), users=["u"], items=[str(i) for i in range(ITEMS)])


def test_defect_1_every_module_of_the_package_imports() -> None:
    found = pkgutil.walk_packages(recommendation.__path__, f"{recommendation.__name__}.")
    names = [module.name for module in found]
    assert [importlib.import_module(name).__name__ for name in names] == names
    assert f"{recommendation.__name__}.models.acceptance" in names


def test_defect_2_no_device_is_written_into_the_code(log: EventLog) -> None:
    for path in Path(recommendation.__path__[0]).rglob("*.py"):
        text = path.read_text()
        assert ".cuda(" not in text and '"cuda"' not in text, path.name
    loss = AcceptanceObjective(OPTIONS)(sequences(log, LENGTH).take(torch.arange(4)))
    assert loss.device.type == "cpu" and loss.isfinite().all()


def test_defect_3_the_previous_item_is_appended_and_the_present_one_read() -> None:
    model = AfterLast()
    found = natural_scores(model, two_steps()).log_probability
    chances = torch.log_softmax(model.table, 1)
    assert found[1, 0] == pytest.approx(chances[0, 2].item())
    assert found[1, 1] == pytest.approx(chances[1, 2].item())


def test_defects_4_and_5_natural_preference_keeps_its_own_table_and_stays_as_it_was(log: EventLog) -> None:
    natural = NextItemModel(NextItemOptions(items=ITEMS, length=8, width=8, layers=1)).eval()
    before = {name: tensor.clone() for name, tensor in natural.state_dict().items()}
    columns = natural_scores(natural, log).as_columns(len(log))
    rows = sequences(log, LENGTH)
    one = Trainer(
        lambda: AcceptanceObjective(OPTIONS, 0.0, Constraint(ConstraintOptions(1.0), columns.clone(), ITEMS)),
        TrainingOptions(epochs=2),
        rows,
        rows,
        seed=0,
    )
    one.epoch()
    own = {id(parameter) for parameter in natural.parameters()}
    assert own.isdisjoint(id(parameter) for parameter in one._parameters)
    for name, tensor in natural.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    torch.testing.assert_close(natural_scores(natural, log).as_columns(len(log)), columns, rtol=0, atol=0)


def test_defect_6_a_rejection_is_no_padding() -> None:
    model = AcceptanceModel(OPTIONS).eval()
    assert PAD != REJECTED
    assert model.kind.weight[PAD].abs().sum() == 0
    assert model.kind.weight[REJECTED].abs().sum() > 0
    item = torch.tensor([[1, 2]])
    seen = model(item, torch.tensor([[REJECTED, REJECTED]]))[:, 1]
    absent = model(torch.tensor([[0, 2]]), torch.tensor([[PAD, REJECTED]]))[:, 1]
    assert (seen - absent).abs() > 1e-4


def test_defect_7_seen_items_leave_the_ranking_where_scores_are_negative() -> None:
    scores = np.array([[-5.0, -1.0, -3.0]])
    assert ranks(scores, np.array([2]), np.array([[False, True, False]]))[0] == 1


def test_defect_8_nothing_is_learned_from_acceptances_alone(log: EventLog) -> None:
    both = np.where(log.recommended, ACCEPTED, log.kind)
    everybody = event_log(log.user, log.item, both, log.time, log.propensity, users=log.users, items=log.items)
    found = audit(everybody, Windows(2, 2), 0)
    assert found["one decision"].severity == "warning"


def evaluated(log: EventLog) -> tuple[AcceptanceModel, dict[str, object]]:
    torch.manual_seed(0)
    model = AcceptanceModel(OPTIONS).eval()
    config = Config.model_validate(
        {
            "simulator": {"steps": 9},
            "split": {"valid_steps": 2, "test_steps": 2},
            "model": {"length": LENGTH},
            "uncertainty": {"resamples": 0},
        }
    )
    return model, evaluate(config, log, model, {}, AfterLast(), None)


def test_defect_9_rules_without_probabilities_have_no_cross_entropy(log: EventLog) -> None:
    rows = evaluated(log)[1]["models"]
    assert isinstance(rows, dict)
    for name in (TOP_RULE, NEXT_ITEM):
        assert rows[name]["bce"] is None and rows[name]["ece"] is None and rows[name]["auc"] is not None


def test_defect_10_natural_preference_is_read_on_a_scale_of_acceptance() -> None:
    kind = torch.tensor([[REJECTED, REJECTED]])
    batch = Sequences(
        torch.ones(1, 2, dtype=torch.int64),
        kind,
        torch.tensor([[0, 1]]),
        kind > 0,
        torch.zeros(1),
        torch.tensor([[0, 1]]),
    )
    for items in (10, 1000):
        even = torch.full((2, 2), -math.log(items))
        # Where natural preference says nothing, the target is what b makes of it, however many items there are.
        found = Constraint(ConstraintOptions(1.0), even, items)(torch.zeros(1, 2), batch)
        assert found[0, 1].item() == pytest.approx(0.0, abs=1e-9)
        raw = Constraint(ConstraintOptions(1.0, "raw"), even, items)(torch.zeros(1, 2), batch)
        assert raw[0, 1].item() == pytest.approx((0.5 - 1 / items) ** 2, rel=1e-5)


def test_defect_11_thresholds_are_chosen_on_the_validation_window(log: EventLog) -> None:
    model, found = evaluated(log)
    split = Windows(2, 2)
    valid, test = split.valid_mask(log), split.test_mask(log)
    outcome = {name: (log.kind[mask] == ACCEPTED).astype(float) for name, mask in (("valid", valid), ("test", test))}
    threshold = best_threshold(outcome["valid"], probabilities(model, log, valid, LENGTH))
    assert found["threshold"] == threshold
    rows = found["models"]
    assert isinstance(rows, dict)
    expected = accuracy(outcome["test"], probabilities(model, log, test, LENGTH), threshold)
    assert rows["acceptance model"]["accuracy"] == expected


def test_defect_12_the_filter_does_not_see_the_future() -> None:
    torch.manual_seed(0)
    backbone = make_backbone("filter", 8, 2, 2, 12, 0.0).eval()
    inputs = torch.randn(2, 12, 8)
    later = inputs.clone()
    later[:, 7:] += 1
    torch.testing.assert_close(backbone(later)[:, :7], backbone(inputs)[:, :7], rtol=0, atol=0)


def test_defect_13_no_test_label_is_seen_before_the_test(log: EventLog) -> None:
    split = Windows(3, 3)
    masks = split.train_mask(log) & log.recommended, split.valid_mask(log), split.test_mask(log)
    assert leaked_labels(*masks) == 0
    np.testing.assert_array_equal(np.sum(masks, axis=0), log.recommended)


def test_defect_14_the_first_step_has_no_constraint() -> None:
    log = two_steps()
    batch = sequences(log, LENGTH).take(torch.tensor([0]))
    constraint = Constraint(ConstraintOptions(1.0), torch.full((3, 2), -9.0), ITEMS)
    found = constraint(torch.zeros(1, 3), batch)
    assert found[0, :2].tolist() == [0.0, 0.0] and found[0, 2] > 0
