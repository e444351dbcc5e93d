"""`POST /v1/interactions`: one interaction as JSON, or many as NDJSON with an answer a line; `/v1/feedback`, `/v1/traces`.

A body is never held beyond its limit, and a line is answered where it stands. The status of an NDJSON answer is 503 when a
line could not be taken, so that the sender sends the body again, whole: what was taken is a duplicate then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ruminate.collector.body import read_body
from ruminate.collector.intake import FEEDBACK_BYTES, Answer, Intake, Sender, Status
from ruminate.collector.openapi import openapi
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.traces import traces_endpoint

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

_RETRY_AFTER: Final = {"retry-after": "5"}
_LINES_BETWEEN_TURNS: Final = 50
_STATUS_CODES: Final[dict[Status, int]] = {"taken": 202, "duplicate": 200, "conflict": 409, "invalid": 400, "unavailable": 503}


def http_app(intake: Intake, settings: CollectorSettings) -> Starlette:
    """The collector's HTTP port."""
    document = openapi(
        interaction_bytes=settings.collector_interaction_bytes,
        body_bytes=settings.collector_body_bytes,
        traces_bytes=settings.collector_traces_bytes,
    )

    async def post_interactions(request: Request) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind not in (JSON, NDJSON):
            raise HTTPException(415, f"content-type is {kind[:100]!r}; send one interaction as {JSON}, or one a line as {NDJSON}")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "content-encoding is not supported; send the body as it is")
        limit = settings.collector_interaction_bytes if kind == JSON else settings.collector_body_bytes
        sender = _sender(request)
        try:
            body = await read_body(request, limit)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        return await (_one if kind == JSON else _many)(intake, body, sender)

    async def post_feedback(request: Request) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        if kind != JSON:
            raise HTTPException(415, f"content-type is {kind[:100]!r}; send one word of feedback as {JSON}")
        sender = _sender(request)
        try:
            body = await read_body(request, FEEDBACK_BYTES)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        answer = await intake.take_feedback(body, sender)
        return Response(
            orjson.dumps({name: value for name, value in asdict(answer).items() if value is not None}),
            status_code=_STATUS_CODES[answer.status],
            media_type=JSON,
            headers=_RETRY_AFTER if answer.status == "unavailable" else None,
        )

    async def get_openapi(_: Request) -> Response:
        return JSONResponse(document)

    async def get_root(_: Request) -> Response:
        return JSONResponse(
            {
                "service": "ruminate collector",
                "do": f"POST /v1/interactions with one interaction as {JSON}, or one a line as {NDJSON}",
                "or": "POST /v1/feedback with a word about an answer; POST /v1/traces with spans of OpenTelemetry (OTLP/HTTP)",
                "description": "/openapi.json",
            }
        )

    async def say(_: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)

    return Starlette(
        routes=[
            Route("/v1/interactions", post_interactions, methods=["POST"]),
            Route("/v1/feedback", post_feedback, methods=["POST"]),
            Route("/v1/traces", traces_endpoint(intake, settings, _sender), methods=["POST"]),
            Route("/openapi.json", get_openapi),
            Route("/", get_root),
        ],
        exception_handlers={HTTPException: say},
    )


def _sender(request: Request) -> Sender:
    return Sender(source=_header(request, "x-ruminate-source"), tenant=_header(request, "x-ruminate-tenant"))


def _header(request: Request, name: str) -> str | None:
    value = request.headers.get(name)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode()  # Starlette reads headers as Latin-1, we speak UTF-8
    except UnicodeDecodeError:
        raise HTTPException(400, f"header {name} is not UTF-8") from None


async def _one(intake: Intake, body: bytes, sender: Sender) -> Response:
    answer = await intake.take(body, sender)
    return Response(
        orjson.dumps(_shown(answer)),
        status_code=_STATUS_CODES[answer.status],
        media_type=JSON,
        headers=_RETRY_AFTER if answer.status == "unavailable" else None,
    )


async def _many(intake: Intake, body: bytes, sender: Sender) -> Response:
    under_way: list[asyncio.Task[Answer]] = []
    for number, line in _lines(body):
        under_way.append(asyncio.create_task(intake.take(line, sender, line=number)))
        if len(under_way) % _LINES_BETWEEN_TURNS == 0:
            await asyncio.sleep(0)  # others have their turn, and acknowledgements arrive
    if not under_way:
        raise HTTPException(400, "the body holds no line; send one interaction a line")
    answers = await asyncio.gather(*under_way)
    unavailable = any(answer.status == "unavailable" for answer in answers)
    return Response(
        b"".join(orjson.dumps(_shown(answer)) + b"\n" for answer in answers),
        status_code=503 if unavailable else 200,
        media_type=NDJSON,
        headers=_RETRY_AFTER if unavailable else None,
    )


def _lines(body: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _shown(answer: Answer) -> dict[str, int | str]:
    return {name: value for name, value in asdict(answer).items() if value is not None}
