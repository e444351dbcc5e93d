"""The collector over the memory bus and the embedded broker: what goes in by topic and by HTTP comes out recorded once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from ruminate.collector.http import http_app
from ruminate.collector.intake import Intake
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.recorder import Recorder
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.embedded.broker import EmbeddedBroker, embedded_broker
from ruminate.schemas.envelope import Envelope, Headers
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.operations import serve_http
from ruminate.shared.record import Position
from ruminate.shared.topics import ensure_topics

DEADLINE_SECONDS = 30.0
JSON = {"content-type": "application/json"}
NDJSON = {"content-type": "application/x-ndjson"}
DEAD_LETTERS = INTERACTION_COMPLETED.dead_letters("collector").name


def body(interaction_id: str = "i-1", **changed: Any) -> dict[str, Any]:
    return {
        "interaction_id": interaction_id,
        "conversation_id": "c-1",
        "agent": "tester",
        "target_model": "qwen3",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        "messages": [{"role": "user", "content": "Where?"}],
        "response": {"content": "There."},
        "thinking": {"mode_used": "direct"},
    } | changed


def headers_of(interaction_id: str, source: str = "/agents/tester") -> Headers:
    return Envelope(
        id=interaction_id, source=source, type=INTERACTION_COMPLETED.event_type, time=datetime(2026, 1, 1, tzinfo=UTC)
    ).to_headers()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def collecting(bus: Bus, settings: CollectorSettings | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A whole collector around a bus, and a client of its HTTP port."""
    settings = settings or CollectorSettings()
    window = Window(most=settings.collector_window_interactions)
    recorder = Recorder(bus, window, settings, Privacy(settings.privacy))
    app = http_app(Intake(bus, window, settings), settings)
    serving = asyncio.create_task(bus.serve(INTERACTION_COMPLETED, recorder.record_one, concurrency=8, on_revoked=recorder.forget))
    try:
        async with answering(app) as client:
            yield client
    finally:
        await bus.stop()
        await serving


@asynccontextmanager
async def answering(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        serve_http(app, host="127.0.0.1", port=0, name="test") as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client,
    ):
        yield client


def values(broker: MemoryBroker, topic: str) -> list[dict[str, Any]]:
    return [json.loads(record.value or b"null") for record in broker.records(topic)]


def put(broker: MemoryBroker, interaction: dict[str, Any], *, partition: int = 0, event_id: str | None = None) -> None:
    headers = headers_of(event_id or interaction["interaction_id"])
    broker.append(INTERACTION_COMPLETED.name, json.dumps(interaction).encode(), headers=headers, partition=partition)


# By the topic.


def test_a_repeat_is_dropped_a_conflict_and_a_foreign_id_become_dead_letters() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        put(broker, body("i-1", response={"content": "Zu\u0308rich"}))
        put(broker, body("i-1", response={"content": "Z\u00fcrich"}))
        put(broker, body("i-1", response={"content": "Bern"}), partition=5)
        put(broker, body("i-2"), event_id="i-3")
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus):
            await until(lambda: len(values(broker, DEAD_LETTERS)) == 2 and values(broker, INTERACTION_RECORDED.name))
        (recorded,) = values(broker, INTERACTION_RECORDED.name)
        assert recorded["response"]["content"] == "Z\u00fcrich"
        assert recorded["normalised"] == ["nfc"]
        assert recorded["source"] == "/agents/tester"
        reasons = {value.decode() for record in broker.records(DEAD_LETTERS) for _, value in record.headers}
        assert {"conflict", "id_mismatch"} <= reasons
        assert broker.committed("collector", INTERACTION_COMPLETED.name)[0].offset == 3

    asyncio.run(scenario())


def test_a_new_replica_reads_the_window_back_from_the_log_before_it_records() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        for number in range(5):
            put(broker, body(f"i-{number}"))
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus):
            await until(lambda: len(broker.records(INTERACTION_RECORDED.name)) == 5)
        put(broker, body("i-2"))
        put(broker, body("i-3", agent="another"))
        put(broker, body("i-9"))
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus):
            await until(lambda: len(broker.records(INTERACTION_RECORDED.name)) == 6 and values(broker, DEAD_LETTERS))
        assert values(broker, INTERACTION_RECORDED.name)[-1]["interaction_id"] == "i-9"

    asyncio.run(scenario())


def test_a_dead_letter_read_back_is_no_first_record() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        put(broker, body("i-1", agent="first"), event_id="i-2")
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus):
            await until(lambda: broker.records(DEAD_LETTERS))
        put(broker, body("i-2"))
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus):
            await until(lambda: broker.records(INTERACTION_RECORDED.name))
        assert values(broker, INTERACTION_RECORDED.name)[0]["agent"] == "tester"

    asyncio.run(scenario())


def test_a_record_that_was_told_but_not_committed_is_recorded_again_under_the_same_id() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        put(broker, body("i-0"))
        put(broker, body("i-1"))
        settings = CollectorSettings()
        window = Window(most=10)
        for _ in range(2):  # the same window, as after a rebalance that gave the partition back
            async with MemoryBus(broker, reader="collector") as bus:
                recorder = Recorder(bus, window, settings, Privacy(settings.privacy))
                async for delivery in bus.read(INTERACTION_COMPLETED, partitions=(0,)):
                    await recorder.record_one(delivery)
                    assert len(delivery.told) == 1

    asyncio.run(scenario())


# By HTTP.


def test_one_interaction_is_taken_then_a_duplicate_then_a_conflict_and_recorded_once() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            answers = [
                await client.post("/v1/interactions", content=json.dumps(sent), headers=JSON)
                for sent in (body(), dict(reversed(body().items())), body(agent="other"))
            ]
            # The other agent has another source, so its id is another interaction.
            conflict = await client.post("/v1/interactions", json=body(response={"content": "Elsewhere."}))
            await until(lambda: len(broker.records(INTERACTION_RECORDED.name)) == 2)
        assert [answer.status_code for answer in answers] == [202, 200, 202]
        assert answers[0].json() == {"line": 1, "status": "taken", "interaction_id": "i-1"}
        assert answers[1].json()["status"] == "duplicate"
        assert conflict.status_code == 409
        assert conflict.json()["status"] == "conflict"
        assert len(broker.records(INTERACTION_COMPLETED.name)) == 2
        assert not broker.records(DEAD_LETTERS)

    asyncio.run(scenario())


def test_many_lines_get_an_answer_each_in_order_and_blank_ones_none() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        lines = [json.dumps(body(f"i-{number}")) for number in range(300)]
        lines[10] = "{nonsense"
        lines[20] = ""
        lines[30] = lines[29]
        lines[40] = json.dumps(body("i-29", agent="tester", response={"content": "Elsewhere."}))
        lines[50] = json.dumps({key: value for key, value in body("i-50").items() if key != "agent"})
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            answer = await client.post("/v1/interactions", content="\n".join(lines) + "\n", headers=NDJSON)
            await until(lambda: len(broker.records(INTERACTION_RECORDED.name)) == 295)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        found = {item["line"]: item for item in map(json.loads, answer.text.splitlines())}
        assert list(found) == [line for line in range(1, 301) if line != 21]
        special = {11: "invalid", 31: "duplicate", 41: "conflict", 51: "invalid"}
        assert {line: item["status"] for line, item in found.items() if item["status"] != "taken"} == special
        assert "agent" in found[51]["error"]
        assert "interaction_id" not in found[11]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1"),
        (b"{", "line 1"),
        (b"[]", "the value"),
        (b"\xff\xfe{}", "line 1"),
        (json.dumps(body(complexity="huge")).encode(), "complexity"),
        (json.dumps(body(messages=[])).encode(), "messages"),
        (json.dumps(body(messages=[{"role": "user", "content": 7}])).encode(), "messages.0.content"),
        (json.dumps(body(training_allowed="yes")).encode(), "training_allowed"),
        (json.dumps(body(occurred_at="2026-01-01T00:00:00")).encode(), "occurred_at"),
        (json.dumps(body(usage={"total_seconds": float("nan")})).encode(), "not finite"),
        (json.dumps(body()).encode().replace(b'"default"', b"1e999").replace(b'"tester"', b"1e999"), "not finite"),
        (json.dumps(body(context={"other": {"x": 1}})).encode().replace(b'"x": 1', b'"x": 1e999'), "finite"),
        (json.dumps(body(response={"content": "\ud800"})).encode(), "surrogate"),
        (json.dumps({"interaction_id": "i-1"}).encode(), "conversation_id"),
        (json.dumps(body(agent="a" * 200)).encode(), "source"),
        (json.dumps(body(interaction_id="Geheimnis\x00")).encode(), "interaction_id"),
    ],
)
def test_what_is_no_interaction_is_400_and_says_where_and_why_without_its_contents(content: bytes, says: str) -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            answer = await client.post("/v1/interactions", content=content, headers=JSON)
        assert answer.status_code == 400
        found = answer.json()
        assert found["status"] == "invalid"
        assert says in found["error"]
        assert found["reason"]
        assert "Geheimnis" not in answer.text
        assert not broker.records(INTERACTION_COMPLETED.name)

    asyncio.run(scenario())


def test_source_and_tenant_come_from_headers_only_where_nothing_contradicts_them() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:

            async def post(interaction: dict[str, Any], **headers: str) -> httpx.Response:
                named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
                return await client.post("/v1/interactions", json=interaction, headers=named)

            assert (await post(body("i-1"), x_ruminate_source="/desk", x_ruminate_tenant="acmé")).status_code == 202
            assert (await post(body("i-2", tenant="acme"), x_ruminate_tenant="acme")).status_code == 202
            assert (await post(body("i-3", agent="a b/ü"))).status_code == 202
            refused = await post(body("i-4", tenant="acme"), x_ruminate_tenant="other")
            assert (refused.status_code, refused.json()["reason"]) == (400, "tenant_mismatch")
            assert (await post(body("i-5"), x_ruminate_tenant="t" * 300)).json()["reason"] == "invalid_tenant"
            assert (await post(body("i-6"), x_ruminate_source="s" * 300)).json()["reason"] == "invalid_source"
            not_text = await client.post("/v1/interactions", json=body(), headers={b"x-ruminate-source": b"\xff"})
            assert not_text.status_code == 400
            await until(lambda: len(broker.records(INTERACTION_RECORDED.name)) == 3)
        found = {item["interaction_id"]: (item["source"], item["tenant"]) for item in values(broker, INTERACTION_RECORDED.name)}
        assert found == {
            "i-1": ("/desk", "acmé"),
            "i-2": ("/agents/tester", "acme"),
            "i-3": ("/agents/a%20b%2F%C3%BC", "default"),
        }

    asyncio.run(scenario())


def test_what_is_over_a_limit_is_413_whether_its_length_is_announced_or_not_and_the_connection_lives_on() -> None:
    async def scenario() -> None:
        limits = CollectorSettings(collector_interaction_bytes=2048, collector_body_bytes=4096)

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 50_000

        async with MemoryBus(MemoryBroker(), reader="collector") as bus, collecting(bus, limits) as client:
            for content in (b"x" * 2049, b"x" * 20_000_000, chunks()):
                answer = await client.post("/v1/interactions", content=content, headers=JSON)
                assert answer.status_code == 413
                assert "2048" in answer.json()["error"]
            many = await client.post("/v1/interactions", content=b"x" * 4097, headers=NDJSON)
            assert many.status_code == 413
            line = await client.post("/v1/interactions", content=b"x" * 2049 + b"\n" + json.dumps(body()).encode(), headers=NDJSON)
            assert [item["status"] for item in map(json.loads, line.text.splitlines())] == ["invalid", "taken"]
            assert (await client.post("/v1/interactions", json=body("i-2"))).status_code == 202

    asyncio.run(scenario())


def test_an_interaction_of_11_megabytes_goes_through() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        large = body(response={"content": "word " * (11 * 2**20 // 5)})
        async with MemoryBus(broker, reader="collector") as bus, collecting(bus) as client:
            assert (await client.post("/v1/interactions", json=large)).status_code == 202
            await until(lambda: broker.records(INTERACTION_RECORDED.name))

    asyncio.run(scenario())


def test_other_content_types_methods_and_paths_are_told_what_is_known() -> None:
    async def scenario() -> None:
        async with MemoryBus(MemoryBroker(), reader="collector") as bus, collecting(bus) as client:
            for headers in ({"content-type": "text/plain"}, {}, JSON | {"content-encoding": "gzip"}):
                answer = await client.post("/v1/interactions", content=b"{}", headers=headers)
                assert answer.status_code == 415
                assert answer.json()["error"]
            assert (await client.get("/v1/interactions")).status_code == 405
            assert (await client.get("/elsewhere")).status_code == 404
            assert (await client.post("/v1/interactions", content=b"\n \n", headers=NDJSON)).status_code == 400
            assert "/v1/interactions" in (await client.get("/")).json()["do"]

    asyncio.run(scenario())


def test_the_description_accepts_what_the_port_accepts_and_refuses_what_it_refuses() -> None:
    async def scenario() -> None:
        async with MemoryBus(MemoryBroker(), reader="collector") as bus, collecting(bus) as client:
            document = (await client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        schema = {"$ref": "#/components/schemas/InteractionCompleted", "components": document["components"]}
        validator = jsonschema.Draft202012Validator(schema)
        assert validator.is_valid(body())
        assert not validator.is_valid(body(messages=[]))
        text = json.dumps(document)
        names = set(document["components"]["schemas"])
        assert {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]} <= names

    asyncio.run(scenario())


class _Away(MemoryBus):
    """A broker that acknowledges only the interactions that it likes."""

    likes: frozenset[str] = frozenset()

    async def publish(self, topic: Any, payload: Any, envelope: Envelope) -> Position:
        if envelope.id not in self.likes:
            raise BrokerUnavailable("nobody answers")
        return await super().publish(topic, payload, envelope)


def test_a_partly_taken_body_is_503_and_sent_again_whole_it_is_taken_whole() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        content = "\n".join(json.dumps(body(f"i-{number}")) for number in range(4))
        async with _Away(broker, reader="collector") as bus, collecting(bus) as client:
            bus.likes = frozenset({"i-0", "i-2"})
            first = await client.post("/v1/interactions", content=content, headers=NDJSON)
            bus.likes = frozenset({"i-0", "i-1", "i-2", "i-3"})
            second = await client.post("/v1/interactions", content=content, headers=NDJSON)
            await until(lambda: len(broker.records(INTERACTION_RECORDED.name)) == 4)
        assert first.status_code == 503
        assert int(first.headers["retry-after"]) > 0
        assert [item["status"] for item in map(json.loads, first.text.splitlines())] == ["taken", "unavailable"] * 2
        assert second.status_code == 200
        assert [item["status"] for item in map(json.loads, second.text.splitlines())] == ["duplicate", "taken"] * 2

    asyncio.run(scenario())


# On a broker.


def test_kafka_away_is_503_with_retry_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = CollectorSettings(
            kafka_bootstrap="127.0.0.1:9", kafka_profile="embedded", state_dir=tmp_path, collector_acknowledgement_seconds=0.3
        )
        async with KafkaBus(settings, reader="collector") as bus, collecting(bus, settings) as client:
            answer = await client.post("/v1/interactions", json=body())
            assert answer.status_code == 503
            assert answer.json()["status"] == "unavailable"
            assert int(answer.headers["retry-after"]) > 0

    asyncio.run(scenario())


@pytest.fixture
def own_broker() -> Iterator[EmbeddedBroker]:
    """The flow's own topic names are used, so nobody else's records may be in them."""
    with embedded_broker() as running_broker:
        yield running_broker


async def publish(bus: Bus, *interaction_ids: str) -> None:
    for interaction_id in interaction_ids:
        payload = InteractionCompleted.model_validate_json(json.dumps(body(interaction_id, conversation_id="c-2")))
        envelope = bus.begin(INTERACTION_COMPLETED, payload, event_id=interaction_id, source="/agents/tester")
        await bus.publish(INTERACTION_COMPLETED, payload, envelope)


def test_the_service_records_what_http_and_agents_send_through_a_kill_and_stops_on_sigterm(
    own_broker: EmbeddedBroker, tmp_path: Path
) -> None:
    async def scenario() -> None:
        settings = CollectorSettings(kafka_bootstrap=own_broker.bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        await ensure_topics(settings)
        async with KafkaBus(settings, reader="tests") as bus:
            with running(settings) as (process, port):
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
                    lines = "\n".join(json.dumps(body(f"http-{number}")) for number in range(50))
                    answer = await client.post("/v1/interactions", content=lines, headers=NDJSON)
                    assert answer.text.count('"taken"') == 50
                process.send_signal(signal.SIGKILL)
                process.wait(timeout=DEADLINE_SECONDS)
            await publish(bus, *(f"topic-{number}" for number in (*range(10), *range(10))))
            with running(settings) as (process, _):
                found = await recorded(bus, 60)
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=DEADLINE_SECONDS) == 0
            before = len(found)
            await publish(bus, *(f"topic-{number}" for number in range(11)))
            async with KafkaBus(settings, reader="collector") as another, collecting(another, settings):
                found = await recorded(bus, 61)
        names = {delivery.payload.recorded_id: delivery.payload.interaction_id for delivery in found}
        assert sorted(names.values()) == sorted([*(f"http-{n}" for n in range(50)), *(f"topic-{n}" for n in range(11))])
        assert len(found) == before + 1  # what was read back is not recorded again

    asyncio.run(scenario())


async def recorded(bus: Bus, distinct: int) -> list[Delivery[InteractionRecorded]]:
    """What is in the log once it holds so many distinct interactions."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            found = [delivery async for delivery in bus.read(INTERACTION_RECORDED)]
            if len({delivery.payload.recorded_id for delivery in found}) >= distinct:
                return found
            await asyncio.sleep(0.1)


@contextmanager
def running(settings: CollectorSettings) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The service as a process of its own, and the port that it listens on."""
    path = settings.state_dir / f"collector-{time.monotonic_ns()}.log"
    environment = os.environ | {
        "RUMINATE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "RUMINATE_KAFKA_PROFILE": settings.kafka_profile,
        "RUMINATE_STATE_DIR": str(settings.state_dir),
        "RUMINATE_COLLECTOR_PORT": "0",
    }
    with path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "ruminate.collector"], env=environment, stderr=log)
    try:
        yield process, _port(process, path)
    finally:
        process.kill()
        process.wait()


def _port(process: subprocess.Popen[bytes], path: Path) -> int:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in path.read_text().splitlines():
            if "interactions_accepted" in line:
                return int(json.loads(line)["port"])
        time.sleep(0.02)
    raise AssertionError(f"the collector did not come up: {path.read_text()[-2000:]}")
