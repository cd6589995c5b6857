"""The arms that are compared: what each learns from the same trees, at equal optimiser steps and nearly equal tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.lm.fine_tuning import Example, FineTuner
from rayworks.lm.pair_training import EncodedPair, PairObjective, score_pairs
from rayworks.lm.scoring import EncodedResponse
from rayworks.lm.training import ALONE, Batches, Shard, Trainer, TuningOptions
from rayworks.systems.reasoning.config import Arm, CurriculumSection, LearningSection
from rayworks.systems.reasoning.learning.pairs import StepPair
from rayworks.systems.reasoning.learning.training import CurriculumTrainer, anchor_batches

PAIRS_PER_PASS = 64
TEXT_STREAM = ("fine-tuning", "batches")
"""Of a :class:`FineTuner`'s batches."""


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

    def texts(self, arm: Arm) -> Sequence[EncodedResponse] | None:
        """What an arm learns without pairs; ``None`` where it learns from pairs."""
        if arm == "paths-and-winners":
            return [*self.paths, *(pair.encoded(self.end).chosen for pair in self.pairs)]
        return {"traces": self.traces, "paths": self.paths}.get(arm)

    def suffices(self, arm: Arm) -> bool:
        """Whether there is anything for an arm to learn from; without pairs nobody knows for how long."""
        texts = self.texts(arm)
        return bool(self.pairs) and (texts is None or len(texts) > 0)


@dataclass(frozen=True)
class Plan:
    """How much the anchored arms learn, which others are measured by."""

    steps_per_epoch: int
    epochs: int
    pair_tokens: int
    """Read of pairs over all steps: both sides of each with the context, also by an arm that learns from one side alone."""
    anchor_tokens: int
    """Read of anchors over all steps."""

    @classmethod
    def of(cls, material: Material, section: LearningSection, seed: int) -> "Plan":
        """By the anchored arms."""
        rows = [pair.encoded(material.end) for pair in material.pairs]
        per_epoch = math.ceil(len(rows) / section.pairs_per_step)
        pair_tokens = section.epochs * sum(len(row.chosen) + len(row.rejected) for row in rows)
        anchors = 0
        if section.anchor_weight and material.paths:
            batches = anchor_batches(len(material.paths), section.anchors_per_step, seed)
            anchors = _tokens(batches, material.paths, per_epoch * section.epochs)
        return cls(per_epoch, section.epochs, pair_tokens, anchors)

    @property
    def steps(self) -> int:
        """Of all epochs."""
        return self.steps_per_epoch * self.epochs

    def texts_per_step(self, texts: Sequence[EncodedResponse]) -> int:
        """How many texts read, over all steps, as many tokens as an anchored arm does, as nearly as whole texts can."""
        mean = sum(map(len, texts)) / len(texts)
        return max(1, round((self.pair_tokens + self.anchor_tokens) / self.steps / mean))


def tokens_read(arm: Arm, material: Material, section: LearningSection, seed: int) -> int:
    """By an arm over all its steps, prompts and contexts included."""
    plan, texts = Plan.of(material, section, seed), material.texts(arm)
    if texts is None:
        return plan.pair_tokens + (0 if arm == "plain" else plan.anchor_tokens)
    return _tokens(Batches(len(texts), plan.texts_per_step(texts), seed, *TEXT_STREAM), texts, plan.steps)


def new_trainer(
    arm: Arm, model: PreTrainedModel, material: Material, section: LearningSection, seed: int, shard: Shard = ALONE
) -> Trainer:
    """The trainer of an arm that the material suffices for, which tunes ``model`` in place."""
    plan = Plan.of(material, section, seed)
    plain = arm == "plain"
    options = TuningOptions(
        learning_rate=section.plain_learning_rate if plain else section.learning_rate,
        total_steps=plan.steps,
        warmup_steps=min(section.warmup_steps, plan.steps - 1),
        tuning=section.tuning,
        train_embeddings=section.tuning == "full",
        lora_rank=section.lora_rank,
        lora_alpha=section.lora_alpha,
    )
    texts = material.texts(arm)
    if texts is not None:
        batch = plan.texts_per_step(texts)
        return FineTuner(model, [Example(text) for text in texts], options, batch_size=batch, seed=seed, shard=shard)
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
        shard=shard,
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


def _tokens(batches: Batches, texts: Sequence[EncodedResponse], steps: int) -> int:
    return sum(len(texts[at]) for step in range(steps) for at in batches.at(step))
