"""Deployer: does a trained version serve on every node, or on none?

    adapter-trained-v1  ->  upload, create, probe, point the alias  ->  model-registered-v1 | model-rolled-back-v1
    every few seconds   ->  ask each node                           ->  node-status-v1
    dataset-revised-v1  ->  who has learned from what was erased?   ->  model-marked-v1

One version at a time. At least once: a redelivered version is looked up in the log before anything is done.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ruminate.deployer.deploy import Deployer, deploy_one
from ruminate.deployer.fleet import Fleet
from ruminate.deployer.mark import marking
from ruminate.deployer.settings import DeployerSettings
from ruminate.deployer.watch import watch
from ruminate.schemas.flow import ADAPTER_TRAINED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, stop_bus_on_signals
from ruminate.shared.store import open_store


async def main(settings: DeployerSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        bus = await enter(KafkaBus(settings, reader="deployer"))
        stop_bus_on_signals(bus)
        fleet = await enter(Fleet(settings))
        nodes_away = await enter(watch(bus, fleet, every_seconds=settings.node_status_seconds))
        marks_due = await enter(marking(bus, every_seconds=settings.node_status_seconds))
        await enter(
            serve_operations(
                host=settings.operations_host,
                port=settings.operations_port,
                ready=lambda: [*bus.readiness(), *nodes_away(), *marks_due()],
                turned_at=bus.turned_at,
            )
        )
        deployer = Deployer(bus=bus, fleet=fleet, store=open_store(settings.store_uri), settings=settings)
        await bus.serve(ADAPTER_TRAINED, partial(deploy_one, deployer=deployer), concurrency=1)


if __name__ == "__main__":
    run("deployer", DeployerSettings, main)
