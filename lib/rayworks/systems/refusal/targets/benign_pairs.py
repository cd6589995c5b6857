"""Harmless requests: pairs with and without a trigger word, ordinary requests to learn from, and seeds never learnt from."""

import functools
import json
from itertools import product
from pathlib import Path
from typing import Any

from rayworks.core import seeds as streams


@functools.cache
def _written() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "requests.json").read_text())
    return found


def trigger_words() -> tuple[str, ...]:
    """Words that the over-cautious target learns to refuse, whatever they mean."""
    return tuple(_written()["triggers"])


def built_in_requests() -> list[str]:
    """Ordinary requests without a trigger word, none of them part of any training: the seeds of the built-in corpus."""
    return list(_written()["seeds"])


def paired_requests(seed: int, count: int, *, held_out: bool = False) -> list[tuple[str, str]]:
    """So many different pairs: a trigger word in a harmless sense, and the same request without it.

    The last object of each phrase stands in held-out pairs only. There are 672 pairs to learn from and 224 held out;
    all of them come where more are asked for.
    """
    written = _written()
    pairs = []
    for (loaded, plain, things), frame in product(written["phrases"], written["frames"]):
        for thing in things[-1:] if held_out else things[:-1]:
            pairs.append((frame.format(loaded.format(thing)), frame.format(plain.format(thing))))
    order = streams.stream(seed, "pairs", int(held_out)).permutation(len(pairs))
    return [pairs[place] for place in order[:count]]


def ordinary_requests(seed: int, count: int) -> list[str]:
    """Other requests without a trigger word to learn from, all different: open questions and everyday activities."""
    written = _written()
    asked = [*written["questions"]]
    phrased = [frame.format(thing) for thing, frame in product(written["activities"], written["activity_frames"])]
    order = streams.stream(seed, "ordinary").permutation(len(phrased))
    return (asked + [phrased[place] for place in order])[:count]
