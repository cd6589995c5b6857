r"""Guided generation over the OpenAI protocol: a frozen base, and reward models whose weights each request chooses.

    curl http://127.0.0.1:8000/alignment/v1/completions -H "Authorization: Bearer $KEY" \
      -H 'Content-Type: application/json' \
      -d '{"model": "smollm2-135m-instruct", "prompt": "Title of a customer review of Dresses:",
           "max_tokens": 12, "seed": 1, "guidance": {"sentiment": 1.0}}'

A stock OpenAI client works unchanged; ``guidance`` goes in its ``extra_body``. While a stream runs, its weights can be
changed: ``PATCH /v1/completions/ID/guidance``.
"""

import asyncio
import logging
import secrets
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal

from fastapi import Response
from fastapi.responses import StreamingResponse
from jinja2 import TemplateError
from pydantic import Field
from ray import serve

from rayworks.core.config import EngineSection
from rayworks.core.errors import DataError, InfrastructureError, RayworksError
from rayworks.lm.background_decoding import BackgroundDecoding
from rayworks.lm.rows import Row
from rayworks.lm.threads import limit_torch_threads
from rayworks.systems.alignment.guidance import Guidance
from rayworks.systems.alignment.guided_decoding import GuidedRequest

from ..common.access import Caller
from ..common.application import new_application
from ..common.openai import ChatBody, CompletionBody, GuidanceBody, Message, Prompt
from ..common.openai_answers import Completion, DrawnToken, Model, ModelList
from ..common.peers import Peers
from ..common.problems import RETRY_SECONDS, Problem, problem_of, problems
from ..common.served_run import HEALTH_SECONDS, Deadline, PerKey, Processors, ServedRun, ServingArgs, bind
from ..common.streaming import DONE, EVENTS, MEDIA_TYPE, GrowingText, event
from .alignment_answers import Asked, read_engine


def as_problem(error: RayworksError) -> Problem:
    """What fails here is the decoding, which only another replica can fix."""
    if isinstance(error, InfrastructureError):
        return Problem(503, f"{error}; the replica is being replaced", RETRY_SECONDS)
    return problem_of(error)


ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole answer; with stream=true, in chunks", "content": EVENTS},
    **problems(404),
}
"""Of both completions endpoints."""

api = new_application("alignment", "Guided generation with live objective weights.", as_problem=as_problem)


class Args(ServingArgs):
    """What the Serve config may set."""

    export: str = Field("~/rayworks/runs/alignment/smoke/export", description="export folder of a finished run")
    engine: Literal["transformers", "vllm"] = Field("transformers", description="what decodes")
    memory_share: float | None = Field(None, gt=0, le=1, description="vllm: share of a GPU's memory; null: its default")
    slots: int = Field(8, ge=1, le=1024, description="rows decoded together; the next max_waiting wait for a slot")
    max_prompt_tokens: int = Field(2048, ge=1, description="longer prompts: 400")
    max_total_tokens: int = Field(4096, ge=2, description="prompt and max_tokens together; more: 400. Bounds the cache")
    concurrent_per_key: PerKey = 16
    deadline_seconds: Deadline = 120.0
    num_cpus: Processors = 1.0


logger = logging.getLogger("rayworks.serve")
TOO_LONG = "context_length_exceeded"
"""OpenAI's code, which clients look for."""
IDS_SHOWN = 4
"""Unknown tokens that an answer names."""


@serve.deployment(name="guided-generation")
@serve.ingress(api)
class Alignment(ServedRun):
    """One base and its reward models behind the OpenAI protocol."""

    def __init__(self, args: Args, shared: Any = None) -> None:
        super().__init__(args, shared)
        limit_torch_threads()
        self._args = args
        section = EngineSection(engine=args.engine, memory_share=args.memory_share)
        device = "cuda" if args.num_gpus else "cpu"
        self._engine, self._card = read_engine(args.export, args.slots, device, section)
        self._decoding = BackgroundDecoding(self._engine.decoding)
        self._running: dict[str, tuple[str, Asked]] = {}
        self.peers.receive = self._change

    async def check(self) -> None:
        """A token has been drawn lately: an idle replica draws one."""
        if self._decoding.load and self._decoding.seconds_since_step < HEALTH_SECONDS:
            return
        row = self._engine.row(GuidedRequest(prompt="Hello", max_new_tokens=1, temperature=0.0))
        try:
            await asyncio.wrap_future(self._decoding.submit(row))
        finally:
            self._cancel([row])

    @property
    def load(self) -> int:
        """Rows that decode or wait."""
        return self._decoding.load

    def state(self) -> dict[str, Any]:
        """The same, by its name."""
        return {"rows": self.load}

    @api.get("/v1/models", response_model_exclude_none=True)
    async def models(self, owner: Caller) -> ModelList:
        """The base model and the objectives that can guide it."""
        return ModelList(data=[self._card])

    @api.get("/v1/models/{model:path}", response_model_exclude_none=True, responses=problems(404))
    async def model(self, model: str, owner: Caller) -> Model:
        """One of them; the names of hubs and folders have slashes."""
        return self._served(model)

    def _served(self, model: str) -> Model:
        if model != self._card.id:
            raise Problem(404, f"model {model!r}: is not served here; use {self._card.id!r}", code="model_not_found")
        return self._card

    @api.post("/v1/completions", response_model=Completion, response_model_exclude_none=True, responses=ANSWERS)
    async def completions(self, body: CompletionBody, owner: Caller) -> Any:
        """Continue a prompt."""
        return await self._answer(body, body.prompt, body.max_tokens, owner)

    @api.post("/v1/chat/completions", response_model=Completion, response_model_exclude_none=True, responses=ANSWERS)
    async def chat_completions(self, body: ChatBody, owner: Caller) -> Any:
        """Answer a chat."""
        return await self._answer(body, [self._chat(body.messages)], body.token_limit, owner)

    def _chat(self, messages: Sequence[Message]) -> str:
        """The prompt that the model's chat template makes of messages."""
        tokenizer = self._engine.tokenizer
        if not tokenizer.chat_template:
            raise Problem(400, "messages: the model has no chat template; send a prompt to /v1/completions")
        for number, message in enumerate(messages):
            if message.tool_calls and "tool_calls" not in str(tokenizer.chat_template):
                raise Problem(
                    400, f"messages.{number}.tool_calls: the model's chat template has no place for them; remove them"
                )
        turns = [message.as_template_reads_it() for message in messages]
        try:
            return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except (ValueError, TypeError, TemplateError) as error:
            raise Problem(400, f"messages: the model's chat template does not take them ({error})") from None

    @api.patch("/v1/completions/{completion}/guidance", status_code=204, responses=problems(404))
    async def change_guidance(self, completion: str, body: GuidanceBody, owner: Caller) -> Response:
        """Change the weights of a completion that is under way, from its next token on."""
        self._engine.require_known(list(body.guidance))
        Guidance(body.guidance)
        change = completion, owner, body.guidance
        if not (self._change(change) or await self.peers.ask(Peers.replica_of(completion), change)):
            raise Problem(404, f"completion {completion}: is not under way, or is another key's")
        return Response(status_code=204)

    def _change(self, change: tuple[str, str, Mapping[str, Any]]) -> bool:
        """Whether the completion runs on this replica, for that key, and so has the weights from now on."""
        completion, owner, guidance = change
        starter, asked = self._running.get(completion, ("", None))
        if asked is None or starter != owner:
            return False
        for row in asked.rows:
            row.context.guidance.update(guidance)
        return True

    async def _answer(
        self, body: CompletionBody | ChatBody, prompts: Sequence[Prompt], max_tokens: int, owner: str
    ) -> Any:
        rows, chat = self._rows(body, prompts, max_tokens), isinstance(body, ChatBody)
        completion = f"{'chatcmpl' if chat else 'cmpl'}-{self.peers.address}{uuid.uuid4().hex}"
        asked = Asked(completion, rows, body.n, chat, body.wants_logprobs, self._card, self._engine.tokenizer)
        self._running[completion] = (owner, asked)

        def leave() -> None:
            if self._running.pop(completion, None):
                used = asked.usage()
                self.measures.tokens(used.prompt_tokens, used.completion_tokens)

        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = self._stream(asked, usage, leave)
            # A client that is gone before the first event leaves a generator that never starts and so never ends.
            weakref.finalize(events, leave)
            return StreamingResponse(events, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})
        try:
            await self._finish(rows)
        finally:
            leave()
        # Token by token, text takes a while.
        return await asyncio.to_thread(asked.answer) if asked.logprobs else asked.answer()

    def _rows(self, body: CompletionBody | ChatBody, prompts: Sequence[Prompt], max_tokens: int) -> list[Row]:
        """The request's rows, prompt by prompt, checked against every limit before anything is queued."""
        self._served(body.model)
        asked, places = len(prompts) * body.n, self._args.slots + self._args.max_waiting
        if asked > places:
            raise Problem(
                400, f"n: {asked} continuations are asked for, at most {places} are held; lower n or send fewer prompts"
            )
        if self._decoding.load + asked > places:
            raise Problem(503, f"{self._decoding.load} rows are decoding or waiting; try again", retry_after=2)
        seed = secrets.randbits(62) if body.seed is None else body.seed
        request = GuidedRequest(
            prompt="",
            max_new_tokens=max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            stop=body.stops,
        )
        rows: list[Row] = []
        for prompt in prompts:
            if not isinstance(prompt, str):
                self._require_known(prompt)
            ids: tuple[tuple[int, ...], ...] | None = None
            for _ in range(body.n):
                one = replace(request, prompt=prompt, seed=seed + len(rows), guidance=Guidance(body.guidance))
                rows.append(self._engine.row(one, ids))
                if ids is None:
                    ids = rows[-1].prompts
                    self._require_room(ids[0], max_tokens)
        return rows

    def _require_known(self, prompt: tuple[int, ...]) -> None:
        known = self._engine.id_range
        unknown = [token for token in dict.fromkeys(prompt) if token >= known]
        if unknown:
            told = ", ".join(map(str, unknown[:IDS_SHOWN])) + (" and more" if len(unknown) > IDS_SHOWN else "")
            raise Problem(400, f"prompt: has tokens that a model does not have: {told}; send ids below {known}")

    def _require_room(self, prompt: tuple[int, ...], max_tokens: int) -> None:
        length, limit = len(prompt), self._args.max_prompt_tokens
        if length > limit:
            raise Problem(400, f"prompt: is {length} tokens, at most {limit} are taken; shorten it", code=TOO_LONG)
        room = min(self._args.max_total_tokens, self._engine.max_length)
        if length + max_tokens > room:
            raise Problem(
                400, f"max_tokens: {length} prompt tokens and {max_tokens} exceed {room}; lower it", code=TOO_LONG
            )

    async def _finish(self, rows: list[Row]) -> None:
        try:
            async with asyncio.timeout(self._args.deadline_seconds):
                await asyncio.gather(*(asyncio.wrap_future(self._decoding.submit(row)) for row in rows))
        except TimeoutError:
            raise Problem(504, self._late, RETRY_SECONDS) from None
        finally:
            self._cancel(rows)

    @property
    def _late(self) -> str:
        return f"not finished after {self._args.deadline_seconds:g} s; try again later, or ask for fewer tokens"

    async def _stream(self, asked: Asked, usage: bool, leave: Callable[[], None]) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Exception | tuple[int, str, str | None, list[DrawnToken] | None]] = asyncio.Queue()

        def tell(told: Any) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, told)

        def follow(index: int, row: Row) -> None:
            text = GrowingText(row.request.stop)
            tokens = asked.tokens(row) if asked.logprobs else None

            def drawn(row: Row) -> None:
                piece = text.piece(row.text, row.finish_reason is not None)
                tell((index, piece, row.finish_reason, tokens and tokens.take(text.sent)))

            row.on_token = drawn
            self._decoding.submit(row).add_done_callback(ended)

        def ended(done: Future[Row]) -> None:
            if (error := done.exception()) is not None:
                tell(error)

        deadline = loop.time() + self._args.deadline_seconds
        none = {"usage": None} if usage else {}
        try:
            for index, row in enumerate(asked.rows):
                follow(index, row)
                if asked.chat:
                    yield event({**asked.chunk(index, first=True), **none})
            unfinished = len(asked.rows)
            while unfinished:
                async with asyncio.timeout_at(deadline):
                    told = await arrived.get()
                if isinstance(told, Exception):
                    raise told
                index, piece, reason, drawn = told
                unfinished -= reason is not None
                if piece or reason or drawn:
                    yield event({**asked.chunk(index, piece, reason, drawn), **none})
            if usage:
                yield event({**asked.chunk(0), "choices": [], "usage": asked.usage().model_dump()})
            yield DONE
        except Exception as error:
            yield event({"error": self._stream_problem(error).openai_error()})
        finally:
            self._cancel(asked.rows)
            leave()

    def _stream_problem(self, error: Exception) -> Problem:
        """What ends a stream that has begun; of this request alone, where its data are at fault."""
        if isinstance(error, TimeoutError):
            return Problem(504, self._late)
        if isinstance(error, DataError):
            return Problem(400, str(error))
        logger.error("a stream failed", exc_info=error)
        return Problem(503, "the continuation failed; try again")

    def _cancel(self, rows: list[Row]) -> None:
        for row in rows:
            if row.finish_reason is None:
                self._decoding.cancel(row)


def build(args: Args) -> serve.Application:
    """The application, as the Serve config names it: ``serve.apps.alignment:build``."""
    return bind(Alignment, args, together=args.slots)
