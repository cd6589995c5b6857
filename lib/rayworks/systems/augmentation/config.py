"""Settings of an augmentation run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayworks.core.config import RESUME_SAFE, ComputeSection, Section, SystemConfig
from rayworks.core.errors import ConfigError
from rayworks.systems.augmentation.engine.settings import EngineSettings

ARMS = (
    "plain",
    "plain and trusted rows",
    "upstream",
    "upstream and trusted rows",
    "upstream stopped early",
    "upstream at equal seconds",
    "trusted rows only",
    "soft bootstrapping",
    "L2RW",
    "Meta-Weight-Net",
    "SAFLEX",
    "placebo",
)
"""All ways to train; the headline and the fall-back need those of :data:`NEEDED`."""
NEEDED = ("plain and trusted rows", "upstream and trusted rows", "upstream stopped early", "SAFLEX")
RECIPE = EngineSettings()


class DataSection(Section):
    """Samples, and which are trained on, trusted, selected by and tested on."""

    source: str = Field(
        "digits",
        min_length=1,
        description="digits, mnist, fashion-mnist, cifar10-test, adult, sarcasm, keel:NAME, a table with a column label, "
        "an .npz of inputs and labels, hub:OWNER/NAME, or module:function that returns Samples",
    )
    training: int | None = Field(None, ge=2, description="samples to train on, drawn by seed; null: all that are left")
    trusted: int = Field(50, ge=2, description="samples whose labels are right, by which gains are measured")
    selection: int = Field(
        200, ge=2, description="samples of a second hold-out, by which the fall-back decides; trained on by no arm"
    )
    test: int | None = Field(None, ge=1, description="test samples; null: the source's own, or a fifth")
    duplicates: bool = Field(
        False,
        description="rows for training whose content is also trusted or held out are kept, as in tables of few values; "
        "false: they are left out, and counted",
    )
    noise: float = Field(0.0, ge=0, lt=1, description="share of training labels made wrong on purpose, uniformly")


class UpstreamSection(Section):
    """The augmentation that is there."""

    name: str = Field(
        "operations",
        min_length=1,
        description="operations, rand-augment, auto-augment, or module:function (inputs, labels, generator) -> Views",
    )
    operations: tuple[str, ...] = Field(
        (),
        description="operations to draw from, such as rotate or paste of images, noise or cutmix of tables, dropout or "
        "synonyms of texts; none: the usual ones of the kind",
    )
    strength: float = Field(0.5, ge=0, le=1, description="strength of the strongest form of an operation")
    steps: int = Field(1, ge=1, le=16, description="operations a view, of images")
    alpha: float = Field(1.0, gt=0, description="Beta distribution's parameter of mixup and cutmix")
    passes: int = Field(2, ge=1, le=100, description="views of each text that are embedded, of each operation")
    folder: str | None = Field(
        None, description="folder of generated images with a table views.csv of file and source, instead of operations"
    )


class EngineSection(Section):
    """What SAFLEX is told."""

    mode: Literal["penalised", "lp", "prox", "model-tilt"] = Field(
        RECIPE.mode, description="closed form of the soft labels"
    )
    beta: float = Field(RECIPE.beta, ge=0, description="strength with which the upstream label is kept")
    tau: float = Field(RECIPE.tau, gt=0, description="temperature of soft labels")
    smoothing: float = Field(RECIPE.smoothing, gt=0, le=1, description="prox: smoothing of the label it starts from")
    rule: Literal["hard", "relu", "soft", "network"] = Field(
        RECIPE.rule,
        description="weight of a score: its sign, positive part, exponential, or a small network of the loss",
    )
    rule_temperature: float = Field(RECIPE.rule_temperature, gt=0, description="temperature of the rule soft")
    floor: float = Field(RECIPE.floor, ge=0, lt=1, description="least weight")
    learn: Literal["both", "labels", "weights", "nothing"] = Field(
        RECIPE.learn, description="parts that are learned; nothing: samples are scored, and trained on as they come"
    )
    normalise: Literal["none", "rms", "row"] = Field(RECIPE.normalise, description="unit of the gains")
    backend: Literal["jvp", "double_backward", "finite_diff", "one_sided", "last_layer"] = Field(
        RECIPE.backend, description="how slopes are computed; last_layer is an approximation"
    )
    head: str = Field(RECIPE.head, description="last_layer: name of the layer; empty: the last one")
    refresh: int = Field(RECIPE.refresh, ge=1, description="steps between two validation gradients")
    gradient_average: float = Field(
        RECIPE.gradient_average, ge=0, lt=1, description="share of earlier ones in the validation gradient"
    )
    gain_average: float = Field(
        RECIPE.gain_average,
        ge=0,
        lt=1,
        description="share of earlier ones in the gains of a row: for wrong labels; 0 for harmful views",
    )
    warm_up: int | None = Field(
        None, ge=0, description="steps on upstream labels before it acts; null: a third of training.steps"
    )
    progress: float = Field(
        RECIPE.progress, ge=0, lt=1, description="share by which the validation loss must fall before it acts"
    )
    collapse: float = Field(
        RECIPE.collapse, ge=0, description="rise of the validation loss, as a multiple, that stops it; 0: never"
    )

    def settings(self, steps: int) -> EngineSettings:
        """The same for the engine, in a training of so many steps."""
        warm_up = steps // 3 if self.warm_up is None else self.warm_up
        return EngineSettings(**{**self.model_dump(), "warm_up": warm_up})

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        try:
            self.settings(3)
        except ConfigError as error:
            raise ValueError(f"engine.{error}") from None
        return self


class TrainingSection(Section):
    """What all arms share."""

    steps: int = Field(800, ge=1, description="steps of SGD, with a cosine's rate")
    batch: int = Field(64, ge=1, description="rows of a step")
    held: int = Field(16, ge=1, description="trusted rows of a validation gradient")
    balanced: bool = Field(False, description="validation batches with as many rows of each class")
    rate: float = Field(0.05, gt=0, description="learning rate at the start")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay, which is no part of the validation gradient")
    network: str = Field(
        "own",
        min_length=1,
        description="own: three convolutions, or two hidden layers; or module:function (shape, classes) -> Module",
    )
    width: int = Field(12, ge=1, le=4096, description="own: channels of the first convolution, units of a layer over 8")
    double: bool = Field(False, description="float64, in which one worker and several in step agree to rounding")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that train each arm in step through Ray Train; with 1, arms are trained side by side",
    )
    steps_per_call: int = Field(
        300, ge=1, description="steps between two states that are kept", json_schema_extra=RESUME_SAFE
    )


class ExperimentSection(Section):
    """What is compared, and how it is decided."""

    arms: tuple[str, ...] = Field(ARMS, description=f"ways to train: of {', '.join(ARMS)}")
    seeds: int = Field(
        3, ge=1, le=1000, description="seeds, each with splits, wrong labels and first weights of its own"
    )
    step_cost: float = Field(
        2.0,
        ge=1,
        description="multiple of the steps that upstream at equal seconds takes; the measured one is reported",
    )
    retrain: bool = Field(
        False, description="a training on each operation alone, to see whether the engine's order of harm is theirs"
    )
    errors: float = Field(
        1.0,
        ge=0,
        description="standard errors on the second hold-out by which an arm must beat the upstream to be taken",
    )


class Config(SystemConfig):
    """Settings of one run."""

    data: DataSection = DataSection()
    upstream: UpstreamSection = UpstreamSection()
    engine: EngineSection = EngineSection()
    training: TrainingSection = TrainingSection()
    experiment: ExperimentSection = ExperimentSection()

    @property
    def training_compute(self) -> ComputeSection:
        """What those processes ask for that train in step."""
        return self.compute.model_copy(update={"workers": self.training.workers})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        arms, training = self.experiment.arms, self.training
        unknown = [name for name in arms if name not in ARMS]
        if unknown:
            raise ValueError(f"experiment.arms: {unknown[0]!r} is unknown; choose of {', '.join(ARMS)}")
        if len(set(arms)) < len(arms):
            raise ValueError("experiment.arms: names one twice; name each once")
        missing = [name for name in NEEDED if name not in arms]
        if missing:
            raise ValueError(
                f"experiment.arms: {missing[0]!r} is missing; the fall-back chooses of {', '.join(NEEDED)}"
            )
        for name in ("batch", "held"):
            size = min(training.held, self.data.trusted) if name == "held" else training.batch
            if size % training.workers:
                raise ValueError(
                    f"training.{name}: {size} rows cannot be dealt out to {training.workers} workers alike"
                )
        own = self.upstream.name != "operations" or self.upstream.folder is not None
        if own and self.experiment.retrain:
            raise ValueError(
                "experiment.retrain: is for operations; leave out upstream.name and folder, or set it to false"
            )
        if own and self.upstream.operations:
            raise ValueError("upstream.operations: are drawn by upstream.name operations only; leave them or it out")
        return self
