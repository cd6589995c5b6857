"""The engine that a config names."""

from rayworks.core.config import EngineSection
from rayworks.lm.decoding import Engine


def check_engine(section: EngineSection, device: str) -> None:
    """Raise :class:`ConfigError` where the engine that a config names is not installed for a device; none is loaded."""
    if section.engine == "vllm":
        from rayworks.lm.vllm_engine import require_vllm

        require_vllm(device)


def open_engine(
    section: EngineSection, model: str, dtype: str, slots: int, device: str, *, keep_prefixes: bool = False
) -> Engine:
    """An engine of one model.

    Args:
        keep_prefixes: as a tree search wants it: what finished rows have drawn stays known. vLLM does so anyway.

    Raises:
        ConfigError: vLLM is missing or does not fit the machine.
        DataError: the model cannot be loaded.
    """
    if section.engine == "transformers":
        from rayworks.lm.transformers_engine import TransformersEngine

        options = {"prefix_gib": section.prefix_gib, "keep_prefixes": keep_prefixes}
        return TransformersEngine(model, dtype, slots, None, device, **options)
    from rayworks.lm.vllm_engine import VllmEngine

    return VllmEngine(model, dtype, slots, device, section)
