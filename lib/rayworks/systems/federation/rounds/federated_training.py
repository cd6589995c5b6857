"""Run a federated training from first to last round, over any Flower grid, with exact resume."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rayworks.core.errors import DataError
from rayworks.core.seeds import stream
from rayworks.systems.federation.config import Config
from rayworks.systems.federation.data.examples import Examples, scaled
from rayworks.systems.federation.data.partitions import label_counts
from rayworks.systems.federation.messages.metered_grid import MeteredGrid
from rayworks.systems.federation.messages.records import to_arrays, to_record
from rayworks.systems.federation.privacy import update_clipping
from rayworks.systems.federation.privacy.secure_aggregation import secure_round
from rayworks.systems.federation.rounds.clients import task_of
from rayworks.systems.federation.rounds.pool_exchange import Members, ask
from rayworks.systems.federation.rounds.strategy import FederatedStrategy
from rayworks.systems.federation.training.aggregation import Arrays, ServerState, require_finite
from rayworks.systems.federation.training.sample_weighing import read_gradient, server_gradient

EVALUATION_BATCH = 2048
AS_DRAWN = "as drawn"
"""Mark in the reason of a client that failures.dropout keeps from answering."""
STATEFUL = ("scaffold", "moon", "feddyn")
"""Strategies whose clients remember something of their own."""


@dataclass(frozen=True)
class RoundRecord:
    """Record of a round."""

    round: int
    asked: int
    answered: int
    failed: int
    """Asked and without a good answer, whether drawn not to answer or broken."""
    rejected: int
    """Answers whose arrays were not usable."""
    stragglers: int
    bytes_down: int
    """From the server, with the pool's since the round before."""
    bytes_up: int
    seconds: float
    loss: float
    """Mean of the clients' mean losses, by their examples."""
    problem: str | None = None
    """What the first client that failed or was rejected says, unless it was drawn not to answer."""
    accuracy: float | None = None
    """Accuracy on held-out examples; None in rounds without evaluation."""
    recalls: tuple[float | None, ...] | None = None
    """Recalls by label; None for one without held-out examples."""
    client_accuracies: tuple[float | None, ...] | None = None
    """Accuracies by partition: its label shares times the recalls; None for a client without examples of a tested label."""
    pseudo_images: int = 0
    clip_bound: float | None = None
    epsilon: float | None = None
    """Epsilon of the updates so far; None without noise."""


class Federation:
    """A method's training on one seed.

    Args:
        config: config of one method.
        seed: draws the partition, cohorts, batches and pseudo-images.

    Raises:
        ConfigError: settings that do not go together.
        DataError: the data or the gradient file cannot be read.
    """

    def __init__(self, config: Config, seed: int) -> None:
        self.config, self.seed = config, seed
        self._task = task_of(config.model_dump_json(), seed)
        self._weights: Arrays = self._task.initial_weights()
        self.rounds_done = 0
        self._held_out, self._server_examples = self._divided(self._task.test)
        gradient = self._gradient if config.weighs_pseudo_images else None
        self.strategy = FederatedStrategy(config, seed, len(self._task.parts), gradient)
        self._restored: dict[int, dict[str, Arrays]] = {}
        self._pool_bytes = (0, 0)

    @property
    def partitions(self) -> list[NDArray[np.int64]]:
        """Indices of each client's training examples."""
        return list(self._task.parts)

    def weights(self) -> Arrays:
        """The global model's arrays."""
        return dict(self._weights)

    def start(self, grid: Grid) -> None:
        """Meet the clients, hand out pseudo-images, and give clients back what a loaded checkpoint remembers of them.

        Raises:
            DataError: clients do not answer, or are not of one federation.
        """
        metered = MeteredGrid(grid)
        members = self.strategy.join(metered, self.strategy.edition(max(self.rounds_done, 1)))
        privacy = self.config.privacy
        if privacy.clipping == "adaptive":
            update_clipping.adaptive_multiplier(privacy.noise_multiplier, len(self.strategy.cohort(1)))
        if self.rounds_done == 0:
            self._pool_bytes = (metered.down, metered.up)
        if self._restored:
            contents = {
                partition: RecordDict({name: to_record(arrays) for name, arrays in records.items()})
                for partition, records in self._restored.items()
            }
            _asked(metered, members, "train.restore", contents, "cannot take back its state")
            self._restored = {}

    def round(self, grid: Grid) -> RoundRecord:
        """Train one round; the model changes unless all who were asked were drawn not to answer.

        Raises:
            DataError: not started, nobody could train (with the first one's reason), or the model is no longer finite.
        """
        began, number = time.perf_counter(), self.rounds_done + 1
        metered, strategy = MeteredGrid(grid), self.strategy
        messages = list(strategy.configure_train(number, to_record(self._weights), ConfigRecord(), metered))
        if self.config.privacy.secure_aggregation:
            most = int(strategy.known.counts.sum(1).max())
            mean = secure_round(metered, messages, 1 if self.config.strategy.weighting == "equal" else most)
            self._weights = strategy.take_mean(number, *mean)
        else:
            arrays, _ = strategy.aggregate_train(number, metered.stream(messages))
            self._weights = to_arrays(arrays) if arrays is not None else self._weights
        self._require_somebody()
        require_finite(self._weights)
        self.rounds_done = number
        down, up = self._pool_bytes
        self._pool_bytes = (0, 0)
        tally, privacy = strategy.tally, self.config.privacy
        last = number == self.config.strategy.rounds
        evaluates = number % self.config.strategy.evaluate_every == 0 or last
        return RoundRecord(
            round=number,
            asked=len(tally.asked),
            answered=len(tally.answered),
            failed=len(tally.asked) - len(tally.answered),
            rejected=len(tally.rejected),
            stragglers=tally.stragglers,
            bytes_down=down + metered.down,
            bytes_up=up + metered.up,
            seconds=time.perf_counter() - began,
            loss=tally.loss,
            problem=next(iter(self._problems()), None),
            pseudo_images=strategy.pseudo_images,
            clip_bound=strategy.bound if privacy.clipping != "none" else None,
            epsilon=self._epsilon() if privacy.noise_multiplier else None,
            **(self.evaluation() if evaluates else {}),
        )

    def evaluation(self) -> dict[str, Any]:
        """Held-out ``accuracy``, ``recalls`` by label and ``client_accuracies`` of the global model."""
        predicted, tested = self._predict(self._held_out.inputs), self._held_out.counts()
        hits = self._held_out.labels[predicted == self._held_out.labels]
        recalls = np.bincount(hits, minlength=self._task.classes) / np.maximum(tested, 1)
        owned = label_counts(self._task.train, self._task.parts) * (tested > 0)
        shares = owned / np.maximum(owned.sum(1, keepdims=True), 1)
        found: dict[str, Any] = {"accuracy": len(hits) / max(len(predicted), 1)}
        measured = {"recalls": (recalls, tested), "client_accuracies": (shares @ recalls, owned.sum(1))}
        for name, (values, counts) in measured.items():
            found[name] = tuple(float(v) if count else None for v, count in zip(values, counts, strict=True))
        return found

    def save(self, folder: Path, grid: Grid) -> None:
        """Write all that the next round needs: the model, the server's and the clients' states.

        Pseudo-images are not written: they follow from the seed.

        Raises:
            DataError: a client does not tell its state.
        """
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._weights, folder / "weights.safetensors")
        save_file(self.strategy.state.variate, folder / "server.safetensors")
        clients: dict[str, NDArray[Any]] = {}
        if self.config.strategy.name in STATEFUL:
            known = self.strategy.known
            asked = {partition: RecordDict() for partition in known.nodes}
            for partition, content in _asked(grid, known, "query.state", asked, "does not tell its state").items():
                for record, arrays in content.array_records.items():
                    clients.update({f"{partition}/{record}/{name}": v for name, v in to_arrays(arrays).items()})
        save_file(clients, folder / "clients.safetensors")
        state = {"round": self.rounds_done, "bound": self.strategy.bound}
        (folder / "state.json").write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Take up a saved training; call :meth:`start` after it.

        Raises:
            DataError: the folder holds no training of this model.
        """
        try:
            state = json.loads((folder / "state.json").read_text())
            weights, server, clients = (
                load_file(folder / f"{name}.safetensors") for name in ("weights", "server", "clients")
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise DataError(f"checkpoint {folder}: cannot be read ({error}); resume from another one") from None
        if {name: value.shape for name, value in weights.items()} != {
            name: value.shape for name, value in self._weights.items()
        }:
            raise DataError(f"checkpoint {folder}: holds another model; resume with the config that it was made with")
        self._weights, self.strategy.state = weights, ServerState(server)
        self.rounds_done, self.strategy.bound = int(state["round"]), float(state["bound"])
        self._restored = {}
        for key, value in clients.items():
            partition, record, name = key.split("/", 2)
            self._restored.setdefault(int(partition), {}).setdefault(record, {})[name] = value

    def _problems(self) -> list[str]:
        """Reasons of clients that failed without being drawn to, by partition."""
        tally = self.strategy.tally
        told = {**tally.failed, **tally.rejected}
        return [f"client {partition}: {reason}" for partition, reason in sorted(told.items()) if AS_DRAWN not in reason]

    def _require_somebody(self) -> None:
        tally, problems = self.strategy.tally, self._problems()
        if problems and len(tally.rejected) + len(tally.failed) == len(tally.asked):
            raise DataError(
                f"round {self.rounds_done + 1}: none of {len(tally.asked)} clients could train; {problems[0]}"
            )

    def _divided(self, test: Examples) -> tuple[Examples, Examples]:
        """Examples to evaluate on, and those that the server may learn from."""
        if not self.config.weighs_pseudo_images or self.config.balance.gradient_file is not None:
            return test, test.take(np.zeros(0, np.int64))
        wanted = self.config.balance.server_examples
        if wanted >= len(test):
            raise DataError(
                f"balance.server_examples: {wanted} of {len(test)} held-out examples leave none to evaluate on; lower it"
            )
        order = stream(self.seed, "server-examples").permutation(len(test))
        return test.take(np.sort(order[wanted:])), test.take(np.sort(order[:wanted]))

    def _gradient(self, weights: Arrays) -> Arrays:
        model, file = self._task.model(weights), self.config.balance.gradient_file
        if file is not None:
            found = read_gradient(file, model)
        else:
            inputs = torch.from_numpy(scaled(self._server_examples.inputs))
            found = server_gradient(model, inputs, torch.from_numpy(self._server_examples.labels))
        return {name: value.numpy() for name, value in found.items()}

    def _predict(self, inputs: NDArray[Any]) -> NDArray[np.int64]:
        model = self._task.model(self._weights).eval()
        found = [np.zeros(0, np.int64)]
        with torch.no_grad():
            for start in range(0, len(inputs), EVALUATION_BATCH):
                logits = model(torch.from_numpy(scaled(inputs[start : start + EVALUATION_BATCH])))
                found.append(logits[:, : self._task.classes].argmax(1).numpy())
        return np.concatenate(found)

    def _epsilon(self) -> float:
        privacy = self.config.privacy
        rate = len(self.strategy.cohort(1)) / len(self.strategy.known.nodes)
        return update_clipping.epsilon(privacy.noise_multiplier, rate, self.rounds_done, privacy.delta)


def _asked(
    grid: Grid, members: Members, kind: str, contents: Mapping[int, RecordDict], failure: str
) -> dict[int, RecordDict]:
    """Answers of clients by partition, each asked with contents of its own; none may be missing."""
    messages = [Message(content, members.nodes[at], kind, group_id="0") for at, content in contents.items()]
    answers = ask(grid, messages, members.partition_of)
    if missing := contents.keys() - answers.keys():
        raise DataError(f"client {min(missing)}: {failure}; see its log")
    return answers
