"""The load benchmark's measurements as a table for the terminal, rows for the stored result, and a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.open_loop import NOT_SENT
from rayworks.core.figures import COLOURS, draw

BARE = "bare"
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "figures" / "serving_load.png"
REFUSED = ("429", "503", "504")
KINDS = ("2xx", *REFUSED, "other", NOT_SENT)
Measured = Mapping[str, Sequence[Mapping[str, Any]]]
"""Application to what was measured, repeat by repeat."""


def show(measured: Measured) -> None:
    """Medians over the repeats, one line for each application and load."""
    table = Table(title="latency in ms from when a request was due; kinds of answers in %")
    for column in ("application", "load", "p50", "p95", "p99", "x bare", "2xx/s", *KINDS, "client late p99"):
        table.add_column(column, justify="left" if column == "application" else "right")
    for name, repeats in measured.items():
        for load in repeats[0]["loads"]:
            times = [f"{_median(repeats, load, quantity):.3g}" for quantity in ("p50", "p95", "p99")]
            ratio = f"{_median(repeats, load, 'p50') / _median(measured[BARE], load, 'p50'):.3g}"
            kinds = [f"{100 * median(share(one, load, kind) for one in repeats):.3g}" for kind in KINDS]
            rest = [f"{_median(repeats, load, 'per_second'):.3g}", *kinds, f"{_median(repeats, load, 'late_p99'):.3g}"]
            table.add_row(name, load, *times, ratio, *rest)
        back = median(one["recovery_seconds"] for one in repeats)
        table.add_row(name, "after", f"back after {back:g} s", end_section=True)
    Console(width=180).print(table)


def share(one: Mapping[str, Any], load: str, kind: str) -> float:
    """Of the requests that were due."""
    kinds = one["loads"][load]["kinds"]
    if kind == "other":
        return float(sum(part for name, part in kinds.items() if name not in KINDS))
    return float(kinds.get(kind, 0.0))


def rows(measured: Measured) -> dict[str, list[float]]:
    """What docs/benchmarks.md tells of each application, repeat by repeat."""
    found: dict[str, list[float]] = {}
    for name, repeats in measured.items():
        found[f"{name}: requests/s answered, closed loop"] = [one["capacity"] for one in repeats]
        for load, quantity in (("25%", "p50"), ("50%", "p95"), ("80%", "p99")):
            found[f"{name} at {load}: {quantity} ms"] = [one["loads"][load][quantity] for one in repeats]
        if name != BARE:
            pairs = zip(repeats, measured[BARE], strict=True)
            ratios = [a["loads"]["25%"]["p50"] / b["loads"]["25%"]["p50"] for a, b in pairs]
            found[f"{name} at 25%: p50 over that of an empty route"] = ratios
        found[f"{name} at 200%: p95 ms of what is answered"] = [one["loads"]["200%"]["p95"] for one in repeats]
        found[f"{name} at 200%: requests/s answered"] = [one["loads"]["200%"]["per_second"] for one in repeats]
        refused = [100 * sum(share(one, "200%", kind) for kind in REFUSED) for one in repeats]
        found[f"{name} at 200%: % refused with Retry-After"] = refused
        wrong = [100 * max(share(one, load, "other") for load in one["loads"]) for one in repeats]
        found[f"{name}: % answered in another way, at any load"] = wrong
        found[f"{name}: s until latency is back after 200%"] = [one["recovery_seconds"] for one in repeats]
    return found


def draw_loads(measured: Measured, folder: Path | None) -> None:
    """Latencies over load, and what becomes of requests at twice what can be answered."""
    from matplotlib.ticker import FuncFormatter

    loads = list(next(iter(measured.values()))[0]["loads"])
    with draw(1, 2) as drawing:
        times, answers = drawing.axes
        for (name, repeats), colour in zip(measured.items(), COLOURS, strict=False):
            for quantity, style in (("p50", "-"), ("p99", ":")):
                values = [_median(repeats, load, quantity) for load in loads]
                times.plot(loads, values, style, marker="o", color=colour, label=name if quantity == "p50" else None)
        times.set(yscale="log", xlabel="requests due, of what can be answered", ylabel="ms from due to answered")
        times.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        times.set_title("Median, and 99th percentile (dotted)")
        times.legend(fontsize=8)
        left = dict.fromkeys(measured, 0.0)
        for kind, colour in zip(KINDS, ("#2e933c", "#edae49", "#1b6ca8", "#6a4c93", "#d1495b", "#b0b7c3"), strict=True):
            values = [100 * median(share(one, loads[-1], kind) for one in repeats) for repeats in measured.values()]
            if any(values):
                answers.barh(list(measured), values, left=list(left.values()), color=colour, label=kind)
            left = {name: left[name] + value for name, value in zip(left, values, strict=True)}
        answers.invert_yaxis()
        answers.set(xlabel="% of requests due", title=f"Answers at {loads[-1]}")
        answers.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.06), ncols=len(KINDS))
    path = FIGURE if folder is None else folder / FIGURE.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawing.png)


def _median(repeats: Sequence[Mapping[str, Any]], load: str, quantity: str) -> float:
    return float(median(one["loads"][load][quantity] for one in repeats))
