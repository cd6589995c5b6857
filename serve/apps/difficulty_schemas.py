"""Requests and answers of the difficulty application, with bounds and examples."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from rayworks.systems.difficulty.ratings.glicko2 import Glicko2Options
from rayworks.systems.difficulty.ratings.rating_baselines import EloOptions, GlickoOptions

from ..common.body import Body

Name = Annotated[str, Field(min_length=1, max_length=256)]
Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Interval = Annotated[tuple[float, float], Field(description="95 % interval")]


class ResponseRow(Body):
    """One observed response."""

    subject: Name
    item: Name
    score: Score = Field(description="1 solved, 0 not; between them partial credit")
    weight: Weight = 1.0
    attempts: float = Field(1.0, gt=0, le=1e6, description="that the score is the average of; it weighs as many")
    family: Name | None = Field(None, description="subjects of one family answer alike (standard_errors: sandwich)")


class FitBody(Body):
    """``POST /v1/difficulty/fit``: ``matrix`` or ``responses``."""

    matrix: list[list[Score | None]] | None = Field(
        None,
        description="subjects x items, null where nothing was observed",
        examples=[[[1, 0, 0], [1, 1, 0], [0, 1, None], [1, 1, 1], [0, 0, 1]]],
    )
    subjects: list[Name] | None = Field(None, description="names of the matrix's rows")
    items: list[Name] | None = Field(None, description="names of the matrix's columns")
    responses: list[ResponseRow] | None = Field(None, description="or one entry per response")
    model: Literal["1PL", "2PL", "3PL", "4PL"] = "1PL"
    estimator: Literal["mml", "map"] = Field("mml", description="mml: priors only where no estimate is finite without")
    guessing: float | None = Field(None, ge=0, lt=1, description="3PL: fixes guessing at the chance rate")
    options: int | None = Field(None, ge=2, le=1000, description="3PL, 4PL: options to choose from, which set guessing")
    standard_errors: Literal["auto", "observed", "cross-product", "sandwich"] = "auto"
    bins: int = Field(5, ge=2, le=20, description="difficulty tiers")
    normalisation: Literal["minmax", "percentile"] = "minmax"
    duplicates: Literal["error", "mean", "first", "last"] = Field(
        "error", description="two responses to one item; their mean counts as two"
    )
    attempts: float = Field(1.0, gt=0, le=1e6, description="matrix: attempts that each score is the average of")
    allow_disconnected: bool = Field(False, description="take a design whose parts share no subject")

    @model_validator(mode="after")
    def _one_table_of_one_shape(self) -> Self:
        if (self.matrix is None) == (self.responses is None):
            raise ValueError("matrix, responses: send one of the two")
        if self.matrix is None and (self.subjects or self.items):
            raise ValueError("subjects, items: name rows and columns of matrix; responses carry their own names")
        if self.matrix is None and "attempts" in self.model_fields_set:
            raise ValueError("attempts: belong to matrix; responses carry their own")
        if self.guessing is not None and self.model != "3PL":
            raise ValueError("guessing: fixes the asymptote of a 3PL; say model: 3PL or leave it out")
        if self.options is not None and self.model not in ("3PL", "4PL"):
            raise ValueError("options: set the guessing of a 3PL or 4PL; say model or leave them out")
        if self.matrix is not None:
            self._check_shape(self.matrix)
        return self

    def _check_shape(self, matrix: list[list[float | None]]) -> None:
        width = len(matrix[0]) if matrix else 0
        for number, row in enumerate(matrix):
            if len(row) != width:
                raise ValueError(f"matrix: row {number} has {len(row)} cells, row 0 has {width}; fill up with null")
        for field, names, size in (("subjects", self.subjects, len(matrix)), ("items", self.items, width)):
            if names is not None and len(names) != size:
                raise ValueError(f"{field}: are {len(names)}, the matrix has {size}; name each once")
            if names is not None and len(set(names)) < size:
                raise ValueError(f"{field}: a name is given twice; names must be unique")


class LabelledItem(BaseModel):
    """An item's difficulty, in units of ability, and its label; higher is harder."""

    item: str
    difficulty: float
    standard_error: float
    interval: Interval
    rating: float = Field(description="difficulty on [0, 1] within this set")
    rating_std: float
    rating_quantile: float = Field(description="share of items that are no harder")
    bin: int
    bin_probabilities: list[float] = Field(description="chance of each bin, easiest first")
    responses: int


class FittedItem(LabelledItem):
    """An item of a fit."""

    discrimination: float
    discrimination_error: float
    guessing: float
    ceiling: float
    solve_rate: float
    held_by_prior: bool
    unbounded: bool = Field(
        description="the responses alone give no finite estimate; of an item that all or none solved the value is by "
        "convention and touches no other item"
    )
    suspected_label_error: bool = Field(description="the more able solve it less often")


class FitAnswer(BaseModel):
    """A calibration."""

    model: str
    estimator: str
    standard_errors: str
    subjects: int
    cells: int
    log_likelihood: float
    population_sd: float
    reliability: float | None = Field(description="of the subjects' posterior means; null when all are equal")
    converged: bool
    iterations: int
    seconds: float
    warnings: list[str]
    items: list[FittedItem]


class StartingRating(Body):
    """What is known of a player beforehand; by default what the system gives a new one."""

    rating: Number
    deviation: float | None = Field(None, gt=0, le=1e4)
    volatility: float | None = Field(None, gt=0, le=10)
    fixed: bool = Field(False, description="the rating is known and stays, as of contestants that problems meet")


Period = Annotated[
    int | str | None,
    Field(description="integers, which count the periods that pass, or texts, of which the order counts; none: one"),
]


class GameRow(Body):
    """One game."""

    player: Name
    opponent: Name
    score: Score = Field(description="of player: 1 won, 0.5 drawn, 0 lost")
    weight: Weight = 1.0
    period: Period = None


class AttemptRow(Body):
    """One attempt at a problem: a game that the contestant wins by solving it."""

    problem: Name
    contestant: Name
    solved: Score = Field(description="true, false or partial credit")
    weight: Weight = 1.0
    period: Period = None


class RateBody(Body):
    """``POST /v1/difficulty/rate``: ``games`` or ``attempts``."""

    games: list[GameRow] | None = Field(None, examples=[[{"player": "ann", "opponent": "bob", "score": 1}]])
    attempts: list[AttemptRow] | None = None
    ratings: dict[Name, StartingRating] = Field(
        default_factory=dict, examples=[{"bob": {"rating": 1400, "deviation": 30, "fixed": True}}]
    )
    system: Literal["glicko2", "glicko1", "elo"] = "glicko2"
    mode: Literal["chronological", "converged"] = Field(
        "chronological", description="chronological: the published algorithm; converged: calibrated deviations"
    )
    glicko2: Glicko2Options = Glicko2Options()
    glicko1: GlickoOptions = GlickoOptions()
    elo: EloOptions = EloOptions()

    @model_validator(mode="after")
    def _one_list_of_one_kind(self) -> Self:
        if (self.games is None) == (self.attempts is None):
            raise ValueError("games, attempts: send one of the two")
        rows = self.games if self.games is not None else self.attempts
        if not rows:
            raise ValueError("games: are none; send at least one")
        if len({type(row.period) for row in rows}) > 1:
            raise ValueError("period: must be an integer in all games, or a text in all, or nowhere")
        return self


class RatedPlayer(BaseModel):
    """A rating after all games."""

    player: str
    role: Literal["player", "problem", "contestant"]
    rating: float
    deviation: float
    volatility: float
    interval: Interval
    games: int
    fixed: bool
    capped: list[str] = Field(description="what a guard held back: volatility, rating change, rating, deviation")


class RateAnswer(BaseModel):
    """Ratings of all players, in the order in which the request names them."""

    system: str
    mode: str
    periods: int
    passes: int
    converged: bool
    capped_updates: int = Field(description="updates of a player in a period that a guard held back")
    warnings: list[str]
    players: list[RatedPlayer]


class KnownItem(Body):
    """An item with its parameters."""

    item: Name
    difficulty: float = Field(ge=-100, le=100, allow_inf_nan=False)
    discrimination: float = Field(1.0, gt=0, le=100)
    guessing: float = Field(0.0, ge=0, lt=1)
    ceiling: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _ceiling_is_above(self) -> Self:
        if self.ceiling <= self.guessing:
            raise ValueError("ceiling: must be above guessing")
        return self


class ScoreBody(Body):
    """``POST /v1/difficulty/score``: items given here, or those of a calibration that is loaded."""

    responses: dict[Name, Score] = Field(description="item to score; may be empty", examples=[{"a": 1, "b": 0}])
    items: list[KnownItem] | None = Field(
        None,
        min_length=1,
        max_length=20_000,
        examples=[[{"item": "a", "difficulty": -1}, {"item": "b", "difficulty": 0}, {"item": "c", "difficulty": 1}]],
    )
    population_sd: float = Field(1.0, ge=0.001, le=100, description="spread of abilities, with items")
    set: Name | None = Field(None, description="a set of GET /v1/difficulty/items; by default the first")
    estimator: Literal["EAP", "MAP", "WLE"] = Field("EAP", description="WLE needs responses and uses no prior")

    @model_validator(mode="after")
    def _items_have_one_source(self) -> Self:
        if self.items is not None and self.set is not None:
            raise ValueError("items, set: send one of the two")
        if self.items is None and "population_sd" in self.model_fields_set:
            raise ValueError("population_sd: belongs to items; a set brings its own")
        if self.items is not None and len({item.item for item in self.items}) < len(self.items):
            raise ValueError("items: a name is given twice; names must be unique")
        return self


class NextItemAnswer(BaseModel):
    """What to ask next."""

    item: str
    information: float
    expected_standard_error: float


class ScoreAnswer(BaseModel):
    """An ability, and what it makes of all items."""

    estimator: str
    ability: float
    standard_error: float
    interval: Interval
    expected_score: float = Field(description="mean score on all items: as answered, and as expected where not")
    expected_score_error: float
    answered: int
    items: int
    next_item: NextItemAnswer | None = Field(description="of maximum information; null when all are answered")


class CalibratedItem(LabelledItem):
    """An item of an exported calibration."""

    text: str
    discrimination: float
    guessing: float
    ceiling: float


class ItemPage(BaseModel):
    """``GET /v1/difficulty/items``."""

    sets: list[str]
    set: str
    provenance: str
    model: str
    total: int
    items: list[CalibratedItem]
    next_offset: int | None


class JobAnswer(BaseModel):
    """A fit that is a job."""

    job: str
    state: Literal["pending", "running", "succeeded", "failed", "stopped", "lost"]
    failure: str | None = Field(None, description="data, config, resume, infrastructure or internal")
    detail: str | None = None
    headline: dict[str, float | int | str | None] | None = Field(
        None, description="the run's headline, when it is done"
    )
    model: str | None = None
    items: list[CalibratedItem] | None = Field(None, description="all labels, when it is done")
