"""Where a run keeps what its stages hand on. Whatever is here is finished, and read again."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayworks.core.run_directory import RunDirectory
from rayworks.systems.supervision.boosting.chain import Arm, Chain
from rayworks.systems.supervision.tracks import Track

CHAIN = "chain.npz"


class Files:
    """The files of one run, by seed."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._scratch = tempfile.TemporaryDirectory()

    def chain(self, seed: int, arm: Arm) -> Chain | None:
        """A chain as it was last kept."""
        where = f"{_chain(seed, arm)}/{CHAIN}"
        return Chain.from_bytes(self._directory.read(where)) if self._directory.exists(where) else None

    def keep_chain(self, seed: int, chain: Chain, fitted: dict[int, Any], save: Callable[[Any, Path], None]) -> None:
        """Keep newly fitted experts by their numbers, and then the chain, so that no expert of it can be missing."""
        if fitted:
            with tempfile.TemporaryDirectory() as scratch:
                for number, expert in fitted.items():
                    folder = Path(scratch) / f"{number:05d}"
                    folder.mkdir()
                    save(expert, folder)
                first = min(fitted)
                self._directory.put_folder(Path(scratch), f"{_chain(seed, chain.arm)}/experts/{first:05d}")
        self._directory.write(f"{_chain(seed, chain.arm)}/{CHAIN}", chain.to_bytes())

    def expert_folders(self, seed: int, arm: Arm) -> list[Path]:
        """Of the experts that vote, in order, on this machine."""
        chain = self.chain(seed, arm)
        assert chain is not None
        where = f"{_chain(seed, arm)}/experts"
        found: dict[int, Path] = {}
        for part in sorted(name for name in self._directory.list(where) if name.isdigit()):
            local = Path(self._scratch.name) / f"{seed}-{arm}-{part}"
            whole = local if local.exists() else self._directory.get_folder(f"{where}/{part}", local)
            found |= {int(folder.name): folder for folder in whole.iterdir() if folder.name.isdigit()}
        return [found[one.number] for one in chain.kept] or [found[0]]

    def experts(self, seed: int, arm: Arm, track: Track) -> list[Any]:
        """The experts that vote; the first of all where none does."""
        return [track.load_expert(folder) for folder in self.expert_folders(seed, arm)]

    def keep_labels(self, seed: int, name: str, data: bytes) -> None:
        """What an ensemble or a student says about a split, packed."""
        self._directory.write(f"labels/{seed}/{name}", data)

    def labels(self, seed: int, name: str) -> bytes:
        """What :meth:`keep_labels` kept."""
        return self._directory.read(f"labels/{seed}/{name}")


def _chain(seed: int, arm: Arm) -> str:
    return f"chains/{seed}/{arm}"
