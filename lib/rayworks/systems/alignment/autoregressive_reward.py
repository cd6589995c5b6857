"""The autoregressive reward model (ARM): a causal LM whose log-probability of a response is its reward.

Its loss is the Bradley-Terry loss of ``beta_r log pi_r(y|x)`` summed over the response and its end token (GenARM,
arXiv 2410.08193, equation 5): no reference model and no division by length.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from transformers import PreTrainedModel

from rayworks.lm.pair_training import EncodedPair, PairObjective, PairTrainer
from rayworks.lm.training import ALONE, Shard, TuningOptions
from rayworks.systems.alignment.config import TrainingSection


def reward_model_trainer(
    model: PreTrainedModel,
    pairs: Sequence[EncodedPair],
    settings: TrainingSection,
    *,
    beta: float,
    seed: int,
    name: str,
    shard: Shard = ALONE,
) -> PairTrainer:
    """Fits one reward model.

    Args:
        model: the causal LM to start from; tuned in place.
        pairs: training pairs, in the order that batches are drawn from.
        name: of the objective; its random streams carry it.
        shard: this worker's part of every step.

    Raises:
        DataError: the log-probabilities here would not be the model's own.
    """

    def of(kind: Any) -> dict[str, Any]:
        return {field.name: getattr(settings, field.name) for field in fields(kind) if hasattr(settings, field.name)}

    steps = math.ceil(len(pairs) / settings.pairs_per_step) * settings.epochs
    return PairTrainer(
        model,
        pairs,
        PairObjective(beta=beta, **of(PairObjective)),
        TuningOptions(total_steps=steps, **of(TuningOptions)),
        pairs_per_step=settings.pairs_per_step,
        pairs_per_pass=settings.pairs_per_pass,
        seed=seed,
        name=name,
        label=f"objectives.{name}",
        shard=shard,
    )
