"""Requests and answers of the federation application, with bounds and examples."""

from typing import Annotated

from pydantic import BaseModel, Field

from ..common.pictures import MOST_INPUTS, Limits, PicturesBody

Number = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ClassifyBody(PicturesBody):
    """Images or feature vectors; one of the two, as the card says."""

    features: list[list[Number]] | None = Field(
        None, min_length=1, max_length=MOST_INPUTS, description="numbers in [0, 1], for a model of features"
    )
    top: int = Field(1, ge=1, le=100, description="labels of each answer, the most probable first")


class Label(BaseModel):
    """One guess."""

    label: str
    probability: float = Field(description="under the model, which knows its own labels only")


class ClassifyAnswer(BaseModel):
    """Guesses in the order of the inputs."""

    answers: list[list[Label]]


class ModelCard(BaseModel):
    """Where the model comes from and what is known of its privacy."""

    source: str = Field(description="data set")
    method: str
    rounds: int
    clients: int
    accuracy: float = Field(description="on held-out examples, of this model")
    accuracies: list[float] = Field(description="accuracies of the trainings on all seeds")
    epsilon: float | None = Field(
        description="of the encodings that the clients shared, for the pixels of one example; null if it is infinite or "
        "was not looked at, which the statement says"
    )
    epsilon_updates: float | None = Field(
        description="of the updates, for a whole client; null where they had no noise"
    )
    statement: str = Field(description="what that is worth, and what it does not cover")
    classes: list[str]
    shape: list[int] = Field(description="shape of one input: channels, height, width; or the number of features")
    limits: Limits
