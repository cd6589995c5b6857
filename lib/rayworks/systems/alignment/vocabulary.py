"""Whether two models speak the same token ids, and up to which id."""

import hashlib
import json
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rayworks.core.errors import ConfigError
from rayworks.lm.checkpoints import load_config, load_tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """What decides whether token ids can be exchanged with another model."""

    name: str
    merges_hash: str
    """sha256 of the trained part of the tokenizer: its id table and, for BPE, its merges."""
    trained_size: int
    """Ids below this come from training; the rest were added."""
    added: tuple[str, ...]
    """Added tokens above the trained ids, by ascending id."""
    end_token: str | None
    logits_size: int
    """Width of the model's output, which may be padded beyond the tokenizer."""


def describe(name: str, tokenizer: PreTrainedTokenizerBase, logits_size: int) -> Vocabulary:
    """The vocabulary of a model; :class:`ConfigError` where its tokenizer has no fast implementation to read merges from."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"model {name}: its tokenizer has no tokenizer.json; convert it to a fast tokenizer")
    trained: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    table = trained["vocab"]
    ids = dict(table) if isinstance(table, dict) else {piece: index for index, (piece, _) in enumerate(table)}
    canonical = json.dumps([sorted(ids.items(), key=lambda pair: pair[1]), trained.get("merges")], ensure_ascii=False)
    size = max(ids.values()) + 1
    above = sorted((index, str(token)) for index, token in tokenizer.added_tokens_decoder.items() if index >= size)
    return Vocabulary(
        name=name,
        merges_hash=hashlib.sha256(canonical.encode()).hexdigest(),
        trained_size=size,
        added=tuple(token for _, token in above),
        end_token=str(tokenizer.eos_token) if tokenizer.eos_token is not None else None,
        logits_size=logits_size,
    )


def read_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a model that is not loaded: :func:`describe` of what it keeps on disk."""
    return describe(name, load_tokenizer(name), load_config(name).get_text_config().vocab_size)


def common_id_range(base: Vocabulary, guide: Vocabulary) -> int:
    """Ids ``0 .. n-1`` that mean the same token in both models.

    Trained ids must agree; tokens added beyond them (padding, mostly) are kept only where both added the same.
    :class:`ConfigError` where merges or end token differ, or the end token is outside the common range.
    """
    if base.merges_hash != guide.merges_hash:
        raise ConfigError(
            f"model {guide.name}: its tokenizer differs from that of {base.name} (merges {guide.merges_hash[:12]} against "
            f"{base.merges_hash[:12]}); guide with a model of the same family"
        )
    if base.end_token != guide.end_token:
        raise ConfigError(
            f"model {guide.name}: ends with {guide.end_token!r} where {base.name} ends with {base.end_token!r}; "
            "set the same eos_token in both tokenizers"
        )
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(base.added, guide.added, strict=False))))
    size = min(base.trained_size + shared, base.logits_size, guide.logits_size)
    if base.end_token in base.added and base.added.index(base.end_token) >= shared:
        raise ConfigError(f"model {guide.name}: its id of the end token {base.end_token!r} is not that of {base.name}")
    return size
