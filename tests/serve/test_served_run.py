"""What all applications share, without a cluster: health that is not asked too often, errors as problems, arguments."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from serve.common import application, gate, keys, origins, served_run
from serve.common.application import new_application
from serve.common.problems import Problem, problem_of
from serve.common.served_run import CHECKED_SECONDS, ServedRun, ServingArgs, bind

Answered = Callable[..., httpx.Response]


class Probed(ServedRun):
    """Counts its checks, each of which takes as long as the test likes."""

    def __init__(self, args: ServingArgs) -> None:
        super().__init__(args)
        self.checks, self.fails = 0, False

    async def check(self) -> None:
        self.checks += 1
        await asyncio.sleep(0)
        if self.fails:
            raise DataError("the answer is not finite")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0, perf_counter=lambda: 0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(served_run, "time", clock)
    return clock


@pytest.fixture
def key(tmp_path: Path) -> str:
    return keys.create("me", str(tmp_path / "keys"))


@pytest.fixture
def probed(tmp_path: Path, key: str, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Probed:
    monkeypatch.setattr(served_run, "_application", lambda: "test")
    probed = Probed(ServingArgs(api_keys=str(tmp_path / "keys")))
    for module in (application, gate, origins):
        monkeypatch.setattr(module, "replica", lambda: probed)
    return probed


def test_health_requests_share_a_check_for_a_second(probed: Probed, clock: SimpleNamespace) -> None:
    async def scenario() -> None:
        await asyncio.gather(*(probed.check_health() for _ in range(9)))
        assert probed.checks == 1
        clock.now += CHECKED_SECONDS / 2
        await probed.check_health()
        assert probed.checks == 1
        clock.now += CHECKED_SECONDS / 2
        await probed.check_health()
        assert probed.checks == 2

    asyncio.run(scenario())


def test_a_failed_check_fails_all_who_ask_until_another_succeeds(probed: Probed, clock: SimpleNamespace) -> None:
    async def scenario() -> None:
        probed.fails = True
        found = await asyncio.gather(*(probed.check_health() for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in found] == [RuntimeError] * 3
        probed.fails = False
        with pytest.raises(RuntimeError, match="not finite"):
            await probed.check_health()
        assert probed.checks == 1
        clock.now += CHECKED_SECONDS
        await probed.check_health()
        assert probed.checks == 2

    asyncio.run(scenario())


@pytest.fixture
def answered(probed: Probed, key: str) -> Callable[..., httpx.Response]:
    def answered(api: Any, path: str, method: str = "GET", **request: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(api, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                headers = {"Authorization": f"Bearer {key}", **request.pop("headers", {})}
                return await client.request(method, path, headers=headers, **request)

        return asyncio.run(ask())

    return answered


@pytest.mark.parametrize(
    ("error", "status", "detail", "retry"),
    [
        (DataError("events: are none"), 422, "events: are none", None),
        (ConfigError("model: is unknown"), 422, "model: is unknown", None),
        (InfrastructureError("the disk is full"), 503, "the disk is full; try again", "10"),
        (Problem(409, "round: is closed"), 409, "round: is closed", None),
        (ArithmeticError("secret"), 500, "the server failed; give the operator request id ", None),
    ],
)
def test_errors_of_the_library_are_answered_in_one_place(
    answered: Answered, error: Exception, status: int, detail: str, retry: str | None
) -> None:
    api = new_application("test", "Raises.")

    @api.get("/raise")
    async def fail() -> None:
        raise error

    answer = answered(api, "/raise")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"].startswith(detail) and "secret" not in answer.text
    assert answer.json()["error"]["message"] == answer.json()["detail"]


def test_an_application_may_say_it_in_its_own_words(answered: Answered) -> None:
    hushed = Problem(503, "the ledger is not available; try again", retry_after=5)
    api = new_application(
        "test", "Raises.", as_problem=lambda error: hushed if "ledger" in str(error) else problem_of(error)
    )

    @api.get("/{what}")
    async def fail(what: str) -> None:
        raise InfrastructureError(f"{what} of /secret/folder")

    assert answered(api, "/ledger").json()["detail"] == hushed.detail
    assert answered(api, "/disk").json()["detail"] == "disk of /secret/folder; try again"


def test_no_sound_answer_is_the_servers_fault(probed: Probed, answered: Answered) -> None:
    api = new_application("test", "Checks.")
    health = answered(api, "/healthz")
    assert health.json() == {"status": "ok", "answered_in_seconds": 0.0, "load": 0}
    probed.fails, probed._checking = True, None
    assert answered(api, "/healthz").status_code == 500


def test_replicas_are_a_number_or_follow_the_load() -> None:
    given: dict[str, Any] = {}

    class Deployment:
        def options(self, **options: Any) -> Any:
            given.update(options)
            return SimpleNamespace(bind=lambda args, *shared: given.update(shared=shared))

    bind(Deployment(), ServingArgs(replicas=3, max_waiting=7, num_cpus=0.25), together=5, queues=2)
    assert (given["num_replicas"], given["max_ongoing_requests"]) == (3, 2 * 7 + 5 + served_run.BESIDE)
    assert len(given["shared"]) == 1, "replicas that have to agree"
    bind(Deployment(), ServingArgs(num_cpus=0.25))
    assert not given["shared"]
    assert given["ray_actor_options"] == {"num_cpus": 0.25, "num_gpus": 0.0, "resources": {}}
    bind(Deployment(), ServingArgs.model_validate({"replicas": {"min_replicas": 2, "max_replicas": 4}}))
    scaling = {"min_replicas": 2, "max_replicas": 4, "target_ongoing_requests": 2.0}
    assert given["autoscaling_config"] == scaling
    for wrong in ({"replicas": 0}, {"replicas": {"min_replicas": 3, "max_replicas": 2}}, {"copies": 2}):
        with pytest.raises(ValidationError):
            ServingArgs.model_validate(wrong)


@pytest.mark.parametrize("origin", ["mine.example", "https://mine.example/", "https://mine.example/page", ""])
def test_origins_are_as_browsers_send_them(origin: str) -> None:
    with pytest.raises(ValidationError, match="allowed_origins"):
        ServingArgs(allowed_origins=[origin])
    assert ServingArgs(allowed_origins=["*", "http://localhost:3000"]).allowed_origins
