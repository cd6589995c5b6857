"""Designs that learn from the finished trials: Optuna through Ray Tune, each design repeated over the sweep's seeds."""

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.cloudpickle as pickle
from ray import tune
from ray.tune.search import Searcher

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Dimension, Sweep, Trial, trial_name
from rayworks.runtime.failures import Failure
from rayworks.runtime.sweep_trial import DESIGN, trial_directory
from rayworks.runtime.system import FAILURE

MAX_REFUSED = 20
"""Designs in a row that may break a rule between fields before the sweep gives up."""


def require_optuna() -> None:
    """Raises ``ConfigError``, naming the extra, when Optuna is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("search: optuna is not installed; install the extra with pip install 'rayworks[sweep]'")


def optuna_search(sweep: Sweep[Any]) -> Searcher:
    """Optuna's sampler over the sweep's space, seeded by the base's seed.

    Raises:
        ConfigError: Optuna is not installed.
    """
    require_optuna()
    from ray.tune.search.optuna import OptunaSearch

    logging.getLogger("optuna").setLevel(logging.WARNING)
    metric, mode = list(sweep.settings.metric), [str(mode) for mode in sweep.settings.mode]
    space = {name: _domain(dimension) for name, dimension in sweep.settings.space.items()}
    return OptunaSearch(
        OptunaSearch.convert_search_space(space),
        metric=metric if len(metric) > 1 else metric[0],
        mode=mode if len(mode) > 1 else mode[0],
        seed=seeds.derive_small(sweep.base.run.seed, "sweep", "optuna") % 2**31,
    )


class DesignSearch(Searcher):
    """Hands out one trial per design and seed, and tells the inner search the means once a design's seeds are done.

    Args:
        sweep: what to search.
        directory: of the sweep.
        write_design: leaves in a trial's run directory what it is to run.
        inner: the search over designs; Optuna's if ``None``.
    """

    def __init__(
        self,
        sweep: Sweep[Any],
        directory: RunDirectory,
        write_design: Callable[[RunDirectory, Trial[Any]], None],
        inner: Searcher | None = None,
    ) -> None:
        super().__init__()
        self._sweep, self._directory, self._write_design = sweep, directory, write_design
        self._inner = inner or optuna_search(sweep)
        self._designs = 0
        self._waiting: list[Trial[Any]] = []
        self._unasked: set[int] = set()
        self._design_of: dict[str, int] = {}
        self._results: dict[int, list[dict[str, Any] | None]] = {}
        self._worst: dict[str, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial; ``None`` while the inner search wants to wait for results."""
        if not self._waiting and not self._next_design():
            return None
        trial = self._waiting.pop(0)
        self._design_of[trial_id] = trial.design
        self._write_design(self._directory, trial)
        return {"storage": self._directory.storage, "sweep": self._directory.run, "trial": trial.name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune with the trial's last result."""
        design = self._design_of.pop(trial_id)
        seen = self._results.setdefault(design, [])
        seen.append(None if error else result)
        if len(seen) < len(self._sweep.seeds) or design in self._unasked:
            return
        finished = [one for one in seen if one]
        means = {
            metric: sum(one[metric] for one in finished) / len(finished)
            for metric in self._sweep.settings.metric
            if finished and all(metric in one for one in finished)
        }
        for metric, mode in zip(self._sweep.settings.metric, self._sweep.settings.mode, strict=True):
            if means:
                worse = min if mode == "max" else max
                self._worst[metric] = worse(means[metric], self._worst.get(metric, means[metric]))
        told = means or (dict(self._worst) if self._is_bad(design) else {})
        self._inner.on_trial_complete(f"design-{design}", told or None, error=not told)

    def save(self, checkpoint_path: str) -> None:
        """Called by Tune as the sweep goes on."""
        Path(checkpoint_path).write_bytes(pickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """Called by Tune when the command is repeated."""
        self.__dict__.update(pickle.loads(Path(checkpoint_path).read_bytes()))

    def _next_design(self) -> bool:
        """Ask for a design.

        One that the system's config refuses as a whole, or whose own data are bad, is told to the search as no better than
        the worst: as a failure it would teach a sampler nothing, and be proposed again and again.

        One that was begun after this search's state was last saved is taken up as it is; the inner search never hears of it.
        """
        for _ in range(MAX_REFUSED):
            name, index = f"design-{self._designs}", self._designs
            begun = self._begun(index)
            values = self._inner.suggest(name) if begun is None else begun
            if values is None:
                return False
            self._designs += 1
            if begun is not None:
                self._unasked.add(index)
            try:
                self._waiting = [self._sweep.trial(index, seed, values) for seed in self._sweep.seeds]
                return True
            except ConfigError as error:
                refused = error
                print(f"design {index} is refused: {error}", file=sys.stderr)
                self._inner.on_trial_complete(name, dict(self._worst) or None, error=not self._worst)
        raise ConfigError(f"space: {MAX_REFUSED} designs in a row are refused; the last one: {refused}")

    def _is_bad(self, design: int) -> bool:
        """Whether a trial failed by its own data or config: repeating it would not help."""
        for seed in self._sweep.seeds:
            run = trial_directory(self._directory, trial_name(design, seed))
            stored = run.read_json(FAILURE) if run.exists(FAILURE) else None
            if stored is not None and not Failure(**stored).retriable:
                return True
        return False

    def _begun(self, index: int) -> dict[str, Any] | None:
        """The values of a design that lies in the sweep's directory already."""
        run = trial_directory(self._directory, trial_name(index, self._sweep.seeds[0]))
        values: dict[str, Any] | None = run.read_json(DESIGN)["values"] if run.exists(DESIGN) else None
        return values


def _domain(dimension: Dimension) -> Any:
    if dimension.values:
        return tune.choice(dimension.values)
    if dimension.randint:
        return tune.randint(dimension.randint[0], dimension.randint[1] + 1)
    if dimension.loguniform:
        return tune.loguniform(*dimension.loguniform)
    return tune.uniform(*(dimension.uniform or (0.0, 1.0)))
