"""A deployer, its log and its store, and trained versions whose words are known: for tests on nodes of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ruminate.deployer.decide import alias_name, version_name
from ruminate.deployer.deploy import Deployer, deploy_one
from ruminate.deployer.fleet import Fleet
from ruminate.deployer.settings import DeployerSettings
from ruminate.deployer.watch import watch
from ruminate.proof.record import EXAM_FILE, ExamRecord
from ruminate.schemas.flow import ADAPTER_TRAINED, MODEL_REGISTERED, MODEL_ROLLED_BACK
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.training import AdapterTrained, GgufFile
from ruminate.shared.bus import Bus, Readiness
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.ollama import OllamaClient, parameters_for
from ruminate.shared.store import open_store
from tests.plugins.node import TALK, Script, write_scripted_model

PATIENCE_SECONDS = 60.0
BLUE = "Blue is the answer."
Ending = ModelRegistered | ModelRolledBack


@dataclass(frozen=True)
class Proven:
    """The exam that a version has sat, and the rows held out of which some of it was."""

    record: ExamRecord
    held_out: tuple[str, ...] = ()


@dataclass
class World:
    """A log, a store, and the events of one target."""

    folder: Path
    target: str
    settings: DeployerSettings
    broker: MemoryBroker = field(default_factory=MemoryBroker)

    def model(self, number: int, changes: Script | None = None) -> Path:
        """A GGUF like no other: what it says after a letter that it never says tells it apart."""
        script = {**TALK, **(changes or {}), "ABCDEFGHIJ"[number]: (self.target[0],)}
        return write_scripted_model(self.folder / f"{self.target[0]}{number}.gguf", script)

    async def trained(
        self, number: int, changes: Script | None = None, *, batch: str | None = None, proven: Proven | None = None
    ) -> AdapterTrained:
        """The event of a version whose GGUF lies in the store, with the exam by which it was `proven`."""
        store = open_store(self.settings.store_uri)
        file = await store.put_file(self.model(number, changes), kind="gguf", name=f"v{number}")
        adapter, dataset = self.folder / f"adapter{number}", self.folder / f"dataset{number}"
        files = {adapter / "adapter_config.json": "{}", dataset / "train.jsonl": ""}
        if proven is not None:
            files[adapter / EXAM_FILE] = proven.record.model_dump_json()
            files[dataset / "holdout.jsonl"] = "".join(f"{line}\n" for line in proven.held_out)
        for path, content in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return AdapterTrained(
            job_id=batch or f"batch-{number}",
            batch_id=batch or f"batch-{number}",
            target_model=self.target,
            version=f"v{number}",
            number=number,
            parent_version=f"v{number - 1}" if number > 1 else None,
            base_model="tiny",
            adapter=await store.put_tree(adapter, kind="adapters", name=f"v{number}"),
            gguf=(GgufFile(encoding="f32", holds="model", file=file),),
            dataset=await store.put_tree(dataset, kind="datasets", name=f"batch-{number}"),
            stages=("cold_start",),
            settings={"learning_rate": 1e-5},
            metrics={"loss": 0.5},
            duration_seconds=1.0,
            trained_at=datetime.now(UTC),
        )

    def name(self, number: int) -> str:
        return version_name(self.target, f"v{number}")

    @property
    def alias(self) -> str:
        return alias_name(self.target)

    async def held(self, node: str) -> dict[str, str]:
        """Names of this target on a node, with their digests."""
        async with OllamaClient(str(self.settings.nodes[node])) as client:
            return {model.name: model.digest for model in await client.tags() if model.name.startswith(self.target)}

    async def ask(self, node: str, name: str, *, think: bool) -> tuple[str, str]:
        """Thinking and answer of a model."""
        async with OllamaClient(str(self.settings.nodes[node])) as client:
            answer = await client.chat(name, [{"role": "user", "content": "Why?"}], think=think, options={"temperature": 0})
            return answer.message.thinking.strip(), answer.message.content


def make_world(folder: Path, nodes: Mapping[str, str], *, target: str, **settings: Any) -> World:
    """A world whose deployer knows these nodes."""
    made = DeployerSettings(
        nodes=nodes, store_uri=(folder / "store").as_uri(), state_dir=folder, node_status_seconds=0.1, **settings
    )
    return World(folder, target, made)


async def put_base(world: World) -> None:
    """The target's own name on every node, with its GGUF, as it was before anything was learnt."""
    file = await open_store(world.settings.store_uri).put_file(world.model(0), kind="gguf", name="base")
    for url in world.settings.nodes.values():
        async with OllamaClient(str(url)) as client:
            await client.push_blob(world.folder / f"{world.target[0]}0.gguf", file.sha256)
            await client.create(world.target, files={"base.gguf": file.sha256}, parameters=parameters_for(file.size_bytes))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def deployer_of(world: World) -> AsyncIterator[tuple[Bus, Readiness]]:
    """The service without its process."""
    async with AsyncExitStack() as resources:
        bus = await resources.enter_async_context(MemoryBus(world.broker, world.settings, reader="deployer"))
        fleet = await resources.enter_async_context(Fleet(world.settings))
        nodes_away = await resources.enter_async_context(watch(bus, fleet, every_seconds=world.settings.node_status_seconds))
        deployer = Deployer(bus, fleet, open_store(world.settings.store_uri), world.settings)
        serving = asyncio.create_task(bus.serve(ADAPTER_TRAINED, partial(deploy_one, deployer=deployer)))
        try:
            yield bus, nodes_away
        finally:
            await bus.stop()
            await serving


async def settled(world: World, bus: Bus) -> bool:
    """Whether every trained version has come to its end, and its offset is committed."""
    commits = world.broker.committed("deployer", ADAPTER_TRAINED.name)
    written = {record.partition: record.offset + 1 for record in world.broker.records(ADAPTER_TRAINED.name)}
    return all(number in commits and commits[number].offset >= end for number, end in written.items())


async def endings(bus: Bus) -> list[Ending]:
    """What became of the versions: registered first, then rolled back."""
    registered: list[Ending] = [told.payload async for told in bus.read(MODEL_REGISTERED)]
    return [*registered, *[told.payload async for told in bus.read(MODEL_ROLLED_BACK)]]


async def settle(world: World, *events: AdapterTrained) -> list[Ending]:
    """Publish the versions one after the other, and wait for each to be settled."""
    async with deployer_of(world) as (bus, _):
        for event in events:
            await bus.publish(ADAPTER_TRAINED, event, bus.begin(ADAPTER_TRAINED, event))
            await until(partial(settled, world, bus))
        return await endings(bus)


def actions(logs: list[Any], node: str) -> list[str]:
    """What was done on a node, in order."""
    return [entry["action"] for entry in logs if entry["event"] == "action_done" and entry["node"] == node]
