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
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from rayworks import __version__
from rayworks.core.errors import ConfigError, DataError
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.checkpoints import limit_torch_threads
from rayworks.lm.continuous_batching import Row
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


@serve.deployment(name="guided-generation", health_check_period_s=10, health_check_timeout_s=HEALTH_SECONDS)
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
        self._engine = GuidedEngine(card["base"], arms, card["dtype"], args.slots)
        self._decoding = BackgroundDecoding(self._engine.decoding)
        self._streams: dict[str, list[Guidance]] = {}

    async def check_health(self) -> None:
        """Called by Serve: a real token, or the replica is replaced."""
        await self._one_token()

    @api.get("/healthz")
    async def healthz(self) -> dict[str, Any]:
        """Open to all: draws one real token and says how long it took."""
        started = time.perf_counter()
        await self._one_token()
        return {"status": "ok", "token_seconds": round(time.perf_counter() - started, 4)}

    @api.get("/v1/models")
    async def models(self, owner: Caller) -> ModelList:
        """The base model and the objectives that can guide it."""
        return ModelList(data=[Model(id=self._model, created=self._created, objectives=self._engine.objectives)])

    @api.post("/v1/completions", response_model=Completion, response_model_exclude_none=True)
    async def completions(self, body: CompletionBody, request: Request, owner: Caller) -> Any:
        """Continue a prompt."""
        return await self._answer(body, body.prompt, body.max_tokens, request, owner, chat=False)

    @api.post("/v1/chat/completions", response_model=Completion, response_model_exclude_none=True)
    async def chat_completions(self, body: ChatBody, request: Request, owner: Caller) -> Any:
        """Answer a chat."""
        messages = [message.model_dump() for message in body.messages]
        prompt = self._engine.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return await self._answer(body, str(prompt), body.token_limit, request, owner, chat=True)

    @api.patch("/v1/completions/{completion}/guidance", status_code=204)
    async def change_guidance(self, completion: str, body: GuidanceBody, owner: Caller) -> Response:
        """Change the weights of a completion that is under way, from its next token on."""
        running = self._streams.get(completion)
        if running is None:
            raise Problem(404, f"completion {completion}: is not under way on this replica")
        self._require_known(list(body.guidance))
        for guidance in running:
            guidance.update(body.guidance)
        return Response(status_code=204)

    async def _answer(
        self, body: SamplingBody, prompt: str, max_tokens: int, request: Request, owner: str, *, chat: bool
    ) -> Any:
        rows = self._rows(body, prompt, max_tokens)
        completion = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.access.enter(owner)
        self._streams[completion] = [row.context.guidance for row in rows]

        def leave() -> None:
            self._streams.pop(completion, None)
            self.access.leave(owner)

        if body.stream:
            events = self._stream(body, rows, completion, chat=chat, leave=leave)
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
        self._require_known(list(body.guidance))
        if self._decoding.load + body.n > self._args.slots + self._args.max_waiting:
            raise Problem(503, f"{self._decoding.load} rows are decoding or waiting; try again", retry_after=2)
        seed = secrets.randbits(62) if body.seed is None else body.seed
        try:
            rows = [
                self._engine.row(
                    GuidedRequest(
                        prompt=prompt,
                        max_new_tokens=max_tokens,
                        temperature=body.temperature,
                        top_p=body.top_p,
                        stop=body.stops,
                        seed=seed + index,
                        guidance=Guidance(body.guidance),
                    )
                )
                for index in range(body.n)
            ]
        except (ConfigError, DataError) as error:
            raise Problem(422, str(error)) from None
        length = len(rows[0].prompts[0])
        if length > self._args.max_prompt_tokens:
            raise Problem(
                413, f"prompt: is {length} tokens, at most {self._args.max_prompt_tokens} are taken; shorten it"
            )
        room = min(model.max_length for model in self._engine.models)
        if length + max_tokens > room:
            raise Problem(
                422, f"max_tokens: {length} prompt tokens and {max_tokens} exceed the model's {room}; lower it"
            )
        return rows

    async def _finish(self, rows: list[Row]) -> None:
        futures = [asyncio.wrap_future(self._decoding.submit(row)) for row in rows]
        try:
            async with asyncio.timeout(self._args.deadline_seconds):
                await asyncio.gather(*futures)
        except TimeoutError:
            raise Problem(504, f"not finished after {self._args.deadline_seconds:g} s; ask for fewer tokens") from None
        finally:
            self._cancel(rows)

    async def _stream(
        self, body: SamplingBody, rows: list[Row], completion: str, *, chat: bool, leave: Any
    ) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, str, str | None]] = asyncio.Queue()
        texts = [GrowingText(row.request.stop) for row in rows]

        def publish(index: int) -> Any:
            def on_token(row: Row) -> None:
                piece = texts[index].piece(row.text, row.finish_reason is not None)
                loop.call_soon_threadsafe(arrived.put_nowait, (index, piece, row.finish_reason))

            return on_token

        for index, row in enumerate(rows):
            row.on_token = publish(index)
        futures = [self._decoding.submit(row) for row in rows]
        try:
            unfinished = len(rows)
            async with asyncio.timeout(self._args.deadline_seconds):
                for index in range(len(rows)) if chat else ():
                    yield event(self._chunk(completion, index, "", None, chat=chat, first=True))
                while unfinished:
                    index, piece, reason = await arrived.get()
                    unfinished -= reason is not None
                    if piece or reason:
                        yield event(self._chunk(completion, index, piece, reason, chat=chat))
                await asyncio.gather(*map(asyncio.wrap_future, futures))
            whole = self._completion(rows, completion, chat=chat)
            if body.stream_options is not None and body.stream_options.include_usage:
                last = {
                    **self._chunk(completion, 0, "", None, chat=chat),
                    "choices": [],
                    "usage": whole.usage.model_dump(),
                }
                yield event(last)
            yield DONE
        except TimeoutError:
            message = f"not finished after {self._args.deadline_seconds:g} s; ask for fewer tokens"
            yield event({"error": {"message": message, "type": "deadline", "code": "deadline"}})
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
                guidance=GuidanceReport(
                    log_z=result.log_z,
                    kl_to_base=result.kl_to_base,
                    base_logprob=sum(result.base_logprobs),
                    reward_logprobs={name: sum(v) for name, v in result.reward_logprobs.items() if any(v)},
                    weights={name: list(values) for name, values in result.weights.items() if any(values)},
                ),
            )
            for index, result in enumerate(results)
        ]
        return Completion(
            id=completion,
            object="chat.completion" if chat else "text_completion",
            created=int(time.time()),
            model=self._model,
            choices=choices,
            usage=Usage(prompt_tokens=asked, completion_tokens=used, total_tokens=asked + used),
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

    def _require_known(self, objectives: list[str]) -> None:
        try:
            self._engine.require_known(objectives)
        except ConfigError as error:
            raise Problem(422, str(error)) from None

    async def _one_token(self) -> None:
        row = self._engine.row(GuidedRequest(prompt="Hello", max_new_tokens=1, temperature=0.0))
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.wrap_future(self._decoding.submit(row)), HEALTH_SECONDS)

    def _cancel(self, rows: list[Row]) -> None:
        for row in rows:
            if row.finish_reason is None:
                self._decoding.cancel(row)


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.alignment:build``."""
    options = {"num_cpus": args.num_cpus, "num_gpus": args.num_gpus}
    application: serve.Application = Alignment.options(  # type: ignore[attr-defined]  # added by the decorators
        ray_actor_options=options, max_ongoing_requests=args.slots + args.max_waiting
    ).bind(args)
    return application
