"""The recommendation application over real HTTP on the shared cluster, against the library's own answers."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from rayworks.core.errors import DataError
from rayworks.systems.recommendation.causes.attribution import CAUSES, attribute, member_quantile
from rayworks.systems.recommendation.causes.do_recursion import intervene
from rayworks.systems.recommendation.exported import Exported, read_export
from rayworks.systems.recommendation.logs.events import KINDS
from rayworks.systems.recommendation.models.histories import Histories, acceptance, histories
from rayworks.systems.recommendation.values.roll_out import greedy_policy, mixture, roll_out
from serve.apps.recommendation_engine import Recommender
from serve.apps.recommendation_schemas import Limits
from tests.serve.applications import CATALOGUE as ITEMS
from tests.serve.applications import HOLDS
from tests.serve.deployment import Deployment

PAST = [(3, "natural"), (17, "accepted"), (8, "rejected"), (3, "natural"), (5, "accepted")]
LONG = [(number * 7 % 30, KINDS[1 + number % 3]) for number in range(24)]
Send = Callable[..., httpx.Response]
Codes = list[tuple[int, str]]


def events(past: Codes) -> list[dict[str, Any]]:
    return [{"item": ITEMS[code], "kind": kind} for code, kind in past]


def known(past: Codes, most: int = HOLDS) -> Histories:
    return histories([[(code, KINDS.index(kind)) for code, kind in past[max(len(past) - most, 0) :]]])


@pytest.fixture(scope="module")
def exported(deployment: Deployment) -> Exported:
    """Four models of a small catalogue, as they answer questions about any item."""
    stored = read_export(deployment.folder / "recommendation" / "small")
    return replace(stored, models=[model.of_any_item() for model in stored.models])


@pytest.fixture
def send(deployment: Deployment) -> Send:
    """Posts to a route."""

    def send(route: str, app: str = "recommendation", **body: Any) -> httpx.Response:
        headers = deployment.header("tester")
        return httpx.post(f"{deployment.url(app)}/v1/recommendation/{route}", json=body, headers=headers, timeout=120)

    return send


def found(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    values: dict[str, Any] = answer.json()
    return values


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def assert_problem(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert all(word in answer.json()["detail"] for word in words), answer.json()["detail"]


@pytest.mark.parametrize("past", [[], PAST, LONG], ids=["new user", "short past", "past beyond the model"])
def test_chances_of_a_slate_are_the_models(send: Send, exported: Exported, past: Codes) -> None:
    slate = [4, 17, 4, 0]
    answer = found(send("accept", events=events(past), items=[ITEMS[code] for code in slate]))
    expected = np.asarray(acceptance(exported.models, known(past), torch.tensor([slate])))[:, 0]
    assert column(answer["items"], "item") == ["i4", "i17", "i4", "i0"]
    np.testing.assert_allclose(column(answer["items"], "probability"), expected[0], atol=1e-5)
    np.testing.assert_allclose(column(answer["items"], "model_spread"), expected[1:].std(0, ddof=1), atol=1e-5)
    assert answer["events_used"] == min(len(past), HOLDS)
    assert np.ptp(expected[0]) > 0.01, "the oracle tells items apart"


def test_answers_do_not_depend_on_who_shares_the_batch(send: Send) -> None:
    slates = [{"events": events(LONG[:length]), "items": ITEMS[: 1 + length % 7]} for length in range(0, 24, 2)]
    rankings = [{"events": events(LONG[length:]), "k": 1 + length} for length in range(0, 24, 2)]
    asked = [("accept", body) for body in slates] + [("rank", body) for body in rankings]
    alone = [found(send(route, **body)) for route, body in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda one: found(send(one[0], **one[1])), asked))
    for first, second in zip(alone, together, strict=True):
        assert column(first["items"], "item") == column(second["items"], "item")
        for name in ("probability", "model_spread"):
            np.testing.assert_allclose(column(first["items"], name), column(second["items"], name), atol=1e-5)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("accept", {"items": ["i4"]}),
        ("rank", {"k": 4, "exclude_seen": True}),
        ("attribute", {"items": ["i4"]}),
        ("whatif", {"do": ["i4", "i9"]}),
    ],
)
def test_a_past_on_unknown_items_counts_without_them(send: Send, route: str, body: dict[str, Any]) -> None:
    past = events(PAST)
    expected = found(send(route, events=past, **body))
    assert (expected["unknown_events"], expected["unknown_items"]) == (0, [])
    new = [event(f"new {number}", ("natural", "accepted", "rejected")[number % 3]) for number in range(25)]
    answer = found(send(route, events=[*new, past[0], new[0], *past[1:]], **body))
    assert answer.pop("unknown_events") == 26
    assert answer.pop("unknown_items") == [f"new {number}" for number in range(20)]
    assert {name: answer[name] for name in answer if name != "items"} == {
        name: expected[name] for name in answer if name != "items"
    }
    if route != "whatif":
        assert column(answer["items"], "item") == column(expected["items"], "item")
        chances = column(expected["items"], "probability")
        assert column(answer["items"], "probability") == pytest.approx(chances, abs=1e-6)
    nobody = found(send(route, events=new, **body))
    assert (nobody["events_used"], nobody["unknown_events"]) == (0, 25)


def test_a_ranking_is_of_all_items_but_the_excluded(send: Send, exported: Exported) -> None:
    chances = np.asarray(acceptance(exported.models, known(PAST)))[0, 0]
    best = [ITEMS[code] for code in np.argsort(-chances)]
    answer = found(send("rank", events=events(PAST), k=5))
    assert column(answer["items"], "item") == best[:5]
    np.testing.assert_allclose(column(answer["items"], "probability"), np.sort(chances)[::-1][:5], atol=1e-5)
    assert answer["candidates"] == 30
    seen = {ITEMS[code] for code, _ in PAST}
    left = [name for name in best if name not in {*seen, *best[:3]}]
    answer = found(send("rank", events=events(PAST), k=30, exclude=best[:3], exclude_seen=True))
    assert column(answer["items"], "item") == left
    assert answer["candidates"] == len(left)
    slate = found(send("accept", events=events(PAST), items=left))
    assert column(slate["items"], "model_spread") == pytest.approx(column(answer["items"], "model_spread"), abs=1e-5)


def test_intervals_are_of_held_out_decisions_like_these(send: Send) -> None:
    """Bands of the export: [-.2, .05] off .5 below it, [-.2, 0] above, and [-.4, .05] for the model's choices (2 of 30)."""
    slate = found(send("accept", events=events(PAST), items=ITEMS))
    assert slate["chances_of"] == "any item"
    ranking = found(send("rank", events=events(PAST), k=4))["items"]
    plain = [(item, 0.3, 0.55 if item["probability"] <= 0.5 else 0.5) for item in [*slate["items"], *ranking[2:]]]
    for item, low, high in [*plain, *((item, 0.1, 0.55) for item in ranking[:2])]:
        like = item["held_out"]
        assert [like["said"], like["low"], like["high"]] == pytest.approx([0.5, low, high], abs=1e-6)
        assert like["decisions"] == 200
    left = found(send("rank", events=events(PAST), k=1, exclude=[item["item"] for item in ranking]))["items"][0]
    assert left["held_out"]["low"] == pytest.approx(0.3), "the best of what is left is no choice among all"
    for policy in (
        {"name": "greedy"},
        {"name": "greedy", "exploration": 0.1},
        {"name": "softmax", "temperature": 0.01},
    ):
        chosen = found(send("whatif", events=events(PAST), policy=policy, steps=2, rollouts=8))["steps"][0]
        assert chosen["held_out"]["low"] == pytest.approx(0.1)
    even = found(send("whatif", events=events(PAST), policy={"name": "uniform"}, steps=2, rollouts=8))["steps"][0]
    assert even["held_out"]["low"] == pytest.approx(0.3)


@pytest.mark.parametrize("past", [[], PAST], ids=["new user", "past"])
def test_causes_are_the_librarys_contrasts(send: Send, exported: Exported, past: Codes) -> None:
    answer = found(send("attribute", events=events(past), items=["i4", "i9"]))
    expected = attribute(exported.models, known(past), torch.tensor([[4, 9]]), exported.reference)
    for item, values, errors in zip(answer["items"], expected.mean()[0], expected.error()[0], strict=True):
        contrasts = [item["contrasts"][cause] for cause in CAUSES]
        np.testing.assert_allclose(column(contrasts, "value"), values, atol=1e-5)
        np.testing.assert_allclose(column(contrasts, "model_spread"), errors, atol=1e-5)
        low, high = np.transpose(column(contrasts, "spread_interval"))
        np.testing.assert_allclose(low, np.maximum(values - member_quantile(4) * errors, -1), atol=1e-5)
        np.testing.assert_allclose(high, np.minimum(values + member_quantile(4) * errors, 1), atol=1e-5)
        assert item["strongest"] == CAUSES[np.abs(values).argmax()]
        assert f"the chance that {item['item']} is accepted by" in item["sentence"]
    assert column(answer["items"], "probability") == pytest.approx(expected.probability[0, 0].tolist(), abs=1e-5)
    assert "do not add up" in answer["note"]
    assert answer["compared_users"] == 6
    if not past:
        silent = [item["contrasts"][cause]["value"] for item in answer["items"] for cause in CAUSES[1::2]]
        assert silent == [0, 0, 0, 0]


def test_set_recommendations_follow_all_paths_or_a_sample(send: Send, exported: Exported) -> None:
    answer = found(send("whatif", events=events(PAST), do=["i4", "i9", "i4"]))
    past, items = known(PAST), torch.tensor([[4, 9, 4]])
    memories = [model.read(past.item, past.kind) for model in exported.models]
    pairs = list(zip(exported.models, memories, strict=True))
    expected = np.concatenate([intervene(model, memory, items).probability for model, memory in pairs])
    np.testing.assert_allclose(column(answer["steps"], "acceptance"), expected[0], atol=1e-5)
    np.testing.assert_allclose(column(answer["steps"], "model_spread"), expected[1:].std(0, ddof=1), atol=1e-5)
    assert (answer["exact"], answer["warnings"], answer["events_used"]) == (True, [], 5)
    assert column(answer["steps"], "item") == ["i4", "i9", "i4"]
    assert answer["mean"] == pytest.approx(expected[0].mean(), abs=1e-5)
    assert answer["model_spread"] == pytest.approx(expected[1:].mean(1).std(ddof=1), abs=1e-5)
    low, high = answer["spread_interval"]
    assert low < answer["mean"] < high
    now = found(send("accept", events=events(PAST), items=["i4"]))["items"][0]["probability"]
    assert answer["steps"][0]["acceptance"] == pytest.approx(now, abs=1e-5)
    sampled = found(send("whatif", events=events(LONG), do=["i4"] * 9, paths=8, seed=5))
    past = known(LONG, HOLDS - 9)
    memory = exported.models[0].read(past.item, past.kind)
    own = intervene(exported.models[0], memory, torch.tensor([[4] * 9]), paths=8, seed=5)
    np.testing.assert_allclose(column(sampled["steps"], "acceptance"), own.probability[0].tolist(), atol=1e-5)
    assert (sampled["exact"], sampled["events_used"]) == (False, 6)
    forgotten, few = sampled["warnings"]
    assert "events: the first 18 do not count; the model holds 15" in forgotten
    assert "8 of the 2^8 paths" in few


def test_a_policy_is_rolled_out_the_same_for_the_same_seed(send: Send, exported: Exported) -> None:
    asked = {"events": events(PAST), "policy": {"name": "greedy", "exploration": 0.3}, "steps": 6, "rollouts": 40}
    answer = found(send("whatif", **asked, seed=3))
    past, same = known(PAST), torch.zeros(40, dtype=torch.int64)
    tables = np.stack(
        [
            roll_out(model, model.read(past.item, past.kind).take(same), mixture(0.3, greedy_policy), 6, 3).expected
            for model in exported.models
        ]
    )
    np.testing.assert_allclose(column(answer["steps"], "acceptance"), tables[0].mean(0), atol=1e-5)
    spread = tables[1:].mean(1).std(0, ddof=1)
    np.testing.assert_allclose(column(answer["steps"], "model_spread"), spread, atol=1e-5)
    simulated = column(answer["steps"], "simulation_error")
    np.testing.assert_allclose(simulated, tables[0].std(0, ddof=1) / np.sqrt(40), atol=1e-5)
    assert simulated[0] == pytest.approx(0, abs=1e-6), "nothing is drawn before the first step"
    assert found(send("whatif", **asked, seed=3)) == answer
    assert found(send("whatif", **asked, seed=4))["mean"] != answer["mean"]


def test_policies_differ_and_their_doubts_are_told(send: Send) -> None:
    means, warnings = {}, {}
    for policy in (
        {"name": "uniform"},
        {"name": "softmax", "temperature": 0.2},
        {"name": "softmax", "temperature": 0.001},
        {"name": "greedy"},
        {"name": "greedy", "exploration": 1.0},
    ):
        answer = found(send("whatif", events=events(PAST), policy=policy, steps=1, rollouts=2))
        name = "-".join(str(value) for value in policy.values())
        means[name], warnings[name] = answer["mean"], " ".join(answer["warnings"])
    assert means["uniform"] < means["softmax-0.2"] < means["greedy"]
    assert means["softmax-0.001"] == pytest.approx(means["greedy"], abs=1e-3)
    assert means["greedy-1.0"] == pytest.approx(means["uniform"], abs=1e-6)
    assert "extrapolation" in warnings["greedy"]
    assert "extrapolation" not in warnings["uniform"]
    answer = found(send("whatif", policy={"name": "uniform"}, steps=8, rollouts=2))
    assert any("rollouts: 2 leave a simulation error" in warning for warning in answer["warnings"])


def event(item: str = "i1", kind: str = "natural", **more: Any) -> dict[str, Any]:
    return {"item": item, "kind": kind, **more}


GREEDY = {"name": "greedy"}


@pytest.mark.parametrize(
    ("route", "body", "words"),
    [
        ("accept", {"items": ["i1", "zz"]}, ["items.1: 'zz' is not in the catalogue of 30 items"]),
        ("accept", {"items": ["zz"], "events": [event("zz")]}, ["items.0: 'zz' is not in the catalogue"]),
        ("accept", {"items": ["i1"], "events": [event(time=2), event(time=1)]}, ["events.1.time: 1 is before 2"]),
        ("accept", {"items": ["i1"], "events": [event(time=2), event()]}, ["events.1.time", "is missing"]),
        ("accept", {"items": ["i1"], "events": [event(kind="decided")]}, ["events.0.kind", "accepted"]),
        ("accept", {"items": ["i1"], "events": [event(decision=1)]}, ["events.0.decision"]),
        ("accept", {"items": []}, ["items"]),
        ("accept", {"items": ["i1"] * 201}, ["items: 201 are more than the 200"]),
        ("accept", {"items": ["i1"], "events": [event()] * 501}, ["events: 501 are more than the 500"]),
        ("accept", {"events": []}, ["items: field required"]),
        ("accept", {"items": ["i1"], "surprise": 1}, ["surprise"]),
        ("rank", {"k": 0}, ["k"]),
        ("rank", {"k": 201}, ["k: 201 are more than the 200"]),
        ("rank", {"exclude": ["zz"]}, ["exclude.0: 'zz' is not in the catalogue"]),
        ("rank", {"exclude": ITEMS}, ["exclude, exclude_seen: leave none of the 30 items"]),
        ("attribute", {"items": ITEMS}, ["items: 30 are more than the 20"]),
        ("attribute", {"items": ["zz"]}, ["items.0: 'zz'"]),
        ("whatif", {}, ["do, policy: send one of the two"]),
        ("whatif", {"do": ["i1"], "policy": GREEDY}, ["do, policy: send one of the two"]),
        ("whatif", {"do": ["i1"], "steps": 3}, ["steps, rollouts: are of a policy"]),
        ("whatif", {"policy": GREEDY, "paths": 3}, ["paths: is of do"]),
        ("whatif", {"policy": {"name": "clever"}}, ["policy.name"]),
        ("whatif", {"policy": {"name": "softmax"}}, ["temperature: give one with softmax"]),
        ("whatif", {"policy": {"name": "greedy", "exploration": 1.5}}, ["policy.exploration"]),
        ("whatif", {"policy": GREEDY, "steps": 16}, ["steps: 16 steps are more than the 15 events"]),
        ("whatif", {"policy": GREEDY, "steps": 101}, ["steps: 101 are more than the 100"]),
        ("whatif", {"policy": GREEDY, "rollouts": 501}, ["rollouts: 501 are more than the 500"]),
        ("whatif", {"do": ["i1", "zz"]}, ["do.1: 'zz'"]),
        ("whatif", {"do": ["i1"], "seed": -1}, ["seed"]),
    ],
)
def test_bad_requests_get_one_clear_answer(send: Send, route: str, body: dict[str, Any], words: list[str]) -> None:
    assert_problem(send(route, **body), 422, *words)


def test_keys_sizes_and_open_paths(deployment: Deployment) -> None:
    url = deployment.url("recommendation")
    for route in ("accept", "rank", "attribute", "whatif"):
        path = f"{url}/v1/recommendation/{route}"
        assert_problem(httpx.post(path, json={}), 401, "Authorization")
        assert_problem(httpx.post(path, json={}, headers={"Authorization": "Bearer x"}), 403, "the key is unknown")
        assert_problem(httpx.post(path, content=b" " * 1_100_000), 401, "Authorization")
        large = httpx.post(path, content=b" " * 1_100_000, headers=deployment.header("tester"))
        assert_problem(large, 413, "at most")
    health = httpx.get(f"{url}/healthz", timeout=30).json()
    assert (health["status"], health["items"], health["models"]) == ("ok", 30, 4)
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert all(operation["description"] for methods in paths.values() for operation in methods.values())


def test_one_model_has_no_errors_and_a_deployment_its_own_limits(send: Send) -> None:
    answer = found(send("accept", app="recommendation-narrow", items=["i999"]))
    assert answer["items"][0]["model_spread"] is None
    assert (answer["chances_of"], answer["items"][0]["held_out"]) == ("logged recommendations", None)
    causes = found(send("attribute", app="recommendation-narrow", items=["i999"]))["items"][0]
    assert causes["contrasts"]["item"]["spread_interval"] is None
    assert "is not known" in causes["sentence"]
    imagined = found(send("whatif", app="recommendation-narrow", do=["i1", "i2"]))
    assert (imagined["model_spread"], imagined["spread_interval"]) == (None, None)
    assert "fewer than two" in imagined["warnings"][0]
    assert_problem(
        send("accept", app="recommendation-narrow", items=["i1"] * 11), 422, "items: 11 are more than the 10"
    )
    assert_problem(
        send("rank", app="recommendation-narrow", events=[event()] * 5), 422, "events: 5 are more than the 4"
    )


def test_a_full_queue_a_deadline_and_one_greedy_key(send: Send) -> None:
    slow = {"policy": {"name": "softmax", "temperature": 1}, "steps": 300, "rollouts": 2000}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: send("whatif", app="recommendation-narrow", **slow), range(8)))
    statuses = {answer.status_code for answer in answers}
    assert {429, 503} & statuses
    assert 504 in statuses
    assert statuses <= {429, 503, 504}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code in (429, 503))
    deadline = time.monotonic() + 300
    while send("whatif", app="recommendation-narrow", do=["i1"]).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_without_an_export_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not the export of a finished recommendation run"):
        Recommender(str(tmp_path / "nowhere"), Limits())
