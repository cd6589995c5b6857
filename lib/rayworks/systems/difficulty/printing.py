"""How the commands of difficulty end: a table on standard output or in a file, sentences on standard error."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from rayworks.core.errors import RayworksError


def printed(make: Callable[[], tuple[pd.DataFrame, Sequence[str]]], output: Path | None) -> int:
    """Print what ``make`` gives, a table and its notes, or its failure by class; the exit code."""
    try:
        table, notes = make()
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    for note in notes:
        print(f"- {note}", file=sys.stderr)
    if output is None:
        print(table.to_csv(index=False, float_format="%.6g"), end="")
    else:
        table.to_csv(output, index=False)
    return 0
