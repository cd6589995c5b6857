"""Deploying again after a deploy that failed."""

from pathlib import Path

import httpx
import pytest

from rayworks.core.errors import ConfigError, DataError
from serve import deploy
from serve.common import keys
from tests.serve.deployment import serving, write_config


def test_a_failed_deploy_is_mended_by_repeating_it(cluster: dict[str, str], tmp_path: Path) -> None:
    arguments = {
        "api_keys": str(tmp_path / "keys"),
        "database": str(tmp_path / "ledger.sqlite"),
        "num_cpus": 0.2,
    }
    file = write_config(tmp_path, "regulation", {"regulation": arguments})
    with serving(cluster):
        with pytest.raises(DataError, match="api_keys"):
            deploy.deploy(file)
        keys.create("me", str(tmp_path / "keys"))
        (url,) = deploy.deploy(file)
        assert httpx.get(f"{url}/healthz", timeout=30).status_code == 200


def test_an_application_is_deployed_without_what_others_lack(cluster: dict[str, str], tmp_path: Path) -> None:
    keys.create("me", str(tmp_path / "keys"))
    shared = {"api_keys": str(tmp_path / "keys"), "database": str(tmp_path / "ledger.sqlite"), "num_cpus": 0.2}
    missing = {**shared, "export": str(tmp_path / "nowhere")}
    file = write_config(tmp_path, "regulation", {"good": shared, "lacking": missing})
    with serving(cluster):
        (url,) = deploy.deploy(file, ["good"])
        assert url.endswith("/good")
        with pytest.raises(ConfigError, match="--only better: is no application"):
            deploy.deploy(file, ["better"])
