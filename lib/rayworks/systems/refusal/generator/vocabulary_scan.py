"""The words that a model cannot hear: how likely it refuses a short request that ends in each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayworks.core import seeds as streams
from rayworks.core.errors import DataError
from rayworks.systems.refusal.generator.contexts import ContentContext, RefusalContext
from rayworks.systems.refusal.generator.words import allowed_tokens, drawn, ranked
from rayworks.systems.refusal.targets.opening import Target
from rayworks.systems.refusal.targets.own_refusals import Refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed


@dataclass(frozen=True)
class HeardWord:
    """A word as the target hears it."""

    rank: int
    """From 1, the word that is refused most."""
    word: str
    id: int
    logprob: float
    """Of the refusal, behind the frame and the word."""


def likely_words(
    target: Target,
    seeds: Sequence[Seed],
    count: int,
    run_seed: int,
    frame: str = "How do I",
    max_tokens: int = 16,
    together: int = 16,
) -> list[int]:
    """Ids of the words that are likeliest somewhere in paraphrases of the seeds: by the highest probability that they reach,
    in one paraphrase drawn of each seed, and in one that begins with the frame.

    :class:`DataError` without seeds, or where a seed is longer than the model.
    """
    if not seeds:
        raise DataError("seeds: none; give at least one request")
    allowed = allowed_tokens(target)
    reached = torch.full((target.content.vocabulary_size,), -torch.inf, dtype=torch.float64)
    size, begun = min(together, target.content.cache.slots), target.content_chat.encode(frame)
    for at in range(0, len(seeds), size):
        some = seeds[at : at + size]
        contexts = [target.context(seed.text) for seed in some]
        uniforms = [streams.uniforms(run_seed, max_tokens, "likely words", seed.uid) for seed in some]
        context = ContentContext(target, contexts, max_tokens)
        for position in range(max_tokens):
            reached = torch.maximum(reached, context.law.amax(dim=0))
            tokens = [drawn(law, own[position]) for law, own in zip(context.law, uniforms, strict=True)]
            going = [row for row, token in enumerate(tokens) if token not in target.ends]
            if not going or position == max_tokens - 1:
                break
            context.advance(going, [tokens[row] for row in going])
            uniforms = [uniforms[row] for row in going]
        context.close()
        context = ContentContext(target, [(*one, *begun) for one in contexts], 1)
        reached = torch.maximum(reached, context.law.amax(dim=0))
        context.close()
    reached[~allowed] = -torch.inf
    return sorted(ranked(reached, count))


def scan_vocabulary(
    target: Target, refusal: Refusal, words: Sequence[int], frame: str = "How do I", rows: int = 128
) -> list[HeardWord]:
    """Each word behind a short frame, the most refused first.

    Args:
        words: ids, as :func:`likely_words` finds them.
        frame: what a request begins with.
        rows: most words of a forward.

    :class:`DataError` without words.
    """
    if not words:
        raise DataError("words: none to scan; give at least one")
    context = RefusalContext(target, refusal, 1, rows)
    for token in target.chat.encode(frame):
        context.advance([0], [token])
    found = context.scores([0] * len(words), list(words))
    texts = target.tokenizer.batch_decode([[one] for one in words], clean_up_tokenization_spaces=False)
    order = sorted(range(len(words)), key=lambda place: (-found[place], words[place]))
    return [HeardWord(rank, texts[at], words[at], found[at]) for rank, at in enumerate(order, 1)]


def scan_table(words: Sequence[HeardWord], vocabulary: int) -> Tensor:
    """Log-probabilities by id ``[vocabulary]``, the median where a word was not scanned; :class:`DataError` without any."""
    if not words:
        raise DataError("scan: holds no words; scan the vocabulary first")
    values = torch.tensor([word.logprob for word in words], dtype=torch.float64)
    table = torch.full((vocabulary,), float(values.median()), dtype=torch.float64)
    table[torch.tensor([word.id for word in words])] = values
    return table
