"""Train at all positions at once: one pass over a sequence yields the gradient of all its predictions.

A batch is cut into a fixed number of parts whose gradients are added in a fixed order. Workers take parts in turn, so the
result does not depend on how many there are.
"""

import abc
import copy
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.recommendation.logs.sequences import Sequences

Gather = Callable[[Mapping[int, Tensor]], list[Tensor]]
"""From a worker's own parts by number, to all workers' parts in order."""


@dataclass(frozen=True)
class TrainingOptions:
    """Length, batch size and rates of a training."""

    epochs: int = 60
    batch_size: int = 256
    """Sequences between two updates."""
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    patience: int = 5
    """Epochs without a better validation that end the training."""
    microbatches: int = 2
    """Parts of a batch, at least as many as workers."""


@dataclass
class Progress:
    """Progress of a training."""

    epoch: int = 0
    best_epoch: int = 0
    best: float = math.inf
    """Lowest validation loss."""
    seconds: float = 0.0
    """Spent in updates."""
    labels: int = 0
    """Places learned from, over all epochs."""
    history: list[dict[str, float]] = field(default_factory=list)


ModelT = TypeVar("ModelT", bound=nn.Module)


class Objective(nn.Module, abc.ABC, Generic[ModelT]):
    """A model and its loss."""

    model: ModelT

    @abc.abstractmethod
    def forward(self, batch: Sequences) -> Tensor:
        """Loss (B, T) at each scored position; other positions are not read.

        In evaluation mode this is the cross-entropy that chooses the epoch.
        """


class Trainer(Generic[ModelT]):
    """Trains one model; every worker of a group has one and calls the same methods in step.

    Args:
        make: makes the objective, drawing its first weights from torch's global generator.
        train: sequences without what is tested or validated.
        valid: sequences whose scored positions choose the epoch.
        seed: seed of initial weights, batches and dropout.
        weights: float (U,), how much each user counts; None for all alike. A bootstrap gives whole numbers.
        gather: how workers exchange parts; None where there is one.
        device: where the model lives.

    Raises:
        DataError: nothing to train on, or more workers than parts.
    """

    def __init__(
        self,
        make: Callable[[], Objective[ModelT]],
        training: TrainingOptions,
        train: Sequences,
        valid: Sequences,
        *,
        seed: int,
        weights: Tensor | None = None,
        gather: Gather | None = None,
        rank: int = 0,
        workers: int = 1,
        device: str = "cpu",
    ) -> None:
        if not len(train) or not len(valid):
            raise DataError(
                "data: no user has enough events before the validation and test windows to train on; lower "
                "split.valid_steps and split.test_steps, or give longer logs"
            )
        if workers > training.microbatches:
            raise DataError(f"training.microbatches: {training.microbatches} parts for {workers} workers; raise it")
        self.training, self.seed, self.device = training, seed, device
        self._train, self._valid, self._weights = train, valid, weights
        self._gather = gather or (lambda parts: [parts[number] for number in sorted(parts)])
        self._own = range(rank, training.microbatches, workers)
        torch.manual_seed(seeds.derive_small(seed, "initial weights"))
        self._objective = make().to(device)
        self._parameters = list(self._objective.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, training.learning_rate, weight_decay=training.weight_decay)
        self.progress = Progress()
        self._best = copy.deepcopy(self._objective.state_dict())

    @property
    def finished(self) -> bool:
        """Whether the epochs are over, or the patience."""
        progress = self.progress
        patient = progress.epoch - progress.best_epoch < self.training.patience
        return progress.epoch >= self.training.epochs or (progress.epoch > 0 and not patient)

    def epoch(self) -> dict[str, float]:
        """Update on all sequences once and validate; losses in nats per position.

        Raises:
            DataError: the training diverged.
        """
        started = time.perf_counter()
        self._objective.train()
        draw = seeds.stream(self.seed, "batches", self.progress.epoch)
        order = torch.from_numpy(draw.permutation(len(self._train)))
        total, count = 0.0, 0.0
        for number, rows in enumerate(torch.split(order, self.training.batch_size)):
            loss, labels = self._update(rows, number)
            total, count = total + loss, count + labels
        self.progress.seconds += time.perf_counter() - started
        self.progress.labels += int(self._train.scored.sum())
        self.progress.epoch += 1
        valid = self._validate()
        if not math.isfinite(valid):
            raise DataError(
                f"training: the validation loss is {valid} after epoch {self.progress.epoch}; lower the learning rate"
            )
        metrics = {"train_loss": total / max(count, 1e-9), "valid_loss": valid, "epoch": float(self.progress.epoch)}
        self.progress.history.append(metrics)
        if valid < self.progress.best:
            self.progress.best, self.progress.best_epoch = valid, self.progress.epoch
            self._best = copy.deepcopy(self._objective.state_dict())
        return metrics

    def current(self) -> ModelT:
        """The model after the last epoch, for predictions; :meth:`epoch` goes on from it."""
        self._objective.eval()
        return self._objective.model

    def trained(self) -> ModelT:
        """The model of the best epoch, for predictions."""
        self._objective.load_state_dict(self._best)
        return self.current()

    def state(self) -> bytes:
        """All that is needed to go on."""
        buffer = io.BytesIO()
        state = {"objective": self._objective.state_dict(), "best": self._best}
        state |= {"optimizer": self._optimizer.state_dict(), "progress": vars(self.progress)}
        torch.save(state, buffer)
        return buffer.getvalue()

    def restore(self, kept: bytes) -> None:
        """Go back to where :meth:`state` was called."""
        state: dict[str, Any] = torch.load(io.BytesIO(kept), map_location=self.device, weights_only=True)
        self._objective.load_state_dict(state["objective"])
        self._best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _update(self, rows: Tensor, number: int) -> tuple[float, float]:
        """One step of the optimiser: sum of losses and of weights."""
        parts = rows.tensor_split(self.training.microbatches)
        found = {part: self._gradient(parts[part], number, part) for part in self._own}
        total = torch.stack(self._gather(found)).sum(0)
        loss, weight = float(total[-2]), float(total[-1])
        if weight > 0:
            mean = total[:-2] / weight
            start = 0
            for parameter in self._parameters:
                parameter.grad = mean[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()
            self._optimizer.step()
        return loss, weight

    def _gradient(self, rows: Tensor, number: int, part: int) -> Tensor:
        """Gradient of the summed loss of some sequences, then that loss, then the sum of weights."""
        # Dropout is the part's own, whichever worker has it.
        torch.manual_seed(seeds.derive_small(self.seed, "dropout", self.progress.epoch, number, part))
        for parameter in self._parameters:
            parameter.grad = None
        loss, weight = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        batch = self._train.take(rows).to(self.device)
        if batch.scored.any():
            weights = batch.scored.float()
            if self._weights is not None:
                weights = weights * self._weights[batch.user.cpu()].to(self.device)[:, None]
            losses = torch.where(batch.scored, self._objective(batch), 0.0)
            loss, weight = (losses * weights).sum(), weights.sum()
            torch.autograd.backward(loss)
        gradients = [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in self._parameters
        ]
        return torch.cat([*gradients, loss.detach()[None], weight[None]])

    @torch.no_grad()
    def _validate(self) -> float:
        """Loss per scored position of the validation sequences, shared out like the gradients."""
        self._objective.eval()
        parts = torch.arange(len(self._valid)).tensor_split(self.training.microbatches)
        found = {}
        for number in self._own:
            sums = torch.zeros(2, dtype=torch.float64, device=self.device)
            for rows in torch.split(parts[number], 512):
                batch = self._valid.take(rows).to(self.device)
                losses = self._objective(batch)[batch.scored].double()
                sums += torch.stack([losses.sum(), batch.scored.sum().double()])
            found[number] = sums
        total = torch.stack(self._gather(found)).sum(0)
        return float(total[0] / total[1].clamp(min=1))


def bootstrap_weights(users: int, seed: int, member: int) -> Tensor:
    """Float32 (U,): how often each user is drawn when as many are drawn with replacement; ones for member 0."""
    if member == 0:
        return torch.ones(users)
    drawn = seeds.stream(seed, "bootstrap", member).integers(0, users, users)
    return torch.from_numpy(np.bincount(drawn, minlength=users)).float()
