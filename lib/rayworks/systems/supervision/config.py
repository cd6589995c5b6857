"""Every setting of the supervision system, with its default and bounds."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from rayworks.core.config import RESUME_SAFE, ComputeSection, Section, SystemConfig
from rayworks.systems.supervision.boosting.votes import Vote

CLASSIFIED = ("sarcasm", "boolq", "reviews")
"""Built-in tasks whose answer is one of a few classes."""
GENERATED = ("openbookqa", "siqa", "quartz", "asdiv", "review-attributes", "sciq", "arc")
"""Built-in tasks whose answer is a text."""
EXPORT = "export:"
Loss = Literal["cross-entropy", "logconf", "product"]
Student = Literal["single", "ensemble", "hard", "bagging", "uniform", "evidential", "logconf", "product", "ladder"]
STUDENTS: tuple[Student, ...] = get_args(Student)
OF_CLASSES: tuple[Student, ...] = ("hard", "logconf", "product")
"""Students whose labels or losses are those of classes."""


class TaskSection(Section):
    """What is asked, who may see which labels, and which cases count as hard."""

    name: str = Field(
        "sarcasm",
        min_length=1,
        description="examples: sarcasm, boolq, reviews (classes); openbookqa, siqa, quartz, asdiv, review-attributes "
        "(texts); sciq, arc (texts, by their hub names); a .csv, .tsv, .jsonl, .parquet or hub:OWNER/NAME with the columns "
        "text and label, or prompt and answer; or your own as module:function",
    )
    kind: Literal["classes", "texts"] | None = Field(
        None, description="answers of the task: classes or texts; null: as the task's columns say"
    )
    count: int = Field(10_000, ge=8, description="examples to take, drawn by seed, near-duplicates left out")
    count_labelled: int = Field(2000, ge=2, description="easy examples whose labels the weak experts learn from")
    count_validation: int = Field(
        500, ge=2, description="easy examples that choose the rounds, whose labels are known too"
    )
    count_unlabelled: int = Field(3000, ge=2, description="hard examples that the weak experts label for the student")
    count_test: int = Field(
        2000, ge=2, description="hard examples to measure on; their labels are read once, at the end"
    )
    count_easy_test: int | None = Field(
        None,
        ge=0,
        description="easy-to-hard: easy examples to measure on, too; null: those of the easier half that are left, up to "
        "count_test",
    )
    split: Literal["easy-to-hard", "random"] = Field(
        "easy-to-hard", description="easy-to-hard: labels are known of the easier half alone; random: of any"
    )
    hardness: str = Field(
        "minilm",
        min_length=1,
        description="measure of what is hard: the features on which a reference model is fitted out of fold, of another "
        "family than teachers and student (minilm, tfidf, or what student.features can be); or export:FOLDER, of "
        "difficulty, whose items are these examples; length (of the text); or a column of your file as column:NAME",
    )
    answered_by: Literal["choosing", "writing"] = Field(
        "choosing",
        description="texts: an answer is the likeliest of the options, by mean log-probability of its tokens, where "
        "examples have options, or always written greedily; it is right where it is the true one, word for word",
    )
    hardness_by: Literal["truth", "margin"] = Field(
        "truth",
        description="what is hard for a reference model: where it gives the true class little (truth), or its two likeliest "
        "classes like much (margin; where classes are many, truth would call rare classes hard, and few would be known)",
    )
    label_noise: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="share of the labels of labelled examples to change, as a test; validation keeps its own",
    )


class WeakSection(Section):
    """The weak experts."""

    features: str = Field(
        "words:1000",
        description="what an expert sees of a text: words:N (TF-IDF of the N commonest words), tfidf (all words and pairs), "
        "minilm, MODEL@LAYERS (hidden states of a language model cut to its first layers, as smollm2-135m-instruct@2), or "
        "your own module:function",
    )
    learner: Literal["tree", "linear", "adapter"] = Field(
        "tree", description="kind of the experts: shallow trees, logistic regressions, or LoRA adapters of weak.model"
    )
    depth: int = Field(3, ge=1, le=30, description="tree: most questions in a row")
    leaf: int = Field(5, ge=1, description="tree: least examples at a leaf")
    penalty: float = Field(1.0, gt=0, description="linear: inverse strength of the ridge penalty")
    model: str = Field("smollm2-135m-instruct", description="adapter: the base, a packaged model, a folder or hub:NAME")
    layers: int | None = Field(2, ge=1, description="adapter: layers of the base to keep; null: all")
    lora_rank: int = Field(8, ge=1, le=256, description="adapter: rank")
    epochs: float = Field(2.0, gt=0, description="adapter: passes over the labelled examples")
    batch_size: int = Field(32, ge=1, description="adapter: examples per optimiser step")
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="adapter: peak of the cosine schedule")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="adapter, of texts: processes over which the experts are dealt out while they label, where they do not "
        "fit into one; each worker needs so many of its size. Labels are equal within rounding",
    )


class BoostingSection(Section):
    """How experts are weighed, and what they learn from."""

    rounds: int = Field(40, ge=1, le=1000, description="experts, at most; validation chooses how many of them teach")
    rounds_per_call: int = Field(10, ge=1, description="rounds between checkpoints", json_schema_extra=RESUME_SAFE)
    rule: Literal["adaboost", "samme", "m1", "prior"] | None = Field(
        None,
        description="rule that weighs an expert: adaboost (two classes), samme (ln(K-1) added), m1 (any number of classes, "
        "chance is an error of 1/2), prior (the untuned predictor's error is chance, EnsemW2S); null: adaboost or samme "
        "for classes, prior for texts",
    )
    mode: Literal["reweight", "resample"] = Field(
        "reweight", description="what an expert learns from: weights, or as many units drawn with them"
    )
    multiplicity: Literal["count", "mask"] = Field(
        "count", description="resample: whether a unit drawn c times weighs c, or 1 (unverified in the paper)"
    )
    window: int | None = Field(
        1, ge=1, description="texts: tokens in a row that are weighed as one; null: the whole answer"
    )
    folds: int = Field(
        0, ge=0, le=20, description="folds by which errors are cross-fitted, against overfitted experts; 0 or 1: not"
    )
    retries: int = Field(2, ge=0, le=20, description="seeds tried after an expert no better than chance")
    most_alpha: float = Field(10.0, gt=0, description="largest weight of an expert")
    prior_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="prior: the error that counts as chance; null: measured, of the predictor that knows the place in the "
        "answer and the token before alone",
    )
    fallback: bool = Field(
        True,
        description="whether one expert teaches alone where the verdict after a few rounds says that more do not help",
    )
    vote: Vote | Literal["validation"] = Field(
        "validation",
        description="what experts say together: share (of the weight that has a class as its likeliest), linear (mean "
        "probability), log-linear, or validation: of share and linear the one whose student is better there (of tuned "
        "students: that is itself better there)",
    )


class StudentSection(Section):
    """The stronger model, and what it learns."""

    features: str = Field("tfidf", description="what it sees of a text: as weak.features")
    learner: Literal["linear", "tuned"] = Field(
        "linear",
        description="kind of the student: linear (logistic on words, ridge on dense features), or a tuned language model",
    )
    penalty: float = Field(
        1.0, gt=0, description="linear: inverse strength of the penalty on words; strength on dense features"
    )
    loss: Loss = Field(
        "cross-entropy",
        description="loss of all students but those named by one: cross-entropy, logconf (confidence in its own answers "
        "grows) or product (of its own and the weak probability)",
    )
    labels: Literal["soft", "hard"] = Field("soft", description="labels of all students: distributions, or classes")
    taught: tuple[Student, ...] | None = Field(
        None,
        min_length=1,
        description="students: single and ensemble (by boosting), hard (both with classes as labels), bagging, uniform "
        "(other seeds alone), evidential (Dirichlet mean of bagging's votes), logconf and product (other losses on the "
        "single teacher's labels; of classes only), ladder; null: all that the answers and the ladder allow",
    )
    ladder: tuple[str, ...] = Field(
        (), description="features of the students in between, each taught by the one before (bootstrapping)"
    )
    confidence: float = Field(
        1.0, gt=0, le=1, description="share of the unlabelled examples to learn from, the surest of each label first"
    )
    logconf_weight: float = Field(0.5, ge=0, le=1, description="logconf: weight of the student's own answer at the end")
    logconf_warmup: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="logconf: share of the steps over which that weight grows; linear students take 5",
    )
    product_powers: tuple[float, float] = Field(
        (1.0, 1.0), description="product: powers of the student's own probability and of the weak label"
    )
    model: str = Field("smollm2-135m-instruct", description="tuned: the model, packaged, a folder or hub:NAME")
    layers: int | None = Field(8, ge=1, description="tuned: layers to keep; null: all")
    tuning: Literal["full", "lora"] = Field("lora", description="tuned: what is trained")
    lora_rank: int = Field(16, ge=1, le=256, description="tuned: rank of adapters")
    epochs: float = Field(2.0, gt=0, description="passes over what it learns, of tuned models and of losses by steps")
    batch_size: int = Field(32, ge=1, description="examples per optimiser step, of the same")
    learning_rate: float = Field(1e-3, gt=0, lt=1, description="peak of the cosine schedule, of the same")

    @model_validator(mode="after")
    def _ladder_has_steps(self) -> Self:
        if self.taught is None:
            return self
        if "ladder" in self.taught and not self.ladder:
            raise ValueError("student.ladder: is empty; name the features in between, or leave ladder out of taught")
        if "single" not in self.taught:
            raise ValueError("student.taught: leaves single out, which all others are compared with; add it")
        return self

    def taught_of(self, texts: bool) -> tuple[Student, ...]:
        """The students, where answers are texts or classes."""
        if self.taught is not None:
            return self.taught
        left_out = (*(OF_CLASSES if texts else ()), *(() if self.ladder else ("ladder",)))
        return tuple(one for one in STUDENTS if one not in left_out and not (one == "hard" and self.labels == "hard"))


class ExperimentSection(Section):
    """Seeds, and how numbers are compared."""

    seeds: int = Field(5, ge=1, le=1000, description="seeds, each with splits, experts and students of its own")
    rounds_shown: tuple[int, ...] = Field(
        (1, 2, 5, 10, 20, 40), min_length=1, description="numbers of rounds whose ensembles teach a student each"
    )
    resamples: int = Field(1000, ge=20, description="resamples of test examples behind intervals")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="confidence of intervals")
    workers: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes that train adapters and tuned students one after the other in step through Ray Train, beside "
        "compute.workers; with 1, those of several seeds are trained side by side. Results are equal within rounding",
    )

    @model_validator(mode="after")
    def _begin_with_one(self) -> Self:
        if list(self.rounds_shown) != sorted(set(self.rounds_shown)) or self.rounds_shown[0] != 1:
            raise ValueError(f"experiment.rounds_shown: is {list(self.rounds_shown)}; give growing numbers from 1")
        return self


class Config(SystemConfig):
    """Settings of a run."""

    task: TaskSection = Field(default_factory=TaskSection)
    weak: WeakSection = Field(default_factory=WeakSection)
    boosting: BoostingSection = Field(default_factory=BoostingSection)
    student: StudentSection = Field(default_factory=StudentSection)
    experiment: ExperimentSection = Field(default_factory=ExperimentSection)

    @property
    def training_compute(self) -> ComputeSection:
        """What those processes ask for that train in step."""
        return self.compute.model_copy(update={"workers": self.experiment.workers})

    @model_validator(mode="after")
    def _have_work(self) -> Self:
        workers, adapters = self.experiment.workers, self.weak.learner == "adapter"
        sizes = {"weak.batch_size": self.weak.batch_size} if adapters else {}
        sizes |= {"student.batch_size": self.student.batch_size} if self.student.learner == "tuned" else {}
        if workers > 1 and not sizes:
            raise ValueError(
                f"experiment.workers: is {workers}, but nothing is trained in step; set weak.learner: adapter or "
                "student.learner: tuned, or leave it 1"
            )
        for name, size in sizes.items():
            if workers > size:
                raise ValueError(
                    f"experiment.workers: {workers} cannot share the {size} examples of a step; lower it, or raise {name}"
                )
        if self.weak.processes > 1 and (not adapters or self.boosting.vote == "log-linear"):
            fix = "set boosting.vote: linear or share" if adapters else "set weak.learner: adapter"
            raise ValueError(
                f"weak.processes: is {self.weak.processes}, which is for adapters whose votes are sums; {fix}, or leave it 1"
            )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        task = self.task
        wanted = task.count_labelled + task.count_validation + task.count_unlabelled + task.count_test
        if wanted > task.count:
            raise ValueError(f"task.count: is {task.count}, the parts take {wanted}; raise it or take smaller parts")
        if task.split == "random" and task.count_easy_test:
            raise ValueError(
                "task.count_easy_test: a random split has no easy half; set split: easy-to-hard, or leave it out"
            )
        if task.split == "easy-to-hard":
            easy = task.count_easy_test or 0
            known, hard = task.count_labelled + task.count_validation + easy, task.count_unlabelled + task.count_test
            if max(known, hard) > task.count // 2:
                raise ValueError(
                    f"task.count: half of {task.count} are easy, half are hard; {known} easy and {hard} hard ones are asked "
                    "for; raise it or take smaller parts"
                )
        if (task.kind == "texts" or task.name in GENERATED) and self.boosting.rule == "adaboost":
            raise ValueError("boosting.rule: adaboost is for two classes, not for texts; set prior or samme")
        return self
