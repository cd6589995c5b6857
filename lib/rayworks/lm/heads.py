"""Scalar heads: one number from the last hidden state of a text, such as a value or a process or outcome reward."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.scoring import EncodedResponse, hidden_states, last_states
from rayworks.lm.training import ALONE, Batches, Shard, Trainer, TuningOptions, backward

DESCRIPTION, WEIGHTS = "head.json", "head.safetensors"
Link = Literal["identity", "sigmoid"]


class ScalarHead(nn.Module):
    """A linear function of a hidden state: ``identity`` for values without bounds, ``sigmoid`` for those from 0 to 1."""

    def __init__(self, width: int, link: Link = "identity") -> None:
        super().__init__()
        if link not in ("identity", "sigmoid"):
            raise ValueError(f"link: is {link!r}, must be identity or sigmoid")
        self.link = link
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[..., width]`` to ``[...]`` in float32, before the sigmoid."""
        value: Tensor = self.linear(hidden.float())[..., 0]
        return value

    def read(self, hidden: Tensor) -> Tensor:
        """``[..., width]`` to ``[...]``, after it."""
        value: Tensor = self(hidden)
        return value.sigmoid() if self.link == "sigmoid" else value

    def save(self, folder: str | Path) -> None:
        """Write it for :func:`load_head`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).write_text(json.dumps({"width": self.linear.in_features, "link": self.link}))
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)


def load_head(folder: str | Path, model: PreTrainedModel) -> ScalarHead:
    """A head that was saved, on the model's device; :class:`DataError` where it cannot be read or reads another width."""
    path, width = Path(folder).expanduser(), model.config.get_text_config().hidden_size
    try:
        head = ScalarHead(**json.loads((path / DESCRIPTION).read_text()))
        head.load_state_dict(load_file(path / WEIGHTS))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise DataError(f"head {str(folder)!r}: cannot be read ({str(error).splitlines()[0]})") from None
    if head.linear.in_features != width:
        own = head.linear.in_features
        raise DataError(f"head {str(folder)!r}: reads {own} numbers, the model's hidden state has {width}")
    return head.to(model.device).eval().requires_grad_(False)


class HeadTrainer(Trainer):
    """Fits a head on texts, and the model below it where the options tune it: to one number for each at its last token.

    The loss is half the squared error of an ``identity`` head, and the cross-entropy of a ``sigmoid`` head, whose labels are
    between 0 and 1. :class:`DataError` where there is no example, or a label is missing, no number or out of bounds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        head: ScalarHead,
        examples: Sequence[EncodedResponse],
        labels: Sequence[float],
        options: TuningOptions,
        *,
        batch_size: int,
        seed: int,
        shard: Shard = ALONE,
    ) -> None:
        if not examples or len(labels) != len(examples):
            raise DataError(f"labels: {len(labels)} for {len(examples)} examples; give one per example")
        self._labels = torch.tensor(labels, dtype=torch.float32)
        sigmoid = head.link == "sigmoid"
        good = (self._labels >= 0) & (self._labels <= 1) if sigmoid else self._labels.isfinite()
        for at in (~good).nonzero()[:1]:
            wanted = "a number from 0 to 1" if sigmoid else "a finite number"
            raise DataError(f"labels: number {int(at)} is {labels[at]}, must be {wanted}")
        self.head = head.to(model.device).train().requires_grad_(True)
        self._examples, self._batches = examples, Batches(len(examples), batch_size, seed, "head", "batches")
        own, beside = seeds.derive_small(seed, "head", "adapters"), {"head": self.head}
        settings = {"batch_size": batch_size, "examples": len(examples)}
        super().__init__(model, options, adapters_seed=own, name="head", beside=beside, shard=shard, settings=settings)

    def export(self, folder: str | Path, tokenizer: PreTrainedTokenizerBase, *, adapters_of: str | None = None) -> None:
        """Write the model as every trainer does, and the head beside it, for :func:`load_head`."""
        super().export(folder, tokenizer, adapters_of=adapters_of)
        self.head.save(folder)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` per example."""
        whole = self._batches.at(step)
        chosen = self.shard.of(whole)
        if not chosen:
            return {"loss": 0.0}
        batch = [self._examples[at] for at in chosen]
        found = self.head(last_states(hidden_states(self.model, batch), batch))
        wanted = self._labels[chosen].to(found.device)
        if self.head.link == "sigmoid":
            loss = nn.functional.binary_cross_entropy_with_logits(found, wanted, reduction="sum")
        else:
            loss = 0.5 * nn.functional.mse_loss(found, wanted, reduction="sum")
        return {"loss": backward(loss / len(whole))}
