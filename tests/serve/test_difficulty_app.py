"""The difficulty application over real HTTP on the shared cluster."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from rayworks.core import config as configs
from rayworks.systems.difficulty.calibration import estimate, parameters_from_dict
from rayworks.systems.difficulty.config import Config
from rayworks.systems.difficulty.item_response.abilities import (
    expected_abilities,
    next_item,
    scoring_grid,
    weighted_likelihood,
)
from rayworks.systems.difficulty.ratings import glicko2
from rayworks.systems.difficulty.ratings.rating_periods import converged, problem_games
from rayworks.systems.difficulty.responses.response_matrix import as_matrix
from rayworks.systems.difficulty.responses.response_store import from_matrix
from tests.serve.applications import ITEMS, simulated
from tests.serve.deployment import Deployment

SMALL = [[1, 0, 0], [1, 1, 0], [0, 1, None], [1, 1, 1], [0, 0, 1]]
GLICKMAN = [
    {"player": "ann", "opponent": "low", "score": 1},
    {"player": "ann", "opponent": "middle", "score": 0},
    {"player": "ann", "opponent": "high", "score": 0},
]
KNOWN = {
    "ann": {"rating": 1500, "deviation": 200},
    "low": {"rating": 1400, "deviation": 30, "fixed": True},
    "middle": {"rating": 1550, "deviation": 100, "fixed": True},
    "high": {"rating": 1700, "deviation": 300, "fixed": True},
}
NARROW = "difficulty-narrow"
Send = Callable[..., httpx.Response]


@pytest.fixture
def send(deployment: Deployment) -> Send:
    """Posts to the application, or to another of its system, where there is a body; else gets."""

    def send(path: str, app: str = "difficulty", **more: Any) -> httpx.Response:
        return deployment.ask(app, f"v1/difficulty/{path}", **more)

    return send


@pytest.mark.parametrize("model", ["1PL", "2PL", "3PL"])
def test_a_fit_is_the_librarys(send: Send, model: str) -> None:
    scores = simulated(100, 10)
    answer = send("fit", matrix=scores.tolist(), model=model, standard_errors="observed")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    responses = from_matrix(scores)
    settings = {"model.name": model, "uncertainty.standard_errors": "observed"}
    expected = estimate(responses, as_matrix(responses), configs.resolve(Config, overrides=settings))
    parameters = expected.calibration.parameters
    columns = {name: [item[name] for item in found["items"]] for name in found["items"][0]}
    np.testing.assert_allclose(columns["difficulty"], parameters.difficulty, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(columns["discrimination"], parameters.discrimination, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(columns["standard_error"], expected.errors.difficulty, rtol=1e-9, atol=1e-9)
    assert found["log_likelihood"] == pytest.approx(expected.calibration.log_likelihood, rel=1e-9)
    assert found["converged"] == expected.calibration.converged
    assert columns["item"] == [f"item-{number}" for number in range(10)]
    assert columns["responses"] == [100] * 10
    assert (min(columns["rating"]), max(columns["rating"])) == (0, 1)
    assert sorted(columns["rating_quantile"]) == pytest.approx([n / 10 for n in range(1, 11)])
    np.testing.assert_allclose(np.sum(columns["bin_probabilities"], axis=1), 1)
    low, high = np.transpose(columns["interval"])
    np.testing.assert_allclose(high - low, 2 * 1.959964 * np.array(columns["standard_error"]))
    assert 0 < found["reliability"] < 1


def test_long_and_dense_forms_agree_and_order_does_not_matter(send: Send) -> None:
    rows = [
        row(f"s{s}", f"i{i}", score)
        for s, scores in enumerate(SMALL)
        for i, score in enumerate(scores)
        if score is not None
    ]
    names = {"subjects": [f"s{n}" for n in range(5)], "items": ["i0", "i1", "i2"]}
    dense = send("fit", matrix=SMALL, **names).json()["items"]
    long = send("fit", responses=rows).json()["items"]
    assert dense == long
    backwards = send("fit", responses=rows[::-1]).json()["items"]
    assert [item["item"] for item in backwards] == ["i2", "i1", "i0"]
    by_name = {item["item"]: item["difficulty"] for item in backwards}
    assert by_name == pytest.approx({item["item"]: item["difficulty"] for item in long})


def test_a_fit_says_what_it_can_not_vouch_for(send: Send) -> None:
    scores = simulated(300, 12)
    scores[:, 0] = 1
    scores[:, 5] = 1 - scores[:, 5]
    found = send("fit", matrix=scores.tolist()).json()
    assert not any(item["held_by_prior"] for item in found["items"])
    assert "do not touch the others" in found["warnings"][0] and "item-0" in found["warnings"][0]
    unbounded = [item["item"] for item in found["items"] if item["unbounded"]]
    suspected = [item["item"] for item in found["items"] if item["suspected_label_error"]]
    assert (unbounded, suspected) == (["item-0"], ["item-5"])
    assert any("label errors" in warning and "item-5" in warning for warning in found["warnings"])
    parts = [[1, 0, None, None], [0, 1, None, None], [None, None, 1, 0], [None, None, 0, 1], [None, None, 1, 1]]
    joined = send("fit", matrix=parts, allow_disconnected=True)
    assert any("share no subject" in warning for warning in joined.json()["warnings"])


def row(subject: str, item: str, score: float = 1, **more: Any) -> dict[str, Any]:
    return {"subject": subject, "item": item, "score": score, **more}


def attempt(problem: str, contestant: str, solved: float = 1) -> dict[str, Any]:
    return {"problem": problem, "contestant": contestant, "solved": solved}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"matrix": [[1, 0], [1, 2]]}, ["matrix.1.1", "less than or equal to 1"]),
        ({"matrix": [[1, 0], ["many", 1]]}, ["matrix.1.0"]),
        ({"matrix": [[1, 0], [1]]}, ["row 1 has 1 cells", "null"]),
        ({"matrix": [[1, 0, 1]]}, ["one subject"]),
        ({"matrix": [[1, None], [0, None]]}, ["nobody saw item item-1"]),
        ({"matrix": [[None, None]]}, ["no response"]),
        ({"matrix": []}, ["no response"]),
        ({"matrix": [[1, 0], [0, 1]], "items": ["a"]}, ["items", "are 1, the matrix has 2"]),
        ({"matrix": [[1, 0], [0, 1]], "items": ["a", "a"]}, ["unique"]),
        ({"matrix": [[1, 0], [1, 0]], "model": "5PL"}, ["model", "4PL"]),
        ({"matrix": [[1, 0], [1, 0]], "guessing": 0.2}, ["guessing", "3PL"]),
        ({"matrix": [[1, 0], [None, None], [0, 1]]}, ["subject-1 answered nothing", "leave the row out"]),
        ({"matrix": SMALL[:4], "standard_errors": "cross-product"}, ["more subjects than parameters"]),
        ({"matrix": SMALL, "surprise": 1}, ["surprise"]),
        ({"model": "1PL"}, ["matrix, responses: send one"]),
        ({"responses": [row("a", "x"), row("a", "x", 0)]}, ["row 2 repeats subject a, item x", "say duplicates: mean"]),
        ({"responses": [row("a", "x", 1.5)]}, ["responses.0.score"]),
        ({"responses": [row("a", "x", weight=-1)]}, ["responses.0.weight"]),
        ({"responses": [row("a", "x", family="f"), row("a", "y", 0, family="g"), row("b", "x")]}, ["two families"]),
        (
            {"responses": [row("a", "x"), row("b", "x", 0), row("c", "y"), row("d", "y", 0)]},
            ["2 parts", "1 items (x); 1 items (y)", "say allow_disconnected: true"],
        ),
        ({"games": [], "attempts": None}, ["at least one"]),
        ({"system": "glicko2"}, ["games, attempts: send one"]),
        ({"games": [{**GLICKMAN[0], "opponent": "ann"}]}, ["'ann' meets itself"]),
        ({"games": [{**GLICKMAN[0], "score": 2}]}, ["games.0.score"]),
        ({"games": GLICKMAN, "ratings": {"nobody": {"rating": 1}}}, ["'nobody' has no game"]),
        ({"games": GLICKMAN, "ratings": {"ann": {"rating": 1500, "deviation": 0}}}, ["ratings.ann.deviation"]),
        ({"games": [{**GLICKMAN[0], "period": 1}, {**GLICKMAN[1], "period": "x"}]}, ["period"]),
        ({"games": GLICKMAN, "glicko2": {"tau": 9}}, ["glicko2.tau"]),
        ({"games": GLICKMAN, "glicko2": {"tau": 1e-30}}, ["glicko2.tau"]),
        ({"games": GLICKMAN, "elo": {"q": 1}}, ["elo.q"]),
        ({"attempts": [attempt("a", "b"), attempt("b", "c")]}, ["'b' is problem and contestant"]),
    ],
)
def test_bad_requests_get_one_clear_answer(send: Send, body: dict[str, Any], words: list[str]) -> None:
    answer = send("rate" if {"games", "attempts", "system"} & set(body) else "fit", **body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["request_id"] == answer.headers["x-request-id"]
    for word in words:
        assert word in problem["detail"]


def test_what_json_itself_does_not_know_is_refused(deployment: Deployment) -> None:
    headers = {**deployment.header("tester"), "Content-Type": "application/json"}
    for content, word in (
        (b'{"matrix": [[1, NaN], [0, 1]]}', "matrix.0.1: input should be a finite number"),
        (b"{", "JSON"),
    ):
        answer = httpx.post(f"{deployment.url('difficulty')}/v1/difficulty/fit", content=content, headers=headers)
        assert answer.status_code == 422
        assert word in answer.json()["detail"]


def test_keys_sizes_and_open_paths(deployment: Deployment, send: Send) -> None:
    url = deployment.url("difficulty")
    for path in ("fit", "rate", "score"):
        assert httpx.post(f"{url}/v1/difficulty/{path}", json={}).status_code == 401
        assert (
            httpx.post(f"{url}/v1/difficulty/{path}", json={}, headers={"Authorization": "Bearer x"}).status_code == 403
        )
    assert httpx.get(f"{url}/v1/difficulty/items").status_code == 401
    health = httpx.get(f"{url}/healthz", timeout=30).json()
    assert (health["status"], health["sets"]) == ("ok", ["simulated"])
    assert "/v1/difficulty/fit" in httpx.get(f"{url}/openapi.json").json()["paths"]
    for size, key, status in ((9_000_000, "tester", 413), (2_000_000, "tester", 422), (2_000_000, None, 401)):
        headers = deployment.header(key) if key else {}
        answer = httpx.post(f"{url}/v1/difficulty/fit", content=b" " * size, headers=headers, timeout=30)
        assert answer.status_code == status, size


def test_glickmans_worked_example(send: Send) -> None:
    answer = send("rate", games=GLICKMAN, ratings=KNOWN)
    assert answer.status_code == 200, answer.text
    found = {player["player"]: player for player in answer.json()["players"]}
    ann = found["ann"]
    assert ann["rating"] == pytest.approx(1464.050671, abs=1e-6)
    assert ann["deviation"] == pytest.approx(151.516524, abs=1e-6)
    assert ann["volatility"] == pytest.approx(0.059995984, abs=1e-9)
    assert (ann["games"], ann["capped"], ann["role"]) == (3, [], "player")
    assert (found["high"]["rating"], found["high"]["deviation"], found["high"]["fixed"]) == (1700, 300, True)
    in_parts = send("rate", games=[{**game, "period": n} for n, game in enumerate(GLICKMAN)], ratings=KNOWN).json()
    assert in_parts["periods"] == 3
    for system in ("glicko1", "elo"):
        other = send("rate", games=GLICKMAN, ratings=KNOWN, system=system).json()["players"][0]
        assert other["rating"] < 1500
        assert other["volatility"] == 0.06


def test_attempts_are_games_that_the_problem_wins_when_unsolved(send: Send) -> None:
    generator = np.random.default_rng(1)
    problems, contestants = ["p0", "p1", "p2"], [f"c{n}" for n in range(8)]
    ratings = generator.normal(1500, 300, len(contestants))
    solved = np.arange(8) < np.array([[2], [4], [6]])
    pairs = [(p, c) for p in range(3) for c in range(8)]
    attempts = [attempt(problems[p], contestants[c], bool(solved[p, c])) for p, c in pairs]
    known = {name: {"rating": r, "deviation": 50, "fixed": True} for name, r in zip(contestants, ratings, strict=True)}
    found = send("rate", attempts=attempts, ratings=known, mode="converged").json()
    games = problem_games(
        problems,
        contestants,
        [problems[p] for p, _ in pairs],
        [contestants[c] for _, c in pairs],
        [solved[p, c] for p, c in pairs],
        np.zeros(len(pairs), dtype=int),
    )
    start = glicko2.GLICKO2.start(11)
    start.rating[3:], start.deviation[3:] = ratings, 50
    expected = converged(start, games, glicko2.rate_period, fixed=np.arange(11) >= 3)
    assert [player["role"] for player in found["players"]] == ["problem"] * 3 + ["contestant"] * 8
    rated = [player["rating"] for player in found["players"][:3]]
    np.testing.assert_allclose(rated, expected.ratings.rating[:3], rtol=1e-9, atol=1e-9)
    assert rated[0] > rated[1] > rated[2]
    assert (found["passes"], found["converged"]) == (expected.passes, True)


def test_capped_updates_are_reported(send: Send) -> None:
    games = [{"player": "strong", "opponent": f"weak{n}", "score": 0} for n in range(30)]
    known = {f"weak{n}": {"rating": 1500, "deviation": 50, "fixed": True} for n in range(30)}
    found = send("rate", games=games, ratings={**known, "strong": {"rating": 2800, "deviation": 50}}).json()
    assert found["capped_updates"] == 1
    assert "volatility" in found["players"][0]["capped"]


@pytest.mark.parametrize("estimator", ["EAP", "MAP", "WLE"])
def test_a_subject_is_scored_on_the_loaded_calibration(send: Send, deployment: Deployment, estimator: str) -> None:
    file = deployment.folder / "difficulty" / "export" / "simulated" / "calibration.json"
    parameters = parameters_from_dict(json.loads(file.read_text())["parameters"])
    given = {ITEMS[n]: int(n < 6) for n in range(2, 10)}
    found = send("score", responses=given, estimator=estimator).json()
    asked = list(range(2, 10))
    responses = from_matrix(np.array([[given[ITEMS[n]] for n in asked]] * 2))
    if estimator == "EAP":
        expected = expected_abilities(as_matrix(responses), parameters.take(np.array(asked)), scoring_grid(20))
        assert found["ability"] == pytest.approx(expected.ability[0], rel=1e-10)
        assert found["standard_error"] == pytest.approx(expected.error[0], rel=1e-10)
    if estimator == "WLE":
        expected = weighted_likelihood(responses, parameters.take(np.array(asked)))
        assert found["ability"] == pytest.approx(expected.ability[0], abs=1e-6)
    answered = np.isin(np.arange(20), asked)
    best = next_item(parameters, found["ability"], found["standard_error"], answered)
    assert found["next_item"]["item"] == ITEMS[best.item]
    assert found["next_item"]["expected_standard_error"] < found["standard_error"]
    rest = parameters.take(~answered).probability(np.array([found["ability"]])).sum()
    assert found["expected_score"] == pytest.approx((4 + rest) / 20, abs=0.05)
    assert 0 < found["expected_score_error"] < 0.2
    assert (found["answered"], found["items"]) == (8, 20)


def test_items_may_come_with_the_request(send: Send) -> None:
    items = [{"item": name, "difficulty": b} for name, b in (("easy", -2), ("even", 0.1), ("hard", 2))]
    fresh = send("score", app=NARROW, items=items, responses={}).json()
    assert fresh["ability"] == pytest.approx(0, abs=1e-9)
    assert fresh["standard_error"] == pytest.approx(1, abs=1e-3)
    assert fresh["next_item"]["item"] == "even"
    able = send("score", app=NARROW, items=items, responses={"easy": 1, "even": 1}).json()
    assert able["ability"] > 0
    assert able["next_item"]["item"] == "hard"
    done = send("score", app=NARROW, items=items, responses={"easy": 1, "even": 1, "hard": 0}).json()
    assert done["next_item"] is None
    assert done["expected_score"] == pytest.approx(2 / 3)
    assert done["expected_score_error"] == 0


@pytest.mark.parametrize(
    ("app", "body", "status", "words"),
    [
        (NARROW, {"responses": {"a": 1}}, 404, "jobs.run difficulty"),
        ("difficulty", {"responses": {"q00": 1}, "set": "lsat"}, 404, "use one of simulated"),
        ("difficulty", {"responses": {"zz": 1}}, 422, "'zz' is not an item"),
        ("difficulty", {"responses": {"q00": 3}}, 422, "responses.q00"),
        ("difficulty", {"responses": {}, "estimator": "WLE"}, 422, "WLE needs at least one"),
        ("difficulty", {"responses": {}, "population_sd": 2}, 422, "population_sd"),
        (
            NARROW,
            {"responses": {}, "items": [{"item": "a", "difficulty": 0}], "population_sd": 1e-320},
            422,
            "population_sd",
        ),
        ("difficulty", {"responses": {}, "items": [{"item": "a", "difficulty": 0}] * 2}, 422, "unique"),
        ("difficulty", {"responses": {}, "items": [{"item": "a", "difficulty": 0, "guessing": 1}]}, 422, "guessing"),
    ],
)
def test_bad_scores_get_one_clear_answer(send: Send, app: str, body: dict[str, Any], status: int, words: str) -> None:
    answer = send("score", app=app, **body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]


def test_items_are_listed_in_pages(send: Send) -> None:
    first = send("items?limit=15").json()
    assert (first["sets"], first["set"], first["total"], first["next_offset"]) == (["simulated"], "simulated", 20, 15)
    rest = send(f"items?set=simulated&offset={first['next_offset']}").json()
    assert rest["next_offset"] is None
    assert [item["item"] for item in first["items"] + rest["items"]] == ITEMS
    assert first["items"][0]["text"] == "easiest"
    assert send("items?limit=0").status_code == 422
    assert send("items?set=lsat").status_code == 404
    missing = send("items", app=NARROW)
    assert missing.status_code == 404
    assert "set export and deploy again" in missing.json()["detail"]


def test_a_full_queue_a_deadline_and_one_greedy_key(send: Send) -> None:
    # A long replay in many periods, which gives up at the deadline.
    players = np.random.default_rng(0).integers(0, 1000, (1000, 2))
    slow = [
        {"player": f"p{player}", "opponent": f"q{opponent}", "score": number % 2, "period": number}
        for number, (player, opponent) in enumerate(players.tolist())
    ]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: send("rate", app=NARROW, games=slow, mode="converged"), range(10)))
    statuses = {answer.status_code for answer in answers}
    assert {429, 503} & statuses
    assert 504 in statuses
    assert statuses <= {429, 503, 504}
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code in (429, 503))
    deadline = time.monotonic() + 300
    while send("fit", app=NARROW, matrix=SMALL).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def finished(send: Send, job: str, app: str = "difficulty") -> dict[str, Any]:
    deadline = time.monotonic() + 600
    while True:
        found: dict[str, Any] = send(f"jobs/{job}", app=app).json()
        if found["state"] not in ("pending", "running"):
            return found
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_a_large_table_becomes_a_job_of_its_key(send: Send) -> None:
    scores = simulated(300, 20)
    accepted = send("fit", matrix=scores.tolist(), items=ITEMS)
    assert accepted.status_code == 202, accepted.text
    job = accepted.json()["job"]
    assert accepted.headers["location"].endswith(f"/difficulty/v1/difficulty/jobs/{job}")
    assert send(f"jobs/{job}", key="other").status_code == 404
    assert send("jobs/difficulty-0").status_code == 404
    assert send("jobs/..%2F..%2Fkeys").status_code == 404
    assert send("fit", matrix=scores.tolist(), items=ITEMS).status_code == 429
    found = finished(send, job)
    if found["failure"] == "infrastructure":
        # So it may end where the machine has much else to do; the answer says to send the data again.
        found = finished(send, send("fit", matrix=scores.tolist(), items=ITEMS).json()["job"])
    assert found["state"] == "succeeded", found
    responses = from_matrix(scores, items=ITEMS)
    expected = estimate(responses, as_matrix(responses), Config()).calibration.parameters.difficulty
    by_name = {item["item"]: item["difficulty"] for item in found["items"]}
    assert [by_name[str(name)] for name in responses.items] == pytest.approx(expected.tolist(), abs=1e-6)
    assert found["headline"]
    assert found["model"] == "1PL"
    assert send("fit", matrix=[[1, None]] * 6000).status_code == 422, "large data are checked before they become a job"


def test_a_job_that_fails_says_why(send: Send) -> None:
    job = send("fit", app=NARROW, matrix=simulated(3, 400).tolist()).json()["job"]
    found = finished(send, job, app=NARROW)
    assert (found["state"], found["failure"], found["items"]) == ("failed", "config", None)
    assert "surprise" in found["detail"]
