"""How long a sequence may be for a model to be computed here as it computes itself."""

import sys
from typing import Any

from transformers import PretrainedConfig

from rayworks.core.errors import DataError

ROPE_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions that turn otherwise for all rows once one of them is longer than the model was trained with."""
WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")

Bound = tuple[int, str]
"""A number of tokens, and the reason for it."""


def exact_length(config: PretrainedConfig) -> Bound:
    """The longest sequence of which a cache of slots holds all that a model would look at; :class:`DataError` if unknown."""
    config = config.get_text_config()
    bounds = _bounds(config)
    if not bounds:
        raise DataError(f"model {config.model_type}: does not say how many positions it has (max_position_embeddings)")
    if set(getattr(config, "layer_types", None) or ["unknown"]) != {"full_attention"}:
        windows = [getattr(config, name, None) for name in WINDOWS]
        bounds += [(window, "its attention window, within which this engine is exact") for window in windows if window]
    return min(bounds, key=lambda bound: bound[0])


def batched_length(config: PretrainedConfig) -> Bound:
    """The longest sequence that leaves those beside it alone; windows are the model's own affair."""
    return min(_bounds(config.get_text_config()), key=lambda bound: bound[0], default=(sys.maxsize, "no bound"))


def _bounds(config: Any) -> list[Bound]:
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return []
    bounds = [(positions, "the model's positions")]
    parameters = getattr(config, "rope_parameters", None) or {}
    for rope in (parameters, *parameters.values()):
        if isinstance(rope, dict) and rope.get("rope_type") in ROPE_BY_LENGTH:
            own = getattr(config, "original_max_position_embeddings", None)
            trained = rope.get("original_max_position_embeddings") or own
            bounds.append((int(trained or positions), f"what its {rope['rope_type']} rope was trained with"))
    return bounds
