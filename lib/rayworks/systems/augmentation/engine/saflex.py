"""SAFLEX (arXiv 2410.02512): the weight and the soft label of every sample of a batch, in the pass it is trained on.

The engine holds what lasts from step to step: the average of the validation gradient, averages of gains, whether it acts.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rayworks.core.errors import ConfigError, DataError
from rayworks.learning.forward_passes import Gradient, Inputs, device_of, evaluating, form_of, outputs_of, placed
from rayworks.learning.in_step import ALONE, Workers
from rayworks.learning.sample_gains import head_parameters, normalised, outputs_and_slopes
from rayworks.learning.validation_gradients import averaged, check_finite, preconditioned, validation_gradient
from rayworks.systems.augmentation.engine.closed_forms import raw_weights, scaled_weights
from rayworks.systems.augmentation.engine.gain_averages import GainAverages
from rayworks.systems.augmentation.engine.losses import Classification, Loss
from rayworks.systems.augmentation.engine.meta_weight_net import MetaWeightNet
from rayworks.systems.augmentation.engine.settings import EngineSettings

Validation = Callable[[int], tuple[Inputs, Tensor]]
"""From the number of a draw to inputs and labels."""
PROBE = 8
"""Steps of the warm-up between two looks at the validation loss."""
AT_START = 8
"""Validation batches, the last of the warm-up and else the first after it, whose mean loss is that at the engine's start."""
SURE = 2.0
"""Standard errors by which the average of later ones must lie above the bound, so that small batches do not end it."""
SLOW, QUICK = 0.95, 0.7
"""Shares of earlier values in the averages of what acting does, and of the loss of a warm-up."""
DRIFT = 0.5
"""Distance between the mean learned and the mean upstream label, in total variation, at which labels have collapsed."""


@dataclass(frozen=True)
class Weighed:
    """A batch as it is to be trained on. All but the outputs are constants."""

    outputs: Tensor
    """``(B, K)``, with the graph of the training pass."""
    labels: Tensor
    """``(B, K)``, soft."""
    weights: Tensor
    """``(B,)``, of mean 1."""
    upstream: Tensor
    """``(B, K)``, the labels that came in."""
    loss: Loss
    gains: Tensor | None = None
    """``(B, K)``; None: the engine does not act yet, or any more."""
    scores: Tensor | None = None
    """``(B,)``, of the learned labels."""
    own: Tensor | None = None
    """``(B, K)``, gains of the views themselves, before they are averaged by source row."""

    def mean_loss(self) -> Tensor:
        """What to take the backward pass of: the mean of weight times loss."""
        return (self.weights * self.loss.per_sample(self.outputs, self.labels)).mean()

    def targets(self) -> Tensor:
        """Weight times label, ``(B, K)``: as the target of a cross-entropy, which is linear in it, the same loss."""
        return self.weights[:, None] * self.labels

    def shared(self, outputs: Tensor, workers: Workers) -> "Weighed":
        """The rows of one of the workers, with its own outputs."""
        parts = ("labels", "weights", "upstream", "gains", "scores", "own")
        known: dict[str, Any] = {name: getattr(self, name) for name in parts}
        mine: dict[str, Any] = {name: None if part is None else workers.mine(part) for name, part in known.items()}
        return replace(self, outputs=outputs, **mine)

    def measures(self) -> dict[str, float]:
        """Share of samples of weight 0, share of labels whose largest entry moved, entropy of the labels in nats."""
        moved = self.labels.argmax(1) != self.upstream.argmax(1)
        entropy = torch.special.entr(self.labels.clamp(0, 1)).sum(1)
        parts = {"dropped": (self.weights == 0).float(), "relabelled": moved.float(), "entropy": entropy}
        return {name: float(part.mean()) for name, part in parts.items()}


class Saflex:
    """The engine. One call of :meth:`weigh` is one training step.

    Args:
        validation: draws of validation rows, such as :class:`ValidationBatches`.
        sources: number of source rows, where gains are averaged by source; ids are 0 to this less 1.
        optimiser: Adam, where the gradient is measured as Adam does.
        workers: that train in step, each with its own rows of every batch and of every validation batch, as
            :meth:`Workers.mine` deals them out; labels and weights are those that one worker would find.
        seed: of the network of the rule ``network``.

    Raises:
        ConfigError: the settings do not fit the loss, or what they need is missing.
    """

    def __init__(
        self,
        settings: EngineSettings,
        validation: Validation,
        loss: Loss | None = None,
        *,
        sources: int = 0,
        optimiser: torch.optim.Optimizer | None = None,
        workers: Workers = ALONE,
        seed: int = 0,
    ) -> None:
        self.settings, self.loss = settings, loss or Classification()
        self.loss.check(settings)
        if workers.count > 1 and not self.loss.fixed_labels:
            raise ConfigError("workers: the labels of a contrastive batch are its own captions; let one worker train")
        if settings.gain_average and sources < 1:
            raise ConfigError("gain_average: averages gains by source row; give the engine the number of sources")
        if settings.precondition and optimiser is None:
            raise ConfigError("precondition: needs the optimiser's second moments; give the engine the optimiser")
        self._validation, self._optimiser, self._workers = validation, optimiser, workers
        self._averages = GainAverages(sources, settings.gain_average) if settings.gain_average else None
        self._network = MetaWeightNet(seed) if settings.rule == "network" else None
        self.steps = 0
        self.begun, self.collapsed = settings.warm_up == 0 and settings.progress == 0, False
        self._learned = self.begun
        self.events: list[str] = []
        """What happened, in words: when the engine began, and why it stopped."""
        self.latest: Weighed | None = None
        """The last batch, that of all workers, its outputs without a graph; None: the engine did not act."""
        self._gradient: Gradient | None = None
        self._draws = self._since_refresh = 0
        self._first_loss = self._present_loss = float("nan")
        self._start: list[float] = []
        self._drift = torch.zeros(0)
        self._vanished = torch.zeros((), dtype=torch.long)

    @property
    def acting(self) -> bool:
        """Whether the engine weighs; before and after, samples are trained on as the upstream has them."""
        return self.begun and not self.collapsed

    @property
    def vanished(self) -> int:
        """Batches all of whose weights were 0, which were trained on as the upstream has them."""
        return int(self._vanished)

    def weigh(
        self,
        model: nn.Module,
        inputs: Inputs,
        labels: Tensor,
        sources: Tensor | None = None,
        trusted: Tensor | None = None,
        *,
        apart: bool = False,
    ) -> Weighed:
        """The batch with weights and soft labels.

        Args:
            inputs: what the model is called with, B rows.
            labels: the upstream's; see the loss.
            sources: ``(B,)``, numbers of the source rows; needed where gains are averaged.
            trusted: ``(B,)``, rows that keep label and weight.
            apart: leave the training pass to the caller; see :func:`outputs_and_slopes`.

        Raises:
            DataError: labels are no labels, source ids are missing, gains are not finite, the message says which row; or
                the model takes the batch but not the trusted rows.
        """
        # All from the first step on, not when the engine begins.
        _check_batch(labels, sources, trusted)
        if self._averages is not None:
            self._averages.check(sources, len(labels))
        with self._beside(inputs):
            self._begin_when_due(model)
        self.steps, self.latest = self.steps + 1, None
        if not self.acting:
            with (
                torch.set_grad_enabled(not apart and torch.is_grad_enabled()),
                evaluating(model) if apart else nullcontext(),
            ):
                outputs = outputs_of(model, inputs)
            upstream = self.loss.prepared(labels, outputs.detach())
            return Weighed(outputs, upstream, torch.ones_like(upstream[:, 0]), upstream, self.loss)
        with self._beside(inputs):
            gradient = self._refreshed(model)
        outputs, slopes = outputs_and_slopes(
            model, inputs, gradient, self.settings.backend, self.settings.head, apart=apart
        )
        every, found = self._workers, outputs.detach().to(slopes.dtype)
        upstream = every.whole(self.loss.prepared(labels, found))
        beside = (None if part is None else every.whole(part.to(found.device)) for part in (sources, trusted))
        self.latest = self._solved(every.whole(found), every.whole(slopes), upstream, *beside)
        return self.latest.shared(outputs, every)

    def targets(
        self,
        model: nn.Module,
        inputs: Inputs,
        labels: Tensor,
        sources: Tensor | None = None,
        trusted: Tensor | None = None,
    ) -> Tensor:
        """Weight times label, ``(B, K)``, for a loop that makes the training pass itself; see :meth:`weigh`.

        Give it to a cross-entropy in the labels' place. Neither buffers nor random draws move.
        """
        return self.weigh(model, inputs, labels, sources, trusted, apart=True).targets()

    @torch.no_grad()
    def _solved(
        self,
        found: Tensor,
        slopes: Tensor,
        upstream: Tensor,
        sources: Tensor | None = None,
        trusted: Tensor | None = None,
    ) -> Weighed:
        settings = self.settings
        own = self._gains(found, slopes, sources)
        gains = own if self._averages is None or sources is None else self._averages.smoothed(own, sources)
        kept = settings.learn in ("weights", "nothing")
        learned = upstream if kept else self.loss.learned(gains, upstream, found, settings)
        if trusted is not None:
            learned = torch.where(trusted[:, None], upstream, learned)
        scores = self.loss.scores(learned, found, gains)
        raw = (
            self._network.weights(self.loss.per_sample(found, learned), scores)
            if self._network
            else raw_weights(scores, settings)
        )
        weights, vanished = scaled_weights(
            torch.ones_like(raw) if settings.learn in ("labels", "nothing") else raw, settings, trusted
        )
        learned = torch.where(vanished, upstream, learned)
        self._vanished = self._vanished.to(vanished.device) + vanished
        self._watch(learned, weights, upstream)
        return Weighed(found, learned, weights, upstream, self.loss, gains, scores, own)

    def _gains(self, outputs: Tensor, slopes: Tensor, sources: Tensor | None) -> Tensor:
        gains = self.loss.gains(outputs, slopes)
        if not gains.isfinite().all():
            row, label = (int(place) for place in (~gains.isfinite()).nonzero()[0])
            source = "" if sources is None else f", of source {int(sources[row])},"
            raise DataError(
                f"gains: that of row {row}{source} for label {label} in step {self.steps} is not finite; look at its "
                "input, or lower the learning rate"
            )
        return normalised(gains, self.settings.normalise)

    def _refreshed(self, model: nn.Module) -> Gradient:
        settings = self.settings
        if self._gradient is None or self._since_refresh >= settings.refresh:
            inputs, labels = self._drawn(model)
            only = head_parameters(model, settings.head) if settings.backend == "last_layer" else ()
            new, value = validation_gradient(
                model, inputs, lambda outputs: self._validation_loss(outputs, labels), only
            )
            new = {name: self._workers.mean(part) for name, part in new.items()}
            if settings.precondition and self._optimiser is not None:
                new = preconditioned(new, model, self._optimiser)
            self._gradient = averaged(self._gradient, new, settings.gradient_average)
            self._since_refresh = 0
            self._note_loss(float(self._workers.mean(value)), SLOW)
        self._since_refresh += 1
        return self._gradient

    def _drawn(self, model: nn.Module) -> tuple[Inputs, Tensor]:
        inputs, labels = self._validation(self._draws)
        self._draws += 1
        return placed(inputs, device_of(model)), labels

    @contextmanager
    def _beside(self, batch: Inputs) -> Iterator[None]:
        """What a model says of trusted rows that have another form than the batch, in words of those who gave them."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, LookupError) as error:
            rows, here = form_of(self._validation(self._draws)[0]), form_of(batch)
            if rows == here:
                raise
            raise DataError(
                f"validation: trusted rows are {rows}, those of the batch {here}, and the model does not take them "
                f"({(str(error).strip().splitlines() or [type(error).__name__])[0]}); make both by one pipeline"
            ) from error

    def _validation_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        try:
            return self.loss.per_sample(outputs, self.loss.prepared(labels, outputs)).mean()
        except DataError as error:
            raise DataError(f"validation {error}") from None

    def _note_loss(self, value: float, share: float) -> None:
        if not self.begun or len(self._start) < AT_START:
            self._start = [*self._start, value][-AT_START:]
        known = self._present_loss == self._present_loss
        self._present_loss = share * self._present_loss + (1 - share) * value if known else value

    def _begin_when_due(self, model: nn.Module) -> None:
        """Begin after the warm-up's steps, once the validation loss has fallen by the asked share."""
        if self.begun:
            return
        if self.settings.progress and self.steps % PROBE == 0:
            inputs, labels = self._drawn(model)
            with torch.no_grad(), evaluating(model):
                value = float(self._workers.mean(self._validation_loss(outputs_of(model, inputs), labels)))
            self._first_loss = value if self._first_loss != self._first_loss else self._first_loss
            self._note_loss(value, QUICK)
        # Once is enough: a model that learns wrong labels by heart afterwards needs the engine all the more.
        fallen = self._present_loss <= (1 - self.settings.progress) * self._first_loss
        self._learned = self._learned or not self.settings.progress or fallen
        if self.steps == self.settings.warm_up and not self._learned:
            self.events.append(f"waits from step {self.steps} on: the validation loss has not fallen by progress")
        if self.steps >= self.settings.warm_up and self._learned:
            self.begun = True
            self.events.append(f"began at step {self.steps}")

    def _watch(self, learned: Tensor, weights: Tensor, upstream: Tensor) -> None:
        """Stop for good where labels drift away from the upstream's as a whole, or the validation loss rises."""
        if not self.settings.collapse or self.settings.learn == "nothing":
            return
        if isinstance(self.loss, Classification):
            # Differences are averaged before they are measured: those of one batch are mostly chance.
            apart = (weights[:, None] * learned).mean(0) - upstream.mean(0)
            self._drift = torch.lerp(apart, self._drift.to(apart), SLOW) if len(self._drift) else (1 - SLOW) * apart
        rose = self._present_loss > self._bound()
        drift = float(self._drift.abs().sum()) / 2
        if drift > DRIFT or rose:
            why = f"validation loss rose to {self._present_loss:.3g}" if rose else f"labels drifted by {drift:.2f}"
            self.collapsed = True
            self.events.append(f"stopped at step {self.steps}: {why}")

    def _bound(self) -> float:
        """The average of the validation loss above which it rose by more than chance makes of so small batches."""
        if len(self._start) < AT_START:
            return math.inf
        factor = self.settings.collapse
        of_averages = math.sqrt((1 - SLOW) / (1 + SLOW) + factor**2 / AT_START)
        return factor * statistics.fmean(self._start) + SURE * of_averages * statistics.stdev(self._start)

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, as tensors and plain values."""
        parts = {"averages": self._averages, "network": self._network}
        return {
            **{name: getattr(self, name) for name in _STATE},
            "events": list(self.events),
            "gradient": self._gradient,
            **{name: part.state_dict() for name, part in parts.items() if part},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of an engine of the same settings.

        Raises:
            DataError: the state's gradient is not finite.
        """
        check_finite(state["gradient"] or {})
        for name in _STATE:
            setattr(self, name, state[name])
        self.events, self._gradient = list(state["events"]), state["gradient"]
        if self._averages:
            self._averages.load_state_dict(state["averages"])
        if self._network:
            self._network.load_state_dict(state["network"])


def _check_batch(labels: Tensor, sources: Tensor | None, trusted: Tensor | None) -> None:
    shape = tuple(labels.shape) if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
    if not isinstance(shape, tuple) or not shape or not shape[0]:
        raise DataError(f"labels: are {shape}; give a tensor of one row at least")
    for name, part in (("sources", sources), ("trusted", trusted)):
        if part is not None and (not isinstance(part, Tensor) or part.shape != shape[:1]):
            raise DataError(f"{name}: are no tensor of one entry for each of {shape[0]} rows; give one")
    if trusted is not None and trusted.dtype != torch.bool:
        raise DataError(f"trusted: is {trusted.dtype}; give true for rows that keep label and weight, as bool")


_STATE = (
    *("steps", "begun", "collapsed", "_learned", "_draws", "_since_refresh", "_vanished"),
    *("_first_loss", "_present_loss", "_start", "_drift"),
)
