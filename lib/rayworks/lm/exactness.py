"""Whether what this package computes of a model is what the model computes by itself: tried at load, not assumed by name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rayworks.core.errors import DataError
from rayworks.lm.scoring import EncodedResponse, response_logprobs, shared_prompt_logprobs

TOLERANCES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Largest difference of log-probabilities, in nats, that is rounding."""
TRIAL: tuple[dict[int, int], ...] = ({0: 3, 1: 2, 2: 5}, {0: 9, 1: 3, 2: 6}, {0: 10, 1: 4, 2: 7}, {0: 11, 2: 8})
"""Forwards of the trial: what each slot holds after it. Ragged rows, one that catches up, steps, a gap between slots."""
UNFIT = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError)
"""What a model raises that does not fit. Running out of memory is a RuntimeError too, but no fault of the model."""


@torch.inference_mode()
def plain_logprobs(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """The model's own answer: one forward per row, without cache or padding. ``[tokens, vocabulary]`` each, float32."""
    inputs = (torch.tensor([list(row)], device=model.device) for row in rows)
    return [model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1) for ids in inputs]


def trial_rows(model: PreTrainedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Random token ids, always the same."""
    generator = torch.Generator().manual_seed(0)
    high = model.get_input_embeddings().num_embeddings
    return [torch.randint(high, (length,), generator=generator).tolist() for length in lengths]


@contextmanager
def prove_decoding(causal: Any) -> Iterator[None]:
    """Compare ragged rows, steps, several tokens at once, and scoring with the model's own forwards; :class:`DataError` where
    something fails or differs by more than rounding. Inside, the caller makes itself ready to decode in three slots.
    """
    model = causal.model
    rows = trial_rows(model, [max(held.get(slot, 0) for held in TRIAL) for slot in range(3)])
    if causal.max_length <= max(map(len, rows)):
        bound = f"{causal.max_length} tokens ({causal.max_length_reason})"
        raise DataError(f"model {model.config.model_type}: holds {bound}, too few to try")
    with _refusing(model, "be decoded in a cache of slots"):
        expected = plain_logprobs(model, rows)
        yield
        differences = list[float]()
        for held in TRIAL:
            logits = causal.feed(list(held), [rows[slot][causal.held(slot) : end] for slot, end in held.items()])
            expectation = [expected[slot][end - 1] for slot, end in held.items()]
            differences += map(_difference, logits.log_softmax(-1), expectation)
        worst = _small(model, *differences)
    with _refusing(model, "be scored"):
        worst = max(worst, _small(model, _scoring_difference(model, rows, expected)))
    causal.proof = (
        f"proved on this model at load: {len(differences)} next-token distributions of ragged rows, and the scores of "
        f"responses, are those of its own forward within {worst:.1e} nats"
    )


def prove_scoring(model: PreTrainedModel) -> None:
    """Compare what training and scoring use alike; :class:`DataError` where it fails or differs by more than rounding."""
    with _refusing(model, "be scored"), _evaluated(model):
        rows = trial_rows(model, (9, 4, 6))
        _small(model, _scoring_difference(model, rows, plain_logprobs(model, rows)))


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether responses score alike when they share the computation of their prompt, in rows up to
    :func:`~rayworks.lm.positions.exact_length`: not where more than attention over all before mixes tokens.
    """
    prompts, responses = trial_rows(model, (4, 2)), trial_rows(model, (5, 2, 3, 6))
    groups = [[tuple(response) for response in responses[at : at + 2]] for at in (0, 2)]
    rows = [EncodedResponse(tuple(p), r) for p, group in zip(prompts, groups, strict=True) for r in group]
    try:
        with torch.inference_mode(), _evaluated(model):
            shared = shared_prompt_logprobs(model, [tuple(prompt) for prompt in prompts], groups)
            apart = response_logprobs(model, rows)[0].sum(-1).view(2, 2)
    except torch.OutOfMemoryError:
        raise
    except UNFIT:
        return False
    return _difference(shared, apart) <= 10 * TOLERANCES[model.dtype]


def _scoring_difference(model: PreTrainedModel, rows: Sequence[Sequence[int]], expected: Sequence[Tensor]) -> float:
    with torch.inference_mode():
        found, mask = response_logprobs(model, [EncodedResponse(tuple(row[:2]), tuple(row[2:])) for row in rows])
    own = [part[range(1, len(row) - 1), row[2:]] for row, part in zip(rows, expected, strict=True)]
    return _difference(found[mask], torch.cat(own))


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference; NaN, which is no smaller than anything, where one is no number."""
    difference = (found - expected).abs()
    return float(difference.max()) if bool(difference.isfinite().all()) else float("nan")


def _small(model: PreTrainedModel, *differences: float) -> float:
    """The largest, where all are rounding; of NaN and numbers it is NaN."""
    worst = float(torch.tensor(differences).max())
    if not worst <= TOLERANCES[model.dtype]:
        raise DataError(f"log-probabilities would differ from the model's own by up to {worst:.2g} nats")
    return worst


@contextmanager
def _refusing(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Whatever a model raises that does not fit is its refusal."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (DataError, *UNFIT) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"model {model.config.model_type}: cannot {what} ({reason})") from error


@contextmanager
def _evaluated(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout inside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
