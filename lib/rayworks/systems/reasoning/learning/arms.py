"""The arms that are compared: what each learns from the same trees, at equal optimiser steps and tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.core.errors import DataError
from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.pair_training import EncodedPair, PairObjective, score_pairs
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import Trainer, TuningOptions
from rayworks.systems.reasoning.config import Arm, CurriculumSection, LearningSection
from rayworks.systems.reasoning.learning.pairs import StepPair
from rayworks.systems.reasoning.learning.training import CurriculumTrainer

PAIRS_PER_PASS = 64


@dataclass(frozen=True)
class Material:
    """What there is to learn from."""

    pairs: Sequence[StepPair]
    paths: Sequence[EncodedResponse]
    """Best paths, with their end token."""
    traces: Sequence[EncodedResponse]
    """Written-out solutions of the supervision, with their end token; empty for a policy that was not made here."""
    end: int
    """The end token's id."""

    def winners(self) -> list[EncodedResponse]:
        """The chosen steps, each after its context."""
        return [pair.encoded(self.end).chosen for pair in self.pairs]


@dataclass(frozen=True)
class Plan:
    """How much an arm learns: the same for all."""

    steps_per_epoch: int
    epochs: int
    tokens_per_step: float
    """Read by the anchored arms, contexts included: a pair's is counted for both sides."""

    @classmethod
    def of(cls, material: Material, section: LearningSection) -> "Plan":
        """By the anchored arms."""
        size = min(section.pairs_per_step, len(material.pairs))
        rows = [pair.encoded(material.end) for pair in material.pairs]
        tokens = size * _mean([len(row.chosen) + len(row.rejected) for row in rows])
        if section.anchor_weight:
            tokens += section.anchors_per_step * _mean([len(path) for path in material.paths])
        return cls(math.ceil(len(rows) / section.pairs_per_step), section.epochs, tokens)


def new_trainer(arm: Arm, model: PreTrainedModel, material: Material, section: LearningSection, seed: int) -> Trainer:
    """The trainer of an arm, which tunes ``model`` in place.

    Raises:
        DataError: there is nothing for it to learn from.
    """
    plan = Plan.of(material, section)
    plain = arm == "plain"
    options = TuningOptions(
        learning_rate=section.plain_learning_rate if plain else section.learning_rate,
        total_steps=plan.steps_per_epoch * plan.epochs,
        warmup_steps=min(section.warmup_steps, plan.steps_per_epoch * plan.epochs - 1),
        tuning=section.tuning,
        train_embeddings=section.tuning == "full",
        lora_rank=section.lora_rank,
        lora_alpha=section.lora_alpha,
    )
    texts = {
        "traces": material.traces,
        "paths": material.paths,
        "paths-and-winners": [*material.paths, *material.winners()],
    }.get(arm)
    if texts is not None:
        if not texts:
            raise DataError(f"learning.arms: there is nothing for {arm} to learn from; leave it out")
        # As many tokens a step as the anchored arms read.
        batch = max(1, round(plan.tokens_per_step / _mean([len(text) for text in texts])))
        return FineTuner(model, [Example(text) for text in texts], options, batch_size=batch, seed=seed)
    objective = PairObjective(
        beta=section.plain_beta if plain else section.beta,
        reward="dpo",
        pair_weight=0.0 if arm == "anchor" else 1.0,
        language_weight=0.0 if plain else section.winner_weight,
    )
    order = arm if arm in ("both", "reward", "prediction") else "shuffled"
    fields = {name: getattr(section, name) for name in CurriculumSection.model_fields}
    return CurriculumTrainer(
        model,
        material.pairs,
        () if plain else material.paths,
        objective,
        CurriculumSection(**{**fields, "order": order}),
        options,
        end=material.end,
        pairs_per_step=section.pairs_per_step,
        pairs_per_pass=section.pairs_per_pass,
        anchors_per_step=section.anchors_per_step,
        anchor_weight=0.0 if plain else section.anchor_weight,
        seed=seed,
        name=arm,
    )


def pair_logprobs(model: PreTrainedModel, pairs: Sequence[EncodedPair]) -> Tensor:
    """``[pairs, 2]``: summed log-probabilities of both sides, without gradients."""
    model.eval()
    starts = range(0, len(pairs), PAIRS_PER_PASS)
    with torch.no_grad():
        parts = [score_pairs(model, pairs[start : start + PAIRS_PER_PASS], share_prompts=False) for start in starts]
    return torch.cat(parts).double().cpu()


def drift(model: PreTrainedModel, pairs: Sequence[EncodedPair], before: Tensor) -> dict[str, float]:
    """How the likelihoods of a policy's pairs have moved: means in nats, and the share that it prefers now.

    Args:
        before: :func:`pair_logprobs` of the policy that training began from.
    """
    now = pair_logprobs(model, pairs)
    chosen, rejected = (now - before).mean(dim=0).tolist()
    preferred = float((now[:, 0] > now[:, 1]).double().mean())
    return {"chosen": chosen, "rejected": rejected, "preferred": preferred}


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else 0.0
