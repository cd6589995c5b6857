"""The question that load and faults are measured with is one that every application answers."""

from pathlib import Path

import httpx
import pytest

from jobs.service_requests import QUESTIONS, request_of
from rayworks.core.errors import ConfigError
from rayworks.systems import REGISTRY
from tests.serve.deployment import Deployment

SECONDS = 120.0


def test_every_system_has_a_question(deployment: Deployment) -> None:
    assert QUESTIONS.keys() == REGISTRY.keys()
    with pytest.raises(ConfigError, match="chess: has no question here; choose one of alignment"):
        request_of("chess", deployment.folder)


@pytest.mark.parametrize("system", REGISTRY)
def test_every_application_answers_it(system: str, deployment: Deployment) -> None:
    exports = {
        one["name"]: one["args"]["export"]
        for one in deployment.applications
        if one["name"].partition("-")[0] == system and one["args"].get("export")
    }
    assert exports
    for name, export in exports.items():
        method, path, body = request_of(system, Path(export))
        answer = httpx.request(
            method, deployment.url(name) + path, json=body, headers=deployment.header("eve"), timeout=SECONDS
        )
        assert answer.status_code == 200, f"{name}: {answer.text}"
