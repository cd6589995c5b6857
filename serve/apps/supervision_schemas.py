"""Requests and answers of the supervision application, with bounds and examples."""

from typing import Annotated

from pydantic import BaseModel, Field

from ..common.body import Body

MOST_TEXTS, MOST_CHARACTERS = 256, 20_000

Text = Annotated[
    str, Field(min_length=1, max_length=MOST_CHARACTERS, examples=["scientists unveil doomsday clock of hair loss"])
]


class LabelBody(Body):
    """``POST /v1/supervision/label``."""

    texts: list[Text] = Field(min_length=1, max_length=MOST_TEXTS, description="what to label")
    abstain_below: float | None = Field(
        None, ge=0, le=1, description="agreement under which a text gets no label; null: the application's own"
    )
    votes: bool = Field(False, description="whether to list every expert's vote")


class Vote(BaseModel):
    """One expert's vote."""

    label: str
    weight: float = Field(description="its share of all weights")


class TextLabel(BaseModel):
    """What the experts say of a text."""

    label: str | None = Field(description="null where their agreement is below the threshold")
    probabilities: dict[str, float] = Field(description="of every class, by the vote that validation chose")
    agreement: float = Field(description="share of the weight whose own vote is the likeliest class")
    entropy: float = Field(description="of the probabilities, in nats")
    votes: list[Vote] | None = Field(description="in the order of rounds; null where they were not asked for")


class LabelAnswer(BaseModel):
    """One label for each text, in their order."""

    labels: list[TextLabel]
    experts: int = Field(description="how many vote")
    abstained: int = Field(description="how many texts have no label")
