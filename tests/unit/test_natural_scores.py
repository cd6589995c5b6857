"""Natural preference for what was shown, against asking the model one history at a time."""

import numpy as np
import torch

from rayworks.systems.recommendation.logs.events import NATURAL, REJECTED, EventLog, event_log
from rayworks.systems.recommendation.models.natural_scores import natural_scores, top_rule
from rayworks.systems.recommendation.models.next_item import NextItemModel, NextItemOptions, rank_held_out

ITEMS, LENGTH = 9, 4


def model_of() -> NextItemModel:
    torch.manual_seed(0)
    model = NextItemModel(NextItemOptions(items=ITEMS, length=LENGTH, backbone="attention", width=8, layers=1))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def mixed_log(seed: int = 0) -> EventLog:
    draw = np.random.default_rng(seed)
    counts = [7, 1, 12, 3, 9]
    user = np.repeat(np.arange(5), counts)
    kind = draw.integers(NATURAL, REJECTED + 2, len(user))
    kind[user == 3] = NATURAL
    kind[7] = REJECTED
    time = np.concatenate([np.arange(count) for count in counts])
    names = [[str(code) for code in range(count)] for count in (5, ITEMS)]
    return event_log(user, draw.integers(0, ITEMS, len(user)), kind, time, users=names[0], items=names[1])


def by_hand(model: NextItemModel, history: list[int]) -> np.ndarray:
    kept = torch.tensor([[code + 1 for code in history[-LENGTH:]]])
    return model.log_probability(kept, torch.tensor([kept.shape[1]]))[0].numpy()


def test_scores_are_those_of_each_history_by_itself() -> None:
    model, log = model_of(), mixed_log()
    found = natural_scores(model, log)
    expected_rows = []
    for row in np.flatnonzero(log.recommended):
        before = [r for r in range(row) if log.user[r] == log.user[row]]
        natural = [int(log.item[r]) for r in before if log.kind[r] == NATURAL]
        if not natural:
            continue
        expected_rows.append(row)
        shown = [int(log.item[r]) for r in before if log.recommended[r]]
        place = int(np.flatnonzero(found.rows == row)[0])
        unchanged = by_hand(model, natural)
        np.testing.assert_allclose(found.log_probability[place, 0], unchanged[log.item[row]], atol=1e-6)
        appended = by_hand(model, [*natural, *shown[-1:]])
        np.testing.assert_allclose(found.log_probability[place, 1], appended[log.item[row]], atol=1e-6)
        assert found.rank[place] == 1 + (unchanged > unchanged[log.item[row]]).sum()
    np.testing.assert_array_equal(found.rows, expected_rows)
    np.testing.assert_array_equal(top_rule(found, ITEMS), found.rank <= 0.2 * ITEMS)
    columns = found.as_columns(len(log))
    np.testing.assert_allclose(columns[found.rows].numpy(), found.log_probability, atol=1e-5)


def test_the_probability_is_over_all_items_by_the_models_own_table() -> None:
    chances = np.exp(by_hand(model_of(), [1, 2, 3]))
    assert chances.shape == (ITEMS,)
    np.testing.assert_allclose(chances.sum(), 1, atol=1e-12)


def test_held_out_items_are_ranked_among_all() -> None:
    model, log = model_of(), mixed_log(1)
    found = rank_held_out(model, log)
    expected = []
    for user in range(5):
        natural = [int(log.item[r]) for r in range(len(log)) if log.user[r] == user and log.kind[r] == NATURAL]
        if len(natural) > 1:
            scores = by_hand(model, natural[:-1])
            expected.append(1 + (scores > scores[natural[-1]]).sum())
    np.testing.assert_array_equal(found, expected)
