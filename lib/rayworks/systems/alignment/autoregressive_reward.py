"""The autoregressive reward model (ARM): a causal LM whose log-probability of a response is its reward.

Its loss is the Bradley-Terry loss of ``beta_r log pi_r(y|x)`` summed over the response and its end token (GenARM,
arXiv 2410.08193, equation 5): no reference model and no division by length.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_cosine_schedule_with_warmup

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.preference_losses import bradley_terry_loss
from rayworks.lm.scoring import shared_prompt_logprobs
from rayworks.systems.alignment.config import TrainingSection
from rayworks.systems.alignment.pairs import EncodedPair

STATE = "state.pt"
POSITION = "position.json"
PAIRS_PER_EVALUATION = 64


@dataclass(frozen=True)
class PairScores:
    """Rewards of a batch of pairs: sums of log-probabilities, each ``[pairs]``."""

    chosen: Tensor
    rejected: Tensor


def score_pairs(model: PreTrainedModel, pairs: Sequence[EncodedPair]) -> PairScores:
    """``log pi_r(y|x)`` of both responses of every pair, in one forward."""
    responses = [(pair.chosen.response, pair.rejected.response) for pair in pairs]
    chosen, rejected = shared_prompt_logprobs(model, [pair.chosen.prompt for pair in pairs], responses).unbind(dim=-1)
    return PairScores(chosen, rejected)


class RewardModelTrainer:
    """Fits one reward model; goes on bit for bit from its own state.

    Args:
        model: the causal LM to start from; tuned in place.
        tokenizer: saved beside the model.
        pairs: training pairs, in the order that batches are drawn from.
        settings: how to train.
        beta: scale of the reward.
        seed: of the run.
        name: of the objective; its random streams carry it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Sequence[EncodedPair],
        settings: TrainingSection,
        *,
        beta: float,
        seed: int,
        name: str,
    ) -> None:
        self.settings, self._pairs, self._tokenizer = settings, pairs, tokenizer
        self._beta, self._seed, self._name = beta, seed, name
        torch.manual_seed(seeds.derive_small(seed, "adapters", name))
        self._adapted = _prepare_for_tuning(model, settings)
        self.model = model
        self._trained = {key: value for key, value in self.model.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.steps_per_epoch = math.ceil(len(pairs) / settings.pairs_per_step)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self._schedule = get_cosine_schedule_with_warmup(self._optimizer, settings.warmup_steps, self.total_steps)
        self.step = 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    def train(self, steps: int) -> dict[str, float]:
        """Take up to ``steps`` optimiser steps and return their mean loss, accuracy and log-probabilities.

        Raises:
            DataError: the loss or its gradient is not finite; the weights are those before that step.
        """
        self.model.train()
        taken = [self._take_step() for _ in range(min(steps, self.total_steps - self.step))]
        return {key: sum(entry[key] for entry in taken) / len(taken) for key in taken[0]} if taken else {}

    @torch.inference_mode()
    def evaluate(self, pairs: Sequence[EncodedPair]) -> dict[str, float]:
        """Accuracy and mean rewards on pairs; ties count half."""
        self.model.eval()
        batches = [pairs[start : start + PAIRS_PER_EVALUATION] for start in range(0, len(pairs), PAIRS_PER_EVALUATION)]
        scores = [score_pairs(self.model, batch) for batch in batches]
        chosen, rejected = (torch.cat([getattr(score, side) for score in scores]) for side in ("chosen", "rejected"))
        return _summary(chosen, rejected)

    def save(self, folder: Path) -> None:
        """Write trained weights, optimiser, schedule and position."""
        state = {
            "weights": {key: value.detach() for key, value in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        torch.save(state, folder / STATE)
        (folder / POSITION).write_text(json.dumps({"step": self.step}))

    def load(self, folder: Path) -> None:
        """Go back to where :meth:`save` was called."""
        state = torch.load(folder / STATE, weights_only=True, map_location="cpu")
        with torch.no_grad():
            for key, value in self._trained.items():
                value.copy_(state["weights"][key])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.step = json.loads((folder / POSITION).read_text())["step"]

    def export(self, folder: Path) -> None:
        """Write a plain transformers model and its tokenizer; adapters are merged. Training can not go on after it."""
        model = self.model if self._adapted is None else self._adapted.merge_and_unload()
        model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _take_step(self) -> dict[str, float]:
        # Dropout draws from the process-wide generator: seeding it by step makes a resumed step the same step.
        torch.manual_seed(seeds.derive_small(self._seed, "dropout", self._name, self.step))
        batch = self._batch(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        chosen_tokens = sum(len(pair.chosen.response) for pair in batch)
        chosen, rejected = [], []
        total = 0.0
        for start in range(0, len(batch), self.settings.pairs_per_pass):
            scores = score_pairs(self.model, batch[start : start + self.settings.pairs_per_pass])
            pair_loss = bradley_terry_loss(
                scores.chosen,
                scores.rejected,
                beta=self._beta,
                kind=self.settings.loss,
                margin=self.settings.margin,
                label_smoothing=self.settings.label_smoothing,
            ).sum() / len(batch)
            language_loss = -scores.chosen.sum() / chosen_tokens
            (pair_loss + self.settings.language_weight * language_loss).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            total += float(pair_loss.detach())
            chosen.append(scores.chosen.detach())
            rejected.append(scores.rejected.detach())
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self.settings.max_gradient_norm)
        if not (math.isfinite(total) and bool(torch.isfinite(norm))):
            raise DataError(
                f"objectives.{self._name}: loss is {total} with gradient norm {float(norm)} at step {self.step}; "
                "lower training.learning_rate or look for broken pairs"
            )
        self._optimizer.step()
        self._schedule.step()
        self.step += 1
        return {"loss": total, **_summary(torch.cat(chosen), torch.cat(rejected))}

    def _batch(self, step: int) -> list[EncodedPair]:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = seeds.stream(self._seed, "batches", self._name, epoch).permutation(len(self._pairs))
        size = self.settings.pairs_per_step
        return [self._pairs[at] for at in order[index * size : (index + 1) * size]]


def _prepare_for_tuning(model: PreTrainedModel, settings: TrainingSection) -> Any:
    """Mark what is trained; with adapters, put them into ``model`` in place and return the object that can merge them."""
    if settings.tuning == "full":
        model.requires_grad_(True)
        if not settings.train_embeddings:
            model.get_input_embeddings().requires_grad_(False)
            model.get_output_embeddings().requires_grad_(False)
        return None
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters)


def _summary(chosen: Tensor, rejected: Tensor) -> dict[str, float]:
    lead = chosen - rejected
    return {
        "accuracy": float(((lead > 0).double() + 0.5 * (lead == 0).double()).mean()),
        "lead": float(lead.mean()),
        "logprob_chosen": float(chosen.mean()),
        "logprob_rejected": float(rejected.mean()),
    }
