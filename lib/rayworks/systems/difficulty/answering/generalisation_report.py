"""Reports of a generalisation run and its sweep: accuracy by bin, the heatmap, its table and its summaries."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayworks.core.figures import COLOURS, draw
from rayworks.core.proportions import wilson
from rayworks.core.report import Cell, Report, Table
from rayworks.core.sweep import TrialResult
from rayworks.systems.difficulty.answering.generalisation import SUMMARIES, Estimate, Heatmap, heatmap
from rayworks.systems.difficulty.answering.generalisation_items import BinnedItems
from rayworks.systems.difficulty.config import Config, GeneralisationSection

BASE, TUNED = "untuned", "tuned"
DETAILS = "generalisation"
TRAIN_BIN = "generalisation.train_bin"
HEADLINE = ("accuracy_base", "accuracy_tuned", "gain", "gain_on_trained_bins")
Figures = dict[str, tuple[bytes, str]]


def accuracy_by_bin(items: BinnedItems, correct: Sequence[float]) -> list[float]:
    """Mean of ``correct``, one per evaluation item in the order of the bins."""
    ends = np.cumsum([len(bin_items) for bin_items in items.evaluation])[:-1]
    return [float(part.mean()) for part in np.split(np.asarray(correct, dtype=float), ends)]


def run_report(
    config: Config, items: BinnedItems, correct: Mapping[str, Sequence[float]], losses: Sequence[float], title: str
) -> Report:
    """The report of one run: the untuned and the tuned model on every bin. ``losses`` are those of the pieces of training."""
    section = config.generalisation
    base, tuned = (accuracy_by_bin(items, correct[model]) for model in (BASE, TUNED))
    gain = np.subtract(tuned, base)
    first = 0 if section.cumulative else section.train_bin
    numbers = (np.mean(base), np.mean(tuned), gain.mean(), gain[first : section.train_bin + 1].mean())
    headline: dict[str, Cell] = {
        "items": sum(map(len, items.evaluation)),
        "subjects": len(correct),
        **dict.fromkeys(
            ("log_likelihood", "split_half_correlation", "difficulty_se_median", "reliability", "fit_seconds")
        ),
        **{name: float(number) for name, number in zip(HEADLINE, numbers, strict=True)},
    }
    sizes = np.array([len(bin_items) for bin_items in items.evaluation], dtype=float)
    rows: list[list[Cell]] = []
    for number, (low, high) in enumerate(items.ranges):
        cells = [_with_wilson(model[number], sizes[number]) for model in (base, tuned)]
        rows.append([number, f"{low:.4g} to {high:.4g}", int(sizes[number]), *cells, float(gain[number])])
    trained = f"{'bins 0 to' if first < section.train_bin else 'bin'} {section.train_bin}"
    note = (
        f"{_model(section)}, {section.steps} steps of {section.batch_size} on {len(items.training)} items of "
        f"{trained}; bin 0 is the easiest; Wilson 95 % intervals over items."
    )
    columns = ("bin", "ratings", "items", BASE, TUNED, "gain")
    picture = (_accuracy(base, tuned, sizes, trained), f"Accuracy by bin, trained on {trained}")
    return Report(
        system="difficulty",
        run=config.run.name,
        title=f"{title}: generalisation from {trained} of {section.source}",
        headline=headline,
        tables=[Table("Accuracy by bin of difficulty", columns, rows, note)],
        figures={"accuracy_by_bin.png": picture},
        notes=["Nothing was calibrated: a generalisation run has no log-likelihood, reliability or label errors."],
        details={
            DETAILS: {
                "train_bin": section.train_bin,
                "cumulative": section.cumulative,
                "seed": config.run.seed,
                "base": base,
                "tuned": tuned,
                "ranges": items.ranges,
                "training_items": len(items.training),
                "evaluation_items": int(sizes[0]),
                "model": _model(section),
                "losses": list(losses),
            }
        },
    )


def generalisation_card(config: Config) -> str:
    """A card for people: this run leaves measurements, no labels."""
    section = config.generalisation
    return (
        f"# Generalisation run {config.run.name}\n\n{section.model} tuned for {section.steps} steps on training bin "
        f"{section.train_bin}{' and those below' if section.cumulative else ''} of {section.bins} of {section.source}, seed "
        f"{config.run.seed}. `report.json` holds accuracy by bin, `evaluation/*.parquet` every answer. There are no labels "
        "to serve, and the tuned weights are not kept.\n"
    )


def sweep_summary(trials: Sequence[TrialResult]) -> tuple[list[Table], Figures]:
    """Heatmap, table and summaries for each setting that the sweep varies beside the training bin and the seed."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for trial in trials:
        found = ((trial.report or {}).get("details") or {}).get(DETAILS)
        if found:
            groups.setdefault(_others(trial.values), []).append(found)
    tables: list[Table] = []
    figures: Figures = {}
    for number, (others, rows) in enumerate(groups.items(), start=1):
        result = heatmap(rows)
        about = f"{rows[0]['model']}{f', {others}' if others else ''}"
        sizes = f"{rows[0]['training_items']} items to train on, {rows[0]['evaluation_items']} per bin to evaluate on"
        note = f"{about}; {sizes}; seeds {', '.join(map(str, result.seeds))}"
        tables += [_cells(result, rows[0]["ranges"], note), _summaries(result)]
        caption = f"Accuracy after training minus the untuned model's, mean ± standard error. {note}."
        name = "heatmap.png" if number == 1 else f"heatmap_{number}.png"
        figures[name] = (draw_heatmap(result, about, sizes, bool(rows[0]["cumulative"])), caption)
    return tables, figures


def draw_heatmap(result: Heatmap, about: str, sizes: str, cumulative: bool) -> bytes:
    """The mean gains, red below zero and blue above it, each cell with its standard error."""
    mean = result.mean
    bins = len(mean)
    reach = max(float(np.nanmax(np.abs(mean), initial=0.0)), 0.05)
    with draw() as drawing:
        ax = drawing.ax
        drawing.figure.set_size_inches(1.15 * bins + 2.6, 0.9 * bins + 1.9)
        image = ax.imshow(mean, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        for row, column in np.ndindex(bins, bins):
            estimate = result.cell(row, column)
            if estimate.value is None:
                text = "–"
            else:
                text = f"{estimate.value:+.2f}" + ("" if estimate.error is None else f"\n± {estimate.error:.2f}")
            dark = estimate.value is not None and abs(estimate.value) > 0.6 * reach
            ax.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "#1f2937")
        base = np.nanmean(result.base, axis=0)
        ax.set_xticks(range(bins), [f"{n}\n(untuned {base[n]:.2f})" for n in range(bins)], fontsize=8)
        ax.set_yticks(range(bins), [f"≤ {n}" if cumulative else str(n) for n in range(bins)])
        ax.set(xlabel="evaluation bin, easiest first", ylabel="training bin")
        ax.grid(visible=False)
        count = len(result.seeds)
        ax.set_title(f"{about}\n{sizes}\n{count} seed{'s' if count > 1 else ''}", fontsize=8, fontweight="normal")
        drawing.figure.colorbar(image, ax=ax, label="gain in accuracy")
    return drawing.png


def _model(section: GeneralisationSection) -> str:
    return section.model if section.layers is None else f"{section.model} (first {section.layers} layers)"


def _others(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in values.items() if name != TRAIN_BIN)


def _cells(result: Heatmap, ranges: Sequence[Sequence[float]], note: str) -> Table:
    bins = len(ranges)
    columns = ("training bin", *(f"bin {n} ({low:.3g} to {high:.3g})" for n, (low, high) in enumerate(ranges)))
    rows: list[list[Cell]] = [[n, *(_estimate(result.cell(n, m)) for m in range(bins))] for n in range(bins)]
    untuned = [_estimate(result.untuned(m)) for m in range(bins)]
    note = f"Gain over the untuned model, 95 % intervals over seeds; last row: the untuned model's accuracy. {note}."
    return Table("Generalisation by training and evaluation bin", columns, [*rows, [BASE, *untuned]], note)


def _summaries(result: Heatmap) -> Table:
    rows: list[list[Cell]] = [
        [name.replace("_", " "), estimate.value, _interval(estimate), estimate.seeds, SUMMARIES[name]]
        for name, estimate in result.summaries().items()
    ]
    note = (
        "95 % intervals over seeds (Student; Fieller for the shares). A share has no value where a bin's own gain is not "
        "positive, and no interval where that gain can not be told from zero. Seeds that agree exactly give no interval."
    )
    return Table("Summaries of the heatmap", ("summary", "value", "95 % interval", "seeds", "what it is"), rows, note)


def _estimate(estimate: Estimate) -> str | None:
    if estimate.value is None:
        return None
    interval = _interval(estimate)
    return f"{estimate.value:.3f}" + (f" [{interval}]" if interval else "")


def _interval(estimate: Estimate) -> str | None:
    return None if estimate.low is None or estimate.high is None else f"{estimate.low:.3f} to {estimate.high:.3f}"


def _with_wilson(accuracy: float, count: float) -> str:
    low, high = wilson(np.array([accuracy * count]), np.array([count]))
    return f"{accuracy:.2f} [{low[0]:.2f}, {high[0]:.2f}]"


def _accuracy(base: Sequence[float], tuned: Sequence[float], sizes: np.ndarray, trained: str) -> bytes:
    with draw() as drawing:
        ax = drawing.ax
        position = np.arange(len(base))
        for shift, (name, accuracy, colour) in enumerate(((BASE, base, COLOURS[7]), (TUNED, tuned, COLOURS[0]))):
            values = np.asarray(accuracy)
            low, high = wilson(values * sizes, sizes)
            reach = np.maximum(np.stack([values - low, high - values]), 0)
            ax.errorbar(position + 0.08 * shift, values, reach, fmt="o-", color=colour, capsize=3, label=name)
        ax.set_xticks(position, [str(n) for n in position])
        ax.set(
            xlabel="evaluation bin, easiest first", ylabel="accuracy", ylim=(-0.02, 1.02), title=f"Trained on {trained}"
        )
        ax.legend()
    return drawing.png
