"""OTLP/HTTP on the collector, over the memory bus: OpenTelemetry's own exporter sends spans, and they come out recorded once."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode

from ruminate.collector.http import http_app
from ruminate.collector.intake import Intake
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.recorder import Recorder
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable, Bus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.operations import serve_http
from ruminate.shared.record import Position

DEADLINE_SECONDS = 30.0
PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
QUESTION = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Where?"}]}])
ANSWER = json.dumps(
    [
        {
            "role": "assistant",
            "parts": [{"type": "reasoning", "content": "Not here."}, {"type": "text", "content": "There."}],
            "finish_reason": "stop",
        }
    ]
)
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "qwen3", "gen_ai.input.messages": QUESTION}


@asynccontextmanager
async def collecting(bus: Bus, settings: CollectorSettings | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A whole collector around a bus, and a client of its HTTP port."""
    settings = settings or CollectorSettings()
    window = Window(most=settings.collector_window_interactions)
    recorder = Recorder(bus, window, settings, Privacy(settings.privacy))
    app = http_app(Intake(bus, window, settings), settings)
    serving = asyncio.create_task(bus.serve(INTERACTION_COMPLETED, recorder.record_one, concurrency=8, on_revoked=recorder.forget))
    try:
        async with (
            serve_http(app, host="127.0.0.1", port=0, name="test") as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client,
        ):
            yield client
    finally:
        await bus.stop()
        await serving


class Kept(SpanExporter):
    """Keeps what the SDK would send."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


def spans(**resource: Any) -> list[ReadableSpan]:
    """One answered chat, one whose answer was not captured, and one that only fetches a page."""
    kept = Kept()
    provider = TracerProvider(resource=Resource.create({"service.name": "clerk", **resource}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("chat qwen3", attributes=CHAT) as answered:
        answered.set_attribute("gen_ai.output.messages", ANSWER)
        with tracer.start_as_current_span("GET /page"):
            pass
    with tracer.start_as_current_span("chat qwen3", attributes=CHAT) as failed:
        failed.set_status(StatusCode.ERROR)
    provider.shutdown()
    return kept.spans


def export_of(sent: list[ReadableSpan]) -> ExportTraceServiceRequest:
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    return encode_spans(sent)


def recorded(broker: MemoryBroker) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"null") for record in broker.records(INTERACTION_RECORDED.name)]


async def until_recorded(broker: MemoryBroker, count: int) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(recorded(broker)) < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_what_the_exporter_of_opentelemetry_sends_twice_is_recorded_once(compression: Compression) -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        sent = spans(**{"ruminate.tenant": "acme", "ruminate.training_allowed": True})
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            exporter = OTLPSpanExporter(endpoint=f"{client.base_url}/v1/traces", compression=compression)
            for _ in range(2):
                assert await asyncio.to_thread(exporter.export, sent) is SpanExportResult.SUCCESS
            exporter.shutdown()
            await until_recorded(broker, 1)
        (found,) = recorded(broker)
        assert len(broker.records(INTERACTION_COMPLETED.name)) == 1
        answered = next(span for span in sent if "gen_ai.output.messages" in (span.attributes or {}))
        context = answered.get_span_context()
        assert context is not None
        assert found["interaction_id"] == f"{context.trace_id:032x}-{context.span_id:016x}"
        assert (found["tenant"], found["agent"], found["source"]) == ("acme", "clerk", "/agents/clerk")
        assert found["messages"][0]["content"] == "Where?"
        assert (found["response"]["content"], found["response"]["thinking"]) == ("There.", "Not here.")
        assert found["training_allowed"] is True

    asyncio.run(scenario())


def test_the_answer_says_in_the_encoding_of_the_request_what_was_refused_and_why() -> None:
    async def scenario() -> None:
        export = export_of(spans())
        as_json = MessageToDict(export)
        for resource in as_json["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for told, span in zip(scope["spans"], export.resource_spans[0].scope_spans[0].spans, strict=True):
                    told |= {"traceId": span.trace_id.hex().upper(), "spanId": span.span_id.hex(), "unheardOf": [1]}
                    if span.parent_span_id:
                        told["parentSpanId"] = span.parent_span_id.hex()
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            first = await client.post("/v1/traces", content=export.SerializeToString(), headers=PROTOBUF)
            second = await client.post("/v1/traces", content=json.dumps(as_json), headers=JSON)
            packed = gzip.compress(json.dumps(as_json).encode())
            third = await client.post("/v1/traces", content=packed, headers=JSON | {"content-encoding": "gzip"})
            nothing = await client.post("/v1/traces", content=b"", headers=PROTOBUF)
        assert [answer.status_code for answer in (first, second, third, nothing)] == [200] * 4
        assert first.headers["content-type"] == "application/x-protobuf"
        response = ExportTraceServiceResponse.FromString(first.content)
        assert response.partial_success.rejected_spans == 1
        assert response.partial_success.error_message.startswith("1 no_answer: ")
        assert second.headers["content-type"] == "application/json"
        assert second.json()["partialSuccess"]["rejectedSpans"] == "1"
        assert third.json() == second.json()
        assert nothing.content == b""
        assert len(broker.records(INTERACTION_COMPLETED.name)) == 1

    asyncio.run(scenario())


def test_a_tenant_that_the_request_names_fills_in_and_contradicts_nothing() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            headers = PROTOBUF | {"x-ruminate-tenant": "acme"}
            silent = export_of(spans()).SerializeToString()
            other = export_of(spans(**{"ruminate.tenant": "other"})).SerializeToString()
            assert (await client.post("/v1/traces", content=silent, headers=headers)).status_code == 200
            refused = await client.post("/v1/traces", content=other, headers=headers)
            await until_recorded(broker, 1)
        assert "tenant_mismatch" in ExportTraceServiceResponse.FromString(refused.content).partial_success.error_message
        assert [found["tenant"] for found in recorded(broker)] == ["acme"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content", "headers", "status", "says"),
    [
        (b"\xff\xff\xff", PROTOBUF, 400, "no ExportTraceServiceRequest"),
        (b"{", JSON, 400, "no JSON"),
        (b"[]", JSON, 400, "OTLP's mapping"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "Geheimnis"}]}]}]}', JSON, 400, "hex"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": 7}]}]}]}', JSON, 400, "OTLP's mapping"),
        (b"no gzip", PROTOBUF | {"content-encoding": "gzip"}, 400, "not gzip"),
        (gzip.compress(b"x" * 3000, mtime=0)[:20], PROTOBUF | {"content-encoding": "gzip"}, 400, "before its end"),
        (b"", PROTOBUF | {"content-encoding": "br"}, 415, "content-encoding"),
        (b"", {"content-type": "text/plain"}, 415, "content-type"),
        (b"x" * 4097, PROTOBUF, 413, "4096"),
        (gzip.compress(b"x" * 2_000_000, mtime=0), PROTOBUF | {"content-encoding": "gzip"}, 413, "4096"),
    ],
)
def test_what_cannot_be_read_is_told_as_a_status_without_contents(content: bytes, headers: Any, status: int, says: str) -> None:
    async def scenario() -> None:
        limits = CollectorSettings(collector_traces_bytes=4096)
        async with MemoryBus(MemoryBroker(), reader="collector") as bus, collecting(bus, limits) as client:
            answer = await client.post("/v1/traces", content=content, headers=headers)
            assert answer.status_code == status
            if headers["content-type"] == "application/x-protobuf":
                assert answer.headers["content-type"] == "application/x-protobuf"
                message = Status.FromString(answer.content).message
            else:
                message = answer.json()["message"]
            assert says in message
            assert "Geheimnis" not in message
            assert (await client.post("/v1/traces", content=b"", headers=PROTOBUF)).status_code == 200

    asyncio.run(scenario())


class Away(MemoryBus):
    """A broker that does not acknowledge, until it is back."""

    back = False

    async def publish(self, topic: Topic[Any], payload: Any, envelope: Envelope) -> Position:
        if not self.back and topic is INTERACTION_COMPLETED:
            raise BrokerUnavailable("away")
        return await super().publish(topic, payload, envelope)


def test_a_broker_that_is_away_is_503_with_retry_after_and_the_exporter_sends_it_again() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        sent = spans()
        async with Away(broker, reader="collector") as bus, collecting(bus) as client:
            answer = await client.post("/v1/traces", content=export_of(sent).SerializeToString(), headers=PROTOBUF)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "send the request again" in Status.FromString(answer.content).message
            exporter = OTLPSpanExporter(endpoint=f"{client.base_url}/v1/traces", timeout=20)
            exporting = asyncio.create_task(asyncio.to_thread(exporter.export, sent))
            await asyncio.sleep(0.2)
            bus.back = True
            assert await exporting is SpanExportResult.SUCCESS
            exporter.shutdown()
            await until_recorded(broker, 1)

    asyncio.run(scenario())
