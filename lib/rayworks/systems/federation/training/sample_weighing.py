"""Weights and labels of pseudo-images by the server's gradient (SAFLEX's closed form, arXiv 2410.02512, inside a federation).

The server takes the gradient g of its loss on a few held-out examples. A small step on an example with soft label y lowers
that loss by ``<y, A>`` to first order, where ``A = -(u - p.u)``, u is the derivative of the logits along g, and p are the
class probabilities. One forward-mode derivative gives A for all examples and labels at once
(:mod:`rayworks.learning.sample_gains`).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rayworks.core.errors import DataError
from rayworks.learning.sample_gains import normalised, outputs_and_slopes, slopes_to_gains
from rayworks.learning.validation_gradients import validation_gradient
from rayworks.systems.federation.training.classifiers import Classifier


def server_gradient(model: Classifier, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy by parameter name; inputs ``(M, ...)`` in [0, 1], labels ``(M,)``."""
    return validation_gradient(model, inputs, lambda outputs: F.cross_entropy(outputs, labels))[0]


def read_gradient(path: str, model: Classifier) -> dict[str, Tensor]:
    """A gradient from a .safetensors file, one array for each parameter of the model.

    Raises:
        DataError: the file cannot be read, or its arrays are not the parameters'.
    """
    try:
        found: dict[str, Tensor] = load_file(Path(path).expanduser())
    except (OSError, SafetensorError) as error:
        raise DataError(f"balance.gradient_file {path}: cannot be read ({error}); give a .safetensors file") from None
    for name, parameter in model.named_parameters():
        if name not in found or found[name].shape != parameter.shape or not found[name].isfinite().all():
            raise DataError(
                f"balance.gradient_file {path}: needs a finite array {name!r} of shape {tuple(parameter.shape)}"
            )
    return {name: found[name].float() for name, _ in model.named_parameters()}


def gains(model: Classifier, inputs: Tensor, gradient: Mapping[str, Tensor]) -> Tensor:
    """``A``, ``(n, K)``: by how much more of the log probability of each label lowers the server's loss.

    Rows satisfy ``sum_k p_k A_k = 0``. Costs one forward pass with tangents, about 1.5 plain ones.
    """
    with torch.no_grad():
        return slopes_to_gains(*outputs_and_slopes(model, inputs, gradient))


def weigh(gain: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Soft labels ``softmax(A / T)`` ``(n, K)``, and weights ``max(0, <label, A>)`` scaled to a mean of 1, ``(n,)``.

    A is first divided by its root mean square, since |g| shrinks while training. Where no example helps, all weights are 0.
    """
    scaled = normalised(gain, "rms")
    labels = (scaled / temperature).softmax(1)
    weights = (labels * scaled).sum(1).clamp_min(0.0)
    mean = weights.mean()
    return labels, weights / mean if mean > 0 else weights
