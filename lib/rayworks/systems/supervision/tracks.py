"""What differs between answers that are classes and answers that are texts; all else of a run is the same for both."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rayworks.systems.supervision.boosting.chain import Learner
from rayworks.systems.supervision.boosting.votes import Vote
from rayworks.systems.supervision.boosting.weighting import RuleName
from rayworks.systems.supervision.tasks.splitting import Split


@dataclass(frozen=True)
class Lesson:
    """What one student learns, and how."""

    labels: Any
    """Of the unlabelled examples, or of ``split``, as :meth:`Track.label` gives them."""
    split: Split = "unlabelled"
    loss: str = "cross-entropy"
    features: str | None = None
    """What the student sees; None: as the settings say."""
    certain: bool = False
    """Whether the labels are true ones, which are all learned from, however sure others must be."""


class Track(Protocol):
    """One seed's examples, with what learns from them. Labels are of one type inside a track, which alone looks into them."""

    classes: int
    """Of the labels; of tokens, the size of the vocabulary."""
    rule: RuleName
    """That weighs experts where the settings name none."""

    def facts(self) -> dict[str, Any]:
        """Counts and shares for the report, as JSON values; ``reference_accuracy_hard`` is one of them, or None."""

    def rows(self, split: Split) -> np.ndarray:
        """Which examples of the pool a split has."""

    def prior_error(self) -> float | None:
        """On the labelled units, of a predictor that knows nothing of the question; None where the rule needs none."""

    def learner(self) -> Learner:
        """Of weak experts, on the labelled examples."""

    def save_expert(self, expert: Any, folder: Path) -> None:
        """Write an expert into an empty folder, without pickles."""

    def load_expert(self, folder: Path) -> Any:
        """What :meth:`save_expert` wrote."""

    def label(
        self, experts: Sequence[Any], alphas: np.ndarray, split: Split, vote: Vote, rounds: Sequence[int]
    ) -> dict[int, Any]:
        """What the first 1, 2, ... experts say together about a split, for each number of ``rounds``."""

    def evidential(self, experts: Sequence[Any], split: Split) -> Any:
        """Labels by the Dirichlet posterior of equal votes."""

    def wrong(self, experts: Sequence[Any], split: Split) -> np.ndarray:
        """``[experts, rows]``: whose own answer is wrong."""

    def hard(self, labels: Any) -> Any:
        """The same labels without doubt."""

    def known(self, split: Split) -> Any:
        """The labels that are known of a split: the true ones, but for ``task.label_noise``."""

    def truth(self, split: Split) -> Any:
        """The true labels."""

    def commonest(self, split: Split) -> float | None:
        """Share of the commonest class; None where answers are texts."""

    def rights(self, labels: Any, split: Split) -> np.ndarray:
        """``[rows]``: whether each label is right."""

    def learn(self, lesson: Lesson, splits: Sequence[Split], seed: int) -> tuple[list[Any], dict[str, float]]:
        """Teach a student; what it says about each split, and what it cost (``flops``, where it can be counted)."""

    def pack(self, labels: Any) -> bytes:
        """Labels for a file, without pickles."""

    def unpack(self, data: bytes) -> Any:
        """What :meth:`pack` wrote."""

    def by_place(self, distribution: np.ndarray) -> list[tuple[float, float]]:
        """Of units by their place in an answer: their share of all, and that of the weight; none where each is an answer."""

    def cost(self, experts: int) -> dict[str, float | None]:
        """Floating-point operations: of training so many experts (``train``) and of labelling with them (``label``)."""
