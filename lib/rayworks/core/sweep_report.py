"""The report of a sweep: designs best first, every trial, and how the numbers follow the varied fields."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayworks.core.figures import COLOURS, draw
from rayworks.core.report import Cell, Report, Table
from rayworks.core.sweep import Sweep, TrialResult

PARALLEL, PARETO, CSV = "parallel_coordinates.png", "pareto.png", "trials.csv"
HIGHLIGHTED = 10
"""Designs drawn bold among all."""
LABEL_GAP = 0.06
"""Between the labels of a front, as a share of its extent."""
Figures = Mapping[str, tuple[bytes, str]]


@dataclass(frozen=True)
class Design:
    """A design with the means over its finished seeds."""

    index: int
    values: Mapping[str, Any]
    finished: int
    means: Mapping[str, float]
    """Headline number to its mean; only of designs with a finished trial."""
    deviations: Mapping[str, float]
    """Sample standard deviation over seeds, 0 for one seed."""


def summarise(trials: Sequence[TrialResult]) -> list[Design]:
    """Means over seeds of every numeric headline number, in the order of the designs."""
    designs = []
    for index in sorted({trial.design for trial in trials}):
        repeats = [trial for trial in trials if trial.design == index]
        headlines = [trial.headline for trial in repeats if trial.report]
        columns = {
            name: [float(headline[name]) for headline in headlines]
            for name in (headlines[0] if headlines else {})
            if all(_is_number(headline.get(name)) for headline in headlines)
        }
        designs.append(
            Design(
                index,
                repeats[0].values,
                len(headlines),
                {name: statistics.fmean(column) for name, column in columns.items()},
                {name: statistics.stdev(column) if len(column) > 1 else 0.0 for name, column in columns.items()},
            )
        )
    return designs


def best_first(designs: Sequence[Design], metric: str, mode: str) -> list[Design]:
    """Sorted by the mean of the metric; designs without one last."""
    sign = -1 if mode == "max" else 1
    return sorted(designs, key=lambda design: (metric not in design.means, sign * design.means.get(metric, 0.0)))


def pareto_front(designs: Sequence[Design], metrics: Sequence[str], modes: Sequence[str]) -> list[Design]:
    """The designs that no other equals or beats in all metrics and beats in one."""
    signs = [1 if mode == "max" else -1 for mode in modes]
    measured = [design for design in designs if all(metric in design.means for metric in metrics)]
    points = {
        design.index: [sign * design.means[metric] for sign, metric in zip(signs, metrics, strict=True)]
        for design in measured
    }

    def beats(one: list[float], two: list[float]) -> bool:
        return one != two and all(a >= b for a, b in zip(one, two, strict=True))

    return [design for design in measured if not any(beats(other, points[design.index]) for other in points.values())]


def sweep_report(
    sweep: Sweep[Any], trials: Sequence[TrialResult], tables: Sequence[Table] = (), figures: Figures | None = None
) -> Report:
    """The report of a sweep.

    Args:
        sweep: what was asked for.
        trials: how each trial ended.
        tables: of the system's own.
        figures: of the system's own, file name to PNG bytes and caption.
    """
    settings, spec = sweep.settings, sweep.spec
    designs = best_first(summarise(trials), settings.metric[0], settings.mode[0])
    measured = [design for design in designs if settings.metric[0] in design.means]
    headline: dict[str, Cell] = {
        "trials": len(trials),
        "finished": sum(trial.report is not None for trial in trials),
        "best_design": describe(measured[0].values) if measured else None,
    }
    for metric in settings.metric:
        name = f"best_{metric}" if metric == settings.metric[0] else f"{metric}_of_best_design"
        headline[name] = measured[0].means.get(metric) if measured else None
    drawn: dict[str, tuple[bytes, str]] = {}
    if len(measured) > 1:
        caption = f"Each line is a design, its colour the mean {settings.metric[0]} over {_seeds(sweep)}; "
        caption += f"bold: the {min(HIGHLIGHTED, len(measured))} best."
        drawn[PARALLEL] = (_parallel_coordinates(sweep, measured), caption)
        if len(settings.metric) > 1:
            caption = "On the line, by number: the designs that no other beats in both."
            drawn[PARETO] = (_pareto(measured, settings.metric, settings.mode), caption)
    return Report(
        system=spec.name,
        run=sweep.base.run.name,
        title=f"{spec.title}: sweep over {', '.join(settings.space)}",
        headline=headline,
        tables=[_design_table(sweep, designs, _numbers(sweep, trials)), *tables, *_trial_tables(sweep, trials)],
        figures={**drawn, **(figures or {})},
        details={"sweep": settings.model_dump(mode="json"), "base": sweep.base.model_dump(mode="json")},
    )


def trials_csv(sweep: Sweep[Any], trials: Sequence[TrialResult]) -> str:
    """One row per trial: its varied fields, seed, headline numbers and failure."""
    fields, numbers = list(sweep.settings.space), _numbers(sweep, trials)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *fields, "seed", *numbers, "failure", "stopped", "directory"])
    for trial in trials:
        cells = [trial.headline.get(name) for name in numbers]
        values = [trial.values[name] for name in fields]
        writer.writerow([trial.name, *values, trial.seed, *cells, trial.failure, trial.stopped, trial.directory])
    return text.getvalue()


def describe(values: Mapping[str, Any]) -> str:
    """``a.b=3, c.d=x``."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )


def _seeds(sweep: Sweep[Any]) -> str:
    return f"{len(sweep.seeds)} seed{'s' if len(sweep.seeds) > 1 else ''}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> Cell:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _numbers(sweep: Sweep[Any], trials: Sequence[TrialResult]) -> list[str]:
    """Headline numbers of the system, without optional ones that no trial has."""
    optional = sweep.spec.optional_headline
    measured = [name for name in optional if any(trial.headline.get(name) is not None for trial in trials)]
    return [*sweep.spec.headline, *measured]


def _design_table(sweep: Sweep[Any], designs: Sequence[Design], numbers: Sequence[str]) -> Table:
    fields = list(sweep.settings.space)
    rows: list[list[Cell]] = [
        [
            design.index,
            *(_cell(design.values[name]) for name in fields),
            f"{design.finished}/{len(sweep.seeds)}",
            *(_mean(design, name) for name in numbers),
        ]
        for design in designs
    ]
    note = f"Mean ± standard deviation over {_seeds(sweep)}; best {sweep.settings.metric[0]} first."
    return Table("Designs", ("design", *fields, "finished", *numbers), rows, note)


def _mean(design: Design, name: str) -> str | None:
    if name not in design.means:
        return None
    spread = f" ± {design.deviations[name]:.2g}" if design.finished > 1 else ""
    return f"{design.means[name]:.4g}{spread}"


def _trial_tables(sweep: Sweep[Any], trials: Sequence[TrialResult]) -> list[Table]:
    fields, numbers = list(sweep.settings.space), _numbers(sweep, trials)
    rows: list[list[Cell]] = [
        [
            trial.name,
            *(_cell(trial.values[name]) for name in fields),
            trial.seed,
            *(_cell(trial.headline.get(name)) for name in numbers),
        ]
        for trial in trials
    ]
    tables = [Table("Trials", ("trial", *fields, "seed", *numbers), rows, f"Also in {CSV}.")]
    failed = [[trial.name, trial.failure] for trial in trials if trial.failure]
    if failed:
        tables.append(Table("Trials that did not finish", ("trial", "why"), failed))
    stopped = [[trial.name, trial.stopped] for trial in trials if trial.stopped]
    if stopped:
        tables.append(Table("Trials stopped early", ("trial", "where it was"), stopped, "They fell behind at a rung."))
    return tables


def _parallel_coordinates(sweep: Sweep[Any], designs: Sequence[Design]) -> bytes:
    """One axis per field and metric, designs best first; colour follows the first metric, the best lie on top."""
    space, metrics = sweep.settings.space, sweep.settings.metric
    columns: dict[str, list[Any]] = {name: [design.values[name] for design in designs] for name in space}
    columns |= {metric: [design.means.get(metric) for design in designs] for metric in metrics}
    logarithmic = {name for name, dimension in space.items() if dimension.loguniform}
    positions = {name: _positions(column, name in logarithmic) for name, column in columns.items()}
    names = [name.replace(".", ".\n") + (" (log)" if name in logarithmic else "") for name in space]
    names += [f"{metric}\n({mode})" for metric, mode in zip(metrics, sweep.settings.mode, strict=True)]
    deciding = columns[metrics[0]]
    with draw() as drawing:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        shades = ScalarMappable(Normalize(min(deciding), max(deciding)), "viridis")
        axes = drawing.ax
        drawing.figure.set_figwidth(max(drawing.figure.get_figwidth(), 1.3 * len(columns) + 0.8))
        for rank in reversed(range(len(designs))):
            line = [heights[rank] for heights, _ in positions.values()]
            emphasis: dict[str, Any] = {"linewidth": 2.2} if rank < HIGHLIGHTED else {"linewidth": 0.9, "alpha": 0.35}
            axes.plot(range(len(columns)), line, color=shades.to_rgba(deciding[rank]), **emphasis)
        for at, (_, ticks) in enumerate(positions.values()):
            axes.vlines(at, 0, 1, color="#9ca3af", linewidth=1, zorder=3)
            for height, label in ticks.items():
                _label(axes, at, height, label)
        axes.set_xticks(range(len(columns)), names, fontsize=8)
        axes.tick_params(axis="x", length=0, pad=4)
        axes.set_xlim(-0.35, len(columns) - 0.65)
        axes.set_ylim(-0.09, 1.09)
        axes.set_yticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=False)
        drawing.figure.colorbar(shades, ax=axes, label=metrics[0], pad=0.01, fraction=0.03)
    return drawing.png


def _label(axes: Any, at: float, height: float, label: str) -> None:
    """Ends stand outside the lines; what lies between stands on its axis."""
    edge = {0.0: ("top", -0.02), 1.0: ("bottom", 0.02)}.get(height, ("center", 0.0))
    background = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
    axes.text(at, height + edge[1], label, fontsize=8, ha="center", va=edge[0], bbox=background, zorder=4)


def _positions(column: Sequence[Any], logarithmic: bool) -> tuple[list[float], dict[float, str]]:
    """Heights in [0, 1] of a column's values, and labels by height: numbers on a scale, anything else in steps."""
    if all(_is_number(value) for value in column):
        low, high = min(column), max(column)
        labels = {0.0: f"{low:.4g}"} | ({1.0: f"{high:.4g}"} if high > low else {})
        scaled = [math.log(value) for value in column] if logarithmic else list(column)
        width = (max(scaled) - min(scaled)) or 1.0
        return [(value - min(scaled)) / width for value in scaled], labels
    names = sorted(set(map(str, column)))
    steps = {name: position / max(len(names) - 1, 1) for position, name in enumerate(names)}
    return [steps[str(value)] for value in column], {height: name for name, height in steps.items()}


def _pareto(designs: Sequence[Design], metrics: Sequence[str], modes: Sequence[str]) -> bytes:
    x, y = metrics
    measured = [design for design in designs if x in design.means and y in design.means]
    front = sorted(pareto_front(measured, metrics, modes), key=lambda design: design.means[x])
    with draw() as drawing:
        axes = drawing.ax
        behind: dict[str, Any] = {"color": COLOURS[7], "alpha": 0.5, "s": 14, "linewidths": 0}
        axes.scatter([d.means[x] for d in measured], [d.means[y] for d in measured], label="designs", **behind)
        axes.plot([d.means[x] for d in front], [d.means[y] for d in front], "o-", color=COLOURS[1], label="front")
        for design in _apart(front, x, y):
            axes.annotate(
                str(design.index),
                (design.means[x], design.means[y]),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
            )
        axes.set_xlabel(f"{x} ({modes[0]})")
        axes.set_ylabel(f"{y} ({modes[1]})")
        axes.legend()
    return drawing.png


def _apart(front: Sequence[Design], x: str, y: str) -> list[Design]:
    """Points of a front whose labels do not overlap the previous one."""
    widths = {
        metric: (max(d.means[metric] for d in front) - min(d.means[metric] for d in front)) or 1.0 for metric in (x, y)
    }
    chosen: list[Design] = []
    for design in front:
        gaps = (
            [abs(design.means[metric] - chosen[-1].means[metric]) / widths[metric] for metric in widths]
            if chosen
            else []
        )
        if not chosen or max(gaps) > LABEL_GAP:
            chosen.append(design)
    return chosen
