"""Models under test: a local engine, a function of the user's, and the one that a name stands for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rayworks.core.errors import ConfigError, DataError
from rayworks.core.registry import of_the_user
from rayworks.lm.engine import Generation, GenerationRequest
from rayworks.systems.refusal.evaluation.answers import Answer, Answerer, Arrived, StoredAnswers
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt
from rayworks.systems.refusal.judging.cascade import ModelJudge, asked_by_prompt

_BATCH = 32
"""Prompts whose answers arrive together."""


class Generating(Protocol):
    """What is used of an engine."""

    tokenizer: Any

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One continuation per request, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """How a local model is asked."""

    model: str
    """Packaged name, local folder or ``hub:OWNER/NAME``."""
    system_prompt: str = ""
    max_tokens: int = 64
    dtype: str = "float32"
    device: str = "cpu"
    slots: int = 16


class LocalModel:
    """An answerer of a local engine, greedy, through the model's chat template.

    Args:
        engine: that is open already; None opens the model's.
    """

    def __init__(self, settings: LocalSettings, engine: Generating | None = None) -> None:
        if engine is None:
            from rayworks.lm.transformers_engine import TransformersEngine

            engine = TransformersEngine(settings.model, settings.dtype, settings.slots, device=settings.device)
        self._engine, self._asked = engine, settings
        names = ("model", "system_prompt", "max_tokens", "dtype")
        self.settings: Mapping[str, Any] = {name: getattr(settings, name) for name in names} | _state(settings.model)

    def answers(self, prompts: Sequence[Prompt], arrived: Arrived) -> list[Answer]:
        """One answer for each prompt, in order."""
        found = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            for answer in self._answered(batch):
                found.append(answer)
                arrived(answer)
        return found

    def _answered(self, batch: Sequence[Prompt]) -> list[Answer]:
        """Of a batch; where the whole fails, each alone, so that only those fail that do not fit."""
        try:
            found = self._engine.generate([self._request(prompt) for prompt in batch])
        except DataError as error:
            if len(batch) > 1:
                return [answer for prompt in batch for answer in self._answered([prompt])]
            return [Answer(batch[0].uid, "", error=str(error).partition(";")[0])]
        return [Answer(one.uid, one.text, one.finish_reason) for one in found]

    def _request(self, prompt: Prompt) -> GenerationRequest:
        text = chat_text(self._engine.tokenizer, prompt.text, self._asked.system_prompt)
        return GenerationRequest(prompt=text, max_new_tokens=self._asked.max_tokens, temperature=0.0, uid=prompt.uid)


def _state(model: str) -> dict[str, Any]:
    """Sizes and times of the files of a model in a folder, which may be trained further under the same name."""
    files = sorted(path for path in Path(model).expanduser().rglob("*") if path.is_file())
    return {"files": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]} if files else {}


def chat_text(tokenizer: Any, message: str, system_prompt: str = "") -> str:
    """A user's message, behind a system prompt, as the chat template puts it; before the message where it has no template or
    no place for one.
    """
    joined = f"{system_prompt}\n\n{message}" if system_prompt else message
    if not getattr(tokenizer, "chat_template", None):
        return joined
    user = [{"role": "user", "content": message}]
    if system_prompt:
        from jinja2 import TemplateError

        try:
            turns = [{"role": "system", "content": system_prompt}, *user]
            return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except TemplateError:
            user = [{"role": "user", "content": joined}]
    return str(tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True))


class FunctionModel:
    """An answerer of a function from texts to texts; one that fails gives errors."""

    def __init__(self, name: str, function: Callable[[list[str]], Sequence[str]]) -> None:
        self.settings: Mapping[str, Any] = {"function": name}
        self._function = function

    def answers(self, prompts: Sequence[Prompt], arrived: Arrived) -> list[Answer]:
        """One answer for each prompt, in order."""
        found = []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            try:
                texts = list(self._function([prompt.text for prompt in batch]))
                if len(texts) != len(batch) or not all(isinstance(text, str) for text in texts):
                    raise TypeError("it must give one text for each")
                given = [Answer(prompt.uid, text) for prompt, text in zip(batch, texts, strict=True)]
            except Exception as error:
                given = [
                    Answer(prompt.uid, "", error=f"the function failed with {type(error).__name__}") for prompt in batch
                ]
            for answer in given:
                found.append(answer)
                arrived(answer)
        return found


def open_model(name: str, options: Mapping[str, Any]) -> Answerer:
    """The model under test of a name.

    Args:
        name: ``http(s)://HOST/v1#MODEL``; an answers file ``.jsonl``; ``module:function`` from texts to texts; else a local
            model: its packaged name, a folder or ``hub:OWNER/NAME``.
        options: fields of :class:`EndpointSettings` and :class:`LocalSettings`; each takes those it has.

    Raises:
        ConfigError: there is no such function, or the endpoint has no model or key.
        DataError: the file or the local model cannot be read.
    """

    def settings(kind: Any, **own: str) -> Any:
        return kind(**{name: value for name, value in options.items() if name in kind.__dataclass_fields__} | own)

    if name.startswith(("http://", "https://")):
        url, _, model = name.partition("#")
        if not model:
            raise ConfigError(f"model {name!r}: names an endpoint without its model; write {url}#MODEL")
        from rayworks.systems.refusal.evaluation.endpoint import Endpoint, EndpointSettings

        return Endpoint(settings(EndpointSettings, url=url, model=model))
    if name.endswith(".jsonl"):
        return StoredAnswers(Path(name).expanduser())
    if ":" in name and not name.startswith("hub:") and not Path(name).exists():
        function = of_the_user(
            "model", name, "is no model; give a name, a folder, hub:OWNER/NAME, a URL or module:function"
        )
        return FunctionModel(name, function)
    return LocalModel(settings(LocalSettings, model=name))


def judging_model(model: Answerer) -> ModelJudge:
    """A judge of any model that answers prompts; what it fails on is no kind, which the cascade takes for an abstention."""

    def ask(questions: Sequence[str]) -> list[str]:
        prompts = [Prompt(str(number), question, "harmless") for number, question in enumerate(questions)]
        return ["" if answer.error else answer.text for answer in model.answers(prompts, lambda answer: None)]

    return asked_by_prompt(ask)
