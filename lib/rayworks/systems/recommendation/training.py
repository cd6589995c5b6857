"""Training of the acceptance model at all places at once: one pass over a sequence yields the gradient of all its decisions.

A batch is cut into a fixed number of parts whose gradients are added in a fixed order. Workers take parts in turn, so the
result does not depend on how many there are.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.recommendation.acceptance import AcceptanceModel, AcceptanceOptions
from rayworks.systems.recommendation.constraint import Constraint
from rayworks.systems.recommendation.sequences import Sequences

Gather = Callable[[Mapping[int, Tensor]], list[Tensor]]
"""From a worker's own parts by number, to all workers' parts in order."""


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast."""

    epochs: int = 60
    batch_size: int = 256
    """Sequences between two updates."""
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    patience: int = 5
    """Epochs without a better validation that end the training."""
    gradient_parts: int = 2
    """Parts of a batch, at least as many as workers."""


@dataclass
class Progress:
    """How far a training is."""

    epoch: int = 0
    best_epoch: int = 0
    best: float = math.inf
    """Lowest validation cross-entropy."""
    seconds: float = 0.0
    """Spent in updates."""
    labels: int = 0
    """Decisions learned from, over all epochs."""
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains one model; every worker of a group has one and calls the same methods in step.

    Args:
        options: of the model.
        training: of the training.
        train: sequences without what is tested or validated.
        valid: sequences whose scored decisions choose the epoch.
        seed: of initial weights, batches and dropout.
        weights: float (U,), how much each user counts; None for all alike. A bootstrap gives whole numbers.
        constraint: None, or what pulls predictions to the do-recursion of a natural-preference model.
        gather: how workers exchange parts; None where there is one.
        rank: of this worker.
        workers: in the group.
    """

    def __init__(
        self,
        options: AcceptanceOptions,
        training: TrainingOptions,
        train: Sequences,
        valid: Sequences,
        *,
        seed: int,
        weights: Tensor | None = None,
        constraint: Constraint | None = None,
        gather: Gather | None = None,
        rank: int = 0,
        workers: int = 1,
        device: str = "cpu",
    ) -> None:
        if not len(train):
            raise DataError(
                "data: no user has a decision before the validation and test windows; lower split.valid_steps and "
                "split.test_steps, or give longer logs"
            )
        if workers > training.gradient_parts:
            raise DataError(f"training.gradient_parts: {training.gradient_parts} parts for {workers} workers; raise it")
        self.training, self.seed, self.device = training, seed, device
        self._train, self._valid, self._weights, self._constraint = train, valid, weights, constraint
        self._gather = gather or (lambda parts: [parts[number] for number in sorted(parts)])
        self._own = range(rank, training.gradient_parts, workers)
        torch.manual_seed(seeds.derive_small(seed, "initial weights"))
        self.model = AcceptanceModel(options).to(device)
        self._modules: nn.Module = self.model
        if constraint is not None:
            self._modules = nn.ModuleList([self.model, constraint.to(device)])
        self._parameters = list(self._modules.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, training.learning_rate, weight_decay=training.weight_decay)
        self.progress = Progress()
        self._best = copy.deepcopy(self._modules.state_dict())

    @property
    def finished(self) -> bool:
        """Whether the epochs are over, or the patience."""
        progress = self.progress
        patient = progress.epoch - progress.best_epoch < self.training.patience
        return progress.epoch >= self.training.epochs or (progress.epoch > 0 and not patient)

    def epoch(self) -> dict[str, float]:
        """Update on all sequences once and validate; losses in nats per decision."""
        started = time.perf_counter()
        self._modules.train()
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
        metrics = {"train_loss": total / max(count, 1e-9), "valid_loss": valid, "epoch": float(self.progress.epoch)}
        self.progress.history.append(metrics)
        if valid < self.progress.best:
            self.progress.best, self.progress.best_epoch = valid, self.progress.epoch
            self._best = copy.deepcopy(self._modules.state_dict())
        return metrics

    def trained(self) -> AcceptanceModel:
        """The model of the best epoch, for predictions."""
        self._modules.load_state_dict(self._best)
        return self.model.eval()

    def save(self, path: Path) -> None:
        """Write all that is needed to go on."""
        torch.save(
            {
                "modules": self._modules.state_dict(),
                "best": self._best,
                "optimizer": self._optimizer.state_dict(),
                "progress": vars(self.progress),
            },
            path,
        )

    def load(self, path: Path) -> None:
        """Go back to where :meth:`save` was called."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self._modules.load_state_dict(state["modules"])
        self._best = state["best"]
        self._optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _update(self, rows: Tensor, number: int) -> tuple[float, float]:
        """One step of the optimiser: sum of losses and of weights."""
        parts = rows.tensor_split(self.training.gradient_parts)
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
        batch = self._train.take(rows)
        if batch.scored.any():
            loss, weight = self._loss(batch)
            torch.autograd.backward(loss)
        gradients = [
            (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
            for parameter in self._parameters
        ]
        return torch.cat([*gradients, loss.detach()[None], weight[None]])

    def _loss(self, batch: Sequences) -> tuple[Tensor, Tensor]:
        moved = batch.to(self.device)
        logits = self.model(moved.item, moved.kind)
        weights = moved.scored.float()
        if self._weights is not None:
            weights = weights * self._weights[batch.user].to(self.device)[:, None]
        smoothing = self.training.label_smoothing
        labels = moved.labels() * (1 - smoothing) + smoothing / 2
        loss = (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).sum()
        if self._constraint is not None:
            loss = loss + (self._constraint(logits, moved) * weights).sum()
        return loss, weights.sum()

    @torch.no_grad()
    def _validate(self) -> float:
        """Cross-entropy per decision of the validation window, shared out like the gradients."""
        self._modules.eval()
        parts = torch.arange(len(self._valid)).tensor_split(self.training.gradient_parts)
        found = {}
        for number in self._own:
            sums = torch.zeros(2, dtype=torch.float64)
            for rows in torch.split(parts[number], 512):
                batch = self._valid.take(rows).to(self.device)
                logits = self.model(batch.item, batch.kind)
                losses = F.binary_cross_entropy_with_logits(logits, batch.labels(), reduction="none")
                sums += torch.stack([losses[batch.scored].double().sum(), batch.scored.sum().double()]).cpu()
            found[number] = sums
        total = torch.stack(self._gather(found)).sum(0)
        return float(total[0] / total[1].clamp(min=1))


def bootstrap_weights(users: int, seed: int, member: int) -> Tensor:
    """Float32 (U,): how often each user is drawn when as many are drawn with replacement; ones for member 0."""
    if member == 0:
        return torch.ones(users)
    drawn = seeds.stream(seed, "bootstrap", member).integers(0, users, users)
    return torch.from_numpy(np.bincount(drawn, minlength=users)).float()
