"""One arm trained: a pure function of its settings, the splits, the views and the seed, that can stop and go on.

All arms of a seed start from the same weights and draw the same rows and views, so that differences are paired.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.learning.forward_passes import Inputs
from rayworks.systems.augmentation.data.splits import Part, Splits
from rayworks.systems.augmentation.engine.losses import Classification
from rayworks.systems.augmentation.engine.saflex import Saflex, Weighed
from rayworks.systems.augmentation.engine.validation import ValidationBatches
from rayworks.systems.augmentation.training.arms import Arm
from rayworks.systems.augmentation.training.nets import network
from rayworks.systems.augmentation.training.tally import Tally
from rayworks.systems.augmentation.upstream.views import Upstream, Views, identity

Drawn = Callable[[Tensor, np.random.Generator], Views]
"""From places ``(B,)`` among the training and then the trusted rows to views of them."""
SCORED = 1000
"""Rows of a pass of an evaluation."""


@dataclass(frozen=True)
class TrainingSettings:
    """What all arms share."""

    steps: int = 600
    batch: int = 64
    held: int = 16
    """Validation rows of a gradient."""
    balanced: bool = False
    """Whether validation batches have as many rows of each class, instead of the target's shares."""
    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    width: int = 12


def pool(splits: Splits) -> Part:
    """Training rows and then trusted rows; those share no content with others among the training rows."""
    one, other = splits.training, splits.trusted
    parts = (torch.cat([one.inputs, other.inputs]), torch.cat([one.labels, other.labels]))
    return Part(*parts, np.concatenate([one.rows, other.rows]))


def online(splits: Splits, upstream: Upstream) -> Drawn:
    """Views made when they are drawn."""
    rows = pool(splits)

    def draw(places: Tensor, random: np.random.Generator) -> Views:
        labels = F.one_hot(rows.labels[places], len(splits.classes)).float()
        return upstream(rows.inputs[places], labels, random)

    return draw


def stored(views: list[Views]) -> Drawn:
    """Views made beforehand, such as embedded texts: each of the list one view of every row, of which one is drawn.

    Raises:
        DataError: the list is empty, or its parts differ in their operations.
    """
    if not views or len({one.names for one in views}) > 1:
        raise DataError("views: are none, or name different operations; make each view of the same operations")
    inputs, labels = (torch.stack([getattr(one, name) for one in views]) for name in ("inputs", "labels"))
    operations, strengths = (torch.stack([getattr(one, name) for one in views]) for name in ("operations", "strengths"))

    def draw(places: Tensor, random: np.random.Generator) -> Views:
        turn = torch.from_numpy(random.integers(0, len(views), len(places)))
        one, label, kind, strength = (part[turn, places] for part in (inputs, labels, operations, strengths))
        return Views(one, label, torch.arange(len(places)), kind, strength, views[0].names)

    return draw


class ArmRun:
    """An arm in training.

    Args:
        drawn: views of :func:`online` or :func:`stored`.
        names: of the upstream's operations, if the engine's opinion of each is asked for.

    Raises:
        DataError: the trusted rows are of one class.
    """

    def __init__(
        self, arm: Arm, splits: Splits, drawn: Drawn, settings: TrainingSettings, seed: int, names: tuple[str, ...] = ()
    ) -> None:
        self.arm, self.settings, self.step = arm, settings, 0
        self.steps = round(settings.steps * arm.longer)
        self._splits, self._seed, self._count = splits, seed, len(splits.training)
        self._drawn, self._names = drawn if arm.augmented else online(splits, identity), names
        self.model = network(tuple(splits.training.inputs.shape[1:]), len(splits.classes), settings.width, seed)
        self._optimiser = torch.optim.SGD(
            self.model.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay
        )
        self.engine = self._engine() if arm.engine else None
        self.tally = Tally(self._count + len(splits.trusted), names)

    def train(self, steps: int | None = None) -> None:
        """Some steps, or all that are left."""
        self.model.train()
        for _ in range(min(self.steps - self.step, self.steps if steps is None else steps)):
            rate = self.settings.rate * (1 + math.cos(math.pi * self.step / self.steps)) / 2
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            loss = self._loss()
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            self._optimiser.step()
            self.step += 1

    @torch.no_grad()
    def evaluate(self, part: Part) -> dict[str, float]:
        """``accuracy`` and ``nll``, the mean negative log likelihood in nats, on a part.

        Raises:
            DataError: the part is empty.
        """
        if not len(part):
            raise DataError("evaluation: the part holds no sample; give it some")
        self.model.eval()
        logits = torch.cat([self.model(rows) for rows in torch.split(part.inputs, SCORED)])
        right = (logits.argmax(1) == part.labels).double().mean()
        return {"accuracy": float(right), "nll": float(F.cross_entropy(logits, part.labels))}

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "tally": self.tally.state_dict(),
            "engine": self.engine.state_dict() if self.engine else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same arm."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.tally.load_state_dict(state["tally"])
        if self.engine:
            self.engine.load_state_dict(state["engine"])

    def _engine(self) -> Saflex:
        splits, settings = self._splits, self.settings
        held = ValidationBatches(
            splits.trusted.inputs, splits.trusted.labels, settings.held, self._seed, balanced=settings.balanced
        )

        def permuted(draw: int) -> tuple[Inputs, Tensor]:
            inputs, labels = held(draw)
            order = seeds.stream(self._seed, "placebo", draw).permutation(len(labels))
            return inputs, labels[torch.from_numpy(order)]

        assert self.arm.engine is not None
        sources = self._count + len(splits.trusted)
        return Saflex(self.arm.engine, permuted if self.arm.placebo else held, sources=sources, seed=self._seed)

    def _loss(self) -> Tensor:
        count, every = self._count, self._count + len(self._splits.trusted)
        first, last = {"training": (0, count), "all": (0, every), "trusted": (count, every)}[self.arm.rows]
        random = seeds.stream(self._seed, "batch", self.step)
        places = first + (torch.from_numpy(random.random(self.settings.batch)) * (last - first)).long()
        views = self._drawn(places, random)
        sources = places[views.sources]
        if self.engine is None:
            return self._plain(views)
        weighed: Weighed = self.engine.weigh(self.model, views.inputs, views.labels, sources, sources >= count)
        if self._names and views.names == self._names:
            self.tally.add(views, sources, weighed)
        return weighed.mean_loss()

    def _plain(self, views: Views) -> Tensor:
        outputs: Tensor = self.model(views.inputs)
        own = outputs.detach().softmax(1)
        labels = torch.lerp(views.labels, own, self.arm.bootstrap) if self.arm.bootstrap else views.labels
        return Classification().per_sample(outputs, labels).mean()
