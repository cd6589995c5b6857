"""The report of a run: whether to use the engine, what each arm came to, and what the engine thinks of the augmentation."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from rayworks.core.registry import SystemSpec
from rayworks.core.report import Cell, Report, Table
from rayworks.systems.augmentation import figures
from rayworks.systems.augmentation.config import Config
from rayworks.systems.augmentation.findings import VERDICTS, Findings
from rayworks.systems.augmentation.training.arms import EARLY, ENGINE, ONLY, PLAIN, UPSTREAM
from rayworks.systems.augmentation.training.loop import DIVERGED

Values = Mapping[str, Any]
FEW = 2
"""Seeds below which there is no interval."""


def build_report(config: Config, results: Values, spec: SystemSpec, shown: Values, views: bytes) -> Report:
    """Build the report from the results of the run's stages.

    Args:
        shown: what is known of the worst and the best views.
        views: their inputs, as an ``.npz``.
    """
    found = Findings(config, results)
    gain, low, _ = found.gain(ENGINE, UPSTREAM)
    headline: dict[str, Cell] = {
        "accuracy_plain": found.mean(PLAIN),
        "accuracy_upstream": found.mean(UPSTREAM),
        "accuracy_l2rw": found.mean("L2RW"),
        "accuracy_saflex": found.mean(ENGINE),
        "gain": gain,
        "gain_low": low,
        "noise_auc": found.noise_auc,
        "step_cost_ratio": results["cost"]["ratio"],
    }
    tables = [_verdict(found), _arms(found), _operations(found), _worst(shown)]
    details = {
        "gains": (found.accuracies(ENGINE) - found.accuracies(UPSTREAM)).tolist(),
        "chosen": found.choices(),
        "accuracies": {arm: found.accuracies(arm).tolist() for arm in found.trained},
        "events": found.events(),
    }
    title = f"{spec.title}, {config.data.source}"
    return Report(
        spec.name, config.run.name, title, headline, tables, _pictures(found, shown, views), _notes(found), details
    )


def told(gain: tuple[float, float | None, float | None]) -> str:
    """A difference with its interval, in words."""
    mean, low, high = gain
    return f"{mean:+.3f}" if low is None else f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _verdict(found: Findings) -> Table:
    rows: list[list[Cell]] = []
    for arm in (UPSTREAM, EARLY, ENGINE, PLAIN):
        above: tuple[float | None, ...] = (None, None, None, None)
        if arm != UPSTREAM:
            above = (*found.advantage(arm, list(found.seeds)), *found.advantage(arm, list(found.seeds), "right"))
        rows.append([arm, *above, found.choices().count(arm), found.mean(arm)])
    rows.append(
        ["taken by each seed's own hold-out", *[None] * 4, len(found.seeds), float(found.chosen_accuracies.mean())]
    )
    columns = (
        "arm", "nats below upstream, second hold-out", "standard error", "accuracy above it, second hold-out",
        "standard error of that", "seeds that take it", "test accuracy",
    )  # fmt: skip
    note = (
        f"{VERDICTS[found.chosen]} An arm is taken where its loss there is lower, and its accuracy not lower, by "
        f"{found.config.experiment.errors:g} standard errors over {found.config.data.selection} rows a seed, on which no arm "
        "was trained. SAFLEX and dropping have to beat the upstream to its end and stopped early; each half of the rows "
        "judges the stop that the other half chose. The last row is the accuracy of what each seed's own hold-out takes."
    )
    return Table("What to do", columns, rows, note)


def _arms(found: Findings) -> Table:
    rows: list[list[Cell]] = []
    for arm in (*found.arms, *found.only):
        gain: tuple[float | None, ...] = (None, None, None) if arm == UPSTREAM else found.gain(arm, UPSTREAM)
        losses = [one["test"]["nll"] for one in found.trained[arm]]
        seconds = [one["seconds"] for one in found.trained[arm]]
        rows.append([arm, found.mean(arm), *gain, float(np.mean(losses)), float(np.mean(seconds))])
    columns = (
        "arm", "test accuracy", "above upstream and trusted rows", "95 % low", "95 % high", "nats", "seconds",
    )  # fmt: skip
    data, rival = found.config.data, found.best_rival
    stops = ", ".join(str(one["stop"]) for one in found.trained[EARLY])
    note = (
        f"Means over {len(found.seeds)} seeds, paired; intervals are Student's t. {data.trusted} trusted rows, "
        f"{data.noise:.0%} of the training labels made wrong. Against the best of what is cheaper, {rival}, SAFLEX gains "
        f"{told(found.gain(ENGINE, rival))}; which is the best was seen on the test, so this is the strictest comparison. "
        f"On {EARLY}, by the second hold-out after {stops} steps, it gains {told(found.gain(ENGINE, EARLY))}."
    )
    return Table("Arms", columns, rows, note)


def _operations(found: Findings) -> Table:
    harm, told_from, agreement = found.harm, found.harm.others_told(), found.agreement()
    rows: list[list[Cell]] = []
    for name, score in harm.scores.items():
        views, _, weights, dropped, _ = harm.sums[name].sum(0)
        low, high = harm.interval(name) or (None, None)
        shares = float(weights / views), float(dropped / views)
        rows.append([name, score, low, high, told_from[name], *shares, int(views), found.mean(ONLY + name)])
    columns = (
        "operation", "mean score", "95 % low", "95 % high", "others it is told from", "mean weight", "share dropped", "views",
        "accuracy, trained on it alone",
    )  # fmt: skip
    seeds = len(found.seeds)
    note = (
        "The most harmful first. A score is by how much a step on the view lowers the trusted loss; below 0 it does harm. "
        + (
            f"Intervals are Student's t over {seeds} seeds; operations are told apart by differences paired by seed, whose "
            "spread is pooled over all."
            if seeds >= FEW
            else "With one seed intervals are of its views, as if these were independent: they hold for this training alone."
        )
        + f" {_told(found)}"
    )
    if agreement is not None:
        note += f" Spearman's correlation with the loss of trainings on each alone: {agreement:.2f}."
    return Table("Harm of operations", columns, rows, note)


def _told(found: Findings) -> str:
    """Which operations are told apart from zero, and how much of the order is sure."""
    intervals = {name: found.harm.interval(name) for name in found.harm.scores}
    harmful = [name for name, ends in intervals.items() if ends and ends[1] < 0]
    helpful = [name for name, ends in intervals.items() if ends and ends[0] > 0]
    count = len(intervals)
    pairs, told_pairs = count * (count - 1) // 2, sum(found.harm.others_told().values()) // 2
    return (
        f"Told from zero: {', '.join(harmful) or 'none'} as harmful, {', '.join(helpful) or 'none'} as helpful. Of {pairs} "
        f"pairs {told_pairs} are told apart, each by itself: of pairs that are equal one in twenty would be."
    )


def _worst(shown: Values) -> Table:
    names = ("row", "operation", "strength", "score", "given", "suggested")
    rows: list[list[Cell]] = [[row[name] for name in names] for row in shown["rows"] if row["kind"] == "worst"]
    note = "One view a row of the first seed; rows.csv of the export has all rows. Look at them before you believe it."
    return Table("Worst views", names, rows, note)


def _pictures(found: Findings, shown: Values, views: bytes) -> dict[str, tuple[bytes, str]]:
    with np.load(io.BytesIO(views)) as kept:
        inputs = kept["inputs"]
    seconds = {arm: float(np.mean([one["seconds"] for one in found.trained[arm]])) for arm in found.arms}
    costs = {arm: (seconds[arm], found.accuracies(arm)) for arm in found.arms}
    classes = found.results["classes"]
    return {
        "arms.png": (figures.arms(costs), "Test accuracy of each arm: dots are seeds, large ones their means."),
        "views.png": (
            figures.views(shown, inputs),
            "The worst views of training rows, by a step's effect on the trusted loss, and the best; first seed. After the "
            "given label, the one that the engine would give.",
        ),
        "operations.png": (
            figures.operations(found.harm.by_strength(), found.harm.mean_score),
            "Mean score of views by operation and strength, less that of all views, all seeds. Wrong labels lower all alike.",
        ),
        "labels.png": (
            figures.labels(found.sums("by_class"), classes),
            "Soft labels that were learned, by the label that the upstream gave, weighed.",
        ),
    }


def _notes(found: Findings) -> list[str]:
    config, trained = found.config, found.trained
    mean, error = found.advantage(found.chosen, list(found.seeds), "right")
    notes = [VERDICTS[found.chosen]]
    if found.chosen != UPSTREAM:
        notes.append(
            f"Taken by {found.choices().count(found.chosen)} of {len(found.seeds)} seeds; on the second hold-outs its "
            f"accuracy is {mean:+.3f} above upstream's, with a standard error of {error:.3f}."
        )
    if config.engine.learn == "nothing":
        notes.append("engine.learn is nothing: the engine scored and weighed nothing, so that SAFLEX is the upstream.")
    if len(found.seeds) < FEW:
        notes.append("One seed: differences have no interval.")
    if not all(one["acted"] for one in trained[ENGINE]):
        notes.append(
            "In some seeds the engine never began: lower engine.warm_up or engine.progress, or train for longer."
        )
    stopped = [event for event in found.events() if "stopped" in event]
    if stopped:
        notes.append(f"The engine gave up in {len(stopped)} seeds; the first: {stopped[0]}.")
    left_out = [one["left_out"] for one in trained[ENGINE]]
    if any(left_out):
        notes.append(
            f"Up to {max(left_out)} rows a seed were left out, whose content is also in a part they are measured by: "
            "training or trusted rows are so many fewer than was asked for."
        )
    untrusted = sorted({name for one in trained[ENGINE] for name in one["untrusted"]})
    if untrusted:
        notes.append(
            f"In some seed no trusted row is of the class {', '.join(untrusted)}: what helps it looks useless or harmful "
            "there. Raise data.trusted."
        )
    lost = [arm for arm in found.trained if max(one["test"]["nll"] for one in trained[arm]) > DIVERGED / 2]
    if lost:
        notes.append(f"Diverged: {', '.join(lost)}; rows count {DIVERGED:g} nats at most. Lower training.rate.")
    vanished = sum(one["vanished"] for one in trained[ENGINE])
    if vanished:
        notes.append(f"{vanished} batches had no weight left, and were trained on as the upstream has them.")
    if "placebo" in trained:
        gain = told(found.gain("placebo", UPSTREAM))
        notes.append(f"With permuted labels of the trusted rows the engine gains {gain}.")
    if "upstream at equal seconds" in trained:
        notes.append(f"Upstream at equal seconds takes {config.experiment.step_cost:g} times the steps.")
    notes.append("The ratio of step costs is that of steps in which the engine acts; those of the warm-up are plain.")
    return notes
