"""Benchmark results as JSON: machine, versions, commit, command, raw values; and the table made from them."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rayworks.core import manifest

FOLDER = Path(__file__).parent / "results"


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of runs that were measured side by side."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def store(name: str, question: str, rows: Mapping[str, float], values: Mapping[str, Any]) -> Path:
    """Write one benchmark's result."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    result = {
        "question": question.strip().splitlines()[0],
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "date": manifest.now(),
        "commit": manifest.commit(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "versions": manifest.versions(),
        "rows": {key: round(value, 3) for key, value in rows.items()},
        "values": values,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def table() -> str:
    """All stored results as a Markdown table."""
    lines = ["| question | measured | |", "|---|---|---|"]
    for path in sorted(FOLDER.glob("*.json")):
        result = json.loads(path.read_text())
        for index, (name, value) in enumerate(result["rows"].items()):
            lines.append(f"| {result['question'] if index == 0 else ''} | {name} | {value:g} |")
    return "\n".join(lines)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
