"""Every few seconds, what each node is and holds: told on `node-status-v1`, kept for `/readyz` and the metrics.

A status that is lost hurts nobody: the next one follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from ruminate.deployer import metrics
from ruminate.deployer.fleet import Fleet, Node
from ruminate.schemas.flow import NODE_STATUS
from ruminate.schemas.model import NodeStatus
from ruminate.shared.bus import BrokerUnavailable, Bus, Readiness
from ruminate.shared.ollama import NodeRefused, NodeUnavailable

log = structlog.get_logger()


@asynccontextmanager
async def watch(bus: Bus, fleet: Fleet, *, every_seconds: float) -> AsyncIterator[Readiness]:
    """Tell the status of every node while the context is open; gives which nodes are away, and why."""
    away: dict[str, str] = {}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_watch_one(bus, name, node, away, every_seconds)) for name, node in fleet.nodes.items()]
        try:
            yield lambda: [f"node {name} ({fleet.nodes[name].url}) is away: {why}" for name, why in away.items()]
        finally:
            for task in tasks:
                task.cancel()


async def _watch_one(bus: Bus, name: str, node: Node, away: dict[str, str], every_seconds: float) -> None:
    while True:
        status = await _ask(name, node)
        if status.error is None and away.pop(name, None) is not None:
            log.info("node_came_back", node=name, url=node.url)
        elif status.error is not None and name not in away:
            log.warning("node_went_away", node=name, url=node.url, error=status.error)
        if status.error is not None:
            away[name] = status.error
        metrics.NODE_UP.labels(name).set(status.healthy)
        if status.response_seconds is not None:
            metrics.NODE_RESPONSE_SECONDS.labels(name).set(status.response_seconds)
        try:
            await bus.publish(NODE_STATUS, status, bus.begin(NODE_STATUS, status))
        except BrokerUnavailable as error:
            log.warning("node_status_not_told", node=name, error=str(error))
        await asyncio.sleep(every_seconds)


async def _ask(name: str, node: Node) -> NodeStatus:
    began = time.monotonic()
    try:
        version = await node.version()
        models = _told(model.name for model in await node.tags())
        loaded = _told(model.name for model in await node.ps())
    except (NodeUnavailable, NodeRefused) as error:
        why = error.reason if isinstance(error, NodeUnavailable) else f"{error.status} {error.error}"
        return NodeStatus(node=name, url=node.url, healthy=False, error=why, at=datetime.now(UTC))
    return NodeStatus(
        node=name,
        url=node.url,
        healthy=True,
        engine_version=version,
        models=models,
        loaded=loaded,
        response_seconds=time.monotonic() - began,
        at=datetime.now(UTC),
    )


def _told(names: Iterable[str]) -> tuple[str, ...]:
    # A name that is longer than a name in an event is nobody's of ours, and must not silence its node.
    return tuple(sorted(name for name in names if len(name) <= 200))
