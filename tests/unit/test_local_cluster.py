"""The local cluster's commands, without a cluster."""

from typing import Any

import pytest

from cluster import local

STATE = {"address": "127.0.0.1:7", "dashboard": "http://127.0.0.1:8265", "nodes": 2, "cpus_per_node": 2}


@pytest.mark.parametrize(
    ("state", "address", "told"),
    [
        (None, "http://127.0.0.1:8265", "make cluster"),
        (STATE, "http://127.0.0.1:9999", "is at http://127.0.0.1:8265 now: repeat eval"),
        (STATE, "http://127.0.0.1:8265/", "does not answer"),
    ],
)
def test_a_dead_address_has_a_remedy(
    state: dict[str, Any] | None, address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "read_state", lambda: state)
    assert told in local.remedy(address)


def test_what_is_up_says_where_its_logs_and_metrics_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYWORKS_CLUSTER", "/another/folder")
    local._say(STATE)
    said = capsys.readouterr().out
    assert f"{local.sessions()}/ray/prom_metrics_service_discovery.json" in said
    assert "/another/folder/cluster.log" in said
