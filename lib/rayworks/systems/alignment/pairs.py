"""Preference pairs: built from the clothing reviews, read from a file, or loaded from a hub data set.

Texts are split before they are paired: a response that a model was trained on is never in a held-out pair.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from rayworks.core import datasets, seeds
from rayworks.core.errors import DataError
from rayworks.core.tables import HUB, SUFFIXES, read_table, suffix_of
from rayworks.lm.pair_training import EncodedPair
from rayworks.lm.scoring import encode
from rayworks.systems.alignment.config import PairsSection

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A prompt with the response that is preferred and the one that is not."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class SplitPairs:
    """Training and held-out pairs, and how many the length filter dropped."""

    training: list[Pair]
    held_out: list[Pair]
    dropped: int


def build(section: PairsSection, name: str, seed: int, tokenizer: PreTrainedTokenizerBase) -> SplitPairs:
    """All pairs of an objective, filtered, in an order that depends only on the seed and the objective's name.

    Raises:
        DataError: the source cannot be read, or nothing is left after filtering.
    """
    builder = _BUILDERS.get(section.source)
    if builder is not None:
        reviews = _reviews()
        held = _is_held_out(reviews, section)
        rows = {"training": reviews[~held], "held-out": reviews[held]}
        sides = [builder(some, seeds.stream(seed, "pairs", name, side)) for side, some in rows.items()]
    else:
        sides = _split_by_responses(_read(section), section.held_out)
    kept = [_filter(side, section, tokenizer) for side in sides]
    dropped = sum(map(len, sides)) - sum(map(len, kept))
    training, held_out = (_shuffled(side, seeds.stream(seed, "order", name)) for side in kept)
    if not training or not held_out:
        which = "training" if not training else "held-out"
        raise DataError(
            f"objectives.{name}.pairs: no {which} pair is left of {sum(map(len, sides))} from {section.source!r}; "
            "raise max_length or give more pairs"
        )
    return SplitPairs(training[: section.max_pairs], held_out[: section.max_held_out], dropped)


def check_source(section: PairsSection) -> None:
    """Whether the source is one that can be read; a file is looked for, not read.

    Raises:
        DataError: naming ``pairs.source``.
    """
    path = Path(section.source).expanduser()
    if section.source in _BUILDERS or section.source.startswith(HUB):
        return
    if not suffix_of(path):
        raise DataError(
            f"pairs.source {section.source!r}: unknown; give {', '.join(_BUILDERS)}, "
            f"a {' or '.join(SUFFIXES)} file, or hub:OWNER/NAME"
        )
    if not path.is_file():
        raise DataError(f"pairs.source {section.source!r}: cannot be read (the file does not exist); correct the path")


def encode_pair(pair: Pair, tokenizer: PreTrainedTokenizerBase, response_tokens: int | None) -> EncodedPair:
    """Ids of both responses, either whole with the end token or cut without it."""
    chosen, rejected = (
        encode(tokenizer, pair.prompt, response, response_tokens=response_tokens)
        for response in (pair.chosen, pair.rejected)
    )
    return EncodedPair(chosen, rejected)


def titles_by_rating(reviews: pd.DataFrame, random: np.random.Generator) -> list[Pair]:
    """The title of a 5-star review against that of a 1-2-star review of the same class; each review once."""
    return _by_rating(reviews, random, "Title of a customer review of {}:", "Title")


def bodies_by_rating(reviews: pd.DataFrame, random: np.random.Generator) -> list[Pair]:
    """The same with whole review texts: the hard case, where most of the log-probability is about content."""
    return _by_rating(reviews, random, "Customer review of {}:", "Review Text")


def shorter_title(reviews: pd.DataFrame, random: np.random.Generator) -> list[Pair]:
    """Two titles of one class and one rating; the one with fewer words is preferred. Each review once."""
    pairs = []
    for (garment, _), group in reviews.dropna(subset=["Title"]).groupby(["Class Name", "Rating"], sort=True):
        titles = _shuffled(group["Title"].tolist(), random)
        for first, second in zip(titles[::2], titles[1::2], strict=False):
            short, long = sorted((first, second), key=lambda title: len(title.split()))
            if len(short.split()) < len(long.split()):
                pairs.append(Pair(f"Title of a customer review of {garment}:", f" {short}", f" {long}"))
    return pairs


_BUILDERS: dict[str, Callable[[pd.DataFrame, np.random.Generator], list[Pair]]] = {
    "titles-by-rating": titles_by_rating,
    "shorter-title": shorter_title,
    "bodies-by-rating": bodies_by_rating,
}


def _by_rating(reviews: pd.DataFrame, random: np.random.Generator, prompt: str, column: str) -> list[Pair]:
    pairs = []
    for garment, group in reviews.dropna(subset=[column]).groupby("Class Name", sort=True):
        liked = _shuffled(group.loc[group["Rating"] == 5, column].tolist(), random)
        disliked = _shuffled(group.loc[group["Rating"] <= 2, column].tolist(), random)
        pairs += [
            Pair(prompt.format(garment), f" {good}", f" {bad}") for good, bad in zip(liked, disliked, strict=False)
        ]
    return pairs


def _reviews() -> pd.DataFrame:
    table = pd.read_parquet(datasets.fetch("clothing-reviews"))
    for column in ("Title", "Review Text"):
        table[column] = table[column].str.split().str.join(" ")
    return table


def _is_held_out(reviews: pd.DataFrame, section: PairsSection) -> "pd.Series[bool]":
    column = "Review Text" if section.source == "bodies-by-rating" else "Title"
    return reviews[column].map(lambda text: _share(str(text)) < section.held_out).astype(bool)


def _split_by_responses(pairs: Iterable[Pair], held_out: float) -> list[list[Pair]]:
    """Pairs by what their chosen response hashes to; held-out pairs with any response that was trained on are left out."""
    sides: list[list[Pair]] = [[], []]
    for pair in pairs:
        sides[_share(pair.chosen) < held_out].append(pair)
    trained = {_plain(text) for pair in sides[False] for text in (pair.chosen, pair.rejected)}
    unseen = [pair for pair in sides[True] if not trained & {_plain(pair.chosen), _plain(pair.rejected)}]
    return [sides[False], unseen]


def _share(text: str) -> float:
    """A number in [0, 1) that the text alone decides, whatever its case and punctuation."""
    return int.from_bytes(hashlib.blake2b(_plain(text).encode(), digest_size=7).digest()) / 2**56


def _plain(text: str) -> str:
    """The text without case, spaces and punctuation; texts of nothing else stay as they are."""
    return "".join(character for character in text.casefold() if character.isalnum()) or text


def _filter(pairs: list[Pair], section: PairsSection, tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    if section.length_filter == "none" or not pairs:
        return pairs
    if section.length_filter == "chars":
        return [p for p in pairs if len(p.prompt) + max(len(p.chosen), len(p.rejected)) <= section.max_length]
    counts = [
        np.array([len(ids) for ids in tokenizer([getattr(pair, part) for pair in pairs])["input_ids"]])
        for part in ("prompt", "chosen", "rejected")
    ]
    longest = counts[0] + np.maximum(counts[1], counts[2])
    return [pair for pair, length in zip(pairs, longest, strict=True) if length <= section.max_length]


def _shuffled(items: list[T], random: np.random.Generator) -> list[T]:
    return [items[index] for index in random.permutation(len(items))]


def _read(section: PairsSection) -> list[Pair]:
    check_source(section)
    columns = (section.prompt_column, section.chosen_column, section.rejected_column)
    table = read_table(section.source, "pairs.source", split=section.split, dtype=str)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise DataError(
            f"pairs.source {section.source!r}: has no column {', '.join(missing)}; it has {', '.join(table.columns)}; "
            "set pairs.prompt_column, chosen_column, rejected_column"
        )
    rows = table[list(columns)]
    bad = rows.index[~rows.map(lambda value: isinstance(value, str) and bool(value)).all(axis=1)]
    if len(bad):
        raise DataError(
            f"pairs.source {section.source!r}: row {bad[0]} has an empty or non-text field; correct or drop it"
        )
    return [Pair(*map(str, row)) for row in rows.itertuples(index=False)]
