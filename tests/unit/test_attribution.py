"""Do-contrasts: what each toggles, exact zeros where nothing can differ, intervals over members."""

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.causes.attribution import CAUSES, attribute, member_error, member_half_width
from rayworks.systems.recommendation.logs.events import ACCEPTED, NATURAL, REJECTED
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.models.histories import Histories, acceptance, histories

PAST = [(0, NATURAL), (3, REJECTED), (1, NATURAL), (4, ACCEPTED)]
REFERENCE = histories([[(2, NATURAL), (5, NATURAL)], [(5, NATURAL)]])
ITEMS = torch.tensor([[2, 5]])


def models(count: int) -> list[AcceptanceModel]:
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = AcceptanceModel(AcceptanceOptions(items=6, length=16, width=8, dropout=0.0))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        found.append(model.eval())
    return found


def chance(model: AcceptanceModel, past: list[tuple[int, int]]) -> np.ndarray:
    return np.asarray(acceptance([model], histories([past]))[0, 0])


def test_each_contrast_toggles_its_cause_and_nothing_else() -> None:
    model = models(1)[0]
    found = attribute([model], histories([PAST]), ITEMS, REFERENCE).mean()[0]
    now, shown = chance(model, PAST), [(3, REJECTED), (4, ACCEPTED)]
    others = [chance(model, [*natural, *shown]) for natural in ([(2, NATURAL), (5, NATURAL)], [(5, NATURAL)])]
    expected = {
        "item": now - now.mean(),
        "previous_decision": now - chance(model, [*PAST[:-1], (4, REJECTED)]),
        "natural_preference": now - np.mean(others, 0),
        "recommender": now - chance(model, [(0, NATURAL), (1, NATURAL)]),
    }
    for number, cause in enumerate(CAUSES):
        np.testing.assert_allclose(found[:, number], expected[cause][ITEMS[0]], atol=1e-6)


def test_a_user_whom_nothing_was_recommended_owes_nothing_to_a_recommender() -> None:
    found = attribute(models(1), histories([[(0, NATURAL)]]), ITEMS, REFERENCE).mean()[0]
    np.testing.assert_allclose(found[:, CAUSES.index("previous_decision")], 0, atol=0)
    np.testing.assert_allclose(found[:, CAUSES.index("recommender")], 0, atol=1e-7)


def test_users_and_items_are_answered_each_for_itself() -> None:
    pasts = [PAST, [(0, NATURAL)], [(2, ACCEPTED)] * 3]
    items = torch.tensor([[2, 5], [0, 1], [3, 3]])
    together = attribute(models(2), histories(pasts), items, REFERENCE)
    for row, past in enumerate(pasts):
        alone = attribute(models(2), histories([past]), items[row : row + 1], REFERENCE)
        np.testing.assert_allclose(together.contrasts[:, row], alone.contrasts[:, 0], atol=1e-6)


def test_intervals_come_from_the_resampled_members_and_know_how_few_they_are() -> None:
    values = np.array([[1.0], [2.0], [4.0], [6.0]])
    assert member_error(values)[0] == pytest.approx(2.0)
    assert member_half_width(values)[0] == pytest.approx(2.0 * student_t.ppf(0.975, 2))
    assert np.isnan(member_half_width(values[:2])).all()
    found = attribute(models(4), histories([PAST]), ITEMS, REFERENCE)
    np.testing.assert_allclose(found.error(), found.contrasts[1:].std(0, ddof=1))


def test_somebody_must_be_there_to_compare_with() -> None:
    with pytest.raises(DataError, match="reference"):
        attribute(models(1), histories([PAST]), ITEMS, histories([]))


def test_events_move_up_when_others_are_left_out() -> None:
    past = histories([PAST, [(2, ACCEPTED)]])
    natural = past.only(past.kind == NATURAL)
    assert natural.item.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0]]
    assert natural.length.tolist() == [2, 0]
    last = past.last(2)
    assert last.item.tolist() == [[2, 5], [3, 0]]
    assert isinstance(last, Histories)
