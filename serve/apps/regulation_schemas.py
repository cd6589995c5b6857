"""Requests and answers of the regulation application, with bounds and examples. Money is whole cents everywhere."""

import hashlib
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from rayworks.systems.regulation.contests import ByeRule, TieRule
from rayworks.systems.regulation.mechanism import Status

from ..common.body import Body

MOST_PREMIUM, MOST_BUDGET = 10**11, 10**15
"""Cents that a JSON number and SQLite still hold exactly when all submissions of a round are paid."""
EXAMPLE_SEED = "9f2c4b7e1d6a8035c1e4f7a92b3d5068e7c9a1f4b2d80633577e9ab1c4d6f208"
EXAMPLE_COMMITMENT = "d2dd43e6d17e84d9194af035d16bc34badc04227df34f400715ac4ac8c222055"

RoundName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="name of the round", examples=["spring"])
]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in 64 lower-case hexadecimal digits")]
Cents = Annotated[int, Field(strict=True)]
Compliance = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]


class QuoteBody(Body):
    """``POST /v1/regulation/quote``: a builder's private type."""

    value: Cents = Field(ge=0, le=MOST_BUDGET, description="total value of the model in cents", examples=[80_000_000])
    share: Decimal = Field(
        ge=0,
        le=1,
        max_digits=24,
        allow_inf_nan=False,
        description="part of the value that the premium makes up, as a number or a decimal text",
        examples=["0.4"],
    )
    price: float | None = Field(
        None, gt=0, lt=1, strict=True, description="another cost of the threshold; by default the design's"
    )


class QuoteAnswer(BaseModel):
    """What the equilibrium recommends to a type; expectations are over rivals."""

    deployment_value_cents: int = Field(description="value without the premium's part")
    premium_worth_cents: int = Field(description="what winning the premium is worth")
    bid_cents: int = Field(description="to spend on compliance, rounded up")
    bid: float = Field(description="the same over unit_cents")
    win_probability: float
    interim_utility_cents: int = Field(description="expected, of that bid; rounded to even")
    participate: bool = Field(description="whether the expectation is above 0")
    compliance: float = Field(description="what the bid buys, by the price curve")
    price: float = Field(description="what the threshold costs, over unit_cents")
    price_cents: int
    threshold: float = Field(description="least compliance that is cleared")
    unit_cents: int = Field(description="cents that a value of 1 stands for")
    builders: int | None = Field(description="that the design counts on; null: ever so many, so that groups fill")
    left_over: float = Field(description="chance to have no group and win at a group's rate, part of win_probability")
    mode: Literal["paper", "capped", "fixed_point"] = Field(description="of the equilibrium")
    design: Literal["published", "export"] = Field(description="the paper's, or that of a finished run")


class RulesBody(BaseModel):
    """Rules of a round."""

    threshold: Compliance = Field(description="least score that is cleared", examples=[0.59])
    group_size: int = Field(2, ge=2, le=64, description="cleared models that compete with each other")
    prizes: int = Field(1, ge=1, le=63, description="premiums per group")
    tie: TieRule = Field("coin", description="a premium that equal scores contest: drawn, shared or not given")
    bye: ByeRule = Field("chance", description="whoever fills no group: wins at a group's rate, or meets models again")


LEAST = timedelta(seconds=1)


def _moment(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be a text of ISO 8601 with its zone, such as 2031-03-01T12:00:00Z")
    return value


def _of_our_time(value: datetime) -> datetime:
    if not 1 < value.year < 9999:
        raise ValueError("must be in this age")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_of_our_time)]
EMPTY = hashlib.sha256(b"").hexdigest()


class CommitBody(RulesBody, Body):
    """``POST /v1/regulation/pair``, first: opens a round with its rules and the commitment to its seed."""

    round: RoundName
    commitment: Hash = Field(
        description="SHA-256 of the seed: printf %s SEED | sha256sum", examples=[EXAMPLE_COMMITMENT]
    )
    premium_cents: Cents | None = Field(
        None, ge=1, le=MOST_PREMIUM, description="of each winner; by default the budget is shared", examples=[2_500_000]
    )
    budget_cents: Cents | None = Field(
        None, ge=1, le=MOST_BUDGET, description="most that is paid in all; premiums beyond it are cut in proportion"
    )
    closes_at: Moment | None = Field(
        None,
        description="until when models come and go, and before which no seed is revealed; null: until it is",
        examples=["2031-03-01T12:00:00Z"],
    )
    reveal_by: Moment | None = Field(
        None,
        description="until when the seed may be revealed; after that any key may cancel the round",
        examples=["2031-03-02T12:00:00Z"],
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.commitment == EMPTY:
            raise ValueError("commitment: is the hash of an empty text, which no seed has; is SEED set?")
        if self.premium_cents is None and self.budget_cents is None:
            raise ValueError("premium_cents, budget_cents: give at least one")
        if self.prizes >= self.group_size:
            raise ValueError(f"prizes: {self.prizes} of a group of {self.group_size} leaves no contest; lower it")
        if self.closes_at is not None and self.reveal_by is not None and self.reveal_by < self.closes_at + LEAST:
            raise ValueError("reveal_by: must be at least a second after closes_at")
        return self


class RevealBody(Body):
    """``POST /v1/regulation/pair``, later: closes the round and pairs."""

    round: RoundName
    seed: str = Field(
        pattern=r"^[!-~]{32,256}$",
        description="32 to 256 printable characters without spaces: openssl rand -hex 32",
        examples=[EXAMPLE_SEED],
    )
    owners: dict[Hash, Annotated[int, Field(ge=1, strict=True)]] = Field(
        {},
        max_length=10_000,
        description="of a model that several keys entered, the number of its owner's submission; the earliest if not named",
    )


def _step(body: Any) -> str:
    return "revealing-the-seed" if isinstance(body, dict) and "seed" in body else "opening-a-round"


PairBody = Annotated[
    Annotated[CommitBody, Tag("opening-a-round")] | Annotated[RevealBody, Tag("revealing-the-seed")],
    Discriminator(_step),
]


class SubmitBody(Body):
    """``POST /v1/regulation/submit``: a builder's model."""

    round: RoundName
    score: Compliance = Field(description="measured compliance", examples=[0.63])
    model: Hash = Field(description="SHA-256 of the model file", examples=["6b" * 32])


class WithdrawBody(Body):
    """``POST /v1/regulation/withdraw``."""

    round: RoundName
    submission: int = Field(ge=1, strict=True, description="its number, as the receipt has it")


class CancelBody(Body):
    """``POST /v1/regulation/cancel``."""

    round: RoundName
    reason: str = Field("", max_length=500, description="for the audit trail")


class SettleBody(Body):
    """``POST /v1/regulation/settle``."""

    round: RoundName


class AuditedEvent(BaseModel):
    """An entry of the audit trail."""

    position: int
    text: str | None = Field(description="as it was hashed; null of a submission that does not compete, or not yet")
    previous: str = Field(description="hash of the entry before; zeros for the first")
    hash: str = Field(description="SHA-256 of previous, a line feed, and text")


class SubmissionAnswer(BaseModel):
    """A submission that is taken. Keep it: the event proves what was submitted, and when."""

    round: str
    submission: int = Field(description="number in the round, from 1")
    builder: str = Field(description="as the audit names the builder")
    model: str
    score: float
    withdrawn: bool = False
    event: AuditedEvent


class RoundAnswer(BaseModel):
    """How far a round is."""

    round: str
    state: Literal["open", "paired", "settled", "cancelled"]
    commitment: str
    seed: str | None = Field(description="once revealed")
    rules: RulesBody
    premium_cents: int | None
    budget_cents: int | None
    closes_at: str | None
    reveal_by: str | None
    submissions: int = Field(description="those withdrawn included")
    withdrawn: int
    cleared: int | None = Field(description="models that may be deployed, once paired")
    groups: int | None = Field(description="once paired; the last may be of byes")
    paid_cents: int | None = Field(description="once settled")
    events: int
    last_hash: str = Field(description="of the audit trail")


class Payment(BaseModel):
    """A premium, or the part of it that was won."""

    submission: int
    builder: str
    cents: int


class SettlementAnswer(BaseModel):
    """What a round paid, once and for all."""

    round: str
    premium_cents: int | None
    budget_cents: int | None
    paid_cents: int
    payments: list[Payment]
    last_hash: str = Field(description="of the audit trail")


class AuditedSubmission(BaseModel):
    """A submission as the public sees it: while the round is open, only that it is there."""

    submission: int
    builder: str
    model: str | None = None
    score: float | None = None
    cleared: bool | None = None
    group: int | None = None
    status: Status | Literal["duplicate", "withdrawn"] | None = None
    part: str | None = Field(None, description="of a premium, as a fraction")
    paid_cents: int | None = Field(None, description="once settled")


class HeadAnswer(BaseModel):
    """All of the ledger in one hash, to be kept outside."""

    events: int = Field(description="of all rounds")
    head: str = Field(description="last hash of the ledger's chain")
    at: str
    text: str = Field(description="what is signed: protocol, at, events and head, a line each")
    signature: str | None = Field(description="Ed25519 of the text, base64; null without signing_key")
    public_key: str | None = Field(description="PEM")


class ClashesAnswer(BaseModel):
    """Models that several keys have entered."""

    clashes: dict[str, list[int]] = Field(description="by model, the submissions that claim it")


class LogLine(BaseModel):
    """An event of the ledger's chain."""

    sequence: int
    round: str
    position: int
    hash: str
    chain: str = Field(description="SHA-256 of the chain before, round, position and hash, a line feed between them")


class LogAnswer(BaseModel):
    """A page of the ledger's chain."""

    entries: list[LogLine]
    next_after: int | None


class AuditAnswer(RoundAnswer):
    """All of a round, in pages."""

    protocol: str = Field(description="how draws follow from the seed: see rayworks.systems.regulation.public_draws")
    verified: bool = Field(
        description="checked now: the trail is unbroken, the tables are what it says, and pairing and payments come out again"
    )
    discrepancies: list[str]
    entries: list[AuditedSubmission] = Field(description="submissions in order of arrival")
    trail: list[AuditedEvent]
    next_offset: int | None
