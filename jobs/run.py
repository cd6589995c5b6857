"""Run a system: ``python -m jobs.run SYSTEM [--smoke] [--config FILE] [--section.field VALUE ...]``.

Repeating the same command resumes. Exit codes: 0 done, 2 bad config, 3 resume mismatch, 4 bad data, 75 infrastructure.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rayworks.core import config as configs
from rayworks.core.config import SystemConfig
from rayworks.core.errors import RayworksError
from rayworks.core.registry import SystemSpec, find
from rayworks.core.run_directory import RunDirectory
from rayworks.systems import REGISTRY


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, resolve, and run or only show."""
    options, overrides = parser().parse_known_args(arguments)
    try:
        spec, config = resolve(options, overrides)
        if options.print_config:
            print(configs.commented_yaml(config), end="")
            return 0
        if options.dry_run:
            return dry_run(spec, config)
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    from rayworks.runtime.launch import launch

    return launch(spec, config)


def parser() -> argparse.ArgumentParser:
    """The command line, without the dotted settings."""
    parser = argparse.ArgumentParser(prog="python -m jobs.run", description=__doc__, allow_abbrev=False)
    parser.add_argument("system", metavar="SYSTEM", help=f"one of: {', '.join(REGISTRY)}")
    parser.add_argument("--smoke", action="store_true", help="the smallest run that is still real")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with what differs from the defaults")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config, commented, and stop")
    parser.add_argument("--dry-run", action="store_true", help="validate, compare with the cluster, and stop")
    return parser


def resolve(options: argparse.Namespace, overrides: Sequence[str]) -> tuple[SystemSpec, SystemConfig]:
    """The system and its config from a parsed command line.

    Raises:
        ConfigError: anything is wrong with it.
    """
    spec = find(REGISTRY, options.system)
    config = configs.resolve(
        spec.config,
        smoke=spec.smoke if options.smoke else None,
        file=options.config,
        overrides=configs.parse_overrides(overrides),
    )
    return spec, config


def dry_run(spec: SystemSpec, config: SystemConfig) -> int:
    """Say what would run, where, and whether the cluster named by ``RAY_ADDRESS`` could hold it."""
    from rayworks.runtime import launch, placement

    directory = RunDirectory(config.run.storage, spec.name, config.run.name)
    launch.check_resume(directory, config)
    system = spec.load_system()
    system.check_inputs(config)
    bundles = system.reserved(config)
    print(f"{spec.name}: config and inputs are valid; run directory {directory.uri}")
    print(f"asks for {placement.describe(bundles)}")
    if "RAY_ADDRESS" in os.environ:
        launch.attach(bundles)
        placement.require(bundles, config.compute.placement_timeout_seconds)
        print("the cluster can hold it")
    else:
        print("RAY_ADDRESS is not set: it would run on a private Ray on this machine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
