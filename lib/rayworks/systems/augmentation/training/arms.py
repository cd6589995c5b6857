"""What is compared: the engine, what it stands on, and what is cheaper, all on the same rows and views."""

from dataclasses import dataclass, replace
from typing import Literal

from rayworks.core.errors import ConfigError
from rayworks.systems.augmentation.engine.settings import EngineSettings, l2rw, meta_weight_net


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Raises:
        ConfigError: bootstrapping and the engine are asked for together.
    """

    name: str
    engine: EngineSettings | None = None
    """None: rows are trained on as the upstream has them."""
    augmented: bool = True
    """Whether views are trained on, or the rows themselves."""
    rows: Literal["training", "all", "trusted"] = "training"
    """Which rows are trained on: those with doubtful labels, these and the trusted ones, or the trusted ones alone."""
    bootstrap: float = 0.0
    """Share of the model's own probabilities in each label (soft bootstrapping, Reed et al. 2015), in [0, 1)."""
    longer: float = 1.0
    """Multiple of the steps, to spend the seconds of a dearer arm."""
    placebo: bool = False
    """Labels of the validation rows permuted anew for each draw: what is gained then is not gained by them."""
    operation: str = ""
    """The only operation that makes its views; empty: all of the upstream's."""
    watched: bool = False
    """Whether the second hold-out is looked at on the way, and the best state kept."""
    early: bool = False
    """Whether that state is what it comes to: stopped early by the second hold-out."""

    def __post_init__(self) -> None:
        if not 0 <= self.bootstrap < 1 or (self.bootstrap and self.engine):
            raise ConfigError(f"bootstrap: is {self.bootstrap}; must lie in [0, 1), and be 0 beside an engine")
        if self.longer < 1:
            raise ConfigError(f"longer: is {self.longer}; must be at least 1")
        if self.early and not self.watched:
            raise ConfigError("early: stops by the second hold-out; set watched")


PLAIN, UPSTREAM, ENGINE = "plain and trusted rows", "upstream and trusted rows", "SAFLEX"
EARLY = "upstream stopped early"
"""Of these four the fall-back chooses: the augmentation dropped, as it is, weighed, or as it is and stopped early."""
ONLY = "only "
"""Begins the names of arms with one operation."""


def only(operation: str) -> Arm:
    """The upstream of one operation alone, as it is."""
    return Arm(ONLY + operation, rows="all", operation=operation)


def arms(engine: EngineSettings, step_cost: float = 2.0) -> tuple[Arm, ...]:
    """All that a report shows. Rivals of the literature have the engine's warm-up, averages and trusted rows.

    Args:
        step_cost: seconds of a step of the engine over a plain one, for the upstream at equal seconds.
    """

    def alike(rival: EngineSettings) -> EngineSettings:
        return replace(
            rival,
            backend=engine.backend,
            head=engine.head,
            refresh=engine.refresh,
            warm_up=engine.warm_up,
            progress=engine.progress,
            gradient_average=engine.gradient_average,
            gain_average=engine.gain_average,
        )

    return (
        Arm("plain", augmented=False),
        Arm(PLAIN, augmented=False, rows="all"),
        Arm("upstream"),
        Arm(UPSTREAM, rows="all", watched=True),
        Arm(EARLY, rows="all", watched=True, early=True),
        Arm("upstream at equal seconds", rows="all", longer=step_cost),
        Arm("trusted rows only", rows="trusted"),
        Arm("soft bootstrapping", rows="all", bootstrap=0.2),
        Arm("L2RW", alike(l2rw()), rows="all"),
        Arm("Meta-Weight-Net", alike(meta_weight_net()), rows="all"),
        Arm(ENGINE, engine, rows="all"),
        # On permuted labels the validation loss does not fall, so the placebo begins by its steps alone.
        Arm("placebo", replace(engine, progress=0.0), rows="all", placebo=True),
    )
