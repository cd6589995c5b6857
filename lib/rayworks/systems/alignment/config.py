"""Every setting of the alignment system, with its default and bounds."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayworks.core.config import RESUME_SAFE, ComputeSection, EngineSection, Section, SystemConfig

Judge = Literal["vader", "imdb", "brevity"]


class PairsSection(Section):
    """Source of the preference pairs, and the filter on them."""

    source: str = Field(
        "titles-by-rating",
        description="titles-by-rating | shorter-title | bodies-by-rating (clothing reviews), "
        "a .jsonl or .parquet file, or hub:OWNER/NAME",
    )
    split: str = Field("train", description="split of a hub data set")
    prompt_column: str = Field("prompt", description="column of a file or hub data set")
    chosen_column: str = Field("chosen", description="column of a file or hub data set")
    rejected_column: str = Field("rejected", description="column of a file or hub data set")
    max_pairs: int | None = Field(None, ge=2, description="use at most this many training pairs; null: all")
    max_held_out: int | None = Field(1000, ge=2, description="measure on at most this many held-out pairs; null: all")
    response_tokens: int | None = Field(12, ge=1, description="cut responses to this many tokens; null: whole")
    length_filter: Literal["tokens", "chars", "none"] = Field(
        "tokens", description="unit of max_length; the authors' code counts chars"
    )
    max_length: int = Field(1024, ge=2, description="longest prompt + response; pairs with a longer one are dropped")
    held_out: float = Field(0.15, gt=0, lt=1, description="share of texts kept from training to measure accuracy")


class ObjectiveSection(Section):
    """One objective: its preference pairs and its judges."""

    pairs: PairsSection = PairsSection()
    judges: tuple[Judge, ...] = Field(
        ("vader", "imdb"), min_length=1, description="scorers that never saw the training; the first is the reward"
    )
    beta: float = Field(0.1, gt=0, description="scale of the reward in the pair loss (beta_r)")
    measured_with: str | None = Field(
        None, description="objective whose prompts, lengths and controls this one shares; null: its own"
    )


class ModelSection(EngineSection):
    """The frozen base, what its reward models start from, and what decodes with them."""

    base: str = Field("smollm2-135m-instruct", description="packaged name, local folder or hub:OWNER/NAME")
    reward: str | None = Field(None, description="start of the reward models; null: the base")
    reward_layers: int | None = Field(8, ge=1, description="first layers of the reward model to keep; null: all")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights of the frozen base")


class TrainingSection(Section):
    """Training of an autoregressive reward model on its pairs."""

    tuning: Literal["full", "lora"] = Field("full", description="train all weights, or low-rank adapters")
    train_embeddings: bool = Field(False, description="full tuning: train the token embeddings too")
    lora_rank: int = Field(8, ge=1, description="rank of the adapters")
    lora_alpha: float = Field(16.0, gt=0, description="scale of the adapters")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="dropout before the adapters")
    lora_targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj"), description="layers that get adapters")
    loss: Literal["sigmoid", "hinge"] = Field("sigmoid", description="loss of the reward margin of a pair")
    margin: float = Field(0.0, ge=0, description="reward margin that the loss asks for")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="probability that a label is wrong")
    language_weight: float = Field(
        0.1,
        ge=0,
        description="weight of the chosen responses' mean negative log-probability per token, beside the pair loss; the "
        "paper has 0, but the first layers of a checkpoint are not a language model until trained as one",
    )
    learning_rate: float = Field(3e-4, gt=0, lt=1, description="peak of the cosine schedule")
    warmup_steps: int = Field(5, ge=0, description="optimiser steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="norm to which gradients are clipped")
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    pairs_per_step: int = Field(8, ge=1, description="pairs per optimiser step")
    pairs_per_pass: int = Field(8, ge=1, description="pairs per forward; the rest of a step is accumulated")
    steps_per_checkpoint: int = Field(20, ge=1, description="optimiser steps between checkpoints")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that train one reward model after the other in step through Ray Train, beside "
        "compute.workers; with 1, all are trained side by side. Results are equal within rounding but for dropout, which "
        "each draws by itself",
    )

    @model_validator(mode="after")
    def _smoothing_needs_sigmoid(self) -> Self:
        if self.label_smoothing and self.loss == "hinge":
            raise ValueError("training.label_smoothing: only the sigmoid loss has it; set training.loss=sigmoid")
        return self

    @model_validator(mode="after")
    def _each_worker_has_pairs(self) -> Self:
        if self.workers > self.pairs_per_step:
            raise ValueError(
                f"training.workers: {self.workers} cannot share the {self.pairs_per_step} pairs of a step; lower it, or "
                "raise training.pairs_per_step"
            )
        return self


class DecodingSection(Section):
    """Sampling of texts, guided or not."""

    max_new_tokens: int = Field(
        64, ge=1, le=100_000, description="longest continuation, for objectives that do not set response_tokens"
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the mixed logits")
    top_k: int = Field(0, ge=0, description="most likely tokens kept; 0 keeps all")
    top_p: float = Field(1.0, gt=0, le=1, description="probability mass kept; 1 keeps all")
    stop: tuple[str, ...] = Field((), description="texts that end a continuation")
    slots: int = Field(
        16, ge=1, le=4096, description="rows decoded together per model actor", json_schema_extra=RESUME_SAFE
    )


class EvaluationSection(Section):
    """Measurements of the report."""

    weights: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="guidance weights of the frontier")
    headline_weight: float = Field(1.0, gt=0, description="the weight whose numbers make the headline")
    prompts: tuple[str, ...] = Field((), description="prompts to continue; empty: the commonest of the held-out pairs")
    prompt_count: int = Field(8, ge=1, description="prompts taken from the held-out pairs")
    samples: int = Field(256, ge=2, description="continuations per point, spread over the prompts")
    best_of: int = Field(16, ge=2, description="n of the best-of-n baseline")
    bootstrap: int = Field(2000, ge=100, description="resamples behind each interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")

    @model_validator(mode="after")
    def _headline_is_measured(self) -> Self:
        if any(weight <= 0 for weight in self.weights):
            raise ValueError("evaluation.weights: must be above 0; the unguided base is measured anyway")
        if self.headline_weight not in self.weights:
            raise ValueError(
                f"evaluation.headline_weight: {self.headline_weight} is not among evaluation.weights; add it"
            )
        return self


def _default_objectives() -> dict[str, ObjectiveSection]:
    return {
        "sentiment": ObjectiveSection(),
        "brevity": ObjectiveSection(
            pairs=PairsSection(source="shorter-title"), judges=("brevity",), measured_with="sentiment"
        ),
    }


class Config(SystemConfig):
    """Train one reward model per objective, guide the base with them, measure, export."""

    renamed = {"training.max_gradient_norm": "training.max_grad_norm"}

    model: ModelSection = ModelSection()
    objectives: dict[str, ObjectiveSection] = Field(
        default_factory=_default_objectives,
        min_length=1,
        description="objectives by name; the first makes the headline",
    )
    training: TrainingSection = TrainingSection()
    decoding: DecodingSection = DecodingSection()
    evaluation: EvaluationSection = EvaluationSection()

    @property
    def judges(self) -> list[str]:
        """The judges of all objectives, each once."""
        return list(dict.fromkeys(judge for section in self.objectives.values() for judge in section.judges))

    @property
    def training_compute(self) -> ComputeSection:
        """What those processes ask for that train in step."""
        return self.compute.model_copy(update={"workers": self.training.workers})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.objectives:
            if not name.isidentifier():
                raise ValueError(f"objectives.{name}: a name is letters, digits and _; rename it")
            shared = self.objectives[name].measured_with
            if shared is not None and (
                shared not in self.objectives or self.objectives[shared].measured_with is not None
            ):
                raise ValueError(
                    f"objectives.{name}.measured_with: {shared!r} is not an objective with prompts of its own; set it to null"
                )
        self.model.check(self.compute)
        if self.objectives[next(iter(self.objectives))].measured_with is not None:
            raise ValueError("objectives: the first one makes the headline and needs measured_with: null")
        return self
