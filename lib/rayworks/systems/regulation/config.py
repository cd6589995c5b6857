"""Settings of a regulation run."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rayworks.core.config import RESUME_SAFE, ScopeSection, Section, SystemConfig

LARGEST_SCALE = 300.0
"""Largest worth of a premium, in multiples of the paper's."""
Stage = Literal["price", "design", "curves", "learning", "noise", "stress"]
STAGES: tuple[Stage, ...] = ("price", "design", "curves", "learning", "noise", "stress")


def _as_in_the_table(value: Any) -> Any:
    """Numbers as text; booleans are refused, since YAML reads a bare yes or no as one."""
    if isinstance(value, bool):
        raise ValueError(
            "price.positive, majority, minority: a bare yes or no is read as true or false; quote it twice: \"'yes'\""
        )
    return str(value) if isinstance(value, int | float) else value


CellValue = Annotated[str, BeforeValidator(_as_in_the_table)]
"""A value in a column: quote ``"yes"`` and ``"no"``."""


class AuctionSection(Section):
    """The design that the regulator publishes, and what is known about the builders."""

    distribution: str = Field(
        "uniform",
        description="distribution of total value: uniform | beta22 | beta(A,B) | a .csv or .parquet file with a column value",
    )
    price: float | None = Field(0.5, gt=0, lt=1, description="what the threshold costs to reach; null: set threshold")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="compliance that is cleared; the price curve says what it costs. null: set price"
    )
    largest_share: float = Field(0.5, gt=0, le=1, description="premium shares are uniform up to this")
    premium_scale: float = Field(1.0, gt=0, le=LARGEST_SCALE, description="worth of the premium over the paper's")
    premium_budget: float | None = Field(
        None, gt=0, description="worth of all premiums per builder; sets premium_scale. null: as premium_scale says"
    )
    group_size: int = Field(2, ge=2, le=64, description="cleared models that compete with each other")
    prizes: int = Field(1, ge=1, description="premiums per group")
    tie: Literal["coin", "split", "void"] = Field(
        "coin", description="prize that equal scores contest: drawn, shared or withheld; the paper does not say"
    )
    bye: Literal["chance", "redraw"] = Field(
        "chance",
        description="models left without a group win at a group's rate, or meet models drawn again; the paper does not say",
    )
    cap: float | None = Field(1.0, gt=0, description="the most that a builder can spend; null: no bound")
    builders: int | None = Field(
        None,
        ge=2,
        le=1_000_000,
        description="builders who may enter, each by its own type; null: ever so many, so that groups fill, as mode paper "
        "always bids",
    )
    mode: Literal["paper", "capped", "fixed_point"] = Field(
        "paper", description="the published bid, with its cap solved exactly, or consistent with who enters too"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.price is None) == (self.threshold is None):
            raise ValueError("auction.price, auction.threshold: set one and the other to null")
        if self.premium_budget is not None and self.premium_scale != 1:
            raise ValueError(
                "auction.premium_budget: sets the scale; leave auction.premium_scale at 1, or the budget at null"
            )
        if self.prizes >= self.group_size:
            raise ValueError(
                f"auction.prizes: {self.prizes} of a group of {self.group_size} leaves no contest; lower it"
            )
        if self.cap is not None and self.price is not None and self.cap <= self.price:
            raise ValueError(
                f"auction.cap: {self.cap} is not above auction.price {self.price}; raise it or set it to null"
            )
        return self


class PriceSection(Section):
    """The price curve in use, and the training runs that measure one."""

    curve: Literal["published", "measured", "identity"] = Field(
        "published", description="the paper's ten points, those of this run (stage price), or compliance equal to cost"
    )
    fit: Literal["quadratic", "isotonic"] = Field("quadratic", description="form of the curve through the points")
    resamples: int = Field(1000, ge=10, le=100_000, description="bootstrap resamples behind its band")
    source: str = Field("adult", description="table to train on: adult, or a .csv or .parquet file")
    label: str = Field("income", description="column to predict")
    positive: CellValue = Field(
        ">50K", description="label value that counts as positive; quote yes and no twice in a shell"
    )
    group: str = Field("gender", description="column of the two groups whose errors are compared")
    majority: CellValue = Field("Male", description="group value with many rows")
    minority: CellValue = Field("Female", description="group value whose share varies")
    dropped: tuple[str, ...] = Field(("fnlwgt",), description="columns that no model sees")
    group_visible: bool = Field(False, description="let the model see the group")
    shares: tuple[float, ...] = Field(
        (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
        min_length=3,
        description="minority shares to train with",
    )
    seeds: int = Field(10, ge=1, le=1000, description="models per share")
    balanced_labels: bool = Field(
        True,
        description="equally many positives and negatives in both groups, as in the paper's task; else as in the table",
    )
    majority_rows: int = Field(2000, ge=10, description="training rows of the majority, at every share")
    validation_rows: int = Field(200, ge=4, description="validation rows of the majority, skewed like training")
    test_rows: int = Field(600, ge=4, description="test rows of each group and label")
    hidden: int = Field(64, ge=0, le=4096, description="units of the hidden layer; 0 for a logistic regression")
    epochs: int = Field(50, ge=1, description="passes over the rows; the best by validation accuracy is kept")
    batch_size: int = Field(128, ge=1, description="rows per step")
    learning_rate: float = Field(0.05, gt=0, description="SGD learning rate")
    models_per_call: int = Field(5, ge=1, description="models in one call of a worker", json_schema_extra=RESUME_SAFE)

    @model_validator(mode="after")
    def _shares_are_minorities(self) -> Self:
        if any(not 0 < share <= 0.5 for share in self.shares) or len(set(self.shares)) < len(self.shares):
            raise ValueError("price.shares: each must be above 0 and at most 0.5, and none given twice")
        return self


class PopulationSection(Section):
    """Builders drawn at random, and the curves against the price."""

    builders: int = Field(100_000, ge=2, le=50_000_000, description="builders drawn for every price and for the round")
    distributions: tuple[str, ...] = Field(
        ("uniform", "beta22"), description="value distributions of the curves, beside the auction's own"
    )
    prices: int = Field(99, ge=3, le=10_000, description="thresholds of the curves, equally spaced in (0, 1)")
    prices_per_call: int = Field(
        25, ge=1, description="thresholds in one call of a worker", json_schema_extra=RESUME_SAFE
    )


class CertificateSection(Section):
    """The grid on which gains from leaving the strategy are sought."""

    types: int = Field(2001, ge=11, le=100_001, description="types, equally spaced")
    deviations: int = Field(2001, ge=11, le=100_001, description="other types' bids that each tries")


class LearningSection(Section):
    """Builders who learn to bid."""

    learners: tuple[Literal["fictitious_play", "hedge"], ...] = Field(
        ("fictitious_play", "hedge"), description="best answers to the average play, and learning without regret"
    )
    types: int = Field(200, ge=2, le=5000, description="types, each as common as another")
    bids: int = Field(400, ge=2, le=5000, description="bids between the price and the highest")
    rounds: int = Field(2000, ge=1, description="rounds of play")
    policy_gradient: bool = Field(False, description="multi-agent PPO through RLlib too (extra rllib)")
    iterations: int = Field(15, ge=1, description="PPO iterations")
    auctions_per_iteration: int = Field(1024, ge=64, description="auctions that PPO plays between updates")
    policy_learning_rate: float = Field(1e-3, gt=0, lt=1, description="PPO learning rate")


class NoiseSection(Section):
    """Noisy readings of compliance."""

    levels: tuple[float, ...] = Field(
        (0.0, 0.01, 0.03, 0.1), min_length=1, description="standard deviations of a reading, in compliance"
    )
    values: int = Field(32, ge=2, le=1000, description="total values in the grid of types")
    shares: int = Field(16, ge=2, le=1000, description="premium shares in the grid of types")
    bids: int = Field(160, ge=2, le=5000, description="bids to choose from")
    rounds: int = Field(500, ge=1, description="rounds of learning to answer the noise")

    @model_validator(mode="after")
    def _levels_are_deviations(self) -> Self:
        if any(level < 0 for level in self.levels):
            raise ValueError("noise.levels: a standard deviation is not negative")
        return self


class StressSection(Section):
    """How far the assumptions are violated."""

    rings: tuple[float, ...] = Field(
        (0.0, 0.1, 0.25, 0.5, 0.75, 1.0), min_length=1, description="shares of entrants who collude"
    )
    test_data: tuple[float, ...] = Field(
        (0.0, 0.01, 0.03, 0.1),
        min_length=1,
        description="spread between a builder's own compliance and the regulator's reading",
    )
    values: tuple[float, ...] = Field(
        (0.0, 0.1, 0.3, 0.5), min_length=1, description="relative error of a builder's guess of its value"
    )

    @model_validator(mode="after")
    def _levels_are_possible(self) -> Self:
        if any(not 0 <= share <= 1 for share in self.rings):
            raise ValueError("stress.rings: shares lie between 0 and 1")
        if any(level < 0 for level in (*self.test_data, *self.values)):
            raise ValueError("stress.test_data, stress.values: a spread is not negative")
        return self


class Scope(ScopeSection):
    """Stages of the run."""

    needed = "design"
    stages: tuple[Stage, ...] = Field(
        STAGES, min_length=1, description="parts of the run; a run of the design alone adds its numbers to the headline"
    )


class Config(SystemConfig):
    """A regulation run: solve the auction, certify it, play it, and stress it."""

    renamed = {"auction.law": "auction.distribution", "population.laws": "population.distributions"}

    scope: Scope = Scope()
    auction: AuctionSection = AuctionSection()
    price: PriceSection = PriceSection()
    population: PopulationSection = PopulationSection()
    certificate: CertificateSection = CertificateSection()
    learning: LearningSection = LearningSection()
    noise: NoiseSection = NoiseSection()
    stress: StressSection = StressSection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.price.curve == "measured" and "price" not in self.scope.stages:
            raise ValueError("price.curve: measured needs the stage price; add it to scope.stages")
        return self

    @property
    def distributions(self) -> tuple[str, ...]:
        """Distributions of the curves, each once, the auction's first."""
        return tuple(dict.fromkeys((self.auction.distribution, *self.population.distributions)))

    @property
    def design_alone(self) -> bool:
        """Whether the run is one point of a sweep over designs."""
        return set(self.scope.stages) <= {"price", "design"}
