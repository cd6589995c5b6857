"""The engine inside Lightning and inside transformers' Trainer."""

from collections.abc import MutableMapping, MutableSequence
from typing import Any

from torch import Tensor, nn

from rayworks.core.errors import ConfigError
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.plug_in.sources import SOURCE


def lightning_callback(saflex: Saflex, inputs: Any = 0, labels: Any = 1, sources: Any = None) -> Any:
    """A callback that puts weight times soft label in the labels' place before each training step.

    The module's own step must take a cross-entropy of ``module(inputs)`` with probability targets. Source ids are taken out
    of the batch. The engine's state is in Lightning's checkpoints.

    Args:
        inputs: place or key of the inputs in a batch.
        labels: the same of the labels.
        sources: the same of the source ids; None: they are under ``source``, or, where they are whole numbers, one for each
            row, at the end of a list of three or more.

    Raises:
        ConfigError: Lightning is not installed; while training, a batch has no such place or key.
    """
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise ConfigError("lightning_callback: needs Lightning; pip install rayworks[augmentation]") from None

    class SaflexCallback(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
            if not isinstance(batch, MutableSequence | MutableMapping):
                raise ConfigError(
                    f"batch: is a {type(batch).__name__}, which cannot be changed; collate into a list or a dictionary"
                )
            given, names = _part(batch, inputs, "inputs"), _part(batch, labels, "labels")
            place = _place_of_sources(batch, len(names)) if sources is None else sources
            ids = None if place is None else _part(batch, place, "sources")
            batch[labels] = saflex.targets(pl_module, given, names, ids)
            if place is not None:
                del batch[place]

        def state_dict(self) -> dict[str, Any]:
            return saflex.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            saflex.load_state_dict(state_dict)

    return SaflexCallback()


def _part(batch: Any, place: Any, what: str) -> Any:
    try:
        return batch[place]
    except (LookupError, TypeError):
        held = ", ".join(map(repr, batch)) if isinstance(batch, MutableMapping) else f"{len(batch)} parts"
        raise ConfigError(f"{what}: are at {place!r}, and the batch has {held}; say where the {what} are") from None


def _place_of_sources(batch: Any, rows: int) -> Any:
    """Where source ids are when nobody says so; None: nowhere."""
    place: Any = SOURCE if isinstance(batch, MutableMapping) else len(batch) - 1
    ids = batch.get(SOURCE) if place == SOURCE else batch[place] if place > 1 else None
    return place if isinstance(ids, Tensor) and ids.shape == (rows,) and not ids.is_floating_point() else None


class WeighedLoss:
    """What makes a transformers Trainer weigh: ``class MyTrainer(WeighedLoss, Trainer)``, and set ``saflex`` on it.

    In training the loss is the engine's, of the one pass that also gives the gains; in evaluation it is the Trainer's.
    Batches may hold source ids under ``source`` (set ``remove_unused_columns`` to false, so that the Trainer keeps them).
    """

    saflex: Saflex | None = None
    label: str = "labels"
    """Key of the labels in a batch."""

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **more: Any) -> Any:
        """The mean of weight times loss; with ``return_outputs`` also the outputs."""
        if self.saflex is None:
            raise ConfigError("saflex: is not set; set trainer.saflex to an engine before training")
        rest = {name: value for name, value in inputs.items() if name != SOURCE}
        if not model.training:
            trainer: Any = super()
            return trainer.compute_loss(model, rest, return_outputs=return_outputs, **more)
        labels = _part(rest, self.label, "label")
        del rest[self.label]
        weighed = self.saflex.weigh(model, rest, labels, inputs.get(SOURCE))
        loss = weighed.mean_loss()
        return (loss, {"loss": loss, "logits": weighed.outputs}) if return_outputs else loss
