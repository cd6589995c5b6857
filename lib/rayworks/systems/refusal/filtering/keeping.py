"""The rules by which prompts are kept, in their order, and the first that a prompt breaks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.systems.refusal.config import FilterSection
from rayworks.systems.refusal.judging.verdicts import REFUSALS

Row = dict[str, Any]
"""A prompt: uid, seed_uid, seed, prompt, what generation says of it, harm, and later kind, user_perplexity, topic, vector."""
REASONS = ("harmful", "empty", "not refused", "not fluent", "off topic", "near-duplicate")
"""In the order in which they are looked at."""


def keep(rows: Sequence[Row], section: FilterSection, seed_perplexity: float) -> list[Row]:
    """Rows without their vectors, with ``dropped``: the first reason that holds, empty where a prompt is kept.

    Args:
        seed_perplexity: median of the seeds, as a user's turn; the bound on perplexity is a multiple of it.
    """
    vectors = np.zeros((0, 0))
    found = []
    for row in rows:
        reason = first_reason(row, section, seed_perplexity)
        if not reason:
            vector = np.asarray(row["vector"], float)
            if len(vectors) and float((vectors @ vector).max()) > section.most_alike:
                reason = "near-duplicate"
            else:
                vectors = np.vstack([vectors.reshape(-1, len(vector)), vector])
        found.append({name: value for name, value in row.items() if name != "vector"} | {"dropped": reason})
    return found


def first_reason(row: Mapping[str, Any], section: FilterSection, seed_perplexity: float) -> str:
    """Of a prompt alone."""
    if row["harm"] == "harmful":
        return "harmful"
    if not row["prompt"]:
        return "empty"
    if row["kind"] not in REFUSALS:
        return "not refused"
    most = section.most_perplexity_ratio
    if most is not None and row["user_perplexity"] > most * seed_perplexity:
        return "not fluent"
    if section.least_topic is not None and row["topic"] < section.least_topic:
        return "off topic"
    return ""


def funnel(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """By reason: how many prompts it dropped, and how many are left after it."""
    left, found = len(rows), []
    for reason in REASONS:
        dropped = sum(row["dropped"] == reason for row in rows)
        left -= dropped
        found.append((reason, dropped, left))
    return found
