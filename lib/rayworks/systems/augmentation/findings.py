"""What the arms came to over the seeds, whether to use the engine, and what it thinks of the augmentation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.bootstrap import t_interval
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.training.arms import ENGINE, ONLY, PLAIN, UPSTREAM

Values = Mapping[str, Any]
VERDICTS = {
    ENGINE: "Use SAFLEX: on the second hold-out it beats your augmentation as it is.",
    UPSTREAM: "Leave your augmentation as it is: on the second hold-out neither weighing nor dropping it is better.",
    PLAIN: "Drop it: on the second hold-out training without your augmentation is better.",
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
        rivals = (UPSTREAM, "upstream at equal seconds", "trusted rows only", "soft bootstrapping", PLAIN)
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

    def advantage(self, arm: str, numbers: Sequence[int], what: str = "losses") -> tuple[float, float]:
        """Mean over seeds of the nats below the upstream's loss on the second hold-out, and its standard error over rows.

        Args:
            what: ``losses``, or ``right`` for accuracies above the upstream's.
        """
        sign = -1.0 if what == "losses" else 1.0
        means, squares = [], []
        for number in numbers:
            one, other = (np.array(self.trained[name][number]["selection"][what], float) for name in (arm, UPSTREAM))
            difference = sign * (one - other)
            means.append(difference.mean())
            squares.append(difference.var(ddof=1) / len(difference))
        return float(np.mean(means)), float(np.sqrt(np.sum(squares)) / len(numbers))

    def _chosen(self, numbers: Sequence[int]) -> str:
        """The arm whose loss is lower, and whose accuracy is not lower, by the standard errors asked for; of two, the surer.

        Losses tell arms apart by fewer rows than accuracies need, but calibration alone is no reason to take an arm.
        """
        bound, surest, taken = self.config.experiment.errors, 0.0, UPSTREAM
        for arm in (ENGINE, PLAIN):
            mean, error = self.advantage(arm, numbers)
            more, its_error = self.advantage(arm, numbers, "right")
            sure = mean / max(error, 1e-12)
            if mean > 0 and sure > max(bound, surest) and more >= -bound * its_error:
                surest, taken = sure, arm
        return taken

    @property
    def noise_auc(self) -> float | None:
        """Mean over seeds of how well the engine's scores find wrong labels; None without any, or where it never acted."""
        found = [one["noise_auc"] for one in self.trained[ENGINE]]
        return None if None in found else float(np.mean(found))

    def harm(self) -> dict[str, float]:
        """Mean score of each operation's views over the seeds that saw it, the most harmful first."""
        by_seed = [one["harm"] for one in self.trained[ENGINE]]
        names = dict.fromkeys(name for one in by_seed for name in one)
        means = {name: float(np.mean([one[name] for one in by_seed if name in one])) for name in names}
        return dict(sorted(means.items(), key=lambda pair: pair[1]))

    def sums(self, name: str) -> np.ndarray:
        """A tally of the engine's, summed over seeds."""
        found: np.ndarray = np.sum([np.array(one[name]) for one in self.trained[ENGINE]], axis=0)
        return found

    @property
    def mean_score(self) -> float:
        """Of all views that were weighed; 0 without any."""
        bins = [np.array(one["by_operation"]).reshape(-1, 4) for one in self.trained[ENGINE]]
        views, scores = (sum(float(part[:, at].sum()) for part in bins) for at in (0, 1))
        return scores / views if views else 0.0

    def by_strength(self) -> dict[str, np.ndarray]:
        """Mean score of each operation, the most harmful first, in bins of strength; NaN where there was no view."""
        totals: dict[str, np.ndarray] = {}
        for one in self.trained[ENGINE]:
            for name, bins in zip(one["names"], one["by_operation"], strict=True):
                totals[name] = totals.get(name, 0.0) + np.array(bins)
        with np.errstate(invalid="ignore"):
            return {name: totals[name][:, 1] / totals[name][:, 0] for name in self.harm()}

    def agreement(self) -> float | None:
        """Spearman's correlation of the engine's order of operations with that of trainings on each alone; None without."""
        harm = self.harm()
        names = [name for name in harm if ONLY + name in self.trained]
        if len(names) < 3:
            return None
        from scipy.stats import spearmanr

        losses = [-np.mean([one["test"]["nll"] for one in self.trained[ONLY + name]]) for name in names]
        found = float(spearmanr([harm[name] for name in names], losses).statistic)
        return found if np.isfinite(found) else None

    def events(self) -> list[str]:
        """What the engine said, by seed."""
        return [f"seed {number}: {event}" for number in self.seeds for event in self.trained[ENGINE][number]["events"]]
