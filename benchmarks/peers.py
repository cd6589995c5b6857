"""Peers that are not in our environment: a folder or an environment of their own below ``.venv-peers``, filled when first
asked for.
"""

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rayworks.core.errors import InfrastructureError

FOLDER = Path(__file__).resolve().parent.parent / ".venv-peers"


def module(name: str, requirement: str) -> ModuleType:
    """A peer that runs beside ours: from our environment, or from a folder of its own, without its dependencies.

    Raises:
        InfrastructureError: it can not be installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        folder = FOLDER / name
        if not folder.exists():
            _install([sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)], [requirement])
        sys.path.append(str(folder))
        importlib.invalidate_caches()
        return importlib.import_module(name)


def environment(name: str, requirements: list[str], alone: Sequence[str] = ()) -> Path:
    """The interpreter of a peer whose dependencies are not compatible with ours.

    Args:
        name: of its folder.
        requirements: installed with their dependencies.
        alone: installed without, for packages that pin what can no longer be had.

    Raises:
        InfrastructureError: it can not be installed.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        if subprocess.run([sys.executable, "-m", "venv", str(folder)], check=False).returncode:
            raise InfrastructureError(f"{folder}: no environment can be made there")
        _install([str(python), "-m", "pip", "install"], requirements)
        if alone:
            _install([str(python), "-m", "pip", "install", "--no-deps"], list(alone))
    return python


def _install(command: list[str], requirements: list[str]) -> None:
    if subprocess.run([*command, "--quiet", *requirements], check=False).returncode:
        raise InfrastructureError(f"{', '.join(requirements)}: can not be installed") from None
