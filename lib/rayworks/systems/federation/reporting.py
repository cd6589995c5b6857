"""The report of a run: methods at equal steps, heterogeneity, engines, and privacy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayworks.core.bootstrap import mean_interval
from rayworks.core.registry import SystemSpec
from rayworks.core.report import Cell, Report, Table
from rayworks.systems.federation import figures
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.data.heterogeneity import effective_labels, jensen_shannon, total_variation
from rayworks.systems.federation.evaluation import Outcome, curve, known, outcome

Values = Mapping[str, Any]
BASELINE = "fedavg"
FIELDS = ("best", "late", "rounds_to_target", "worst_recall", "pseudo_images", "megabytes", "seconds_per_round")
"""Of the outcomes, in the order of the table's columns."""


class Findings:
    """Summary of the stages' results."""

    def __init__(self, config: Config, results: Values) -> None:
        self.config, self.results = config, results
        self.methods = list(config.experiment.methods)
        self.seeds = range(config.experiment.seeds)
        target = config.experiment.target_accuracy
        self.outcomes: dict[str, list[Outcome]] = {
            method: [outcome(self.rounds(method, seed), target) for seed in self.seeds] for method in self.methods
        }

    def rounds(self, method: str, seed: int) -> Sequence[Values]:
        """Records of a training."""
        found: Sequence[Values] = self.results["rounds"][f"{method}-{seed}"]
        return found

    def finals(self, method: str) -> NDArray[np.float64]:
        """Accuracy after the last round, by seed."""
        return np.array([one.final for one in self.outcomes[method]])

    def mean(self, method: str, field: str) -> float | None:
        """Mean of a field of the outcomes over seeds; None where one of them has none."""
        values = [getattr(one, field) for one in self.outcomes[method]]
        return None if any(value is None for value in values) else float(np.mean(values))

    def gain(self, method: str) -> tuple[float, float, float]:
        """Gain over the baseline, paired by seed, with its 95 % interval."""
        return self._interval(self.finals(method) - self.finals(BASELINE), method, "gain")

    def accuracy(self, method: str) -> tuple[float, float, float]:
        """Final accuracy with its 95 % interval over seeds."""
        return self._interval(self.finals(method), method, "accuracy")

    def client_accuracies(self, method: str) -> NDArray[np.float64]:
        """Accuracies of all clients with examples, of all seeds, after the last round."""
        return np.concatenate([known(self.rounds(method, seed)[-1]["client_accuracies"]) for seed in self.seeds])

    def _interval(self, values: NDArray[np.float64], *path: str) -> tuple[float, float, float]:
        return mean_interval(values, self.config.experiment.resamples, self.config.run.seed, "interval", *path)


def build_report(
    config: Config,
    results: Values,
    spec: SystemSpec,
    classes: Sequence[str],
    samples: Mapping[str, NDArray[np.float32]],
) -> Report:
    """Build the report from the results of the run's stages."""
    found = Findings(config, results)
    chosen = config.experiment.headline
    gain, low, _ = found.gain(chosen)
    engines, privacy = results.get("flower", {}), results.get("privacy", {})
    headline: dict[str, Cell] = {
        "accuracy_fedavg": found.accuracy(BASELINE)[0],
        "accuracy_balanced": found.accuracy(chosen)[0],
        "gain": gain,
        "gain_low": low,
        "rounds_to_target": found.mean(chosen, "rounds_to_target"),
        "seconds_per_round_engine": engines.get("engine"),
        "seconds_per_round_flower": engines.get("flower"),
        "epsilon": privacy.get("epsilon"),
    }
    return Report(
        spec.name,
        config.run.name,
        f"{spec.title}, {config.data.source}",
        headline,
        [_methods(found), _fairness(found), *_skew(privacy), *_engines(engines), *_attacks(privacy)],
        _pictures(found, classes, samples),
        _notes(found),
        {"outcomes": {name: [asdict(one) for one in ones] for name, ones in found.outcomes.items()}},
    )


def _methods(found: Findings) -> Table:
    rows: list[list[Cell]] = []
    for method in found.methods:
        gain = (None, None, None) if method == BASELINE else found.gain(method)
        rows.append([method, *found.accuracy(method), *gain, *(found.mean(method, field) for field in FIELDS)])
    columns = (
        "method", "accuracy, final", "95 % low", "95 % high", "gain over fedavg", "gain, low", "gain, high", "best round",
        "last rounds", "rounds to target", "worst label's recall", "pseudo-images", "megabytes sent", "seconds a round",
    )  # fmt: skip
    strategy, local = found.config.strategy, found.config.local
    steps = "the same number of local steps for all" if local.match_steps else "pseudo-images add local steps"
    note = (
        f"Means over {len(found.seeds)} seeds of {strategy.rounds} rounds, {steps}; gains are paired by seed, with bootstrap "
        f"intervals. Target {found.config.experiment.target_accuracy:g}; none where a seed did not reach it."
    )
    return Table("Methods", columns, rows, note)


def _fairness(found: Findings) -> Table:
    rows: list[list[Cell]] = []
    for method in found.methods:
        clients = found.client_accuracies(method)
        ones = found.outcomes[method]
        lowest, spread = found.mean(method, "lowest_client"), found.mean(method, "client_spread")
        fates = (sum(getattr(one, fate) for one in ones) for fate in ("failed", "rejected", "stragglers"))
        rows.append([method, float(clients.mean()), lowest, float(np.quantile(clients, 0.1)), spread, *fates])
    columns = (
        "method", "client mean", "worst client", "lowest tenth", "standard deviation", "answers missing", "answers rejected",
        "stragglers",
    )  # fmt: skip
    note = "Accuracy of a client: recalls of the labels on held-out examples, weighed by how often the client has them."
    return Table("Clients", columns, rows, note)


def _skew(privacy: Values) -> list[Table]:
    if not privacy:
        return []
    rows: list[list[Cell]] = []
    for name, counts in (("real examples", privacy["owned"]), ("with pseudo-images", privacy["filled"])):
        array = np.array(counts)
        kept = array[array.sum(1) > 0]
        variation, labels = (float(np.nanmean(of(kept))) for of in (total_variation, effective_labels))
        rows.append([name, variation, jensen_shannon(kept), labels, int(kept.sum())])
    columns = ("examples", "total variation", "Jensen-Shannon, nats", "effective labels", "examples in all")
    return [Table("Label skew, first seed", columns, rows, "Means over clients, against all examples together.")]


def _engines(engines: Values) -> list[Table]:
    if not engines:
        return []
    rows: list[list[Cell]] = [
        ["this run's actors", engines["engine"], None],
        ["Flower's simulation", engines["flower"], engines["flower"] / engines["engine"]],
    ]
    note = (
        f"Median seconds of {engines['rounds']} rounds, the first left out, of the same apps with local training included; "
        f"largest difference of a weight after them {engines['largest_difference']:.1e}."
    )
    return [Table("Engines", ("engine", "seconds a round", "times ours"), rows, note)]


def _attacks(privacy: Values) -> list[Table]:
    if not privacy.get("attacks"):
        return []
    rows: list[list[Cell]] = [[name, value] for name, value in privacy["attacks"].items()]
    note = (
        f"On encodings like those of client {privacy['client']}, who shares {privacy['encodings']:,}, by an attacker who "
        "knows all of its examples but not which were mixed. What beats chance, or the mean image, is information."
    )
    return [Table("Attacks on shared encodings, first seed", ("attack", "found"), rows, note)]


def _pictures(
    found: Findings, classes: Sequence[str], samples: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[bytes, str]]:
    privacy = found.results.get("privacy", {})
    curves = {method: curve([found.rounds(method, seed) for seed in found.seeds]) for method in found.methods}
    pictures = {
        "accuracy.png": (
            figures.accuracy(curves, found.config.experiment.target_accuracy),
            "Held-out accuracy by round: mean over seeds, and their range.",
        ),
        "clients.png": (
            figures.clients({method: found.client_accuracies(method) for method in found.methods}),
            "Each dot is a client of a seed after the last round; lines are means.",
        ),
        "pseudo.png": (
            figures.pseudo(samples),
            "Real examples, encodings that clients share, and noise images that take a label.",
        ),
    }
    if privacy:
        picture = figures.partition(np.array(privacy["owned"]), np.array(privacy["filled"]), classes)
        pictures = {"partition.png": (picture, "Labels of the clients, first seed."), **pictures}
    return pictures


def _notes(found: Findings) -> list[str]:
    config, privacy = found.config, found.results.get("privacy", {})
    notes = []
    if privacy:
        notes.append(privacy["statement"])
    for method in found.methods:
        gain, low, high = found.gain(method)
        if method != BASELINE and low <= 0 <= high:
            notes.append(f"{method}: its gain of {gain:.3f} [{low:.3f}, {high:.3f}] may be chance.")
    rejected = sum(one.rejected for ones in found.outcomes.values() for one in ones)
    if rejected:
        notes.append(f"{rejected} answers were not usable (not finite, or of another shape) and were left out.")
    for method in found.methods:
        epsilon = found.rounds(method, 0)[-1]["epsilon"]
        if epsilon is not None:
            notes.append(
                f"{method}: updates cost epsilon {epsilon:.4g} at delta {config.of_method(method).privacy.delta:g} for "
                "adding or removing a whole client, by Renyi differential privacy, assuming Poisson sampling; that of "
                "encodings is for the pixels of one example, and does not simply add."
            )
    rounds = (entry for method in found.methods for seed in found.seeds for entry in found.rounds(method, seed))
    problems = [entry["problem"] for entry in rounds if entry["problem"] is not None]
    if problems:
        notes.append(f"Clients had trouble in {len(problems)} rounds; the first said: {problems[0]}")
    return notes
