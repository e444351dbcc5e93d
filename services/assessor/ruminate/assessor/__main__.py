"""Assessor: was the thinking in this interaction good enough to learn from?

    interaction-recorded-v1  ->  assess  ->  reasoning-assessed-v1

At least once. A redelivered interaction yields the same event id; readers keep the first.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from ruminate.assessor.handle import assess_one
from ruminate.assessor.mathematician import Mathematician
from ruminate.assessor.settings import AssessorSettings
from ruminate.schemas.flow import INTERACTION_RECORDED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_operations
from ruminate.shared.service import run, stop_bus_on_signals


async def main(settings: AssessorSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    async with AsyncExitStack() as resources:
        bus = await resources.enter_async_context(KafkaBus(settings, reader="assessor"))
        await resources.enter_async_context(
            serve_operations(
                host=settings.operations_host, port=settings.operations_port, ready=bus.readiness, turned_at=bus.turned_at
            )
        )
        stop_bus_on_signals(bus)
        equal = resources.enter_context(Mathematician())
        assess = partial(assess_one, policy=settings.assessment, policy_version=settings.assessment.version, equal=equal)
        await bus.serve(INTERACTION_RECORDED, assess, concurrency=64)


if __name__ == "__main__":
    run("assessor", AssessorSettings, main)
