"""Difficulties of a board as a command: ``rayworks difficulty board.csv``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rayworks.core.errors import RayworksError
from rayworks.systems.difficulty.board import fit
from rayworks.systems.difficulty.item_response.curves import MODELS

PURPOSE = """Difficulties of a benchmark's items from who solved what: a CSV, TSV, Parquet or JSON file, long or wide, or the
sample logs of lm-eval, HELM or the Open LLM Leaderboard (several files, or a folder). Without a cluster. What was taken for
what, and what the numbers rest on, goes to standard error; a CSV in the order of the input to standard output or --output."""


def main(arguments: Sequence[str] | None = None, program: str = "rayworks difficulty") -> int:
    """Fit a board and print its items; the exit code."""
    options = parser(program).parse_args(arguments)
    try:
        found = fit(
            options.board,
            options.model,
            attempts=options.attempts,
            options=options.options,
            items_in_rows=options.items_in_rows or None,
            estimator=options.estimator,
            groups=None if options.groups == "none" else options.groups,
            allow_disconnected=options.allow_disconnected,
        )
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    for note in found.notes:
        print(f"- {note}", file=sys.stderr)
    if options.output is None:
        print(found.items.to_csv(index=False, float_format="%.6g"), end="")
    else:
        found.to_csv(options.output)
    return 0


def parser(program: str) -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog=program, description=PURPOSE, allow_abbrev=False)
    found.add_argument("board", nargs="+", help="file, files or folder of results")
    found.add_argument("--model", choices=MODELS, default="1PL", help="item response model")
    found.add_argument(
        "--estimator",
        choices=("auto", "mml", "map", "conditional"),
        default="auto",
        help="map puts priors on all items, as auto does where so few answer a 2PL that difficulties have no bounded "
        "interval; conditional (1PL) assumes nothing of abilities",
    )
    found.add_argument(
        "--groups",
        default="auto",
        metavar="COLUMN",
        help="populations of their own: a column of a long table, by-design, auto (by design where the abler saw other "
        "items) or none",
    )
    found.add_argument(
        "--attempts", type=float, default=1.0, metavar="N", help="attempts that each score is the average of"
    )
    found.add_argument("--options", type=int, metavar="N", help="3PL, 4PL: options to choose from")
    found.add_argument(
        "--items-in-rows", action="store_true", help="of a wide table: a row a question, a column a model"
    )
    found.add_argument(
        "--allow-disconnected", action="store_true", help="take parts that share no subject as one population"
    )
    found.add_argument("--output", type=Path, metavar="FILE", help="CSV to write instead of standard output")
    return found
