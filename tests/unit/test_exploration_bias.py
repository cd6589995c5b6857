"""Theorems 1 and 2 of arXiv 2410.02581: EGNN's untrained output is its input position, E2GN2's is zero."""

import pytest

from rayworks.systems.marl.config import Config, NetworkKind
from rayworks.systems.marl.findings.exploration_bias import input_slope, untrained_play


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_egnn_is_biased_to_its_input_and_e2gn2_is_not(layers: int) -> None:
    assert input_slope("egnn", layers, 300, 0)["slope"] == pytest.approx(1, abs=0.01)
    unbiased: tuple[NetworkKind, ...] = ("e2gn2", "e2gn2-last")
    for kind in unbiased:
        assert input_slope(kind, layers, 300, 0)["slope"] == pytest.approx(0, abs=0.02)


def test_only_the_last_layer_placement_keeps_the_vectors_with_depth() -> None:
    assert input_slope("e2gn2", 4, 100, 0)["size"] < 0.01
    assert input_slope("e2gn2-last", 4, 100, 0)["size"] > 0.05


def test_untrained_egnn_leaves_the_map() -> None:
    settings = {"networks": ("egnn", "e2gn2"), "initialisations": 4}
    values = {"environment": {"actions": "vectors"}, "network": {"vector_bound": None}, "experiment": settings}
    found = untrained_play(Config.model_validate({**values, "sampling": {"num_envs": 40}}), 0)
    assert found["egnn"]["return"] < -150 < found["e2gn2"]["return"]
    assert found["egnn"]["distance"] > 3 > found["e2gn2"]["distance"]
