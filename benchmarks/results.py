"""Benchmark results as JSON: machine, versions, commit, command, raw values."""

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


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratio of each pair of runs that were measured side by side."""
    return [a / b for a, b in zip(mine, theirs, strict=True)]


def spread(repeats: Sequence[float]) -> str:
    """Median and range, as people read it."""
    return f"{statistics.median(repeats):.3g} ({min(repeats):.3g} to {max(repeats):.3g})"


def store(
    name: str, question: str, rows: Mapping[str, Sequence[float]], values: Mapping[str, Any], folder: Path = FOLDER
) -> Path:
    """Write one benchmark's result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    result = {
        "question": question.strip().splitlines()[0],
        "command": f"python -m benchmarks.{name} {' '.join(sys.argv[1:])}".strip(),
        "date": manifest.now(),
        "commit": manifest.commit(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "versions": manifest.versions(),
        "rows": {key: spread(repeats) for key, repeats in rows.items()},
        "repeats": {key: len(repeats) for key, repeats in rows.items()},
        "values": values,
    }
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
