"""How fast, and how right, are our item response models against the Python packages that estimate them?

The peers are ``py-irt`` 0.7.1 (variational, in an environment of its own, for it needs pandas<3) and ``girth`` 0.8.0
(marginal likelihood, in this process). CPU seconds of one thread; the same responses.
``python -m benchmarks.item_response [--repeats N] [--refits N]``.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.runtime.actor_pool import ActorPool
from rayworks.systems.difficulty.calibration import bootstrap_refit
from rayworks.systems.difficulty.item_response.curves import ItemParameters, Model, simulate
from rayworks.systems.difficulty.item_response.marginal_likelihood import fit
from rayworks.systems.difficulty.item_response.maximisation import FitOptions
from rayworks.systems.difficulty.item_response.standard_errors import standard_errors
from rayworks.systems.difficulty.responses.response_matrix import ByteMatrix, SparseMatrix, as_matrix
from rayworks.systems.difficulty.responses.response_store import Responses, from_matrix

GIRTH = "girth==0.8.0"
PY_IRT = ["py-irt==0.7.1", "torch==2.13.0"]
PRIORS = ("vague", "hierarchical")
"""Of py-irt; vague is its default. The hierarchical fit leaves the scale free and is compared standardised."""
CALL = 25
"""Refits in one call of an actor."""


def simulated(name: str, subjects: int, items: int, model: Model) -> tuple[ItemParameters, np.ndarray]:
    """B ~ N(0, 1.2**2), ln a ~ N(0, .3**2), abilities standardised so that the scale has no sampling error."""
    draw = seeds.stream(0, "benchmark", "item-response", name)
    b, a = draw.normal(0, 1.2, items), np.exp(draw.normal(0, 0.3, items))
    truth = ItemParameters.from_difficulty(model, b, 1.0 if model == "1PL" else a)
    ability = draw.normal(size=subjects)
    ability = (ability - ability.mean()) / ability.std()
    return truth, simulate(truth, ability, draw.random((subjects, items)))


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square error."""
    return float(np.sqrt(np.mean((np.asarray(found) - truth) ** 2)))


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of this process, for one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def fit_py_irt(python: Path, scores: np.ndarray, priors: str) -> dict[str, Any]:
    """The peer's estimates in the order of our items, with its CPU seconds of training."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "scores.jsonl", Path(folder) / "found.json"
        with source.open("w") as lines:
            for subject, row in enumerate(scores.tolist()):
                responses = {f"i{item}": score for item, score in enumerate(row)}
                lines.write(json.dumps({"subject_id": f"s{subject}", "responses": responses}) + "\n")
        script = Path(__file__).with_name("py_irt_fit.py")
        subprocess.run(
            [str(python), str(script), str(source), str(target), priors],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"},
        )
        found: dict[str, Any] = json.loads(target.read_text())
    order = np.argsort(found["order"])
    ability = np.array(found["ability"])
    difficulty = np.array(found["difficulty"])[order]
    found["difficulty"] = difficulty
    found["standardised"] = (difficulty - ability.mean()) / ability.std()
    return found


def against_peers(repeats: int) -> tuple[dict[str, Sequence[float]], dict[str, Any]]:
    """500 x 50, two parameters: ours without and with standard errors, girth, py-irt."""
    girth, python = peers.module("girth", GIRTH), peers.environment("py-irt", PY_IRT)
    values: dict[str, list[float]] = {name: [] for name in ("ours", "with_errors", "girth", *PRIORS)}
    errors: dict[str, list[float]] = {name: [] for name in ("ours", "girth", *PRIORS, "vague_raw")}
    options = FitOptions(model="2PL")
    for repeat in range(repeats):
        truth, scores = simulated(f"peers-{repeat}", 500, 50, "2PL")
        matrix, b = ByteMatrix(scores), truth.difficulty
        fit(matrix, options)
        values["ours"].append(cpu_seconds(partial(fit, matrix, options)))
        mine = fit(matrix, options)
        errors["ours"].append(rmse(mine.parameters.difficulty, b))
        took = cpu_seconds(partial(standard_errors, matrix, mine))
        values["with_errors"].append(values["ours"][-1] + took)
        table = scores.T.astype(int)
        started = time.process_time()
        theirs = girth.twopl_mml(table)
        values["girth"].append(time.process_time() - started)
        errors["girth"].append(rmse(theirs["Difficulty"], b))
        for priors in PRIORS:
            found = fit_py_irt(python, scores, priors)
            values[priors].append(found["seconds"])
            errors[priors].append(rmse(found["standardised"], b))
            if priors == "vague":
                errors["vague_raw"].append(rmse(found["difficulty"], b))
        print(f"repeat {repeat + 1}: " + "  ".join(f"{k} {v[-1]:.3g}" for k, v in values.items()), flush=True)
    rows: dict[str, Sequence[float]] = {
        "500 x 50 2PL: CPU s": values["ours"],
        "with standard errors: CPU s": values["with_errors"],
        "times as fast as girth 0.8.0 twopl_mml (goal 20)": ratios(values["girth"], values["ours"]),
        "times as fast as py-irt 0.7.1 2PL vague (goal 200)": ratios(values["vague"], values["ours"]),
        "times as fast as py-irt 0.7.1 2PL hierarchical (goal 200)": ratios(values["hierarchical"], values["ours"]),
        "rmse of difficulty, ours": errors["ours"],
        "rmse of difficulty, girth": errors["girth"],
        "rmse of difficulty, py-irt vague, as given": errors["vague_raw"],
        "rmse of difficulty, py-irt vague, standardised": errors["vague"],
        "rmse of difficulty, py-irt hierarchical, standardised": errors["hierarchical"],
    }
    return rows, {"seconds": values, "rmse": errors, "peers": [GIRTH, *PY_IRT]}


def at_size(repeats: int) -> dict[str, Sequence[float]]:
    """5,000 x 1,319, one parameter, with standard errors."""
    truth, scores = simulated("size", 5000, 1319, "1PL")
    seconds, error = [], 0.0
    for _ in range(repeats):
        started = time.process_time()
        matrix = ByteMatrix(scores)
        found = fit(matrix, FitOptions(model="1PL"))
        standard_errors(matrix, found)
        seconds.append(time.process_time() - started)
        error = rmse(found.parameters.difficulty, truth.difficulty)
    return {
        "5,000 x 1,319 1PL with standard errors: CPU s (goal < 1)": seconds,
        "rmse of difficulty at that size": [error],
    }


class Refits:
    """Holds the responses in an actor and refits resamples of them."""

    def __init__(self, responses: Responses, options: FitOptions) -> None:
        self._responses, self._matrix, self._options = responses, as_matrix(responses), options

    def refit(self, numbers: Sequence[int]) -> list[np.ndarray]:
        """Difficulties from each resample."""
        return [bootstrap_refit(self._responses, self._matrix, self._options, 0, number) for number in numbers]


def bootstrap(refits: int) -> dict[str, Sequence[float]]:
    """Resamples of 500 x 50 2PL refitted by two actors of a private Ray; wall seconds without Ray's start."""
    import ray

    truth, scores = simulated("bootstrap", 500, 50, "2PL")
    options = FitOptions(model="2PL")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        pool: ActorPool[Sequence[int], list[np.ndarray]] = ActorPool(
            Refits, from_matrix(scores), options, size=2, name="refits", options={"num_cpus": 1}
        )
        calls = [range(start, min(start + CALL, refits)) for start in range(0, refits, CALL)]
        started = time.perf_counter()
        found = np.array([one for part in pool.map("refit", calls) for one in part])
        seconds = time.perf_counter() - started
        pool.shutdown()
    finally:
        ray.shutdown()
    matrix = ByteMatrix(scores)
    stated = standard_errors(matrix, fit(matrix, options)).difficulty
    ordinary = np.abs(truth.difficulty) < 2
    ratio = np.median(found.std(axis=0, ddof=1)[ordinary] / stated[ordinary])
    return {
        f"{refits:,} bootstrap refits of 500 x 50 2PL on two CPUs: wall s (goal < 120)": [seconds],
        "bootstrap deviation over standard error, median item": [float(ratio)],
    }


def memory() -> dict[str, Sequence[float]]:
    """Peak bytes beyond the responses per observed cell: 40 of 2,000 items answered by each subject."""
    peaks: dict[str, list[float]] = {"fit": [], "fit and errors": []}
    for subjects in (8_000, 32_000):
        draw = seeds.stream(0, "benchmark", "item-response", "memory", subjects)
        item = (draw.integers(0, 2000, (subjects, 1)) + 50 * np.arange(40)) % 2000
        subject = np.repeat(np.arange(subjects), 40)
        score = (draw.random(subjects * 40) < 0.5).astype(float)
        matrix = SparseMatrix(subject, item.ravel(), score, np.ones(len(score)), (subjects, 2000))
        for name in peaks:
            tracemalloc.start()
            found = fit(matrix, FitOptions(model="1PL", estimator="map", max_iterations=4))
            if name == "fit and errors":
                standard_errors(matrix, found, "cross-product")
            peaks[name].append(tracemalloc.get_traced_memory()[1] / len(score))
            tracemalloc.stop()
    return {
        f"peak bytes per observed response, {name}, {size} responses": [peak]
        for name, found in peaks.items()
        for size, peak in zip(("320,000", "1,280,000"), found, strict=True)
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--refits", type=int, default=1000)
    options = parser.parse_args(arguments)
    load = os.getloadavg()
    rows, values = against_peers(options.repeats)
    rows |= at_size(options.repeats)
    rows |= bootstrap(options.refits)
    rows |= memory()
    store("item_response", __doc__ or "", rows, {**values, "rows": rows, "load_before": load})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
