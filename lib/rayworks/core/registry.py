"""What a system declares about itself, and how one is found by name."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayworks.core.config import SystemConfig
from rayworks.core.errors import ConfigError


@dataclass(frozen=True)
class SystemSpec:
    """Everything a job, a sweep, a test or a page needs to know of a system before ray or torch is loaded."""

    name: str
    title: str
    paper: str
    config: type[SystemConfig]
    system: str
    """``"module:Class"`` of the ``runtime.System`` subclass."""
    smoke: Mapping[str, Any]
    """Dotted config field to value: the smallest run that is still real."""
    headline: tuple[str, ...]
    """The keys of ``report.json``'s ``headline``, all of them, in order."""
    optional_headline: tuple[str, ...] = ()
    """Keys that only some configs add to it; a sweep may compare its trials by them."""
    timed: frozenset[str] = frozenset()
    """Keys and table columns of the report that hold seconds or speeds: all that differs between two runs of a config."""
    figures: tuple[str, ...] = ()
    """File names under ``figures/`` that a finished run has."""
    needs: tuple[str, ...] = field(default=())
    """Data sets and models of the packaged catalogues that the smoke run reads."""

    def load_system(self) -> Any:
        """Import the system class (loads ray, and torch where the system needs it)."""
        return load(self.system)


def load(reference: str) -> Any:
    """The object named by ``"module:attribute"``."""
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def of_the_user(field: str, name: str, otherwise: str) -> Any:
    """The object of a user's own that a setting names as ``module:attribute``.

    Args:
        field: the setting.
        otherwise: what to say of a name that is none: what else it could be.

    Raises:
        ConfigError: it is no such name, or cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{field}: {name!r} {otherwise}")
    try:
        return load(name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{field}: {name!r} cannot be imported ({error}); put it on PYTHONPATH") from None


def on_demand(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose public names are imported when they are first asked for.

    Args:
        package: its name.
        names: each public name, and the module below the package that defines it.
    """

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return load(f"{package}.{names[name]}:{name}")

    return attribute


def find(registry: Mapping[str, str], name: str) -> SystemSpec:
    """The spec registered under ``name``.

    Raises:
        ConfigError: no such system.
    """
    if name not in registry:
        raise ConfigError(f"SYSTEM {name!r}: unknown; choose one of {', '.join(registry)}")
    spec: SystemSpec = load(registry[name])
    return spec
