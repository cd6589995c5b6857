"""Deploying again after a deploy that failed."""

from pathlib import Path

import httpx
import pytest

from rayworks.core.errors import ConfigError, DataError
from serve import deploy
from serve.common import keys
from tests.serve.deployment import Deployment


def test_a_failed_deploy_is_mended_by_repeating_it(deployment: Deployment, tmp_path: Path) -> None:
    late = {"api_keys": str(tmp_path / "keys"), "database": str(tmp_path / "ledger.sqlite")}
    with deployment.beside("regulation", {"late": late}) as file:
        with pytest.raises(DataError, match="api_keys"):
            deploy.deploy(file)
        keys.create("me", str(tmp_path / "keys"))
        assert deploy.deploy(file)[-1] == deployment.url("late")
        assert httpx.get(f"{deployment.url('late')}/healthz", timeout=30).status_code == 200


def test_an_application_is_deployed_without_what_others_lack(deployment: Deployment, tmp_path: Path) -> None:
    good = {"database": str(tmp_path / "ledger.sqlite"), "replicas": {"max_replicas": 2}}
    lacking = {**good, "api_keys": str(tmp_path / "nowhere")}
    with deployment.beside("regulation", {"good": good, "lacking": lacking}) as file:
        kept = [name for name in deployment.names() if name != "lacking"]
        assert deploy.deploy(file, kept) == [deployment.url(name) for name in kept]
        assert httpx.get(f"{deployment.url('good')}/healthz", timeout=30).status_code == 200
        with pytest.raises(ConfigError, match="--only better: is no application"):
            deploy.deploy(file, ["better"])
