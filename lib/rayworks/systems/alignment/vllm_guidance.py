"""Guidance inside vLLM: the base runs there, its reward models in the same worker, mixed by the same :class:`RewardMixer`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rayworks.core.config import EngineSection
from rayworks.lm.adapters import BASE
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_config, load_generation_config, load_model, load_tokenizer
from rayworks.lm.continuous_batching import end_ids
from rayworks.lm.engine import Score, ScoringRequest
from rayworks.lm.hosted_rows import Hosted
from rayworks.lm.positions import exact_length
from rayworks.lm.rows import Row
from rayworks.lm.scoring import encode, score_responses
from rayworks.lm.vllm_engine import VllmDecoding, require_plain, sizes, start
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedEngine, RewardMixer, RowGuidance, common_ids


class VllmGuidedEngine(GuidedEngine):
    """What :class:`GuidedEngine` is, on vLLM.

    Args:
        base: packaged name, local folder or ``hub:OWNER/NAME``.
        rewards: objective to the model of its ARM.
        dtype: of the base and the reward models.
        section: over how many GPUs the base is spread, and with what share of their memory; each holds all reward models.

    Raises:
        ConfigError: a reward model's tokenizer does not fit the base's; vLLM is missing or does not fit the machine.
        DataError: a model cannot be loaded.
    """

    def __init__(
        self, base: str, rewards: Mapping[str, str], dtype: str, slots: int, device: str, section: EngineSection
    ) -> None:
        self.tokenizer = load_tokenizer(base)
        self.objectives = list(rewards)
        configs = {name: load_config(name) for name in (base, *rewards.values())}
        self._adapters = [BASE] * (1 + len(rewards))
        self.id_range = common_ids(*((name, config.vocab_size) for name, config in configs.items()))
        options = {"rewards": dict(rewards), "dtype": dtype, "id_range": self.id_range}
        self._engine = start(base, dtype, slots, device, section, f"{__name__}:host_rewards", options)
        reward_sizes = [(exact_length(configs[name])[0], configs[name].vocab_size) for name in rewards.values()]
        models = [sizes(self._engine), *reward_sizes]
        self.max_length = min(longest for longest, _ in models)
        ends = end_ids(self.tokenizer, load_generation_config(base))
        self.decoding = self._decoding = VllmDecoding(self._engine, self.tokenizer, ends, models, told_of)

    def score(self, requests: Sequence[ScoringRequest], objective: str | None = None) -> list[Score]:
        """Score responses with the base, or with the reward model of an objective."""
        require_plain(requests)
        if objective is None:
            encoded = [encode(self.tokenizer, asked.prompt, asked.response, ends=asked.ends) for asked in requests]
            return self._decoding.score(encoded)
        number = self.objectives.index(objective)
        scores: list[Score] = self._engine.collective_rpc(score_hosted, args=(number, self.tokenizer, list(requests)))[
            0
        ]
        return scores


def host_rewards(options: Mapping[str, Any], device: str, slots: int) -> Hosted:
    """What a vLLM worker hosts: the ``rewards`` (objective to model) of the options, on its device.

    Raises:
        DataError: a model cannot be loaded.
    """
    rewards: Mapping[str, str] = options["rewards"]
    models = [CausalModel(load_model(name, options["dtype"], device=device), slots) for name in rewards.values()]
    mixer = RewardMixer(list(rewards), options["id_range"])
    return Hosted(mixer, models, lambda told: RowGuidance(Guidance(**told)))


def told_of(row: Row) -> dict[str, Any]:
    """What a worker must know of a row before its next token."""
    told: dict[str, Any] = row.context.guidance.told(len(row.tokens))
    return told


def score_hosted(worker: Any, number: int, tokenizer: Any, requests: Sequence[ScoringRequest]) -> list[Score]:
    """Score responses with a worker's reward model; called in the worker."""
    from rayworks.lm.vllm_processors import rows_of

    guide = rows_of(worker).hosted.guides[number]
    return score_responses(guide.model, tokenizer, requests, guide.adapters)
