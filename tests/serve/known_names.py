"""What generated requests have to know to get past the look-up of a name: taken from the applications, or put there first.

``narrowed`` writes it into an application's OpenAPI document, from which half of the requests are generated.
"""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import httpx

from rayworks.core.run_directory import EXPORT, MANIFEST, REPORT_JSON, RunDirectory
from rayworks.systems.difficulty.exported import CALIBRATION
from rayworks.systems.reasoning.search import records
from serve.apps.difficulty import RESPONSES
from serve.common.jobs import CARD
from serve.common.pictures import DOT
from tests.serve.deployment import Deployment

OWNER = "ruth"
"""Whose requests they are: the one regulator."""
Properties = dict[str, Any]
Values = dict[str, Sequence[Any]]


@dataclass(frozen=True)
class Known:
    """What is known of one application."""

    bodies: Mapping[str, Sequence[Properties]] = field(default_factory=dict)
    """Name of a schema to its alternatives: properties that are always there, by their schema; None: never there."""
    parameters: Values = field(default_factory=dict)
    """Values of path and query parameters, by name."""
    owners: Mapping[str, str] = field(default_factory=dict)
    """Path to whose key it is asked with, where it is not :data:`OWNER`'s."""
    under_way: Mapping[str, Callable[[], AbstractContextManager[Values | None]]] = field(default_factory=dict)
    """Path to more parameters, which are known only while the context lasts."""

    @contextmanager
    def known_while_asking(self, path: str) -> Iterator[Values]:
        """Parameters with which a path may be asked."""
        with self.under_way.get(path, nullcontext)() as more:
            yield {**self.parameters, **(more or {})}


def narrowed(
    document: dict[str, Any], bodies: Mapping[str, Sequence[Properties]], parameters: Values
) -> dict[str, Any]:
    """The OpenAPI document with what is known in the places that mean it."""
    document = deepcopy(document)
    schemas = document["components"]["schemas"]
    for name, alternatives in bodies.items():
        schemas[name] = {"anyOf": [_with(schemas[name], properties) for properties in alternatives]}
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in parameters:
                    parameter["schema"] = {"enum": list(parameters[parameter["name"]])}
    return document


def _with(schema: dict[str, Any], properties: Properties) -> dict[str, Any]:
    given = {name: value for name, value in properties.items() if value is not None}
    others = {name: value for name, value in schema["properties"].items() if name not in properties}
    return {**schema, "properties": {**others, **given}, "required": [*{*schema.get("required", []), *given}]}


def some(values: Sequence[Any], least: int = 1, most: int = 4) -> dict[str, Any]:
    """A list of some of the values."""
    return {"type": "array", "items": {"enum": list(values)}, "minItems": least, "maxItems": most}


def mapping(names: Sequence[str], to: dict[str, Any], least: int = 0) -> dict[str, Any]:
    """Some of the names to something."""
    return {
        **{"type": "object", "properties": dict.fromkeys(names, to), "additionalProperties": False},
        **{"minProperties": least},
    }


def up_to(largest: float, least: float = 0, kind: str = "integer") -> dict[str, Any]:
    """A number."""
    return {"type": kind, "minimum": least, "maximum": largest}


def text(most: int) -> dict[str, Any]:
    """A text that is not empty."""
    return {"type": "string", "minLength": 1, "maxLength": most}


def alignment(deployment: Deployment, name: str) -> Known:
    """Its model and objectives; and a stream that is under way."""
    [model] = deployment.ask(name, "v1/models").json()["data"]
    guidance = mapping(model["objectives"], up_to(100, kind="number"), least=1)
    shared = {"model": {"const": model["id"]}, "guidance": guidance, "n": up_to(2, 1), "max_tokens": up_to(4, 1)}
    shared["stream_options"] = None
    messages = {"type": "array", "items": {"$ref": "#/components/schemas/Message"}, "minItems": 1, "maxItems": 2}

    @contextmanager
    def stream() -> Iterator[Values]:
        # All rows that the application holds, of which one decodes at a time: more tokens than there are requests.
        body = {"model": model["id"], "prompt": "a", "max_tokens": 200, "n": 15, "stream": True}
        url, headers = f"{deployment.url(name)}/v1/completions", deployment.header(OWNER)
        with httpx.stream("POST", url, json=body, headers=headers, timeout=120) as answer:
            # A dropped iterator would end the stream.
            lines = answer.iter_lines()
            first = next(line for line in lines if line.startswith("data: {"))
            yield {"completion": [json.loads(first.removeprefix("data: "))["id"]]}

    return Known(
        {
            "CompletionBody": [{**shared, "prompt": text(20)}],
            "ChatBody": [{**shared, "max_completion_tokens": None, "messages": messages}],
            "Message": [{"content": text(10)}],
            "GuidanceBody": [{"guidance": guidance}],
        },
        {"model": [model["id"]]},
        under_way={"/v1/completions/{completion}/guidance": stream},
    )


def difficulty(deployment: Deployment, name: str) -> Known:
    """Its sets and items, players, and two jobs: one that is done, and one that a cluster has forgotten."""
    page = deployment.ask(name, "v1/difficulty/items").json()
    items, players = [item["item"] for item in page["items"]], ("ann", "ben", "cem", "dan")
    score = {"type": "number", "enum": [0, 0.5, 1]}
    row = {**some([0, 1, None], 3, 3)}
    rated = mapping(players, {"$ref": "#/components/schemas/StartingRating"})
    games = {"type": "array", "items": {"$ref": "#/components/schemas/GameRow"}, "minItems": 1, "maxItems": 3}
    attempts = {**games, "items": {"$ref": "#/components/schemas/AttemptRow"}}
    own = {"type": "array", "items": {"$ref": "#/components/schemas/KnownItem"}, "minItems": 1, "maxItems": 1}
    matrix = {"type": "array", "items": row, "minItems": 5, "maxItems": 9}
    responses = {"type": "array", "items": {"$ref": "#/components/schemas/ResponseRow"}, "minItems": 4, "maxItems": 9}
    lenient = {"allow_disconnected": {"const": True}, "duplicates": {"const": "mean"}, "guessing": None}
    named: Properties = {"subjects": None, "items": None}
    return Known(
        {
            "FitBody": [
                {**lenient, **named, "matrix": matrix, "responses": None},
                {**lenient, **named, "responses": responses, "matrix": None},
            ],
            "ResponseRow": [{"subject": {"enum": players}, "item": {"enum": items[:3]}, "family": None}],
            "RateBody": [
                {"games": games, "attempts": None, "ratings": rated},
                {"attempts": attempts, "games": None, "ratings": None},
            ],
            "GameRow": [{"player": {"enum": players[:2]}, "opponent": {"enum": players[2:]}, "period": None}],
            "AttemptRow": [{"problem": {"enum": items}, "contestant": {"enum": players}, "period": None}],
            "ScoreBody": [
                {
                    "responses": mapping(items, score),
                    "set": {"enum": page["sets"]},
                    "items": None,
                    "population_sd": None,
                },
                {"responses": mapping(items[:1], score), "items": own, "set": None},
            ],
            "KnownItem": [{"item": {"const": items[0]}, "guessing": up_to(0.4, kind="number"), "ceiling": None}],
        },
        {"set": page["sets"], "job": [*jobs_of(deployment, page["set"])]},
    )


def jobs_of(deployment: Deployment, calibrated: str) -> Iterator[str]:
    """Jobs of the owner, as they are found after a restart of the cluster; the first has made the application's export."""
    folder = deployment.folder / "difficulty"
    for number in range(2):
        job = f"difficulty-{number:032x}"
        (folder / "spool" / job).mkdir(parents=True, exist_ok=True)
        (folder / "spool" / job / CARD).write_text(json.dumps({"owner": OWNER, "submitted": 0.0}))
        if number == 0:
            directory = RunDirectory(str(folder / "spool" / job), "difficulty", "run")
            calibration = (folder / EXPORT / calibrated / CALIBRATION).read_bytes()
            directory.write(f"{EXPORT}/{RESPONSES}/{CALIBRATION}", calibration)
            directory.write(REPORT_JSON, json.dumps({"headline": {"reliability": 0.5}}))
            directory.write(MANIFEST, json.dumps({"state": "done"}))
        yield job


def augmentation(deployment: Deployment, name: str) -> Known:
    """Samples of its shape, and its classes."""
    card = deployment.ask(name, "v1/augmentation/card").json()
    assert card["kind"] == "images"
    assert card["shape"] == [1, 8, 8], "the size of the picture"
    others = {"pixels": None, "rows": None, "texts": None}
    label = {"enum": card["classes"]}
    images = {"type": "array", "items": {"const": DOT}, "minItems": 2, "maxItems": 2}
    labels = {"type": "array", "items": label, "minItems": 2, "maxItems": 2}
    return Known(
        {"PredictBody": [{"images": images, **others}], "ScoreBody": [{"images": images, "labels": labels, **others}]}
    )


def federation(deployment: Deployment, name: str) -> Known:
    """Inputs of its shape."""
    card = deployment.ask(name, "v1/federation/card").json()
    pixels: dict[str, Any] = up_to(255)
    for size in reversed(card["shape"]):
        pixels = {"type": "array", "items": pixels, "minItems": size, "maxItems": size}
    inputs = {"type": "array", "items": pixels, "minItems": 1, "maxItems": 1}
    assert card["shape"] == [1, 8, 8], "the size of the picture"
    return Known(
        {
            "ClassifyBody": [
                {"pixels": inputs, "images": None, "features": None},
                {"images": some([DOT], most=card["limits"]["inputs"]), "pixels": None, "features": None},
            ]
        }
    )


def marl(deployment: Deployment, name: str) -> Known:
    """Its teams, the kinds of their entities, and their features; the first entity acts."""
    card = deployment.ask(name, "v1/marl/card").json()
    [(team, one)] = card["teams"].items()
    entity, seen = {"$ref": "#/components/schemas/Entity"}, mapping(["0"], some([0]))
    acting = {"allOf": [entity, {"properties": {"kind": {"enum": one["acting_kinds"]}}}]}
    features = mapping(one["features"], up_to(9, kind="number"))
    return Known(
        {
            "ActBody": [{"team": {"const": team}}],
            "SceneBody": [
                {
                    "entities": {
                        **{"type": "array", "prefixItems": [acting], "items": entity, "minItems": 1, "maxItems": 4}
                    },
                    **{"sees": seen, "targets": None, "forbidden": None},
                }
            ],
            "Entity": [{"kind": {"enum": one["kinds"]}, "features": features}],
        }
    )


def reasoning(deployment: Deployment, name: str) -> Known:
    """Sums that its policy reads, and a job that is done."""
    job, spool = f"reasoning-{0:032x}", deployment.folder / "reasoning" / "spool"
    (spool / job).mkdir(parents=True, exist_ok=True)
    (spool / job / CARD).write_text(json.dumps({"owner": OWNER, "submitted": 0.0}))
    directory = RunDirectory(str(spool / job), "reasoning", "run")
    found = deployment.ask(name, "v1/reasoning/solve", question="1+2", simulations=4, tree=True).json()
    directory.write("config.yaml", "{run: {seed: 3}, evaluation: {rule: rerank}}")
    directory.write("trees/round-0/00000.jsonl", records.written([found["tree"]]))
    directory.write(MANIFEST, json.dumps({"state": "done"}))
    simulations = {"enum": [1, 5, None]}
    return Known(
        {"SolveBody": [{"question": {"enum": ["1+2", "9-9+4"]}, "simulations": simulations, "most_tokens": None}]},
        {"job": [job]},
    )


def recommendation(deployment: Deployment, name: str) -> Known:
    """Its catalogue."""
    found = deployment.ask(name, "v1/recommendation/rank", events=[], k=30).json()
    items = some([item["item"] for item in found["items"]])
    few = {"events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}, "maxItems": 4}}
    policy: dict[str, Any] = {"$ref": "#/components/schemas/PolicyBody"}
    return Known(
        {
            "Event": [{"item": items["items"], "time": None}],
            "AcceptBody": [{**few, "items": items}],
            "RankBody": [{**few, "exclude": items, "k": up_to(30, 1)}],
            "AttributeBody": [{**few, "items": items}],
            "WhatIfBody": [
                {**few, "do": items, "policy": None, "steps": None, "rollouts": None},
                {**few, "policy": policy, "steps": up_to(4, 1), "rollouts": up_to(8, 2), "do": None, "paths": None},
            ],
            "PolicyBody": [
                {"name": {"enum": ["greedy", "uniform"]}, "temperature": None},
                {"name": {"const": "softmax"}, "temperature": up_to(100, 0.001, "number")},
            ],
        }
    )


ROUNDS = {"opened": 0, "submitted": 2, "cancelled": 1, "withdrawn": 1, "revealed": 3}
"""Submissions of each before the requests; the last is paired, and may be settled."""


def regulation(deployment: Deployment, name: str) -> Known:
    """Rounds of their own at each step, with their seeds; submissions are a builder's."""
    mark = uuid.uuid4().hex
    seeds = {f"{step}-{mark}": hashlib.sha256(f"{step} {mark}".encode()).hexdigest() for step in ROUNDS}
    for (round, seed), submissions in zip(seeds.items(), ROUNDS.values(), strict=True):
        terms: Properties = {"threshold": 0.5, "premium_cents": 1001}
        send(deployment, name, "pair", round=round, commitment=hashlib.sha256(seed.encode()).hexdigest(), **terms)
        for builder in ("ben", "cem", "dan")[:submissions]:
            model = hashlib.sha256(f"{round} {builder}".encode()).hexdigest()
            send(deployment, name, "submit", builder, round=round, score=0.7, model=model)
    [opened, submitted, cancelled, withdrawn, revealed] = known = list(seeds)
    send(deployment, name, "pair", round=revealed, seed=seeds[revealed])
    return Known(
        {
            "QuoteBody": [
                {"value": up_to(10**8), "share": {"enum": ["0.1", 0.4]}, "price": {"enum": [0.3, 0.6, None]}}
            ],
            "CommitBody": [{"premium_cents": up_to(1000, 1), "prizes": up_to(1, 1), "round": {"const": f"new-{mark}"}}],
            "RevealBody": [
                {"round": {"const": round}, "seed": {"const": seeds[round]}} for round in (opened, submitted, revealed)
            ],
            "SubmitBody": [{"round": {"enum": known}}],
            "SettleBody": [{"round": {"enum": known}}],
            "WithdrawBody": [{"round": {"const": withdrawn}, "submission": {"const": 1}}],
            "CancelBody": [{"round": {"const": cancelled}}],
        },
        {"round": known, "name": known},
        owners={"/v1/regulation/submit": "ann", "/v1/regulation/withdraw": "ben"},
    )


def send(deployment: Deployment, name: str, path: str, key: str = OWNER, **body: Any) -> None:
    """Put something into the ledger."""
    answer = deployment.ask(name, f"v1/regulation/{path}", key, **body)
    assert answer.is_success, answer.text


def refusal(deployment: Deployment, name: str) -> Known:
    """What may be measured, how much may be written, and a job that is done."""
    job, spool = f"refusal-{0:032x}", deployment.folder / "refusal" / "spool"
    (spool / job).mkdir(parents=True, exist_ok=True)
    (spool / job / CARD).write_text(json.dumps({"owner": OWNER, "submitted": 0.0}))
    directory = RunDirectory(str(spool / job), "refusal", "run")
    directory.write(REPORT_JSON, json.dumps({"headline": {"yield": None}, "tables": []}))
    directory.write(MANIFEST, json.dumps({"state": "done"}))
    sets = {"type": "array", "items": {"enum": ["planted-safe", "planted-control"]}, "minItems": 1, "maxItems": 2}
    bodies = {"EvaluateBody": [{"model": {"enum": ["toy"]}, "sets": sets}], "GenerateBody": [{"prompts": up_to(8, 1)}]}
    # One job of a key at a time is enough, and each of the two routes has a key of its own.
    return Known(bodies, {"job": [job]}, owners={"/v1/refusal/generate": "other"})


def supervision(deployment: Deployment, name: str) -> Known:
    """Nothing: any text has a label."""
    return Known()
