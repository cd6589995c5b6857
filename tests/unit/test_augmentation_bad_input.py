"""Input that the engine cannot weigh is named in the first step, in words of those who gave it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.validation_gradients import validation_gradient
from rayworks.systems.augmentation.engine.losses import MultiLabel
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.engine.settings import EngineSettings

AT_ONCE: dict[str, Any] = {"warm_up": 0, "progress": 0.0}


def small(model: nn.Module, held: tuple[Any, Tensor], **more: Any) -> Saflex:
    return Saflex(EngineSettings(**{**AT_ONCE, **more}), lambda _: held)


@pytest.mark.parametrize("warm_up", [{}, {"warm_up": 9, "progress": 0.1}])
@pytest.mark.parametrize(
    ("held", "message"),
    [
        (torch.rand(6, 7), r"trusted rows are rows x 7 float32, those of the batch rows x 5 float32.*mat1 and mat2"),
        (torch.rand(6, 5).double(), r"rows x 5 float64, those of the batch rows x 5 float32.*dtype"),
        (torch.zeros(6, 5, dtype=torch.uint8), r"rows x 5 uint8, those of the batch rows x 5 float32"),
        ((torch.rand(6, 5), torch.rand(6, 5)), r"\(rows x 5 float32, rows x 5 float32\), .*positional arguments"),
        ({"x": torch.rand(6, 5)}, r"\{x: rows x 5 float32\}, .*unexpected keyword argument 'x'.*one pipeline"),
    ],
)
def test_trusted_rows_of_another_form_are_told_from_the_batch(held: Any, message: str, warm_up: dict[str, Any]) -> None:
    """In the first look of a warm-up, and in the first gradient."""
    model = nn.Sequential(nn.Linear(5, 3))
    saflex = small(model, (held, torch.arange(6) % 3), **warm_up)
    with pytest.raises(DataError, match=message):
        saflex.weigh(model, torch.rand(4, 5), torch.arange(4) % 3)


def test_faults_of_trusted_rows_that_are_not_their_form_stay_what_they_are() -> None:
    model, batch = nn.Linear(5, 3), (torch.rand(4, 5), torch.arange(4) % 3)
    with pytest.raises(DataError, match=r"validation labels: row 2, 9, is no class; give numbers of 0 to 2"):
        small(model, (batch[0], torch.tensor([0, 1, 9, 0]))).weigh(model, *batch)
    with pytest.raises(DataError, match=r"validation labels: are \(4, 7\); give \(4, 3\)"):
        small(model, (batch[0], torch.ones(4, 7) / 7)).weigh(model, *batch)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        small(model, (torch.rand(4, 6), batch[1])).weigh(model, torch.rand(4, 6), batch[1])
    longer = torch.rand(6, 9, 5).mean(1), torch.arange(6) % 3
    assert small(model, longer).weigh(model, *batch).scores is not None, "other rows are no other form"


@pytest.mark.parametrize("act", [True, False])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": torch.zeros(0, dtype=torch.long)}, r"labels: are \(0,\); give a tensor of one row at least"),
        ({"labels": torch.tensor(1)}, r"labels: are \(\); give a tensor"),
        ({"labels": [0, 1, 2, 0]}, r"labels: are a list; give a tensor"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"are \(3, 3\); give \(4, 3\)"),
        ({"labels": torch.arange(4.0)}, r"are torch\.float32; give whole numbers, or \(4, 3\)"),
        ({"sources": torch.arange(3)}, r"sources: are no tensor of one entry for each of 4 rows"),
        ({"sources": ["web"] * 4}, r"sources: are no tensor"),
        ({"trusted": torch.zeros(4, dtype=torch.long)}, r"trusted: is torch\.int64; give true for rows"),
        ({"trusted": torch.zeros(2, dtype=torch.bool)}, r"trusted: are no tensor of one entry for each of 4 rows"),
    ],
)
def test_batches_that_cannot_be_weighed_are_named_in_the_first_step(
    given: dict[str, Any], message: str, act: bool
) -> None:
    model, held = nn.Linear(5, 3), (torch.rand(6, 5), torch.arange(6) % 3)
    saflex = small(model, held, **({} if act else {"warm_up": 9, "progress": 0.1}))
    with pytest.raises(DataError, match=message):
        saflex.weigh(model, torch.rand(4, 5), **{"labels": torch.arange(4) % 3, **given})


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.float64, torch.bfloat16, torch.bool])
def test_labels_of_any_type_are_the_same_labels(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    model, held, inputs = nn.Linear(5, 2), (torch.rand(6, 5), torch.arange(6) % 2), torch.rand(4, 5)
    labels = torch.tensor([0, 1, 1, 0])
    expected = small(model, held).weigh(model, inputs, labels)
    found = small(model, held).weigh(model, inputs, (F.one_hot(labels) if kind.is_floating_point else labels).to(kind))
    assert torch.equal(found.labels, expected.labels) and torch.equal(found.weights, expected.weights)


def test_one_row_is_weighed_and_one_class_is_none() -> None:
    model, held = nn.Linear(5, 3), (torch.rand(6, 5), torch.arange(6) % 3)
    for rule in ("hard", "relu", "soft"):
        found = small(model, held, rule=rule).weigh(model, torch.rand(1, 5), torch.tensor([2]))
        assert found.weights.tolist() == [1] and float(found.labels.sum()) == pytest.approx(1)
    one = nn.Linear(5, 1)
    with pytest.raises(DataError, match=r"outputs: are one for each row, whose softmax is 1; .* or take MultiLabel"):
        small(one, held).weigh(one, torch.rand(4, 5), torch.zeros(4, dtype=torch.long))
    marks = Saflex(EngineSettings(**AT_ONCE), lambda _: (held[0], torch.rand(6, 1).round()), MultiLabel())
    assert marks.weigh(one, torch.rand(4, 5), torch.ones(4, 1)).labels.shape == (4, 1)


def test_a_model_of_which_nothing_is_trained_is_named() -> None:
    frozen = torch.nn.Linear(2, 2).requires_grad_(requires_grad=False)
    with pytest.raises(ConfigError, match="no parameter needs a gradient"):
        validation_gradient(frozen, torch.zeros(3, 2), lambda outputs: outputs.mean())
