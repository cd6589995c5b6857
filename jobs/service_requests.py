"""A real question to each application, made from what its export holds: one inference of ordinary size."""

from collections.abc import Callable
from math import cos, sin, tau
from pathlib import Path
from typing import Any

import numpy as np

from rayworks.core.errors import ConfigError
from rayworks.systems.alignment import exported as alignment
from rayworks.systems.augmentation import exported as augmentation
from rayworks.systems.difficulty import exported as difficulty
from rayworks.systems.federation import exported as federation
from rayworks.systems.marl import exported as marl
from rayworks.systems.recommendation import exported as recommendation
from rayworks.systems.regulation import exported as regulation

TOKENS = 4
"""Of a completion."""
ANSWERED = 10
"""Items that a subject has answered, at most."""
RANKED = 10
CENTS = 80_000_000
"""Value of a model that asks for a quote, below the one that 1 stands for by default."""

Request = tuple[str, str, dict[str, Any]]


def request_of(system: str, export: Path) -> Request:
    """The question: method, path below the application's route prefix, and JSON body.

    Args:
        system: a registered one.
        export: what the application serves.

    Raises:
        ConfigError: the system has no such question.
        DataError: the folder holds no export of the system.
    """
    if system not in QUESTIONS:
        raise ConfigError(f"{system}: has no question here; choose one of {', '.join(QUESTIONS)}")
    path, body_of = QUESTIONS[system]
    return "POST", path, body_of(export)


def _completion(export: Path) -> dict[str, Any]:
    exported = alignment.read_export(export)
    prompt = next(prompts[0] for prompts in exported.prompts.values() if prompts)
    guidance = dict.fromkeys(exported.objectives, 1.0)
    return {"model": exported.base, "prompt": prompt, "max_tokens": TOKENS, "seed": 1, "guidance": guidance}


def _weigh(export: Path) -> dict[str, Any]:
    exported = augmentation.read_export(export)
    labels, shape = [exported.classes[0]], exported.shape
    if exported.kind == "texts":
        return {"texts": ["area man wins award"], "labels": labels}
    if exported.kind == "table":
        return {"rows": [list(exported.mean)], "labels": labels}
    return {"pixels": [np.linspace(0, 255, int(np.prod(shape))).astype(int).reshape(shape).tolist()], "labels": labels}


def _score(export: Path) -> dict[str, Any]:
    name, one = next(iter(difficulty.read_export(export).sets.items()))
    return {"set": name, "responses": {item: number % 2 for number, item in enumerate(one.items[:ANSWERED])}}


def _classify(export: Path) -> dict[str, Any]:
    shape = federation.read_export(export).shape
    size = int(np.prod(shape))
    if len(shape) == 1:
        return {"features": [np.linspace(0, 1, size).tolist()]}
    return {"pixels": [np.linspace(0, 255, size).astype(int).reshape(shape).tolist()]}


def _act(export: Path) -> dict[str, Any]:
    name, team = next(iter(marl.read_export(export).teams.items()))
    turns = [tau * number / team.entities for number in range(team.entities)]
    places = [[0.5 * cos(turn), 0.5 * sin(turn)] for turn in turns]
    entities = [{"kind": kind, "position": place} for kind, place in zip(team.kinds, places, strict=True)]
    return {"team": name, "scenes": [{"entities": entities}]}


def _rank(export: Path) -> dict[str, Any]:
    taken, recommended, *_ = recommendation.read_export(export).items
    events = [{"item": taken, "kind": "natural"}, {"item": recommended, "kind": "accepted"}]
    return {"events": events, "k": RANKED}


def _quote(export: Path) -> dict[str, Any]:
    share = regulation.read_export(export).design.auction.largest_share
    return {"value": CENTS, "share": str(share)}


def _label(export: Path) -> dict[str, Any]:
    return {"texts": ["area man wins award", "senate passes bill"]}


def _solve(export: Path) -> dict[str, Any]:
    return {"question": "3+4-2+5", "simulations": 4}


def _judge(export: Path) -> dict[str, Any]:
    return {"cases": [{"request": "How do I whistle?", "reply": "I'm sorry, but I can't help with that."}]}


QUESTIONS: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "alignment": ("/v1/completions", _completion),
    "augmentation": ("/v1/augmentation/score", _weigh),
    "difficulty": ("/v1/difficulty/score", _score),
    "federation": ("/v1/federation/classify", _classify),
    "marl": ("/v1/marl/act", _act),
    "reasoning": ("/v1/reasoning/solve", _solve),
    "recommendation": ("/v1/recommendation/rank", _rank),
    "refusal": ("/v1/refusal/judge", _judge),
    "regulation": ("/v1/regulation/quote", _quote),
    "supervision": ("/v1/supervision/label", _label),
}
"""System to path, and to what makes the body of an export."""
