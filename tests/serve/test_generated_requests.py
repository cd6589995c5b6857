"""Requests made from each application's own description: valid, and broken in one place. Every answer is one it documents.

Half of them know what there is to ask about (see ``known_names``); among the valid ones, every operation succeeds.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
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
from tests.serve import known_names
from tests.serve.deployment import Deployment
from tests.serve.known_names import OWNER, Known, narrowed

EXAMPLES = {GenerationMode.POSITIVE: 15, GenerationMode.NEGATIVE: 15}
"""Of every operation."""
SECONDS = 30.0
"""A request without an answer by then hangs; deadlines of the applications are shorter."""
FRAMING = frozenset({"connection", "content-length", "expect", "host", "te", "transfer-encoding", "upgrade"})
"""Headers that are HTTP's own: what is wrong with them the server answers before any application."""
PROMISES = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
Statuses = dict[str, Counter[int]]
"""Of the answers to each operation."""


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("system", REGISTRY)
def test_every_answer_is_documented(system: str, mode: GenerationMode, deployment: Deployment) -> None:
    name = next(name for name in deployment.names() if name.partition("-")[0] == system)
    known: Known = getattr(known_names, system)(deployment, name)
    found = answers(deployment, name, known, mode)
    assert sum(statuses.total() for statuses in found.values()) >= EXAMPLES[mode]
    if mode is GenerationMode.POSITIVE:
        unsuccessful = {
            label: dict(statuses) for label, statuses in found.items() if not any(status < 300 for status in statuses)
        }
        assert not unsuccessful, "statuses of operations that no request succeeds at"


def succeeded(statuses: Iterable[int]) -> bool:
    """Whether one of them is a success."""
    return any(200 <= status < 300 for status in statuses)


def answers(deployment: Deployment, name: str, known: Known, mode: GenerationMode) -> Statuses:
    """Of all operations of an application."""
    url, found = deployment.url(name), defaultdict[str, Counter[int]](Counter)
    document = requests.get(f"{url}/openapi.json", timeout=SECONDS).json()
    with requests.Session() as session:
        for one in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = one.ok()
            headers = deployment.header(known.owners.get(operation.path, OWNER))
            with known.known_while_asking(operation.path) as parameters:
                knowing = schemathesis.openapi.from_dict(narrowed(document, known.bodies, parameters))
                same = knowing[operation.path][operation.method.upper()]
                cases = same.as_strategy(generation_mode=mode) | operation.as_strategy(generation_mode=mode)
                found[operation.label].update(ask(cases, mode, session, url, headers))
    return found


def ask(cases: Any, mode: GenerationMode, session: Any, url: str, headers: dict[str, str]) -> list[int]:
    """Statuses of the answers."""
    statuses: list[int] = []

    @hypothesis.settings(
        max_examples=EXAMPLES[mode],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=cases)
    def asked(case: Any) -> None:
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() not in FRAMING}
        answer = case.call(base_url=url, session=session, headers=headers, timeout=SECONDS)
        assert answer.status_code != 500, f"{case.as_curl_command()}\n{answer.text}"
        case.validate_response(answer, checks=PROMISES)
        statuses.append(answer.status_code)

    try:
        asked()
    except hypothesis.errors.Unsatisfiable:
        # An operation without parameters can not be asked wrongly.
        assert mode is GenerationMode.NEGATIVE
    return statuses
