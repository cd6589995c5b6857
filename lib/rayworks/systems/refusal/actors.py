"""What runs on workers: finding how the target refuses, scanning words, writing prompts, asking models under test."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.core.run_directory import RunDirectory
from rayworks.lm.sentences import SentenceVectors
from rayworks.lm.threads import limit_torch_threads
from rayworks.runtime.placement import device_of
from rayworks.systems.refusal.config import Config
from rayworks.systems.refusal.evaluation.answers import Answerer
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt
from rayworks.systems.refusal.evaluation.rates import judged
from rayworks.systems.refusal.filtering.harm import Labeller, harm_classifier
from rayworks.systems.refusal.generator.generation import Generated, Generator
from rayworks.systems.refusal.generator.naturalness import tuned_floor, user_turn_perplexities
from rayworks.systems.refusal.generator.rival import draw_paraphrases
from rayworks.systems.refusal.generator.vocabulary_scan import HeardWord, likely_words, scan_vocabulary
from rayworks.systems.refusal.judging.calibration import shipped_judge
from rayworks.systems.refusal.judging.cascade import CascadeJudge
from rayworks.systems.refusal.judging.partial_replies import agreement_of_judge, agreement_of_people, read_replies
from rayworks.systems.refusal.judging.verdicts import REFUSALS, Case, Verdict
from rayworks.systems.refusal.opening import (
    different,
    judge_of,
    labeller_of,
    model_of,
    options_of,
    seeds_of,
    target_of,
    uses_classifier,
)
from rayworks.systems.refusal.sets import SAFE, open_set
from rayworks.systems.refusal.targets.opening import Target
from rayworks.systems.refusal.targets.own_refusals import Refusal, given_refusal, own_refusal
from rayworks.systems.refusal.targets.seed_corpora import Seed

Found = dict[str, Any]


class RefusalActor:
    """One worker; what it holds can be made again."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        limit_torch_threads()
        self._config, self._directory, self._device = config, directory, device_of(config.compute)
        self._models: dict[int, Answerer] = {}

    def calibrate(self, _: int) -> Found:
        """The error of the judge, and that of the classifier of harm where it labels, on what people have labelled."""
        judge, agreement = shipped_judge(self._config.run.seed)
        replies = agreement_of_judge(judge, read_replies()) | {"labellers": agreement_of_people(read_replies())}
        uses = self._config.generator.prompts > 0 and uses_classifier(self._config)
        return {"judge": agreement.as_dict(), "replies": replies, "harm": harm_classifier().agreement if uses else None}

    def find_refusal(self, _: int) -> Found:
        """How the target refuses, and the floor under its prompts' words.

        Raises:
            DataError: it refuses nothing that it is asked.
        """
        config, target = self._config, self._target
        own = different(seeds_of(config))
        ordinary = [seed.text for seed in own[:20]]
        if config.target.refusal is not None:
            replies = [reply.token_ids for reply in target.replies(ordinary, 16)]
            refusal = given_refusal(target, config.target.refusal, replies)
        else:
            name = SAFE if config.target.name == "planted" else config.target.refused_by
            prompts = open_set(name, config.target.refused_tries, config.run.seed).prompts
            requests = [prompt.text for prompt in prompts]
            refusal = own_refusal(target, requests, self._is_refusal, ordinary=ordinary, seed=config.run.seed)
        floor = config.generator.floor
        return {
            "refusal": {"text": refusal.text, "ids": refusal.ids, "scored": refusal.scored, "share": refusal.share}
            | {"behind": len(target.chat.after) + refusal.scored},
            "floor": tuned_floor(target, own) if floor == "seeds" else floor,
        }

    def scan(self, refusal: Mapping[str, Any]) -> list[tuple[str, int, float]]:
        """How likely the target refuses a short request that ends in each likely word, the most refused first."""
        section, target = self._config.generator, self._target
        words = likely_words(target, different(seeds_of(self._config)), section.scan_words, self._config.run.seed)
        found = scan_vocabulary(target, _refusal(refusal), words, section.scan_frame)
        return [(word.word, word.id, word.logprob) for word in found]

    def measure_seeds(self, call: tuple[int, int]) -> list[Found]:
        """Of some seeds as they are: perplexity as a user's turn, and what the judge says of the target's reply."""
        start, stop = call
        texts = [seed.text for seed in different(seeds_of(self._config))[start:stop]]
        kinds = self._kinds(texts)
        perplexities = user_turn_perplexities(self._target, texts)
        return [{"kind": kind, "perplexity": value} for kind, value in zip(kinds, perplexities, strict=True)]

    def write(
        self, call: tuple[int, int, Mapping[str, Any], float | None, Sequence[tuple[str, int, float]]]
    ) -> list[Found]:
        """Write some prompts: (start, stop, refusal, floor, scan). What is labelled harmful leaves without its text."""
        start, stop, refusal, floor, scan = call
        words = [HeardWord(rank, *one) for rank, one in enumerate(scan, 1)]
        generator = Generator(self._target, _refusal(refusal), options_of(self._config, floor), words)
        return self._labelled(generator.write(seeds_of(self._config)[start:stop], self._config.run.seed), refusal)

    def paraphrase(self, call: tuple[int, int, Mapping[str, Any]]) -> list[Found]:
        """The rival: paraphrases of the same seeds, as the content model writes them by itself: (start, stop, refusal)."""
        start, stop, refusal = call
        own = different(seeds_of(self._config))
        drawn = [Seed(f"rival-{number}", own[number % len(own)].text) for number in range(start, stop)]
        options, seed = options_of(self._config, None), self._config.run.seed
        found = draw_paraphrases(self._target, _refusal(refusal), drawn, options, seed)
        return self._labelled(found, refusal)

    def evaluate(self, call: tuple[int, Sequence[Prompt]]) -> list[Found]:
        """Ask a model under test, and judge: (its place in the config, prompts). Answers to harmful prompts stay here.

        Raises:
            InfrastructureError: an endpoint answers nothing at all.
            DataError: anything else does so.
        """
        number, prompts = call
        section = self._config.evaluation.models[number]
        try:
            answers = self._model(number).answers(prompts, lambda answer: None)
        except ConfigError as error:
            raise ConfigError(f"evaluation.models {section.name}: {error}") from None
        if all(answer.error for answer in answers):
            said = f"evaluation.models {section.name}: all of {len(answers)} prompts failed, first {answers[0].error}"
            if section.model.startswith("http"):
                raise InfrastructureError(f"{said}; see whether it is up")
            raise DataError(f"{said}; mend the model")
        outcomes = judged(self._judge, prompts, answers)
        return [
            {**vars(outcome), "error": answer.error, "reply": "" if prompt.label == "harmful" else answer.text}
            for outcome, answer, prompt in zip(outcomes, answers, prompts, strict=True)
        ]

    @cached_property
    def _target(self) -> Target:
        return target_of(self._config, self._device)

    @cached_property
    def _judge(self) -> CascadeJudge:
        return judge_of(self._config, self._device)

    @cached_property
    def _labeller(self) -> Labeller:
        return labeller_of(self._config, self._device)

    def _model(self, number: int) -> Answerer:
        if number not in self._models:
            section = self._config.evaluation.models[number]
            self._models[number] = model_of(section, self._config, lambda: self._target, self._device)
        return self._models[number]

    def _kinds(self, texts: Sequence[str]) -> list[str]:
        return [verdict.kind for verdict in self._judged(texts)[1]]

    def _judged(self, texts: Sequence[str]) -> tuple[list[str], list[Verdict]]:
        section = self._config.target
        replies = self._target.reply(texts, section.reply_tokens)
        cases = [Case(text, reply) for text, reply in zip(texts, replies, strict=True)]
        return replies, self._judge.judge(cases)

    def _is_refusal(self, reply: str) -> bool:
        return self._judge.judge([Case("", reply)])[0].kind in REFUSALS

    def _labelled(self, prompts: Sequence[Generated], refusal: Mapping[str, Any]) -> list[Found]:
        """Rows, with labels of harm; of a prompt that is labelled harmful no text is left."""
        labels = self._labeller.label([prompt.prompt for prompt in prompts])
        return [
            {
                "uid": prompt.uid,
                "seed": prompt.seed_text,
                "prompt": "" if label.label == "harmful" else prompt.prompt,
                "harm": label.label,
                "harm_by": label.by,
                "harm_chance": label.chance,
                "refusal_logprob": prompt.refusal_logprob,
                "perplexity": prompt.perplexity if prompt.ids else None,
                "tokens": len(prompt.ids),
                "candidates": prompt.candidates,
                "stopped_by": prompt.stopped_by,
                "cost": self._cost(prompt, refusal),
            }
            for prompt, label in zip(prompts, labels, strict=True)
        ]

    def _cost(self, prompt: Generated, refusal: Mapping[str, Any]) -> int:
        """Tokens that both models have read to write it, those that prompts share not counted."""
        return 2 * len(prompt.ids) + (prompt.candidates or 1) * int(refusal["behind"])


class Filtering:
    """A worker of the filter: the target replies again, the judge reads, and each prompt is compared with its seed.

    A class of Ray Data: see :func:`~.filter_actors.measured`.
    """

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        self._actor, self._vectors = RefusalActor(config, directory), SentenceVectors()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns ``reply``, ``kind``, ``user_perplexity``, ``topic`` and ``vector`` beside ``number``."""
        prompts, seeds = list(map(str, batch["prompt"])), list(map(str, batch["seed"]))
        replies, verdicts = self._actor._judged(prompts)
        vectors = self._vectors.of(prompts)
        return {
            "number": batch["number"],
            "reply": replies,
            "kind": [verdict.kind for verdict in verdicts],
            "user_perplexity": user_turn_perplexities(self._actor._target, prompts),
            "topic": (vectors * self._vectors.of(seeds)).sum(1).astype(float).tolist(),
            "vector": vectors.astype(float).tolist(),
        }


def _refusal(found: Mapping[str, Any]) -> Refusal:
    return Refusal(str(found["text"]), tuple(found["ids"]), int(found["scored"]), float(found["share"]))
