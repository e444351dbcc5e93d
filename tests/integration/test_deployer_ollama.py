"""The deployer and Ollama itself: fleets of one engine or the other, and of both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.real.ollama import NEWER, OLDER, ollama_node
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.shared.ollama import OllamaClient
from tests.integration.deployer_world import BLUE, World, make_world, put_base, settle
from tests.plugins.node import Script
from tests.plugins.real import installed

pytestmark = pytest.mark.real
FLEETS = {"older": (OLDER, OLDER), "newer": (NEWER, NEWER), "mixed": (OLDER, NEWER)}
ADAPTED: Script = {"</think>": ("Adapted",), "\n\n": ("Adapted",)}
CANNOT_THINK: Script = {"\n": ("Blue",)}


@pytest.fixture(scope="module", params=FLEETS)
def versions(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which Ollama each of the two nodes is."""
    return FLEETS[request.param]


@pytest.fixture(scope="module")
def nodes(versions: tuple[str, str]) -> Iterator[dict[str, str]]:
    """Two nodes for the module; every test has a target of its own."""
    with installed(), ExitStack() as running:
        yield {name: running.enter_context(ollama_node(version)).url for name, version in zip("ab", versions, strict=True)}


@pytest.fixture
def world(tmp_path: Path, nodes: dict[str, str], request: pytest.FixtureRequest) -> World:
    """A target that is named after the test, whose base is on both nodes."""
    name = request.node.originalname.removeprefix("test_")[:40]
    made = make_world(tmp_path, nodes, target=f"{name}:1m")
    asyncio.run(put_base(made))
    return made


def test_versions_follow_each_other_and_a_bad_one_leaves_nothing(world: World, versions: tuple[str, str]) -> None:
    async def scenario() -> None:
        first, second = await settle(world, await world.trained(1), await world.trained(2, ADAPTED))
        assert isinstance(first, ModelRegistered) and isinstance(second, ModelRegistered)
        assert [node.engine_version for node in second.nodes] == list(versions)
        assert {(p.node, p.mode, p.parent_loaded) for p in second.probes if p.passed} == {
            (node, mode, loaded) for node in "ab" for mode in ("thinking", "direct") for loaded in (False, True)
        }
        assert set(second.capabilities) == {"completion", "tools", "thinking"}
        before = {node: await world.held(node) for node in "ab"}
        for held in second.nodes:
            assert before[held.node][world.alias] == before[held.node][world.name(2)] == held.digest
        *_, rolled_back = await settle(world, await world.trained(3, CANNOT_THINK))
        assert isinstance(rolled_back, ModelRolledBack)
        assert (rolled_back.stage, rolled_back.serving_version) == ("probe", "v2")
        assert {node: await world.held(node) for node in "ab"} == before
        for node in "ab":
            assert await world.ask(node, world.alias, think=True) == ("well so yes.", BLUE.replace("Blue", "Adapted"))
            assert await world.ask(node, world.alias, think=False) == ("", BLUE.replace("Blue", "Adapted"))
            assert await world.ask(node, world.name(1), think=True) == ("well so yes.", BLUE)
            async with OllamaClient(str(world.settings.nodes[node])) as client:
                assert "num_thread" in (await client.show(world.alias)).parameters

    asyncio.run(scenario())


def test_version_that_was_made_before_is_made_again_without_a_trace(world: World) -> None:
    async def scenario() -> None:
        event = await world.trained(1)
        (first,) = await settle(world, event)
        assert isinstance(first, ModelRegistered)
        before = {node: await world.held(node) for node in "ab"}
        # A log that knows nothing of it, as after a run that was killed before it could tell.
        forgotten = World(world.folder, world.target, world.settings)
        (again,) = await settle(forgotten, event)
        assert isinstance(again, ModelRegistered)
        assert {node: await world.held(node) for node in "ab"} == before
        assert again.nodes == first.nodes

    asyncio.run(scenario())


def test_name_over_the_same_weights_with_another_template_is_refused(world: World) -> None:
    async def scenario() -> None:
        event = await world.trained(1)
        sha256 = event.gguf[0].file.sha256
        async with OllamaClient(str(world.settings.nodes["b"])) as client:
            await client.push_blob(world.model(1), sha256)
            await client.create("mine:1m", files={"m.gguf": sha256}, template="{{ .Prompt }}")
            (rolled_back,) = await settle(world, event)
            assert isinstance(rolled_back, ModelRolledBack)
            assert rolled_back.evidence == {"node": "b", "names": ["mine:1m"]}
            assert set(await world.held("a")) == set(await world.held("b")) == {world.target}
            await client.delete("mine:1m")

    asyncio.run(scenario())
