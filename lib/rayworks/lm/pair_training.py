"""Training on preferred and rejected responses: autoregressive reward models, DPO and SimPO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.core import seeds
from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.exactness import shares_prompts
from rayworks.lm.positions import exact_length
from rayworks.lm.preference_losses import LossKind, Reward, bradley_terry_loss, rewards
from rayworks.lm.scoring import EncodedResponse, response_logprobs, shared_prompt_logprobs
from rayworks.lm.training import ALONE, Batches, Order, Shard, Trainer, TuningOptions, backward

PAIRS_PER_EVALUATION = 64


@dataclass(frozen=True)
class EncodedPair:
    """A prompt with the response that is preferred and the one that is not, as ids."""

    chosen: EncodedResponse
    rejected: EncodedResponse


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """What is learned of a pair: see :mod:`rayworks.lm.preference_losses`."""

    beta: float
    reward: Reward = "arm"
    loss: LossKind = "sigmoid"
    margin: float = 0.0
    label_smoothing: float = 0.0
    pair_weight: float = 1.0
    language_weight: float = 0.0
    """Of the chosen responses' mean negative log-probability per token, beside the pair loss."""

    def __post_init__(self) -> None:
        for name, value, known in (("reward", self.reward, get_args(Reward)), ("loss", self.loss, get_args(LossKind))):
            if value not in known:
                raise ConfigError(f"{name}: is {value!r}, must be one of {', '.join(known)}")
        if not self.beta > 0:
            raise ConfigError(f"beta: is {self.beta}, must be above 0")


def score_pairs(model: PreTrainedModel, pairs: Sequence[EncodedPair], *, share_prompts: bool = True) -> Tensor:
    """Log-probability of the chosen and the rejected response of every pair, in one forward: ``[pairs, 2]``.

    They share the computation of their prompt where it is the same and the model can
    (:func:`~rayworks.lm.exactness.shares_prompts`).
    """
    if not share_prompts or any(pair.chosen.prompt != pair.rejected.prompt for pair in pairs):
        rows = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        return response_logprobs(model, rows)[0].sum(dim=-1).view(len(pairs), 2)
    responses = [(pair.chosen.response, pair.rejected.response) for pair in pairs]
    return shared_prompt_logprobs(model, [pair.chosen.prompt for pair in pairs], responses)


class PairTrainer(Trainer):
    """Tunes one model, which with ``dpo`` is, as it comes, also the frozen reference; :class:`DataError` without pairs.

    Args:
        pairs_per_step: of an optimiser step.
        pairs_per_pass: of a forward; the rest of a step is accumulated.
        name: its random streams carry it.
        label: begins the message of a training that diverged, ``name`` by default.
        order: of each epoch; ``None`` shuffles.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        pairs: Sequence[EncodedPair],
        objective: PairObjective,
        options: TuningOptions,
        *,
        pairs_per_step: int,
        pairs_per_pass: int,
        seed: int,
        name: str,
        label: str = "",
        order: Order | None = None,
        shard: Shard = ALONE,
    ) -> None:
        if pairs_per_pass < 1:
            raise ConfigError(f"pairs_per_pass: is {pairs_per_pass}, must be at least 1")
        self.objective, self._pairs, self._pairs_per_pass = objective, pairs, pairs_per_pass
        self._batches = Batches(len(pairs), pairs_per_step, seed, "batches", name, order=order, across_epochs=False)
        self._shared_length = exact_length(model.config)[0] if shares_prompts(model) else 0
        self._reference = self._score_all(model, pairs) if objective.reward == "dpo" else None
        own = seeds.derive_small(seed, "adapters", name)
        settings = {**vars(objective), "pairs_per_step": pairs_per_step, "pairs": len(pairs)}
        super().__init__(model, options, adapters_seed=own, name=label or name, shard=shard, settings=settings)

    def evaluate(self, pairs: Sequence[EncodedPair]) -> dict[str, float]:
        """Accuracy and mean log-probabilities on pairs; ties count half. :class:`DataError` where there is no pair."""
        if not pairs:
            raise DataError("pairs: there is none to measure on")
        return {key: value / len(pairs) for key, value in _sums(self._score_all(self.model, pairs)).items()}

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` of the pairs, and how far the chosen responses lead."""
        whole = self._batches.at(step)
        own, objective = self.shard.of(whole), self.objective
        chosen_tokens = sum(len(self._pairs[at].chosen.response) for at in whole)
        found, total = [torch.zeros((0, 2))], 0.0
        for start in range(0, len(own), self._pairs_per_pass):
            part = list(own[start : start + self._pairs_per_pass])
            pairs = [self._pairs[at] for at in part]
            scores = self._score(self.model, pairs)
            lengths = scores.new_tensor([[len(pair.chosen.response), len(pair.rejected.response)] for pair in pairs])
            reference = None if self._reference is None else self._reference[part].to(scores)
            chosen, rejected = rewards(objective.reward, scores, lengths, reference).unbind(dim=-1)
            pair_loss = bradley_terry_loss(
                chosen,
                rejected,
                beta=objective.beta,
                kind=objective.loss,
                margin=objective.margin,
                label_smoothing=objective.label_smoothing,
            ).sum() / len(whole)
            language_loss = -scores[:, 0].sum() / chosen_tokens
            backward(objective.pair_weight * pair_loss + objective.language_weight * language_loss)
            total += float(pair_loss.detach())
            found.append(scores.detach().cpu())
        return {"loss": total, **{key: value / len(whole) for key, value in _sums(torch.cat(found)).items()}}

    @torch.inference_mode()
    def _score_all(self, model: PreTrainedModel, pairs: Sequence[EncodedPair]) -> Tensor:
        """``[pairs, 2]``, without dropout."""
        model.eval()
        parts = [pairs[start : start + PAIRS_PER_EVALUATION] for start in range(0, len(pairs), PAIRS_PER_EVALUATION)]
        return torch.cat([self._score(model, part).cpu() for part in parts]).clone()

    def _score(self, model: PreTrainedModel, pairs: Sequence[EncodedPair]) -> Tensor:
        rows = [len(pair.chosen) + len(pair.rejected.response) for pair in pairs]
        return score_pairs(model, pairs, share_prompts=max(rows) <= self._shared_length)


def _sums(scores: Tensor) -> dict[str, float]:
    chosen, rejected = scores.T.contiguous()
    lead = chosen - rejected
    accuracy = ((lead > 0).double() + 0.5 * (lead == 0).double()).sum()
    sums = {"lead": lead.sum(), "logprob_chosen": chosen.sum(), "logprob_rejected": rejected.sum()}
    return {"accuracy": float(accuracy), **{name: float(value) for name, value in sums.items()}}
