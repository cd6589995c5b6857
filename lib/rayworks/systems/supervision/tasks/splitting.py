"""Which examples are easy, which are hard, and which of them teach and test."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rayworks.core import seeds
from rayworks.core.errors import DataError
from rayworks.systems.supervision.config import TaskSection

MOST_TIED = 0.25
"""Share of the examples that may tie at the cut."""
Split = Literal["labelled", "validation", "unlabelled", "test", "easy_test"]
SPLITS: tuple[Split, ...] = ("labelled", "validation", "unlabelled", "test", "easy_test")
"""The last is empty where examples are parted at random."""


def distinct(texts: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Indices of up to ``count`` examples in an order that the seed decides; of those that differ in case, space and
    sentence marks only, the first.

    Otherwise an easy example's label could leak to a hard one.

    Raises:
        DataError: there are fewer.
    """
    keys = [_key(text) for text in texts]
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    kept = np.array(sorted(first.values()), int)
    if len(kept) < count:
        raise DataError(
            f"task.count: is {count}, {len(kept)} of {len(texts)} examples differ from each other; lower it and its parts"
        )
    return kept[seeds.stream(seed, "pool").permutation(len(kept))[:count]]


def _key(text: str) -> str:
    """A text without what a near-duplicate may differ in; symbols and marks stay, since they may be the whole difference."""
    plain = re.sub(r"[\s.,;:!?'\"‘’“”…]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return plain or text


@dataclass(frozen=True)
class Parts:
    """Indices of the examples of each split."""

    rows: dict[Split, np.ndarray]

    def __getitem__(self, split: Split) -> np.ndarray:
        return self.rows[split]


def part(section: TaskSection, hardness: np.ndarray, seed: int) -> Parts:
    """Draw the splits of one seed.

    Args:
        hardness: ``[examples]``, more is harder; ties are broken by place, the same in all seeds.

    Raises:
        DataError: hardness does not tell easy from hard.
    """
    counts = [section.count_labelled, section.count_validation, section.count_unlabelled, section.count_test]
    count, known = len(hardness), sum(counts[:2])
    draw = seeds.stream(seed, "split")
    rest = np.zeros(0, int)
    if section.split == "random":
        order = draw.permutation(count)
    else:
        if float(np.ptp(hardness)) == 0:
            raise DataError(
                f"task.hardness: {section.hardness} is the same for all examples, so none are hard; take another measure or "
                "split: random"
            )
        ranks = np.argsort(hardness, kind="stable")
        tied = int((hardness == hardness[ranks[count // 2]]).sum())
        if tied > MOST_TIED * count:
            raise DataError(
                f"task.hardness: {tied} of {count} examples are as hard as each other where easy meets hard: chance "
                "would part them; take another measure or split: random"
            )
        easy, hard = draw.permutation(ranks[: count // 2]), draw.permutation(ranks[count // 2 :])
        order, rest = np.concatenate([easy[:known], hard]), easy[known:]
    ends = np.cumsum(counts)
    rows = {split: order[end - size : end] for split, size, end in zip(SPLITS[:-1], counts, ends, strict=True)}
    wanted = section.count_test if section.count_easy_test is None else section.count_easy_test
    return Parts(rows | {"easy_test": rest[:wanted]})


def with_noise(labels: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Labels of which a share is changed to another class, drawn by seed."""
    draw = seeds.stream(seed, "noise")
    changed = draw.random(len(labels)) < share
    other = (labels + draw.integers(1, max(classes, 2), len(labels))) % classes
    return np.where(changed, other, labels)
