"""How much faster does the acceptance model learn from whole sequences than from one copy of the prefix per decision?

The released code of the method trains on every prefix of a user's events as a sequence of its own, with one label. Here the
same model is trained both ways, on the simulator: once with all decisions of a sequence in one pass, once with prefix copies,
as many labels to an update, so that both see the same labels in as many updates. The copies are timed with the method's own
batch of 256 too. CPU seconds of one thread, without validation.
``python -m benchmarks.acceptance_training [--users N] [--epochs N] [--repeats N]``.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.results import ratios, spread, store
from rayworks.systems.recommendation.logs.events import EventLog, Windows
from rayworks.systems.recommendation.logs.sequences import Sequences, sequences
from rayworks.systems.recommendation.logs.simulator import Simulator, SimulatorOptions
from rayworks.systems.recommendation.measures.metrics import auc
from rayworks.systems.recommendation.models.acceptance import AcceptanceModel, AcceptanceOptions, predict
from rayworks.systems.recommendation.models.constraint import AcceptanceObjective
from rayworks.systems.recommendation.models.training import Trainer, TrainingOptions

LENGTH, ROWS, OWN_BATCH = 64, 256, 256
WINDOWS = Windows(test=3, valid=3)
RATE = 5e-3


def prefixes(rows: Sequences) -> Sequences:
    """A row for each scored place, which holds the events up to it and is scored there only."""
    source, place = rows.scored.nonzero(as_tuple=True)
    at = torch.arange(rows.item.shape[1])
    inside = at <= place[:, None]
    item, kind = (torch.where(inside, part[source], 0) for part in (rows.item, rows.kind))
    row = torch.where(inside, rows.row[source], -1)
    return Sequences(item, kind, row, at == place[:, None], rows.user[source], rows.past[source])


def trainer(log: EventLog, train: Sequences, batch: int, epochs: int, seed: int) -> Trainer[AcceptanceModel]:
    """Of the same model whatever the rows are; one row is for validation, whose result is not used."""
    options = AcceptanceOptions(len(log.items), LENGTH)
    training = TrainingOptions(epochs, batch, RATE, microbatches=1)
    valid = sequences(log, LENGTH, WINDOWS.valid_mask(log)).take(torch.arange(1))
    return Trainer(lambda: AcceptanceObjective(options), training, train, valid, seed=seed)


def train(trainer: Trainer[AcceptanceModel], epochs: int) -> float:
    """CPU seconds of some epochs."""
    started = time.process_time()
    for _ in range(epochs):
        trainer.epoch()
    return time.process_time() - started


def test_auc(trainer: Trainer[AcceptanceModel], log: EventLog) -> float:
    """AUC on each user's last decisions, of the model as it is."""
    wanted = WINDOWS.test_mask(log)
    found = predict(trainer.current(), sequences(log, LENGTH, wanted), len(log)).numpy()
    return auc((log.kind == 3)[wanted].astype(np.float64), found[wanted])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    values: dict[str, list[float]] = {
        name: [] for name in ("one_pass", "copies", "copies_own_batch", "auc_one_pass", "auc_copies")
    }
    for seed in range(options.repeats):
        log, _ = Simulator(SimulatorOptions(users=options.users), seed).log()
        whole = sequences(log.keep(WINDOWS.train_mask(log)), LENGTH)
        copies = prefixes(whole)
        labels = int(whole.scored.sum())
        per_update = ROWS * labels // len(whole)
        both = {
            "one_pass": trainer(log, whole, ROWS, options.epochs, seed),
            "copies": trainer(log, copies, per_update, options.epochs, seed),
        }
        for name, one in both.items():
            values[name].append(labels * options.epochs / train(one, options.epochs))
            values[f"auc_{name}"].append(test_auc(one, log))
        own = trainer(log, copies, OWN_BATCH, 1, seed)
        values["copies_own_batch"].append(labels / train(own, 1))
        print(f"repeat {seed + 1}: " + "  ".join(f"{k} {v[-1]:.4g}" for k, v in values.items()), flush=True)
    seen = f"{labels * options.epochs:,} labels"
    rows: dict[str, Sequence[float]] = {
        f"decisions learned from per CPU s, one pass over sequences, {options.users:,} users": values["one_pass"],
        "as prefix copies, equally many labels to an update": values["copies"],
        "as prefix copies, batches of 256": values["copies_own_batch"],
        "times as fast, equally many labels to an update (goal 20)": ratios(values["one_pass"], values["copies"]),
        "times as fast as with batches of 256 (goal 20)": ratios(values["one_pass"], values["copies_own_batch"]),
        f"test AUC after {seen}, one pass": values["auc_one_pass"],
        f"test AUC after {seen}, prefix copies": values["auc_copies"],
    }
    store("acceptance_training", __doc__ or "", rows, values)
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
