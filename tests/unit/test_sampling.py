import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rayworks.lm.sampling import sample, sampling_logits


def parameters(rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> dict[str, Tensor]:
    return {
        "temperature": torch.full((rows,), temperature),
        "top_k": torch.full((rows,), top_k),
        "top_p": torch.full((rows,), top_p),
    }


def reference(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """The distribution of one row, written the slow way."""
    scaled = logits.astype(float) / temperature
    order = np.argsort(-scaled, kind="stable")
    kept = order[: top_k or None]
    mass = np.exp(scaled[kept] - scaled[kept].max())
    mass /= mass.sum()
    if top_p < 1:
        kept = kept[: int(np.searchsorted(np.cumsum(mass) - mass, top_p, side="left"))]
    probabilities = np.zeros(len(logits))
    probabilities[kept] = np.exp(scaled[kept] - scaled[kept].max())
    return probabilities / probabilities.sum()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3.0),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.1]),
)
def test_distribution_is_the_reference_law(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed)) * 3
    found = sampling_logits(logits, **parameters(3, temperature, top_k, top_p)).softmax(dim=-1)
    for row in range(3):
        expected = reference(logits[row].numpy(), temperature, top_k, top_p)
        assert np.allclose(found[row].numpy(), expected, atol=1e-5)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, logprobs = sample(logits.expand(20_000, 4), uniforms, **parameters(20_000))
    expected = logits.softmax(-1)[0].double().numpy() * 20_000
    counts = np.bincount(tokens.numpy(), minlength=4)
    assert ((counts - expected) ** 2 / expected).sum() < 16.27  # chi-square, 3 degrees of freedom, p = .001
    assert torch.allclose(logprobs, logits.log_softmax(-1)[0][tokens])


def test_rows_are_drawn_alone() -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    uniforms = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mixed = {
        "temperature": torch.tensor([1.0, 0.0, 0.5, 2.0, 1.0]),
        "top_k": torch.tensor([0, 0, 5, 0, 1]),
        "top_p": torch.tensor([1.0, 1.0, 1.0, 0.3, 0.9]),
    }
    together, _ = sample(logits, uniforms, **mixed)
    for row in range(5):
        own = {name: values[row : row + 1] for name, values in mixed.items()}
        assert sample(logits[row : row + 1], uniforms[row : row + 1], **own)[0] == together[row]
    assert together[1] == logits[1].argmax()
    assert together[4] == logits[4].argmax()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_forbidden_tokens_are_never_drawn(uniform: float) -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    tokens, logprobs = sample(logits, torch.tensor([uniform], dtype=torch.float64), **parameters(1))
    assert int(tokens) in (1, 2)
    assert torch.isfinite(logprobs).all()
