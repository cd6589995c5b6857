"""Deploys applications on the shared cluster for the tests of one module."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from serve import deploy
from tests.conftest import free_port


@contextmanager
def deployed(
    cluster: Mapping[str, str], folder: Path, system: str, applications: Mapping[str, Mapping[str, Any]]
) -> Iterator[list[str]]:
    """URLs of a system's application, deployed once per name with those arguments."""
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
    os.environ["RAY_DASHBOARD_ADDRESS"] = cluster["RAY_DASHBOARD_ADDRESS"]
    try:
        yield deploy.deploy(file)
    finally:
        from ray import serve as ray_serve

        ray_serve.shutdown()
        del os.environ["RAY_DASHBOARD_ADDRESS"]
