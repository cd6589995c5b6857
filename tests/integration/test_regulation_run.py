"""A run killed in its middle, at another number of workers, with bad input; and builders who learn by PPO."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ray

from jobs import run
from rayworks.core import config as configs
from rayworks.systems.regulation.actors import RegulationActor
from rayworks.systems.regulation.config import Config
from rayworks.systems.regulation.design import make_design
from rayworks.systems.regulation.price_curve import PriceCurve

RunJob = Callable[..., subprocess.CompletedProcess[str]]


def test_a_design_alone_adds_its_numbers_to_the_headline(run_job: RunJob, tmp_path: Path) -> None:
    done = run_job(
        *("regulation", "--run.storage", str(tmp_path), "--run.name", "alone", "--scope.stages", "[design]"),
        *("--population.builders", "2000", "--certificate.types", "101", "--certificate.deviations", "101"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    headline = json.loads((tmp_path / "regulation/alone/report.json").read_text())["headline"]
    assert headline["participation_compliance"] == pytest.approx(
        headline["participation_auction"] * headline["compliance_auction"]
    )
    assert headline["premium_paid"] > 0
    exported = json.loads((tmp_path / "regulation/alone/export/design.json").read_text())
    assert exported["auction"]["price"] == 0.5
    bids = pd.read_csv(tmp_path / "regulation/alone/export/bids.csv")
    assert len(bids) == 1001
    assert bids.bid.is_monotonic_increasing
    assert not (tmp_path / "regulation/alone/export/curves.csv").exists()


def test_bad_input_ends_with_its_code_and_its_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = tmp_path / "values.csv"
    pd.DataFrame({"value": [0.4, -0.1, 0.9]}).to_csv(values, index=False)
    for arguments, code, words in (
        (("--auction.price", "1.2"), 2, "auction.price"),
        (("--auction.group_size", "1"), 2, "auction.group_size"),
        (("--auction.distribution", str(values)), 4, "mass below zero"),
        (("--price.group", "planet"), 4, "price.group"),
        (("--auction.price", "0.05"), 4, "auction.price"),
    ):
        assert run.main(["regulation", "--dry-run", "--run.storage", str(tmp_path), *arguments]) == code
        assert words in capsys.readouterr().err


def test_builders_learn_by_policy_gradient(cluster: dict[str, str]) -> None:
    """Three short rounds of PPO bid within the rules; how near longer ones come is the report's to say."""
    config = configs.resolve(
        Config, overrides={"learning.iterations": 3, "learning.auctions_per_iteration": 256, "auction.cap": None}
    )
    design = make_design(config.auction, PriceCurve.identity())
    worker = ray.remote(RegulationActor).options(num_cpus=1, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    actor = worker.remote(config)
    found = ray.get(actor.policy_gradient.remote(design), timeout=200)
    ray.kill(actor)
    assert found["rounds"] == [1, 2, 3]
    bids = np.array(found["bid"])
    assert np.all((bids >= 0.5) & (bids <= 1.0))
    np.testing.assert_allclose(found["target"][0], 0.5)
    assert found["distance"][-1] == pytest.approx(np.max(np.abs(bids - np.array(found["target"]))))
    assert found["distance"][-1] < 0.2
