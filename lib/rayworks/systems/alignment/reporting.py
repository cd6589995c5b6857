"""From measurements to the report: headline, table, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.errors import DataError
from rayworks.core.figures import COLOURS, draw
from rayworks.core.report import Cell, Report, Table
from rayworks.systems.alignment.config import Config
from rayworks.systems.alignment.evaluation import Measurement, Method, paired_bootstrap

METHOD_STYLE: dict[Method, tuple[str, str]] = {
    "guided": (COLOURS[0], "o-"),
    "sharpened": (COLOURS[7], "s--"),
    "best-of-n": (COLOURS[3], "D"),
    "base": ("black", "*"),
}


def build_report(
    config: Config,
    measurements: Sequence[Measurement],
    held_out: Mapping[str, Mapping[str, float]],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    facts: Mapping[str, Any],
    title: str,
) -> Report:
    """The report of a finished run.

    Args:
        measurements: all points of :func:`~rayworks.systems.alignment.evaluation.points`.
        held_out: objective to accuracy and mean rewards on held-out pairs.
        curves: objective to training metrics, one entry per checkpoint.
        facts: what else the reader should know, as plain values.
    """
    return Report(
        system="alignment",
        run=config.run.name,
        title=title,
        headline=headline(config, measurements, held_out),
        tables=[_points_table(config, measurements), _examples_table(measurements), _pairs_table(held_out, facts)],
        figures={
            "frontier.png": (_frontier(config, measurements), "Reward against KL to the base, with 95 % intervals"),
            "training.png": (_training(curves, held_out), "Loss and pair accuracy of each reward model in training"),
            "objectives.png": (
                _objectives(config, measurements),
                "What each guide does to every judge, on the first objective's prompts",
            ),
        },
        notes=[
            "Reward gain low is the lower end of the gain's interval; above 0 the reward model did it, not sharpening.",
            "Sharpened: the base mixed with a copy of itself at the same weight. Reward gain is over this control.",
            "Perplexity is that of the drawn texts under the unguided base: reward bought with broken text shows here.",
            "Dropped pairs were too long. Cut responses: the share that response_tokens cut, which teach no end.",
            f"{facts['proof']}.",
            "KL of guided rows is exact per step and averaged over samples; of best-of-n it is the bound log n - (n-1)/n.",
        ],
        details={**facts, "measurements": [measurement.as_dict() for measurement in measurements]},
    )


def headline(
    config: Config, measurements: Sequence[Measurement], held_out: Mapping[str, Mapping[str, float]]
) -> dict[str, Cell]:
    """The numbers a reader compares between runs, for the first objective at the headline weight."""
    objective = next(iter(config.objectives))
    judge = config.objectives[objective].judges[0]
    weight = config.evaluation.headline_weight
    base = _find(measurements, "base", objective)
    sharpened = _find(measurements, "sharpened", objective, strength=weight)
    guided = _find(measurements, "guided", objective, weights={objective: weight})
    gain, low, _ = _gain(config, guided, sharpened, judge)
    return {
        "pair_accuracy": held_out[objective]["accuracy"],
        "reward_base": _mean(base, judge),
        "reward_sharpened": _mean(sharpened, judge),
        "reward_guided": _mean(guided, judge),
        "reward_gain": gain,
        "reward_gain_low": low,
        "perplexity_base": base.perplexity,
        "perplexity_guided": guided.perplexity,
        "kl_to_base": guided.kl,
        "tokens_per_second_base": base.tokens_per_second,
        "tokens_per_second_guided": guided.tokens_per_second,
    }


def _points_table(config: Config, measurements: Sequence[Measurement]) -> Table:
    judges = config.judges
    rows: list[list[Cell]] = []
    for entry in measurements:
        row: list[Cell] = [entry.point.suite, entry.point.label, *(_mean(entry, judge) for judge in judges)]
        row += [_gain_text(config, measurements, entry), entry.perplexity, entry.distinct_1, entry.distinct_2]
        kl = f"<= {entry.kl:.3g}" if entry.kl_is_bound else entry.kl
        log_z = entry.log_z if entry.point.method == "guided" else None
        rows.append([*row, entry.tokens, kl, log_z, entry.tokens_per_second])
    columns = ("prompts of", "point", *judges, "gain over control", "perplexity", "distinct-1", "distinct-2", "tokens")
    return Table(
        "Guidance, control and baselines",
        (*columns, "KL to base", "log Z", "tokens/s"),
        rows,
        note="Scores are means over samples. Gain: guided minus sharpened at the same weight, on the objective's first "
        f"judge, with a paired bootstrap {config.evaluation.confidence:.0%} interval.",
    )


def _examples_table(measurements: Sequence[Measurement]) -> Table:
    count = min(4, *(len(entry.examples) for entry in measurements))
    rows = [[f"{entry.point.suite}: {entry.point.label}", *entry.examples[:count]] for entry in measurements]
    return Table("The same prompts and random numbers", ("point", *(f"sample {n + 1}" for n in range(count))), rows)


def _pairs_table(held_out: Mapping[str, Mapping[str, float]], facts: Mapping[str, Any]) -> Table:
    columns = (
        *("objective", "training pairs", "held-out pairs", "dropped pairs", "cut responses"),
        *("accuracy", "lead", "log p chosen", "log p rejected"),
    )
    rows = []
    for name, scores in held_out.items():
        found = facts["pairs"][name]
        counts = [found[count] for count in ("training", "held_out", "dropped")]
        means = [scores[score] for score in ("accuracy", "lead", "logprob_chosen", "logprob_rejected")]
        rows.append([name, *counts, f"{found['cut']:.1%}", *means])
    note = "No response of a held-out pair, whatever its case and punctuation, was trained on."
    return Table("Reward models on held-out pairs", columns, rows, note)


def _frontier(config: Config, measurements: Sequence[Measurement]) -> bytes:
    objectives = list(config.objectives)
    with draw(columns=len(objectives), squeeze=False) as drawing:
        for ax, objective in zip(drawing.axes[0], objectives, strict=True):
            judge = config.objectives[objective].judges[0]
            suite = config.objectives[objective].measured_with or objective
            measured = [entry for entry in measurements if entry.point.suite == suite]
            for method, (colour, style) in METHOD_STYLE.items():
                chosen = [m for m in measured if m.point.method == method and _concerns(m, objective)]
                if not chosen:
                    continue
                base = [] if method in ("base", "best-of-n") else [_find(measured, "base", suite)]
                line = [*base, *chosen]
                means = [_mean(entry, judge) for entry in line]
                errors = [_half_interval(entry, judge) for entry in line]
                kls = [entry.kl for entry in line]
                ax.errorbar(kls, means, yerr=errors, fmt=style, color=colour, capsize=2, label=method)
                for entry, x, y in zip(line, kls, means, strict=True):
                    if method == "guided" and entry.point.strength:
                        note = f"w={entry.point.strength:g}"
                        ax.annotate(note, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
            ax.set(xlabel="KL to the base (nats per text)", ylabel=f"mean {judge} score", title=objective)
            ax.legend(loc="best", fontsize=8)
    return drawing.png


def _training(
    curves: Mapping[str, Sequence[Mapping[str, float]]], held_out: Mapping[str, Mapping[str, float]]
) -> bytes:
    with draw(columns=2) as drawing:
        loss, accuracy = drawing.axes
        for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
            steps = [entry["step"] for entry in curve]
            loss.plot(steps, [entry["loss"] for entry in curve], ".-", color=colour, label=name)
            accuracy.plot(steps, [entry["accuracy"] for entry in curve], ".-", color=colour, label=f"{name}, training")
            score = held_out[name]["accuracy"]
            accuracy.axhline(score, color=colour, linestyle=":", label=f"{name}, held out {score:.2f}")
        loss.set(xlabel="optimiser step", ylabel="loss", title="Loss")
        accuracy.set(xlabel="optimiser step", ylabel="pair accuracy", title="Pair accuracy", ylim=(0.4, 1.02))
        loss.legend(fontsize=8)
        accuracy.legend(fontsize=8, loc="lower right")
    return drawing.png


def _objectives(config: Config, measurements: Sequence[Measurement]) -> bytes:
    first = next(iter(config.objectives))
    shown = [m for m in measurements if m.point.method in ("base", "guided", "sharpened") and m.point.suite == first]
    judges = config.judges
    with draw(columns=len(judges), squeeze=False, sharey=True) as drawing:
        for ax, judge in zip(drawing.axes[0], judges, strict=True):
            positions = np.arange(len(shown))[::-1]
            colours = [METHOD_STYLE[entry.point.method][0] for entry in shown]
            means = [_mean(entry, judge) for entry in shown]
            errors = [_half_interval(entry, judge) for entry in shown]
            ax.barh(positions, means, xerr=errors, color=colours, error_kw={"elinewidth": 1, "capsize": 2})
            ax.set(title=judge, xlabel="mean score", yticks=positions, yticklabels=[e.point.label for e in shown])
    return drawing.png


def _gain_text(config: Config, measurements: Sequence[Measurement], entry: Measurement) -> Cell:
    if entry.point.method != "guided":
        return None
    judge = config.objectives[next(iter(entry.point.weights))].judges[0]
    control = _find(measurements, "sharpened", entry.point.suite, strength=entry.point.strength)
    gain, low, high = _gain(config, entry, control, judge)
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}] {judge}"


def _gain(config: Config, guided: Measurement, control: Measurement, judge: str) -> tuple[float, float, float]:
    samples, confidence = config.evaluation.bootstrap, config.evaluation.confidence
    treated, compared = guided.rewards[judge], control.rewards[judge]
    return paired_bootstrap(treated, compared, seed=config.run.seed, resamples=samples, confidence=confidence)


def _find(measurements: Sequence[Measurement], method: Method, suite: str, **criteria: Any) -> Measurement:
    wanted = {"method": method, "suite": suite, **criteria}
    for entry in measurements:
        if all(getattr(entry.point, key) == value for key, value in wanted.items()):
            return entry
    raise DataError(
        f"evaluation: no point {method} of {suite} with {criteria}; the run's checkpoint is of another plan"
    )


def _concerns(entry: Measurement, objective: str) -> bool:
    if entry.point.method == "guided":
        return list(entry.point.weights) == [objective]
    return entry.point.objective in (None, objective)


def _mean(entry: Measurement, judge: str) -> float:
    return float(np.mean(entry.rewards[judge]))


def _half_interval(entry: Measurement, judge: str) -> float:
    scores = np.asarray(entry.rewards[judge])
    return 1.96 * float(scores.std(ddof=1)) / float(np.sqrt(len(scores)))
