"""How fast does our SASRec learn MovieLens-100k, and does it rank as well as RecBole's?

The peer is RecBole 1.2.1 with its defaults, in an environment of its own, for it was written for older numpy and torch. Each
user's last item is ranked among all 1,682, seen ones too; the one before it chooses the epoch. A sample is one predicted
place; CPU seconds of one thread, of updates alone. RecBole makes a sequence of each sample, ours learns all samples of a
sequence in one pass. Its complete training takes hours, so it is kept in ``.venv-peers/recbole-sasrec`` and taken from there
the next time. Intervals are of 943 resampled users.
``python -m benchmarks.next_item [--epochs N] [--peer-epochs N] [--peer-batches N] [--repeats N] [--seeds N]``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import peers
from benchmarks.results import ratios, spread, store
from rayworks.systems.recommendation.logs.sequences import Sequences
from rayworks.systems.recommendation.measures.estimates import Bootstrap, SumOfRatios, estimate_all
from rayworks.systems.recommendation.measures.metrics import hit_rate, ndcg
from rayworks.systems.recommendation.models.next_item import (
    NextItemModel,
    NextItemObjective,
    NextItemOptions,
    natural_sequences,
    rank_held_out,
)
from rayworks.systems.recommendation.models.training import Trainer, TrainingOptions
from rayworks.systems.recommendation.sources import read_sequences

PEER = ["recbole==1.2.1"]
"""Installed without dependencies, for it pins old ones; these are what it imports."""
PEER_NEEDS = (
    "torch==2.13.0 numpy scipy pandas tqdm colorlog pyyaml scikit-learn tensorboard thop tabulate plotly texttable psutil "
    "colorama setuptools"
).split()
KEPT = peers.FOLDER / "recbole-sasrec"
SOURCE = "movielens-100k"
HELD_OUT = 2
LENGTH, WIDTH, LAYERS, HEADS, DROPOUT = 50, 64, 2, 2, 0.5
BATCH, RATE = 64, 1e-3


def trainer(items: int, train: Sequences, valid: Sequences, epochs: int, seed: int) -> Trainer[NextItemModel]:
    """Of a SASRec as large as RecBole's default."""
    options = NextItemOptions(items, LENGTH, "attention", WIDTH, LAYERS, HEADS, DROPOUT)
    training = TrainingOptions(epochs, BATCH, RATE, microbatches=1)
    return Trainer(lambda: NextItemObjective(options), training, train, valid, seed=seed)


def ours_per_second(items: int, train: Sequences, valid: Sequences, seed: int) -> float:
    """Samples per CPU second of one epoch after the first, with a single row to validate."""
    one = trainer(items, train, valid.take(torch.arange(1)), 2, seed)
    one.epoch()
    started = time.process_time()
    one.epoch()
    return int(train.scored.sum()) / (time.process_time() - started)


def recbole(python: Path, what: str, target: Path, count: int) -> dict[str, Any]:
    """What ``recbole_sasrec.py`` found."""
    script = Path(__file__).with_name("recbole_sasrec.py")
    subprocess.run(
        [str(python), "-W", "ignore", str(script), what, str(target), str(count)],
        check=True,
        cwd=target.parent,
        env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"},
    )
    found: dict[str, Any] = json.loads(target.read_text())
    return found


def recbole_trained(python: Path, epochs: int) -> dict[str, Any]:
    """RecBole's training, the kept one if there is one."""
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / "result.json"
    if not kept.exists():
        recbole(python, "quality", KEPT / "running.json", epochs)
        (KEPT / "running.json").replace(kept)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def quality(rank: np.ndarray) -> dict[str, list[float]]:
    """NDCG@10 and HR@10 with their intervals over users."""
    hit = rank <= 10
    forms = {
        "ndcg@10": SumOfRatios(np.where(hit, 1 / np.log2(rank + 1), 0)[None]),
        "hr@10": SumOfRatios(hit[None] * 1.0),
    }
    found = estimate_all(forms, Bootstrap(2000, 0))
    return {name: [one.value, one.low, one.high] for name, one in found.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--peer-epochs", type=int, default=300)
    parser.add_argument("--peer-batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    python = peers.environment("recbole", PEER_NEEDS, PEER)
    log = read_sequences(SOURCE)
    items = len(log.items)
    train, valid = natural_sequences(log, LENGTH + 1, HELD_OUT)
    speeds: dict[str, list[float]] = {"ours": [], "recbole": []}
    for repeat in range(options.repeats):
        speeds["ours"].append(ours_per_second(items, train, valid, repeat))
        with tempfile.TemporaryDirectory() as folder:
            found = recbole(python, "speed", Path(folder) / "found.json", options.peer_batches)
        speeds["recbole"].append(found["samples_per_second"])
        print(f"repeat {repeat + 1}: " + "  ".join(f"{k} {v[-1]:.0f}" for k, v in speeds.items()), flush=True)
    peer = recbole_trained(python, options.peer_epochs)
    theirs = quality(np.array(peer["test_rank"], float))
    ndcgs, hits, epochs, seconds = [], [], [], []
    for seed in range(options.seeds):
        one = trainer(items, train, valid, options.epochs, seed)
        started = time.process_time()
        while not one.finished:
            one.epoch()
        seconds.append(time.process_time() - started)
        rank = rank_held_out(one.trained(), log)
        ndcgs.append(ndcg(rank, 10))
        hits.append(hit_rate(rank, 10))
        epochs.append(one.progress.best_epoch)
        print(f"seed {seed}: NDCG@10 {ndcgs[-1]:.4f}, epoch {epochs[-1]}, {seconds[-1]:.0f} CPU s", flush=True)
    low, high = theirs["ndcg@10"][1:]
    said = f"best of {peer['epochs']} epochs, the {peer['best_epoch']}th"
    rows: dict[str, Sequence[float]] = {
        "samples per CPU s, ours": speeds["ours"],
        "samples per CPU s, RecBole 1.2.1": speeds["recbole"],
        "times as many samples per CPU s (goal 2)": ratios(speeds["ours"], speeds["recbole"]),
        f"NDCG@10, ours (RecBole's interval is {low:.4f} to {high:.4f})": ndcgs,
        f"NDCG@10, RecBole, {said}": theirs["ndcg@10"][:1],
        "HR@10, ours": hits,
        f"HR@10, RecBole (interval {theirs['hr@10'][1]:.4f} to {theirs['hr@10'][2]:.4f})": theirs["hr@10"][:1],
        "CPU s to the end of the training, ours": seconds,
        f"CPU s of updates, RecBole, {peer['epochs']} epochs with a shorter last layer and compiled": [
            sum(peer["seconds"])
        ],
    }
    values = {"samples_per_second": speeds, "ndcg@10": ndcgs, "best_epochs": epochs, "recbole": theirs, "peers": PEER}
    store("next_item", __doc__ or "", rows, {**values, "recbole_settings": peer["settings"]})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
