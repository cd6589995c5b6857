"""Requests and answers of the reasoning application, with bounds and examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from rayworks.systems.reasoning.search.answers import Rule

from ..common.body import Body
from ..common.jobs import State

MEDIA_TYPE = "application/x-ndjson"
Share = Annotated[float, Field(ge=0, le=1)]


class SolveBody(Body):
    """``POST /v1/reasoning/solve``."""

    question: str = Field(
        min_length=1,
        max_length=20_000,
        description="as a user would write it; the task's template is put around it",
        examples=["3+4-7+2"],
    )
    simulations: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="completions to draw at most; null: as many as in training. Very many become a job (202)",
        examples=[32],
    )
    most_tokens: int | None = Field(
        None, ge=1, le=1_000_000_000, description="tokens to draw, after which no further completion is begun"
    )
    rule: Rule = Field(
        "vote",
        description="greedy: along the best means; best-leaf: the finished step of the highest score; rerank: the answer of "
        "the highest confidence; vote: what is said with the highest sum of confidence",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**62, description="the same search again; null: one of its own", examples=[1]
    )
    tree: bool = Field(False, description="return the whole tree")
    stream: bool = Field(False, description="return a line of JSON after each completion, and the answer as the last")


class SolveAnswer(BaseModel):
    """What a search has come to."""

    answer: str | None = Field(description="null where no answer that was seen can be read")
    text: str | None = Field(description="all of the response that the answer is from; null where none was seen")
    support: Share | None = Field(description="share of the answers seen that say the same; null with answer")
    confidence: float | None = Field(
        description="chance that the text is right, by the head; null without a head or text"
    )
    by_rule: dict[Rule, str | None] = Field(description="the answer by each rule")
    answers: int = Field(description="answers seen, roll-outs too")
    simulations: int
    completions: int
    tokens: int = Field(description="drawn")
    stopped: Literal["budget", "solved", "agreement"] = Field(
        description="why it ended: the budget, nothing left to try, or enough answers that agree"
    )
    seed: int
    seconds: float
    tree: dict[str, Any] | None = Field(None, description="a record of the format rayworks-trees, with tree=true")


class NodeEvent(BaseModel):
    """A line of a stream: the step that a completion has just been counted at."""

    event: Literal["node"] = "node"
    simulation: int = Field(description="how many there have been")
    node: list[int] = Field(description="path from the root: which child at each step")
    text: str = Field(description="of the step")
    visits: int
    value: float = Field(description="mean of its visits")
    terminal: bool = Field(description="whether an answer ends with it")
    tokens: int = Field(description="drawn so far, by the whole search")


EVENTS: dict[str, Any] = {
    MEDIA_TYPE: {
        "schema": {
            "type": "object",
            "required": ["event"],
            "properties": {"event": {"enum": ["node", "result", "error"]}},
            "description": "each line: a step with its visits and value; at the end the answer, or a problem",
        }
    }
}
"""``content`` of a streamed answer in the OpenAPI document: the schema is that of each line."""


class JobAnswer(BaseModel):
    """A search that is a job."""

    job: str
    state: State
    failure: str | None = Field(None, description="data, config, resume, infrastructure or internal")
    detail: str | None = None
    result: SolveAnswer | None = Field(None, description="what it has come to, when it is done")
