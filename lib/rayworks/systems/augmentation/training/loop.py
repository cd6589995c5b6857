"""One arm trained: a pure function of its settings, the splits, the views and the seed, that can stop and go on.

All arms of a seed start from the same weights and draw the same rows and views, so that differences are paired.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.forward_passes import Inputs
from rayworks.learning.in_step import ALONE, Workers, add_up
from rayworks.systems.augmentation.data.splits import Part, Splits
from rayworks.systems.augmentation.engine.losses import Classification
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.engine.validation import ValidationBatches
from rayworks.systems.augmentation.training.arms import Arm
from rayworks.systems.augmentation.training.nets import OWN, network
from rayworks.systems.augmentation.training.stopping import BestState
from rayworks.systems.augmentation.training.tally import Tally
from rayworks.systems.augmentation.upstream.views import Drawn, Upstream, Views, identity

DIVERGED = 100.0
"""Nats that a row counts at most, such as one whose logits are not finite."""
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
    network: str = OWN
    double: bool = False
    """Whether to train in float64."""


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
        device: where the network is.
        workers: that train in step, of which all but the batch statistics of a network of the user's are those of one.

    Raises:
        ConfigError: the workers cannot share a batch.
        DataError: the trusted rows are of one class.
    """

    def __init__(
        self,
        arm: Arm,
        splits: Splits,
        drawn: Drawn,
        settings: TrainingSettings,
        seed: int,
        device: str = "cpu",
        workers: Workers = ALONE,
    ) -> None:
        held = min(settings.held, len(splits.trusted))
        for name, size in (("batch", settings.batch), ("held", held)):
            if size % workers.count:
                raise ConfigError(f"training.{name}: {size} rows cannot be dealt out to {workers.count} workers alike")
        self.arm, self.settings, self.step = arm, settings, 0
        self.seconds = 0.0
        """Spent on training."""
        self.steps = round(settings.steps * arm.longer)
        self._splits, self._seed, self._count = splits, seed, len(splits.training)
        self._drawn = drawn if arm.augmented else online(splits, identity)
        self._device, self._kind, self._workers = device, torch.float64 if settings.double else torch.float32, workers
        shape, classes = tuple(splits.training.inputs.shape[1:]), len(splits.classes)
        self.model = network(shape, classes, settings.width, seed, settings.network).to(device, self._kind)
        self._optimiser = torch.optim.SGD(
            self.model.parameters(), settings.rate, settings.momentum, weight_decay=settings.weight_decay
        )
        self.engine = self._engine() if arm.engine else None
        self.tally = Tally(self._count + len(splits.trusted), classes)
        self.best = BestState() if arm.watched else None

    def train(self, steps: int | None = None) -> None:
        """Some steps, or all that are left."""
        self.model.train()
        with torch.random.fork_rng():
            for _ in range(min(self.steps - self.step, self.steps if steps is None else steps)):
                torch.manual_seed(seeds.derive_small(self._seed, "step", self.step, self._workers.rank))
                self._train_step()
                if self.best and self.best.due(self.step, self.steps):
                    self.best.look(self.step, self.evaluate(self._splits.selection), self.model)
                    self.model.train()
        self._stop_early()

    def _stop_early(self) -> None:
        if self.best and self.arm.early and self.step >= self.steps:
            self.model.load_state_dict(self.best.model)

    def _train_step(self) -> None:
        began = time.perf_counter()
        rate = self.settings.rate * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss = self._loss()
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        self._share_gradients()
        self._optimiser.step()
        self.step += 1
        self.seconds += time.perf_counter() - began

    def selected(self) -> dict[str, Any]:
        """What the second hold-out says of it, as :meth:`evaluate`; of a stop that it chose, by halves: see
        :meth:`.BestState.crossed`.
        """
        found = self.evaluate(self._splits.selection)
        if not (self.best and self.arm.early and self.step >= self.steps):
            return found
        rows = self.best.crossed()
        return {**rows, "accuracy": float(np.mean(rows["right"])), "nll": float(np.mean(rows["losses"]))}

    @torch.no_grad()
    def evaluate(self, part: Part) -> dict[str, Any]:
        """``accuracy``, ``nll``, mean negative log likelihood in nats, and of each row its ``losses`` and ``right``, 1 or 0.

        Raises:
            DataError: the part is empty.
        """
        if not len(part):
            raise DataError("evaluation: the part holds no sample; give it some")
        self.model.eval()
        logits = torch.cat([self.model(self._there(rows)).cpu() for rows in torch.split(part.inputs, SCORED)])
        losses = (
            F.cross_entropy(logits.double(), part.labels, reduction="none").nan_to_num(DIVERGED).clamp_max(DIVERGED)
        )
        right = ((logits.argmax(1) == part.labels) & logits.isfinite().all(1)).int()
        rows = {"losses": losses.tolist(), "right": right.tolist()}
        return {"accuracy": float(right.double().mean()), "nll": float(losses.mean()), **rows}

    def batch(self, step: int) -> tuple[Views, Tensor]:
        """The views of a step, of all workers, and their rows ``(B,)`` among the training and then the trusted rows."""
        count, every = self._count, self._count + len(self._splits.trusted)
        first, last = {"training": (0, count), "all": (0, every), "trusted": (count, every)}[self.arm.rows]
        random = seeds.stream(self._seed, "batch", step)
        places = first + (torch.from_numpy(random.random(self.settings.batch)) * (last - first)).long()
        views = self._drawn(places, random)
        if len(views.sources) and int(views.sources.max()) >= len(places):
            raise DataError(
                f"upstream.name: a view has source {int(views.sources.max())} in a batch of {len(places)}; give the place of "
                "its row in the batch"
            )
        return views, places[views.sources]

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "tally": self.tally.state_dict(),
            "engine": self.engine.state_dict() if self.engine else None,
            "best": self.best.state_dict() if self.best else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same arm, or, to stop it early, of the arm that trains on to the end."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.tally.load_state_dict(state["tally"])
        if self.engine:
            self.engine.load_state_dict(state["engine"])
        if self.best:
            self.best.load_state_dict(state["best"])
        self._stop_early()

    def _engine(self) -> Saflex:
        splits, settings, workers = self._splits, self.settings, self._workers
        inputs, labels = self._there(splits.trusted.inputs), splits.trusted.labels.to(self._device)
        held = ValidationBatches(inputs, labels, settings.held, self._seed, balanced=settings.balanced)

        def mine(draw: int) -> tuple[Inputs, Tensor]:
            rows, kinds = held(draw)
            if self.arm.placebo:
                order = seeds.stream(self._seed, "placebo", draw).permutation(len(kinds))
                kinds = kinds[torch.from_numpy(order).to(kinds.device)]
            assert isinstance(rows, Tensor)
            return workers.mine(rows), workers.mine(kinds)

        assert self.arm.engine is not None
        sources = self._count + len(splits.trusted)
        return Saflex(self.arm.engine, mine, sources=sources, workers=workers, seed=self._seed)

    def _loss(self) -> Tensor:
        views, sources = self.batch(self.step)
        if not len(views.labels) or len(views.labels) % self._workers.count:
            raise DataError(
                f"upstream.name: makes {len(views.labels)} views of a batch of {self.settings.batch}; make one at least, and "
                f"as many for each of {self._workers.count} workers"
            )
        inputs, labels = (self._there(self._workers.mine(part)) for part in (views.inputs, views.labels))
        if self.engine is None:
            return self._plain(inputs, labels)
        mine = self._workers.mine(sources)
        weighed = self.engine.weigh(self.model, inputs, labels, mine, mine >= self._count)
        if self.engine.latest is not None:
            self.tally.add(views, sources, self.engine.latest, self.step)
        return weighed.mean_loss()

    def _there(self, rows: Tensor) -> Tensor:
        return rows.to(self._device, self._kind)

    def _plain(self, inputs: Tensor, labels: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs)
        own = outputs.detach().softmax(1)
        mixed = torch.lerp(labels, own, self.arm.bootstrap) if self.arm.bootstrap else labels
        return Classification().per_sample(outputs, mixed).mean()

    def _share_gradients(self) -> None:
        if self._workers.count == 1:
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        add_up(gradients)
        for gradient in gradients:
            gradient /= self._workers.count
