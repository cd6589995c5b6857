"""One deployment of all applications for all tests of this folder."""

from collections.abc import Callable, Iterator

import pytest

from rayworks.systems import REGISTRY
from tests.conftest import FinishedRun
from tests.serve import applications
from tests.serve.deployment import Deployment, serving

OF_ANY_SYSTEM = {"test_generated_requests.py", "test_measures.py", "test_service_requests.py"}
"""Tests that name the systems whose applications they need."""


@pytest.fixture(scope="package")
def deployment(
    request: pytest.FixtureRequest,
    cluster: dict[str, str],
    finished_runs: Callable[[str], FinishedRun],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The applications of all systems whose tests are to be run, deployed at once."""
    items = request.session.items
    wanted = {item.path.name for item in items}
    asked = {item.callspec.params.get("system") for item in items if hasattr(item, "callspec")}
    with serving(cluster, tmp_path_factory.mktemp("serve")) as deployment:
        for system in REGISTRY:
            clients = system == "alignment" and "test_openai_clients.py" in wanted
            if clients or f"test_{system}_app.py" in wanted or (wanted & OF_ANY_SYSTEM and system in asked):
                folder = deployment.folder / system
                folder.mkdir()
                deployment.add(system, getattr(applications, system)(folder, finished_runs))
        if deployment.applications:
            deployment.deploy()
        yield deployment
