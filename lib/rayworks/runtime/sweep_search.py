"""Designs that learn from the finished trials: Optuna through Ray Tune, each design repeated over the sweep's seeds."""

import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from rayworks.core import seeds
from rayworks.core.errors import ConfigError
from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Dimension, Sweep, Trial, TrialResult, trial_name
from rayworks.runtime.failures import Failure
from rayworks.runtime.sweep_trial import trial_directory
from rayworks.runtime.system import FAILURE, scalars

SEARCH = "search.json"
"""In the sweep's directory: what was asked of the search and told to it, in order."""
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

    What was asked and told is logged in the sweep's directory, and gone through again at the next start: the inner search
    then stands where it stood, whatever died.

    Args:
        sweep: what to search.
        directory: of the sweep.
        write_design: leaves in a trial's run directory what it is to run.
        ended: trials that ended for good before; the others of their designs come first.
        inner: the search over designs; Optuna's if ``None``.
    """

    def __init__(
        self,
        sweep: Sweep[Any],
        directory: RunDirectory,
        write_design: Callable[[RunDirectory, Trial[Any]], None],
        ended: Sequence[TrialResult] = (),
        inner: Searcher | None = None,
    ) -> None:
        super().__init__()
        self._sweep, self._directory, self._write_design = sweep, directory, write_design
        self._inner = inner or optuna_search(sweep)
        self._designs = 0
        self._waiting: list[Trial[Any]] = []
        self._running: dict[str, Trial[Any]] = {}
        self._results: dict[int, list[Mapping[str, Any] | None]] = {}
        self._told: set[int] = set()
        self._worst: dict[str, float] = {}
        self._log: list[dict[str, Any]] = []
        self._refused: ConfigError | None = None
        self._take_up({trial.name: trial for trial in ended})

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial; ``None`` while the inner search wants to wait for results."""
        if not self._waiting and not self._next_design():
            return None
        trial = self._waiting.pop(0)
        self._running[trial_id] = trial
        self._write_design(self._directory, trial)
        return {"storage": self._directory.storage, "sweep": self._directory.run, "trial": trial.name}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune with the trial's last result."""
        trial = self._running.pop(trial_id)
        # What infrastructure stopped goes on later.
        if not error or self._is_bad(trial.design, trial.seed):
            self._results.setdefault(trial.design, []).append(None if error else result)
            self._judge(trial.design)

    def save(self, checkpoint_path: str) -> None:
        """Called by Tune; the log holds more."""

    def _take_up(self, ended: Mapping[str, TrialResult]) -> None:
        begun: dict[int, dict[str, Any]] = {}
        for event in self._directory.read_json(SEARCH) if self._directory.exists(SEARCH) else ():
            self._log.append(event)
            if "values" in event:
                begun[event["design"]] = event["values"]
                self._inner.suggest(_name(event["design"]))
            else:
                self._hear(event["design"], event["told"])
        self._designs = len(begun)
        for design, values in begun.items():
            trials = self._trials(design, values)
            self._waiting += [trial for trial in trials if trial.name not in ended]
            self._results[design] = [scalars(ended[trial.name].headline) for trial in trials if trial.name in ended]
            self._judge(design)

    def _next_design(self) -> bool:
        """Ask for a design.

        One that the system's config refuses as a whole, or whose own data are bad, is told to the search as no better than
        the worst: as a failure it would teach a sampler nothing, and be proposed again and again.
        """
        for _ in range(MAX_REFUSED):
            design = self._designs
            values = self._inner.suggest(_name(design))
            if values is None:
                return False
            self._designs += 1
            self._note({"design": design, "values": values})
            self._waiting = self._trials(design, values)
            if self._waiting:
                return True
        raise ConfigError(f"space: {MAX_REFUSED} designs in a row are refused; the last one: {self._refused}")

    def _trials(self, design: int, values: dict[str, Any]) -> list[Trial[Any]]:
        """A design's trials; none, told to the search, where it is no valid config."""
        try:
            return [self._sweep.trial(design, seed, values) for seed in self._sweep.seeds]
        except ConfigError as error:
            if design not in self._told:
                print(f"design {design} is refused: {error}", file=sys.stderr)
                self._refused = error
                self._tell(design, dict(self._worst))
            return []

    def _judge(self, design: int) -> None:
        """Tell the inner search of a design, once, when all its seeds have ended."""
        seen = self._results[design]
        if len(seen) < len(self._sweep.seeds) or design in self._told:
            return
        finished = [one for one in seen if one]
        bad = len(finished) < len(seen)
        means = {
            metric: sum(one[metric] for one in finished) / len(finished)
            for metric in self._sweep.settings.metric
            if finished and all(metric in one for one in finished)
        }
        self._tell(design, means or (dict(self._worst) if bad else {}))

    def _tell(self, design: int, told: dict[str, float]) -> None:
        self._note({"design": design, "told": told})
        self._hear(design, told)

    def _hear(self, design: int, told: dict[str, float]) -> None:
        for metric, mode in zip(self._sweep.settings.metric, self._sweep.settings.mode, strict=True):
            if told:
                worse = min if mode == "max" else max
                self._worst[metric] = worse(told[metric], self._worst.get(metric, told[metric]))
        self._told.add(design)
        self._inner.on_trial_complete(_name(design), told or None, error=not told)

    def _note(self, event: dict[str, Any]) -> None:
        self._log.append(event)
        self._directory.write_json(SEARCH, self._log)

    def _is_bad(self, design: int, seed: int) -> bool:
        """Whether a trial failed by its own data or config: repeating it would not help."""
        run = trial_directory(self._directory, trial_name(design, seed))
        stored = run.read_json(FAILURE) if run.exists(FAILURE) else None
        return stored is not None and not Failure(**stored).retriable


def _name(design: int) -> str:
    return f"design-{design}"


def _domain(dimension: Dimension) -> Any:
    if dimension.values:
        return tune.choice(dimension.values)
    if dimension.randint:
        return tune.randint(dimension.randint[0], dimension.randint[1] + 1)
    if dimension.loguniform:
        return tune.loguniform(*dimension.loguniform)
    return tune.uniform(*(dimension.uniform or (0.0, 1.0)))
