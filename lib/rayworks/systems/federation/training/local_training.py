"""Local training of a client: steps of stochastic gradient descent from the global model.

FedProx, SCAFFOLD and FedDyn differ from FedAvg in the gradient alone: to it they add a constant and a pull towards the
global model, ``g + offset + proximal * (theta - theta_global)``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.federation.config import LocalSection
from rayworks.systems.federation.training.classifiers import Classifier
from rayworks.systems.federation.training.local_objectives import Batch, Objective

Weights = Mapping[str, NDArray[Any]]
"""Arrays of a model by name."""


@dataclass(frozen=True)
class Weighted(Batch):
    """All examples of a client, of which batches are parts."""

    def __len__(self) -> int:
        return len(self.inputs)

    @classmethod
    def real(cls, inputs: NDArray[np.float32], labels: NDArray[np.int64], classes: int) -> Self:
        """Real examples: hard labels ``(n,)``, weight 1."""
        hard = F.one_hot(torch.from_numpy(labels), classes).float()
        return cls(torch.from_numpy(inputs), hard, torch.ones(len(labels)))

    def joined(self, other: "Weighted") -> "Weighted":
        """Both, without examples of weight 0, the weights scaled to a mean of 1."""
        kept = other.weights > 0
        if not kept.any():
            return self
        weights = torch.cat([self.weights, other.weights[kept]])
        return Weighted(
            torch.cat([self.inputs, other.inputs[kept]]),
            torch.cat([self.labels, other.labels[kept]]),
            weights / weights.mean(),
        )


@dataclass(frozen=True)
class Correction:
    """Terms added to every gradient."""

    offset: Mapping[str, Tensor] | None = None
    """SCAFFOLD: ``c - c_i``; FedDyn: minus the client's gradient."""
    proximal: float = 0.0
    """FedProx: mu; FedDyn: alpha."""


@dataclass(frozen=True)
class LocalResult:
    """Result of a client's steps."""

    weights: dict[str, NDArray[Any]]
    steps: int
    loss: float
    """Mean over the steps; 0 without steps."""
    normaliser: float
    """How often the learning rate was applied to an average gradient, see :func:`gradient_normaliser`."""


def batches(examples: int, size: int, steps: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Indices of ``steps`` batches: whole passes in a fresh order each, a pass's last batch may be smaller."""
    while steps > 0:
        order = generator.permutation(examples)
        for start in range(0, examples, size):
            yield order[start : start + size]
            steps -= 1
            if steps == 0:
                return


def step_count(section: LocalSection, real: int, pseudo: int) -> int:
    """Steps of a round: fixed, or as many as ``epochs`` passes over the real examples (over all without match_steps)."""
    if real == 0:
        return 0
    if section.steps is not None:
        return section.steps
    return section.epochs * -(-(real if section.match_steps else real + pseudo) // section.batch_size)


def gradient_normaliser(steps: int, momentum: float) -> float:
    """Total weight of a round's steps of unit gradients, in learning rates (FedNova, Wang et al. 2020).

    With momentum m, ``S`` steps give ``(S - m (1 - m^S) / (1 - m)) / (1 - m)``; without, S.
    """
    if momentum == 0:
        return float(steps)
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


def train(
    model: Classifier,
    examples: Weighted,
    section: LocalSection,
    steps: int,
    learning_rate: float,
    objective: Objective,
    generator: np.random.Generator,
    correction: Correction = Correction(),
) -> LocalResult:
    """Take the steps; the model is changed in place.

    Args:
        model: as the server sent it.
        examples: real ones and pseudo-images together.
        section: batch size, momentum, weight decay.

    Raises:
        DataError: the loss or the model is no longer finite.
    """
    optimiser = torch.optim.SGD(
        model.parameters(), learning_rate, momentum=section.momentum, weight_decay=section.weight_decay
    )
    start = {name: value.detach().clone() for name, value in model.named_parameters()} if correction.proximal else {}
    total = torch.zeros(())
    model.train()
    for step, chosen in enumerate(batches(len(examples), section.batch_size, steps, generator)):
        rows = torch.from_numpy(chosen)
        loss = objective(model, Batch(examples.inputs[rows], examples.labels[rows], examples.weights[rows]), step)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        _correct(model, correction, start)
        optimiser.step()
        total += loss.detach()
    mean = float(total) / max(steps, 1)
    weights = weights_of(model)
    if not np.isfinite(mean) or not all(np.isfinite(value).all() for value in weights.values()):
        raise DataError(f"local.learning_rate: {learning_rate:g} makes a client's loss or model infinite; lower it")
    return LocalResult(weights, steps, mean, gradient_normaliser(steps, section.momentum))


@torch.no_grad()
def _correct(model: Classifier, correction: Correction, start: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        if correction.proximal:
            parameter.grad.add_(parameter - start[name], alpha=correction.proximal)
        if correction.offset is not None:
            parameter.grad.add_(correction.offset[name])


def control_variate(
    variate: Weights, server: Weights, before: Weights, after: Weights, scale: float
) -> dict[str, NDArray[np.float32]]:
    """SCAFFOLD's next variate of a client, ``c_i - c + (before - after) / scale`` (Karimireddy et al. 2020, option II).

    ``scale`` is the learning rate times :func:`gradient_normaliser`, which is S times the rate without momentum: so the
    last term is a mean gradient with momentum too. Without steps the variate stays.
    """
    if scale == 0:
        return {name: np.asarray(value, np.float32) for name, value in variate.items()}
    return {
        name: np.asarray(variate[name] - server[name] + (before[name] - after[name]) / scale, np.float32)
        for name in variate
    }


def weights_of(model: torch.nn.Module) -> dict[str, NDArray[Any]]:
    """A copy of the model's arrays."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.state_dict().items()}


def load_weights(model: torch.nn.Module, weights: Weights) -> None:
    """Set the model's arrays.

    Raises:
        DataError: a name or shape differs.
    """
    own = model.state_dict()
    if own.keys() != weights.keys():
        raise DataError(f"weights: names differ from the model's ({sorted(own.keys() ^ weights.keys())[0]} first)")
    for name, value in own.items():
        if tuple(value.shape) != weights[name].shape:
            raise DataError(f"weights: {name} has shape {weights[name].shape}, the model's is {tuple(value.shape)}")
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
