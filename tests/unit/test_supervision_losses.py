from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rayworks.systems.supervision.students.losses import class_offsets, own_answers, own_weight, targets

OPTIONS = SimpleNamespace(logconf_weight=0.5, logconf_warmup=0.2, product_powers=(1.0, 2.0))
WEAK = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
OWN = np.array([[0.6, 0.4], [0.1, 0.9], [0.55, 0.45], [0.2, 0.8]])


def labels(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.dirichlet(np.linspace(0.5, 1.5, classes), count), draw.dirichlet(np.full(classes, 0.7), count)


def test_logconf_of_a_batch_worked_out_by_hand() -> None:
    # Half of the weak mass is on each class: the two rows that lean most to class 0 are called that.
    offsets = class_offsets(WEAK, OWN)
    assert own_answers(OWN, offsets)[:, 0].tolist() == [1, 0, 1, 0]
    # Half way through the warm-up the own answer weighs a quarter.
    found = targets("logconf", WEAK, OWN, 0.1, OPTIONS, offsets)
    assert found == pytest.approx(np.array([[0.925, 0.075], [0.45, 0.55], [0.475, 0.525], [0.15, 0.85]]))
    assert targets("cross-entropy", WEAK, OWN, 0.1, OPTIONS) is WEAK


def test_product_of_a_batch_worked_out_by_hand() -> None:
    raw = OWN * WEAK**2
    assert targets("product", WEAK, OWN, 0.5, OPTIONS) == pytest.approx(raw / raw.sum(axis=1, keepdims=True))


def test_the_own_answers_weight_grows_from_nothing_without_a_jump() -> None:
    weights = [own_weight(done, OPTIONS) for done in np.linspace(0, 1, 101)]
    assert weights[0] == 0
    assert weights[10] == pytest.approx(0.25)
    assert weights[20:] == pytest.approx([0.5] * 81)
    assert max(np.diff(weights)) == pytest.approx(0.025)
    assert own_weight(0.0, SimpleNamespace(logconf_weight=0.5, logconf_warmup=0.0)) == 0.5


@pytest.mark.parametrize("count", [5, 32, 501])
def test_two_classes_have_the_threshold_of_openai(count: int) -> None:
    for seed in range(50):
        weak, own = labels(count, 2, seed)
        first, share = torch.tensor(own[:, 0]), torch.tensor(weak[:, 1].mean())
        theirs = (first >= torch.quantile(first, share)).numpy()
        assert (own_answers(own, class_offsets(weak, own))[:, 0] == theirs).all()


@pytest.mark.parametrize("classes", [3, 5])
def test_many_classes_are_answered_as_often_as_the_weak_labels_have_them(classes: int) -> None:
    for seed in range(10):
        weak, own = labels(600, classes, seed)
        unaided = own_answers(own, np.zeros(classes)).mean(axis=0)
        answered = own_answers(own, class_offsets(weak, own)).mean(axis=0)
        assert np.abs(answered - weak.mean(axis=0)).max() < 0.02 < np.abs(unaided - weak.mean(axis=0)).max()


def test_a_class_that_no_weak_label_has_is_never_answered() -> None:
    weak = np.array([[0.0, 0.7, 0.3]] * 8)
    own = labels(8, 3, 0)[1]
    assert own_answers(own, class_offsets(weak, own))[:, 0].sum() == 0


def test_targets_do_not_depend_on_the_batch_that_a_row_is_in() -> None:
    weak, own = labels(60, 3, 1)
    offsets = class_offsets(weak, own)
    whole = targets("logconf", weak, own, 0.7, OPTIONS, offsets)
    parts = [targets("logconf", weak[at : at + 7], own[at : at + 7], 0.7, OPTIONS, offsets) for at in range(0, 60, 7)]
    assert (np.concatenate(parts) == whole).all()
    assert whole.sum(axis=1) == pytest.approx(np.ones(60))
