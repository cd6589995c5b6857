"""How likely people's own requests are word by word, and the floor under the words of prompts that follows from it."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from rayworks.core.errors import DataError
from rayworks.lm.scoring import PADDED_TOKENS_PER_BATCH, EncodedResponse, length_batches, response_logprobs
from rayworks.systems.refusal.targets.opening import Target
from rayworks.systems.refusal.targets.seed_corpora import Seed


@torch.inference_mode()
def user_turn_logprobs(target: Target, texts: Sequence[str]) -> list[list[float]]:
    """Log-probabilities of the tokens of each text as a user's turn in the content model's chat, no seed known.

    :class:`DataError` for a text that is empty, longer than the model, or changes inside the chat.
    """
    chat = target.content_chat
    rows = [EncodedResponse(chat.before, chat.encode(text)) for text in texts]
    found: dict[int, list[float]] = {}
    for batch in length_batches(rows, PADDED_TOKENS_PER_BATCH):
        values, mask = response_logprobs(target.content.model, [rows[index] for index in batch])
        found |= {index: row[own].tolist() for index, row, own in zip(batch, values, mask, strict=True)}
    return [found[index] for index in range(len(rows))]


def user_turn_perplexities(target: Target, texts: Sequence[str]) -> list[float]:
    """Perplexity of each text as a user's turn; the errors are those of :func:`user_turn_logprobs`."""
    return [math.exp(-float(np.mean(values))) for values in user_turn_logprobs(target, texts)]


def tuned_floor(target: Target, seeds: Sequence[Seed], rarer: float = 0.1, slack: float = 1.0) -> float:
    """A floor under the words of prompts that fits the content model and the user's own traffic, in nats.

    A share ``rarer`` of the words of the user's own requests are rarer than ``slack`` above it: prompts may have words about
    as rare as people's own. :class:`DataError` without seeds.
    """
    if not seeds:
        raise DataError("seeds: none; give at least one request")
    values = np.concatenate(user_turn_logprobs(target, [seed.text for seed in seeds]))
    return float(np.quantile(values, rarer)) - slack
