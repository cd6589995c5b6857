"""Deploys applications on the shared cluster for the tests of one module."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serve import deploy
from tests.conftest import free_port


def write_config(folder: Path, system: str, applications: Mapping[str, Mapping[str, Any]]) -> Path:
    """A Serve config that deploys a system's application once per name with those arguments."""
    values = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": free_port()},
        "applications": [
            {
                "name": name,
                "route_prefix": f"/{name}",
                "import_path": f"serve.apps.{system}:build",
                "args": dict(args),
            }
            for name, args in applications.items()
        ],
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


@contextmanager
def serving(cluster: Mapping[str, str]) -> Iterator[None]:
    """Deploys inside the block go to the shared cluster, and nothing of them is left after it."""
    os.environ["RAY_DASHBOARD_ADDRESS"] = cluster["RAY_DASHBOARD_ADDRESS"]
    try:
        yield
    finally:
        from ray import serve as ray_serve

        ray_serve.shutdown()
        del os.environ["RAY_DASHBOARD_ADDRESS"]


@contextmanager
def deployed(
    cluster: Mapping[str, str], folder: Path, system: str, applications: Mapping[str, Mapping[str, Any]]
) -> Iterator[list[str]]:
    """URLs of a system's application, deployed once per name with those arguments."""
    with serving(cluster):
        yield deploy.deploy(write_config(folder, system, applications))
