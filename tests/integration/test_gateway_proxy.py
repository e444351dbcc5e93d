"""The gateway between real HTTP clients and nodes that misbehave on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import REGISTRY

from ruminate.gateway.app import Gateway, serve_gateway
from ruminate.gateway.broker import Versions, stay_connected
from ruminate.gateway.capture import Capture
from ruminate.gateway.nodes import Nodes, node_connections
from ruminate.gateway.settings import GatewaySettings
from ruminate.gateway.spool import open_spool
from ruminate.schemas.flow import INTERACTION_COMPLETED, MODEL_REGISTERED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.model import ModelRegistered, NodeDigest
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.memory import MemoryBroker, MemoryBus

DEADLINE_SECONDS = 20.0

Behaviour = Callable[[dict[str, Any], "Reply"], Awaitable[None]]


def chunk(model: str, *, done: bool = False, **message: str) -> bytes:
    ending = {"done_reason": "stop", "prompt_eval_count": 5, "eval_count": 2, "total_duration": 3_000_000} if done else {}
    said = {"role": "assistant", "content": "", **message}
    return orjson.dumps({"model": model, "message": said, "done": done, **ending}) + b"\n"


@dataclass
class Reply:
    """What a stub node says to one request, byte by byte."""

    writer: asyncio.StreamWriter

    async def start(self, *, status: int = 200, kind: str = "application/x-ndjson", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Said", f"content-type: {kind}", "transfer-encoding: chunked", "connection: keep-alive"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def send(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    async def hang_up(self) -> None:
        """As a killed process does: what was written still arrives, then the connection is gone."""
        self.writer.close()


async def answers(request: dict[str, Any], reply: Reply) -> None:
    pieces = chunk(request["model"], thinking="hm"), chunk(request["model"], content="Blue"), chunk(request["model"], done=True)
    if request.get("stream", True):
        await reply.start()
        for piece in pieces:
            await reply.send(piece)
    else:
        await reply.start(kind="application/json; charset=utf-8")
        await reply.send(chunk(request["model"], thinking="hm", content="Blue", done=True))
    await reply.end()


async def dies_before_the_first_byte(request: dict[str, Any], reply: Reply) -> None:
    await reply.hang_up()


async def dies_in_the_middle(request: dict[str, Any], reply: Reply) -> None:
    await reply.start()
    await reply.send(chunk(request["model"], content="Blu") + b'{"model":"m","mess')
    await reply.hang_up()


@dataclass
class StubNode:
    """A node on a real socket that lists its models and answers as it is told; it counts what it is asked."""

    models: list[str]
    behaviour: Behaviour = answers
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its address, while it runs."""
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving = asyncio.create_task(self._serve(reader, writer))
            connections.add(serving)
            serving.add_done_callback(connections.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for serving in list(connections):
                serving.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
                content = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(first.split()[1], headers, content, reader, Reply(writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway has closed the connection
        finally:
            writer.close()

    async def _answer(
        self, path: str, headers: Mapping[str, str], content: bytes, reader: asyncio.StreamReader, reply: Reply
    ) -> None:
        listed = {"/api/version": {"version": "0.30.0"}, "/api/tags": {"models": [{"name": name} for name in self.models]}}
        if path in listed:
            await reply.start(kind="application/json")
            await reply.send(orjson.dumps(listed[path]))
            await reply.end()
            return
        request = orjson.loads(content) if content.startswith(b'{"') else {"raw": content}
        self.requests.append(request)
        self.headers.append(headers)
        answering = asyncio.create_task(self._behave(request, reply))
        leaving = asyncio.create_task(_gone(reader))
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            self.left.set()
        answering.cancel()
        leaving.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _behave(self, request: dict[str, Any], reply: Reply) -> None:
        await self.behaviour(request, reply)


async def _gone(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.01)


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


@dataclass
class Running:
    """A gateway that answers, and what is behind it."""

    url: str
    client: httpx.AsyncClient
    broker: MemoryBroker
    nodes: Nodes
    versions: Versions

    async def captured(self, count: int) -> list[InteractionCompleted]:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.broker.records(INTERACTION_COMPLETED.name)) < count:
                await self.broker.wait(0.1)
        records = self.broker.records(INTERACTION_COMPLETED.name)
        told = [InteractionCompleted.model_validate_json(record.value or b"") for record in records]
        return sorted(told, key=lambda interaction: interaction.occurred_at)

    async def promoted(self, version: str) -> None:
        await eventually(
            lambda: self.versions.catalogue.resolve("default", "m").version == version and not self.versions.readiness()
        )

    async def chat(
        self, model: str = "m", *, stream: bool = True, headers: dict[str, str] | None = None, **more: object
    ) -> httpx.Response:
        request = {"model": model, "messages": [{"role": "user", "content": "sky?"}], "stream": stream, **more}
        return await self.client.post("/api/chat", json=request, headers=headers)


@asynccontextmanager
async def running(folder: Path, stubs: Mapping[str, StubNode], **fields: Any) -> AsyncIterator[Running]:
    """A gateway in front of these nodes, with a broker of lists behind it."""
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        urls = {name: await enter(stub.listening()) for name, stub in stubs.items()}
        settings = GatewaySettings(nodes=urls, gateway_port=0, health_interval_seconds=0.05, **fields)
        spool = resources.enter_context(open_spool(folder / "spool", settings))
        versions = Versions(folder / "versions.json")
        transport, client = await enter(node_connections())
        nodes = Nodes(settings, client)
        await nodes.look()
        capture = Capture(settings, spool, now=partial(datetime.now, UTC))
        gateway = Gateway(settings, nodes=nodes, catalogue=versions.catalogue, capture=capture, transport=transport)
        broker = MemoryBroker()
        tasks = await enter(asyncio.TaskGroup())
        for work in (nodes.watch(), stay_connected(partial(MemoryBus, broker, settings, reader="gateway"), spool, versions)):
            resources.callback(tasks.create_task(work).cancel)
        port = await enter(serve_gateway(gateway, settings))
        url = f"http://127.0.0.1:{port}"
        yield Running(url, await enter(httpx.AsyncClient(base_url=url, timeout=DEADLINE_SECONDS)), broker, nodes, versions)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 3 * DEADLINE_SECONDS))


def outcomes(path: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("ruminate_gateway_requests_total", {"route": path, "outcome": outcome}) or 0.0


FILE = ArtifactReference(uri="file:///x", sha256="0" * 64, size_bytes=1)


def registration(*, node: str) -> ModelRegistered:
    return ModelRegistered(
        target_model="m",
        version="v1",
        number=1,
        model_name="m-v1:latest",
        alias="m-live",
        base_model="m",
        batch_id="b",
        dataset=FILE,
        adapter=FILE,
        weights=FILE,
        stages=(),
        settings={},
        metrics={},
        nodes=(NodeDigest(node=node, url="http://x", digest="0" * 64, engine_version="0.30.0"),),
        probes=(),
        capabilities=(),
        registered_at=datetime.now(UTC),
    )


async def register(broker: MemoryBroker, event: ModelRegistered) -> None:
    bus = MemoryBus(broker, reader="deployer")
    await bus.publish(MODEL_REGISTERED, event, bus.begin(MODEL_REGISTERED, event))


def test_bytes_pass_unchanged_and_the_interaction_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = StubNode(["m:latest"])
        async with running(tmp_path, {"a": node}, training_tenants={"acme"}) as gateway:
            trace = f"00-{'a' * 32}-{'b' * 16}-01"
            headers = {
                "x-ruminate-tenant": "acme",
                "x-ruminate-agent": "coder",
                "traceparent": trace,
                "x-mine": "kept",
                "connection": "x-hop",
                "x-hop": "1",
            }
            answer = await gateway.chat(think=True, headers=headers)
            assert answer.content == chunk("m", thinking="hm") + chunk("m", content="Blue") + chunk("m", done=True)
            assert (answer.headers["x-ruminate-node"], answer.headers["x-ruminate-version"]) == ("a", "base")
            (told,) = await gateway.captured(1)
            assert told.interaction_id == answer.headers["x-ruminate-interaction"]
            assert (told.tenant, told.agent, told.target_model, told.answering_version) == ("acme", "coder", "m", "base")
            assert (told.response.content, told.response.thinking, told.thinking.mode_used) == ("Blue", "hm", "thinking")
            assert (told.usage.prompt_tokens, told.usage.response_tokens, told.usage.total_seconds) == (5, 2, 0.003)
            assert told.usage.first_token_seconds is not None
            assert told.training_allowed
            sent = dict(gateway.broker.records(INTERACTION_COMPLETED.name)[0].headers)
            assert (sent["ce_id"].decode(), sent["ce_source"], sent["traceparent"].decode()) == (
                told.interaction_id,
                b"/ruminate/gateway",
                trace,
            )
            assert node.headers[0]["x-mine"] == "kept"
            assert not {"x-hop", "x-ruminate-tenant", "x-ruminate-agent"} & node.headers[0].keys()

    run(scenario())


def test_the_promoted_version_answers_under_the_name_that_was_asked_for_wherever_it_is_held(tmp_path: Path) -> None:
    async def scenario() -> None:
        stubs = {"a": StubNode(["m:latest"]), "b": StubNode(["m:latest", "m-v1:latest"])}
        async with running(tmp_path, stubs) as gateway:
            await register(gateway.broker, registration(node="b"))
            await gateway.promoted("v1")
            for stream in (True, False):
                answer = await gateway.chat(stream=stream)
                assert (answer.headers["x-ruminate-version"], answer.headers["x-ruminate-node"]) == ("v1", "b")
                assert b'"model":"m"' in answer.content
                assert b"m-v1" not in answer.content
            assert stubs["b"].requests[-1]["model"] == "m-v1:latest"
            assert (await gateway.chat("m@base")).headers["x-ruminate-node"] == "a"
            assert stubs["a"].requests[-1]["model"] == "m"
            missing = await gateway.chat("m@v7")
            assert (missing.status_code, missing.json()["error"]) == (404, "model 'm@v7' not found: m has the versions base, v1")
            assert {told.target_model for told in await gateway.captured(3)} == {"m"}

    run(scenario())


def test_a_version_is_known_again_after_a_restart_without_a_broker(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"a": StubNode(["m:latest"])}) as gateway:
            await register(gateway.broker, registration(node="a"))
            await gateway.promoted("v1")
        kept = Versions(tmp_path / "versions.json")
        assert kept.catalogue.resolve("default", "m").version == "v1"
        assert not kept.readiness()
        (tmp_path / "versions.json").write_bytes(b"{")
        assert Versions(tmp_path / "versions.json").readiness()

    run(scenario())


def test_the_next_node_answers_when_one_fails_before_its_first_byte(tmp_path: Path) -> None:
    async def scenario() -> None:
        stubs = {"a": StubNode(["m:latest"], dies_before_the_first_byte), "b": StubNode(["m:latest"])}
        async with running(tmp_path, stubs) as gateway:
            answer = await gateway.chat()
            assert (answer.status_code, answer.headers["x-ruminate-node"]) == (200, "b")
            assert len(stubs["a"].requests) == 1
            assert len(await gateway.captured(1)) == 1

    run(scenario())


def test_a_node_that_hangs_up_is_asked_once_more_when_there_is_no_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = StubNode(["m:latest"], dies_before_the_first_byte)
        async with running(tmp_path, {"a": node}, down_after_failures=100) as gateway:
            answer = await gateway.chat()
            assert (answer.status_code, len(node.requests)) == (503, 2)
            assert int(answer.headers["retry-after"]) >= 1
            assert "m" in answer.json()["error"]

    run(scenario())


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_a_whole_answer_that_has_no_end_is_a_502_and_is_not_told(tmp_path: Path, path: str) -> None:
    # So says Ollama 0.34 where its runner gave up in the middle of an answer.
    unfinished: dict[str, dict[str, Any]] = {
        "/api/chat": {"model": "m", "message": {"role": "assistant", "content": "Blu"}, "done": False},
        "/v1/chat/completions": {
            "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Blu"}, "finish_reason": None}],
        },
    }

    async def gives_up(request: dict[str, Any], reply: Reply) -> None:
        await reply.start(kind="application/json; charset=utf-8")
        await reply.send(orjson.dumps(unfinished[path]))
        await reply.end()

    async def scenario() -> None:
        node = StubNode(["m:latest"], gives_up)
        async with running(tmp_path, {"a": node}) as gateway:
            failed = outcomes(path, "failed")
            question = {"model": "m", "messages": [{"role": "user", "content": "sky?"}], "stream": False}
            answer = await gateway.client.post(path, json=question)
            assert answer.status_code == 502
            error = answer.json()["error"]
            assert "broke off" in (error["message"] if path.startswith("/v1") else error)
            assert "Blu" not in answer.text
            await eventually(lambda: outcomes(path, "failed") == failed + 1)
            node.behaviour = answers
            assert (await gateway.chat()).status_code == 200
            (told,) = await gateway.captured(1)
            assert told.response.content == "Blue"

    run(scenario())


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_an_answer_that_breaks_off_ends_with_an_error_and_is_not_told(tmp_path: Path, path: str) -> None:
    async def dies(request: dict[str, Any], reply: Reply) -> None:
        await reply.start(kind="text/event-stream")
        await reply.send(b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"Blu"},"finish_reason":null}]}\n\n')
        await reply.hang_up()

    async def scenario() -> None:
        node = StubNode(["m:latest"], dies if path.startswith("/v1") else dies_in_the_middle)
        async with running(tmp_path, {"a": node}) as gateway:
            failed = outcomes(path, "failed")
            answer = await gateway.client.post(
                path, json={"model": "m", "messages": [{"role": "user", "content": "sky?"}], "stream": True}
            )
            assert answer.status_code == 200
            last = answer.text.strip().splitlines()[-1].removeprefix("data: ")
            error = orjson.loads(last)["error"]
            assert "broke off" in (error["message"] if path.startswith("/v1") else error)
            assert "Blu" in answer.text
            await eventually(lambda: outcomes(path, "failed") == failed + 1)
            node.behaviour = answers
            assert (await gateway.chat()).status_code == 200
            (told,) = await gateway.captured(1)
            assert told.response.content == "Blue"

    run(scenario())


def test_a_client_that_leaves_ends_the_work_of_the_node_and_nothing_is_told(tmp_path: Path) -> None:
    async def never_ends(request: dict[str, Any], reply: Reply) -> None:
        if request.get("stream"):
            await reply.start()
            await reply.send(chunk(request["model"], content="Blu"))
        await asyncio.Event().wait()

    async def scenario() -> None:
        node = StubNode(["m:latest"], never_ends)
        async with running(tmp_path, {"a": node}) as gateway:
            request = {"model": "m", "messages": [{"role": "user", "content": "sky?"}]}
            aborted = outcomes("/api/chat", "aborted")
            async with gateway.client.stream("POST", "/api/chat", json={**request, "stream": True}) as answer:
                assert b"Blu" in await anext(answer.aiter_raw())
            await asyncio.wait_for(node.left.wait(), DEADLINE_SECONDS)
            node.left.clear()
            with pytest.raises(httpx.ReadTimeout):
                await gateway.client.post("/api/chat", json={**request, "stream": False}, timeout=0.2)
            await asyncio.wait_for(node.left.wait(), DEADLINE_SECONDS)
            node.behaviour = answers
            await gateway.chat()
            assert [told.response.content for told in await gateway.captured(1)] == ["Blue"]
            await eventually(lambda: outcomes("/api/chat", "aborted") == aborted + 2)
            assert all(view.in_flight == 0 for view in gateway.nodes.view())

    run(scenario())


def test_chunks_leave_as_they_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        go_on = asyncio.Event()

        async def waits(request: dict[str, Any], reply: Reply) -> None:
            await reply.start()
            await reply.send(chunk(request["model"], content="Bl"))
            await go_on.wait()
            await reply.send(chunk(request["model"], content="ue"))
            await reply.send(chunk(request["model"], done=True))
            await reply.end()

        async with (
            running(tmp_path, {"a": StubNode(["m:latest"], waits)}) as gateway,
            gateway.client.stream(
                "POST", "/api/chat", json={"model": "m", "messages": [{"role": "user", "content": "?"}]}
            ) as answer,
        ):
            lines = answer.aiter_lines()
            assert "Bl" in await anext(lines)
            go_on.set()
            assert [orjson.loads(line)["done"] async for line in lines] == [False, True]

    run(scenario())


def test_a_nodes_refusal_comes_back_as_the_node_said_it(tmp_path: Path) -> None:
    async def refuses(request: dict[str, Any], reply: Reply) -> None:
        await reply.start(status=400, kind="application/json; charset=utf-8", x_reason="busy")
        await reply.send(b'{"error":"\\"m\\" does not support thinking"}')
        await reply.end()

    async def scenario() -> None:
        node = StubNode(["m:latest"], refuses)
        async with running(tmp_path, {"a": node}) as gateway:
            answer = await gateway.chat(think=True)
            assert (answer.status_code, answer.content) == (400, b'{"error":"\\"m\\" does not support thinking"}')
            assert answer.headers["x-reason"] == "busy"
            await gateway.client.post("/api/chat", content=b"{not json")
            assert node.requests[-1] == {"raw": b"{not json"}

    run(scenario())


def test_too_large_a_request_is_refused_whether_or_not_it_says_its_size(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1024

    async def scenario() -> None:
        node = StubNode(["m:latest"])
        async with running(tmp_path, {"a": node}, request_limit_bytes=8192) as gateway:
            for content in (b"x" * 20_000, pieces()):
                answer = await gateway.client.post("/api/chat", content=content)
                assert (answer.status_code, "RUMINATE_REQUEST_LIMIT_BYTES" in answer.json()["error"]) == (413, True)
            assert not node.requests

    run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/create", 403),
        ("POST", "/api/pull", 403),
        ("POST", "/api/push", 403),
        ("POST", "/api/copy", 403),
        ("DELETE", "/api/delete", 403),
        ("HEAD", "/api/blobs/sha256:00", 403),
        ("POST", "/api/blobs/sha256:00", 403),
        ("POST", "/v1/other", 404),
        ("GET", "/api/chat", 403),
    ],
)
def test_whatever_would_change_a_node_is_refused(tmp_path: Path, method: str, path: str, status: int) -> None:
    async def scenario() -> None:
        node = StubNode(["m:latest"])
        async with running(tmp_path, {"a": node}) as gateway:
            answer = await gateway.client.request(method, path)
            assert answer.status_code == status
            if method != "HEAD":
                assert answer.json()["error"]
            assert not node.requests

    run(scenario())


def test_what_several_nodes_list_is_listed_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"a": StubNode(["m:latest"]), "b": StubNode(["m:latest", "n:1b"])}) as gateway:
            listed = (await gateway.client.get("/api/tags")).json()["models"]
            assert [entry["name"] for entry in listed] == ["m:latest", "n:1b"]

    run(scenario())


def test_a_conversation_goes_on_from_answer_to_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, {"a": StubNode(["m:latest"])}) as gateway:
            first = {"role": "user", "content": "sky?"}
            await gateway.chat()
            await gateway.chat(
                messages=[first, {"role": "assistant", "content": "Blue"}, {"role": "user", "content": "and grass?"}]
            )
            await gateway.chat(messages=[{"role": "user", "content": "something else"}])
            opening, going_on, other = await gateway.captured(3)
            assert going_on.conversation_id == opening.conversation_id != other.conversation_id
            assert (opening.continues_interaction, going_on.continues_interaction) == (None, opening.interaction_id)
            assert other.continues_interaction is None

    run(scenario())


def test_a_full_spool_costs_the_event_and_never_the_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        lost = REGISTRY.get_sample_value("ruminate_gateway_captures_total", {"outcome": "spool_full"}) or 0.0
        large = [{"role": "user", "content": "x" * 1_500_000}]
        async with running(tmp_path, {"a": StubNode(["m:latest"])}, spool_limit_bytes=1024 * 1024) as gateway:
            assert (await gateway.chat(messages=large)).status_code == 200
            assert REGISTRY.get_sample_value("ruminate_gateway_captures_total", {"outcome": "spool_full"}) == lost + 1
            assert (await gateway.chat()).status_code == 200
            assert len(await gateway.captured(1)) == 1

    run(scenario())


def test_a_node_that_comes_back_is_used_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        node = StubNode(["m:latest"], dies_before_the_first_byte)
        async with running(tmp_path, {"a": node}, down_after_failures=1) as gateway:
            assert (await gateway.chat()).status_code == 503
            node.behaviour = answers
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await gateway.chat()).status_code != 200:
                    await asyncio.sleep(0.02)

    run(scenario())


def test_a_silent_node_is_given_up_and_nobody_else_does_its_work_again(tmp_path: Path) -> None:
    async def is_silent(request: dict[str, Any], reply: Reply) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        stubs = {"a": StubNode(["m:latest"], is_silent), "b": StubNode(["m:latest"])}
        async with running(tmp_path, stubs, silence_timeout_seconds=0.2) as gateway:
            answer = await gateway.chat()
            assert (answer.status_code, "RUMINATE_SILENCE_TIMEOUT_SECONDS" in answer.json()["error"]) == (504, True)
            assert not stubs["b"].requests

    run(scenario())


def test_an_answer_that_cannot_be_read_passes_and_is_counted(tmp_path: Path) -> None:
    async def babbles(request: dict[str, Any], reply: Reply) -> None:
        await reply.start(kind="application/json")
        await reply.send(b"not json")
        await reply.end()

    async def scenario() -> None:
        unread = REGISTRY.get_sample_value("ruminate_gateway_captures_total", {"outcome": "unreadable"}) or 0.0
        async with running(tmp_path, {"a": StubNode(["m:latest"], babbles)}) as gateway:
            assert (await gateway.chat(stream=False)).content == b"not json"
        assert REGISTRY.get_sample_value("ruminate_gateway_captures_total", {"outcome": "unreadable"}) == unread + 1

    run(scenario())
