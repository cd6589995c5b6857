"""One deployment of all applications for all tests of this folder."""

from collections.abc import Callable, Iterator

import pytest

from rayworks.systems import REGISTRY
from tests.conftest import FinishedRun
from tests.serve import applications
from tests.serve.deployment import Deployment, serving


@pytest.fixture(scope="package")
def deployment(
    request: pytest.FixtureRequest,
    cluster: dict[str, str],
    finished_runs: Callable[[str], FinishedRun],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """The applications of all systems whose tests are to be run, deployed at once."""
    wanted = {item.path.name for item in request.session.items}
    with serving(cluster, tmp_path_factory.mktemp("serve")) as deployment:
        for system in REGISTRY:
            if {f"test_{system}_app.py", "test_generated_requests.py"} & wanted:
                folder = deployment.folder / system
                folder.mkdir()
                deployment.add(system, getattr(applications, system)(folder, finished_runs))
        if deployment.applications:
            deployment.deploy()
        yield deployment
