"""A node that speaks Ollama's HTTP API over llama.cpp in this process, for a machine without Ollama.

Refusals carry Ollama's status codes and words. What differs from Ollama is listed in the service's README.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from secrets import token_hex
from typing import Any

import orjson
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ruminate.embedded import creation
from ruminate.embedded.decide import (
    Refused,
    merge_options,
    parameter_lines,
    parse_name,
    require,
    resolve_thinking,
    schema_of,
    unknown_options,
)
from ruminate.embedded.dialogue import Piece, Question, prompt_of, speak
from ruminate.embedded.engine import Engine, EngineFailed, Fleet, Spec
from ruminate.embedded.library import Library, Model
from ruminate.embedded.openai_api import Chunks, OpenAiChatRequest, completion, error_body, to_chat
from ruminate.embedded.requests import (
    ChatRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    ShowRequest,
    read_body,
)
from ruminate.embedded.settings import NodeSettings
from ruminate.embedded.speech import Call
from ruminate.shared.operations import serve_http
from ruminate.shared.service import wait_for_stop

log = structlog.get_logger()

VERSION = "0.34.0-ruminate"
"""Ollama's version whose behaviour this node follows."""

NDJSON = "application/x-ndjson"
FOREVER = datetime(2318, 1, 1, tzinfo=UTC)
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """What every route needs."""

    settings: NodeSettings
    library: Library
    fleet: Fleet

    async def version(self, _: Request) -> Response:
        """The version that this node stands in for."""
        return _json({"version": VERSION})

    async def tags(self, _: Request) -> Response:
        """Every name, last changed first."""
        models = await asyncio.to_thread(self.library.models)
        return _json({"models": [_listed(model) | {"modified_at": _rfc3339(model.modified_at)} for model in models]})

    async def show(self, request: Request) -> Response:
        """What is known of one name."""
        asked = read_body(ShowRequest, await request.body())
        model = await asyncio.to_thread(self.library.find, asked.name_of_model)
        metadata = {k: v for k, v in model.header.metadata.items() if k not in ("general.name", "tokenizer.chat_template")}
        shown = {
            "license": "\n".join(model.licenses),
            "modelfile": _modelfile(model),
            "parameters": parameter_lines(model.parameters),
            "template": model.template or model.header.chat_template,
            "system": model.system,
            "messages": [{"role": m["role"], "content": m.get("content", "")} for m in model.messages],
        }
        always = {
            "details": model.details,
            "model_info": metadata | {"general.parameter_count": model.header.parameters},
            "capabilities": model.capabilities,
            "modified_at": _rfc3339(model.modified_at),
        }
        return _json({name: value for name, value in shown.items() if value} | always)

    async def ps(self, _: Request) -> Response:
        """What is in memory, the longest to stay first."""
        now, clock = datetime.now(UTC), time.monotonic()
        running: list[Line] = []
        for berth in sorted(self.fleet.loaded(), key=lambda berth: -berth.expires_at):
            try:
                model = await asyncio.to_thread(self.library.find, berth.label)
            except Refused:
                continue  # deleted while it was in memory: it leaves when its time is over
            left = self.settings.keep_alive_seconds if berth.users else berth.expires_at - clock
            expires_at = FOREVER if left > (FOREVER - now).total_seconds() else now + timedelta(seconds=left)
            more = {"expires_at": _rfc3339(expires_at), "size_vram": 0, "context_length": berth.spec.context_tokens}
            running.append(_listed(model) | more)
        return _json({"models": running})

    async def has_blob(self, request: Request) -> Response:
        """200 where the bytes are here, else 404."""
        return Response(status_code=200 if self.library.blob(request.path_params["digest"]).exists() else 404)

    async def take_blob(self, request: Request) -> Response:
        """Take bytes in under their digest."""
        fresh = await self.library.take_in(request.path_params["digest"], request.stream())
        return Response(status_code=201 if fresh else 200)

    async def create(self, request: Request) -> Response:
        """Create a model, a status at a time."""
        asked = read_body(CreateRequest, await request.body())
        creation.check(asked)
        steps = creation.create(self.library, asked)
        return await _unless_gone(request, _stream(steps) if asked.stream else _last(steps))

    async def copy(self, request: Request) -> Response:
        """Let another name stand for the same."""
        asked = read_body(CopyRequest, await request.body())
        for word, text in (("source", asked.source), ("destination", asked.destination)):
            try:
                parse_name(text)
            except Refused:
                raise Refused(400, f'{word} "{text}" is invalid') from None
        source, destination = (self.library.existing(parse_name(text)) for text in (asked.source, asked.destination))
        async with self.library.shelf:
            if not await asyncio.to_thread(self.library.copy, source, destination):
                raise Refused(404, f'model "{asked.source}" not found')
        return Response()

    async def delete(self, request: Request) -> Response:
        """Forget a name, and the blobs that only it used."""
        text = read_body(DeleteRequest, await request.body()).name_of_model
        try:
            name = parse_name(text)
        except Refused as refused:
            raise Refused(400, refused.error if not text else f'name "{text}" is invalid') from None
        async with self.library.shelf:
            if not await asyncio.to_thread(self.library.delete, self.library.existing(name)):
                raise Refused(404, f"model '{text}' not found")
        return Response()

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        asked = read_body(ChatRequest, await request.body())
        lines = self._chat(asked)
        return await _unless_gone(request, _stream(lines) if asked.stream else _whole(lines, _joined_chat))

    async def chat_openai(self, request: Request) -> Response:
        """Answer a conversation, in OpenAI's words."""
        try:
            asked = read_body(OpenAiChatRequest, await request.body())
            lines = self._chat(to_chat(asked))
            answer_id, created = f"chatcmpl-{token_hex(4)}", int(time.time())
            if asked.stream:
                chunks = Chunks(answer_id, created, include_usage=bool(asked.stream_options.get("include_usage")))
                events = _stream(lines, encode=lambda line: b"".join(_event(chunk) for chunk in chunks.of(line)), sse=True)
                return await _unless_gone(request, events)
            return await _unless_gone(request, _whole(lines, lambda all_: completion(answer_id, created, _joined_chat(all_))))
        except Refused as refused:
            return _json(error_body(refused.status, refused.error), refused.status)

    async def models_openai(self, _: Request) -> Response:
        """Every name, in OpenAI's words."""
        models = await asyncio.to_thread(self.library.models)
        return _json({"object": "list", "data": [_openai_model(model, model.name.short) for model in models]})

    async def model_openai(self, request: Request) -> Response:
        """One name, in OpenAI's words."""
        text = request.path_params["model"]
        try:
            return _json(_openai_model(await asyncio.to_thread(self.library.find, text), text))
        except Refused as refused:
            return _json(error_body(refused.status, refused.error), refused.status)

    async def generate(self, request: Request) -> Response:
        """Continue a prompt."""
        asked = read_body(GenerateRequest, await request.body())
        lines = self._generate(asked)
        return await _unless_gone(request, _stream(lines) if asked.stream else _whole(lines, _joined_text))

    async def embed(self, request: Request) -> Response:
        """A vector of length 1 a text."""
        began = time.perf_counter_ns()
        asked = read_body(EmbedRequest, await request.body())
        texts = [asked.input] if isinstance(asked.input, str) else asked.input or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        model = await self._find_for_embedding(asked.model)
        options = merge_options(model.parameters, asked.options)
        async with self._engine(model, options, asked.keep_alive, embeds=True) as engine:
            loaded = time.perf_counter_ns()
            vectors, tokens = await self._embed(engine, texts, self._window(model, options), truncate=asked.truncate)
        if asked.dimensions > 0:
            vectors = [_shortened(vector, asked.dimensions) for vector in vectors]
        spent = {"total_duration": time.perf_counter_ns() - began, "load_duration": loaded - began}
        return _json({"model": asked.model, "embeddings": vectors, **spent, "prompt_eval_count": tokens})

    async def embeddings(self, request: Request) -> Response:
        """One vector, as clients asked for it before `/api/embed`."""
        asked = read_body(EmbeddingsRequest, await request.body())
        model = await self._find_for_embedding(asked.model)
        options = merge_options(model.parameters, asked.options)
        async with self._engine(model, options, asked.keep_alive, embeds=True) as engine:
            texts = [asked.prompt] if asked.prompt else []
            vectors, _ = await self._embed(engine, texts, self._window(model, options), truncate=True)
        return _json({"embedding": vectors[0] if vectors else []})

    async def _chat(self, asked: ChatRequest) -> AsyncIterator[Line]:
        began = time.perf_counter_ns()
        model = await asyncio.to_thread(self.library.find, asked.model)
        if not asked.messages and asked.keep_alive == 0:
            self.fleet.expire(model.weights, model.adapter)
            yield _chat_line(asked.model, done_reason="unload")
            return
        _refuse_the_impossible(asked, images=[image for message in asked.messages for image in message.images])
        thinking = resolve_thinking(asked.think, capable="thinking" in model.capabilities, name=asked.model)
        wanted = ("completion", "tools") if asked.tools else ("completion",)
        require(model.capabilities, *wanted, name=model.name)
        options = _options(model, asked.options)
        async with self._engine(model, options, asked.keep_alive) as engine:
            loaded = time.perf_counter_ns()
            if not asked.messages:
                yield _chat_line(asked.model, done_reason="load")
                return
            messages = [*_messages_of(model), *asked.messages]
            if asked.messages[0].role != "system" and model.system:
                messages.insert(0, Message(role="system", content=model.system))
            question = Question(
                messages=messages,
                tools=asked.tools,
                thinking=thinking,
                schema=schema_of(asked.format),
                options=options,
                context_tokens=self._window(model, options),
                truncate=asked.truncate,
            )
            calls = 0
            async with aclosing(self._answer(engine, model, question)) as pieces:
                async for piece in pieces:
                    yield _chat_line(asked.model, piece, first_call=calls) | _spent(piece, began, loaded)
                    calls += len(piece.calls)

    async def _generate(self, asked: GenerateRequest) -> AsyncIterator[Line]:
        began = time.perf_counter_ns()
        model = await asyncio.to_thread(self.library.find, asked.model)
        if not asked.prompt and asked.keep_alive == 0:
            self.fleet.expire(model.weights, model.adapter)
            yield _text_line(asked.model, done_reason="unload")
            return
        if asked.raw and (asked.template or asked.system or asked.context):
            raise Refused(400, "raw mode does not support template, system, or context")
        _refuse_the_impossible(asked, images=asked.images)
        if asked.template:
            raise Refused(400, "this node renders by the template inside of the GGUF and takes none with a request; use raw")
        if asked.context:
            raise Refused(400, "this node does not take the deprecated context; send the conversation to /api/chat")
        thinking = resolve_thinking(asked.think, capable="thinking" in model.capabilities, name=asked.model)
        require(model.capabilities, "completion", *(["insert"] if asked.suffix else []), name=model.name)
        options = _options(model, asked.options)
        async with self._engine(model, options, asked.keep_alive) as engine:
            loaded = time.perf_counter_ns()
            if not asked.prompt:
                yield _text_line(asked.model, done_reason="load")
                return
            system = asked.system or model.system
            question = Question(
                messages=[
                    *([Message(role="system", content=system)] if system else []),
                    *_messages_of(model),
                    Message(role="user", content=asked.prompt),
                ],
                raw_prompt=asked.prompt if asked.raw else None,
                thinking=thinking,
                # Ollama finds the tags in the Go template: a raw answer is split only where one was sent. A format binds from
                # the first token, which leaves no thinking.
                splits=not asked.format and (bool(model.template) or not asked.raw),
                schema=schema_of(asked.format),
                options=options,
                context_tokens=self._window(model, options),
                truncate=asked.truncate,
            )
            async with aclosing(self._answer(engine, model, question)) as pieces:
                async for piece in pieces:
                    yield _text_line(asked.model, piece) | _spent(piece, began, loaded)

    async def _answer(self, engine: Engine, model: Model, question: Question) -> AsyncGenerator[Piece, None]:
        try:
            prompt = await prompt_of(engine, question, model=model.name.short)
        except EngineFailed as error:
            raise Refused(500, str(error)) from error
        async with aclosing(speak(engine, question, prompt)) as pieces:
            async for piece in pieces:
                yield piece

    async def _embed(
        self, engine: Engine, texts: list[str], context_tokens: int, *, truncate: bool
    ) -> tuple[list[list[float]], int]:
        fitting: list[str] = []
        try:
            for text in texts:
                tokens = await engine.tokenize(text)
                if len(tokens) > context_tokens:
                    if not truncate:
                        raise Refused(400, "the input length exceeds the context length")
                    log.warning("input_truncated", input_tokens=len(tokens), kept_tokens=context_tokens)
                    text = await engine.detokenize(tokens[:context_tokens])  # noqa: PLW2901 - the text, as far as it fits
                fitting.append(text)
            return await engine.embed(fitting) if fitting else ([], 0)
        except EngineFailed as error:
            raise Refused(400, str(error)) from error

    async def _find_for_embedding(self, text: str) -> Model:
        return await asyncio.to_thread(self.library.find, text, error='model "{}" not found, try pulling it first')

    @asynccontextmanager
    async def _engine(
        self, model: Model, options: Mapping[str, Any], keep_alive: float | None, *, embeds: bool = False
    ) -> AsyncIterator[Engine]:
        spec = Spec(model.weights, model.adapter, self._window(model, options), embeds)
        seconds = self.settings.keep_alive_seconds if keep_alive is None else keep_alive
        async with self.fleet.engine(spec, label=model.name.short, keep_alive_seconds=seconds) as engine:
            yield engine

    def _window(self, model: Model, options: Mapping[str, Any]) -> int:
        wanted = int(options.get("num_ctx") or self.settings.context_tokens)
        return min(wanted, model.header.context_tokens or wanted)


def app_of(node: Node) -> Starlette:
    """Every route of the node."""

    def route(method: str, path: str, handle: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, handle, methods=[method])

    async def hello(_: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    # Starlette hands each handler only what it is registered for, and its types cannot say so.
    async def refused(_: Request, error: Any) -> Response:
        return _json({"error": error.error}, error.status)

    async def no_such_page(_: Request, error: Any) -> Response:
        what = "page not found" if error.status_code == 404 else str(error.detail).lower()
        return PlainTextResponse(f"{error.status_code} {what}", error.status_code)

    async def hung_up(request: Request, _: Exception) -> Response:
        log.warning("client_hung_up", path=request.url.path)
        return Response(status_code=499)

    async def crashed(request: Request, error: Exception) -> Response:
        log.error("request_crashed", path=request.url.path, exc_info=error)
        return _json({"error": f"{type(error).__name__}: {error}"}, 500)

    return Starlette(
        routes=[
            route("GET", "/", hello),
            route("GET", "/api/version", node.version),
            route("GET", "/api/tags", node.tags),
            route("POST", "/api/show", node.show),
            route("GET", "/api/ps", node.ps),
            route("HEAD", "/api/blobs/{digest}", node.has_blob),
            route("POST", "/api/blobs/{digest}", node.take_blob),
            route("POST", "/api/create", node.create),
            route("POST", "/api/copy", node.copy),
            route("DELETE", "/api/delete", node.delete),
            route("POST", "/api/chat", node.chat),
            route("POST", "/api/generate", node.generate),
            route("POST", "/api/embed", node.embed),
            route("POST", "/api/embeddings", node.embeddings),
            route("POST", "/v1/chat/completions", node.chat_openai),
            route("GET", "/v1/models", node.models_openai),
            route("GET", "/v1/models/{model:path}", node.model_openai),
        ],
        exception_handlers={Refused: refused, HTTPException: no_such_page, ClientDisconnect: hung_up, Exception: crashed},
    )


async def run_node(settings: NodeSettings) -> None:
    """Serve until SIGTERM; the first line on stdout is the address."""
    async with AsyncExitStack() as resources:
        fleet = Fleet(most_loaded=settings.max_loaded_models, most_waiting=settings.max_queue, threads=settings.threads)
        node = Node(settings, Library(settings.models), fleet)
        resources.push_async_callback(fleet.close)
        watching = asyncio.create_task(fleet.watch(), name="fleet")
        resources.callback(watching.cancel)
        serving = serve_http(app_of(node), host=settings.host, port=settings.port, name="node", grace_seconds=1.0)
        port = await resources.enter_async_context(serving)
        sys.stdout.write(f"http://{settings.host}:{port}\n")
        sys.stdout.flush()
        log.info("node_listening", port=port, models=str(settings.models))
        await wait_for_stop()


async def _stream(lines: AsyncIterator[Line], *, encode: Callable[[Line], bytes] | None = None, sse: bool = False) -> Response:
    """Lines as they come. What goes wrong before the first is a status, later it is a last line."""
    encoded = encode or (lambda line: orjson.dumps(line) + b"\n")
    first = await anext(lines)

    async def body() -> AsyncIterator[bytes]:
        yield encoded(first)
        try:
            async for line in lines:
                yield encoded(line)
        except Refused as refused:
            yield encoded({"error": refused.error})
        except Exception as error:
            log.exception("answer_broke_off")
            yield encoded({"error": f"{type(error).__name__}: {error}"})
        if sse:
            yield b"data: [DONE]\n\n"

    return StreamingResponse(body(), media_type="text/event-stream" if sse else NDJSON)


async def _whole(lines: AsyncIterator[Line], join: Callable[[list[Line]], Line]) -> Response:
    return _json(join([line async for line in lines]))


async def _last(steps: AsyncIterator[Line]) -> Response:
    *_, last = [step async for step in steps]
    return _json(last)


async def _unless_gone(request: Request, answering: Awaitable[Response]) -> Response:
    """The answer, or none as soon as the client has hung up: the model is needed by others."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.ensure_future(answering), asyncio.create_task(gone())
    try:
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else Response(status_code=499)
    finally:
        answer.cancel()
        leaving.cancel()


def _refuse_the_impossible(asked: ChatRequest | GenerateRequest, *, images: list[str]) -> None:
    if images:
        raise Refused(400, "this model is missing data required for image input")
    if asked.logprobs:
        raise Refused(400, "this node gives no logprobs")


def _options(model: Model, asked: Mapping[str, Any]) -> dict[str, Any]:
    unknown = unknown_options(asked)
    if unknown:
        log.warning("invalid_options_ignored", options=unknown)
    return merge_options(model.parameters, asked)


def _messages_of(model: Model) -> list[Message]:
    return [Message(**message) for message in model.messages]


def _chat_line(model: str, piece: Piece | None = None, *, done_reason: str = "", first_call: int = 0) -> Line:
    message: Line = {"role": "assistant", "content": piece.content if piece else ""}
    if piece and piece.thinking:
        message["thinking"] = piece.thinking
    if piece and piece.calls:
        message["tool_calls"] = [_tool_call(call, first_call + index) for index, call in enumerate(piece.calls)]
    return _line(model, {"message": message}, done_reason)


def _text_line(model: str, piece: Piece | None = None, *, done_reason: str = "") -> Line:
    thinking = {"thinking": piece.thinking} if piece and piece.thinking else {}
    return _line(model, {"response": piece.content if piece else ""} | thinking, done_reason)


def _line(model: str, said: Line, done_reason: str) -> Line:
    ending = {"done_reason": done_reason} if done_reason else {}
    return {"model": model, "created_at": _rfc3339(datetime.now(UTC)), **said, "done": bool(done_reason), **ending}


def _tool_call(call: Call, index: int) -> Line:
    return {"id": f"call_{token_hex(4)}", "function": {"index": index, "name": call.name, "arguments": call.arguments}}


def _spent(piece: Piece, began: int, loaded: int) -> Line:
    stats = piece.stats
    if stats is None:
        return {}
    return {
        "done": True,
        "done_reason": stats.reason,
        "total_duration": time.perf_counter_ns() - began,
        "load_duration": loaded - began,
        "prompt_eval_count": stats.prompt_tokens,
        "prompt_eval_duration": stats.prompt_ns,
        "eval_count": stats.answer_tokens,
        "eval_duration": stats.answer_ns,
    }


def _joined_chat(lines: list[Line]) -> Line:
    said = [line["message"] for line in lines]
    message: Line = {"role": "assistant", "content": "".join(part["content"] for part in said)}
    thinking = "".join(part.get("thinking", "") for part in said)
    calls = [call for part in said for call in part.get("tool_calls", [])]
    message |= ({"thinking": thinking} if thinking else {}) | ({"tool_calls": calls} if calls else {})
    return lines[-1] | {"message": message}


def _joined_text(lines: list[Line]) -> Line:
    thinking = "".join(line.get("thinking", "") for line in lines)
    return lines[-1] | {"response": "".join(line["response"] for line in lines)} | ({"thinking": thinking} if thinking else {})


def _listed(model: Model) -> Line:
    name = model.name.short
    return {"name": name, "model": name, "size": model.size_bytes, "digest": model.digest, "details": model.details}


def _openai_model(model: Model, name: str) -> Line:
    return {"id": name, "object": "model", "created": int(model.modified_at.timestamp()), "owned_by": model.name.namespace}


def _modelfile(model: Model) -> str:
    lines = [f"FROM {model.weights}", f'TEMPLATE """{model.template or model.header.chat_template}"""']
    lines += [f"ADAPTER {model.adapter}"] if model.adapter else []
    lines += [f"SYSTEM {model.system}"] if model.system else []
    lines += [f"PARAMETER {' '.join(line.split(maxsplit=1))}" for line in parameter_lines(model.parameters).splitlines()]
    return "\n".join(lines) + "\n"


def _shortened(vector: list[float], dimensions: int) -> list[float]:
    head = vector[:dimensions]
    length = max(sum(value * value for value in head) ** 0.5, 1e-12)
    return [value / length for value in head]


def _event(chunk: Line) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _json(content: Line, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
