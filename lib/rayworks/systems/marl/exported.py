"""A trained policy as files: what Serve loads, and its card."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from pydantic import TypeAdapter

from rayworks.core.exports import Write, reading
from rayworks.systems.marl.config import Config, EnvironmentSection, NetworkKind, NetworkSection
from rayworks.systems.marl.environments.registry import team_specs
from rayworks.systems.marl.environments.scenes import TeamSpec
from rayworks.systems.marl.findings.evaluation import Weights, policies_for
from rayworks.systems.marl.networks.policy_network import PolicyNetwork
from rayworks.systems.marl.networks.symmetry_groups import claimed

POLICY = "policy.json"
Values = Mapping[str, Any]
ORIGINS = {"absolute": "the centre of the map", "own": "the agent", "centroid": "the mean position"}


@dataclass(frozen=True)
class ExportedPolicy:
    """Contents of an export folder."""

    kind: NetworkKind
    environment: EnvironmentSection
    network: NetworkSection
    teams: Mapping[str, TeamSpec]
    """Environment of the training."""
    weights: Weights
    certificate: Mapping[str, Values]
    """Certificate of the trained policy by team: ``errors``, ``claims``, ``holds``."""

    def policies(self, teams: Mapping[str, TeamSpec]) -> dict[str, PolicyNetwork]:
        """Networks for teams, perhaps of other sizes.

        Raises:
            DataError: an MLP for another number of entities.
        """
        return policies_for(self.kind, teams, self.network, self.weights)


def write_export(exported: ExportedPolicy, write: Write) -> None:
    """Write ``policy.json``, and ``TEAM.safetensors`` for each team."""
    described = {
        "kind": exported.kind,
        "environment": exported.environment.model_dump(mode="json"),
        "network": exported.network.model_dump(mode="json"),
        "teams": {name: TypeAdapter(TeamSpec).dump_python(spec, mode="json") for name, spec in exported.teams.items()},
        "certificate": dict(exported.certificate),
    }
    write(POLICY, json.dumps(described, indent=2).encode())
    for team, arrays in exported.weights.items():
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write(f"{team}.safetensors", safetensors.numpy.save(stored))


def read_export(folder: str | Path) -> ExportedPolicy:
    """Read what :func:`write_export` wrote. Nothing in the files is executed.

    Raises:
        DataError: files are missing, damaged or do not fit each other.
    """
    with reading(folder, "marl") as path:
        described = json.loads((path / POLICY).read_text())
        exported = ExportedPolicy(
            TypeAdapter(NetworkKind).validate_python(described["kind"]),
            EnvironmentSection.model_validate(described["environment"]),
            NetworkSection.model_validate(described["network"]),
            {name: TypeAdapter(TeamSpec).validate_python(spec) for name, spec in described["teams"].items()},
            {name: safetensors.numpy.load_file(path / f"{name}.safetensors") for name in described["teams"]},
            described["certificate"],
        )
        exported.policies(exported.teams)
    return exported


def model_card(config: Config, kind: NetworkKind, results: Values) -> str:
    """The README of the export."""
    final = results["final"]
    scores = [v for name, v in final["evaluations"].items() if v is not None and name.rpartition("-")[0] == kind]
    returns = ", ".join(f"{score['returns']:.4g}" for score in scores)
    wins = [score["won"] for score in scores if score["won"] is not None]
    won = f"\nShares of games won: {', '.join(f'{share:.3f}' for share in wins)}." if wins else ""
    return (
        f"# A {kind} policy for {config.environment.name}\n\n"
        f"Trained for {config.training.steps:,} environment steps by PPO on RLlib, seed {config.run.seed}, the first of "
        f"{config.experiment.seeds} trainings, whose final returns are {returns}.{won}\n\n## Symmetry\n\n"
        f"{_symmetries(config, kind, final['certificate'])}"
        f"Turns are about the origin of coordinates ({ORIGINS[config.network.frame]}).\n\n## Use\n\n"
        "`rayworks.systems.marl.exported.read_export(folder)`, or Serve: `POST /v1/marl/act`. Positions are from the centre "
        "of the map, its half-width about 1; features must not change when the world is turned.\n\n"
        "It has learned this environment's rewards against its opponents and nothing else.\n"
    )


def _symmetries(config: Config, kind: NetworkKind, certificate: Values) -> str:
    said = ""
    for team, spec in team_specs(config.environment).items():
        groups = claimed(kind, spec, config.network)
        said += f"Team **{team}** ({spec.agents} agents, {spec.entities} entities):\n"
        for group, error in certificate[team]["errors"].items():
            claim = "respected by construction" if group in groups else "not respected"
            said += f"- {group}: {claim}; largest error measured {error:.1e}\n"
        said += "\n"
    return said
