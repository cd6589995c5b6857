"""Supervised fine-tuning of a causal LM on prompts and answers.

The loss is the mean negative log-likelihood of the answers' tokens and their end token; prompts are read, not learned.
"""

from collections.abc import Sequence

from transformers import PreTrainedModel

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.scoring import EncodedResponse, response_logprobs
from rayworks.lm.training import Trainer, TuningOptions


class FineTuner(Trainer):
    """Tunes one model on examples.

    Args:
        model: the causal LM to start from; tuned in place.
        examples: what to learn, in the order that batches are drawn from.
        seed: of the run; batches, dropout and adapters each have a stream of their own below it.

    Raises:
        DataError: no example, or one without a prompt or an answer.
        ConfigError: the model has none of the layers that adapters are asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[EncodedResponse],
        options: TuningOptions,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        if not examples:
            raise DataError("examples: there is none to learn from")
        self._examples, self._batch_size, self._seed = examples, batch_size, seed
        adapters_seed = seeds.derive_small(seed, "fine-tuning", "adapters")
        super().__init__(model, options, adapters_seed=adapters_seed, name="fine-tuning")

    def dropout_seed(self, step: int) -> int:
        """A stream by step."""
        return seeds.derive_small(self._seed, "fine-tuning", "dropout", step)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` in nats per answer token."""
        logprobs, mask = response_logprobs(self.model, self._batch(step))
        loss = -logprobs.sum() / mask.sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return {"loss": float(loss.detach())}

    def _batch(self, step: int) -> list[EncodedResponse]:
        """Full batches from one shuffle of the examples after the other, so that every step costs the same."""
        count = len(self._examples)
        positions = range(step * self._batch_size, (step + 1) * self._batch_size)
        orders = {
            epoch: seeds.stream(self._seed, "fine-tuning", "batches", epoch).permutation(count)
            for epoch in {position // count for position in positions}
        }
        return [self._examples[orders[position // count][position % count]] for position in positions]
