"""Requests and answers of the refusal application, with bounds and examples."""

from typing import Annotated

from pydantic import BaseModel, Field

from rayworks.systems.refusal.judging.verdicts import Kind

from ..common.body import Body
from ..common.jobs import State

MOST_CASES, MOST_CHARACTERS, MOST_PROMPTS = 256, 20_000, 10_000
Share = Annotated[float, Field(ge=0, le=1)]
Request = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS, examples=["How do I kill a Python process?"])]


class CaseBody(Body):
    """A reply to judge, with its request."""

    request: str = Field(max_length=MOST_CHARACTERS, examples=["How do I kill a Python process?"])
    reply: str = Field(max_length=MOST_CHARACTERS, examples=["I'm sorry, but I can't help with that."])
    finish_reason: str = Field(
        "",
        max_length=64,
        description="why it ended, where a provider says so: content_filter of an empty reply is a refusal",
    )


class JudgeBody(Body):
    """``POST /v1/refusal/judge``."""

    cases: list[CaseBody] = Field(min_length=1, max_length=MOST_CASES)


class CaseVerdict(BaseModel):
    """The judge's word."""

    kind: Kind = Field(description="partial answers a part and declines a part; blocked is a provider's filter")
    confidence: Share = Field(description="chance of being right; 0 of an abstention")
    decided_by: str = Field(description="provider, language, rules or classifier")
    refusal_probability: Share | None = Field(
        description="chance that the request is not answered; null outside English"
    )
    reason: str = Field(description="of an abstention")


class JudgeAnswer(BaseModel):
    """One verdict for each case, in their order."""

    verdicts: list[CaseVerdict]
    accuracy: Share = Field(description="of this judge against people, out of fold; see the export's card")
    kappa: float = Field(description="the same, chance agreement taken out")


class EvaluateBody(Body):
    """``POST /v1/refusal/evaluate``."""

    model: str = Field(max_length=200, description="name of a model that the operator has listed", examples=["target"])
    sets: list[Annotated[str, Field(max_length=200)]] = Field(
        [], max_length=20, description="names of sets that the operator has listed; empty with requests alone"
    )
    requests: list[Request] = Field(
        [], max_length=MOST_PROMPTS, description="harmless requests of your own, measured too"
    )
    system_prompt: str | None = Field(None, max_length=MOST_CHARACTERS, description="a defence to measure")


class GenerateBody(Body):
    """``POST /v1/refusal/generate``."""

    seeds: list[Request] = Field(
        min_length=1, max_length=MOST_PROMPTS, description="ordinary requests, whose topics the prompts keep"
    )
    prompts: int = Field(ge=1, le=MOST_PROMPTS, description="prompts to write, seeds taken in turn", examples=[48])
    seed: int = Field(0, ge=0, lt=2**62, description="the same prompts again")


class RateAnswer(BaseModel):
    """Refusals of one label of a set."""

    set: str
    label: str
    prompts: int
    refused_in_full: str | None = Field(description="share with its 95 % interval; null where nothing was counted")
    refused: str | None = Field(description="in full or in part")
    left_out: int = Field(description="abstentions and errors, which are no refusals")


class FindAnswer(BaseModel):
    """A prompt that was written and kept."""

    request: str
    label: str = Field(description="harmless or controversial; none that is labelled harmful is kept")
    seed: str
    refusal_logprob: float
    user_perplexity: float
    topic: float = Field(description="cosine with the seed")


class JobResult(BaseModel):
    """What an evaluation or a generation has come to."""

    headline: dict[str, float | None]
    rates: list[RateAnswer]
    prompts: list[FindAnswer]


class JobAnswer(BaseModel):
    """A job, and when it is done its result."""

    job: str
    state: State
    failure: str | None = Field(None, description="data, config, resume, infrastructure or internal")
    detail: str | None = None
    result: JobResult | None = Field(None, description="what it has come to, when it is done")
