"""The windows: a Faust application that reads every topic and tells a window each time that one is over.

Faust acknowledges a record whose agent raised and goes on, and its tables may count a record twice after a crash. So the
agent ends the process for anything it did not expect, and only what a recount cannot hurt is kept in these tables.
One process reads everything: tables have one partition each, and no two of them can hold one key.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import faust
import structlog
from faust.auth import Credentials, OAuthCredentials, SASLCredentials, SSLCredentials

from ruminate.monitor.decide import (
    WATCHED_TOPICS,
    Cut,
    Observation,
    Tally,
    batch_fill,
    bucket_of,
    due_windows,
    extends,
    glimpse,
    stored,
    summarise,
    taken_buckets,
    window_start,
    with_offset,
)
from ruminate.monitor.metrics import LAG_FAILURES, show_observation, show_window
from ruminate.monitor.settings import MonitorSettings
from ruminate.schemas.envelope import Envelope, derive_event_id
from ruminate.schemas.flow import MONITOR_APP, PIPELINE_METRICS
from ruminate.schemas.metrics import PipelineMetrics, ReaderLag
from ruminate.shared import lenient_records
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import aiokafka_options
from ruminate.shared.decoding import encode
from ruminate.shared.lag import LagProbe
from ruminate.shared.profiles import PROFILES
from ruminate.shared.service import EXIT_CRASHED

if TYPE_CHECKING:
    from faust.types import TP, ConsumerMessage, StreamT

log = structlog.get_logger()

SOURCE: Final = "/ruminate/monitor"

_KEPT_WINDOWS: Final = 6
"""So many windows wait in the table for a monitor that was away."""
_TURN_SECONDS: Final = 0.25
_STOP_SECONDS: Final = 3.5
_SLOW_TELL_SECONDS: Final = 15.0
_STUCK_AFTER_WINDOWS: Final = 3


class _OnePartition(faust.Table):  # type: ignore[misc]
    """A table whose changelog has one partition: any topic's records may change it, and so may code outside of a stream."""

    def partition_for_key(self, key: object) -> int:
        """The only one there is."""
        del key
        return 0


class Windows:
    """Reads every topic into tables, and tells each window once it is over."""

    def __init__(self, settings: MonitorSettings) -> None:
        lenient_records.install()
        self._window_seconds = settings.metrics_window_seconds
        self._reading = False
        self._open_start = 0.0
        self._open: dict[str, Tally] = {}
        self._unsaved: set[str] = set()
        self._next_offset: dict[TP, int] = {}
        self._turned_at = time.monotonic()
        self._telling_since: float | None = None
        self._told_unread = 0
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        profile = PROFILES[settings.kafka_profile]
        self._app = app = faust.App(
            MONITOR_APP,
            broker=[f"kafka://{address.strip()}" for address in settings.kafka_bootstrap.split(",")],
            broker_credentials=_credentials(settings),
            store="memory://",
            Table=_OnePartition,
            datadir=str(settings.state_dir.resolve() / "monitor"),
            web_enabled=False,
            autodiscover=False,
            # Topics exist before we start, or we do not start.
            topic_disable_leader=True,
            topic_allow_declare=False,
            topic_replication_factor=settings.kafka_replication,
            consumer_group_instance_id=f"monitor-{settings.replica}" if profile.static_membership else None,
            consumer_auto_offset_reset="earliest",
            broker_session_timeout=profile.session_timeout_ms / 1000,
            broker_heartbeat_interval=profile.heartbeat_interval_ms / 1000,
            broker_rebalance_timeout=profile.rebalance_timeout_ms / 1000,
            broker_request_timeout=profile.request_timeout_ms / 1000,
            broker_commit_interval=1.0,
            # The embedded broker loses its place in a changelog of larger batches.
            producer_max_batch_size=1 if settings.kafka_profile == "embedded" else profile.max_batch_bytes,
            # A record may hold 18 MiB.
            stream_buffer_maxsize=256,
            stream_wait_empty=False,
        )
        window_seconds = self._window_seconds
        self._tallies = app.Table("tallies", partitions=1).tumbling(window_seconds, expires=(_KEPT_WINDOWS + 2) * window_seconds)
        self._kept, self._cuts, self._told = (app.Table(name, partitions=1) for name in ("kept", "cuts", "told"))
        self._metrics = app.topic(PIPELINE_METRICS.name, key_serializer="raw", value_serializer="raw")
        records = app.topic(*WATCHED_TOPICS, key_serializer="raw", value_serializer="raw", allow_empty=True)
        app.agent(records, name="observe", concurrency=1)(self._observe_all)

    def readiness(self) -> Collection[str]:
        """Why the windows are not being filled; empty when they are."""
        if not self._reading:
            return ["the tables are not read back yet"]
        if self._telling_since is not None and time.monotonic() - self._telling_since > _SLOW_TELL_SECONDS:
            return ["the broker has not taken the last window yet"]
        return ["the group is rebalancing"] if self._app.rebalancing else []

    def turned_at(self) -> float:
        """`time.monotonic()` of the last turn; waiting for topics or for the broker is no standstill.

        Every window that is told is read again by ourselves: when several were not, Faust has stopped reading without a word.
        """
        waits = not self._reading or self._telling_since is not None
        return time.monotonic() if waits else self._turned_at

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Fill windows while the context is open; every table is read back before it opens."""
        try:
            await self._app.start()
            self._reading, self._turned_at = True, time.monotonic()
            log.info("reading_began", topics=len(WATCHED_TOPICS))
            yield
        finally:
            if self._reading:
                self._save()
            self._reading = False
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._app.stop()
            except TimeoutError:
                # Without a broker Faust's threads never end, and the interpreter would wait for them.
                log.exception("stop_timed_out", seconds=_STOP_SECONDS)
                os._exit(EXIT_CRASHED)

    async def tell_windows(self, probe: LagProbe) -> None:
        """Tell each window once it is over, until cancelled. Raises whatever ended the application."""
        while True:
            await asyncio.sleep(_TURN_SECONDS)
            if self._app.crashed:
                raise RuntimeError("faust ended") from self._app.crash_reason
            if self._told_unread < _STUCK_AFTER_WINDOWS:
                self._turned_at = time.monotonic()
            self._save()
            last = self._told.get("window")
            due = list(due_windows(now=time.time(), last=last, window_seconds=self._window_seconds, at_most=_KEPT_WINDOWS))
            for start in due:
                tallies = self._window_at(start)
                # Of windows that passed while nobody read, only those are told that hold something.
                if tallies or start == due[-1]:
                    self._telling_since = time.monotonic()
                    await self._tell(start, tallies, probe if start == due[-1] else None)
                    self._telling_since = None
                    self._told_unread += 1
                self._told["window"] = start

    async def _tell(self, start: float, tallies: dict[str, Tally], probe: LagProbe | None) -> None:
        window = summarise(
            tallies,
            start=datetime.fromtimestamp(start, UTC),
            window_seconds=self._window_seconds,
            lag=await _lag(probe) if probe else (),
            fill=batch_fill(dict(self._kept.items()), {target: cut[1] for target, cut in self._cuts.items()}),
        )
        envelope = _envelope(window)
        sent = await self._metrics.send(
            key=PIPELINE_METRICS.key_of(window, UUID(envelope.id)).encode(),
            value=encode(window),
            headers=dict(envelope.to_headers()),
            partition=0,
        )
        await sent
        show_window(window)
        log.info("window_told", window_start=start, events=sum(topic.events for topic in window.topics))

    def _window_at(self, moment: float) -> dict[str, Tally]:
        window = self._tallies.relative_to(float(moment))
        return {topic: Tally(**window[topic].value()) for topic in WATCHED_TOPICS if topic in window}

    async def _observe_all(self, records: StreamT[bytes]) -> None:
        try:
            async for event in records.events():
                self._observe(event.message)
        except Exception:
            log.exception("agent_failed")
            # Raising would let Faust acknowledge the record and go on as if it had been counted.
            os._exit(EXIT_CRASHED)

    def _observe(self, message: ConsumerMessage) -> None:
        # A rebalance hands out again what was read and not yet committed.
        if message.offset < self._next_offset.get(message.tp, 0):
            return
        self._next_offset[message.tp] = message.offset + 1
        self._told_unread = 0
        now = time.time()
        seen = glimpse(
            message.topic,
            message.headers or (),
            message.value,
            written_at=message.timestamp,
            read_at=now,
        )
        if seen is None:
            return
        show_observation(seen, written_at=message.timestamp)
        self._count(seen, now)
        if seen.assessment is not None and seen.assessment.kept:
            key = bucket_of(seen.assessment.target, message.offset)
            self._kept[key] = with_offset(self._kept.get(key, ""), message.offset)
        if seen.cut is not None:
            self._cut(seen.cut)

    def _count(self, seen: Observation, now: float) -> None:
        start = window_start(now, self._window_seconds)
        if start != self._open_start:
            self._save()
            # What was counted before a restart is in the table.
            self._open_start, self._open = start, self._window_at(start)
        self._open[seen.topic] = self._open.get(seen.topic, Tally()).plus(seen)
        self._unsaved.add(seen.topic)

    def _save(self) -> None:
        """Write the open window to its table. A changelog record a turn, where one an event would be the slowest part by far."""
        window = self._tallies.relative_to(self._open_start)
        for topic in self._unsaved:
            window[topic] = stored(self._open[topic])
        self._unsaved.clear()

    def _cut(self, cut: Cut) -> None:
        last = self._cuts.get(cut.target)
        if extends(last[0] if last else None, cut):
            self._cuts[cut.target] = [cut.batch_id, cut.to_offset]
            for key in taken_buckets(cut, list(self._kept.keys())):
                del self._kept[key]


def _credentials(settings: MonitorSettings) -> Credentials | None:
    """Who we are at the broker, in Faust's words."""
    options = aiokafka_options(settings)
    tls = options.get("ssl_context")
    match options.get("sasl_mechanism"):
        case None:
            return SSLCredentials(tls) if tls is not None else None
        case "OAUTHBEARER":
            return OAuthCredentials(oauth_cb=options["sasl_oauth_token_provider"], ssl_context=tls)
        case mechanism:
            return SASLCredentials(
                mechanism=mechanism,
                username=options["sasl_plain_username"],
                password=options["sasl_plain_password"],
                ssl_context=tls,
            )


async def _lag(probe: LagProbe) -> tuple[ReaderLag, ...]:
    """The lag of every reader; nothing, logged and counted, while it cannot be measured: a window is told all the same."""
    try:
        measured = await probe.measure()
    except BrokerUnavailable as error:
        LAG_FAILURES.inc()
        log.warning("lag_not_measured", error=str(error))
        return ()
    # Who has read everything is zero seconds behind; None is for what is not known.
    return tuple(
        ReaderLag(topic=lag.topic, reader=lag.reader, messages=lag.messages, seconds=lag.seconds if lag.messages else 0.0)
        for lag in measured
        if lag.messages is not None
    )


def _envelope(window: PipelineMetrics) -> Envelope:
    """A window that is told again, after a crash before it was noted as told, has the same id: readers keep the first."""
    event_id = derive_event_id(
        tenant=window.tenant, cause_source=SOURCE, cause_id=window.window_start.isoformat(), topic=PIPELINE_METRICS.name
    )
    return Envelope(
        id=str(event_id),
        source=SOURCE,
        type=PIPELINE_METRICS.event_type,
        time=datetime.now(UTC),
        order=PIPELINE_METRICS.order_of(window),
    )
