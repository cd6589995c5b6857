"""The price of safety, measured: the smaller the minority's share of the training data, the less even a model's errors are.

The protocol of the paper's fairness study (arXiv 2410.01871; FairFace, gender from a face, race as the group) on a table:
the majority's rows stay as many, the minority's grow with its share, validation is skewed alike, the test set is balanced.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.nn import functional

from rayworks.core import seeds
from rayworks.systems.regulation.training_table import TrainingOptions, draw_rows, read_table


@dataclass(frozen=True)
class TrainingOutcome:
    """Results of one model on the balanced test set; pairs of rates are majority first."""

    share: float
    seed: int
    accuracy: float
    gap: float
    """Equalised-odds gap in percentage points."""
    true_positive_rate: tuple[float, float]
    false_positive_rate: tuple[float, float]


def measure(options: TrainingOptions, share: float, seed: int) -> TrainingOutcome:
    """Train one model with this share of the minority among its training rows, and look at its errors in both groups.

    Depends on nothing but its arguments; the last digits also on torch's number of threads.

    Raises:
        DataError: naming the ``price`` field at fault: a missing table, column, label or group, or too few rows.
    """
    table = read_table(options)
    split = draw_rows(table, options, share, seed)
    numbers = table.inputs[split.training, : table.numeric]
    centre, scale = numbers.mean(0), np.maximum(numbers.std(0), 1e-6)

    def tensors(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = table.inputs[rows]
        inputs[:, : table.numeric] = (inputs[:, : table.numeric] - centre) / scale
        return torch.from_numpy(inputs), torch.from_numpy(table.label[rows].astype(np.float32))

    inputs, _ = tensors(split.test)
    key = seeds.derive_small(seed, "price", "training", f"{share:.6f}")
    model = _train(tensors(split.training), tensors(split.validation), options, key)
    with torch.no_grad():
        predicted = (model(inputs)[:, 0] > 0).numpy()
    label, minority = table.label[split.test], table.minority[split.test]
    true_positive, false_positive = rates(predicted, label, minority)
    accuracy, gap = float((predicted == label).mean()), equalised_odds_gap(true_positive, false_positive)
    return TrainingOutcome(share, seed, accuracy, gap, true_positive, false_positive)


def rates(
    predicted: np.ndarray, label: np.ndarray, minority: np.ndarray
) -> tuple[tuple[float, float], tuple[float, float]]:
    """True and false positive rates, each of the majority and of the minority; all arguments are masks (rows,)."""

    def rate(positive: bool, in_minority: bool) -> float:
        return float(predicted[(label == positive) & (minority == in_minority)].mean())

    return (rate(True, False), rate(True, True)), (rate(False, False), rate(False, True))


def equalised_odds_gap(true_positive: tuple[float, float], false_positive: tuple[float, float]) -> float:
    """|difference of true positive rates| + |difference of false positive rates|, in percentage points."""
    return 100 * (abs(true_positive[0] - true_positive[1]) + abs(false_positive[0] - false_positive[1]))


def _classifier(columns: int, hidden: int, generator: torch.Generator) -> torch.nn.Sequential:
    """Logit of the positive label, (rows, columns) to (rows, 1): one hidden layer of rectifiers, or none."""
    sizes = [columns, hidden, 1] if hidden else [columns, 1]
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        # The layer's own start would draw from the process-wide generator.
        layer = torch.nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
        torch.nn.init.zeros_(layer.bias)
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def _train(
    training: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    options: TrainingOptions,
    seed: int,
) -> torch.nn.Sequential:
    """Minibatch gradient descent; the weights of the epoch with the best validation accuracy, the first of equals."""
    generator = torch.Generator().manual_seed(seed)
    (inputs, label), (held_inputs, held_label) = training, validation
    model = _classifier(inputs.shape[1], options.hidden, generator)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    best, kept = -1.0, model.state_dict()
    for _ in range(options.epochs):
        order = torch.randperm(len(label), generator=generator)
        for start in range(0, len(label), options.batch_size):
            rows = order[start : start + options.batch_size]
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(model(inputs[rows])[:, 0], label[rows])
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            optimizer.step()
        with torch.no_grad():
            accuracy = float(((model(held_inputs)[:, 0] > 0) == (held_label > 0)).float().mean())
        if accuracy > best:
            best, kept = accuracy, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(kept)
    return model
