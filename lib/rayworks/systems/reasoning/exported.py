"""The export: the policy that came out, the head that tells right answers from wrong ones, and how they search."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayworks.core.exports import Write, reading
from rayworks.core.run_directory import EXPORT, RunDirectory
from rayworks.systems.reasoning.config import Config, SearchSection, TaskSection
from rayworks.systems.reasoning.findings import share

REASONING, POLICY, HEAD = "reasoning.json", "policy", "head"


@dataclass(frozen=True)
class ExportedPolicy:
    """What a folder holds beside the policy's and the head's weights."""

    policy: str
    """``policy``, the folder beside it, or the name of a model that nothing was learned of."""
    head: bool
    """Whether the folder holds a head; without one answers are chosen by vote alone."""
    dtype: str
    task: TaskSection
    search: SearchSection
    seed: int

    @classmethod
    def of(cls, config: Config, policy: str, head: Path | None, directory: RunDirectory) -> "ExportedPolicy":
        """Copy the weights into the export of a run."""
        trained = policy != config.model.policy
        if trained:
            directory.put_folder(Path(policy), f"{EXPORT}/{POLICY}")
        if head is not None:
            directory.put_folder(head, f"{EXPORT}/{HEAD}")
        name = POLICY if trained else policy
        return cls(name, head is not None, config.model.dtype, config.task, config.search, config.run.seed)

    def policy_of(self, folder: Path) -> str:
        """What to load from an export folder."""
        return str(folder / POLICY) if self.policy == POLICY else self.policy


def write_export(exported: ExportedPolicy, write: Write) -> None:
    """Write ``reasoning.json``."""
    values = {
        **vars(exported),
        "task": exported.task.model_dump(mode="json"),
        "search": exported.search.model_dump(mode="json"),
    }
    write(REASONING, json.dumps(values, indent=2).encode())


def read_export(folder: str | Path) -> ExportedPolicy:
    """Read what :func:`write_export` wrote.

    Raises:
        DataError: the file is missing or damaged, or weights are not beside it.
    """
    with reading(folder, "reasoning") as path:
        values = json.loads((path / REASONING).read_text())
        sections = {"task": TaskSection(**values["task"]), "search": SearchSection(**values["search"])}
        exported = ExportedPolicy(**{**values, **sections})
        for name, wanted in ((POLICY, exported.policy == POLICY), (HEAD, exported.head)):
            if wanted and not (path / name).is_dir():
                raise FileNotFoundError(f"its {name} is missing")
        return exported


def model_card(config: Config, results: Mapping[str, Any]) -> str:
    """The README of the export."""
    greedy = results["greedy"]
    last = str(len(results["kept"]))
    before, after = (share(greedy[number]["test"]) for number in ("0", last))
    accuracy = f"Greedy accuracy on {config.task.count_test} test questions: {before:.3f} before, {after:.3f} after."
    kept = ", ".join(one or "none" for one in results["kept"]) or "none"
    return (
        f"# Policy of run {config.run.name}\n\n"
        f"Searched and taught by AlphaLLM-CPL (arXiv 2410.06508) on {config.task.name}, from `{config.model.policy}`. Arms "
        f"kept by round: {kept}. {accuracy if config.task.count_test else 'Nothing was measured.'}\n\n"
        "`policy/` loads with transformers; `head/` is a model of the same ids with a scalar head, `head.safetensors`, whose "
        "sigmoid is the chance that an answer is right. Neither knows anything but this task. Seed "
        f"{config.run.seed}.\n"
    )
