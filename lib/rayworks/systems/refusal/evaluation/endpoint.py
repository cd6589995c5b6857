"""A model behind any OpenAI-compatible endpoint: bounded concurrency, a rate limit, retries; errors are no refusals."""

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from rayworks.core.errors import ConfigError
from rayworks.systems.refusal.evaluation.answers import Answer, Arrived, checked
from rayworks.systems.refusal.evaluation.prompt_sets import Prompt

_REPEATED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FATAL = {
    401: "set the variable of its API key",
    403: "set the variable of its API key",
    404: "correct its address or model",
}
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
"""Seconds before a request is repeated; the wait doubles each time."""
_FILTER_CODES = ("content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation")
"""Of errors with which a provider's filter refuses a prompt."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """How an endpoint is asked."""

    url: str
    """Up to and with ``/v1``."""
    model: str
    key_variable: str = ""
    """Environment variable that holds the API key; empty: none is sent."""
    system_prompt: str = ""
    max_tokens: int = 256
    temperature: float = 0.0
    concurrency: int = 8
    requests_per_minute: float = 0.0
    """0: no limit."""
    retries: int = 4
    timeout_seconds: float = 60.0
    """Of one request."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the body beside the protocol's, such as ``guidance`` of the alignment application; null takes one away."""


class Endpoint:
    """An answerer over HTTP."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._asked = settings
        self._key = os.environ.get(settings.key_variable, "") if settings.key_variable else ""
        if settings.key_variable and not self._key:
            raise ConfigError(
                f"key_variable: the environment has no {settings.key_variable}; set it to the endpoint's API key"
            )
        self.settings: Mapping[str, Any] = {
            name: getattr(settings, name) for name in ("url", "model", "system_prompt", "max_tokens", "temperature")
        } | {"extra_body": dict(settings.extra_body)}

    def answers(self, prompts: Sequence[Prompt], arrived: Arrived) -> list[Answer]:
        """One answer for each prompt, in order.

        Raises:
            ConfigError: the endpoint refuses the key, or knows no such address or model.
        """
        return asyncio.run(self._all(prompts, arrived))

    async def _all(self, prompts: Sequence[Prompt], arrived: Arrived) -> list[Answer]:
        settings = self._asked
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=settings.concurrency)
        places, pace = asyncio.Semaphore(settings.concurrency), _Pace(settings.requests_per_minute)
        async with httpx.AsyncClient(headers=headers, timeout=settings.timeout_seconds, limits=limits) as client:

            async def one(prompt: Prompt) -> Answer:
                async with places:
                    answer = checked(await self._answer(client, pace, prompt))
                arrived(answer)
                return answer

            tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

    async def _answer(self, client: httpx.AsyncClient, pace: "_Pace", prompt: Prompt) -> Answer:
        settings = self._asked
        system = [{"role": "system", "content": settings.system_prompt}] if settings.system_prompt else []
        body = {
            "model": settings.model,
            "messages": [*system, {"role": "user", "content": prompt.text}],
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            **settings.extra_body,
        }
        body = {name: value for name, value in body.items() if value is not None}
        failure = ""
        for attempt in range(settings.retries + 1):
            await pace.turn()
            asked_to_wait = 0.0
            try:
                async with asyncio.timeout(settings.timeout_seconds):
                    response = await client.post(f"{settings.url.rstrip('/')}/chat/completions", json=body)
            except (httpx.HTTPError, TimeoutError) as error:
                failure = type(error).__name__
            except httpx.InvalidURL:
                raise ConfigError(f"endpoint {settings.url!r}: is no URL; give http://HOST:PORT/v1") from None
            else:
                if response.status_code in _FATAL and not _filtered(response):
                    advice = _FATAL[response.status_code]
                    raise ConfigError(f"endpoint {settings.url}: answers {response.status_code}; {advice}")
                if response.status_code not in _REPEATED:
                    return _read(prompt.uid, response)
                failure, asked_to_wait = f"HTTP {response.status_code}", _retry_after(response)
            if attempt < settings.retries:
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                await asyncio.sleep(min(_LONGEST_WAIT, max(wait, asked_to_wait)))
        return Answer(prompt.uid, "", error=failure)


class _Pace:
    """Turns at most so many a minute, evenly."""

    def __init__(self, per_minute: float) -> None:
        self._gap, self._next = (60 / per_minute if per_minute else 0.0), 0.0

    async def turn(self) -> None:
        """Wait for one."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next)
        self._next = start + self._gap
        if start > now:
            await asyncio.sleep(start - now)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the header asks for, as a number or a date; 0 where it has none that can be read."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, float((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()))
    except (ValueError, TypeError):
        return 0.0


def _read(uid: str, response: httpx.Response) -> Answer:
    """The answer in a response; what is not of the protocol is an error, whose message quotes nothing of it."""
    if response.status_code >= 400:
        filtered = _filtered(response)
        return Answer(uid, "", "content_filter") if filtered else Answer(uid, "", error=f"HTTP {response.status_code}")
    try:
        choice = response.json()["choices"][0]
        message, reason = choice["message"], str(choice.get("finish_reason") or "")
        text, refusal = message.get("content") or "", message.get("refusal")
        if isinstance(text, list):
            text = "".join(part.get("text", "") for part in text)
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Answer(uid, "", error="the endpoint's answer is not of the OpenAI protocol")
    return Answer(uid, "", "refusal") if refusal and not text.strip() else Answer(uid, text, reason)


def _filtered(response: httpx.Response) -> bool:
    """Whether an error is a provider's filter that refuses the prompt: by its code, or as moderation."""
    try:
        error = response.json()["error"]
        codes = {str(error.get("code")), str(error.get("type")), str((error.get("innererror") or {}).get("code"))}
        message = str(error.get("message") or "").lower()
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(codes & set(_FILTER_CODES)) or (response.status_code == 403 and "moderation" in message)
