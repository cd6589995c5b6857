"""Settings of a federation run."""

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rayworks.core.config import RESUME_SAFE, ScopeSection, Section, SystemConfig

Stage = Literal["training", "flower", "privacy"]
STAGES: tuple[Stage, ...] = ("training", "flower", "privacy")
"""The stages in the order in which they run."""
StrategyName = Literal["fedavg", "fedprox", "scaffold", "fednova", "moon", "feddyn"]
Generator = Literal["oriented", "random", "sparse", "original", "spectrum", "pyramid", "dead-leaves", "gaussian"]
ModelKind = Literal["perceptron", "convolutional", "lenet", "resnet18"]

_PLAIN: dict[str, Any] = {
    "balance.level": 0.0,
    "strategy.name": "fedavg",
    "local.objective": "cross-entropy",
    "local.logits": "plain",
}
_PSEUDO: dict[str, Any] = {"balance.source": "pseudo", "local.objective": "cross-entropy", "local.logits": "plain"}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": _PLAIN,
    "balanced": {**_PSEUDO, "balance.mixup_share": 0.5},
    "mixup": {**_PSEUDO, "balance.mixup_share": 1.0},
    "noise": {**_PSEUDO, "balance.mixup_share": 0.0},
    "gaussian": {**_PSEUDO, "balance.mixup_share": 0.0, "noise.generator": "gaussian"},
    "oversampling": {**_PLAIN, "balance.source": "owned", "balance.target": "most", "balance.level": 1.0},
    **{name: {**_PLAIN, "strategy.name": name} for name in ("fedprox", "scaffold", "fednova", "moon", "feddyn")},
    **{name: {**_PLAIN, "local.objective": name} for name in ("fedmix", "vhl")},
    **{name: {**_PLAIN, "local.logits": name} for name in ("fedrs", "fedlc", "balanced-softmax")},
}
"""Settings that each method changes; those with pseudo-images keep ``strategy.name``. All take as many local steps."""
SHARED = ("strategy.rounds", "strategy.evaluate_every")
"""Settings that all methods share, so that they can be compared."""
VARIANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,40}")


class Scope(ScopeSection):
    """Stages of the run."""

    needed = "training"
    stages: tuple[Stage, ...] = Field(
        STAGES,
        min_length=1,
        description="training: all methods on all seeds; flower: the same apps in Flower's simulation, timed and "
        "compared; privacy: attacks on the shared pseudo-images",
    )


class DataSection(Section):
    """Examples, and which client holds which."""

    source: str = Field(
        "digits",
        min_length=1,
        description="digits, mnist, fashion-mnist, cifar10-test, clothing-departments, an .npz file, or hub:NAME",
    )
    review_label: Literal["rating", "recommended"] = Field(
        "rating", description="clothing-departments: the stars, or whether the garment is recommended"
    )
    train_examples: int | None = Field(None, ge=1, description="training examples to use, drawn by seed; null: all")
    test_examples: int | None = Field(None, ge=1, description="held-out examples to use; null: all")
    clients: int = Field(10, ge=1, le=100_000, description="number of clients; natural partitions have their own")
    partition: Literal["labels", "dirichlet", "shards", "natural", "iid"] = Field(
        "labels", description="labels: each client holds labels_per_client labels; natural: groups of the data"
    )
    labels_per_client: int = Field(1, ge=1, description="labels: labels of a client; shards: shards of a client")
    concentration: float = Field(0.1, gt=0, description="dirichlet: alpha; small is skewed")
    min_examples: int = Field(1, ge=0, description="dirichlet: redraw up to ten times until every client has these")
    self_balancing: bool = Field(False, description="dirichlet: clients above the mean size get no more")


class ModelSection(Section):
    """The classifier."""

    kind: ModelKind = Field("perceptron", description="perceptron, 2-convolution CNN, LeNet, ResNet-18 with GroupNorm")
    hidden: int = Field(64, ge=1, le=65_536, description="width of the perceptron or of the CNN's last layer")


class LocalSection(Section):
    """Local training of a client in a round."""

    epochs: int = Field(3, ge=1, le=1000, description="passes over its real examples; sets the number of steps")
    steps: int | None = Field(None, ge=1, description="steps of a round whatever the client holds; null: by epochs")
    match_steps: bool = Field(
        True, description="pseudo-images take the place of real ones in a fixed number of steps; false: they add steps"
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="examples of a step")
    learning_rate: float = Field(0.05, gt=0, description="SGD learning rate")
    learning_rate_decay: float = Field(1.0, gt=0, le=1, description="factor per round")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum, reset every round")
    weight_decay: float = Field(0.0, ge=0, description="SGD weight decay")
    objective: Literal["cross-entropy", "fedmix", "vhl"] = Field(
        "cross-entropy", description="cross-entropy, FedMix or VHL"
    )
    logits: Literal["plain", "fedrs", "fedlc", "balanced-softmax"] = Field(
        "plain", description="correction of the logits for labels that a client lacks or rarely sees"
    )
    fedmix_share: float = Field(0.1, gt=0, lt=1, description="lambda of FedMix; the paper's value is unverified")
    fedmix_batch: int = Field(5, ge=1, description="examples behind one shared mean")
    vhl_weight: float = Field(1.0, ge=0, description="loss of VHL's noise classes")
    vhl_align: float = Field(1.0, ge=0, description="supervised contrast between real features and noise classes")
    vhl_images: int = Field(20, ge=1, description="noise images of each VHL class")
    fedrs_scale: float = Field(0.5, ge=0, le=1, description="FedRS: factor on logits of labels a client lacks")
    fedlc_temperature: float = Field(1.0, gt=0, description="FedLC: tau of the calibration n^(-1/4)")


class StrategySection(Section):
    """How the server aggregates updates."""

    name: StrategyName = Field("fedavg", description="fedavg, fedprox, scaffold, fednova, moon, feddyn")
    rounds: int = Field(15, ge=1, le=100_000, description="training rounds")
    participation: float = Field(1.0, gt=0, le=1, description="share of the clients in a round, drawn by seed")
    weighting: Literal["examples", "equal"] = Field(
        "examples",
        description="clients weigh by their real examples, or all the same (needed by noise_multiplier; always in feddyn)",
    )
    proximal_mu: float = Field(0.01, ge=0, description="fedprox: mu; feddyn: alpha")
    contrast: float = Field(1.0, ge=0, description="moon: mu")
    temperature: float = Field(0.5, gt=0, description="moon: T")
    evaluate_every: int = Field(1, ge=1, description="rounds between evaluations on the held-out examples")


class BalanceSection(Section):
    """How many pseudo-images of which label each client is given (specification 2.2)."""

    source: Literal["pseudo", "owned"] = Field(
        "pseudo", description="mixups and noise, or copies of the client's own examples of labels it owns (a baseline)"
    )
    level: float = Field(0.3, ge=0, le=1, description="rho: labels are filled up to this share of the target; 0: none")
    target: Literal["size", "most", "mean", "budget"] = Field(
        "size",
        description="share of the client's size (never beyond its most frequent label), its most frequent label, the mean of "
        "its labels, or budget",
    )
    budget: int = Field(100, ge=0, description="budget: images of every label")
    presence: bool = Field(False, description="fill only labels that the client lacks")
    cap: int | None = Field(None, ge=0, description="most pseudo-images of one label")
    mixup_share: float = Field(0.5, ge=0, le=1, description="gamma: share of mixups, the rest is noise")
    weight: float = Field(1.0, ge=0, description="mu: weight of a pseudo-image in the loss")
    fade: float = Field(0.3, ge=0, le=1, description="the weight falls to 0 over this last share of the rounds")
    refresh: int = Field(0, ge=0, description="rounds between new pseudo-images; 0: the same all along")
    reweighting: Literal["none", "server-gradient"] = Field(
        "none", description="clients weigh and relabel pseudo-images by the server's gradient on held-out examples"
    )
    server_examples: int = Field(100, ge=1, description="server-gradient: examples that the server holds")
    reweighting_temperature: float = Field(1.0, gt=0, description="server-gradient: softness of labels")
    gradient_file: str | None = Field(None, description="server-gradient: file of the gradient (.safetensors)")


class MixupSection(Section):
    """Encodings of real examples for the shared pool (DP-InstaHide and its variant)."""

    images: int = Field(4, ge=1, le=64, description="k: examples in one mixup, drawn without replacement")
    weights: Literal["dominant", "uniform", "dirichlet"] = Field(
        "dominant", description="uniform 1/k has the best bound; dominant has the better accuracy"
    )
    dominant: float = Field(0.7, gt=0, lt=1, description="weight of the image whose label is filled")
    labels: Literal["hard", "true", "hide", "hide-random"] = Field(
        "hard",
        description="the filled label, the true mixture, or the filled label's weight with the rest spread evenly or at "
        "random over all others; which of the two the paper takes is unverified",
    )
    noise: Literal["laplace", "gaussian", "none"] = Field("laplace", description="noise added to every coordinate")
    scale: float = Field(0.05, ge=0, description="sigma of that noise; examples lie in [0, 1]")
    sharing: Literal["pool", "local"] = Field(
        "pool", description="encodings go through the server to other clients, or stay with their client"
    )


class NoiseSection(Section):
    """Artificially labelled noise images; only a seed is shared."""

    generator: Generator = Field("oriented", description="untrained StyleGAN variants, statistical images, baselines")
    labels: Literal["random", "pool"] = Field(
        "random", description="fresh images whose label says nothing, or a cluster of one generator for each label"
    )
    bank: int | None = Field(
        1000,
        ge=1,
        description="random: images that all clients make from the seed alone and draw from, each with labels of its own; "
        "null: fresh images for every client, at ten times the cost",
    )
    resolution: int | None = Field(
        None, ge=8, le=1024, description="side at which images are made before they are resized; null: the data's"
    )
    images_per_network: int = Field(400, ge=1, description="images made by one untrained network")


class PrivacySection(Section):
    """Protection of updates, label counts and what the server sees."""

    clipping: Literal["none", "fixed", "adaptive"] = Field(
        "none", description="bound on the norm of updates, applied by the client"
    )
    clip_norm: float = Field(1.0, gt=0, description="fixed: the bound; adaptive: its start")
    clip_quantile: float = Field(0.5, gt=0, lt=1, description="adaptive: share of updates left as they are")
    clip_rate: float = Field(0.2, gt=0, description="adaptive: rate of the geometric update")
    noise_multiplier: float = Field(0.0, ge=0, description="noise multiplier z on the mean update")
    histogram_epsilon: float = Field(
        0.0, ge=0, description="epsilon of the noise on label counts sent to the server; 0: no noise"
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="delta at which epsilon of updates and of Gaussian encodings is stated"
    )
    secure_aggregation: bool = Field(
        False,
        description="SecAgg+ by Flower's mod: the server sees sums of arrays only; losses and counts stay in the clear",
    )

    @model_validator(mode="after")
    def _noise_needs_a_bound(self) -> Self:
        if self.noise_multiplier and self.clipping == "none":
            raise ValueError(
                "privacy.noise_multiplier: needs privacy.clipping fixed or adaptive; noise without a bound protects nothing"
            )
        return self


class FailuresSection(Section):
    """Simulated failures of clients, drawn by seed."""

    dropout: float = Field(0.0, ge=0, lt=1, description="chance that a client does not answer a round")
    stragglers: float = Field(0.0, ge=0, lt=1, description="chance that a client does straggler_share of its steps")
    straggler_share: float = Field(
        0.5, gt=0, le=1, description="share of its steps that a straggler does by the deadline"
    )


class EngineSection(Section):
    """What runs the clients; results do not depend on it."""

    kind: Literal["ray", "flower"] = Field(
        "ray",
        description="persistent actors of this run's workers, or Flower's simulation with a Ray of its own",
        json_schema_extra=RESUME_SAFE,
    )
    rounds_per_call: int = Field(5, ge=1, description="rounds between two checkpoints", json_schema_extra=RESUME_SAFE)
    clients_per_task: int | None = Field(
        None, ge=1, description="clients of one actor call; null: four calls per worker", json_schema_extra=RESUME_SAFE
    )
    compared_rounds: int = Field(3, ge=1, description="rounds of the comparison with Flower's simulation")


class ExperimentSection(Section):
    """The methods compared, and how."""

    methods: tuple[str, ...] = Field(
        ("fedavg", "balanced", "mixup", "noise"),
        min_length=1,
        description=f"methods to compare: {', '.join(METHODS)}, or a variant; fedavg and the headline's are needed",
    )
    headline: str = Field("balanced", description="method compared with fedavg in the headline")
    variants: dict[str, dict[str, Any]] = Field({}, description="further methods: name to dotted settings")
    seeds: int = Field(5, ge=1, le=1000, description="trainings of each method; a seed also draws the partition")
    target_accuracy: float = Field(0.8, gt=0, le=1, description="accuracy that rounds_to_target counts to")
    resamples: int = Field(2000, ge=10, le=100_000, description="bootstrap resamples behind intervals")

    @model_validator(mode="after")
    def _names_of_their_own(self) -> Self:
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("experiment.methods: names one twice; name each once")
        for name in self.variants:
            if name in METHODS:
                raise ValueError(f"experiment.variants.{name}: is the name of a known method; choose another")
            if not VARIANT_NAME.fullmatch(name):
                raise ValueError(
                    f"experiment.variants: {name!r} becomes a file name; use letters, digits, spaces, - _ ."
                )
        return self


class Config(SystemConfig):
    """Settings of one run."""

    renamed = {
        "data.least_examples": "data.min_examples",
        "local.batch": "local.batch_size",
        "strategy.proximal": "strategy.proximal_mu",
        "balance.weighing": "balance.reweighting",
        "balance.weighing_temperature": "balance.reweighting_temperature",
        "privacy.update_noise": "privacy.noise_multiplier",
        "privacy.histogram_noise": "privacy.histogram_epsilon",
    }

    scope: Scope = Scope()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    local: LocalSection = LocalSection()
    strategy: StrategySection = StrategySection()
    balance: BalanceSection = BalanceSection()
    mixup: MixupSection = MixupSection()
    noise: NoiseSection = NoiseSection()
    privacy: PrivacySection = PrivacySection()
    failures: FailuresSection = FailuresSection()
    engine: EngineSection = EngineSection()
    experiment: ExperimentSection = ExperimentSection()

    @property
    def weighs_pseudo_images(self) -> bool:
        """Whether the server's gradient weighs pseudo-images."""
        return self.balance.reweighting == "server-gradient" and self.balance.level > 0

    def of_method(self, name: str) -> "Config":
        """Settings with which a method trains.

        Raises:
            ValueError: the method is unknown or its changes are invalid.
        """
        changes = METHODS.get(name, self.experiment.variants.get(name))
        if changes is None:
            known = ", ".join([*METHODS, *self.experiment.variants])
            raise ValueError(
                f"experiment.methods: {name!r} is unknown; choose one of {known}, or add it to experiment.variants"
            )
        values = self.model_dump()
        for path, value in changes.items():
            section, _, field = path.partition(".")
            fixed = section in ("run", "compute", "experiment", "engine", "data") or path in SHARED
            if fixed or field not in values.get(section, {}):
                raise ValueError(f"experiment.variants.{name}: {path!r} is not a setting that a method can change")
            values[section][field] = value
        values["experiment"] = {}
        return Config.model_validate(values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.privacy.noise_multiplier and self.strategy.weighting != "equal":
            raise ValueError(
                "strategy.weighting: must be equal with privacy.noise_multiplier; example counts change the sensitivity"
            )
        name = self.strategy.name
        if self.privacy.secure_aggregation and name not in ("fedavg", "fedprox"):
            raise ValueError(f"privacy.secure_aggregation: works with fedavg and fedprox, not {name}")
        if name == "moon" and self.local.objective != "cross-entropy":
            raise ValueError(f"local.objective: moon has its own; {self.local.objective} needs another strategy.name")
        if self.local.objective == "vhl" and self.weighs_pseudo_images:
            raise ValueError("balance.reweighting: the server's gradient knows no noise classes; use none with vhl")
        if self.balance.gradient_file is not None and self.balance.reweighting == "none":
            raise ValueError(
                "balance.gradient_file: is read with balance.reweighting server-gradient only; set that too"
            )
        if name == "feddyn" and self.strategy.proximal_mu == 0:
            raise ValueError("strategy.proximal_mu: feddyn divides by it; give a value above 0")
        if self.privacy.clipping != "none" and name in ("scaffold", "feddyn"):
            raise ValueError(
                f"privacy.clipping: does not bound what {name}'s clients keep; choose another strategy.name"
            )
        if self.privacy.noise_multiplier and name == "fednova":
            raise ValueError(
                "privacy.noise_multiplier: its size is that for a mean of updates, not fednova's; use fedavg"
            )
        if self.experiment != ExperimentSection():
            for needed in ("fedavg", self.experiment.headline):
                if needed not in self.experiment.methods:
                    raise ValueError(f"experiment.methods: {needed} is missing; the headline compares it")
            for method in self.experiment.methods:
                self.of_method(method)
        return self
