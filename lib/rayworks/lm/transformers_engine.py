"""The transformers engine: one causal LM on one device, continuous batching, exact log-probabilities."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.continuous_batching import ContinuousBatching, Row, SingleModel
from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest
from rayworks.lm.scoring import encode_prompt, score_responses


class TransformersEngine:
    """Generates and scores with one model.

    Args:
        model: packaged name, local folder or ``hub:OWNER/NAME``.
        slots: most rows decoded together. On a CPU a step of 16 rows costs little more than one of 8.
        layers: use only the first layers.

    Raises:
        DataError: the model cannot be loaded.
    """

    def __init__(
        self, model: str, dtype: str = "float32", slots: int = 16, layers: int | None = None, device: str = "cpu"
    ) -> None:
        self.tokenizer = load_tokenizer(model)
        self.model = CausalModel(load_model(model, dtype, layers, device), slots)
        self._slots = slots

    @classmethod
    def holding(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, slots: int = 16
    ) -> "TransformersEngine":
        """An engine of a model that is in memory already, which cannot be trained further after it."""
        engine = cls.__new__(cls)
        engine.tokenizer, engine.model, engine._slots = tokenizer, CausalModel(model, slots), slots
        return engine

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Draw one continuation per request, in the order of the requests."""
        decoding = ContinuousBatching([self.model], self.tokenizer, SingleModel(), self._slots)
        rows = [Row(request, (encode_prompt(self.tokenizer, request.prompt),)) for request in requests]
        decoding.run(rows)
        return [as_generation(row) for row in rows]

    def score(self, requests: Sequence[ScoringRequest]) -> list[Score]:
        """Score one response per request; rows of like length share a batch."""
        return score_responses(self.model.model, self.tokenizer, requests)


def as_generation(row: Row) -> Generation:
    """The result of a finished row of a single model."""
    assert row.finish_reason is not None
    return Generation(
        uid=row.request.uid,
        text=row.text,
        token_ids=tuple(row.tokens),
        finish_reason=row.finish_reason,
        logprobs=tuple(report["logprob"] for report in row.reports),
        sampling_logprobs=tuple(row.sampling_logprobs),
        prompt_tokens=len(row.prompts[0]),
    )
