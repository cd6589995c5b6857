"""Difficulties of a board as a command: ``rayworks difficulty board.csv``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rayworks.core.errors import ConfigError
from rayworks.core.registry import load
from rayworks.systems.difficulty.anchored_board import AnchoredBoard, fit_to_anchors
from rayworks.systems.difficulty.board import BoardFit, fit
from rayworks.systems.difficulty.item_response.curves import MODELS
from rayworks.systems.difficulty.printing import printed

PURPOSE = """Difficulties of a benchmark's items from who solved what: a CSV, TSV, Parquet or JSON file, long or wide, or the
sample logs of lm-eval, HELM or the Open LLM Leaderboard (several files, or a folder). Without a cluster. What was taken for
what, and what the numbers rest on, goes to standard error; a CSV in the order of the input to standard output or --output.
`ask` in the place of a board makes an adaptive test, `link` puts two calibrations on one scale."""
COMMANDS = {
    "ask": "rayworks.systems.difficulty.adaptive_asking:main",
    "link": "rayworks.systems.difficulty.calibration_links:main",
}
"""First words that are no board."""


def main(arguments: Sequence[str] | None = None, program: str = "rayworks difficulty") -> int:
    """Fit a board and print its items, or do what the first word names; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] and words[0] in COMMANDS:
        code: int = load(COMMANDS[words[0]])(words[1:], f"{program} {words[0]}")
        return code
    options = parser(program).parse_args(words)

    def fitted() -> tuple[pd.DataFrame, Sequence[str]]:
        found = _to_anchors(options) if options.anchors is not None else _by_itself(options)
        return found.items, found.notes

    return printed(fitted, options.output)


def _by_itself(options: argparse.Namespace) -> BoardFit:
    needs = [name for name in ("population_sd", "abilities") if getattr(options, name) is not None]
    if needs:
        raise ConfigError(f"--{needs[0].replace('_', '-')}: goes with --anchors; give it, or leave this out")
    return fit(
        options.board,
        options.model,
        attempts=options.attempts,
        options=options.options,
        items_in_rows=options.items_in_rows or None,
        estimator=options.estimator,
        groups=None if options.groups == "none" else options.groups,
        allow_disconnected=options.allow_disconnected,
    )


def _to_anchors(options: argparse.Namespace) -> AnchoredBoard:
    own = options.estimator not in ("auto", "mml") or options.groups not in ("auto", "none")
    if own or options.options is not None or options.allow_disconnected:
        left_out = "--estimator, --groups, --options and --allow-disconnected"
        raise ConfigError(f"--anchors: {left_out} are not for it; leave them out")
    found = fit_to_anchors(
        options.board,
        options.anchors,
        options.model,
        population_sd=options.population_sd,
        attempts=options.attempts,
        items_in_rows=options.items_in_rows or None,
    )
    if options.abilities is not None:
        found.subjects.to_csv(options.abilities, index=False)
    return found


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
    found.add_argument(
        "--anchors", type=Path, metavar="FILE", help="known items, as this command wrote them; they stay as they are"
    )
    found.add_argument(
        "--population-sd", type=float, metavar="S", help="anchors: abilities are N(0, S); by default both are estimated"
    )
    found.add_argument("--abilities", type=Path, metavar="FILE", help="anchors: CSV of the subjects to write")
    found.add_argument("--output", type=Path, metavar="FILE", help="CSV to write instead of standard output")
    return found
