"""The regulation application over real HTTP on the shared cluster."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from rayworks.systems.regulation.design import make_design
from rayworks.systems.regulation.mechanism import STATUSES, Rules, run_mechanism
from rayworks.systems.regulation.price_curve import published_curve
from rayworks.systems.regulation.public_draws import public_draws
from tests.serve.applications import SECTION
from tests.serve.deployment import Deployment

BUILDERS = ("ann", "ben", "cem", "dan", "eve")
SCORES = dict(zip(BUILDERS, (0.5, 0.7, 0.7, 0.9, 0.6), strict=True))
NARROW = "regulation-narrow"
Send = Callable[..., httpx.Response]


def seed_of(name: str) -> str:
    return hashlib.sha256(f"seed of {name}".encode()).hexdigest()


def commitment(name: str) -> str:
    return hashlib.sha256(seed_of(name).encode()).hexdigest()


def model(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


@pytest.fixture
def send(deployment: Deployment) -> Send:
    """Posts where there is a body, else gets; as the regulator if not said otherwise."""

    def send(path: str, key: str = "ruth", app: str = "regulation", **more: Any) -> httpx.Response:
        return deployment.ask(app, f"v1/regulation/{path}", key, **more)

    return send


def open_round(send: Send, name: str, **rules: Any) -> httpx.Response:
    given = {"threshold": 0.59, "premium_cents": 1001, **rules}
    return send("pair", round=name, commitment=commitment(name), **given)


def enter(send: Send, name: str, builder: str, **more: Any) -> httpx.Response:
    return send("submit", key=builder, round=name, score=SCORES[builder], model=model(builder), **more)


def audit(send: Send, name: str, **parameters: Any) -> dict[str, Any]:
    query = "&".join(f"{key}={value}" for key, value in {"round": name, **parameters}.items())
    found: dict[str, Any] = send(f"audit?{query}", key="eve").json()
    assert found["verified"], found
    return found


def assert_problem(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"]
    assert all(word in answer.json()["detail"] for word in words), answer.json()["detail"]


def test_a_quote_is_the_equilibriums(send: Send) -> None:
    found = send("quote", key="ann", value=80_000_000, share="0.5").json()
    design = make_design(SECTION, published_curve())
    assert found["bid"] == pytest.approx(float(design.equilibrium.bid(0.4)), abs=1e-8)
    assert found["win_probability"] == pytest.approx(float(design.equilibrium.win(0.4)), abs=1e-12)
    assert (found["deployment_value_cents"], found["premium_worth_cents"]) == (40_000_000, 40_000_000)
    assert (found["design"], found["mode"], found["price_cents"]) == ("export", "fixed_point", 60_000_000)
    assert found["threshold"] == pytest.approx(design.rules.threshold)
    assert found["compliance"] > found["threshold"]
    cheaper = send("quote", key="ann", value=80_000_000, share=0.5, price=0.3).json()
    assert (cheaper["price_cents"], cheaper["participate"]) == (30_000_000, True)
    assert cheaper["bid_cents"] < found["bid_cents"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"price": 0}, ["price", "greater than 0"]),
        ({"price": 1}, ["price", "less than 1"]),
        ({"price": 1.5}, ["price"]),
        ({"price": 0.01}, ["price", "outside [0.148"]),
        ({"share": "0.51"}, ["share", "0.5"]),
        ({"share": "NaN"}, ["share"]),
        ({"share": "half"}, ["share"]),
        ({"value": 0.5}, ["value"]),
        ({"value": -1}, ["value"]),
        ({"value": 100_000_001}, ["value", "100000000"]),
        ({"surprise": 1}, ["surprise"]),
    ],
)
def test_bad_quotes_get_one_clear_answer(send: Send, body: dict[str, Any], words: list[str]) -> None:
    assert_problem(send("quote", key="ann", **{"value": 80_000_000, "share": "0.4", **body}), 422, *words)


def test_without_an_export_the_papers_design_is_quoted(send: Send) -> None:
    assert send("quote", app=NARROW, value=1, share=0).json()["design"] == "published"


def test_a_round_that_anyone_can_repeat(send: Send) -> None:
    opened = open_round(send, "spring", tie="split", bye="redraw", budget_cents=10_000)
    assert opened.status_code == 200, opened.text
    assert (opened.json()["state"], opened.json()["commitment"], opened.json()["seed"]) == (
        "open",
        commitment("spring"),
        None,
    )
    assert opened.json()["rules"]["tie"] == "split"
    receipts = [enter(send, "spring", builder) for builder in BUILDERS]
    assert [answer.status_code for answer in receipts] == [201] * 5
    sealed = audit(send, "spring")
    assert "0.7" not in json.dumps(sealed["entries"]) + json.dumps(sealed["trail"])
    assert [entry["builder"] for entry in sealed["entries"]] == [answer.json()["builder"] for answer in receipts]
    assert not set(BUILDERS) & {entry["builder"] for entry in sealed["entries"]}

    paired = send("pair", round="spring", seed=seed_of("spring")).json()
    assert (paired["state"], paired["seed"], paired["submissions"], paired["paid_cents"]) == (
        "paired",
        seed_of("spring"),
        5,
        None,
    )
    settlement = send("settle", round="spring")
    assert send("settle", round="spring").json() == settlement.json()
    assert send("rounds/spring", key="ann").json()["paid_cents"] == settlement.json()["paid_cents"]

    found = audit(send, "spring")
    assert found["rules"] == opened.json()["rules"]
    draws = public_draws(found["seed"], "spring", [event["hash"] for event in found["trail"][1:6]])
    scores = [entry["score"] for entry in found["entries"]]
    outcome = run_mechanism(scores, Rules(**found["rules"]), draws.pairing, draws.tie_break)
    assert [entry["status"] for entry in found["entries"]] == [STATUSES[status] for status in outcome.status]
    assert [entry["group"] for entry in found["entries"]] == [group if group >= 0 else None for group in outcome.group]
    assert sum(entry["paid_cents"] for entry in found["entries"]) == settlement.json()["paid_cents"]
    assert {payment["submission"]: payment["cents"] for payment in settlement.json()["payments"]} == {
        entry["submission"]: entry["paid_cents"] for entry in found["entries"] if entry["paid_cents"]
    }
    previous = "0" * 64
    for event in found["trail"]:
        assert event["previous"] == previous
        previous = hashlib.sha256(f"{previous}\n{event['text']}".encode()).hexdigest()
        assert event["hash"] == previous
    assert [answer.json()["event"] for answer in receipts] == found["trail"][1:6]


def test_deadlines_withdrawal_cancellation_and_the_head(send: Send) -> None:
    opened = open_round(send, "dated", closes_at="2090-01-01T13:00:00+01:00", reveal_by="2090-01-02T12:00:00Z").json()
    assert (opened["closes_at"], opened["reveal_by"]) == (
        "2090-01-01T12:00:00.000+00:00",
        "2090-01-02T12:00:00.000+00:00",
    )
    enter(send, "dated", "ann")
    copied = send("submit", key="ben", round="dated", score=0.8, model=model("ann"))
    assert copied.status_code == 201, "nobody learns that a model is entered"
    assert_problem(send("pair", round="dated", seed=seed_of("dated")), 409, "takes submissions until 2090")
    assert send("clashes?round=dated").json() == {"clashes": {model("ann"): [1, 2]}}
    assert_problem(send("clashes?round=dated", key="ann"), 403, "not a regulator")
    taken_back = send("withdraw", key="ann", round="dated", submission=1).json()
    assert taken_back["withdrawn"] and taken_back["submission"] == 1
    found = audit(send, "dated")
    assert (found["submissions"], found["withdrawn"]) == (2, 1)
    assert [entry["status"] for entry in found["entries"]] == ["withdrawn", None]
    before = send("head", key="eve").json()
    cancelled = send("cancel", round="dated", reason="another law").json()
    assert cancelled["state"] == "cancelled"
    head = send("head", key="eve").json()
    assert head["events"] == before["events"] + 1
    assert (head["signature"], head["public_key"]) == (None, None)
    log = send(f"log?after={before['events']}", key="eve").json()
    assert [(entry["round"], entry["chain"]) for entry in log["entries"]] == [("dated", head["head"])]
    assert log["next_after"] is None
    trail = audit(send, "dated")["trail"]
    assert json.loads(trail[-1]["text"])["reason"] == "another law"


def test_the_audit_comes_in_pages(send: Send) -> None:
    open_round(send, "pages")
    for builder in BUILDERS[:3]:
        enter(send, "pages", builder)
    send("pair", round="pages", seed=seed_of("pages"))
    first = audit(send, "pages", limit=2)
    assert (len(first["entries"]), len(first["trail"]), first["next_offset"]) == (2, 2, 2)
    rest = audit(send, "pages", offset=2)
    assert (len(rest["entries"]), len(rest["trail"]), rest["next_offset"]) == (1, 3, None)
    assert_problem(send("audit?round=pages&limit=0"), 422, "limit")
    assert_problem(send("audit?round=nowhere"), 404, "nowhere")


def test_what_the_state_does_not_allow_is_refused_and_changes_nothing(send: Send) -> None:
    open_round(send, "waiting")
    enter(send, "waiting", "ann")
    open_round(send, "filled", group_size=3, prizes=2)
    for builder in ("ann", "ben"):
        enter(send, "filled", builder)
    open_round(send, "closed")
    for builder in ("ann", "ben"):
        enter(send, "closed", builder)
    send("pair", round="closed", seed=seed_of("closed"))
    entry = {"score": 0.6, "model": model("new")}
    refused: list[tuple[httpx.Response, int, str]] = [
        (open_round(send, "waiting", threshold=0.2), 409, "other terms"),
        (send("pair", round="used", commitment=commitment("closed"), threshold=0, budget_cents=1), 409, "round closed"),
        (
            send("pair", round="filled", seed=seed_of("filled"), owners={model("ben"): 1}),
            422,
            "submission 1 did not enter",
        ),
        (send("withdraw", key="cem", round="filled", submission=1), 404, "no submission 1 of yours"),
        (send("withdraw", key="ann", round="closed", submission=1), 409, "is paired"),
        (send("cancel", key="ann", round="filled"), 403, "only a regulator"),
        (send("cancel", round="closed"), 409, "is paired, and stands"),
        (send("pair", round="filled", seed="4f" * 32), 422, "seed: its SHA-256 is"),
        (send("pair", round="closed", seed="4f" * 32), 422, "seed: its SHA-256 is"),
        (send("pair", round="nowhere", seed=seed_of("nowhere")), 404, "does not exist"),
        (send("settle", round="filled"), 409, "reveal its seed first"),
        (send("settle", round="nowhere"), 404, "does not exist"),
        (send("submit", key="cem", round="closed", **entry), 409, "closed to submissions"),
        (send("submit", key="cem", round="nowhere", **entry), 404, "does not exist"),
        (send("submit", key="ann", round="filled", **entry), 409, "one per key"),
        (enter(send, "filled", "ann"), 409, "one per key"),
        (send("rounds/nowhere"), 404, "does not exist"),
    ]
    for answer, status, words in refused:
        assert_problem(answer, status, words)
        if status == 409:
            assert answer.json()["type"] == "urn:rayworks:problem:conflict"
    for name, state, submissions, events in (("waiting", "open", 1, 2), ("filled", "open", 2, 3)):
        found = send(f"rounds/{name}").json()
        assert (found["state"], found["submissions"], found["events"]) == (state, submissions, events)
    assert send("rounds/closed").json()["state"] == "paired"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("submit", {"score": "0.7"}, "score"),
        ("submit", {"score": "much"}, "score"),
        ("submit", {"score": None}, "score"),
        ("submit", {"score": True}, "score"),
        ("submit", {"score": 1.5}, "score"),
        ("submit", {"model": "abc"}, "model"),
        ("submit", {"round": "a b"}, "round"),
        ("pair", {"threshold": 2}, "threshold"),
        ("pair", {"threshold": 0.5, "prizes": 2}, "prizes: 2 of a group of 2"),
        ("pair", {"threshold": 0.5, "group_size": 1}, "group_size"),
        ("pair", {"threshold": 0.5, "premium_cents": 0}, "premium_cents"),
        ("pair", {"threshold": 0.5, "premium_cents": 10.5}, "premium_cents"),
        ("pair", {"threshold": 0.5, "premium_cents": None}, "premium_cents, budget_cents: give at least one"),
        ("pair", {"threshold": 0.5, "commitment": "abc"}, "commitment"),
        ("pair", {}, "threshold"),
        ("pair", {"seed": seed_of("bad"), "threshold": 0.5}, "threshold: extra"),
        ("pair", {"threshold": 0.5, "closes_at": "2030-01-01T00:00:00"}, "closes_at"),
        ("pair", {"threshold": 0.5, "closes_at": 5}, "closes_at: must be a text of ISO 8601"),
        ("pair", {"threshold": 0.5, "closes_at": "9999-12-31T23:59:59-12:00"}, "closes_at"),
        ("pair", {"threshold": 0.5, "closes_at": "2020-01-01T00:00:00Z"}, "closes_at, reveal_by: are over already"),
        (
            "pair",
            {"threshold": 0.5, "closes_at": "2090-01-02T00:00:00Z", "reveal_by": "2090-01-01T00:00:00Z"},
            "reveal_by: must be at least a second after",
        ),
        ("settle", {"surprise": 1}, "surprise"),
    ],
)
def test_bad_bodies_name_the_field(send: Send, path: str, body: dict[str, Any], words: str) -> None:
    given: dict[str, dict[str, Any]] = {
        "submit": {"round": "spring", "score": 0.7, "model": model("x")},
        "pair": {"round": "bad", "commitment": commitment("bad"), "premium_cents": 5},
        "settle": {"round": "spring"},
    }
    answer = send(path, key="ann" if path == "submit" else "ruth", **{**given[path], **body})
    assert_problem(answer, 422, words)
    assert send("rounds/bad").status_code == 404


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_scores_that_json_can_not_say_are_refused(deployment: Deployment, number: str) -> None:
    body = f'{{"round": "spring", "score": {number}, "model": "{model("x")}"}}'
    headers = {**deployment.header("ann"), "Content-Type": "application/json"}
    answer = httpx.post(f"{deployment.url('regulation')}/v1/regulation/submit", content=body, headers=headers)
    assert_problem(answer, 422, "score")


def test_the_same_submission_again_answers_the_same(send: Send) -> None:
    open_round(send, "again")
    first = enter(send, "again", "ann", again="try-1")
    enter(send, "again", "ben")
    assert enter(send, "again", "ann", again="try-1").json() == first.json()
    assert_problem(enter(send, "again", "ann", again="try-2"), 409, "one per key")
    changed = send("submit", key="ann", again="try-1", round="again", score=0.9, model=model("ann"))
    assert_problem(changed, 422, "Idempotency-Key")
    assert_problem(enter(send, "again", "cem", again="two words"), 422, "idempotency-key")
    send("pair", round="again", seed=seed_of("again"))
    after = enter(send, "again", "ann", again="try-1")
    assert (after.status_code, after.json()) == (201, first.json())
    assert send("rounds/again").json()["submissions"] == 2


def test_who_may_do_what(deployment: Deployment, send: Send) -> None:
    for path, body in (
        ("pair", {"round": "mine", "commitment": commitment("mine"), "threshold": 0.5, "premium_cents": 5}),
        ("pair", {"round": "spring", "seed": seed_of("spring")}),
        ("settle", {"round": "spring"}),
    ):
        assert_problem(send(path, key="ann", **body), 403, "ann is not a regulator")
    assert_problem(send("submit", round="spring", score=0.7, model=model("x")), 403, "ruth is a regulator")
    assert send("rounds/mine").status_code == 404
    url = deployment.url("regulation")
    for method, path in (
        *(("POST", name) for name in ("quote", "pair", "submit", "settle")),
        *(("GET", name) for name in ("audit?round=spring", "rounds/spring")),
    ):
        empty: dict[str, str] | None = {} if method == "POST" else None
        missing = httpx.request(method, f"{url}/v1/regulation/{path}", json=empty)
        assert_problem(missing, 401, "Bearer")
        wrong = {"Authorization": "Bearer rw-wrong"}
        assert_problem(
            httpx.request(method, f"{url}/v1/regulation/{path}", json=empty, headers=wrong), 403, "the key is unknown"
        )
    health = httpx.get(f"{url}/healthz").json()
    assert (health["status"], health["design"]) == ("ok", "export")
    assert httpx.get(f"{deployment.url(NARROW)}/healthz").json()["design"] == "published"
    assert httpx.get(f"{url}/openapi.json").json()["paths"].keys() >= {"/v1/regulation/settle", "/v1/regulation/audit"}


def test_a_held_ledger_a_full_queue_and_one_greedy_key(deployment: Deployment, send: Send) -> None:
    open_narrow = {"round": "held", "commitment": commitment("held"), "threshold": 0.5, "budget_cents": 10}
    assert send("pair", app=NARROW, **open_narrow).status_code == 200
    with closing(sqlite3.connect(deployment.folder / "regulation" / "narrow.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as pool:
            greedy = list(pool.map(lambda _: enter(send, "held", "ann", app=NARROW, again="one"), range(4)))
            others = list(pool.map(lambda name: enter(send, "held", name, app=NARROW, again="one"), BUILDERS[1:]))
        other.execute("ROLLBACK")
    statuses = {answer.status_code for answer in greedy} | {answer.status_code for answer in others}
    assert 429 in {answer.status_code for answer in greedy}
    assert {503, 504} <= statuses <= {429, 503, 504}
    assert all(answer.headers["retry-after"] for answer in [*greedy, *others] if answer.status_code in (429, 503))
    # Whom a deadline turned away may have been entered since: the same again answers the same.
    entered = {name: enter(send, "held", name, app=NARROW, again="one") for name in BUILDERS}
    refused = [answer for answer in entered.values() if answer.status_code != 201]
    assert len(refused) == 1
    assert_problem(refused[0], 409, "full with 4")
    for name, answer in entered.items():
        assert answer.status_code == 409 or answer.json()["builder"] == name
    assert send("rounds/held", app=NARROW).json()["submissions"] == 4
