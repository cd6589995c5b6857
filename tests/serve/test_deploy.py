"""Deploying: what a config lacks is said before anything is replaced, and a deploy that failed is mended by another."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.systems import REGISTRY
from serve import deploy
from serve.common import keys
from tests.serve.deployment import Deployment


def is_healthy(deployment: Deployment, name: str) -> bool:
    return httpx.get(f"{deployment.url(name)}/healthz", timeout=30).status_code == 200


def application(system: str, **args: Any) -> dict[str, Any]:
    return {
        "name": f"my-{system}",
        "route_prefix": f"/my-{system}",
        "import_path": f"serve.apps.{system}:build",
        "args": args,
    }


@pytest.mark.parametrize("system", REGISTRY)
def test_a_mistyped_export_is_named_with_its_application(system: str, tmp_path: Path) -> None:
    keys.create("me", str(tmp_path / "keys"))
    mistyped = application(system, api_keys=str(tmp_path / "keys"), export=str(tmp_path / "exprot"))
    told = rf"application my-{system}: export {tmp_path}/exprot: .*no such folder.* correct the path"
    with pytest.raises(DataError, match=told):
        deploy.require_files([mistyped], Path("my.yaml"))


def test_all_that_is_lacking_is_named_and_what_could_be_deployed(tmp_path: Path) -> None:
    keys.create("me", str(tmp_path / "keys"))
    good = application("regulation", api_keys=str(tmp_path / "keys"))
    lacking = [application("difficulty", api_keys=str(tmp_path / "yeks")), application("marl", export=str(tmp_path))]
    with pytest.raises(DataError, match=r"my-difficulty: api_keys .*yeks.* my-marl: export .*--only my-regulation$"):
        deploy.require_files([good, *lacking], Path("my.yaml"))
    deploy.require_files([good], Path("my.yaml"))


def test_a_mistyped_import_path_is_named(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"applications": [application("mral")]}))
    with pytest.raises(ConfigError, match=r"application my-mral: import_path serve\.apps\.mral:build: .* write"):
        deploy.load_config(file)


@pytest.mark.parametrize(
    ("asked", "named"), [({"port": 8001}, "port"), ({}, "port"), ({"port": 8123, "host": "::1"}, "host")]
)
def test_http_options_that_serve_would_not_take_up_are_refused(asked: dict[str, Any], named: str) -> None:
    running = {"http_options": {"port": 8123, "host": "127.0.0.1", "root_path": ""}}
    with pytest.raises(ConfigError, match=rf"http_options\.{named}: Serve runs with"):
        deploy.require_same_http(running, {"http_options": asked}, Path("my.yaml"))
    deploy.require_same_http(running, {"http_options": {"port": 8123}}, Path("my.yaml"))
    deploy.require_same_http({"controller_info": {}}, {"http_options": asked}, Path("my.yaml"))


def test_a_dead_address_is_told_with_what_to_do(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"applications": [application("regulation")]}))
    monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", "http://127.0.0.1:1")
    told = rf"http://127\.0\.0\.1:1: can not deploy .* is at {cluster['RAY_DASHBOARD_ADDRESS']} now: repeat eval"
    with pytest.raises(InfrastructureError, match=told):
        deploy.deploy(file, files_elsewhere=True)


def test_a_failed_deploy_is_mended_by_repeating_it(deployment: Deployment, tmp_path: Path) -> None:
    late = {"api_keys": str(tmp_path / "keys"), "database": str(tmp_path / "ledger.sqlite")}
    with deployment.beside("regulation", {"late": late}) as file:
        with pytest.raises(DataError, match=r"application late: DEPLOY_FAILED: .*api_keys"):
            deploy.deploy(file, files_elsewhere=True)
        keys.create("me", str(tmp_path / "keys"))
        assert deploy.deploy(file)[-1] == deployment.url("late")
        assert is_healthy(deployment, "late")


def test_neither_what_others_lack_nor_what_a_later_deploy_lacks_ends_an_application(
    deployment: Deployment, tmp_path: Path
) -> None:
    good = {"database": str(tmp_path / "ledger.sqlite"), "replicas": {"max_replicas": 2}}
    lacking = {**good, "api_keys": str(tmp_path / "nowhere")}
    with deployment.beside("regulation", {"good": good, "lacking": lacking}) as file:
        kept = [name for name in deployment.names() if name != "lacking"]
        assert deploy.deploy(file, kept) == [deployment.url(name) for name in kept]
        assert is_healthy(deployment, "good")
        with pytest.raises(ConfigError, match="--only better: is no application"):
            deploy.deploy(file, ["better"])
        values = yaml.safe_load(file.read_text())
        values["applications"][-2]["args"]["export"] = str(tmp_path / "mistyped")
        file.write_text(yaml.safe_dump(values))
        with pytest.raises(DataError, match=r"application good: export .*mistyped.* nothing was replaced"):
            deploy.deploy(file, kept)
        assert is_healthy(deployment, "good")
