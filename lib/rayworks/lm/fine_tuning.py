"""Supervised fine-tuning on prompts, which are read but not learned, and answers, with weights and soft labels if given."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.scoring import EncodedResponse, hidden_states, output_logits
from rayworks.lm.training import ALONE, Batches, Order, Shard, Trainer, TuningOptions, backward


@dataclass(frozen=True)
class Example:
    """A text to learn, token by token of its response; :class:`DataError` where weights or soft labels do not fit that."""

    text: EncodedResponse
    weights: tuple[float, ...] = ()
    """How much each token counts, at least 0; empty: 1 each."""
    soft: tuple[tuple[tuple[int, float], ...], ...] = ()
    """The label of each token as ids and their probabilities, which add up to 1; empty: the token itself."""

    def __post_init__(self) -> None:
        count = len(self.text.response)
        if not self.text.prompt or not count:
            raise DataError("examples: prompt and response must each have at least one token")
        if len(self.weights) not in (0, count) or not all(0 <= weight < float("inf") for weight in self.weights):
            raise DataError(f"examples: weights {self.weights} of {count} tokens; give a number of at least 0 for each")
        if len(self.soft) not in (0, count):
            raise DataError(f"examples: {len(self.soft)} soft labels for {count} tokens; give one for each")
        for label in self.soft:
            if not all(mass >= 0 for _, mass in label) or not abs(sum(mass for _, mass in label) - 1) < 1e-3:
                raise DataError(f"examples: the soft label {label} is no distribution: its masses must add up to 1")

    def labels(self) -> list[tuple[int, int, float]]:
        """Place in the row of the state that predicts, id, and weight of all labels."""
        weights = self.weights or (1.0,) * len(self.text.response)
        soft = self.soft or tuple(((token, 1.0),) for token in self.text.response)
        weighted = enumerate(zip(weights, soft, strict=True), len(self.text.prompt) - 1)
        return [(at, token, weight * mass) for at, (weight, label) in weighted for token, mass in label]


class FineTuner(Trainer):
    """Tunes one model on examples, in the ``order`` given for each epoch, or shuffled; :class:`DataError` without any."""

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[Example],
        options: TuningOptions,
        *,
        batch_size: int,
        seed: int,
        order: Order | None = None,
        shard: Shard = ALONE,
    ) -> None:
        if not examples:
            raise DataError("examples: there is none to learn from")
        self._examples, tokens = examples, sum(len(one.text.response) for one in examples)
        self._mean = sum(sum(one.weights) if one.weights else len(one.text.response) for one in examples) / tokens
        self._batches = Batches(len(examples), batch_size, seed, "fine-tuning", "batches", order=order)
        own = seeds.derive_small(seed, "fine-tuning", "adapters")
        settings = {"batch_size": batch_size, "examples": len(examples)}
        super().__init__(model, options, adapters_seed=own, name="fine-tuning", shard=shard, settings=settings)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` in nats per answer token, in units of the mean weight of all: a batch counts for what it weighs."""
        whole = [self._examples[at] for at in self._batches.at(step)]
        total = sum(len(example.text.response) for example in whole) * self._mean
        own = self.shard.of(whole)
        return {"loss": backward(negative_log_likelihood(self.model, own) / total) if own and total else 0.0}


def negative_log_likelihood(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Of all labels, each times its weight: a sum, differentiable."""
    hidden = hidden_states(model, [example.text for example in examples])
    labels = [(row, *label) for row, example in enumerate(examples) for label in example.labels()]
    rows, places, ids, weights = (torch.tensor(part, device=hidden.device) for part in zip(*labels, strict=True))
    if int(ids.max()) >= model.get_output_embeddings().out_features:
        raise DataError(f"examples: a label has the token id {int(ids.max())}, which the model does not have")
    states, which = torch.unique(rows * hidden.shape[1] + places, return_inverse=True)
    logits = output_logits(model, hidden.flatten(0, 1)[states])
    logprobs = logits[which, ids] - logits.logsumexp(dim=-1)[which]
    return -(weights * logprobs).sum()
