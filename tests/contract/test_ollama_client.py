"""Our client against a running node, and what it makes of a node that is away or refuses."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import httpx
import pytest

from ruminate.shared.ollama import QWEN3_TEMPLATE, SMALL_WEIGHTS_BYTES, NodeRefused, NodeUnavailable, OllamaClient, parameters_for
from tests.contract.ollama_contract import ANSWER, GREEDY, HELLO, OK_SCHEMA, THOUGHT
from tests.plugins.node import RunningNode, TinyModels


def with_client(url: str, ask: Callable[[OllamaClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with OllamaClient(url) as client:
            await ask(client)

    asyncio.run(main())


def test_a_model_is_pushed_created_asked_moved_and_deleted(embedded_node: RunningNode, tiny_models: TinyModels) -> None:
    sha256 = hashlib.sha256(tiny_models.call.read_bytes()).hexdigest()

    async def ask(client: OllamaClient) -> None:
        await client.push_blob(tiny_models.call, sha256)
        assert await client.has_blob(sha256)
        assert not await client.has_blob("0" * 64)
        statuses = await client.create("ours:v1", files={"m.gguf": sha256}, system="Hm.", parameters={"num_ctx": 512})
        assert statuses[-1] == "success"
        shown = await client.show("ours:v1")
        assert shown.capabilities == {"completion", "tools", "thinking"}
        assert (shown.template, shown.system) == (QWEN3_TEMPLATE, "Hm.")
        await client.copy("ours:v1", "ours:current")
        listed = {model.name: model.digest for model in await client.tags()}
        assert listed["ours:v1"] == listed["ours:current"]
        await client.delete("ours:v1")
        assert "ours:v1" not in {model.name for model in await client.tags()}
        assert (await client.version()).startswith("0.")

    with_client(embedded_node.url, ask)


def test_answers_come_with_thinking_calls_and_counts(embedded_node: RunningNode, tiny_models: TinyModels) -> None:
    async def ask(client: OllamaClient) -> None:
        for path, name in ((tiny_models.talk, "speaker"), (tiny_models.call, "caller")):
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            await client.push_blob(path, sha256)
            await client.create(name, files={"m.gguf": sha256})
        said = await client.chat("speaker", HELLO, think=True, options=GREEDY)
        assert (said.message.thinking, said.message.content, said.done_reason) == (THOUGHT, ANSWER, "stop")
        assert said.eval_count == 10 and said.eval_duration > 0
        assert (
            await client.chat("speaker", HELLO, think=False, format=OK_SCHEMA, options=GREEDY)
        ).message.content == '{"ok": true}'
        tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
        (call,) = (await client.chat("caller", HELLO, tools=[tool], options=GREEDY)).message.tool_calls
        assert (call.function.name, call.function.arguments) == ("add", {"a": 1, "b": 2})
        raw = await client.generate(
            "speaker", "<|im_start|>assistant\n<think>\n\n</think>\n\n", raw=True, think=False, options=GREEDY
        )
        assert (raw.response, raw.thinking) == (ANSWER, "")
        assert "speaker:latest" in {model.name for model in await client.ps()}

    with_client(embedded_node.url, ask)


def test_what_a_node_refuses_keeps_its_words(embedded_node: RunningNode) -> None:
    async def ask(client: OllamaClient) -> None:
        with pytest.raises(NodeRefused, match="model 'ghost' not found") as refused:
            await client.show("ghost")
        assert refused.value.status == 404
        with pytest.raises(NodeRefused, match="pull model manifest"):
            await client.create("new", from_="ghost")
        with pytest.raises(NodeRefused, match="400"):
            await client.has_blob("short")

    with_client(embedded_node.url, ask)


def test_small_weights_are_served_by_one_thread() -> None:
    assert parameters_for(SMALL_WEIGHTS_BYTES - 1) == {"num_thread": 1}
    assert parameters_for(SMALL_WEIGHTS_BYTES) == {}


def test_a_node_that_is_away_is_unavailable() -> None:
    async def ask(client: OllamaClient) -> None:
        with pytest.raises(NodeUnavailable, match=r"127\.0\.0\.1:1"):
            await client.version()
        with pytest.raises(NodeUnavailable):
            await client.create("x", from_="y")

    with_client("http://127.0.0.1:1", ask)


@pytest.mark.parametrize(
    ("status", "content", "raised"),
    [
        (503, b'{"error": "server busy"}', NodeUnavailable),
        (200, b"<html>", NodeUnavailable),
        (200, b'{"other": 1}', NodeUnavailable),
        (502, b"<html>bad gateway", NodeRefused),
        (400, b'{"error": "no"}', NodeRefused),
    ],
)
def test_broken_answers_are_told_apart(status: int, content: bytes, raised: type[Exception]) -> None:
    async def main() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
        async with OllamaClient("http://node", transport=transport) as client:
            with pytest.raises(raised):
                await client.version()

    asyncio.run(main())


def test_a_create_that_breaks_off_is_no_success() -> None:
    async def main() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=b'{"status":"writing manifest"}\n'))
        async with OllamaClient("http://node", transport=transport) as client:
            with pytest.raises(NodeUnavailable, match="broke off"):
                await client.create("x", from_="y")

    asyncio.run(main())
