"""Gateway: the front door through which agents talk to whichever version serves.

agents  ->  /api/chat, /api/generate, /v1/chat/completions  ->  nodes
                  |
                  +->  spool  ->  interaction-completed-v1        model-registered-v1, model-rolled-back-v1  ->  names
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import structlog

from ruminate.gateway.app import Gateway, serve_gateway
from ruminate.gateway.broker import Versions, stay_connected
from ruminate.gateway.capture import Capture
from ruminate.gateway.nodes import Nodes, node_connections
from ruminate.gateway.settings import GatewaySettings
from ruminate.gateway.spool import open_spool
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, wait_for_stop

log = structlog.get_logger()


async def main(settings: GatewaySettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        folder = settings.state_dir / f"gateway-{settings.replica}"
        spool = resources.enter_context(open_spool(folder / "spool", settings))
        versions = Versions(folder / "versions.json")
        transport, client = await enter(node_connections())
        nodes = Nodes(settings, client)
        await nodes.look()
        capture = Capture(settings, spool, now=partial(datetime.now, UTC))
        gateway = Gateway(settings, nodes=nodes, catalogue=versions.catalogue, capture=capture, transport=transport)

        tasks = await enter(asyncio.TaskGroup())
        bus = partial(KafkaBus, settings, reader="gateway")
        for work in (nodes.watch(), stay_connected(bus, spool, versions), spool.keep_forgetting()):
            resources.callback(tasks.create_task(work).cancel)

        def ready() -> list[str]:
            return [*nodes.readiness(), *spool.readiness(), *versions.readiness()]

        operations_port = await enter(serve_operations(host=settings.operations_host, port=settings.operations_port, ready=ready))
        port = await enter(serve_gateway(gateway, settings))
        log.info("gateway_listening", port=port, operations_port=operations_port, nodes=sorted(settings.nodes))
        await wait_for_stop()


if __name__ == "__main__":
    run("gateway", GatewaySettings, main)
