"""Arms on one set of rows: paired, repeatable, able to stop and go on, and the engine finds what is wrong."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rayworks.core.errors import ConfigError, DataError
from rayworks.systems.augmentation.data.samples import read
from rayworks.systems.augmentation.data.splits import Splits, split
from rayworks.systems.augmentation.engine.settings import EngineSettings
from rayworks.systems.augmentation.harm import Harm
from rayworks.systems.augmentation.training.arms import EARLY, UPSTREAM, Arm, arms
from rayworks.systems.augmentation.training.loop import ArmRun, TrainingSettings, online, stored
from rayworks.systems.augmentation.training.nets import network
from rayworks.systems.augmentation.training.stopping import BestState
from rayworks.systems.augmentation.training.tally import Tally
from rayworks.systems.augmentation.upstream.images import random_operations
from rayworks.systems.augmentation.upstream.views import identity, views

ENGINE = EngineSettings(warm_up=120, gain_average=0.8)
SETTINGS = TrainingSettings(steps=800, width=16)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return split(read("digits"), 0, training=700, trusted=50, selection=50, noise=0.4)


def trained(arm: Arm, splits: Splits, settings: TrainingSettings = SETTINGS) -> ArmRun:
    run = ArmRun(arm, splits, online(splits, identity), settings, seed=0)
    run.train()
    return run


def test_wrong_labels_are_found_and_a_placebo_finds_nothing(digits: Splits) -> None:
    asked = ("upstream and trusted rows", "SAFLEX", "placebo")
    found = {arm.name: trained(arm, digits) for arm in arms(ENGINE) if arm.name in asked}
    accuracy = {name: run.evaluate(digits.test)["accuracy"] for name, run in found.items()}
    assert accuracy["SAFLEX"] > accuracy["upstream and trusted rows"] + 0.03
    assert accuracy["SAFLEX"] > accuracy["placebo"] + 0.03
    assert found["SAFLEX"].tally.find(digits.wrong, digits.training.labels) > 0.85
    assert found["placebo"].engine.begun and found["placebo"].tally.find(digits.wrong, digits.training.labels) < 0.6


def test_every_arm_runs_and_repeats(digits: Splits) -> None:
    short = replace(SETTINGS, steps=12)
    early = replace(ENGINE, warm_up=4, progress=0.0)
    for arm in arms(early):
        one, two = trained(arm, digits, short), trained(arm, digits, short)
        assert one.step == one.steps == (24 if "equal seconds" in arm.name else 12)
        assert one.evaluate(digits.selection) == two.evaluate(digits.selection)
    assert len({arm.name for arm in arms(early)}) == 12


def test_an_arm_goes_on_where_it_stopped(digits: Splits) -> None:
    arm = Arm("SAFLEX", replace(ENGINE, warm_up=5, progress=0.0), rows="all")
    settings = replace(SETTINGS, steps=20)
    whole = trained(arm, digits, settings)
    drawn = online(digits, identity)
    first = ArmRun(arm, digits, drawn, settings, 0)
    first.train(10)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = ArmRun(arm, digits, drawn, settings, 0)
    second.load_state_dict(torch.load(file, weights_only=True))
    second.train()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole.tally.by_source, second.tally.by_source)


def test_the_upstream_stopped_early_is_the_best_of_its_own_training(digits: Splits) -> None:
    """A rate at which the loss of the hold-out rises again, as wrong labels are learnt by heart."""
    known = {arm.name: arm for arm in arms(ENGINE)}
    settings = replace(SETTINGS, steps=400, rate=0.2)
    whole, early = (ArmRun(known[name], digits, online(digits, identity), settings, 0) for name in (UPSTREAM, EARLY))
    losses = []
    for _ in range(40):
        whole.train(10)
        losses.append(whole.evaluate(digits.selection)["nll"])
    assert min(losses) < losses[-1], "else there is nothing to stop"
    early.train(130)
    early.train()
    found = early.evaluate(digits.selection)
    assert found["nll"] == min(losses) and early.best is not None
    assert early.best.step == 10 * (1 + int(np.argmin(losses)))
    taken = ArmRun(known[EARLY], digits, online(digits, identity), settings, 0)
    taken.load_state_dict(whole.state_dict())
    assert taken.evaluate(digits.test) == early.evaluate(digits.test), "the same training, taken up at its end"
    assert whole.evaluate(digits.test) != early.evaluate(digits.test)
    assert whole.selected() == whole.evaluate(digits.selection)
    assert early.selected()["nll"] >= found["nll"], "a stop is not judged by the rows that chose it"
    assert (taken.selected(), taken.seconds) == (early.selected(), whole.seconds)


def test_a_stop_is_judged_by_the_rows_that_did_not_choose_it() -> None:
    """Pure chance: the lowest of forty means flatters, the crossed one does not."""
    random, flattering, crossed = np.random.default_rng(0), [], []
    for _ in range(200):
        best, model = BestState(), torch.nn.Linear(1, 1)
        for step in range(40):
            losses = random.normal(1, 1, 20)
            best.look(step, {"losses": losses.tolist(), "right": (losses < 1).astype(int).tolist()}, model)
        flattering.append(float(best.best_loss))
        crossed.append(np.mean(best.crossed()["losses"]))
    assert np.mean(flattering) < 0.7
    assert np.mean(crossed) == pytest.approx(1, abs=4 / (20 * 200) ** 0.5)


def test_of_equal_states_the_first_is_kept() -> None:
    best, model = BestState(), torch.nn.Linear(1, 1)
    assert [step for step in range(1, 9) if best.due(step, 8)] == list(range(1, 9))
    assert [step for step in range(1, 101) if best.due(step, 100)][-3:] == [96, 98, 100] and best.due(101, 101)
    for step in (5, 10):
        best.look(step, {"losses": [0.5, 0.5], "right": [1, 0]}, model)
        with torch.no_grad():
            model.weight.add_(1)
    assert best.step == 5 and best.crossed() == {"losses": [0.5, 0.5], "right": [1, 0]}
    assert torch.equal(best.model["weight"] + 2, model.weight), "a copy"
    again = BestState()
    again.load_state_dict(best.state_dict())
    assert (again.step, again.crossed(), again.best_loss) == (5, best.crossed(), 0.5)


def test_an_operation_that_is_wrong_on_purpose_is_named_first() -> None:
    """Digits half of which are turned upside down, with the label they had."""
    splits = split(read("digits"), 1, training=600, trusted=100, selection=50)
    upstream = random_operations(("identity", "translate", "half-turn", "brightness"), 0.3)
    arm = Arm("SAFLEX", EngineSettings(warm_up=60), rows="all")
    run = ArmRun(arm, splits, online(splits, upstream), replace(SETTINGS, steps=300), 0)
    run.train()
    harm = Harm([{"names": run.tally.names, "by_operation": run.tally.by_operation.tolist()}]).scores
    assert set(harm) == {"identity", "translate", "half-turn", "brightness"}
    assert next(iter(harm)) == "half-turn" and harm["half-turn"] < harm["identity"] / 2


def test_views_made_beforehand_are_drawn_by_row() -> None:
    labels = F.one_hot(torch.arange(6) % 2, 2).float()
    made = [
        views(torch.full((6, 3), float(turn)) + torch.arange(6.0)[:, None] * 10, labels, turn, turn / 2, ("a", "b"))
        for turn in (0, 1)
    ]
    found = stored(made)(torch.tensor([5, 5, 0, 3] * 10), np.random.default_rng(0))
    assert torch.equal(found.inputs[:, 0] // 10, torch.tensor([5.0, 5, 0, 3] * 10))
    assert torch.equal(found.inputs[:, 0] % 10, found.operations.float()) and set(found.operations.tolist()) == {0, 1}
    with pytest.raises(DataError, match="same operations"):
        stored([])


def test_a_tally_counts_ties_half() -> None:
    tally = Tally(4, 2)
    tally.by_source[:, 0] = 1
    tally.gains[:, 1] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    given = torch.ones(4, dtype=torch.long)
    assert tally.find(torch.tensor([True, False, False, False]), given) == pytest.approx(2 / 3)
    assert np.isnan(tally.find(torch.zeros(4, dtype=torch.bool), given))


def test_networks_fit_the_shape_of_the_data() -> None:
    for shape in ((1, 28, 28), (3, 32, 32), (1, 8, 8), (7,), (3, 16, 40)):
        assert network(shape, 4, 2, 0)(torch.rand(2, *shape)).shape == (2, 4)
    one, other = network((3,), 2, 2, 5), network((3,), 2, 2, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_bad_arms_are_named(digits: Splits) -> None:
    with pytest.raises(ConfigError, match="bootstrap"):
        Arm("x", ENGINE, bootstrap=0.2)
    with pytest.raises(ConfigError, match="longer"):
        Arm("x", longer=0.5)
    with pytest.raises(ConfigError, match="set watched"):
        Arm("x", early=True)
    empty = replace(digits.test, inputs=digits.test.inputs[:0], labels=digits.test.labels[:0])
    with pytest.raises(DataError, match="holds no sample"):
        trained(Arm("plain"), digits, replace(SETTINGS, steps=1)).evaluate(empty)
