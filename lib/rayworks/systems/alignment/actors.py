"""The system's two kinds of actor: one trains a reward model, alone or in step with others; one decodes under guidance."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rayworks.core.run_directory import EXPORT, RunDirectory
from rayworks.lm.causal_model import CausalModel
from rayworks.lm.checkpoints import load_model, load_tokenizer
from rayworks.lm.engine import Score, ScoringRequest
from rayworks.lm.pair_training import EncodedPair, PairTrainer
from rayworks.lm.threads import limit_torch_threads
from rayworks.lm.training import ALONE, Shard, keep_state, take_up_state
from rayworks.runtime.data_parallel import place, train_in_step
from rayworks.runtime.placement import device_of
from rayworks.systems.alignment import pairs as preference_pairs
from rayworks.systems.alignment.autoregressive_reward import reward_model_trainer
from rayworks.systems.alignment.config import Config
from rayworks.systems.alignment.engines import open_engine
from rayworks.systems.alignment.exported import reward_folder
from rayworks.systems.alignment.guided_decoding import GuidedGeneration, GuidedRequest

STATES = "states"
TRAINING = "training"


class RewardModelActor:
    """Trains one objective's reward model, or its part of it. The state lives in the run directory, never here alone."""

    def __init__(self, config: Config, directory: RunDirectory, objective: str, shard: Shard = ALONE) -> None:
        limit_torch_threads()
        self._config, self._objective, self._directory, self._shard = config, objective, directory, shard
        self._states = f"{STATES}/{objective}"
        section = config.objectives[objective]
        self._start = config.model.reward or config.model.base
        self._tokenizer = tokenizer = load_tokenizer(self._start)
        split = preference_pairs.build(section.pairs, objective, config.run.seed, tokenizer)
        self._training, self._held_out = (
            [preference_pairs.encode_pair(pair, tokenizer, section.pairs.response_tokens) for pair in side]
            for side in (split.training, split.held_out)
        )
        prompts = [pair.prompt for pair in split.held_out]
        self._facts = {
            "training": len(self._training),
            "held_out": len(self._held_out),
            "dropped": split.dropped,
            "cut": _share_of_cut(self._training, tokenizer),
            "prompts": sorted(set(prompts), key=lambda prompt: (-prompts.count(prompt), prompt)),
        }
        self._trainer = self._new_trainer()

    def facts(self) -> dict[str, object]:
        """Counts of pairs, and the held-out prompts, commonest first."""
        return {**self._facts, "steps": self._trainer.total_steps}

    def prove(self) -> str:
        """Load what will decode, as it is before the training, so that a model which cannot is refused before it.

        Raises:
            DataError: a model cannot be decoded exactly.
        """
        section, device = self._config.model, device_of(self._config.compute)
        here = [self._start] if section.engine == "vllm" else [section.base, self._start]
        proofs = [CausalModel(load_model(name, section.dtype, device=device), 1).proof for name in dict.fromkeys(here)]
        told = f"{here[0]}: {proofs[0]}"
        if section.engine == "vllm":
            return (
                f"The base ran on vLLM, and was not compared with its own forward. The start of reward models, {told}"
            )
        return told

    def restore(self, step: int) -> None:
        """Go back to the state kept at a step; step 0 is the untrained model."""
        if step == 0:
            self._trainer = self._new_trainer()
        take_up_state(self._trainer, self._directory, self._states, step)

    def train(self, start: int, steps: int) -> dict[str, float]:
        """Take steps, after going back where the trainer is ahead; the first worker keeps the state reached."""
        if self._trainer.step != start:
            self.restore(start)
        metrics = self._trainer.train(steps)
        if self._shard.rank == 0:
            keep_state(self._trainer, self._directory, self._states)
        return {**metrics, "step": float(self._trainer.step)}

    def finish(self, step: int) -> dict[str, float]:
        """Accuracy on held-out pairs at a step, then export of the model to the run directory."""
        if self._trainer.step != step:
            self.restore(step)
        scores = self._trainer.evaluate(self._held_out)
        with tempfile.TemporaryDirectory() as scratch:
            section = self._config.model
            whole = self._start == section.base and section.reward_layers is None
            self._trainer.export(Path(scratch), self._tokenizer, adapters_of=section.base if whole else None)
            self._directory.put_folder(Path(scratch), arm_path(self._objective))
        return scores

    def _new_trainer(self) -> PairTrainer:
        config, name = self._config, self._objective
        model = load_model(self._start, "float32", config.model.reward_layers, device_of(config.compute))
        beta, seed = config.objectives[name].beta, config.run.seed
        shard = self._shard
        return reward_model_trainer(
            model, self._training, config.training, beta=beta, seed=seed, name=name, shard=shard
        )


def training_loop(arguments: Mapping[str, Any], directory: RunDirectory, folder: str) -> None:
    """Train the reward models one after the other, each by all workers; see :class:`~.data_parallel.DataParallel`.

    Args:
        arguments: ``config``; ``steps``, how many each objective takes.
        folder: with one folder of records per objective.
    """
    config: Config = arguments["config"]
    for objective, steps in arguments["steps"].items():
        worker = RewardModelActor(config, directory, objective, Shard(*place()))
        train = partial(worker.train, steps=config.training.steps_per_checkpoint)
        train_in_step(train, steps, directory, f"{folder}/{objective}")


class GuidedActor:
    """Decodes batches under guidance: the base and all reward models in one process."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        limit_torch_threads()
        self._scratch = tempfile.TemporaryDirectory()
        arms = {
            name: str(directory.get_folder(arm_path(name), Path(self._scratch.name) / name))
            for name in config.objectives
        }
        model, device = config.model, device_of(config.compute)
        self._engine = open_engine(model, model.base, arms, model.dtype, config.decoding.slots, device)

    def ready(self) -> bool:
        """Answers once the models are loaded."""
        return bool(self._engine.objectives)

    def generate(self, requests: Sequence[GuidedRequest]) -> list[GuidedGeneration]:
        """One continuation per request."""
        return self._engine.generate(requests)

    def score(self, batch: tuple[str, Sequence[ScoringRequest]]) -> list[Score]:
        """Rewards of responses: (objective, requests)."""
        objective, requests = batch
        return self._engine.score(requests, objective)


def _share_of_cut(pairs: Sequence[EncodedPair], tokenizer: PreTrainedTokenizerBase) -> float:
    """Of the responses, how many were cut and so teach no end."""
    responses = [side.response for pair in pairs for side in (pair.chosen, pair.rejected)]
    cut: list[bool] = [response[-1] != tokenizer.eos_token_id for response in responses]
    return sum(cut) / len(cut)


def arm_path(objective: str) -> str:
    """Where the run directory keeps an objective's trained reward model."""
    return f"{EXPORT}/{reward_folder(objective)}"
