"""What the arms came to over the seeds, whether to use the engine, and what it thinks of the augmentation."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from rayworks.core.bootstrap import t_interval
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.harm import Harm
from rayworks.systems.augmentation.training.arms import EARLY, ENGINE, ONLY, PLAIN, UPSTREAM

Values = Mapping[str, Any]
VERDICTS = {
    ENGINE: "Use SAFLEX: on the second hold-out it beats your augmentation as it is, trained to the end or stopped early.",
    UPSTREAM: "Leave your augmentation as it is: on the second hold-out neither weighing nor dropping it is better, nor "
    "stopping early.",
    EARLY: "Leave your augmentation as it is, and stop early: on the second hold-out that beats training to the end, and "
    "neither weighing nor dropping it beats both.",
    PLAIN: "Drop it: on the second hold-out training without your augmentation is better, even where that is stopped early.",
}
"""By the arm that is taken."""


class Findings:
    """Summary of the stages' results."""

    def __init__(self, config: Config, results: Values) -> None:
        self.config, self.results = config, results
        self.trained: Mapping[str, Sequence[Values]] = results["trained"]
        self.arms = list(config.experiment.arms)
        self.only = [name for name in self.trained if name.startswith(ONLY)]
        self.seeds = range(config.experiment.seeds)

    def accuracies(self, arm: str) -> np.ndarray:
        """Test accuracy by seed."""
        return np.array([one["test"]["accuracy"] for one in self.trained[arm]])

    def mean(self, arm: str) -> float | None:
        """Mean test accuracy; None where the arm was not asked for."""
        return float(self.accuracies(arm).mean()) if arm in self.trained else None

    def gain(self, arm: str, over: str) -> tuple[float, float | None, float | None]:
        """Mean difference of test accuracies, paired by seed, with the 95 % interval of Student's t."""
        mean, low, high = t_interval((self.accuracies(arm) - self.accuracies(over)).tolist())
        # Differences that tie say nothing of how far seeds lie apart.
        return (mean, None, None) if low == high else (mean, low, high)

    @property
    def best_rival(self) -> str:
        """The best, by mean test accuracy, of what is cheaper than the engine: the strictest comparison."""
        rivals = (UPSTREAM, EARLY, "upstream at equal seconds", "trusted rows only", "soft bootstrapping", PLAIN)
        return max(
            (name for name in rivals if name in self.trained), key=lambda name: float(self.accuracies(name).mean())
        )

    def choices(self) -> list[str]:
        """The arm that the fall-back takes in each seed, by that seed's own second hold-out."""
        return [self._chosen([number]) for number in self.seeds]

    @property
    def chosen(self) -> str:
        """The arm that the second hold-outs of all seeds together speak for."""
        return self._chosen(list(self.seeds))

    @property
    def chosen_accuracies(self) -> np.ndarray:
        """Test accuracy by seed of the arm that was taken there."""
        return np.array([self.accuracies(arm)[number] for number, arm in enumerate(self.choices())])

    def advantage(
        self, arm: str, numbers: Sequence[int], what: str = "losses", over: str = UPSTREAM
    ) -> tuple[float, float]:
        """Mean over seeds of the nats below a rival's loss on the second hold-out, and its standard error over rows.

        Args:
            what: ``losses``, or ``right`` for accuracies above the rival's.
            over: the rival.
        """
        sign = -1.0 if what == "losses" else 1.0
        means, squares = [], []
        for number in numbers:
            one, other = (np.array(self.trained[name][number]["selection"][what], float) for name in (arm, over))
            difference = sign * (one - other)
            means.append(difference.mean())
            squares.append(difference.var(ddof=1) / len(difference))
        return float(np.mean(means)), float(np.sqrt(np.sum(squares)) / len(numbers))

    def _chosen(self, numbers: Sequence[int]) -> str:
        """Of weighing and dropping the surer one that beats the upstream to its end and stopped early; else of these two."""
        bound, surest = self.config.experiment.errors, 0.0
        taken = EARLY if self._sureness(EARLY, UPSTREAM, numbers) > bound else UPSTREAM
        for arm in (ENGINE, PLAIN):
            sure = min(self._sureness(arm, rival, numbers) for rival in (UPSTREAM, EARLY))
            if sure > max(bound, surest):
                surest, taken = sure, arm
        return taken

    def _sureness(self, arm: str, over: str, numbers: Sequence[int]) -> float:
        """Standard errors by which an arm's loss is lower than a rival's; 0 where its accuracy is lower by those asked for.

        Losses tell arms apart by fewer rows than accuracies need, but calibration alone is no reason to take an arm.
        """
        mean, error = self.advantage(arm, numbers, over=over)
        more, its_error = self.advantage(arm, numbers, "right", over)
        as_right = more >= -self.config.experiment.errors * its_error
        return max(0.0, mean) / max(error, 1e-12) if as_right else 0.0

    @property
    def noise_auc(self) -> float | None:
        """Mean over seeds of how well the engine's scores find wrong labels; None without any, or where it never acted."""
        found = [one["noise_auc"] for one in self.trained[ENGINE]]
        return None if None in found else float(np.mean(found))

    def sums(self, name: str) -> np.ndarray:
        """A tally of the engine's, summed over seeds."""
        found: np.ndarray = np.sum([np.array(one[name]) for one in self.trained[ENGINE]], axis=0)
        return found

    def agreement(self) -> float | None:
        """See :meth:`.Harm.agreement`; None where nothing was trained on operations alone."""
        losses = {
            name.removeprefix(ONLY): float(np.mean([one["test"]["nll"] for one in self.trained[name]]))
            for name in self.only
        }
        return self.harm.agreement(losses)

    @cached_property
    def harm(self) -> Harm:
        """What the engine thinks of operations."""
        return Harm(self.trained[ENGINE])

    def events(self) -> list[str]:
        """What the engine said, by seed."""
        return [f"seed {number}: {event}" for number in self.seeds for event in self.trained[ENGINE][number]["events"]]
