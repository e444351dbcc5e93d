"""Collector: takes interactions in, and records each of them once.

    POST /v1/interactions  ->  interaction-completed-v1  ->  validate, drop repeats, redact  ->  interaction-recorded-v1
    POST /v1/feedback      ->  feedback-given-v1         ->  validate, redact                ->  evidence-recorded-v1
    erasure-requested-v1   ->  what it covers is not recorded, however late it comes

At least once. A redelivered interaction yields the same event id; readers keep the first.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

import structlog

from ruminate.collector.feedback import record_feedback
from ruminate.collector.http import http_app
from ruminate.collector.intake import Intake
from ruminate.collector.names import load_names
from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.recorder import Recorder
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.schemas.erasure import Erasures
from ruminate.schemas.flow import ERASURE_REQUESTED, FEEDBACK_GIVEN, INTERACTION_COMPLETED
from ruminate.shared.following import Following
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.operations import serve_http, serve_operations
from ruminate.shared.service import Buses, run, stop_on_signals

log = structlog.get_logger()


async def main(settings: CollectorSettings) -> None:
    """Open what we need, in order; close it in reverse, whatever happens."""
    window = Window(most=settings.collector_window_interactions)
    async with AsyncExitStack() as resources:
        enter = resources.enter_async_context
        bus = await enter(KafkaBus(settings, reader="collector"))
        feedback_bus = await enter(KafkaBus(settings, reader="collector-feedback"))
        buses = Buses(bus, feedback_bus)
        privacy = Privacy(settings.privacy, load_names(settings.privacy))
        erasures = Erasures()
        following = Following(bus, ERASURE_REQUESTED, lambda told: erasures.take(told.envelope.id, told.payload))
        recorder = Recorder(bus, window, settings, privacy, erasures)
        intake = Intake(bus, window, settings)
        await enter(
            serve_operations(
                host=settings.operations_host, port=settings.operations_port, ready=buses.readiness, turned_at=buses.turned_at
            )
        )
        app = http_app(intake, settings)
        port = await enter(serve_http(app, host=settings.collector_host, port=settings.collector_port, name="collector"))
        log.info("interactions_accepted", host=settings.collector_host, port=port)
        stop_on_signals(buses.stop)
        await enter(following)
        record_one = following.before(recorder.record_one)
        feedback_one = following.before(partial(record_feedback, privacy=privacy, erasures=erasures))
        await buses.serve(
            bus.serve(INTERACTION_COMPLETED, record_one, concurrency=64, on_revoked=recorder.forget),
            feedback_bus.serve(FEEDBACK_GIVEN, feedback_one, concurrency=16),
        )


if __name__ == "__main__":
    run("collector", CollectorSettings, main)
