"""Supervised fine-tuning of a causal LM on prompts and answers.

The loss is the mean negative log-likelihood of the answers' tokens and their end token; prompts are read, not learned.
"""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.lm.scoring import EncodedResponse, response_logprobs
from rayworks.lm.training import Batches, Trainer, TuningOptions


class FineTuner(Trainer):
    """Tunes one model on examples.

    Args:
        model: the causal LM to start from; tuned in place.
        examples: what to learn, in the order that batches are drawn from.
        order: from an epoch to the order of the examples in it, for a curriculum; ``None`` shuffles.
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
        order: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        if not examples:
            raise DataError("examples: there is none to learn from")
        self._examples, self._seed = examples, seed
        self._batches = Batches(len(examples), batch_size, seed, "fine-tuning", order)
        adapters_seed = seeds.derive_small(seed, "fine-tuning", "adapters")
        super().__init__(model, options, adapters_seed=adapters_seed, name="fine-tuning")

    def dropout_seed(self, step: int) -> int:
        """A stream by step."""
        return seeds.derive_small(self._seed, "fine-tuning", "dropout", step)

    def accumulate(self, step: int) -> dict[str, float]:
        """``loss`` in nats per answer token."""
        logprobs, mask = response_logprobs(self.model, [self._examples[at] for at in self._batches.at(step)])
        loss = -logprobs.sum() / mask.sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return {"loss": float(loss.detach())}
