"""Requests made from each application's own description: valid, and broken in one place. Every answer is one it documents."""

from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rayworks.systems import REGISTRY
from tests.serve.deployment import Deployment

EXAMPLES = {GenerationMode.POSITIVE: 15, GenerationMode.NEGATIVE: 15}
"""Of every operation."""
SECONDS = 30.0
"""A request without an answer by then hangs; deadlines of the applications are shorter."""
PROMISES = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("system", REGISTRY)
def test_every_answer_is_documented(system: str, mode: GenerationMode, deployment: Deployment) -> None:
    name = next(name for name in deployment.names() if name.partition("-")[0] == system)
    document = requests.get(f"{deployment.url(name)}/openapi.json", timeout=SECONDS).json()
    answered = 0
    with requests.Session() as session:
        for found in schemathesis.openapi.from_dict(document).get_all_operations():
            answered += ask(found.ok(), mode, session, deployment.url(name), deployment.header("ruth"))
    assert answered >= EXAMPLES[mode]


def ask(operation: Any, mode: GenerationMode, session: Any, url: str, headers: dict[str, str]) -> int:
    """How many requests were answered."""
    statuses: list[int] = []

    @hypothesis.settings(
        max_examples=EXAMPLES[mode],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def asked(case: Any) -> None:
        answer = case.call(base_url=url, session=session, headers=headers, timeout=SECONDS)
        assert answer.status_code != 500, f"{case.as_curl_command()}\n{answer.text}"
        case.validate_response(answer, checks=PROMISES)
        statuses.append(answer.status_code)

    try:
        asked()
    except hypothesis.errors.Unsatisfiable:
        # An operation without parameters can not be asked wrongly.
        assert mode is GenerationMode.NEGATIVE
    return len(statuses)
