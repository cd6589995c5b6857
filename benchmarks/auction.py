"""How fast are the auction's bids, curves and designs, against direct quadrature as the authors' scripts do it?

No package implements this mechanism. The peer is SciPy's adaptive quadrature of the same formulas, type by type (one integral
per bid, its cheapest form), and over value and share for who takes part. CPU seconds of one thread, but for the sweep.
``python -m benchmarks.auction [--repeats N] [--no-sweep]``.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import integrate

from benchmarks.results import ratios, spread, store
from rayworks.core import seeds
from rayworks.systems.regulation.certificate import certify
from rayworks.systems.regulation.equilibrium import Auction
from rayworks.systems.regulation.price_curve import PriceCurve
from rayworks.systems.regulation.simulation import exact_curves, simulated_curves
from rayworks.systems.regulation.solving import solve
from rayworks.systems.regulation.value_distributions import (
    SymmetricBetaValues,
    UniformValues,
    ValueDistribution,
)

ROOT = Path(__file__).resolve().parent.parent
PRICE = 0.5
PRICES = np.linspace(0.01, 1, 99, endpoint=False).tolist()
BUILDERS, TYPES, QUADRATURE_TYPES = 100_000, 1_000_000, 1_000
DISTRIBUTIONS: tuple[ValueDistribution, ...] = (UniformValues(), SymmetricBetaValues())


def quadrature_bid(z: float) -> float:
    """``p + int_0^z y f(y) dy`` for uniform values."""
    found = integrate.quad(lambda y: y * 2 * math.log(max(PRICE, 2 * y)) / (PRICE - 1), 0, z)
    return PRICE + float(found[0])


def quadrature_participation(price: float) -> float:
    """The authors' way: an indicator integrated over share and value."""
    equilibrium = solve(Auction(UniformValues(), price))

    def enters(value: float, share: float) -> float:
        return 2.0 * bool(equilibrium.participates((1 - share) * value, share * value))

    return float(integrate.dblquad(enters, 0, 0.5, price, 1, epsabs=1e-4)[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and store."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.auction", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-sweep", action="store_true", help="leave out the sweep, two to four minutes")
    options = parser.parse_args(arguments)
    worth = 0.5 * seeds.uniforms(0, TYPES, "benchmark", "types")
    some = np.sort(worth[:QUADRATURE_TYPES])
    values: dict[str, list[float]] = {}
    solved = [solve(Auction(distribution, PRICE)) for distribution in DISTRIBUTIONS]
    difference = 0.0
    for _ in range(options.repeats):
        record(
            values,
            "curves",
            lambda: [
                simulated_curves(Auction(distribution, PRICE), PRICES, "paper", BUILDERS, 0)
                for distribution in DISTRIBUTIONS
            ],
        )
        record(
            values,
            "exact curves",
            lambda: [
                exact_curves(Auction(distribution, PRICE), PRICES, "paper", PriceCurve.identity())
                for distribution in DISTRIBUTIONS
            ],
        )
        for equilibrium in solved:
            record(values, f"bids {equilibrium.auction.distribution.name}", partial(equilibrium.bid, worth))
        theirs = record(values, "quadrature", lambda: [quadrature_bid(float(z)) for z in some])
        difference = float(np.max(np.abs(np.array(theirs) - solved[0].bid(some))))
        record(values, "entrants", lambda: solve(Auction(UniformValues(), PRICE)).entrants().participation)
        record(values, "fixed point", lambda: solve(Auction(UniformValues(), PRICE), "fixed_point"))
        record(values, "certificate", lambda: certify(solved[0]))
    record(values, "double quadrature", lambda: quadrature_participation(PRICE))
    per_type = [seconds * TYPES / QUADRATURE_TYPES for seconds in values["quadrature"]]
    rows = {
        "99 thresholds x 100,000 builders x 2 laws: CPU s (goal < 2)": values["curves"],
        "the same without drawing, by quadrature over types: CPU s": values["exact curves"],
        "bids of 1,000,000 types, uniform: CPU ms (goal < 50)": [1000 * s for s in values["bids uniform"]],
        "bids of 1,000,000 types, beta(2,2): CPU ms (goal < 50)": [1000 * s for s in values["bids beta22"]],
        "times as fast per bid as direct quadrature (goal 100)": ratios(per_type, values["bids uniform"]),
        "times as fast as double quadrature for one participation": [
            values["double quadrature"][0] / seconds for seconds in values["entrants"]
        ],
        "entry-consistent equilibrium at price 0.5: CPU ms": [1000 * s for s in values["fixed point"]],
        "certificate, 2,001 types x 2,001 deviations: CPU ms": [1000 * s for s in values["certificate"]],
    }
    if not options.no_sweep:
        rows["sweep, 200 designs x 5 seeds by Optuna: wall s (goal < 180)"] = [sweep_seconds()]
    store("auction", __doc__ or "", rows, {**values, "largest_difference_of_a_bid": difference})
    for name, repeats in rows.items():
        print(f"{name}: {spread(repeats)}")
    print(f"largest difference of a bid: {difference:.3g}")
    return 0


def record(values: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    """Run and note the CPU seconds of this process."""
    start = time.process_time()
    found = work()
    values.setdefault(name, []).append(time.process_time() - start)
    return found


def sweep_seconds() -> float:
    """The shipped sweep from its command to its report, Ray's start included."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "jobs.sweep", "regulation", "--run.storage", folder]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
