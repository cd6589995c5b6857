"""The autoregressive reward model (ARM): a causal LM whose log-probability of a response is its reward.

Its loss is the Bradley-Terry loss of ``beta_r log pi_r(y|x)`` summed over the response and its end token (GenARM,
arXiv 2410.08193, equation 5): no reference model and no division by length.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.core import seeds
from rayworks.lm.exactness import prove_scoring, shares_prompts
from rayworks.lm.preference_losses import bradley_terry_loss
from rayworks.lm.scoring import response_logprobs, shared_prompt_logprobs
from rayworks.lm.training import Trainer, TuningOptions
from rayworks.systems.alignment.config import TrainingSection
from rayworks.systems.alignment.pairs import EncodedPair

PAIRS_PER_EVALUATION = 64


def score_pairs(model: PreTrainedModel, pairs: Sequence[EncodedPair], *, share_prompts: bool = True) -> Tensor:
    """``log pi_r(y|x)`` of the chosen and the rejected response of every pair, in one forward: ``[pairs, 2]``.

    The responses share the computation of their prompt where the model can do that
    (:func:`~rayworks.lm.exactness.shares_prompts`).
    """
    if not share_prompts:
        rows = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        return response_logprobs(model, rows)[0].sum(dim=-1).view(len(pairs), 2)
    responses = [(pair.chosen.response, pair.rejected.response) for pair in pairs]
    return shared_prompt_logprobs(model, [pair.chosen.prompt for pair in pairs], responses)


class RewardModelTrainer(Trainer):
    """Fits one reward model; resumes bit for bit from its saved state.

    Args:
        model: the causal LM to start from; tuned in place.
        pairs: training pairs, in the order that batches are drawn from.
        name: of the objective; its random streams carry it.

    Raises:
        DataError: the log-probabilities here would not be the model's own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[EncodedPair],
        settings: TrainingSection,
        *,
        beta: float,
        seed: int,
        name: str,
    ) -> None:
        self.settings, self._pairs = settings, pairs
        self._beta, self._seed, self._objective = beta, seed, name
        self.steps_per_epoch = math.ceil(len(pairs) / settings.pairs_per_step)
        shared = {
            field: getattr(settings, field) for field in TuningOptions.__dataclass_fields__.keys() - {"total_steps"}
        }
        options = TuningOptions(total_steps=self.steps_per_epoch * settings.epochs, **shared)
        adapters_seed = seeds.derive_small(seed, "adapters", name)
        prove_scoring(model)
        longest = max((max(len(pair.chosen), len(pair.rejected)) for pair in pairs), default=0)
        self._share_prompts = shares_prompts(model, longest)
        super().__init__(model, options, adapters_seed=adapters_seed, name=f"objectives.{name}")

    @torch.inference_mode()
    def evaluate(self, pairs: Sequence[EncodedPair]) -> dict[str, float]:
        """Accuracy and mean rewards on pairs; ties count half."""
        self.model.eval()
        batches = [pairs[start : start + PAIRS_PER_EVALUATION] for start in range(0, len(pairs), PAIRS_PER_EVALUATION)]
        return _summary([score_pairs(self.model, batch, share_prompts=self._share_prompts) for batch in batches])

    def dropout_seed(self, step: int) -> int:
        """A stream by objective and step."""
        return seeds.derive_small(self._seed, "dropout", self._objective, step)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` of the pairs, and how far the chosen responses lead."""
        batch, settings = self._batch(step), self.settings
        chosen_tokens = sum(len(pair.chosen.response) for pair in batch)
        found, total = [], 0.0
        for start in range(0, len(batch), settings.pairs_per_pass):
            part = batch[start : start + settings.pairs_per_pass]
            scores = score_pairs(self.model, part, share_prompts=self._share_prompts)
            chosen, rejected = scores.unbind(dim=-1)
            pair_loss = bradley_terry_loss(
                chosen,
                rejected,
                beta=self._beta,
                kind=settings.loss,
                margin=settings.margin,
                label_smoothing=settings.label_smoothing,
            ).sum() / len(batch)
            language_loss = -chosen.sum() / chosen_tokens
            (pair_loss + settings.language_weight * language_loss).backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            total += float(pair_loss.detach())
            found.append(scores.detach())
        return {"loss": total, **_summary(found)}

    def _batch(self, step: int) -> list[EncodedPair]:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = seeds.stream(self._seed, "batches", self._objective, epoch).permutation(len(self._pairs))
        size = self.settings.pairs_per_step
        return [self._pairs[at] for at in order[index * size : (index + 1) * size]]


def _summary(scores: list[Tensor]) -> dict[str, float]:
    chosen, rejected = torch.cat(scores).T.contiguous()
    lead = chosen - rejected
    return {
        "accuracy": float(((lead > 0).double() + 0.5 * (lead == 0).double()).mean()),
        "lead": float(lead.mean()),
        "logprob_chosen": float(chosen.mean()),
        "logprob_rejected": float(rejected.mean()),
    }
