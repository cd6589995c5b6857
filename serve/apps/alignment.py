r"""Guided generation over the OpenAI protocol: a frozen base, and reward models whose weights each request chooses.

    curl http://127.0.0.1:8000/alignment/v1/completions -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"model": "smollm2-135m-instruct", "prompt": "Title of a customer review of Dresses:",
           "max_tokens": 12, "seed": 1, "guidance": {"sentiment": 1.0}}'

A stock OpenAI client works unchanged; ``guidance`` goes in its ``extra_body``. While a stream runs, its weights can be
changed: ``PATCH /v1/completions/ID/guidance``.
"""

import asyncio
import json
import secrets
import time
import uuid
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Header, Response
from fastapi.responses import StreamingResponse
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import ConfigError, DataError, InfrastructureError
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.continuous_batching import Row
from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedEngine, GuidedRequest, as_guided_generation

from ..common.access import Access
from ..common.application import Problem, new_application
from ..common.keys import DEFAULT_FILE, ApiKeys
from ..common.openai import (
    ChatBody,
    Choice,
    Completion,
    CompletionBody,
    GuidanceBody,
    GuidanceReport,
    Model,
    ModelList,
    SamplingBody,
    Usage,
)
from ..common.streaming import DONE, MEDIA_TYPE, GrowingText, event

HEALTH_SECONDS = 30.0
"""A replica that has drawn no token for this long, although asked, is replaced."""
WAITING_BEYOND_ROWS = 64
"""Requests that Serve lets in beyond the rows, so that it is this code that answers 503, and health checks get through."""

api = new_application("Rayworks alignment", "Guided generation with live objective weights.", __version__)


class Args(BaseModel):
    """What the Serve config may set."""

    model_config = ConfigDict(extra="forbid")

    export: str = Field("~/rayworks/runs/alignment/smoke/export", description="export folder of a finished run")
    api_keys: str = Field(DEFAULT_FILE, description="file of hashed keys")
    slots: int = Field(8, ge=1, le=1024, description="rows decoded together")
    max_waiting: int = Field(64, ge=0, description="rows that may wait for a slot; beyond that: 503")
    max_prompt_tokens: int = Field(2048, ge=1, description="longer prompts: 413")
    concurrent_per_key: int = Field(16, ge=1, description="requests of one key under way; beyond that: 429")
    max_total_tokens: int = Field(4096, ge=2, description="prompt and max_tokens together; more: 422. Bounds the cache")
    deadline_seconds: float = Field(120.0, gt=0, description="longer requests: 504")
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)


def caller(authorization: Annotated[str | None, Header()] = None) -> str:
    """Whose request it is; refuses requests without a known key."""
    return str(replica().access.owner(authorization))


def replica() -> Any:
    """The deployment object of this process."""
    return serve.get_replica_context().servable_object


Caller = Annotated[str, Depends(caller)]


@serve.deployment(name="guided-generation", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS + 5)
@serve.ingress(api)
class Alignment:
    """One base and its reward models behind the OpenAI protocol."""

    def __init__(self, args: Args) -> None:
        limit_torch_threads()
        self._args = args
        self.access = Access(ApiKeys(args.api_keys), args.concurrent_per_key)
        folder = Path(args.export).expanduser()
        try:
            card = json.loads((folder / "guidance.json").read_text())
        except (OSError, ValueError):
            raise DataError(
                f"export {folder}: holds no guidance.json; finish a run: python -m jobs.run alignment --smoke"
            ) from None
        self._model, self._created = card["base"], int((folder / "guidance.json").stat().st_mtime)
        arms = {name: str(folder / "arms" / name) for name in card["objectives"]}
        device = "cuda" if args.num_gpus else "cpu"
        self._engine = GuidedEngine(card["base"], arms, card["dtype"], args.slots, device)
        self._decoding = BackgroundDecoding(self._engine.decoding)
        self._running: dict[str, tuple[str, list[Guidance]]] = {}
        self._probe: asyncio.Task[None] | None = None

    async def check_health(self) -> None:
        """Called by Serve: a real token, or the replica is replaced."""
        await self._draw_a_token()

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: whether tokens are being drawn. An idle replica draws one; a busy one says when it last did."""
        started = time.perf_counter()
        await self._draw_a_token()
        seconds = round(time.perf_counter() - started, 4)
        return {"status": "ok", "answered_in_seconds": seconds, "rows": self._decoding.load}

    @api.get("/v1/models")
    async def models(self, owner: Caller) -> ModelList:
        """The base model and the objectives that can guide it."""
        return ModelList(data=[Model(id=self._model, created=self._created, objectives=self._engine.objectives)])

    @api.post("/v1/completions", response_model=Completion, response_model_exclude_none=True)
    async def completions(self, body: CompletionBody, owner: Caller) -> Any:
        """Continue a prompt."""
        return await self._answer(body, body.prompt, body.max_tokens, owner, chat=False)

    @api.post("/v1/chat/completions", response_model=Completion, response_model_exclude_none=True)
    async def chat_completions(self, body: ChatBody, owner: Caller) -> Any:
        """Answer a chat."""
        messages = [message.model_dump() for message in body.messages]
        try:
            prompt = self._engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except (ValueError, TemplateError) as error:
            raise Problem(422, f"messages: the model's chat template does not take them ({error})") from None
        return await self._answer(body, str(prompt), body.token_limit, owner, chat=True)

    @api.patch("/v1/completions/{completion}/guidance", status_code=204)
    async def change_guidance(self, completion: str, body: GuidanceBody, owner: Caller) -> Response:
        """Change the weights of a completion that is under way, from its next token on."""
        try:
            self._engine.require_known(list(body.guidance))
            Guidance(body.guidance)
        except ConfigError as error:
            raise Problem(422, str(error)) from None
        starter, running = self._running.get(completion, ("", []))
        if starter != owner:
            raise Problem(404, f"completion {completion}: is not under way on this replica, or is another key's")
        for guidance in running:
            guidance.update(body.guidance)
        return Response(status_code=204)

    async def _answer(self, body: SamplingBody, prompt: str, max_tokens: int, owner: str, *, chat: bool) -> Any:
        rows = self._rows(body, prompt, max_tokens)
        completion = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.access.enter(owner)
        self._running[completion] = (owner, [row.context.guidance for row in rows])

        def leave() -> None:
            if self._running.pop(completion, None) is not None:
                self.access.leave(owner)

        if body.stream:
            events = self._stream(body, rows, completion, chat=chat, leave=leave)
            # A client that is gone before the first event leaves a generator that never starts and so never ends.
            weakref.finalize(events, leave)
            return StreamingResponse(events, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})
        try:
            await self._finish(rows)
        finally:
            leave()
        return self._completion(rows, completion, chat=chat)

    def _rows(self, body: SamplingBody, prompt: str, max_tokens: int) -> list[Row]:
        """The request's rows, checked against every limit before anything is queued."""
        if body.model != self._model:
            raise Problem(404, f"model {body.model!r}: is not served here; use {self._model!r}")
        if self._decoding.load + body.n > self._args.slots + self._args.max_waiting:
            raise Problem(503, f"{self._decoding.load} rows are decoding or waiting; try again", retry_after=2)
        seed = secrets.randbits(62) if body.seed is None else body.seed
        request = GuidedRequest(
            prompt=prompt,
            max_new_tokens=max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            stop=body.stops,
            seed=seed,
        )
        try:
            first = self._engine.row(replace(request, guidance=Guidance(body.guidance)))
        except (ConfigError, DataError) as error:
            raise Problem(422, str(error)) from None
        length = len(first.prompts[0])
        if length > self._args.max_prompt_tokens:
            raise Problem(
                413, f"prompt: is {length} tokens, at most {self._args.max_prompt_tokens} are taken; shorten it"
            )
        room = min(self._args.max_total_tokens, *(model.max_length for model in self._engine.models))
        if length + max_tokens > room:
            raise Problem(422, f"max_tokens: {length} prompt tokens and {max_tokens} exceed {room}; lower it")
        others = [replace(request, seed=seed + n, guidance=Guidance(body.guidance)) for n in range(1, body.n)]
        return [first, *(self._engine.row(other, first.prompts) for other in others)]

    async def _finish(self, rows: list[Row]) -> None:
        try:
            async with asyncio.timeout(self._args.deadline_seconds):
                await asyncio.gather(*(asyncio.wrap_future(self._decoding.submit(row)) for row in rows))
        except TimeoutError:
            raise Problem(504, self._late) from None
        except InfrastructureError as error:
            raise Problem(503, f"{error}; the replica is being replaced", retry_after=10) from None
        finally:
            self._cancel(rows)

    @property
    def _late(self) -> str:
        return f"not finished after {self._args.deadline_seconds:g} s; ask for fewer tokens"

    async def _stream(
        self, body: SamplingBody, rows: list[Row], completion: str, *, chat: bool, leave: Any
    ) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, str, str | None]] = asyncio.Queue()
        texts = [GrowingText(row.request.stop) for row in rows]

        def tell(index: int, piece: str, reason: str | None) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, (index, piece, reason))

        def follow(index: int, row: Row) -> None:
            row.on_token = lambda row: tell(
                index, texts[index].piece(row.text, row.finish_reason is not None), row.finish_reason
            )
            future = self._decoding.submit(row)
            future.add_done_callback(lambda done: tell(index, "", "failed") if done.exception() else None)

        deadline = loop.time() + self._args.deadline_seconds
        try:
            for index, row in enumerate(rows):
                follow(index, row)
                if chat:
                    yield event(self._chunk(completion, index, "", None, chat=chat, first=True))
            unfinished = len(rows)
            while unfinished:
                async with asyncio.timeout_at(deadline):
                    index, piece, reason = await arrived.get()
                if reason == "failed":
                    raise InfrastructureError("the replica failed and is being replaced; try again")
                unfinished -= reason is not None
                if piece or reason:
                    chunk = self._chunk(completion, index, piece, reason, chat=chat)
                    if reason:
                        chunk["choices"][0]["guidance"] = self._guidance_report(rows[index]).model_dump()
                    yield event(chunk)
            if body.stream_options is not None and body.stream_options.include_usage:
                usage = self._completion(rows, completion, chat=chat).usage.model_dump()
                yield event({**self._chunk(completion, 0, "", None, chat=chat), "choices": [], "usage": usage})
            yield DONE
        except TimeoutError:
            yield event({"error": {"message": self._late, "type": "deadline", "code": "deadline"}})
        except InfrastructureError as error:
            yield event({"error": {"message": str(error), "type": "busy", "code": "busy"}})
        finally:
            self._cancel(rows)
            leave()

    def _completion(self, rows: list[Row], completion: str, *, chat: bool) -> Completion:
        results = [as_guided_generation(row, self._engine.objectives) for row in rows]
        used = sum(len(result.base_logprobs) for result in results)
        asked = results[0].prompt_tokens
        choices = [
            Choice(
                index=index,
                finish_reason=result.finish_reason,
                text=None if chat else result.text,
                message={"role": "assistant", "content": result.text} if chat else None,
                guidance=self._guidance_report(row),
            )
            for index, (row, result) in enumerate(zip(rows, results, strict=True))
        ]
        return Completion(
            id=completion,
            object="chat.completion" if chat else "text_completion",
            created=int(time.time()),
            model=self._model,
            choices=choices,
            usage=Usage(prompt_tokens=asked, completion_tokens=used, total_tokens=asked + used),
        )

    def _guidance_report(self, row: Row) -> GuidanceReport:
        result = as_guided_generation(row, self._engine.objectives)
        return GuidanceReport(
            log_z=result.log_z,
            kl_to_base=result.kl_to_base,
            base_logprob=sum(result.base_logprobs),
            reward_logprobs={name: sum(v) for name, v in result.reward_logprobs.items() if any(v)},
            weights={name: list(values) for name, values in result.weights.items() if any(values)},
        )

    def _chunk(
        self, completion: str, index: int, piece: str, reason: str | None, *, chat: bool, first: bool = False
    ) -> dict[str, Any]:
        delta = {**({"role": "assistant"} if first else {}), "content": piece}
        content: dict[str, Any] = {"delta": delta} if chat else {"text": piece, "logprobs": None}
        return {
            "id": completion,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [{"index": index, "finish_reason": reason, **content}],
        }

    async def _draw_a_token(self) -> None:
        """Return once a token has been drawn lately; all callers share one probe, and none is needed while rows decode.

        Raises:
            TimeoutError: none was drawn in ``HEALTH_SECONDS``.
            InfrastructureError: the decoding thread has ended.
        """
        if self._decoding.load and self._decoding.seconds_since_step < HEALTH_SECONDS:
            return
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_once())
        await asyncio.shield(self._probe)

    async def _probe_once(self) -> None:
        row = self._engine.row(GuidedRequest(prompt="Hello", max_new_tokens=1, temperature=0.0))
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await asyncio.wrap_future(self._decoding.submit(row))
        finally:
            self._cancel([row])

    def _cancel(self, rows: list[Row]) -> None:
        for row in rows:
            if row.finish_reason is None:
                self._decoding.cancel(row)


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.alignment:build``."""
    options = {"num_cpus": args.num_cpus, "num_gpus": args.num_gpus}
    application: serve.Application = Alignment.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options=options,
        max_ongoing_requests=args.slots + args.max_waiting + WAITING_BEYOND_ROWS,
        max_queued_requests=WAITING_BEYOND_ROWS,
    ).bind(args)
    return application
