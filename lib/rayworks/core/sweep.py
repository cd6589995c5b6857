"""A sweep without Ray: its YAML, its designs, and the trials they make.

A design is one value for each varied field; a trial is one run of a design with one seed.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from rayworks.core import config as configs
from rayworks.core import seeds
from rayworks.core.config import ConfigT, Section
from rayworks.core.errors import ConfigError
from rayworks.core.registry import SystemSpec

OWN_FIELDS = {"run.seed": "use seeds", "run.name": "the sweep names its trials", "run.storage": "set it in base"}
"""Fields that a space cannot vary, and what to do instead."""
SMOKE = "smoke"
"""Key of a sweep's YAML whose settings ``--smoke`` puts over the others: fewer designs, another name."""
METRICS = 2
"""The most metrics a sweep compares designs by; two make a Pareto front."""


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Dimension(Section):
    """Source of one field's values; exactly one of these."""

    grid: list[Any] | None = Field(None, min_length=1, description="every one of these")
    choice: list[Any] | None = Field(None, min_length=1, description="one of these at random")
    uniform: tuple[float, float] | None = Field(None, description="a number between the two")
    loguniform: tuple[float, float] | None = Field(None, description="a number whose logarithm is between theirs")
    randint: tuple[int, int] | None = Field(None, description="a whole number between the two, both included")

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"space: each field takes exactly one of {', '.join(type(self).model_fields)}")
        ends = self.uniform or self.loguniform or self.randint
        if ends and not ends[0] < ends[1]:
            raise ValueError(f"{kinds[0]}: {list(ends)} is empty; give the smaller number first")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: {self.loguniform[0]} has no logarithm; start above 0")
        return self

    @property
    def values(self) -> list[Any]:
        """The values listed, empty for a range."""
        return self.grid or self.choice or []

    @property
    def ends(self) -> list[Any]:
        """The values listed, or the ends of the range: all must be legal."""
        return self.values or list(self.uniform or self.loguniform or self.randint or ())

    def at(self, uniform: float) -> Any:
        """The value at a uniform in [0, 1)."""
        if self.values:
            return self.values[int(uniform * len(self.values))]
        if self.randint:
            low, high = self.randint
            return low + int(uniform * (high - low + 1))
        if self.loguniform:
            low_log, high_log = map(math.log, self.loguniform)
            return float(math.exp(low_log + uniform * (high_log - low_log)))
        start, end = self.uniform or (0.0, 1.0)
        return float(start + uniform * (end - start))


class Halving(Section):
    """Asynchronous successive halving (ASHA, Li et al. 2020): trials that fall behind at a rung are stopped there."""

    metric: str = Field("valid_loss", description="number that the trials report while they run")
    mode: Literal["min", "max"] = Field("min", description="whether small or large is good")
    time: str = Field("epoch", description="number they report that says how far they are")
    first: int = Field(4, ge=1, description="time of the first rung")
    reduction: float = Field(
        3.0,
        gt=1,
        description="reduction factor: one trial in so many continues at each rung, and rungs are so many times apart",
    )
    last: int = Field(1000, ge=2, description="time at which any trial is stopped")


class SweepConfig(Section):
    """A sweep's YAML."""

    base: dict[str, Any] = Field(
        {}, description="settings of the system that all trials share; what differs from its defaults"
    )
    space: dict[str, Dimension] = Field(min_length=1, description="section.field to where its values come from")
    search: Literal["grid", "random", "optuna"] = Field(
        "grid", description="all combinations, independent draws, or draws that learn from the finished trials"
    )
    samples: int | None = Field(None, ge=1, description="designs to draw, for random and optuna")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        (), description="run.seed of each repetition of a design; empty for the base's alone"
    )
    metric: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        min_length=1, max_length=METRICS, description="headline number to compare designs by; the first decides"
    )
    mode: Annotated[tuple[Literal["min", "max"], ...], BeforeValidator(_listed)] = Field(
        ("max",), min_length=1, max_length=METRICS, description="whether small or large is good, per metric"
    )
    concurrent: int = Field(0, ge=0, description="trials at once; 0 for as many as the cluster holds")
    asha: Halving | None = Field(None, description="stop trials early that fall behind; not with optuna")

    @model_validator(mode="after")
    def _check(self) -> "SweepConfig":
        if len(self.mode) != len(self.metric):
            raise ValueError(f"mode: {len(self.mode)} given for {len(self.metric)} metrics; give min or max for each")
        if (self.search == "grid") != (self.samples is None):
            wrong = "needs a number of designs" if self.samples is None else "is not for a grid; drop it"
            raise ValueError(f"samples: {wrong} (search is {self.search})")
        if self.asha is not None and self.search == "optuna":
            raise ValueError("asha: optuna learns from finished trials only; set search: random, or drop asha")
        ranges = [name for name, dimension in self.space.items() if not dimension.values]
        if self.search == "grid" and ranges:
            raise ValueError(f"space.{ranges[0]}: a range has no grid; list values under grid, or set search: random")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: holds a seed twice; a repetition with the same seed repeats the result")
        return self

    def designs(self, seed: int) -> list[dict[str, Any]]:
        """The designs of a grid, or those drawn at random; a longer draw begins with the shorter one's."""
        if self.search == "grid":
            columns = [dimension.values for dimension in self.space.values()]
            return [dict(zip(self.space, row, strict=True)) for row in itertools.product(*columns)]
        draws = {name: seeds.uniforms(seed, self.samples or 0, "sweep", name) for name in self.space}
        return [
            {name: dimension.at(draws[name][index]) for name, dimension in self.space.items()}
            for index in range(self.samples or 0)
        ]


@dataclass(frozen=True)
class Trial(Generic[ConfigT]):
    """One run of a design."""

    design: int
    seed: int
    values: Mapping[str, Any]
    config: ConfigT

    @property
    def name(self) -> str:
        """Folder of the trial below ``trials/``."""
        return trial_name(self.design, self.seed)


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended."""

    name: str
    design: int
    seed: int
    values: Mapping[str, Any]
    directory: str
    """Path or URI of its run directory."""
    report: Mapping[str, Any] | None = None
    """Its ``report.json``; ``None`` if it did not finish."""
    failure: str = ""
    """``kind: message`` of what stopped it."""
    retriable: bool = field(default=False)
    stopped: str = ""
    """When and where it was, if it fell behind others and was stopped early."""

    @property
    def headline(self) -> Mapping[str, Any]:
        """Its headline numbers; empty if it did not finish."""
        return self.report["headline"] if self.report else {}


@dataclass(frozen=True)
class Sweep(Generic[ConfigT]):
    """A sweep of one system, validated."""

    spec: SystemSpec
    settings: SweepConfig
    base: ConfigT

    @property
    def seeds(self) -> Sequence[int]:
        """Seeds of each design's repetitions."""
        return self.settings.seeds or (self.base.run.seed,)

    @property
    def planned(self) -> int:
        """Number of trials once all designs are known."""
        designs = self.settings.samples or math.prod(
            len(dimension.values) for dimension in self.settings.space.values()
        )
        return designs * len(self.seeds)

    def trial(self, design: int, seed: int, values: Mapping[str, Any]) -> Trial[ConfigT]:
        """The trial of a design.

        Raises:
            ConfigError: the design is not a valid config of the system.
        """
        name = f"{self.base.run.name}.{trial_name(design, seed)}"
        overrides = {**values, "run.seed": seed, "run.name": name}
        config = configs.resolve(type(self.base), file=configs.layer_of(self.base), overrides=overrides)
        return Trial(design, seed, values, config)

    def trials(self) -> list[Trial[ConfigT]]:
        """All trials of a grid or of random draws, design by design; none for a search that learns.

        Raises:
            ConfigError: a design is not a valid config of the system.
        """
        if self.settings.search == "optuna":
            return []
        designs = enumerate(self.settings.designs(self.base.run.seed))
        return [self.trial(index, seed, values) for index, values in designs for seed in self.seeds]


def trial_name(design: int, seed: int) -> str:
    """``0003-seed-1``."""
    return f"{design:04d}-seed-{seed}"


def read_sweep(
    spec: SystemSpec, file: Path, *, smoke: bool = False, overrides: Mapping[str, Any] | None = None
) -> Sweep[Any]:
    """A sweep from its YAML, with every field of its space looked up in the system's config and its bounds.

    Args:
        spec: the system.
        file: the YAML.
        smoke: put the system's smoke values under the base, and what the file has under ``smoke`` over the rest of it.
        overrides: dotted field to value, above the base.

    Raises:
        ConfigError: with one line per problem, each naming the field.
    """
    values = configs.read_yaml(file)
    smaller = values.pop(SMOKE, {})
    if smoke and isinstance(smaller, Mapping):
        configs.merge(values, smaller, SweepConfig)
    try:
        settings = SweepConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{file}: {configs.explain(error, SweepConfig)}") from None
    base = configs.resolve(spec.config, smoke=spec.smoke if smoke else None, file=settings.base, overrides=overrides)
    for name, dimension in settings.space.items():
        if name in OWN_FIELDS:
            raise ConfigError(f"space.{name}: cannot be varied; {OWN_FIELDS[name]}")
        if name in (overrides or {}):
            raise ConfigError(f"--{name}: the sweep varies it; drop the option or take the field out of space")
        if settings.search == "optuna":
            for value in dimension.ends:
                configs.resolve(spec.config, file=configs.layer_of(base), overrides={name: value})
    numbers = (*spec.headline, *spec.optional_headline)
    unknown = [metric for metric in settings.metric if metric not in numbers]
    if unknown:
        raise ConfigError(
            f"metric: {unknown[0]!r} is not a headline number of {spec.name}; one of {', '.join(numbers)}"
        )
    sweep = Sweep(spec, settings, base)
    sweep.trials()
    return sweep
