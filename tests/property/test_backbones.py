"""Encoders look back only, and one place at a time gives what a whole sequence gives."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from rayworks.systems.recommendation.models.backbones import BackboneName, make_backbone

WIDTH, LENGTH = 8, 12
BACKBONES = ["gru", "attention", "convolution", "filter"]


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Sequences, places, layers and a seed."""
    return draw(st.integers(1, 4)), draw(st.integers(1, LENGTH)), draw(st.integers(1, 3)), draw(st.integers(0, 2**31))


@pytest.mark.parametrize("name", BACKBONES)
@settings(max_examples=25, deadline=None)
@given(size=sizes(), data=st.data())
def test_what_follows_changes_nothing(name: BackboneName, size: tuple[int, int, int, int], data: st.DataObject) -> None:
    count, places, layers, seed = size
    torch.manual_seed(seed)
    backbone = make_backbone(name, WIDTH, layers, 2, LENGTH, 0.5).eval()
    inputs = torch.randn(count, places, WIDTH)
    place = data.draw(st.integers(0, places - 1))
    later = inputs.clone()
    later[:, place + 1 :] = torch.randn(count, places - place - 1, WIDTH) * 10
    with torch.no_grad():
        torch.testing.assert_close(backbone(later)[:, : place + 1], backbone(inputs)[:, : place + 1])


@pytest.mark.parametrize("name", BACKBONES)
@settings(max_examples=25, deadline=None)
@given(size=sizes())
def test_place_by_place_is_all_at_once(name: BackboneName, size: tuple[int, int, int, int]) -> None:
    count, places, layers, seed = size
    torch.manual_seed(seed)
    backbone = make_backbone(name, WIDTH, layers, 2, LENGTH, 0.5).eval()
    inputs = torch.randn(count, places, WIDTH)
    with torch.no_grad():
        cache = backbone.start(count, inputs)
        outputs = []
        for place in range(places):
            output, cache = backbone.extend(inputs[:, place], cache)
            outputs.append(output)
        torch.testing.assert_close(torch.stack(outputs, 1), backbone(inputs), atol=1e-5, rtol=1e-4)
