"""Deploys applications on the shared cluster."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve import deploy
from serve.common import keys
from tests.conftest import free_port

USERS = ("tester", "other", "ruth", "ann", "ben", "cem", "dan", "eve")


@dataclass
class Deployment:
    """One Serve config, its applications, and keys for them."""

    folder: Path
    """Of the config and the keys; what a system's applications need lies in a folder of its name below."""
    applications: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.keys = {user: keys.create(user, str(self.folder / "keys")) for user in USERS}

    def add(self, system: str, arguments: Mapping[str, Mapping[str, Any]]) -> None:
        """Applications of a system by name, to be deployed next."""
        shared = {"api_keys": str(self.folder / "keys"), "num_cpus": 0.1}
        self.applications += [
            {
                "name": name,
                "route_prefix": f"/{name}",
                "import_path": f"serve.apps.{system}:build",
                "args": {**shared, **args},
            }
            for name, args in arguments.items()
        ]

    def write(self) -> Path:
        """The config as a file."""
        values = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "applications": self.applications,
        }
        file = self.folder / "config.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    def deploy(self) -> None:
        """Until all of them run."""
        deploy.deploy(self.write())

    @contextmanager
    def beside(self, system: str, arguments: Mapping[str, Mapping[str, Any]]) -> Iterator[Path]:
        """A config with more applications, which are gone after the block; those of before stay as they are."""
        before = list(self.applications)
        self.add(system, arguments)
        try:
            yield self.write()
        finally:
            self.applications = before
            self.deploy()

    def names(self) -> list[str]:
        """Of the applications."""
        return [application["name"] for application in self.applications]

    def header(self, user: str) -> dict[str, str]:
        """Of a user's key."""
        return {"Authorization": f"Bearer {self.keys[user]}"}

    def url(self, name: str) -> str:
        """Of an application."""
        return f"http://127.0.0.1:{self.port}/{name}"

    def ask(
        self, name: str, path: str, key: str = "tester", again: str | None = None, method: str = "", **body: Any
    ) -> httpx.Response:
        """Post where there is a body, else get, if not said otherwise.

        Args:
            name: of an application.
            path: behind its prefix.
            key: whose.
            again: an idempotency key.
            method: of HTTP.
            body: of the request.
        """
        headers = {**self.header(key), **({"Idempotency-Key": again} if again else {})}
        method = method or ("POST" if body else "GET")
        content = body if method == "POST" else None
        return httpx.request(method, f"{self.url(name)}/{path}", json=content, headers=headers, timeout=120)


@contextmanager
def serving(cluster: Mapping[str, str], folder: Path) -> Iterator[Deployment]:
    """Deploys inside the block go to the shared cluster, and nothing of them is left after it."""
    os.environ["RAY_DASHBOARD_ADDRESS"] = cluster["RAY_DASHBOARD_ADDRESS"]
    try:
        yield Deployment(folder)
    finally:
        from ray import serve as ray_serve

        ray_serve.shutdown()
        del os.environ["RAY_DASHBOARD_ADDRESS"]
