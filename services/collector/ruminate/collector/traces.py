"""`POST /v1/traces`: OTLP/HTTP, as an exporter of OpenTelemetry sends spans. The answer is in the encoding of the request.

    200   everything of ours was taken; `partial_success` says how many spans were refused, and why
    400   the body is no ExportTraceServiceRequest        413   it is over its limit, packed or unpacked
    415   neither protobuf nor JSON                       503   not acknowledged: send it again, whole

Spans that are no model's answer are passed over and counted. A span that is sent again is a repeat: its ids are its name.
(OTLP specification 1.10)
"""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

import orjson
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ruminate.collector.body import read_body
from ruminate.collector.chat import Json, Untellable
from ruminate.collector.intake import Answer, Intake, Sender
from ruminate.collector.metrics import SPANS_SUBMITTED
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.spans import attributes_of, interaction_of

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"

_RETRY_AFTER: Final = {"retry-after": "5"}
_LARGE_BODY_BYTES: Final = 256 * 1024
_SPANS_BETWEEN_TURNS: Final = 50
_SHOWN_REASONS: Final = 5


def traces_endpoint(
    intake: Intake, settings: CollectorSettings, sender_of: Callable[[Request], Sender]
) -> Callable[[Request], Awaitable[Response]]:
    """The handler of `POST /v1/traces`."""

    async def post_traces(request: Request) -> Response:
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        try:
            gzipped = _check_headers(kind, request)
            sender = sender_of(request)
            body = await read_body(request, settings.collector_traces_bytes, gzipped=gzipped)
            # Parsing a large body would stop every other answer meanwhile.
            large = len(body) > _LARGE_BODY_BYTES
            export = await asyncio.to_thread(_decode, kind, body) if large else _decode(kind, body)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is left to read it
        except HTTPException as error:
            return _encoded(kind, Status(message=error.detail), error.status_code)
        return await _take(intake, export, sender, kind)

    return post_traces


def _check_headers(kind: str, request: Request) -> bool:
    """Whether the body is gzip. Raises HTTPException (415)."""
    if kind not in (PROTOBUF, JSON):
        raise HTTPException(415, f"content-type is {kind[:100]!r}; OTLP is sent as {PROTOBUF} or {JSON}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise HTTPException(415, f"content-encoding is {encoding[:100]!r}; send the body as it is, or as gzip")
    return encoding == "gzip"


async def _take(intake: Intake, export: ExportTraceServiceRequest, sender: Sender, kind: str) -> Response:
    refused: list[tuple[str, str]] = []
    under_way: list[asyncio.Task[Answer]] = []
    for number, (span, resource) in enumerate(_spans(export), start=1):
        if number % _SPANS_BETWEEN_TURNS == 0:
            await asyncio.sleep(0)  # others have their turn, and acknowledgements arrive
        try:
            interaction = interaction_of(span, resource, tenant=sender.tenant)
        except Untellable as error:
            refused.append((error.reason, error.explanation))
            SPANS_SUBMITTED.labels("refused").inc()
            continue
        if interaction is None:
            SPANS_SUBMITTED.labels("passed_over").inc()
            continue
        under_way.append(asyncio.create_task(intake.take(orjson.dumps(interaction), sender, line=number)))
    answers = await asyncio.gather(*under_way)
    for answer in answers:
        outcome = "refused" if answer.status in ("invalid", "conflict") else answer.status
        SPANS_SUBMITTED.labels(outcome).inc()
        if outcome == "refused":
            refused.append((answer.reason or answer.status, answer.error or ""))
    if any(answer.status == "unavailable" for answer in answers):
        return _encoded(kind, Status(message="the broker did not acknowledge in time; send the request again, whole"), 503)
    response = ExportTraceServiceResponse()
    if refused:
        response.partial_success.rejected_spans = len(refused)
        response.partial_success.error_message = _explained(refused)
    return _encoded(kind, response, 200)


def _explained(refused: Iterable[tuple[str, str]]) -> str:
    """How many were refused and why, by reason, each with the first explanation."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason, explanation in refused:
        counts[reason] += 1
        first.setdefault(reason, explanation)
    shown = [f"{count} {reason}: {first[reason]}" for reason, count in counts.most_common(_SHOWN_REASONS)]
    if len(counts) > _SHOWN_REASONS:
        shown.append(f"and {len(counts) - _SHOWN_REASONS} more reasons")
    return "; ".join(shown)


def _spans(export: ExportTraceServiceRequest) -> Iterator[tuple[Span, Json]]:
    for resource_spans in export.resource_spans:
        resource = attributes_of(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield span, resource


def _decode(kind: str, body: bytes) -> ExportTraceServiceRequest:
    """Raises HTTPException (400) that says what is wrong, without contents."""
    export = ExportTraceServiceRequest()
    try:
        if kind == PROTOBUF:
            export.ParseFromString(body)
        else:
            found = orjson.loads(body)
            _ids_to_base64(found)
            ParseDict(found, export, ignore_unknown_fields=True)
    except DecodeError:
        raise HTTPException(400, "the body is no ExportTraceServiceRequest in protobuf") from None
    except orjson.JSONDecodeError as error:
        raise HTTPException(400, f"the body is no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ParseError, ValueError, TypeError, AttributeError, RecursionError):
        # What the parser says of it would show a piece of what was sent.
        raise HTTPException(400, "the body is JSON, but no ExportTraceServiceRequest in OTLP's mapping (ids are hex)") from None
    return export


def _ids_to_base64(export: Any) -> None:
    """OTLP writes ids in hex, where protobuf's JSON has base64. Raises what a stranger's JSON may lead to."""
    for resource_spans in export.get("resourceSpans") or ():
        for scope_spans in resource_spans.get("scopeSpans") or ():
            for span in scope_spans.get("spans") or ():
                for holder in (span, *(span.get("links") or ())):
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if holder.get(name):
                            holder[name] = base64.b64encode(bytes.fromhex(holder[name])).decode()


def _encoded(kind: str, message: Message, status_code: int) -> Response:
    headers = _RETRY_AFTER if status_code == 503 else None
    if kind == PROTOBUF:
        return Response(message.SerializeToString(), status_code=status_code, media_type=PROTOBUF, headers=headers)
    return Response(orjson.dumps(MessageToDict(message)), status_code=status_code, media_type=JSON, headers=headers)
