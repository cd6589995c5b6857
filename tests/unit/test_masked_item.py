"""BERT4Rec: what it is trained on, and that it predicts from the history alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.systems.recommendation.logs.sequences import Sequences
from rayworks.systems.recommendation.measures.metrics import ndcg
from rayworks.systems.recommendation.models.masked_item import MaskedItemModel, MaskedItemObjective, MaskedItemOptions
from rayworks.systems.recommendation.models.next_item import natural_sequences, rank_held_out
from rayworks.systems.recommendation.models.training import Trainer, TrainingOptions
from tests.unit.test_next_item import cyclic

OPTIONS = MaskedItemOptions(items=12, length=8, width=16, layers=1, dropout=0.0, masked=0.3)


def batch_of(item: list[list[int]]) -> Sequences:
    items = torch.tensor(item)
    row = torch.where(items > 0, torch.arange(items.numel()).view_as(items), -1)
    scored = (items > 0) & (torch.arange(items.shape[1]) > 0)
    past = torch.arange(items.shape[1]).expand_as(items)
    return Sequences(items, (items > 0).long(), row, scored, torch.arange(len(items)), past)


def test_a_cycle_is_learned() -> None:
    log = cyclic(36)
    train, valid = natural_sequences(log, OPTIONS.length + 1, 2)
    training = TrainingOptions(epochs=50, batch_size=12, learning_rate=1e-2, patience=50, microbatches=1)
    trainer = Trainer(lambda: MaskedItemObjective(OPTIONS), training, train, valid, seed=0)
    while not trainer.finished:
        trainer.epoch()
    assert ndcg(rank_held_out(trainer.trained(), log), 1) > 0.95


def test_what_follows_the_history_does_not_matter() -> None:
    torch.manual_seed(0)
    model = MaskedItemModel(OPTIONS).eval()
    lengths = torch.tensor([3, 1, 8])
    history = torch.randint(1, 13, (3, 8))
    history = torch.where(torch.arange(8) < lengths[:, None], history, 0)
    scores = model.scores(history, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(
            model.scores(history[row : row + 1, :length], lengths[row : row + 1])[0], scores[row]
        )


def test_scores_are_those_of_a_mask_after_the_history() -> None:
    torch.manual_seed(0)
    model = MaskedItemModel(OPTIONS).eval()
    masked = torch.tensor([[4, 7, 2, model.mask]])
    states = model.encoder(model.normalise(model.item(masked) + model.position[:4]))[0, 3]
    expected = states @ model.item.weight[1:13].T + model.bias
    torch.testing.assert_close(model.scores(torch.tensor([[4, 7, 2]]), torch.tensor([3]))[0], expected)


def test_a_masked_place_is_predicted_from_both_sides_and_never_from_itself() -> None:
    torch.manual_seed(0)
    model = MaskedItemModel(OPTIONS).eval()

    def at_third(items: list[int]) -> Tensor:
        hidden = torch.tensor([[False, False, True, False]])
        return model.logits(torch.tensor([items]), hidden)[0]

    base = at_third([1, 2, model.mask, 4])
    assert not torch.allclose(base, at_third([1, 2, model.mask, 5]))
    assert not torch.allclose(base, at_third([3, 2, model.mask, 4]))


def test_a_masked_place_counts_for_those_that_were_not() -> None:
    torch.manual_seed(0)
    batch = batch_of([[1, 2, 3, 4, 5, 6, 7, 8]] * 400)
    objective = MaskedItemObjective(OPTIONS)
    losses = objective(batch).detach()
    masked = losses > 0
    assert not masked[:, 0].any()
    share = masked[:, 1:].float().mean()
    assert abs(float(share) - OPTIONS.masked) < 0.04
    assert abs(float(losses[:, 1:].mean()) - float(losses[masked].mean()) * OPTIONS.masked) < 0.2


def test_validation_predicts_each_scored_place_from_those_before_it() -> None:
    torch.manual_seed(0)
    objective = MaskedItemObjective(OPTIONS).eval()
    batch = batch_of([[1, 2, 3, 4], [5, 6, 0, 0]])
    found = objective(batch)
    for row, place in batch.scored.nonzero().tolist():
        scores = objective.model.scores(batch.item[row : row + 1, :place], torch.tensor([place]))
        torch.testing.assert_close(found[row, place], F.cross_entropy(scores, batch.item[row, place][None] - 1))
