"""A run killed in its middle, at another number of workers and runners; bad input; the command that certifies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs import marl_check, run
from rayworks.core.errors import DataError
from rayworks.systems.marl.config import Config, EnvironmentSection
from rayworks.systems.marl.environments.registry import team_specs
from rayworks.systems.marl.exported import POLICY, read_export
from rayworks.systems.marl.findings.certificates import FRAMES
from tests.conftest import FinishedRun

Finished = Callable[[str], FinishedRun]


def test_what_a_run_leaves(finished_runs: Finished) -> None:
    directory = finished_runs("marl").directory
    with Image.open(directory / "figures/episode-0.gif") as film:
        assert getattr(film, "n_frames", 1) == 9, "the start and eight steps"
    policy = read_export(directory / "export")
    assert policy.kind == "e2gn2-last"
    assert all(one["holds"] for one in policy.certificate.values())
    card = (directory / "export/README.md").read_text()
    assert "rotations: respected by construction" in card
    assert "translations: not respected" in card


def test_the_command_certifies_an_exported_policy(finished_runs: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    export = finished_runs("marl").directory / "export"
    assert marl_check.main(["--policy", str(export)]) == 0
    assert "1 certificates, 0 broken" in capsys.readouterr().out


def test_damaged_exports_are_refused(finished_runs: Finished, tmp_path: Path) -> None:
    export = finished_runs("marl").directory / "export"
    with pytest.raises(DataError, match=r"policy\.json"):
        read_export(tmp_path)
    shutil.copytree(export, tmp_path / "cut")
    weights = tmp_path / "cut" / "agent.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(DataError, match="not the export of a finished marl run"):
        read_export(tmp_path / "cut")
    shutil.copytree(export, tmp_path / "other")
    described = json.loads((export / POLICY).read_text())
    described["network"]["hidden"] = 16
    (tmp_path / "other" / POLICY).write_text(json.dumps(described))
    with pytest.raises(DataError, match="does not fit"):
        read_export(tmp_path / "other")


def test_a_graph_policy_acts_in_larger_teams_and_an_mlp_says_that_it_can_not(finished_runs: Finished) -> None:
    policy = read_export(finished_runs("marl").directory / "export")
    larger = team_specs(EnvironmentSection(actions="vectors", agents=7))
    assert set(policy.policies(larger)) == {"agent"}
    perceptron = read_export(finished_runs("marl").directory / "export")
    with pytest.raises(DataError, match="entities"):
        type(perceptron)(**{**vars(perceptron), "kind": "mlp"}).policies(larger)


def test_bad_settings_end_with_their_code_and_their_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, words in (
        (("--environment.name", "mpe/simple_spred"), 2, "mpe/simple_spread"),
        (("--environment.name", "battle/elves_3_vs_3"), 2, "elves_3_vs_3"),
        (("--environment.name", "smacv2/terran_5_vs_5", "--sampling.num_envs", "1"), 2, "smacv2 is not installed"),
        (("--environment.name", "chess"), 2, "environment.name"),
        (("--environment.name", "battle/terran_3_vs_3", "--environment.agents", "4"), 2, "environment.agents"),
        (("--network.frame", "own"), 2, "network.frame"),
        (("--scope.stages", "[bias]"), 2, "scope.stages"),
        (("--generalisation.tests", "{far: {scale: 2}}"), 2, "generalisation.tests.far: scale"),
        (("--training.minibatch_size", "0"), 2, "training.minibatch_size"),
        (("--environment.name", "battle/zerg_2_vs_2", "--environment.actions", "vectors"), 2, "environment.actions"),
    ):
        found = run.main(["marl", "--dry-run", "--run.storage", str(tmp_path), *arguments])
        error = capsys.readouterr().err
        assert found == code, (arguments, error)
        assert words in error


def test_the_command_certifies_networks_and_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert marl_check.main(["--environment", "mpe/simple_push", "battle/zerg_2_vs_2", "--scenes", "4"]) == 0
    printed = capsys.readouterr().out
    assert "0 broken" in printed
    rows = [line for line in printed.splitlines() if "gnn" in line.split() or "mlp" in line.split()]
    assert len(rows) == 2 * len(FRAMES) and all("(" in line for line in rows), "what they do not claim is in brackets"
    for arguments, code, words in (
        (["--training.steps", "3"], 2, "training.steps"),
        (["--network.frame", "own"], 2, "network.frame"),
        (["--environment", "mpe/nowhere"], 2, "mpe/nowhere"),
        (["--policy", "/nowhere"], 4, "/nowhere"),
    ):
        assert marl_check.main(arguments) == code
        assert words in capsys.readouterr().err


def test_the_command_says_when_a_claim_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rayworks.systems.marl.networks import equivariant_layers

    def askew(self: Any, nodes: Any, *rest: Any, original: Any = equivariant_layers.GraphLayer.forward) -> Any:
        return original(self, nodes._replace(vectors=nodes.vectors + 0.1), *rest)

    monkeypatch.setattr(equivariant_layers.GraphLayer, "forward", askew)
    assert marl_check.main(["--environment", "mpe/simple", "--scenes", "4"]) == 1
    assert "BROKEN: e2gn2" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "iterations"), [(1, 1), (2500, 1), (2501, 2)])
def test_iterations_reach_the_steps_asked_for(steps: int, iterations: int) -> None:
    config = Config.model_validate({"training": {"steps": steps}})
    assert config.sampling.per_iteration == 2500 and config.iterations == iterations
