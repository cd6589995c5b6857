"""The stored results as Markdown: all of them, by system, for docs/benchmarks.md, and a few for the README."""

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.comparisons import COMPARISONS, SYSTEMS, Comparison
from benchmarks.results import FOLDER

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "docs" / "benchmarks.md", ROOT / "README.md")
BEGIN, END = "<!-- benchmarks: made by make bench -->", "<!-- end of benchmarks -->"
SHOWN = (
    ("alignment", "guided_decoding", "against peer at batch 8, ragged lengths (goal 1.3)"),
    ("difficulty", "item_response", "times as fast as girth 0.8.0 twopl_mml (goal 20)"),
    ("federation", "federation_engine", "100 trivial clients: times faster (goal at least 10)"),
    ("marl", "particle_world", "ours / vmas, 256 copies (goal 1)"),
    ("marl", "team_training", "training, graph per team / RLlib (goal 2.5)"),
    ("recommendation", "next_item", "times as many samples per CPU s (goal 2)"),
    ("regulation", "auction", "times as fast per bid as direct quadrature (goal 100)"),
    ("recommendation", "acceptance_serving", "accept, past 50, slate 20, 50 requests/s: p95 ms (goal < 30)"),
)
"""The README's lines: system, result, row."""
GOAL = re.compile(r"^(.*) \(goal (at least |at most |<= |< |)([\d.,]+)\)$")
WORDS = {"": "at least", "at least": "at least", "at most": "at most", "<=": "at most", "<": "below"}
SPREAD = re.compile(r"^(\S+) \((\S+) to (\S+)\)$")


def full_table() -> str:
    """Every row of every result, under a heading for each system and a line for each question."""
    parts = []
    for system, names in SYSTEMS.items():
        parts.append(f"## {system}")
        for name in names:
            result = json.loads((FOLDER / f"{name}.json").read_text())
            told = f"{result['question']} `{result['command']}`, {result['date'][:10]}, {result['machine']['cpu']}."
            parts += [told, "\n".join([*_head("measured"), *(_cells(line, result) for line in _lines(name, result))])]
    return "\n\n".join(parts)


def short_table() -> str:
    """The README's lines."""
    lines = _head("system | measured")
    for system, name, row in SHOWN:
        result = json.loads((FOLDER / f"{name}.json").read_text())
        line = next(line for line in _lines(name, result) if row in (line.ratio, line.ours))
        lines.append(f"| {system} {_cells(line, result)}")
    return "\n".join(lines)


def write_tables() -> None:
    """Put both between the marks of their pages."""
    for page, made in zip(PAGES, (full_table(), short_table()), strict=True):
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}")


def is_met(row: str, median: float) -> bool | None:
    """Whether a median reaches the goal that its row's name states; None without a goal."""
    found = GOAL.match(row)
    if found is None:
        return None
    relation, goal = found[2].strip(), float(found[3].replace(",", ""))
    if relation == "<":
        return median < goal
    return median <= goal if relation in ("<=", "at most") else median >= goal


def _head(first: str) -> list[str]:
    columns = f"| {first} | ours | peer | ratio | goal | met | n |"
    return [columns, re.sub(r"[^|]+", "---", columns)]


def _lines(name: str, result: dict[str, Any]) -> Iterator[Comparison]:
    compared = COMPARISONS.get(name, ())
    yield from compared
    named = {part for line in compared for part in (line.ours, line.peer, line.ratio)}
    for row in result["rows"]:
        if row not in named:
            yield Comparison(_without_goal(row), ours=row)


def _cells(line: Comparison, result: dict[str, Any]) -> str:
    row = line.ratio or line.ours
    met = is_met(row, _spread(row, result)[0]) if row in result["rows"] else None
    goal = GOAL.match(row)
    aim = "" if goal is None else f"{WORDS[goal[2].strip()]} {goal[3]}"
    ours, peer = (_shown(part, result, line) for part in (line.ours, line.peer))
    verdict = {None: "", True: "yes", False: "**no**"}[met]
    ratio = _shown(line.ratio, result)
    cells = [line.what, ours, ": ".join(filter(None, (line.against, peer))), ratio, aim, verdict]
    cells.append(str(result["repeats"][row]))
    return f"| {' | '.join(cells)} |"


def _shown(name: str, result: dict[str, Any], beside: Comparison | None = None) -> str:
    """A median with its range, which is left out where a ratio stands beside it."""
    if not name:
        return ""
    median, low, high = _spread(name, result, beside.scale if beside else 1.0)
    ranged = low < high and not (beside and beside.ratio)
    return f"{number(median)} ({number(low)} to {number(high)})" if ranged else number(median)


def _spread(name: str, result: dict[str, Any], scale: float = 1.0) -> tuple[float, float, float]:
    """Median, least and largest of a row, or of raw values."""
    if name in result["rows"]:
        found = SPREAD.match(result["rows"][name])
        assert found, name
        return float(found[1]), float(found[2]), float(found[3])
    values = [scale * value for value in _raw(result["values"], name.split("."))]
    return statistics.median(values), min(values), max(values)


def _raw(values: Any, path: list[str]) -> Any:
    if not path:
        return values
    if path[0] == "*":
        return [_raw(value, path[1:]) for value in values]
    return _raw(values[int(path[0]) if isinstance(values, list) else path[0]], path[1:])


def _without_goal(row: str) -> str:
    found = GOAL.match(row)
    return found[1] if found else row


def number(value: float) -> str:
    """Three significant digits, without an exponent where people would not write one."""
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.2e}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"
