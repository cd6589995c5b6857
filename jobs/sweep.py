"""Vary config fields: ``python -m jobs.sweep SYSTEM [--config FILE] [--smoke] [--section.field VALUE ...]``.

The file says what the trials share (``base``) and what varies (``space``); each trial is an ordinary run. Repeating the
same command resumes. Exit codes as of ``jobs.run``; a trial whose own data or config is bad is reported and stops nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rayworks.core import config as configs
from rayworks.core.errors import RayworksError
from rayworks.core.registry import find
from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Sweep, read_sweep
from rayworks.systems import REGISTRY

CONFIGS = Path(__file__).resolve().parent / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, validate, and run or only show."""
    options, overrides = parser().parse_known_args(arguments)
    try:
        spec = find(REGISTRY, options.system)
        file = options.config or CONFIGS / f"{spec.name}.sweep.yaml"
        sweep = read_sweep(spec, file, smoke=options.smoke, overrides=configs.parse_overrides(overrides))
        if options.print_config:
            print(configs.commented_yaml(sweep.settings), end="")
            return 0
        if options.dry_run:
            return dry_run(sweep)
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    from rayworks.runtime.sweep import run_sweep

    return run_sweep(sweep)


def parser() -> argparse.ArgumentParser:
    """The command line, without the dotted settings."""
    parser = argparse.ArgumentParser(prog="python -m jobs.sweep", description=__doc__, allow_abbrev=False)
    parser.add_argument("system", metavar="SYSTEM", help=f"one of: {', '.join(REGISTRY)}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the sweep's YAML; jobs/configs/SYSTEM.sweep.yaml if not given"
    )
    parser.add_argument("--smoke", action="store_true", help="the system's smallest values under the sweep's base")
    parser.add_argument("--print-config", action="store_true", help="print the sweep, commented, and stop")
    parser.add_argument("--dry-run", action="store_true", help="validate, list the trials, and stop")
    return parser


def dry_run(sweep: Sweep[Any]) -> int:
    """Say what would run, and where."""
    directory = RunDirectory(sweep.base.run.storage, sweep.spec.name, sweep.base.run.name)
    print(f"{sweep.spec.name}: the sweep is valid; directory {directory.uri}")
    for trial in sweep.trials():
        print(f"{trial.name}  {dict(trial.values)}")
    print(f"{sweep.planned} trials, {sweep.settings.search} search")
    return 0


if __name__ == "__main__":
    sys.exit(main())
