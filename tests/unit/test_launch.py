"""What a driver decides and writes down, without a cluster."""

from rayworks.runtime import placement


def test_a_run_that_asks_for_nothing_needs_no_cluster() -> None:
    placement.require([{}, {"CPU": 0.0}], 0.1)
