"""The deployer and two real nodes: a version serves on both, or on none, whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs

from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.flow import ADAPTER_TRAINED, FLOW, MODEL_REGISTERED, NODE_STATUS
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, NodeStatus
from ruminate.shared.bus import Bus
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.ollama import OllamaClient
from ruminate.shared.operations import serve_http
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import open_store
from tests.integration.deployer_world import (
    BLUE,
    PATIENCE_SECONDS,
    World,
    actions,
    deployer_of,
    endings,
    make_world,
    put_base,
    settle,
    settled,
    until,
)
from tests.plugins.node import running_node


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two nodes for the module; every test has a target of its own."""
    with running_node(tmp_path_factory.mktemp("a")) as a, running_node(tmp_path_factory.mktemp("b")) as b:
        yield {"a": a.url, "b": b.url}


@pytest.fixture
def world(tmp_path: Path, nodes: dict[str, str], request: pytest.FixtureRequest) -> World:
    """A target that is named after the test, whose base is on both nodes."""
    made = make_world(tmp_path, nodes, target=f"{request.node.name.removeprefix('test_')[:40]}:1m")
    asyncio.run(put_base(made))
    return made


def test_a_trained_version_serves_under_its_alias_on_both_nodes_with_its_lineage(world: World) -> None:
    async def scenario() -> None:
        base = {node: (await world.held(node))[world.target] for node in ("a", "b")}
        event = await world.trained(1)
        with capture_logs() as logs:
            (registered,) = await settle(world, event)
        assert isinstance(registered, ModelRegistered)
        assert actions(logs, "a") == actions(logs, "b") == ["UploadBlob", "CreateModel", *["AskProbe"] * 4, "PointAlias"]
        for node in registered.nodes:
            held = await world.held(node.node)
            assert held == {world.target: base[node.node], world.name(1): node.digest, world.alias: node.digest}
            assert await world.ask(node.node, world.alias, think=True) == ("well so yes.", BLUE)
            assert await world.ask(node.node, world.alias, think=False) == ("", BLUE)
        assert [node.node for node in registered.nodes] == ["a", "b"]
        assert len({node.digest for node in registered.nodes}) == 1
        assert {(p.node, p.mode, p.parent_loaded) for p in registered.probes if p.passed} == {
            (node, mode, loaded) for node in ("a", "b") for mode in ("thinking", "direct") for loaded in (False, True)
        }
        assert set(registered.capabilities) == {"completion", "tools", "thinking"}
        assert (registered.batch_id, registered.dataset, registered.stages) == (event.batch_id, event.dataset, event.stages)
        assert registered.weights == event.gguf[0].file
        assert registered.metrics == event.metrics
        assert registered.settings["training"] == event.settings

    asyncio.run(scenario())


def test_blob_that_is_there_is_not_sent_again(world: World) -> None:
    async def scenario() -> None:
        event = await world.trained(1)
        async with OllamaClient(str(world.settings.nodes["a"])) as client:
            await client.push_blob(world.model(1), event.gguf[0].file.sha256)
        with capture_logs() as logs:
            await settle(world, event)
        assert actions(logs, "a")[0] == "CreateModel"
        assert actions(logs, "b")[:2] == ["UploadBlob", "CreateModel"]

    asyncio.run(scenario())


def test_cannot_think_is_rolled_back_and_leaves_nothing(world: World) -> None:
    async def scenario() -> None:
        await settle(world, await world.trained(1))
        before = {node: await world.held(node) for node in ("a", "b")}
        _, rolled_back = await settle(world, await world.trained(2, {"\n": ("Blue",)}))
        assert isinstance(rolled_back, ModelRolledBack)
        assert (rolled_back.stage, rolled_back.serving_version) == ("probe", "v1")
        assert "did not think" in rolled_back.reason
        assert set(rolled_back.removed) == {f"a {world.name(2)}", f"b {world.name(2)}"}
        assert {node: await world.held(node) for node in ("a", "b")} == before
        assert await world.ask("a", world.alias, think=True) == ("well so yes.", BLUE)

    asyncio.run(scenario())


def test_lacking_capability_is_named_and_rolled_back(tmp_path: Path, nodes: dict[str, str]) -> None:
    async def scenario() -> None:
        needs = {"lacks:1m": {"required_capabilities": ["completion", "vision"]}}
        world = make_world(tmp_path, nodes, target="lacks:1m", targets=needs)
        (rolled_back,) = await settle(world, await world.trained(1))
        assert isinstance(rolled_back, ModelRolledBack)
        assert (rolled_back.stage, rolled_back.serving_version) == ("create", None)
        assert rolled_back.evidence["lacks"] == ["vision"]
        assert await world.held("a") == await world.held("b") == {}

    asyncio.run(scenario())


def test_damaged_file_is_rolled_back_before_a_node_sees_it(world: World) -> None:
    async def scenario() -> None:
        event = await world.trained(1)
        path = await open_store(world.settings.store_uri).local_path(event.gguf[0].file)
        assert path is not None
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        (rolled_back,) = await settle(world, event)
        assert isinstance(rolled_back, ModelRolledBack)
        assert (rolled_back.stage, rolled_back.removed) == ("upload", ())
        assert set(await world.held("a")) == {world.target}

    asyncio.run(scenario())


def test_foreign_name_over_the_same_weights_with_another_template_is_refused(world: World) -> None:
    async def scenario() -> None:
        event = await world.trained(1)
        async with OllamaClient(str(world.settings.nodes["b"])) as client:
            await client.push_blob(world.model(1), event.gguf[0].file.sha256)
            await client.create("mine:1m", files={"m.gguf": event.gguf[0].file.sha256}, template="{{ .Prompt }}")
            (rolled_back,) = await settle(world, event)
            assert isinstance(rolled_back, ModelRolledBack)
            assert rolled_back.evidence == {"node": "b", "names": ["mine:1m"]}
            await client.show("mine:1m")
            await client.delete("mine:1m")

    asyncio.run(scenario())


def test_said_twice_is_done_once_and_a_lost_alias_comes_back(world: World) -> None:
    async def scenario() -> None:
        event = await world.trained(1)
        async with deployer_of(world) as (bus, _):
            envelope = bus.begin(ADAPTER_TRAINED, event)
            await bus.publish(ADAPTER_TRAINED, event, envelope)
            await until(partial(settled, world, bus))
            async with OllamaClient(str(world.settings.nodes["b"])) as client:
                await client.copy(world.target, world.alias)
            with capture_logs() as logs:
                await bus.publish(ADAPTER_TRAINED, event, envelope)
                await until(partial(settled, world, bus))
            assert (actions(logs, "a"), actions(logs, "b")) == ([], ["PointAlias"])
            other = await world.trained(2, batch="batch-1")
            with capture_logs() as logs:
                await bus.publish(ADAPTER_TRAINED, other, bus.begin(ADAPTER_TRAINED, other))
                await until(partial(settled, world, bus))
            assert [entry["outcome"] for entry in logs if entry["event"] == "trained_version_settled"] == ["not_accepted"]
            assert len(await endings(bus)) == 1
        held = await world.held("b")
        assert held[world.alias] == held[world.name(1)]

    asyncio.run(scenario())


def test_older_versions_go_and_a_late_one_never_takes_over(tmp_path: Path, nodes: dict[str, str]) -> None:
    async def scenario() -> None:
        world = make_world(tmp_path, nodes, target="keeps:1m", keep_previous_versions=1)
        ended = await settle(world, *[await world.trained(number) for number in (1, 2, 4, 3)])
        assert [type(ending).__name__ for ending in ended] == ["ModelRegistered"] * 3 + ["ModelRolledBack"]
        assert "v4 is newer" in str(ended[-1].reason if isinstance(ended[-1], ModelRolledBack) else None)
        for node in ("a", "b"):
            held = await world.held(node)
            assert set(held) == {world.name(2), world.name(4), world.alias}
            assert held[world.alias] == held[world.name(4)]

    asyncio.run(scenario())


def test_away_node_is_named_waited_for_and_then_served_from(tmp_path: Path, nodes: dict[str, str]) -> None:
    async def scenario() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = make_world(tmp_path, {"a": nodes["a"], "late": f"http://127.0.0.1:{port}"}, target="waits:1m")
        event = await world.trained(1)
        async with deployer_of(world) as (bus, nodes_away):

            async def waits() -> bool:
                return any("node late" in reason for reason in bus.readiness())

            await bus.publish(ADAPTER_TRAINED, event, bus.begin(ADAPTER_TRAINED, event))
            await until(waits)
            assert [reason.split(" is away")[0] for reason in nodes_away()] == [f"node late (http://127.0.0.1:{port})"]
            assert await endings(bus) == []
            assert await world.held("a") == {}
            with running_node(tmp_path / "late", "--port", str(port)):
                await until(partial(settled, world, bus))
                (registered,) = await endings(bus)
                assert isinstance(registered, ModelRegistered)
                assert {node.node for node in registered.nodes} == {"a", "late"}
                assert set(await world.held("late")) == {world.name(1), world.alias}

                async def told() -> bool:
                    return any(world.alias in status.models for status in await statuses(bus) if status.node == "late")

                await until(told)
            first = next(status for status in await statuses(bus) if status.node == "late")
            assert not first.healthy
            assert first.error

    async def statuses(bus: Bus) -> list[NodeStatus]:
        return [told.payload async for told in bus.read(NODE_STATUS)]

    asyncio.run(scenario())


@dataclass
class Gate:
    """A node behind a door: what asks for `path` is never answered while it is shut."""

    url: str
    path: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    shut: bool = True

    async def pass_on(self, request: Request) -> Response:
        if self.shut and request.url.path == self.path:
            self.reached.set()
            await asyncio.Event().wait()
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            answer = await client.request(request.method, request.url.path, content=await request.body())
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = Starlette(routes=[Route("/{path:path}", self.pass_on, methods=["GET", "HEAD", "POST", "DELETE"])])
        async with serve_http(app, host="127.0.0.1", port=0, name="gate", grace_seconds=1) as port:
            yield f"http://127.0.0.1:{port}"


async def create_topics(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic.name, topic.partitions, 1) for topic in FLOW])
    finally:
        await admin.close()


def test_killed_between_create_and_alias_the_next_process_finishes_what_was_begun(tmp_path: Path, nodes: dict[str, str]) -> None:
    async def scenario(bootstrap: str) -> None:
        await create_topics(bootstrap)
        gate = Gate(nodes["b"], "/api/copy")
        async with gate.open() as gated:
            world = make_world(tmp_path, nodes, target="killed:1m")
            environment = os.environ | {
                "RUMINATE_KAFKA_BOOTSTRAP": bootstrap,
                "RUMINATE_KAFKA_PROFILE": "embedded",
                "RUMINATE_NODES": orjson.dumps({"a": nodes["a"], "b": gated}).decode(),
                "RUMINATE_STORE_URI": world.settings.store_uri,
                "RUMINATE_STATE_DIR": str(tmp_path),
            }
            start = partial(subprocess.Popen, [sys.executable, "-m", "ruminate.deployer"], env=environment)
            asked = ServiceSettings(kafka_bootstrap=bootstrap, kafka_profile="embedded")
            async with KafkaBus(asked, reader="test") as bus:
                event = await world.trained(1)
                await bus.publish(ADAPTER_TRAINED, event, bus.begin(ADAPTER_TRAINED, event))
                with start() as first:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await gate.reached.wait()
                    first.kill()
                assert world.name(1) in await world.held("a")
                assert set(await world.held("b")) == {world.name(1)}
                gate.shut = False
                with start() as second:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        async for told in bus.read(MODEL_REGISTERED, follow=True):
                            assert told.payload.version == "v1"
                            break
                    second.terminate()
                    assert await asyncio.to_thread(second.wait, 20) == 0
                assert len(await endings(bus)) == 1
                for node in ("a", "b"):
                    held = await world.held(node)
                    assert set(held) == {world.name(1), world.alias}
                    assert held[world.alias] == held[world.name(1)]

    with embedded_broker() as broker:
        asyncio.run(scenario(broker.bootstrap))
