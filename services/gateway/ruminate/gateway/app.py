"""The front door: a request goes to a node that can answer it, and what passes is captured on its way back.

    agent  ->  read, resolve, choose (decide)  ->  node  ->  Passage (bytes, unchanged)  ->  capture  ->  last chunk  ->  agent

A node that fails before its first byte is replaced by the next; one that fails in the middle ends the stream with an
error in the form of the dialect, and makes an answer that was to come in one piece a 502. An agent that leaves ends the
request on the node, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import httpx
import orjson
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute
from starlette.types import Receive, Scope, Send

from ruminate.gateway.answer import Passage
from ruminate.gateway.capture import Capture, Exchange
from ruminate.gateway.decide import Caller, Catalogue, NodeView, Refused, Route, choose_node, read_caller
from ruminate.gateway.metrics import FIRST_TOKEN, REQUESTS, RETRIES
from ruminate.gateway.nodes import Nodes
from ruminate.gateway.question import Dialect, Json, read_object
from ruminate.gateway.settings import GatewaySettings
from ruminate.shared.operations import serve_http

log = structlog.get_logger()

RawHeaders = list[tuple[bytes, bytes]]

_HOP_BY_HOP: Final = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade".split()
)
_WITHOUT_END: Final = "ended without an end"
_STREAMS: Final = ("application/x-ndjson", "text/event-stream")


@dataclass(frozen=True, slots=True)
class Door:
    """One path: what its body holds, and whether its answers are captured."""

    path: str
    methods: tuple[str, ...]
    dialect: Dialect | None = None
    names_model: bool = False


DOORS: Final = (
    Door("/", ("GET", "HEAD")),
    Door("/api/version", ("GET", "HEAD")),
    Door("/api/chat", ("POST",), dialect="chat", names_model=True),
    Door("/api/generate", ("POST",), dialect="generate", names_model=True),
    Door("/v1/chat/completions", ("POST",), dialect="openai", names_model=True),
    Door("/api/show", ("POST",), names_model=True),
    Door("/api/embed", ("POST",), names_model=True),
)
LISTS: Final = {"/api/tags": "models", "/api/ps": "models", "/v1/models": "data"}


class NodeFailed(Exception):
    """The node gave no first byte."""

    def __init__(self, cause: httpx.TransportError) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


class Gateway:
    """Everything that a request meets."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        nodes: Nodes,
        catalogue: Catalogue,
        capture: Capture,
        transport: httpx.AsyncBaseTransport,
    ) -> None:
        self.nodes = nodes
        self.catalogue = catalogue
        self.capture = capture
        self.transport = transport
        self.request_limit_bytes = settings.request_limit_bytes
        self.timeouts = httpx.Timeout(settings.silence_timeout_seconds, connect=settings.connect_timeout_seconds).as_dict()

    def app(self) -> Starlette:
        """The routes."""
        return Starlette(
            routes=[
                *(HttpRoute(door.path, _Served(self, door), methods=list(door.methods)) for door in DOORS),
                *(HttpRoute(path, self._list, methods=["GET"]) for path in LISTS),
                HttpRoute("/{path:path}", _refuse, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        """What the nodes list, each name once."""
        path = request.url.path
        healthy = [node for node in self.nodes.view() if node.healthy]
        answers = await asyncio.gather(*(self.nodes.fetch(node.name, path) for node in healthy), return_exceptions=True)
        found = [answer for answer in answers if isinstance(answer, bytes)]
        if not found:
            REQUESTS.labels(path, "unavailable").inc()
            return _error(path, 503, "no node answers", retry_after_seconds=self.nodes.retry_after_seconds)
        REQUESTS.labels(path, "answered").inc()
        if len(found) == 1:
            return Response(found[0], media_type="application/json")
        entries: dict[str, Json] = {}
        for answer in found:
            for entry in orjson.loads(answer).get(LISTS[path]) or ():
                entries.setdefault(entry.get("name") or entry["id"], entry)
        body = {**orjson.loads(found[0]), LISTS[path]: list(entries.values())}
        return Response(orjson.dumps(body), media_type="application/json")


def serve_gateway(gateway: Gateway, settings: GatewaySettings) -> AbstractAsyncContextManager[int]:
    """Answer agents while the context is open; gives the port."""
    host, port, grace_seconds = settings.gateway_host, settings.gateway_port, settings.grace_seconds
    return serve_http(gateway.app(), host=host, port=port, name="gateway", grace_seconds=grace_seconds)


class _Served:
    """A door as an ASGI application: the exchange runs until it ends or its client leaves, whichever is first."""

    def __init__(self, gateway: Gateway, door: Door) -> None:
        self._gateway = gateway
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await _read_body(request, self._gateway.request_limit_bytes)
            errand = _Errand(self._gateway, self._door, request, body)
        except ClientDisconnect:
            REQUESTS.labels(self._door.path, "aborted").inc()
            return
        except Refused as refused:
            REQUESTS.labels(self._door.path, "refused").inc()
            await _error(self._door.path, refused.status, refused.message)(scope, receive, send)
            return
        answering = asyncio.create_task(errand.run(scope, receive, send))
        leaving = asyncio.create_task(_left(receive))
        outcome = "aborted"
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                outcome = "failed"
                outcome = answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
            REQUESTS.labels(self._door.path, outcome).inc()
            if outcome != "answered":
                log.info("request_not_answered", path=self._door.path, outcome=outcome, interaction_id=errand.interaction_id)


class _Errand:
    """One request on its way to a node and back."""

    def __init__(self, gateway: Gateway, door: Door, request: Request, body: bytes) -> None:
        self._began = time.perf_counter()
        self._gateway = gateway
        self._door = door
        self._request = request
        self._body = body
        self._caller: Caller = read_caller(request.headers)
        self._parsed: Json | None = read_object(body) if door.names_model else None
        self._asked = _asked_name(self._parsed)
        self._route: Route | None = gateway.catalogue.resolve(self._caller.tenant, self._asked) if self._asked else None
        self._first_token_seconds: float | None = None
        self.interaction_id = str(uuid4())

    async def run(self, scope: Scope, receive: Receive, send: Send) -> str:
        """Answer the request; gives the outcome that is counted."""
        strikes: dict[str, int] = {}
        nodes = self._gateway.nodes
        while (node := choose_node(nodes.view(), self._route, strikes)) is not None:
            try:
                with nodes.busy(node.name):
                    return await self._by_node(node, send)
            except NodeFailed as failed:
                nodes.failed(node.name, failed.cause)
                if isinstance(failed.cause, httpx.ReadTimeout):
                    # It may be at work on it still: asking another would do the work twice.
                    message = f"node {node.name} was silent for too long (RUMINATE_SILENCE_TIMEOUT_SECONDS)"
                    await _error(self._door.path, 504, message)(scope, receive, send)
                    return "failed"
                RETRIES.labels(node.name).inc()
                refused = isinstance(failed.cause, httpx.ConnectError | httpx.ConnectTimeout)
                strikes[node.name] = strikes.get(node.name, 0) + (2 if refused else 1)
                log.warning("node_failed_before_first_byte", node=node.name, error=str(failed), interaction_id=self.interaction_id)
        wanted = f" that holds {self._route.upstream}" if self._route else ""
        message = f"no healthy node{wanted} can answer now; try again"
        retry_after = nodes.retry_after_seconds
        await _error(self._door.path, 503, message, retry_after_seconds=retry_after)(scope, receive, send)
        return "unavailable"

    async def _by_node(self, node: NodeView, send: Send) -> str:
        async with AsyncExitStack() as closing:
            try:
                response = await self._gateway.transport.handle_async_request(self._to_node(node))
                body = response.stream
                assert isinstance(body, httpx.AsyncByteStream)  # noqa: S101 - narrows: an asynchronous transport gives no other
                closing.push_async_callback(body.aclose)
                chunks = aiter(body)
                streamed = response.status_code == 200 and response.headers.get("content-type", "").startswith(_STREAMS)
                first = await anext(chunks, None) if streamed else b"".join([chunk async for chunk in chunks])
            except httpx.TransportError as error:
                raise NodeFailed(error) from None
            if streamed:
                return await self._stream(node, response, first, chunks, send)
            return await self._whole(node, response, first or b"", send)

    async def _whole(self, node: NodeView, response: httpx.Response, body: bytes, send: Send) -> str:
        passage, status = self._passage(), response.status_code
        if status == 200 and (self._door.dialect or passage.renames):
            body = passage.whole(body)
            if passage.answer.ended or passage.unreadable:
                await self._keep(node, passage)
            elif self._door.dialect and not passage.answer.refused:
                # Ollama says 200 to what its runner gave up in the middle, and leaves `done` at false.
                status, body = 502, orjson.dumps(_error_body(self._door.path, self._broke_off(node, _WITHOUT_END)))
        headers = self._to_client(node, response)
        if self._request.method != "HEAD":
            headers = [*(h for h in headers if h[0] != b"content-length"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if status < 400:
            return "answered"
        return "refused" if status < 500 else "failed"

    async def _stream(
        self, node: NodeView, response: httpx.Response, first: bytes | None, chunks: AsyncIterator[bytes], send: Send
    ) -> str:
        headers = [header for header in self._to_client(node, response) if header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        passage = self._passage()
        failure = _WITHOUT_END
        data = first
        while data is not None:
            leaving = passage.feed(data)
            if self._first_token_seconds is None and passage.answer.begun:
                self._first_token(node, thinking=bool(passage.answer.thinking))
            if leaving:
                await send({"type": "http.response.body", "body": leaving, "more_body": True})
            try:
                data = await anext(chunks, None)
            except httpx.TransportError as error:
                self._gateway.nodes.failed(node.name, error)
                failure = type(error).__name__
                break
        leaving = passage.end()
        answer = passage.answer
        if answer.ended:
            await self._keep(node, passage)
        elif not answer.refused:
            leaving = _error_chunk(self._door.path, self._broke_off(node, failure))  # in place of half a line
        await send({"type": "http.response.body", "body": leaving})
        return "answered" if answer.ended else "failed"

    def _broke_off(self, node: NodeView, failure: str) -> str:
        log.warning("answer_broke_off", node=node.name, error=failure, interaction_id=self.interaction_id)
        return f"node {node.name} broke off in the middle of the answer; ask again"

    def _passage(self) -> Passage:
        route, asked = self._route, self._asked
        return Passage(self._door.dialect or "chat", name=asked if route and route.upstream != asked else None)

    def _first_token(self, node: NodeView, *, thinking: bool) -> None:
        self._first_token_seconds = time.perf_counter() - self._began
        FIRST_TOKEN.labels(node.name, str(thinking).lower()).observe(self._first_token_seconds)

    async def _keep(self, node: NodeView, passage: Passage) -> None:
        if self._door.dialect is None or self._route is None or self._parsed is None:
            return
        if passage.answer.refused or passage.unreadable:
            self._gateway.capture.give_up(self.interaction_id)
            return
        exchange = Exchange(
            interaction_id=self.interaction_id,
            dialect=self._door.dialect,
            caller=self._caller,
            body=self._parsed,
            body_bytes=len(self._body),
            route=self._route,
            node=node.name,
            traceparent=self._request.headers.get("traceparent"),
            first_token_seconds=self._first_token_seconds,
        )
        await self._gateway.capture.keep(exchange, passage.answer)

    def _to_node(self, node: NodeView) -> httpx.Request:
        body = self._body
        if self._route is not None and self._parsed is not None and self._route.upstream != self._asked:
            field = "model" if self._parsed.get("model") else "name"
            body = orjson.dumps({**self._parsed, field: self._route.upstream})
        headers = _end_to_end(self._request.headers.raw, leave_out=(b"host", b"content-length", b"accept-encoding"))
        headers = [header for header in headers if not header[0].startswith(b"x-ruminate-")]
        # What passes is read, so it has to come uncompressed.
        headers.append((b"accept-encoding", b"identity"))
        url = f"{node.url}{self._door.path}"
        timeouts = {"timeout": self._gateway.timeouts}
        return httpx.Request(self._request.method, url, headers=headers, content=body or None, extensions=timeouts)

    def _to_client(self, node: NodeView, response: httpx.Response) -> RawHeaders:
        headers = _end_to_end(response.headers.raw, leave_out=(b"date", b"server"))
        headers.append((b"x-ruminate-node", node.name.encode()))
        if self._route is not None:
            headers.append((b"x-ruminate-version", self._route.version.encode()))
        if self._door.dialect is not None:
            headers.append((b"x-ruminate-interaction", self.interaction_id.encode()))
        return headers


def _asked_name(parsed: Json | None) -> str | None:
    # `name` is what `/api/show` was told before it was called `model`; nodes still take it.
    name = parsed and (parsed.get("model") or parsed.get("name"))
    return name if isinstance(name, str) and name else None


def _end_to_end(headers: Iterable[tuple[bytes, bytes]], *, leave_out: tuple[bytes, ...]) -> RawHeaders:
    """The headers that concern both ends, in lower case: not those of this hop, nor those that `Connection` names."""
    lowered = [(name.lower(), value) for name, value in headers]
    named = {word.strip().lower() for name, value in lowered if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in lowered if name not in _HOP_BY_HOP and name not in named and name not in leave_out]


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    message = f"the request has more than {limit_bytes} bytes (RUMINATE_REQUEST_LIMIT_BYTES); send less"
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit_bytes:
        raise Refused(413, message)
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit_bytes:
            raise Refused(413, message)
        pieces.append(piece)
    return b"".join(pieces)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _refuse(request: Request) -> Response:
    """Everything that is not served: changes of the nodes, and paths that nobody knows."""
    path = request.url.path
    REQUESTS.labels("other", "refused").inc()
    if path.startswith("/api/"):
        return _error(path, 403, f"{path} is refused here: the deployer owns the nodes and what they hold; ask a node itself")
    served = ", ".join(sorted([*(door.path for door in DOORS), *LISTS]))
    return _error(path, 404, f"{path[:100]} is not served; known are {served}")


def _error_body(path: str, message: str) -> Json:
    if path.startswith("/v1/"):
        return {"error": {"message": message, "type": "api_error", "param": None, "code": None}}
    return {"error": message}


def _error_chunk(path: str, message: str) -> bytes:
    body = orjson.dumps(_error_body(path, message))
    return b"data: " + body + b"\n\n" if path.startswith("/v1/") else body + b"\n"


def _error(path: str, status: int, message: str, *, retry_after_seconds: int | None = None) -> Response:
    headers = {} if retry_after_seconds is None else {"retry-after": str(retry_after_seconds)}
    return Response(orjson.dumps(_error_body(path, message)), status, headers, "application/json")
