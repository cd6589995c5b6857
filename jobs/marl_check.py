"""Certify symmetry: ``python -m jobs.marl_check [--environment NAME ...] [--network.FIELD VALUE ...] [--policy FOLDER]``.

Every network in every frame of every environment, untrained, end to end through its RLlib module in float32; or, with
``--policy``, an exported one. Prints the largest error under each group of symmetries, and says what StarCraft II still
lacks on this machine. Exit codes: 0 all claims hold, 1 a claim is broken, 2 bad config, 4 bad data.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import track
from rich.table import Table

from rayworks.core import config as configs
from rayworks.core.errors import ConfigError, RayworksError
from rayworks.systems.marl.config import Config, NetworkKind
from rayworks.systems.marl.environments.starcraft import missing_parts
from rayworks.systems.marl.exported import read_export
from rayworks.systems.marl.findings.certificates import FRAMES, SETTINGS, Tried, certificates, every_certificate
from rayworks.systems.marl.findings.symmetry import TOLERANCE
from rayworks.systems.marl.networks.symmetry_groups import Group
from rayworks.systems.marl.rllib.module import quiet_rllib

GROUPS = get_args(Group)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, certify, print."""
    options, overrides = parser().parse_known_args(arguments)
    console = Console(width=120)
    quiet_rllib()
    try:
        if options.policy is not None:
            tried = exported(options.policy, options.scenes)
        else:
            network = of_the_network(configs.parse_overrides(overrides))
            chosen = environments(options.environment)
            whole = every_certificate(chosen, network, options.scenes)
            tried = list(track(whole, "certificates", console=console, transient=True, disable=not console.is_terminal))
    except RayworksError as error:
        print(f"{error.kind} error: {error}", file=sys.stderr)
        return error.exit_code
    console.print(table(tried))
    broken = [one for one in tried if not one.certificate.holds]
    for one in broken:
        console.print(
            f"BROKEN: {one.certificate.kind}, {one.graph} graph, {one.frame} frame, {one.environment}, {one.team}"
        )
    print(f"{len(tried)} certificates, {len(broken)} broken; {largest(tried)}")
    for sentence in missing_parts():
        print(f"smacv2: {sentence}")
    return 1 if broken else 0


def parser() -> argparse.ArgumentParser:
    """The command line, without the dotted settings of the network."""
    made = argparse.ArgumentParser(prog="python -m jobs.marl_check", description=__doc__, allow_abbrev=False)
    made.add_argument("--environment", nargs="+", metavar="NAME", help="some of them only, such as mpe/simple_tag")
    made.add_argument("--policy", type=Path, metavar="FOLDER", help="export folder of a finished run")
    made.add_argument("--scenes", type=int, default=16, help="tried for each certificate")
    return made


def environments(names: Sequence[str] | None) -> Sequence[Mapping[str, Any]]:
    """The settings to try for the names, or all."""
    if names is None:
        return SETTINGS
    free = ("vectors", "discrete")
    return [
        {"name": name, "actions": actions} if name.startswith("mpe") else {"name": name}
        for name in names
        for actions in (free if name.startswith("mpe") else free[:1])
    ]


def of_the_network(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``network`` by field.

    Raises:
        ConfigError: another section; graph and frame, which are varied here.
    """
    for path in overrides:
        section, _, field = path.partition(".")
        if section != "network" or field in ("graph", "frame"):
            raise ConfigError(f"{path}: only settings of network can be given here, and graph and frame are all tried")
    network = configs.resolve(Config, overrides=overrides).network
    return {field: getattr(network, field) for field in (path.partition(".")[2] for path in overrides)}


def exported(folder: Path, scenes: int) -> list[Tried]:
    """Certificates of a trained policy in the environment it was trained in.

    Raises:
        DataError: not an export folder.
    """
    policy = read_export(folder)
    values = {"environment": policy.environment.model_dump(), "network": policy.network.model_dump()}
    config = configs.resolve(Config, overrides={**values, "experiment.certificate_scenes": scenes})
    section, network = policy.environment, policy.network
    return [
        Tried(section.name, section.actions, team, network.graph, network.frame, one)
        for team, one in certificates(config, policy.kind, policy.weights).items()
    ]


def table(tried: Iterable[Tried]) -> Table:
    """A row for each network and frame; the largest errors over environments and teams, in brackets where not claimed."""
    worst: dict[tuple[str, str, str], dict[str, tuple[float, bool]]] = defaultdict(dict)
    for one in tried:
        row = worst[one.certificate.kind, one.graph, one.frame]
        for group, error in one.certificate.errors.items():
            before, claimed = row.get(group, (0.0, False))
            row[group] = max(before, error), claimed or group in one.certificate.claims
    made = Table(title="Largest error under each group; brackets: not claimed", title_justify="left")
    for name in ("network", "graph", "frame", *GROUPS):
        made.add_column(name, justify="right" if name in GROUPS else "left")
    order = [(kind, *frame) for kind in get_args(NetworkKind) for frame in FRAMES]
    for key in sorted(worst, key=order.index):
        made.add_row(*key, *(cell(worst[key].get(group)) for group in GROUPS))
    return made


def cell(found: tuple[float, bool] | None) -> str:
    """As printed."""
    if found is None:
        return ""
    return f"{found[0]:.1e}" if found[1] else f"({found[0]:.1e})"


def largest(tried: Iterable[Tried]) -> str:
    """Of all that is claimed, in words."""
    claimed = [one.certificate.errors[group] for one in tried for group in one.certificate.claims]
    return f"largest error of a claim {max(claimed, default=0.0):.1e}, allowed {TOLERANCE:.0e}"


if __name__ == "__main__":
    sys.exit(main())
