"""Supervised fine-tuning of a causal LM on prompts and answers, in pieces that go on bit for bit.

The loss is the mean negative log-likelihood of the answers' tokens and their end token; prompts are read, not learned.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.scoring import EncodedResponse, response_logprobs

STATE = "state.pt"
POSITION = "position.json"


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """How to fine-tune: AdamW, linear warm-up, then a cosine to zero at the last step."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    warmup_share: float = 0.1
    max_gradient_norm: float = 1.0
    tuning: Literal["full", "lora"] = "full"
    train_embeddings: bool = False
    """Full tuning only: whether the token embeddings learn too. In a small model they are most of the weights."""
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class FineTuner:
    """Tunes one model; the state it saves holds all that later steps depend on.

    Args:
        model: the causal LM to start from; tuned in place.
        examples: what to learn, in the order that batches are drawn from.
        options: how to train.
        seed: of the run; batches, dropout and adapters each have a stream of their own below it.

    Raises:
        DataError: no example, or one without a prompt or an answer.
        ConfigError: the model has none of the layers that adapters are asked for.
    """

    def __init__(
        self, model: PreTrainedModel, examples: Sequence[EncodedResponse], options: FineTuningOptions, *, seed: int
    ) -> None:
        if not examples:
            raise DataError("examples: there is none to learn from")
        self.model, self.options = model, options
        self._examples, self._seed = examples, seed
        torch.manual_seed(seeds.derive_small(seed, "fine-tuning", "adapters"))
        self._adapted = _prepare(model, options)
        self._trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        warmup = round(options.warmup_share * options.steps)
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, warmup, options.steps)
        self.step = 0

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.options.steps

    def train(self, steps: int) -> dict[str, float]:
        """Take up to ``steps`` optimiser steps; their mean loss in nats per answer token, empty when none was left.

        Raises:
            DataError: the loss or its gradient is not finite; the weights are those before that step.
        """
        self.model.train()
        losses = [self._take_step() for _ in range(min(steps, self.options.steps - self.step))]
        return {"loss": sum(losses) / len(losses)} if losses else {}

    def save(self, folder: Path) -> None:
        """Write trained weights, optimiser, schedule and position."""
        state = {
            "weights": {name: value.detach() for name, value in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        torch.save(state, folder / STATE)
        (folder / POSITION).write_text(json.dumps({"step": self.step}))

    def load(self, folder: Path) -> None:
        """Go back to where :meth:`save` was called."""
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for name, value in self._trained.items():
                value.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = json.loads((folder / POSITION).read_text())["step"]

    def tuned(self) -> PreTrainedModel:
        """The plain model, ready to generate; adapters are merged, after which training can not go on."""
        model: PreTrainedModel = self.model if self._adapted is None else self._adapted.merge_and_unload()
        return model.eval()

    def export(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        """Write :meth:`tuned` and its tokenizer for transformers to load."""
        self.tuned().save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def _take_step(self) -> float:
        # Dropout draws from the process-wide generator: seeding it by step makes a resumed step the same step.
        torch.manual_seed(seeds.derive_small(self._seed, "fine-tuning", "dropout", self.step))
        self._optimizer.zero_grad(set_to_none=True)
        logprobs, mask = response_logprobs(self.model, self._batch(self.step))
        loss = -logprobs.sum() / mask.sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self.options.max_gradient_norm)
        if not (math.isfinite(float(loss.detach())) and bool(torch.isfinite(norm))):
            raise DataError(
                f"fine-tuning: loss is {float(loss.detach())} with gradient norm {float(norm)} at step {self.step}; "
                "lower the learning rate or look for broken examples"
            )
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        return float(loss.detach())

    def _batch(self, step: int) -> list[EncodedResponse]:
        """Full batches from one shuffle of the examples after the other, so that every step costs the same."""
        count = len(self._examples)
        places = range(step * self.options.batch_size, (step + 1) * self.options.batch_size)
        orders = {
            epoch: seeds.stream(self._seed, "fine-tuning", "batches", epoch).permutation(count)
            for epoch in {place // count for place in places}
        }
        return [self._examples[orders[place // count][place % count]] for place in places]


def _prepare(model: PreTrainedModel, options: FineTuningOptions) -> Any:
    """Mark what is trained; with adapters, put them into ``model`` in place and return the object that can merge them."""
    if options.tuning == "full":
        model.requires_grad_(True)
        if not options.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
            model.get_output_embeddings().requires_grad_(False)
        return None
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,
        target_modules=list(options.lora_targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, adapters)
    except ValueError as error:
        raise ConfigError(f"lora_targets: {str(error).splitlines()[0]}") from None
