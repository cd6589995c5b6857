"""What a chain of experts teaches: how many of them, by which vote, and what they say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayworks.systems.supervision.boosting.chain import Chain
from rayworks.systems.supervision.boosting.verdict import ROUNDS, Verdict, verdict
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
    told = first_verdict(track, chain, experts, config)
    candidates = {vote: chosen_rounds(accuracies) for vote, accuracies in found.items()}
    if chain.arm == "boosting" and section.fallback and not told.helps:
        candidates = dict.fromkeys(votes, 1)
    students: dict[str, float] = {}
    if len(votes) > 1 and config.student.learner == "linear":
        for vote, rounds in candidates.items():
            labels = track.label(experts, alphas, "unlabelled", vote, [rounds])[rounds]
            labels = track.hard(labels) if config.student.labels == "hard" else labels
            [said], _ = track.learn(Lesson(labels, loss=config.student.loss), ["validation"], seed)
            students[vote] = float(track.rights(said, "validation").mean())
    scores = students or {vote: max(accuracies) for vote, accuracies in found.items()}
    best = max(votes, key=lambda vote: scores[vote])
    compared = track.wrong(experts[:MOST_COMPARED], "validation")
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


def first_verdict(track: Track, chain: Chain, experts: Sequence[Any], config: Config) -> Verdict:
    """Whether more experts will help, by the first few and validation."""
    first = experts[:ROUNDS]
    alphas = chain.alphas[: len(first)] if len(chain.alphas) else np.ones(1)
    votes = CANDIDATES if config.boosting.vote == "validation" else (config.boosting.vote,)
    accuracies = []
    for vote in votes:
        labels = track.label(first, alphas, "validation", vote, [1, len(first)])
        accuracies.append([float(track.rights(labels[number], "validation").mean()) for number in (1, len(first))])
    single, together = accuracies[0][0], max(pair[1] for pair in accuracies)
    return verdict(chain, mean_correlation(track.wrong(first, "validation")), single, together)


def _matrix(wrong: np.ndarray) -> list[list[float | None]]:
    found = error_correlations(wrong.astype(float))
    return [[round(float(value), 4) if np.isfinite(value) else None for value in row] for row in found]
