"""`up`: broker, node and services in one state folder, whole and ready, or a message that says what is in the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from ruminate.command.base import require_base, small_base, weights_of, write_what_small_base_can
from ruminate.command.connection import settings_for
from ruminate.command.installed_ollama import NoOllama, find_ollama, version_of
from ruminate.command.plan import INSTALLED, SERVICE_ORDER, Ports, Wishes, addresses, bootstrap, is_ours, node_urls, plan_parts
from ruminate.command.supervisor import PartState, Supervisor, SupervisorError, running_supervisor, write_addresses
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.ollama import QWEN3_TEMPLATE, NodeRefused, NodeUnavailable, OllamaClient, parameters_for
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics

READY_WITHIN_SECONDS = 90.0
BROKER_WITHIN_SECONDS = 20.0
Say = Callable[[str], None]


def target_of(base: str) -> str:
    """The Ollama name that a base usually has: `Qwen/Qwen3-8B` is `qwen3:8b`; a folder gives its own name."""
    hub = re.fullmatch(r"(?:Qwen/)?Qwen3-(\d+(?:\.\d+)?B(?:-A\d+B)?)", base, flags=re.IGNORECASE)
    if hub:
        return f"qwen3:{hub.group(1).lower()}"
    return re.sub(r"[^a-z0-9._-]+", "-", Path(base).name.lower()).strip("-.") or "base"


def choose_ports(*, gateway_port: int = 0, collector_port: int = 0) -> Ports:
    """Free loopback ports, all held open until all are chosen so that no two are the same; those that are given, as they are."""
    sockets = [socket.socket() for _ in range(4 + len(SERVICE_ORDER))]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        numbers = [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
    broker, node, gateway, collector, *operations = numbers
    return Ports(
        broker=broker,
        node=node,
        gateway=gateway_port or gateway,
        collector=collector_port or collector,
        operations=dict(zip(SERVICE_ORDER, operations, strict=True)),
    )


@asynccontextmanager
async def bring_up(
    wishes: Wishes, *, say: Say, on_change: Callable[[str, PartState, int | None], None] | None = None
) -> AsyncIterator[Supervisor]:
    """Everything that was wished for, running and ready while the context is open; stopped when it closes."""
    ports = choose_ports(gateway_port=wishes.gateway_port, collector_port=wishes.collector_port)
    ollama = _installed_ollama(say) if INSTALLED in wishes.nodes else None
    async with Supervisor(wishes.state, on_change=on_change) as supervisor:
        parts = plan_parts(wishes, ports, ollama=ollama)
        by_kind = {kind: [part for part in parts if part.kind == kind] for kind in ("broker", "node", "service")}
        require_base(wishes.base)
        if wishes.base == str(small_base()):
            write_what_small_base_can(wishes.state)
        # While broker and services start, so that a node need not wait for it.
        making = asyncio.create_task(_weights_for_our_nodes(wishes))
        try:
            for part in by_kind["broker"] + by_kind["node"]:
                await supervisor.start(part)
            settings = settings_for(
                kafka=bootstrap(wishes, ports), profile="kafka" if wishes.kafka else "embedded", state=wishes.state
            )
            say(f"waiting for Kafka at {bootstrap(wishes, ports)}")
            await supervisor.unless_ended(_topics_exist(settings))
            for part in by_kind["service"]:
                await supervisor.start(part)
            await making
            for part in by_kind["node"]:
                await supervisor.wait_ready(part.name, within_seconds=READY_WITHIN_SECONDS)
            await _nodes_hold_target(wishes, node_urls(wishes, ports), say)
            await asyncio.gather(*(supervisor.wait_ready(part.name, within_seconds=READY_WITHIN_SECONDS) for part in parts))
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
        write_addresses(wishes.state, addresses(wishes, ports))
        say("everything is ready")
        yield supervisor


def _installed_ollama(say: Say) -> Path:
    try:
        program = find_ollama()
        say(f"Ollama {version_of(program)} at {program}")
    except NoOllama as error:
        raise SupervisorError(f"--node {INSTALLED}: {error}; without --node, `up` runs the embedded node") from None
    return program


async def _topics_exist(settings: ServiceSettings) -> None:
    """Create what is missing. A broker that has just been started is given its time; one that is named must answer soon."""
    deadline = time.monotonic() + BROKER_WITHIN_SECONDS
    while True:
        try:
            await ensure_topics(settings)
        except BrokerUnavailable as error:
            if time.monotonic() > deadline:
                raise SupervisorError(
                    f"{error}. Is Kafka there? Try:  ruminate doctor --kafka {settings.kafka_bootstrap}"
                ) from None
            await asyncio.sleep(0.2)
        else:
            return


async def _weights_for_our_nodes(wishes: Wishes) -> None:
    """What a node that we start may have to be given: ready, or made now."""
    ours = not wishes.nodes or INSTALLED in wishes.nodes
    if (ours or _is_small(wishes)) and (Path(wishes.base) / "config.json").exists():
        await weights_of(Path(wishes.base), state=wishes.state)


async def _nodes_hold_target(wishes: Wishes, urls: Mapping[str, str], say: Say) -> None:
    """Every node has the target under its own name: those that we start are given it, others must have it."""
    for name, url in urls.items():
        async with OllamaClient(url) as node:
            try:
                held = {model.name for model in await node.tags()}
                if wishes.target in held or f"{wishes.target}:latest" in held:
                    continue
                if not is_ours(name) and not _is_small(wishes):
                    raise SupervisorError(f"node {name} ({url}) has no model {wishes.target}. Type:  ollama pull {wishes.target}")
                say(f"node {name}: creating {wishes.target}")
                weights, sha256 = await weights_of(Path(wishes.base), state=wishes.state)
                if not await node.has_blob(sha256):
                    await node.push_blob(weights, sha256)
                parameters = parameters_for(weights.stat().st_size)
                await node.create(wishes.target, files={"model.gguf": sha256}, template=QWEN3_TEMPLATE, parameters=parameters)
            except NodeUnavailable as error:
                raise SupervisorError(
                    f"node {name} ({url}) does not answer: {error}. Start Ollama there, or leave --node out"
                ) from None
            except NodeRefused as error:
                raise SupervisorError(f"node {name} ({url}) refused {wishes.target}: {error}") from None


def _is_small(wishes: Wishes) -> bool:
    return Path(wishes.base) == small_base()


async def stop_running(state: Path) -> bool:
    """Ask the supervisor of this state folder to stop and wait until it has; False when none runs."""
    pid = running_supervisor(state)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    while running_supervisor(state) is not None:
        await asyncio.sleep(0.1)
    return True
