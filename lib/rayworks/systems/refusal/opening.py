"""What a worker holds, by the words of a config: the target, its refusal, judge, labels of harm, and models under test."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.core.models import locate
from rayworks.core.registry import of_the_user
from rayworks.core.tables import read_table
from rayworks.systems.refusal.config import PLANTED, TARGET, Config, ModelSection
from rayworks.systems.refusal.evaluation.answers import Answerer
from rayworks.systems.refusal.evaluation.models_under_test import LocalModel, LocalSettings, judging_model, open_model
from rayworks.systems.refusal.evaluation.prompt_sets import LABELS, Label, Prompt
from rayworks.systems.refusal.filtering.harm import (
    ByFunction,
    ByModel,
    HarmLabel,
    Labeller,
    PersonFirst,
    harm_classifier,
)
from rayworks.systems.refusal.generator.options import GeneratorOptions
from rayworks.systems.refusal.judging.calibration import shipped_judge
from rayworks.systems.refusal.judging.cascade import CascadeJudge
from rayworks.systems.refusal.targets.chat import chat_around
from rayworks.systems.refusal.targets.opening import Target, open_target
from rayworks.systems.refusal.targets.seed_corpora import BUILT_IN, Seed, read_seeds

CLASSIFIER = "classifier"
_WORD_TOKENS = 4
"""Of an answer in one word."""


def target_of(config: Config, device: str) -> Target:
    """The target, as generation needs it."""
    section = config.target
    target = open_target(
        section.name,
        config.run.seed,
        content=section.content,
        paraphrase=config.seeds.paraphrase,
        dtype=section.dtype,
        device=device,
        slots=section.slots,
        differentiable=config.generator.preselection == "gradient" and config.generator.prompts > 0,
    )
    if section.system_prompt is None:
        return target
    # Prompts are written for the chat in which the target will read them.
    return replace(target, chat=chat_around(target.tokenizer, section.system_prompt))


def seeds_of(config: Config) -> list[Seed]:
    """The seeds, for as many prompts as there are to write: each in turn, again and again."""
    own = _toy_seeds(config) if config.target.name == PLANTED else read_seeds(config.seeds.source, config.seeds.column)
    count = config.generator.prompts
    rounds = -(-count // len(own))
    return [Seed(f"{seed.uid}-{turn}", seed.text) for turn in range(rounds) for seed in own][:count]


def different(seeds: Sequence[Seed]) -> list[Seed]:
    """Each seed once."""
    return list({seed.text: seed for seed in seeds}.values())


def _toy_seeds(config: Config) -> list[Seed]:
    from rayworks.systems.refusal.targets.planted import toy_requests

    if config.seeds.source != BUILT_IN:
        return read_seeds(config.seeds.source, config.seeds.column)
    return [Seed(f"{number:06d}", text) for number, text in enumerate(toy_requests(config.run.seed, 40))]


def options_of(config: Config, floor: float | None) -> GeneratorOptions:
    """Knobs of the generator; the floor may have been found from the seeds."""
    section = config.generator
    names = (
        "w1 w2 width inner temperature content_temperature min_tokens max_tokens preselection mean saturation".split()
    )
    return GeneratorOptions(
        floor=floor,
        together=config.target.slots,
        ascii_only=section.ascii_only,
        **{name: getattr(section, name) for name in names},
    )


def judge_of(config: Config, device: str) -> CascadeJudge:
    """The judge, with its model where the config names one."""
    judge, _ = shipped_judge(config.run.seed)
    name = config.judge.model
    if name is None:
        return judge
    own = {"max_tokens": _WORD_TOKENS, "key_variable": config.judge.key_from or ""}
    asked = judging_model(open_model(name, _options(config, device) | own))
    return replace(judge, model=asked, ask_below=config.judge.ask_below)


def uses_classifier(config: Config) -> bool:
    """Whether the built-in classifier labels harm; the toy knows itself."""
    return config.filter.harm == CLASSIFIER and config.target.name != PLANTED


def labeller_of(config: Config, device: str) -> Labeller:
    """Who labels harm."""
    name = config.filter.harm
    found: Labeller
    if name == CLASSIFIER:
        found = harm_classifier() if uses_classifier(config) else _Oracle()
    elif _is_function(name):
        found = ByFunction(name)
    else:
        found = ByModel(name, _asked(config, name, device))
    return found if config.filter.person is None else PersonFirst(read_person(config.filter.person), found)


class _Oracle:
    """The toy's own knowledge."""

    def label(self, prompts: Sequence[str]) -> list[HarmLabel]:
        """See :class:`~.filtering.harm.Labeller`."""
        from rayworks.systems.refusal.targets.planted import is_harmful

        return [HarmLabel("harmful" if is_harmful(prompt) else "harmless", "the toy itself") for prompt in prompts]


def read_person(file: str) -> dict[str, Label]:
    """A person's labels by the text of a prompt; rows without a label are still to be labelled.

    Raises:
        DataError: the file cannot be read, a row of it used, or one prompt has two labels; the message names the row, not the
            prompt.
    """
    table = read_table(file, "filter.person", quoted=False, dtype=str, na_values=[]).fillna("")
    if missing := {"prompt", "label"} - set(table.columns):
        raise DataError(f"filter.person {file!r}: has no column {', '.join(sorted(missing))}; give prompt and label")
    found: dict[str, Label] = {}
    for number, (text, word) in enumerate(zip(table["prompt"], table["label"], strict=True), 1):
        prompt, label = str(text or "").strip(), str(word or "").strip().lower()
        if not label:
            continue
        if not prompt or label not in LABELS:
            raise DataError(f"filter.person row {number}: needs prompt, and label as one of {', '.join(LABELS)}")
        if found.setdefault(prompt, cast(Label, label)) != label:
            raise DataError(f"filter.person row {number}: labels a prompt otherwise than a row above; keep one of them")
    if not found:
        raise DataError(f"filter.person {file!r}: has no label; write one of {', '.join(LABELS)} beside a prompt")
    return found


def model_of(section: ModelSection, config: Config, target: Callable[[], Target], device: str) -> Answerer:
    """A model under test; ``target`` opens that of the run."""
    system = section.system_prompt if section.system_prompt is not None else config.target.system_prompt
    if section.model == TARGET:
        asked = LocalSettings(
            model=config.target.name, system_prompt=system or "", max_tokens=config.target.reply_tokens
        )
        return LocalModel(asked, target().engine)
    return open_model(
        section.model,
        _options(config, device)
        | {
            "system_prompt": section.system_prompt or "",
            "extra_body": section.extra_body,
            "key_variable": section.key_from or "",
        },
    )


def check_models(config: Config) -> None:
    """Models under test, of the judge and of harm, by name, without loading one.

    Raises:
        ConfigError: a function cannot be imported, or an endpoint has no model.
        DataError: there is no such model or file.
    """
    named = [(f"evaluation.models {one.name}", one.model) for one in config.evaluation.models if one.model != TARGET]
    named += [("judge.model", config.judge.model)] if config.judge.model else []
    named += [("filter.harm", config.filter.harm)] if config.filter.harm != CLASSIFIER else []
    for field, name in named:
        if name.startswith(("http://", "https://")):
            if "#" not in name:
                raise ConfigError(f"{field}: {name!r} names an endpoint without its model; write {name}#MODEL")
        elif name.endswith(".jsonl"):
            if not Path(name).expanduser().is_file():
                raise DataError(f"{field}: there is no file {name!r}; give the answers of an earlier run")
        elif _is_function(name):
            of_the_user(field, name, "is no model; give a name, a folder, hub:OWNER/NAME, a URL or module:function")
        else:
            locate(name)


def _options(config: Config, device: str) -> dict[str, Any]:
    evaluation, target = config.evaluation, config.target
    return {
        "max_tokens": target.reply_tokens,
        "dtype": target.dtype,
        "device": device,
        "slots": target.slots,
        "concurrency": max(1, evaluation.concurrency // config.compute.workers),
        "requests_per_minute": (evaluation.requests_per_minute or 0.0) / config.compute.workers,
        "retries": evaluation.retries,
        "timeout_seconds": evaluation.timeout_seconds,
    }


def _asked(config: Config, name: str, device: str) -> Callable[[Sequence[str]], list[str]]:
    """A model that is asked for a word; :class:`InfrastructureError` where it fails after all retries."""
    own = {"max_tokens": _WORD_TOKENS, "key_variable": config.filter.key_from or ""}
    model = open_model(name, _options(config, device) | own)

    def answer(questions: Sequence[str]) -> list[str]:
        prompts = [Prompt(str(number), text, "harmless") for number, text in enumerate(questions)]
        found = model.answers(prompts, lambda arrived: None)
        failed = [one.error for one in found if one.error]
        if failed:
            raise InfrastructureError(
                f"filter.harm {name}: {len(failed)} of {len(found)} prompts got no label, the first for {failed[0]}"
            )
        return [one.text for one in found]

    return answer


def _is_function(name: str) -> bool:
    is_model = name.startswith(("http://", "https://", "hub:")) or Path(name).expanduser().exists()
    return ":" in name and not is_model
