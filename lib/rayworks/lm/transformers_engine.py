"""The transformers engine: one causal LM on one device, continuous batching, exact log-probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer, require_fitting
from rayworks.lm.continuous_batching import ContinuousBatching
from rayworks.lm.decoding import Decoding
from rayworks.lm.engine import Generation, GenerationRequest, Score, ScoringRequest, require_list
from rayworks.lm.gradients import GradientRequest, TokenGradient, token_gradients
from rayworks.lm.heads import ScalarHead, load_head
from rayworks.lm.rows import Row, SingleModel
from rayworks.lm.scoring import encode_prompt, score_responses


class TransformersEngine:
    """Generates and scores with one model and adapters of it.

    Args:
        model: packaged name, local folder or ``hub:OWNER/NAME``; :meth:`holding` takes one in memory, with its tokenizer.
        slots: most rows decoded together. On a CPU a step of 16 rows costs little more than one of 8.
        layers: use only the first of them.
        adapters: most that :meth:`add_adapter` can load.
        prefix_gib: most memory of prefixes that rows share, in GiB.
        keep_prefixes: share them between calls too; numbers then depend on earlier calls, within rounding.
        differentiable: leave the layers as :meth:`gradients` needs them, which is slower on a CPU.

    :class:`DataError` where the model cannot be loaded, or not be decoded exactly.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        dtype: str = "float32",
        slots: int = 16,
        layers: int | None = None,
        device: str = "cpu",
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        adapters: int = 0,
        prefix_gib: float = 0.5,
        keep_prefixes: bool = False,
        differentiable: bool = False,
    ) -> None:
        whole = load_model(model, dtype, layers, device) if isinstance(model, str) else model
        self.tokenizer = load_tokenizer(str(model)) if tokenizer is None else tokenizer
        require_fitting(self.tokenizer, whole.get_input_embeddings().num_embeddings)
        self._keep_prefixes, self._heads = keep_prefixes, dict[str, ScalarHead]()
        self.model = CausalModel(whole, slots, prefix_gib, adapters, pack_layers=not differentiable)
        one = [self.model]
        self.decoding: Decoding = ContinuousBatching(
            one, self.tokenizer, SingleModel(), slots, keep_prefixes=keep_prefixes
        )

    @classmethod
    def holding(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, slots: int = 16, **options: Any
    ) -> "TransformersEngine":
        """An engine of a model that is in memory already, which cannot be trained further after it."""
        return cls(model, slots=slots, tokenizer=tokenizer, **options)

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Load a low-rank adapter for requests to name: see :meth:`~rayworks.lm.adapters.AdapterBank.add`."""
        self.model.adapters.add(name, folder)

    def add_head(self, name: str, folder: str | Path) -> None:
        """Load a head for scoring requests to name: see :func:`~rayworks.lm.heads.load_head`."""
        if name in self._heads:
            raise ConfigError(f"head {name!r}: is loaded already")
        self._heads[name] = load_head(folder, self.model.model)

    def row(self, request: GenerationRequest) -> Row:
        """The request as a row of :attr:`decoding`, for callers that step themselves."""
        number = self.model.adapters.number(request.adapter)
        return Row(request, (encode_prompt(self.tokenizer, request.prompt),), adapters=(number,))

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Draw one continuation per request, in the order of the requests."""
        require_list(requests)
        rows = [self.row(request) for request in requests]
        self.decoding.run(rows)
        return [as_generation(row) for row in rows]

    def score(self, requests: Sequence[ScoringRequest]) -> list[Score]:
        """Score one response per request and read heads and answers behind it; rows of like length share a batch."""
        readers = {name: head.read for name, head in self._heads.items()}
        return score_responses(self.model.model, self.tokenizer, requests, self.model.adapters, readers)

    def gradients(self, requests: Sequence[GradientRequest]) -> list[TokenGradient]:
        """See :func:`~rayworks.lm.gradients.token_gradients`; :class:`DataError` also while rows are decoding."""
        if not self.decoding.idle:
            raise DataError("gradients: rows are decoding, whose slots they would take; finish these first")
        if not self._keep_prefixes:
            self.model.prefixes.clear()
        return token_gradients(self.model, requests)


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
