"""Each defect of a log has its own warning; the numbers of the authors' sample are found again (specification 3.3, 3.4)."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rayworks.core import seeds
from rayworks.systems.recommendation.logs.events import ACCEPTED, REJECTED, EventLog, Windows
from rayworks.systems.recommendation.measures.audits import audit, leaked_labels
from tests.small_events import clean_draws, clean_log, make_log, template_log

WINDOWS = Windows(test=3, valid=2)


class ReferenceWindows:
    """The authors' windows: of T decisions training ends with the label T-3, validates T-2 and tests T-3, T-2, T-1."""

    def train_mask(self, log: EventLog) -> np.ndarray:
        return np.asarray(log.steps_left + log.recommended > 2)

    def valid_mask(self, log: EventLog) -> np.ndarray:
        return np.asarray(log.recommended & (log.steps_left == 1))

    def test_mask(self, log: EventLog) -> np.ndarray:
        return np.asarray(log.recommended & (log.steps_left < 3))


def test_the_numbers_of_the_authors_sample_are_found() -> None:
    log = template_log()
    found = audit(log, Windows(test=3, valid=0), seed=0)
    accepted = (log.kind == ACCEPTED)[log.recommended]
    assert accepted.mean() == pytest.approx(0.487, abs=0.002)
    assert found["constant steps"].value == 21
    assert found["templates"].value == 20
    assert round(found.baselines["always accept"].accuracy, 3) == 0.932
    assert round(found.baselines["template lookup"].accuracy, 3) == 0.984
    assert "template lookup 98.4%, always accept 93.2%" in found["templates"].sentence
    names = {finding.name for finding in found.findings if finding.severity == "warning"}
    assert names == {"constant steps", "templates", "item independence", "last natural item"}


def test_the_authors_split_gives_two_of_three_test_labels_away_and_ours_none() -> None:
    log = clean_log(users=50, steps=40)
    reference = audit(log, ReferenceWindows(), seed=0)["leaked labels"]
    assert reference.severity == "warning"
    assert reference.value == pytest.approx(2 / 3)
    for windows in (Windows(test=3, valid=3), Windows(test=1, valid=0)):
        masks = windows.train_mask(log), windows.valid_mask(log), windows.test_mask(log)
        assert leaked_labels(*masks) == 0
        assert not (masks[0] & masks[1]).any()
        assert audit(log, windows, seed=0)["leaked labels"].severity == "info"


def with_constant_step(log: EventLog) -> EventLog:
    return dataclasses.replace(
        log, kind=np.where(log.recommended & (log.step == 7), REJECTED, log.kind).astype(np.int8)
    )


def with_one_decision(log: EventLog) -> EventLog:
    return dataclasses.replace(log, kind=np.where(log.recommended, ACCEPTED, log.kind).astype(np.int8))


def with_a_repeated_row(log: EventLog) -> EventLog:
    return log.keep(np.sort(np.append(np.arange(len(log)), 40)))


def with_twins(log: EventLog) -> EventLog:
    """User 1 becomes user 0 again."""
    rows = np.arange(len(log))
    rows[log.offsets[1] : log.offsets[2]] = np.arange(log.offsets[1])
    return dataclasses.replace(log.keep(rows), user=log.user)


def with_short_users(log: EventLog) -> EventLog:
    return log.keep((log.user >= 10) | ~log.recommended | (log.step == 0))


def with_an_unseen_item(log: EventLog) -> EventLog:
    return log.keep((log.item != 3) | WINDOWS.test_mask(log))


def with_a_rare_draw(log: EventLog) -> EventLog:
    row = np.flatnonzero(log.recommended)[5]
    return dataclasses.replace(log, propensity=np.where(np.arange(len(log)) == row, 1e-6, log.propensity))


def without_taste_for_items(log: EventLog) -> EventLog:
    natural, items, accepted, _ = clean_draws(200, 20, 12, seed=0)
    return make_log(natural, seeds.stream(0, "shuffle").permuted(items), accepted, 12)


def without_memory(log: EventLog) -> EventLog:
    _, items, _, _ = clean_draws(1000, 20, 12, seed=0)
    draw = seeds.stream(0, "decisions")
    accepted = draw.random(items.shape) < np.linspace(0.2, 0.8, 12)[items]
    return make_log(np.zeros((1000, 0), int), items, accepted, 12)


def with_templates(log: EventLog) -> EventLog:
    natural, items, accepted, _ = clean_draws(200, 20, 12, seed=0)
    return make_log(natural, items, accepted[np.arange(200) % 20], 12)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (with_constant_step, "constant steps"),
        (with_one_decision, "one decision"),
        (with_a_repeated_row, "duplicated rows"),
        (with_twins, "identical users"),
        (with_short_users, "users with one step"),
        (with_an_unseen_item, "unseen items"),
        (with_a_rare_draw, "propensities"),
        (without_taste_for_items, "item independence"),
        (without_memory, "previous decision"),
        (with_templates, "templates"),
    ],
)
def test_each_defect_has_its_own_warning(spoil: Callable[[EventLog], EventLog], name: str) -> None:
    clean = audit(clean_log(), WINDOWS, seed=0)
    assert clean.warnings == 0
    found = audit(spoil(clean_log()), WINDOWS, seed=0)
    assert found[name].severity == "warning", found[name]
    assert {finding.name for finding in found.findings if finding.severity == "warning"} <= {name, "item independence"}


def test_an_all_accept_log_says_what_can_not_be_learned() -> None:
    found = audit(with_one_decision(clean_log()), WINDOWS, seed=0)
    assert "log rejections too" in found["one decision"].sentence
    assert found["item independence"].value is None
    assert found["previous decision"].value is None
    assert found.baselines["always accept"].accuracy == 1
    assert found.baselines["always accept"].auc is None


def test_baselines_by_hand() -> None:
    """Two users at the same steps: each half learns from the other user alone."""
    accepted = np.array([[1, 0, 1, 1], [1, 0, 0, 1]], bool)
    log = make_log(np.zeros((2, 0), int), np.zeros((2, 4), int), accepted, 1)
    found = audit(log, Windows(test=2, valid=0), seed=0).baselines
    assert found["always accept"].accuracy == 0.75
    # The rate of the training window is 1/2; one row of the other user weighs as much as it.
    probability = np.array([0.25, 0.75, 0.75, 0.75])
    outcome = np.array([1, 1, 0, 1])
    expected = -np.log(np.where(outcome, probability, 1 - probability)).mean()
    assert found["per-step prior"].bce == pytest.approx(expected)
    assert found["per-step prior"].accuracy == 0.5
    # Both decided alike before, so that user's decision counts once more.
    lookup = np.array([0.125, 0.875, 0.875, 0.875])
    assert found["template lookup"].bce == pytest.approx(-np.log(np.where(outcome, lookup, 1 - lookup)).mean())


def test_a_log_without_test_steps_has_no_baselines() -> None:
    found = audit(clean_log(users=20, steps=3), Windows(test=3, valid=2), seed=0)
    assert found.baselines == {}
    assert found["one decision"].severity == "warning"
