"""Settings of a difficulty run."""

from typing import Literal

from pydantic import Field, model_validator

from rayworks.core.config import RESUME_SAFE, ComputeSection, EngineSection, RunSection, Section, SystemConfig
from rayworks.systems.difficulty.ratings.glicko2 import Glicko2Options
from rayworks.systems.difficulty.ratings.rating_baselines import EloOptions, GlickoOptions

TRAINABLE = ("arithmetic", "amc", "codeforces", "lichess")
"""Named sources of the generalisation heatmap; the other sets of Easy2Hard-Bench have no train split."""


class DataSection(Section):
    """Sources of the responses and games."""

    responses: tuple[str, ...] = Field(
        ("champ", "ability", "math-exam", "verbal-aggression", "lsat6", "lsat7"),
        description="response sets; the first one makes the headline. Each an embedded set, hub:OWNER/NAME:SPLIT, or a CSV, "
        "Parquet or JSON-lines file with columns subject, item, score",
    )
    games: tuple[str, ...] = Field(
        ("bundesliga",),
        description="game sets: an embedded set, or a file with columns period, player, opponent, score",
    )
    duplicates: Literal["error", "mean", "first", "last"] = Field(
        "error", description="how two rows of one subject and item are merged; their mean weighs as many as they are"
    )
    attempts: float = Field(
        1.0, gt=0, description="attempts that each score is the average of; a column attempts says it row by row"
    )
    allow_disconnected: bool = Field(
        False, description="take a design whose parts share no subject; their scales then rest on the population alone"
    )
    reader: Literal["memory", "ray-data"] = Field(
        "memory", description="ray-data: shards of subjects in the workers, for Parquet that exceeds one memory"
    )
    shards: int = Field(
        8, ge=1, le=4096, description="ray-data: parts the subjects are cut into; sums are taken in their order"
    )
    focal: dict[str, str] = Field(
        {"math-exam": "gender=female"},
        description="set: attribute=value of the subjects to test for differential item functioning",
    )


class ModelSection(Section):
    """The item response model."""

    name: Literal["1PL", "2PL", "3PL", "4PL"] = Field(
        "1PL", description="model of the labels; which one the paper took for its LLM sets is unverified"
    )
    compare: tuple[Literal["1PL", "2PL", "3PL", "4PL"], ...] = Field(
        ("1PL", "2PL"), description="models fitted beside it for the criteria and the likelihood-ratio test"
    )
    estimator: Literal["mml", "map", "conditional", "variational", "nuts"] = Field(
        "mml",
        description="mml: priors only where no estimate is finite without; conditional: 1PL, assuming nothing of abilities; "
        "the last two need rayworks[bayesian]",
    )
    groups: str | None = Field(
        None,
        description="1PL, 2PL: attribute of subjects whose values are populations of their own, or by-design: groups that "
        "saw items of their own; null: one population",
    )
    difficulty_prior_sd: float = Field(2.0, gt=0, description="standard deviation of the normal prior on difficulty")
    discrimination_prior_sd: float = Field(
        0.5, gt=0, description="standard deviation of the normal prior on log discrimination"
    )
    guessing_prior: tuple[float, float] = Field((5.0, 17.0), description="beta prior of guessing (3PL, 4PL)")
    options: int | None = Field(
        None,
        ge=2,
        description="3PL, 4PL: options to choose from, which set the mean of guessing's prior to their chance rate; a column "
        "options says it item by item",
    )
    guessing: float | None = Field(
        None, ge=0, lt=1, description="3PL: fix guessing at the chance rate instead of estimating it"
    )
    estimate_population: bool = Field(True, description="1PL: estimate the spread of abilities; otherwise it is 1")
    nodes: int = Field(
        0, ge=0, le=2001, description="quadrature nodes of the ability grid; 0 chooses by the number of items"
    )
    tolerance: float = Field(1e-5, gt=0, description="largest change of a parameter at which EM stops")
    max_iterations: int = Field(500, ge=1, description="most E-steps")

    @model_validator(mode="after")
    def _consistent(self) -> "ModelSection":
        if self.groups is not None and (self.name not in ("1PL", "2PL") or self.estimator in ("variational", "nuts")):
            raise ValueError("model.groups: are for a 1PL or 2PL by mml, map or conditional; leave them out")
        if self.estimator == "conditional" and self.name != "1PL":
            raise ValueError(
                "model.estimator: conditional is for the 1PL; set model.name: 1PL, or mml with model.groups"
            )
        if self.guessing is not None and self.name != "3PL":
            raise ValueError("model.guessing: fixes the asymptote of a 3PL; set model.name: 3PL or leave it out")
        if self.options is not None and self.name not in ("3PL", "4PL"):
            raise ValueError("model.options: set the guessing of a 3PL or 4PL; set model.name or leave it out")
        if self.estimator in ("variational", "nuts") and self.name == "4PL":
            raise ValueError("model.estimator: the 4PL has no variational or NUTS posterior; use map")
        if self.estimator in ("variational", "nuts") and self.options is not None:
            raise ValueError("model.options: variational and nuts have a prior of their own; leave them out or use mml")
        if self.estimator in ("variational", "nuts") and self.guessing is not None:
            raise ValueError("model.guessing: variational and nuts estimate it; leave it out or use mml")
        return self


class UncertaintySection(Section):
    """Uncertainty of the labels."""

    standard_errors: Literal["auto", "observed", "cross-product", "sandwich"] = Field(
        "auto", description="sandwich clusters subjects by family: fine-tunes of one model are not independent"
    )
    bootstrap: int = Field(200, ge=0, le=100_000, description="refits on resampled subjects, or families where given")
    refits_per_call: int = Field(25, ge=1, description="refits in one call of a worker", json_schema_extra=RESUME_SAFE)
    split_halves: int = Field(20, ge=1, description="random halvings of the subjects for the split-half correlation")
    held_out_share: float = Field(0.1, gt=0, lt=0.9, description="cells masked for the held-out log-loss")


class LabelSection(Section):
    """Labels from raw difficulties."""

    bins: int = Field(5, ge=2, le=100, description="difficulty tiers of equal size")
    normalisation: Literal["minmax", "percentile"] = Field(
        "minmax", description="raw value to [0, 1]; the paper's formula is unverified"
    )


class RatingSection(Section):
    """Ratings from games."""

    system: Literal["glicko2", "glicko1", "elo"] = Field("glicko2", description="rating system")
    mode: Literal["chronological", "converged"] = Field(
        "chronological", description="chronological: the published algorithm; converged: calibrated deviations"
    )
    glicko2: Glicko2Options = Glicko2Options()
    glicko1: GlickoOptions = GlickoOptions()
    elo: EloOptions = EloOptions()


class AdaptiveTestSection(Section):
    """Adaptive tests: few items that predict the score on all."""

    sizes: tuple[int, ...] = Field(
        (5, 10, 20, 40), description="numbers of items to try; those above the size of the set are left out"
    )
    folds: int = Field(4, ge=2, description="folds of the subjects, by family where given; each is held out once")
    random_draws: int = Field(20, ge=1, description="random subsets to compare with")


class EvaluationSection(EngineSection):
    """Language models against difficulty."""

    models: tuple[str, ...] = Field(
        (), description="models to evaluate: catalogue name, hub id or folder; none by default"
    )
    benchmark: str = Field(
        "champ",
        description="champ, chess-mates, or a set of Easy2Hard-Bench: amc, codeforces, lichess, gsm8k, arc, winogrande",
    )
    source: str | None = Field(None, description="local file or folder of an Easy2Hard-Bench set; null: the hub")
    max_items: int = Field(0, ge=0, description="the first items only; 0 takes all")
    max_new_tokens: int = Field(256, ge=1, description="length of an answer")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights of the models")
    slots: int = Field(8, ge=1, description="answers decoded side by side in one worker", json_schema_extra=RESUME_SAFE)
    guessing: float = Field(0.0, ge=0, lt=1, description="chance rate of the benchmark, for the fitted curve")


class GeneralisationSection(Section):
    """Train on one bin of difficulty, evaluate on all: one row of the generalisation heatmap. A run of its own."""

    enabled: bool = Field(False, description="fine-tune and evaluate instead of everything else")
    model: str = Field("smollm2-135m-instruct", description="model to tune: catalogue name, hub id or folder")
    layers: int | None = Field(None, ge=1, description="keep the model's first layers only; null keeps all")
    source: str = Field(
        "arithmetic",
        description="arithmetic; amc, codeforces or lichess of Easy2Hard-Bench; or a .jsonl or .parquet file with columns "
        "prompt, answer, rating",
    )
    folder: str | None = Field(None, description="local file or folder of the Easy2Hard-Bench set; null: the hub")
    operations: tuple[Literal["addition", "subtraction", "multiplication"], ...] = Field(
        ("addition", "subtraction", "multiplication"), min_length=1, description="kinds of arithmetic problems"
    )
    digits: int | None = Field(
        None,
        ge=1,
        le=12,
        description="digits of the longer operand, so that bins differ by carries alone; null: bin i holds rating i + 1",
    )
    chat: bool = Field(False, description="put prompts into the model's chat template")
    bins: int = Field(5, ge=2, le=20, description="bins of equal size, by difficulty")
    train_bin: int = Field(0, ge=0, description="bin to train on; 0 is the easiest")
    cumulative: bool = Field(False, description="train on the bins up to train_bin, with as many items in all")
    train_items: int = Field(256, ge=1, description="items to train on")
    eval_items: int = Field(64, ge=1, description="items per bin to evaluate on")
    tuning: Literal["full", "lora"] = Field("full", description="all weights but the embeddings, or adapters")
    steps: int = Field(200, ge=1, description="optimiser steps, the same for every bin")
    steps_per_checkpoint: int = Field(
        50, ge=1, description="steps between two checkpoints", json_schema_extra=RESUME_SAFE
    )
    batch_size: int = Field(16, ge=1, description="items per step")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that tune the model in step through Ray Train, beside compute.workers; with 1, one of those "
        "does it. Results are equal within rounding",
    )
    learning_rate: float = Field(5e-4, gt=0, description="peak AdamW learning rate")
    max_new_tokens: int = Field(16, ge=1, description="length of an answer")
    slots: int = Field(
        16, ge=1, description="answers decoded side by side in one worker", json_schema_extra=RESUME_SAFE
    )

    @model_validator(mode="after")
    def _consistent(self) -> "GeneralisationSection":
        if self.train_bin >= self.bins:
            raise ValueError(
                f"generalisation.train_bin: is {self.train_bin}; the last of {self.bins} bins is {self.bins - 1}"
            )
        if self.source not in TRAINABLE and not self.source.endswith((".jsonl", ".parquet")):
            raise ValueError(
                f"generalisation.source: {self.source!r} is unknown; one of {', '.join(TRAINABLE)}, "
                "or a .jsonl or .parquet file"
            )
        if self.digits is not None and self.bins > self.digits + 1:
            raise ValueError(
                f"generalisation.bins: {self.digits} digits carry 0 to {self.digits} times; "
                f"set bins to at most {self.digits + 1}"
            )
        if self.workers > self.batch_size:
            raise ValueError(
                f"generalisation.workers: {self.workers} cannot share the {self.batch_size} items of a step; lower it, or "
                "raise generalisation.batch_size"
            )
        return self


class Config(SystemConfig):
    """A difficulty run: calibrate response sets, rate players, and quantify the uncertainty."""

    renamed = {
        "subsets": "adaptive_tests",
        **{f"subsets.{field}": f"adaptive_tests.{field}" for field in ("sizes", "folds", "random_draws")},
    }

    run: RunSection = RunSection()
    compute: ComputeSection = ComputeSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    uncertainty: UncertaintySection = UncertaintySection()
    labels: LabelSection = LabelSection()
    ratings: RatingSection = RatingSection()
    adaptive_tests: AdaptiveTestSection = AdaptiveTestSection()
    evaluation: EvaluationSection = EvaluationSection()
    generalisation: GeneralisationSection = GeneralisationSection()

    @property
    def training_compute(self) -> ComputeSection:
        """What those processes ask for that tune the answering model in step; one, where none is tuned."""
        section = self.generalisation
        return self.compute.model_copy(update={"workers": section.workers if section.enabled else 1})

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if not self.data.responses:
            raise ValueError("data.responses: is empty; name at least one set, the first makes the headline")
        names = [set_name(source) for source in (*self.data.responses, *self.data.games)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"data: two sets are called {', '.join(twice)}; rename a file")
        models = [set_name(model) for model in self.evaluation.models]
        if len(set(models)) < len(models):
            raise ValueError("evaluation.models: two models have the same last name; their answers would share a file")
        self.evaluation.check(self.compute)
        if self.data.reader == "ray-data":
            self._refuse_what_needs_one_memory()
        chosen = self.uncertainty.standard_errors
        if self.model.estimator == "conditional" and chosen in ("cross-product", "sandwich"):
            raise ValueError("uncertainty.standard_errors: a conditional fit has its own errors; leave it auto")
        unknown = sorted(set(self.data.focal) - set(names) - set(type(self.data)().focal))
        if unknown:
            raise ValueError(f"data.focal: {', '.join(unknown)} is not a set of data.responses")
        return self

    def _refuse_what_needs_one_memory(self) -> None:
        wrong = [
            name
            for name in self.data.responses
            if "/" not in name or name.endswith(".jsonl") or name.startswith("hub:")
        ]
        if wrong:
            raise ValueError(
                f"data.responses {wrong[0]}: ray-data reads CSV and Parquet by path; set data.reader: memory"
            )
        if self.uncertainty.standard_errors in ("observed", "sandwich"):
            raise ValueError("uncertainty.standard_errors: shards have the cross-product only; leave it auto")
        if self.model.estimator in ("conditional", "variational", "nuts"):
            raise ValueError("model.estimator: conditional, variational and nuts need data.reader: memory")
        if self.model.groups is not None:
            raise ValueError("model.groups: needs all subjects side by side; set data.reader: memory")


def set_name(source: str) -> str:
    """Name of a set in tables and files: the embedded name, or the last part of a path or hub id."""
    if "/" not in source and "." not in source:
        return source
    return source.rstrip("/").rsplit("/", 1)[-1].split(":")[0].rsplit(".", 1)[0]
