"""The engine that a config names."""

from collections.abc import Mapping

from rayworks.core.config import EngineSection
from rayworks.systems.alignment.guided_decoding import GuidedEngine


def open_engine(
    section: EngineSection, base: str, rewards: Mapping[str, str], dtype: str, slots: int, device: str
) -> GuidedEngine:
    """A base with its reward models; see :class:`GuidedEngine` for the arguments.

    Raises:
        ConfigError: a reward model's tokenizer does not fit the base's; vLLM is missing or does not fit the machine.
        DataError: a model cannot be loaded.
    """
    if section.engine == "transformers":
        return GuidedEngine(base, rewards, dtype, slots, device, section.prefix_gib)
    from rayworks.systems.alignment.vllm_guidance import VllmGuidedEngine

    return VllmGuidedEngine(base, rewards, dtype, slots, device, section)
