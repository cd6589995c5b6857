"""What a chain of experts teaches: how many of them, by which vote, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.systems.supervision.boosting.chain import Chain
from rayworks.systems.supervision.boosting.verdict import ROUNDS, verdict
from rayworks.systems.supervision.boosting.votes import Vote, chosen_rounds, error_correlations, mean_correlation
from rayworks.systems.supervision.config import Config
from rayworks.systems.supervision.tracks import Lesson, Track

CANDIDATES: tuple[Vote, ...] = ("share", "linear")
"""Votes that validation chooses from."""
MOST_COMPARED = 60
"""Experts whose errors are correlated with each other."""


@dataclass(frozen=True)
class Choice:
    """How an arm teaches, and what it was chosen by."""

    rounds: int
    vote: Vote
    validation: dict[str, list[float]]
    """Vote to accuracy on validation of the first 1, 2, ... experts."""
    students: dict[str, float]
    """Vote to accuracy on validation of the student that it teaches; empty where none was tried."""
    correlation: float | None
    correlations: list[list[float | None]]
    helps: bool
    reason: str


def choose(track: Track, chain: Chain, experts: Sequence[Any], config: Config, seed: int) -> Choice:
    """The vote and the number of rounds that are best on validation: the fewest rounds of several, and the first vote.

    Of several votes, each with its best number, the one whose student is best on validation, unless students are dear to
    train: an ensemble's own accuracy says little about how its probabilities teach. Of boosting, one expert alone where the
    verdict after the first rounds is that more do not help.
    """
    section = config.boosting
    votes = CANDIDATES if section.vote == "validation" else (section.vote,)
    alphas = chain.alphas if len(chain.alphas) else np.ones(1)
    numbers = range(1, len(experts) + 1)
    found: dict[Vote, list[float]] = {}
    for vote in votes:
        labels = track.label(experts, alphas, "validation", vote, numbers)
        found[vote] = [float(track.rights(labels[number], "validation").mean()) for number in numbers]
    wrong = track.wrong(experts, "validation")
    early = [accuracies[min(ROUNDS, len(experts)) - 1] for accuracies in found.values()]
    told = verdict(chain, mean_correlation(wrong[:ROUNDS]), found[votes[0]][0], max(early))
    candidates = {vote: chosen_rounds(accuracies) for vote, accuracies in found.items()}
    if chain.arm == "boosting" and section.fallback and not told.helps:
        candidates = dict.fromkeys(votes, 1)
    students: dict[str, float] = {}
    if len(votes) > 1 and config.student.learner == "linear":
        for vote, rounds in candidates.items():
            labels = track.label(experts, alphas, "unlabelled", vote, [rounds])[rounds]
            [said], _ = track.learn(Lesson(labels), ["validation"], seed)
            students[vote] = float(track.rights(said, "validation").mean())
    scores = students or {vote: max(accuracies) for vote, accuracies in found.items()}
    best = max(votes, key=lambda vote: scores[vote])
    compared = wrong[:MOST_COMPARED]
    return Choice(
        candidates[best],
        best,
        {str(vote): accuracies for vote, accuracies in found.items()},
        students,
        mean_correlation(compared),
        _matrix(compared),
        told.helps,
        told.reason,
    )


def _matrix(wrong: np.ndarray) -> list[list[float | None]]:
    found = error_correlations(wrong.astype(float))
    return [[round(float(value), 4) if np.isfinite(value) else None for value in row] for row in found]
