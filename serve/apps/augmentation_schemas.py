"""Requests and answers of the augmentation application, with bounds and examples."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from ..common.pictures import MOST_INPUTS, Limits, PicturesBody

MOST_CHARACTERS = 20_000
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Class = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) is int else given)]
Text = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class SamplesBody(PicturesBody):
    """Samples: exactly one of the four, as the card says."""

    rows: list[list[Number]] | None = Field(
        None,
        min_length=1,
        max_length=MOST_INPUTS,
        description="rows of a table, in the units and columns that the run read",
    )
    texts: list[Text] | None = Field(None, min_length=1, max_length=MOST_INPUTS, description="texts")


class PredictBody(SamplesBody):
    """``POST /v1/augmentation/predict``."""

    top: int = Field(1, ge=1, le=100, description="classes of each answer, the most probable first")


class ScoreBody(SamplesBody):
    """``POST /v1/augmentation/score``: samples with the labels that they have."""

    labels: list[Class | dict[str, Share]] = Field(
        min_length=1,
        max_length=MOST_INPUTS,
        description="of each sample a class, or shares of classes that sum to 1, as of MixUp; a whole number is the class "
        "of that name",
        examples=[["3"]],
    )


class Guess(BaseModel):
    """One guess."""

    label: str
    probability: float = Field(description="under the model, which knows its own classes only")


class PredictAnswer(BaseModel):
    """Guesses in the order of the samples."""

    answers: list[list[Guess]]


class Score(BaseModel):
    """What the validation gradient says of one sample."""

    weight: float = Field(
        description="by the run's rule (its sign for network), before a batch scales weights to a mean of 1; 0: drop it"
    )
    label: str = Field(description="class with the largest share of the learned label")
    labels: dict[str, float] = Field(description="learned soft label")
    score: float = Field(
        description="how far a step on it with the learned label lowers the validation loss, in units of training rows"
    )
    given: float = Field(description="the same with the label it has; below 0 it does harm")


class ScoreAnswer(BaseModel):
    """Scores in the order of the samples."""

    scores: list[Score]


class ModelCard(BaseModel):
    """Where the model comes from, and what it takes."""

    source: str = Field(description="data set")
    arm: str = Field(description="way it was trained, which the second hold-out chose")
    verdict: str
    accuracy: float = Field(
        description="on the test, the mean of the arm over the run's seeds; this model is the first's"
    )
    accuracy_of_model: float = Field(description="on the test of its own seed, of this model")
    seeds: int = Field(description="of the run, over which accuracy is the mean")
    noise_auc: float | None = Field(description="how well scores found labels that were made wrong; null: none were")
    kind: str = Field(description="images, table or texts")
    classes: list[str]
    shape: list[int] = Field(description="of one input of the network; of texts that of their vectors")
    limits: Limits
