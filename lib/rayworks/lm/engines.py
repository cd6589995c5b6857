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
    """An engine of one model; errors are those of :class:`TransformersEngine` and :class:`VllmEngine`. The latter always
    does what ``keep_prefixes`` asks for.
    """
    if section.engine == "transformers":
        from rayworks.lm.transformers_engine import TransformersEngine

        kept = {"keep_prefixes": keep_prefixes}
        return TransformersEngine(model, dtype, slots, None, device, prefix_gib=section.prefix_gib, **kept)
    from rayworks.lm.vllm_engine import VllmEngine

    return VllmEngine(model, dtype, slots, device, section)
