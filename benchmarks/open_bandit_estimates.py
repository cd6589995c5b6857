"""Estimates of the peer ``sb-obp``, run by its own interpreter: ``python open_bandit_estimates.py LOG.npz RESULT RESAMPLES``.

It imports nothing of ours, for it needs ``numpy<2``. CPU seconds of the estimators alone: the dense tables that they read,
one policy and one reward model for every round, are made before the clock starts.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np


def main(source: str, target: str, resamples: str) -> None:
    """Values, and where ``RESAMPLES`` is not 0 the peer's bootstrap intervals too."""
    from obp import ope

    log = np.load(source)
    rounds = len(log["action"])
    columns = {name: log[name] for name in ("reward", "action", "position", "pscore")}
    columns["action_dist"] = np.repeat(log["policy"][None], rounds, axis=0)
    columns["estimated_rewards_by_reg_model"] = np.repeat(log["model"][None], rounds, axis=0)
    estimators = {
        "ips": ope.InverseProbabilityWeighting(),
        "snips": ope.SelfNormalizedInverseProbabilityWeighting(),
        "dm": ope.DirectMethod(),
        "dr": ope.DoublyRobust(),
        "sndr": ope.SelfNormalizedDoublyRobust(),
    }
    started = time.process_time()
    values = {name: float(estimator.estimate_policy_value(**columns)) for name, estimator in estimators.items()}
    seconds = {"values": time.process_time() - started}
    if int(resamples):
        started = time.process_time()
        for estimator in estimators.values():
            estimator.estimate_interval(**columns, n_bootstrap_samples=int(resamples), random_state=0)
        seconds["intervals"] = time.process_time() - started
    Path(target).write_text(json.dumps({"values": values, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
