"""What the engine is told: which closed form, how strong, when it starts and when it stops."""

from dataclasses import dataclass, fields
from math import isfinite
from typing import Literal, get_args

from rayworks.core.errors import ConfigError

Mode = Literal["penalised", "lp", "prox", "model-tilt"]
Rule = Literal["hard", "relu", "soft", "network"]
Learn = Literal["both", "labels", "weights", "nothing"]
Normalise = Literal["none", "rms", "row"]
Backend = Literal["jvp", "double_backward", "finite_diff", "one_sided", "last_layer"]
GREEDY_TAU = 0.01
"""At most this temperature, a soft label is a vertex."""


@dataclass(frozen=True)
class EngineSettings:
    """The recipe of a trial on wrong labels, as defaults.

    Raises:
        ConfigError: a field is out of its bounds, or the fields together let labels feed back on themselves.
    """

    mode: Literal["penalised", "lp", "prox", "model-tilt"] = "penalised"
    """Closed form of the soft label; see :mod:`.closed_forms`."""
    beta: float = 3.0
    """Strength with which the upstream label is kept, at least 0."""
    tau: float = 1.0
    """Temperature of the soft label, above 0."""
    smoothing: float = 0.1
    """Smoothing of the upstream label that ``prox`` starts from, in (0, 1]: what keeps other labels reachable."""
    rule: Literal["hard", "relu", "soft", "network"] = "hard"
    """Weight of a score: its sign, its positive part (L2RW), its exponential, or a network of the loss (Meta-Weight-Net)."""
    rule_temperature: float = 0.3
    """Temperature of the rule ``soft``, above 0."""
    floor: float = 0.0
    """Least weight before weights are scaled to a mean of 1, in [0, 1)."""
    learn: Literal["both", "labels", "weights", "nothing"] = "both"
    """What is learned; the rest is as the upstream has it. With nothing samples are scored, and trained on as they come."""
    normalise: Literal["none", "rms", "row"] = "rms"
    """Unit of the gains: none, their root mean square in the batch, or in the row."""
    backend: Literal["jvp", "double_backward", "finite_diff", "one_sided", "last_layer"] = "jvp"
    """How slopes are computed; see :mod:`rayworks.learning.sample_gains`."""
    head: str = ""
    """Name of the linear layer of ``last_layer``; empty: the last one."""
    refresh: int = 1
    """Steps between two validation gradients, at least 1."""
    gradient_average: float = 0.9
    """Share of the earlier ones in the moving average of the validation gradient, in [0, 1)."""
    gain_average: float = 0.0
    """Share of the earlier ones in the moving average of the gains of a source row, in [0, 1): for wrong labels only."""
    precondition: bool = False
    """Measure of the validation gradient by Adam's second moments, as Adam's step does."""
    warm_up: int = 100
    """Steps on upstream labels before the engine acts."""
    progress: float = 0.1
    """Share by which the validation loss must have fallen before the engine acts, in [0, 1); 0: it need not."""
    collapse: float = 2.0
    """Rise of the validation loss, as a multiple of what it was when the engine began, and beyond what chance makes of small
    batches, that stops the engine; 0: never."""
    allow_greedy: bool = False
    """Leave to run without label retention, temperature and warm-up, which collapses."""

    def __post_init__(self) -> None:
        choices = (("mode", Mode), ("rule", Rule), ("learn", Learn), ("normalise", Normalise), ("backend", Backend))
        for name, kind in choices:
            if getattr(self, name) not in get_args(kind):
                raise ConfigError(
                    f"{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(get_args(kind))}"
                )
        for field in fields(self):
            value, whole = getattr(self, field.name), field.name in ("refresh", "warm_up")
            if field.type in (int, float) and (
                isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not isfinite(value)
            ):
                raise ConfigError(f"{field.name}: is {value!r}; must be a {'whole' if whole else 'finite'} number")
        for name, fits, bounds in (
            ("beta", self.beta >= 0, "at least 0"),
            ("tau", self.tau > 0, "above 0; take mode lp for its limit"),
            ("smoothing", 0 < self.smoothing <= 1, "in (0, 1]"),
            ("rule_temperature", self.rule_temperature > 0, "above 0"),
            ("floor", 0 <= self.floor < 1, "in [0, 1)"),
            ("refresh", self.refresh >= 1, "at least 1"),
            ("gradient_average", 0 <= self.gradient_average < 1, "in [0, 1)"),
            ("gain_average", 0 <= self.gain_average < 1, "in [0, 1)"),
            ("warm_up", self.warm_up >= 0, "at least 0"),
            ("progress", 0 <= self.progress < 1, "in [0, 1)"),
            ("collapse", self.collapse == 0 or self.collapse > 1, "0 or above 1"),
        ):
            if not fits:
                raise ConfigError(f"{name}: is {getattr(self, name)}; must be {bounds}")
        if self.rule == "network" and self.learn != "weights":
            raise ConfigError(f"rule: network weighs upstream labels; set learn to weights, not {self.learn}")
        greedy = self.mode == "lp" or (self.mode == "penalised" and self.beta == 0 and self.tau <= GREEDY_TAU)
        unwarmed = self.warm_up == 0 and self.progress == 0
        if greedy and self.learn in ("both", "labels") and unwarmed and not self.allow_greedy:
            raise ConfigError(
                "beta, tau, warm_up: labels that keep nothing of the upstream's, from the first step, collapse; set a beta, "
                "a tau or a warm-up, or allow_greedy"
            )


def l2rw(gradient_average: float = 0.0, warm_up: int = 0) -> EngineSettings:
    """Learning to reweight (Ren et al. 2018): upstream labels, the positive part of the score as weight."""
    return EngineSettings(
        learn="weights", rule="relu", gradient_average=gradient_average, warm_up=warm_up, progress=0.0
    )


def meta_weight_net(warm_up: int = 0) -> EngineSettings:
    """Meta-Weight-Net (Shu et al. 2019): the weight is a small network of the sample's loss, trained by the gains."""
    return EngineSettings(learn="weights", rule="network", gradient_average=0.0, warm_up=warm_up, progress=0.0)
