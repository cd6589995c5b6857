"""One line per result for the person who watches a job's log."""

import time
from collections.abc import Sequence
from typing import Any

from ray.tune import Callback

from rayworks.runtime.system import DONE

HIDDEN = frozenset(
    """date done hostname iterations_since_restore node_ip pid time_since_restore time_this_iter_s time_total_s timestamp
    training_iteration trial_id experiment_tag config checkpoint_dir_name should_checkpoint phase progress run_done""".split()
)
"""What Tune adds to every result, and what has its own place in the line."""


class ProgressLines(Callback):
    """Prints ``  42 %  1:07  train    loss 0.51  accuracy 0.84`` after each step."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Tune in the driver."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        # What is left behind the last step is the export and the report.
        most = 100 if result.get(DONE) else 99
        share = f"{min(100 * result['progress'], most):3.0f} %" if "progress" in result else "     "
        shown = {name: value for name, value in result.items() if name not in HIDDEN and "/" not in name}
        metrics = "  ".join(
            f"{name} {_short(value)}" for name, value in shown.items() if isinstance(value, int | float)
        )
        print(f"{share} {minutes:3d}:{seconds:02d}  {result.get('phase', ''):<10} {metrics}", flush=True)


class TrialLines(Callback):
    """Prints ``  3/8  1:07  0002-seed-0  accuracy 0.84`` when a trial has ended; ``before`` had when the command began."""

    def __init__(self, metrics: Sequence[str], planned: int, before: int) -> None:
        self._metrics, self._planned, self._before = metrics, planned, before
        self._started = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        result = trial.last_result
        shown = "  ".join(f"{name} {_short(result[name])}" for name in self._metrics if name in result)
        self._print(trials, trial, shown)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a trial failed."""
        self._print(trials, trial, "failed")

    def _print(self, trials: list[Any], trial: Any, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        ended = self._before + sum(other.is_finished() or other is trial for other in trials)
        print(f"{ended:4d}/{self._planned} {minutes:3d}:{seconds:02d}  {trial}  {text}", flush=True)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
