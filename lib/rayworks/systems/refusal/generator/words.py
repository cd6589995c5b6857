"""Which tokens a prompt may have, and which of them become candidates."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.systems.refusal.targets.opening import Target


def allowed_tokens(target: Target, ascii_only: bool = True) -> Tensor:
    """Ids that a prompt may have ``[vocabulary]`` bool: no special ones, printable text alone, and that of one encoding.

    :class:`DataError` where none is left.
    """
    tokenizer, size = target.tokenizer, min(target.content.vocabulary_size, target.engine.model.readable_ids)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *target.ends}
    ids = [one for one in range(min(len(tokenizer), size)) if one not in special]
    texts = tokenizer.batch_decode([[one] for one in ids], clean_up_tokenization_spaces=False)
    printable = [text.isprintable() and "\ufffd" not in text and (text.isascii() or not ascii_only) for text in texts]
    allowed = torch.zeros(target.content.vocabulary_size, dtype=torch.bool)
    allowed[[one for one, text, good in zip(ids, texts, printable, strict=True) if good and text.strip()]] = True
    require_some(allowed)
    return allowed


def require_some(allowed: Tensor) -> None:
    """Raise :class:`DataError` where no token is allowed."""
    if not bool(allowed.any()):
        raise DataError("allowed tokens: none is left; allow more than printable ASCII, or choose another model")


def fitting(
    target: Target, prompt: Sequence[int], ranked: Sequence[int], count: int, known: dict[int, bool]
) -> list[int]:
    """The first ``count`` of ranked tokens with which a prompt is read back as the ids that it was written in.

    Args:
        known: what is known of tokens here, and is found now.
    """
    chosen: list[int] = []
    for at in range(0, len(ranked), count):
        some = ranked[at : at + count]
        if untried := [token for token in some if token not in known]:
            known.update(zip(untried, target.chat.keep([(*prompt, token) for token in untried]), strict=True))
        chosen += [token for token in some if known[token]]
        if len(chosen) >= count:
            break
    return chosen[:count]


def ranked(scores: Tensor, most: int) -> list[int]:
    """Up to so many ids of scores ``[vocabulary]`` that are no -inf, the highest first, of equal ones the lower id."""
    count = min(most, int((scores > -math.inf).sum()))
    if not count:
        return []
    least = scores.topk(count).values[-1]
    ids = (scores >= least).nonzero()[:, 0]
    return [int(ids[place]) for place in torch.argsort(-scores[ids], stable=True)][:count]


def drawn(law: Tensor, uniform: float) -> int:
    """The id at which the distribution function of log-weights ``[ids]`` passes a uniform number; independent of others."""
    cumulative = law.double().exp().cumsum(0)
    place = torch.searchsorted(cumulative, uniform * float(cumulative[-1]), right=True)
    return min(int(place), len(law) - 1)
