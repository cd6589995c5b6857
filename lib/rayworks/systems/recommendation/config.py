"""Settings of a recommendation run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayworks.core.config import ScopeSection, Section, SystemConfig

BackboneName = Literal["gru", "attention", "convolution", "filter"]
History = Literal["all", "shown", "natural", "first-order"]
Stage = Literal["audit", "natural", "acceptance", "policies", "effects", "bandit", "ranking"]
STAGES: tuple[Stage, ...] = ("audit", "natural", "acceptance", "policies", "effects", "bandit", "ranking")
"""The stages in the order in which they run."""
SIMULATOR = "simulator"
RELEASED = ("kuairand:", "kuairec:", "mind:", "retailrocket:", "movielens-100k")
"""Prefixes of sources that are published data sets."""
MOST_AFFINITIES = 500_000_000
"""Most affinities of the simulator: 4 GB."""


Signal = Literal[
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "is_profile_enter"
]


class ReadOptions(Section):
    """How a source becomes events; each setting says which source has it."""

    columns: dict[str, str] = Field(
        {},
        description='generic table: our column to the file\'s name of it; "" leaves shown, accepted or propensity out',
    )
    ordered: bool = Field(
        False, description="generic table: time must not go backwards within a user; else it is sorted"
    )
    signal: Signal = Field("is_click", description="kuairand: the feedback that counts as acceptance")
    logs: Literal["all", "random", "standard"] = Field("all", description="kuairand: policies whose logs are read")
    watch_ratio: float = Field(2.0, ge=0, description="kuairec: accepted if played more than this times its length")
    min_rating: float = Field(4.0, ge=1, le=5, description="movielens-100k: lowest rating that counts as accepted")
    observed: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="movielens-100k, retailrocket: share of a history, or of a visitor's sessions, that counts as natural",
    )


class DataSection(ReadOptions):
    """The log to learn from."""

    source: str = Field(
        SIMULATOR,
        description="simulator, a Parquet or CSV file or folder with columns user, item, time, shown, accepted and, where "
        "known, propensity and slate, kuairand:FOLDER, kuairec:FOLDER, mind:FOLDER, retailrocket:FOLDER, or movielens-100k",
    )
    distributed: bool = Field(
        False, description="read a generic table by Ray Data, where it is larger than one worker reads"
    )


class SimulatorSection(Section):
    """The simulated population, if the source is simulator."""

    users: int = Field(2000, ge=2, le=1_000_000, description="number of users")
    items: int = Field(100, ge=5, le=100_000, description="number of items")
    observed: int = Field(20, ge=1, le=1000, description="natural items of a user before the first recommendation")
    steps: int = Field(30, ge=3, le=1000, description="recommendations to a user")
    exploration: float = Field(0.5, ge=0, le=1, description="weight of the uniform policy in what is logged")
    trust_weight: float = Field(1.2, description="pull of trust, which decisions raise and lower, on logits")
    trust_memory: float = Field(0.7, ge=0, lt=1, description="share of trust that stays after a decision")
    link_weight: float = Field(0.8, description="pull of the last accepted item on items like it, on logits")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.users * self.items > MOST_AFFINITIES or self.items**2 > MOST_AFFINITIES:
            raise ValueError(
                f"simulator.users, simulator.items: {self.users:,} x {self.items:,} affinities, or the likeness "
                f"of all items, do not fit; keep users x items and items x items up to {MOST_AFFINITIES:,}"
            )
        return self


class SplitSection(Section):
    """Windows of validation and test; they do not overlap."""

    by: Literal["user", "time"] = Field(
        "user", description="user: the last recommendations of each user; time: the latest of all, by one clock"
    )
    valid_steps: int = Field(3, ge=1, description="recommendations of a user that choose the epoch and the calibration")
    test_steps: int = Field(3, ge=1, description="the last recommendations of a user, which are predicted")
    valid_share: float = Field(0.1, gt=0, lt=0.5, description="share of the recommendations in validation, by time")
    test_share: float = Field(0.1, gt=0, lt=0.5, description="share of the recommendations tested, the latest, by time")


class NaturalSection(Section):
    """The recommender of the next item that gives natural preference and the ranking rule."""

    checkpoint: str = Field("", description="a RecBole checkpoint (.pth) to take instead of training one here")
    items: str = Field(
        "", description="text file of the item names of the checkpoint, one per line, in the order of its ids"
    )
    backbone: BackboneName = Field("attention", description="attention is SASRec, gru is GRU4Rec")
    loss: Literal["cross-entropy", "bpr", "bce"] = Field(
        "cross-entropy", description="cross-entropy over all items, or bpr or bce with sampled negatives"
    )
    width: int = Field(32, ge=2, le=4096, description="embedding dimension")
    layers: int = Field(1, ge=1, le=48, description="backbone layers")
    heads: int = Field(2, ge=1, description="attention heads")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout rate in training")
    length: int = Field(50, ge=2, le=100_000, description="last items that the model sees")
    epochs: int = Field(40, ge=1, description="maximum number of epochs")
    learning_rate: float = Field(3e-3, gt=0, description="Adam learning rate")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.checkpoint and not self.items:
            raise ValueError(
                "natural.items: a RecBole checkpoint does not hold item names; name the file that lists them"
            )
        if self.width % self.heads:
            raise ValueError(f"natural.width: {self.width} is not a multiple of natural.heads={self.heads}")
        return self


class ModelSection(Section):
    """The acceptance model."""

    backbone: BackboneName = Field("gru", description="causal encoder of the user's events")
    history: History = Field(
        "all",
        description="what it sees: all; shown (no decisions); natural (no recommendations); first-order (natural events, the "
        "last recommendation and its decision, for which the do-recursion is exact)",
    )
    width: int = Field(64, ge=2, le=4096, description="dimension of embeddings and states")
    layers: int = Field(1, ge=1, le=48, description="backbone layers")
    heads: int = Field(2, ge=1, description="heads of attention and filter")
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout rate in training")
    length: int = Field(
        64, ge=4, le=100_000, description="events of a sequence; longer users are cut into overlapping ones"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"model.width: {self.width} is not a multiple of model.heads={self.heads}")
        return self


class TrainingSection(Section):
    """How the acceptance model is trained: by Ray Train on compute.workers workers, with the same result for any number."""

    epochs: int = Field(60, ge=1, description="maximum number of epochs")
    batch_size: int = Field(256, ge=1, description="sequences between two updates")
    learning_rate: float = Field(5e-3, gt=0, description="Adam learning rate")
    weight_decay: float = Field(3e-4, ge=0, description="Adam weight decay")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing s: 1 and 0 become 1 - s/2 and s/2")
    patience: int = Field(5, ge=1, description="epochs without a better validation that end it")
    microbatches: int = Field(2, ge=1, le=1024, description="microbatches of a batch; at least compute.workers")
    calibration: Literal["platt", "none"] = Field(
        "platt", description="scale and shift of logits and weights of rates, fitted on the validation window"
    )


class ConstraintSection(Section):
    """The pull to the do-recursion of natural preference; it helped nowhere in our runs, so it is off."""

    weight: float = Field(0.0, ge=0, description="weight of the squared difference beside the cross-entropy; 0 is off")
    form: Literal["calibrated", "raw"] = Field(
        "calibrated",
        description="raw reads a softmax over items as an acceptance probability, as the authors' code does",
    )


class UncertaintySection(Section):
    """Ensemble and bootstrap behind intervals."""

    members: int = Field(
        3, ge=1, le=100, description="models: one of all users, the others of users drawn with replacement"
    )
    redrawn: int = Field(
        4,
        ge=0,
        le=100,
        description="models of decisions drawn anew from the first, whose bias and spread make the intervals of effects; 0: "
        "those of resampled users, which know no bias",
    )
    resamples: int = Field(200, ge=0, description="resamplings of users for the intervals of AUC; 0 for none")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.resamples == 1:
            raise ValueError("uncertainty.resamples: one makes no interval; set 0 or many")
        if self.redrawn == 1:
            raise ValueError("uncertainty.redrawn: one makes no interval; set 0, or 2 and more")
        return self


class AblationSection(Section):
    """Models with less history, trained for comparison."""

    histories: tuple[History, ...] = Field(
        ("natural", "shown", "first-order"), description="histories that the other models see"
    )


class PolicySection(Section):
    """Recommenders that are compared by roll-outs of the model."""

    explorations: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, description="weights of the uniform policy in mixtures"
    )
    steps: int = Field(30, ge=1, le=1000, description="length of a roll-out")
    paths: int = Field(16, ge=1, le=4096, description="paths of decisions per user behind a do-probability")
    users: int = Field(5000, ge=1, description="number of users in a roll-out, from the first")

    @model_validator(mode="after")
    def _weights(self) -> Self:
        if any(not 0 <= weight <= 1 for weight in self.explorations):
            raise ValueError("policies.explorations: each is between 0 and 1")
        return self


class AttributionSection(Section):
    """Users behind attributions."""

    reference: int = Field(32, ge=1, le=10_000, description="users whose natural events replace a user's own")
    shown: int = Field(4, ge=1, le=20, description="users in the figure")
    users: int = Field(200, ge=1, description="users whose contrasts are averaged")


class BanditSection(Section):
    """Off-policy evaluation on logs with known propensities."""

    logs: tuple[str, ...] = Field(
        ("open-bandit/random/all", "open-bandit/bts/all"),
        min_length=2,
        max_length=2,
        description="two logs of the same items; the policy of each is valued from the other's",
    )
    folds: int = Field(3, ge=2, le=50, description="folds of the cross-fitted reward model")


class RankingSection(Section):
    """Next-item models ranked on natural sequences."""

    source: str = Field(
        "movielens-100k", description="natural sequences; the last item of each user is ranked among all"
    )
    backbones: tuple[BackboneName, ...] = Field(("attention", "gru"), min_length=1, description="backbones to rank")
    width: int = Field(64, ge=2, description="embedding dimension")
    layers: int = Field(2, ge=1, description="backbone layers")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout rate in training")
    length: int = Field(50, ge=2, description="last items that the model sees")
    epochs: int = Field(60, ge=1, description="maximum number of epochs")
    learning_rate: float = Field(1e-3, gt=0, description="Adam learning rate")


class Scope(ScopeSection):
    """Stages of the run."""

    needed = "acceptance"
    stages: tuple[Stage, ...] = Field(STAGES, min_length=1, description="stages to run")


class Config(SystemConfig):
    """A recommendation run: audit the log, learn acceptance, say why, and value other recommenders."""

    renamed = {"data.liked": "data.min_rating", "training.gradient_parts": "training.microbatches"}

    scope: Scope = Scope()
    data: DataSection = DataSection()
    simulator: SimulatorSection = SimulatorSection()
    split: SplitSection = SplitSection()
    natural: NaturalSection = NaturalSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    constraint: ConstraintSection = ConstraintSection()
    uncertainty: UncertaintySection = UncertaintySection()
    ablations: AblationSection = AblationSection()
    policies: PolicySection = PolicySection()
    attribution: AttributionSection = AttributionSection()
    bandit: BanditSection = BanditSection()
    ranking: RankingSection = RankingSection()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.training.microbatches < self.compute.workers:
            raise ValueError(
                f"training.microbatches: {self.training.microbatches} for compute.workers="
                f"{self.compute.workers}; each worker needs one"
            )
        if self.constraint.weight and "natural" not in self.scope.stages:
            raise ValueError("constraint.weight: the constraint needs the stage natural; add it to scope.stages")
        needed = self.split.valid_steps + self.split.test_steps
        if self.data.source == SIMULATOR and self.split.by == "time":
            raise ValueError("split.by: simulated users step together, so that time is the user's step; set it to user")
        if self.data.source == SIMULATOR and self.simulator.steps <= needed:
            raise ValueError(f"simulator.steps: {self.simulator.steps} leaves none to train on; set it above {needed}")
        if self.data.distributed and self.data.source.startswith(RELEASED):
            raise ValueError(f"data.distributed: reads tables only, not {self.data.source}; set it to false")
        imagined = self.simulator.steps if self.data.source == SIMULATOR else self.policies.steps
        if imagined + 1 >= self.model.length and {"policies", "effects"} & set(self.scope.stages):
            name = "simulator.steps" if self.data.source == SIMULATOR else "policies.steps"
            raise ValueError(
                f"model.length: {self.model.length} does not hold a roll-out of {name}={imagined}; raise it"
            )
        return self

    @property
    def simulated(self) -> bool:
        """Whether the data is simulated, so that the truth is known."""
        return self.data.source == SIMULATOR
