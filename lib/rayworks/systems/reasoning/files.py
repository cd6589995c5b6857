"""Where a run keeps what its stages hand on: policies, trees, pairs, arms. Whatever is here is finished, and read again."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rayworks.core.run_directory import RunDirectory
from rayworks.systems.reasoning.config import RECIPE, Arm, Config
from rayworks.systems.reasoning.learning.pairs import StepPair
from rayworks.systems.reasoning.search import records
from rayworks.systems.reasoning.search.requests import Completion
from rayworks.systems.reasoning.search.scheduler import Search

JOURNAL_SECONDS = 20.0
"""Between two writings of what a piece has drawn: the work that a dead worker loses at most."""


class Files:
    """The files of one run, by round."""

    HEAD, STEP_HEAD = "head", "step-head"

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        self._config, self._directory = config, directory
        self._scratch = tempfile.TemporaryDirectory()

    def policy(self, number: int) -> str:
        """The policy that a round searches with: a folder on this machine, or the name in the config.

        Where a round kept none, that is the policy it began with.
        """
        while number and not self._directory.exists(self.policy_folder(number)):
            number -= 1
        if number == 0 and self._config.model.policy != RECIPE:
            return self._config.model.policy
        return self._local(self.policy_folder(number))

    def policy_folder(self, number: int) -> str:
        """Its place in the run."""
        return f"policies/round-{number}"

    def head(self) -> Path | None:
        """The head that was trained, with its model."""
        return Path(self._local(self.HEAD)) if self._directory.exists(self.HEAD) else None

    def step_head(self) -> Path | None:
        """The head that was trained on labelled steps, with its model."""
        return Path(self._local(self.STEP_HEAD)) if self._directory.exists(self.STEP_HEAD) else None

    def write_trees(self, name: str, trees: Sequence[records.Record]) -> None:
        """A piece of a round's trees."""
        self._directory.write(f"trees/{name}.jsonl", records.written(trees))

    def trees(self, number: int) -> list[dict[str, Any]]:
        """All trees of a round's search, in the order of its questions."""
        return self.trees_of(f"round-{number}")

    def trees_of(self, name: str) -> list[dict[str, Any]]:
        """All trees of a folder of pieces."""
        folder, found = f"trees/{name}", []
        for file in self._directory.list(folder):
            if file.endswith(".jsonl"):
                found += records.read(self._directory.read(f"{folder}/{file}").decode(), f"{folder}/{file}")
        return found

    def write_pairs(self, number: int, pairs: Sequence[StepPair]) -> None:
        """A round's pairs, one JSON object per line."""
        lines = [json.dumps(pair.as_dict()) + "\n" for pair in pairs]
        self._directory.write(f"pairs/round-{number}.jsonl", "".join(lines))

    def pairs(self, number: int) -> list[StepPair]:
        """What :meth:`write_pairs` wrote."""
        text = self._directory.read(f"pairs/round-{number}.jsonl").decode()
        return [StepPair.from_dict(json.loads(line)) for line in text.splitlines()]

    def states(self, number: int, arm: Arm) -> str:
        """Folder of an arm's training states."""
        return f"{self._arm(number, arm)}/states"

    def epochs(self, number: int, arm: Arm) -> list[dict[str, Any]]:
        """What is known of an arm's epochs; the state of the last of them is kept."""
        name = f"{self._arm(number, arm)}/epochs.json"
        return list(self._directory.read_json(name)) if self._directory.exists(name) else []

    def write_epochs(self, number: int, arm: Arm, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Note what an arm's epochs came to."""
        self._directory.write_json(f"{self._arm(number, arm)}/epochs.json", list(epochs))

    def arm(self, number: int, arm: Arm) -> dict[str, Any] | None:
        """What an arm came to, where it is finished."""
        name = f"{self._arm(number, arm)}/result.json"
        return dict(self._directory.read_json(name)) if self._directory.exists(name) else None

    def write_arm(self, number: int, arm: Arm, found: dict[str, Any]) -> dict[str, Any]:
        """Note that an arm is finished; its states are no longer needed."""
        self._directory.write_json(f"{self._arm(number, arm)}/result.json", found)
        self._directory.remove_folder(self.states(number, arm))
        return found

    def arm_policy(self, number: int, arm: Arm) -> str:
        """The policy of an arm's best epoch, as a folder on this machine."""
        return self._local(f"{self._arm(number, arm)}/policy")

    def write_policy(self, number: int, arm: Arm, folder: Path) -> None:
        """Keep a policy as that of an arm."""
        self._directory.put_folder(folder, f"{self._arm(number, arm)}/policy")

    def take_over(self, number: int, arm: Arm) -> None:
        """Make an arm's policy that of the next round."""
        self._directory.put_folder(Path(self.arm_policy(number, arm)), self.policy_folder(number + 1))

    def _arm(self, number: int, arm: Arm) -> str:
        return f"arms/round-{number}/{arm}"

    def _local(self, folder: str) -> str:
        return str(self._directory.get_folder(folder, Path(self._scratch.name) / folder))


class Journal:
    """What a piece of a search has drawn so far, written now and then, so that a repetition need not draw it again."""

    def __init__(self, directory: RunDirectory, name: str) -> None:
        self._directory, self._name = directory, name
        self._written = time.monotonic()

    def read(self) -> dict[str, dict[str, Completion]]:
        """By question and draw."""
        if not self._directory.exists(self._name):
            return {}
        return {
            uid: {
                key: Completion(tuple(tokens), tuple(logprobs), ended)
                for key, (tokens, logprobs, ended) in draws.items()
            }
            for uid, draws in self._directory.read_json(self._name).items()
        }

    def keep(self, searches: Callable[[], Sequence[Search]]) -> None:
        """Write what has been drawn, where the last time is long enough ago."""
        if time.monotonic() - self._written < JOURNAL_SECONDS:
            return
        drawn = {
            search.question.uid: {
                key: [list(one.tokens), list(one.logprobs), one.ended] for key, one in search.journal.items()
            }
            for search in searches()
        }
        self._directory.write(self._name, json.dumps(drawn))
        self._written = time.monotonic()

    def remove(self) -> None:
        """The piece is finished."""
        if self._directory.exists(self._name):
            self._directory.remove_folder(self._name)
