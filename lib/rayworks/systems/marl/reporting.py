"""The report of a run and its tables."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rayworks.core import bootstrap
from rayworks.core.registry import SystemSpec
from rayworks.core.report import Cell, Report, Table
from rayworks.systems.marl import figures
from rayworks.systems.marl.config import Config
from rayworks.systems.marl.findings.statistics import area, interquartile_mean, interval, smoothed, steps_to
from rayworks.systems.marl.findings.symmetry import TOLERANCE
from rayworks.systems.marl.networks.symmetry_groups import TURNING

Values = Mapping[str, Any]
Interval = tuple[float, float, float]
Smooth = np.ndarray[Any, Any]
RANDOM = "random"


class Findings:
    """Summary of a run's results.

    Scores are shares of games won where a game can be won, else returns; gains are scores over those of random play.
    """

    def __init__(self, config: Config, results: Values) -> None:
        self.config, self.results = config, results
        self.kinds = list(dict.fromkeys(config.experiment.networks))
        self.environments: dict[str, Values] = {"as trained": results["final"]["evaluations"]}
        self.environments |= results.get("generalisation", {})
        first = next(iter(self.environments["as trained"].values()))
        self.winnable = first["won"] is not None
        self.label = "share of games won" if self.winnable else "return, sum over the team"
        self.threshold = config.experiment.threshold
        if self.threshold is None:
            chance, reached = self.chance("as trained"), interquartile_mean(self._scores("as trained", self.kinds[0]))
            self.threshold = float(chance + reached) / 2

    def score(self, environment: str, kind: str) -> Interval | None:
        """Interquartile mean with its interval; None where the network can not act."""
        scores = self._scores(environment, kind)
        if not len(scores):
            return None
        experiment = self.config.experiment
        return interval(scores.tolist(), experiment.resamples, self.config.run.seed, f"{environment} {kind}")

    def played(self, kind: str) -> list[str]:
        """The tests that a network can act in."""
        return [name for name in list(self.environments)[1:] if len(self._scores(name, kind))]

    @property
    def common(self) -> list[str]:
        """The tests that all networks can act in."""
        return [name for name in list(self.environments)[1:] if all(name in self.played(kind) for kind in self.kinds)]

    def ratio(self, kind: str, tests: list[str]) -> Interval | None:
        """Gain in the tests over gain where it was trained, mean over the tests; 0 if it learned nothing."""
        if not tests:
            return None
        gains = np.stack([self._gains(name, kind) for name in ("as trained", *tests)])

        def of(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            middle = interquartile_mean(values)
            return np.where(middle[0] > 0, middle[1:].mean(0) / np.where(middle[0] > 0, middle[0], 1), 0.0)

        experiment, seed = self.config.experiment, self.config.run.seed
        middle, low, high = bootstrap.interval(of, gains, experiment.resamples, seed, "interval", f"ratio {kind}")
        return float(middle), float(low), float(high)

    def steps_to_threshold(self, kind: str) -> float | None:
        """Steps until the smoothed interquartile mean over trainings reaches the threshold."""
        steps = self.curve(kind)["steps"]
        return steps_to(float(self.threshold or 0.0), steps, self.band(kind)[0]) if len(steps) else None

    def speeds(self, kind: str) -> tuple[float, float]:
        """Environment steps per second of sampling, and of everything."""
        curves = [curve for name, curve in self.results["curves"].items() if _kind_of(name) == kind]
        steps = sum(curve[-1]["steps"] for curve in curves)
        sampling = sum(point["sampling"] for curve in curves for point in curve)
        return steps / sampling, steps / sum(point["seconds"] for curve in curves for point in curve)

    def equivariance_error(self) -> float:
        """Largest error of the headline's trained network under rotations and reflections, over all teams."""
        errors = [team["errors"] for team in self.results["final"]["certificate"].values()]
        return float(max(found[group] for found in errors for group in TURNING if group in found))

    def band(self, kind: str) -> tuple[Smooth, Smooth, Smooth]:
        """Smoothed curve (I,): interquartile mean over trainings, and its interval."""
        scores = smoothed(self.curve(kind)["scores"], figures.WINDOW).T
        if not len(scores):
            return scores[:, 0], scores[:, 0], scores[:, 0]
        experiment, seed = self.config.experiment, self.config.run.seed
        return bootstrap.interval(interquartile_mean, scores, experiment.resamples, seed, "interval", f"curve {kind}")

    def curve(self, kind: str) -> dict[str, np.ndarray[Any, Any]]:
        """``steps`` (I,), ``seconds`` and ``scores`` (seeds, I), where an episode ended."""
        points = [curve for name, curve in self.results["curves"].items() if _kind_of(name) == kind]
        # In the order of the teams, of which the first is reported; an iteration in which no episode ended has none.
        returns = (key for point in points[0] for key in point if key.startswith("return"))
        field = "won" if self.winnable else next(returns, "return")
        ended = [all(field in curve[at] for curve in points) for at in range(len(points[0]))]
        kept = [[point for point, use in zip(curve, ended, strict=True) if use] for curve in points]
        seconds = np.array([np.cumsum([point["seconds"] for point in curve]) for curve in points])
        return {
            "steps": np.array([point["steps"] for point in kept[0]]),
            "seconds": seconds[:, np.array(ended)],
            "scores": np.array([[point[field] for point in curve] for curve in kept]),
        }

    def _scores(self, environment: str, kind: str) -> np.ndarray[Any, Any]:
        found = [value for name, value in self.environments[environment].items() if _kind_of(name) == kind]
        return np.array([value["won" if self.winnable else "returns"] for value in found if value is not None])

    def _gains(self, environment: str, kind: str) -> np.ndarray[Any, Any]:
        """Over random play: in games won, or as a share of what random play gets, for returns grow with the map."""
        chance = self.chance(environment)
        gains: np.ndarray[Any, Any] = self._scores(environment, kind) - chance
        return gains if self.winnable or not chance else gains / abs(chance)

    def chance(self, environment: str) -> float:
        """Score of random play."""
        return float(np.mean(self._scores(environment, RANDOM)))


def build_report(config: Config, results: Values, spec: SystemSpec) -> Report:
    """Build the report from the results of the run's stages."""
    found = Findings(config, results)
    kind = found.kinds[0]
    final = found.score("as trained", kind) or (0.0, 0.0, 0.0)
    sampling, training = found.speeds(kind)
    ratio = found.ratio(kind, found.common)
    evaluations = found.environments["as trained"]
    returns = [value["returns"] for name, value in evaluations.items() if _kind_of(name) == kind]
    middle, low, _ = interval(returns, config.experiment.resamples, config.run.seed, "returns")
    headline: dict[str, Cell] = {
        "return_final": middle,
        "return_iqm_low": low,
        "steps_to_threshold": found.steps_to_threshold(kind),
        "equivariance_error": found.equivariance_error(),
        "generalisation_ratio": None if ratio is None else ratio[0],
        "env_steps_per_second": sampling,
        "train_steps_per_second": training,
    }
    if found.winnable:
        headline["won_final"] = final[0]
    return Report(
        spec.name,
        config.run.name,
        f"{spec.title}, {config.environment.name}",
        headline,
        [_learning_table(found), *_generalisation_table(found), *_symmetry_tables(found)],
        _pictures(found),
        _notes(found),
        {"threshold": found.threshold, "bias": results.get("bias", {})},
    )


def _kind_of(name: str) -> str:
    return name.rpartition("-")[0]


def _learning_table(found: Findings) -> Table:
    rows: list[list[Cell]] = []
    for kind in found.kinds:
        curve, score = found.curve(kind), found.score("as trained", kind)
        assert score is not None
        whole = interquartile_mean(curve["scores"].T)
        sampling, training = found.speeds(kind)
        mean = area(curve["steps"], whole) if len(whole) else None
        rows.append([kind, *score, mean, found.steps_to_threshold(kind), sampling, training])
    chance = found.chance("as trained")
    rows.append([RANDOM, chance, None, None, None, None, None, None])
    columns = (
        "network", f"{found.label}, final", "95 % low", "95 % high", "mean over training", "steps to threshold",
        "env steps/s sampling", "env steps/s in all",
    )  # fmt: skip
    experiment = found.config.experiment
    note = (
        f"Interquartile means over {experiment.seeds} trainings of {found.config.training.steps:,} environment steps, with "
        f"bootstrap intervals; {experiment.evaluation_episodes} episodes each. Threshold {found.threshold:.4g}."
    )
    return Table("Learning", columns, rows, note)


def _generalisation_table(found: Findings) -> list[Table]:
    if len(found.environments) < 2:
        return []
    rows: list[list[Cell]] = []
    for kind in found.kinds:
        ratio, whole = found.ratio(kind, found.common), found.ratio(kind, found.played(kind))
        scores = [found.score(name, kind) for name in found.environments]
        of_all = None if whole is None else whole[0]
        rows.append([kind, *(None if s is None else s[0] for s in scores), *(ratio or (None, None, None)), of_all])
    rows.append([RANDOM, *(found.chance(name) for name in found.environments), None, None, None, None])
    common = ", ".join(found.common) or "none"
    columns = ("network", *found.environments, "ratio", "95 % low", "95 % high", "ratio, all its tests")
    note = (
        f"{found.label}. Ratio: gain over random play, of returns as a share of its own, in the tests to where it was "
        f"trained; 0 if there was none. The first is over the tests in which all networks act ({common}), the "
        "last over all in which the network acts: an MLP can not act with other numbers of entities."
    )
    return [Table("Generalisation", columns, rows, note)]


def _symmetry_tables(found: Findings) -> list[Table]:
    rows: list[list[Cell]] = []
    named = [(f"{kind}, untrained", by_team) for kind, by_team in found.results.get("certificate", {}).items()]
    named.append((f"{found.kinds[0]}, trained", found.results["final"]["certificate"]))
    for name, by_team in named:
        for team, one in by_team.items():
            for group, error in one["errors"].items():
                claimed = group in one["claims"]
                verdict = ("holds" if error < TOLERANCE else "BROKEN") if claimed else "not claimed"
                rows.append([name, team, group, f"{error:.1e}", verdict])
    note = (
        f"Largest difference in logits, vectors and values, float32, through the RLlib module; allowed: {TOLERANCE:g}."
    )
    return [Table("Symmetry certificate", ("network", "team", "group", "error", "claim"), rows, note)]


def _pictures(found: Findings) -> dict[str, tuple[bytes, str]]:
    results, kind = found.results, found.kinds[0]
    experiment = found.config.experiment
    curves, bands = ({str(k): found.curve(k) for k in found.kinds}, {str(k): found.band(k) for k in found.kinds})
    drawn = {
        "learning.png": (
            figures.learning(curves, bands, found.label, found.threshold),
            f"{found.label.capitalize()}: interquartile mean over {experiment.seeds} trainings, smoothed, with its 95 % "
            "bootstrap interval.",
        )
    }
    if "bias" in results:
        drawn["bias.png"] = (
            figures.bias(results["bias"]),
            "EGNN's untrained output is its position: agents flee. E2GN2's is zero.",
        )
    drawn["symmetry.png"] = (
        figures.symmetry(results.get("certificate", {}), (kind, results["final"]["certificate"]), TOLERANCE),
        "What each network claims, and how far it is from it.",
    )
    if len(found.environments) > 1:
        scores = {name: {str(k): found.score(name, k) for k in found.kinds} for name in found.environments}
        drawn["generalisation.png"] = (
            figures.generalisation(scores, found.label),
            "Interquartile means over trainings with 95 % intervals.",
        )
    return drawn


def _notes(found: Findings) -> list[str]:
    notes = []
    teams = list(found.results["final"]["certificate"])
    if len(teams) > 1:
        notes.append(
            f"Teams {' and '.join(teams)} both learn, and each network meets an opponent of its own kind: returns (of team "
            f"{teams[0]}) do not compare networks with each other."
        )
    if found.winnable:
        notes.append(
            "Returns are sums over the agents of a team, each of which gets the whole team's reward while it lives."
        )
    if found.config.experiment.seeds < 5:
        notes.append(
            f"{found.config.experiment.seeds} trainings per network: differences between networks mean little."
        )
    for kind in found.kinds:
        score = found.score("as trained", kind)
        if score is not None and score[0] <= found.chance("as trained"):
            notes.append(f"{kind} did not learn more than random play in these steps.")
    films = found.results.get("episodes", [])
    if films:
        notes.append(f"Films of the trained {found.kinds[0]}: figures/{', figures/'.join(films)}.")
    return notes
