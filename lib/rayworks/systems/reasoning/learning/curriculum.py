"""The order in which pairs are learned (AlphaLLM-CPL, arXiv 2410.06508, section 3.3).

The paper's formulas of the prediction gap, of its normalisation and of the direction are not public: each is a switch.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

import numpy as np

from rayworks.core import seeds
from rayworks.systems.reasoning.config import CurriculumSection


def order(
    section: CurriculumSection,
    reward_gaps: np.ndarray,
    prediction_gaps: np.ndarray,
    questions: Sequence[str],
    *,
    batch: int,
    seed: int,
    epoch: int,
) -> list[int]:
    """The order of one epoch: a permutation of the pairs.

    Args:
        reward_gaps: ``[pairs]``, of the search, the same in all epochs.
        prediction_gaps: ``[pairs]``, by which the policy as it is prefers the chosen one.
        questions: the question of each pair.
        batch: pairs of an optimiser step, of which ``per_batch`` may be of one question.
        seed: of the run; ties are broken by a stream of it that is the same in all epochs.
    """
    if section.order == "shuffled":
        return [
            int(place) for place in seeds.stream(seed, "curriculum", "shuffled", epoch).permutation(len(reward_gaps))
        ]
    rank = _rank(section, reward_gaps, prediction_gaps)
    ties = seeds.stream(seed, "curriculum", "ties").permutation(len(rank))
    first = np.lexsort((ties, rank if section.direction == "ascending" else -rank))
    return _spread([int(place) for place in first], questions, batch, section.per_batch)


def kendall_tau(one: Sequence[int], other: Sequence[int]) -> float:
    """Kendall's tau of two orders of the same pairs: 1 where they are equal, -1 where one is the other's reverse."""
    from scipy.stats import kendalltau

    places = np.empty((2, len(one)))
    for row, ranking in enumerate((one, other)):
        places[row, list(ranking)] = np.arange(len(ranking))
    return float(kendalltau(*places).statistic) if len(one) > 1 else 1.0


def normalised(values: np.ndarray, kind: str) -> np.ndarray:
    """Values on a common scale; all equal ones become 0.

    ``minmax`` is (x - min) / (max - min), ``zscore`` (x - mean) / deviation, ``rank`` the mean rank of ties over n - 1.
    """
    if kind == "rank":
        from scipy.stats import rankdata

        return np.asarray((rankdata(values) - 1) / max(1, len(values) - 1))
    low, spread = (values.min(), np.ptp(values)) if kind == "minmax" else (values.mean(), values.std())
    # A spread that is rounding alone says nothing.
    return (
        np.asarray((values - low) / spread)
        if spread > 1e-12 * max(1.0, np.abs(values).max())
        else np.zeros(len(values))
    )


def _rank(section: CurriculumSection, reward_gaps: np.ndarray, prediction_gaps: np.ndarray) -> np.ndarray:
    reward = normalised(reward_gaps, section.normalise)
    sign = 1.0 if section.sign == "+" else -1.0
    prediction = sign * normalised(prediction_gaps, section.normalise)
    if section.order == "reward":
        return reward
    if section.order == "prediction":
        return prediction
    share = 1.0 - section.balance if section.combination == "mean" else 1.0
    return np.asarray(share * reward + section.balance * prediction)


def _spread(ranking: Sequence[int], questions: Sequence[str], batch: int, most: int | None) -> list[int]:
    """The same order, but pairs beyond ``most`` of one question in a batch wait for the next one that has room for them.

    Where the pairs that are left could then not be spread, the questions that most batches still need go first. A question
    with more pairs than ``most`` in every batch is spread evenly.
    """
    if most is None or not ranking:
        return list(ranking)
    batches = math.ceil(len(ranking) / batch)
    counts = Counter(questions[place] for place in ranking)
    caps = {question: max(most, math.ceil(count / batches)) for question, count in counts.items()}
    while not _spreads(counts, caps, len(ranking), batch):
        # The last batch is short of room for all that would have to stand in it.
        caps = {question: cap + 1 for question, cap in caps.items()}
    found: list[int] = []
    waiting = list(ranking)
    while waiting:
        size = min(batch, len(waiting))
        taken = _by_rank(waiting, questions, caps, size)
        left = counts - Counter(questions[place] for place in taken)
        if len(taken) < size or not _spreads(left, caps, len(waiting) - size, batch):
            wanted = _by_need(counts, caps, size)
            taken = _by_rank(waiting, questions, wanted, size)
            left = counts - wanted
        chosen, counts = set(taken), left
        found += taken
        waiting = [place for place in waiting if place not in chosen]
    return found


def _by_rank(waiting: Sequence[int], questions: Sequence[str], caps: Mapping[str, int], size: int) -> list[int]:
    """The first pairs that fit a batch."""
    used: Counter[str] = Counter()
    taken: list[int] = []
    for place in waiting:
        if len(taken) < size and used[questions[place]] < caps[questions[place]]:
            used[questions[place]] += 1
            taken.append(place)
    return taken


def _by_need(counts: Counter[str], caps: Mapping[str, int], size: int) -> Counter[str]:
    """How many of each question a batch takes when those go first that most batches still need."""
    taken: Counter[str] = Counter()
    needs = [(-count / caps[question], question) for question, count in counts.items()]
    heapify(needs)
    while needs and taken.total() < size:
        need, question = heappop(needs)
        taken[question] += 1
        if taken[question] < min(caps[question], counts[question]):
            heappush(needs, (need + 1 / caps[question], question))
    return taken


def _spreads(counts: Counter[str], caps: Mapping[str, int], total: int, batch: int) -> bool:
    """Whether batches can be filled without more of a question than its cap in any."""
    left = counts
    while total:
        size = min(batch, total)
        taken = _by_need(left, caps, size)
        if taken.total() < size:
            return False
        left, total = left - taken, total - size
    return True
