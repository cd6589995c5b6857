"""The engine inside Lightning and inside transformers' Trainer."""

from collections.abc import MutableMapping, MutableSequence
from typing import Any

from torch import nn

from rayworks.core.errors import ConfigError
from rayworks.systems.augmentation.engine.saflex import Saflex
from rayworks.systems.augmentation.plug_in.sources import SOURCE


def lightning_callback(saflex: Saflex, inputs: Any = 0, labels: Any = 1) -> Any:
    """A callback that puts weight times soft label in the labels' place before each training step.

    The module's own step must take a cross-entropy of ``module(inputs)`` with probability targets. Source ids, whole numbers
    at the end of a list of three or more or under ``source``, are taken out of the batch. The engine's state is in
    Lightning's checkpoints.

    Args:
        inputs: place or key of the inputs in a batch.
        labels: the same of the labels.

    Raises:
        ConfigError: Lightning is not installed.
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
            sources = None
            if isinstance(batch, MutableMapping):
                sources = batch.pop(SOURCE, None)
            elif len(batch) > 2 and not batch[-1].is_floating_point():
                sources = batch.pop()
            batch[labels] = saflex.targets(pl_module, batch[inputs], batch[labels], sources)

        def state_dict(self) -> dict[str, Any]:
            return saflex.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            saflex.load_state_dict(state_dict)

    return SaflexCallback()


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
        labels = rest.pop(self.label)
        weighed = self.saflex.weigh(model, rest, labels, inputs.get(SOURCE))
        loss = weighed.mean_loss()
        return (loss, {"loss": loss, "logits": weighed.outputs}) if return_outputs else loss
