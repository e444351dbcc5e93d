"""The monitor as a process beside a real broker: it counts, it survives garbage and kill -9, it stops cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.envelope import Envelope, Headers
from ruminate.schemas.flow import INTERACTION_COMPLETED, PIPELINE_METRICS, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking
from ruminate.schemas.metrics import PipelineMetrics
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.topic import Topic
from ruminate.shared.decoding import decode, encode
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics

TARGET = "default/qwen3:8b"
DEAD_LETTERS = INTERACTION_COMPLETED.dead_letters("collector").name
PATIENCE_SECONDS = 40.0

Record = tuple[str, int, bytes | None, Headers]


@pytest.fixture
def bootstrap() -> Iterator[str]:
    """A broker on which every topic exists."""
    with embedded_broker() as broker:
        asyncio.run(ensure_topics(ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded")))
        yield broker.bootstrap


class Monitor:
    """A monitor process, and what it says on its operations port."""

    def __init__(self, bootstrap: str, state_dir: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        settings = {
            "KAFKA_BOOTSTRAP": bootstrap,
            "KAFKA_PROFILE": "embedded",
            "STATE_DIR": str(state_dir),
            "METRICS_WINDOW_SECONDS": "1",
            "OPERATIONS_PORT": self.url.rpartition(":")[2],
        }
        environment = os.environ | {f"RUMINATE_{name}": value for name, value in settings.items()}
        self.process = subprocess.Popen([sys.executable, "-W", "error", "-m", "ruminate.monitor"], env=environment)

    def ready(self) -> bool:
        assert self.process.poll() is None, f"the monitor ended with {self.process.returncode}"
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def metrics(self) -> dict[tuple[str, frozenset[str]], float]:
        """Every sample, by name and label values."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text)
        return {(s.name, frozenset(s.labels.values())): s.value for family in families for s in family.samples}


@contextmanager
def running_monitor(bootstrap: str, state_dir: Path) -> Iterator[Monitor]:
    monitor = Monitor(bootstrap, state_dir)
    try:
        wait_until(monitor.ready, "the monitor is ready")
        yield monitor
    finally:
        monitor.process.kill()
        monitor.process.wait()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


def windows(bootstrap: str) -> list[PipelineMetrics]:
    """Every window that was told so far, each event id once."""
    return asyncio.run(_windows(bootstrap))


async def _windows(bootstrap: str) -> list[PipelineMetrics]:
    partition = TopicPartition(PIPELINE_METRICS.name, 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        told: dict[str, PipelineMetrics] = {}
        while not told or await consumer.position(partition) < (consumer.highwater(partition) or 0):
            for record in (await consumer.getmany(timeout_ms=200)).get(partition, []):
                window, envelope = decode(PIPELINE_METRICS, record.value, record.headers, timestamp_ms=0)
                told.setdefault(envelope.id, window)
        return list(told.values())
    finally:
        await consumer.stop()


def events_told(bootstrap: str) -> Counter[str]:
    """Events over all windows, by topic; dead letters by theirs."""
    total: Counter[str] = Counter()
    for window in windows(bootstrap):
        total.update({topic.topic: topic.events for topic in window.topics})
        total.update(window.dead_letters)
    return total


def publish(bootstrap: str, records: list[Record]) -> None:
    asyncio.run(_publish(bootstrap, records))


async def _publish(bootstrap: str, records: list[Record]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for topic, partition, value, headers in records:
            await producer.send(topic, value, partition=partition, headers=headers, key=uuid4().bytes)
    finally:
        await producer.stop()


def record(topic: Topic[Any], value: bytes | None, *, partition: int = 0) -> Record:
    envelope = Envelope(id=str(uuid4()), source="/test", type=topic.event_type, time=datetime.now(UTC))
    return (topic.name, partition, value, envelope.to_headers())


def assessed(*, keep: bool, thinking: str | None, overall: float | None) -> Record:
    unknown = Score(value=None)
    interaction = InteractionRecorded(
        interaction_id="i",
        conversation_id="c",
        agent="test",
        target_model="qwen3:8b",
        occurred_at=datetime.now(UTC),
        messages=(Message(role="user", content="2 + 2?"),),
        response=Response(content="4", thinking=thinking),
        thinking=Thinking(mode_used="thinking" if thinking else "direct"),
        source="/test",
        recorded_id=uuid4(),
    )
    verdict = Verdict(
        answer_quality=unknown,
        reasoning_quality=ReasoningQuality(
            logical_coherence=unknown,
            problem_decomposition=unknown,
            evidence_usage=unknown,
            conclusion_validity=unknown,
            step_by_step_clarity=unknown,
        ),
        mode_appropriateness=unknown,
        overall=Score(value=overall),
        evidence_ratio=0.5,
        decision="keep" if keep else "reject",
        reasons=(),
    )
    payload = ReasoningAssessed(
        target_model="qwen3:8b",
        recorded_id=interaction.recorded_id,
        policy_version="1",
        scorer_version="1",
        verdict=verdict,
        interaction=interaction,
    )
    return record(REASONING_ASSESSED, encode(payload), partition=5)


def sealed(*, number: int, to_offset: int) -> Record:
    payload = TrainingBatchSealed(
        batch_id=f"b-{number}",
        previous_batch_id=f"b-{number - 1}" if number > 1 else None,
        target_model="qwen3:8b",
        number=number,
        assessed_partition=5,
        after_offset=-1,
        to_offset=to_offset,
        sealed_at=datetime.now(UTC),
        reason="count",
        explanation="",
        dataset=ArtifactReference(uri="file:///x", sha256="0" * 64, size_bytes=1),
        rows=1,
        reasoning_rows=1,
        direct_rows=0,
        reasoning_ratio=1.0,
    )
    return record(TRAINING_BATCH_SEALED, encode(payload), partition=5)


GARBAGE: list[Record] = [
    (INTERACTION_COMPLETED.name, 1, b"\xff\x00 no event", []),
    (INTERACTION_COMPLETED.name, 2, b"{}", [("ce_specversion", b"9"), ("ce_id", b"\xff")]),
    record(REASONING_ASSESSED, b'{"verdict": NaN', partition=5),
    record(TRAINING_BATCH_SEALED, b"[]", partition=5),
]


def test_windows_and_metrics_tell_what_was_published_and_garbage_is_counted(bootstrap: str, tmp_path: Path) -> None:
    good = [record(INTERACTION_COMPLETED, b"{}", partition=n % 12) for n in range(30)]
    # Offsets 0 to 9 of one partition: six kept, four of them with thinking.
    judged = [assessed(keep=n < 6, thinking="so" if n < 4 else None, overall=n / 10) for n in range(10)]
    dead: list[Record] = [(DEAD_LETTERS, n, b"\x00", []) for n in range(3)]
    tombstone: Record = (REASONING_ASSESSED.name, 5, None, [])
    expected = {INTERACTION_COMPLETED.name: 32, REASONING_ASSESSED.name: 11, TRAINING_BATCH_SEALED.name: 2, DEAD_LETTERS: 3}

    with running_monitor(bootstrap, tmp_path) as monitor:
        publish(bootstrap, [*good, *judged, tombstone, *dead, *GARBAGE, sealed(number=1, to_offset=2)])
        wait_until(lambda: events_told(bootstrap) >= Counter(expected), f"windows tell {expected}")

        told = windows(bootstrap)
        assert {name: events_told(bootstrap)[name] for name in expected} == expected
        assert told[-1].batch_fill == {TARGET: 3}
        lag = {(lag.topic, lag.reader): lag for lag in told[-1].lag}[(INTERACTION_COMPLETED.name, "collector")]
        assert lag.messages == 32
        assert lag.seconds is not None
        assert 0 < lag.seconds < PATIENCE_SECONDS
        busiest = max(told, key=lambda window: {t.topic: t.events for t in window.topics}[REASONING_ASSESSED.name])
        assert busiest.overall_mean is not None
        assert busiest.kept_ratio is not None

        shown = monitor.metrics()
        assert shown["ruminate_topic_events_total", frozenset({INTERACTION_COMPLETED.name})] == 32
        assert shown["ruminate_topic_unreadable_total", frozenset({INTERACTION_COMPLETED.name})] == 2
        assert shown["ruminate_topic_unreadable_total", frozenset({REASONING_ASSESSED.name})] == 1
        assert shown["ruminate_dead_letters_seen_total", frozenset({DEAD_LETTERS})] == 3
        assert shown["ruminate_lag_messages", frozenset({INTERACTION_COMPLETED.name, "collector"})] == 32
        assert shown["ruminate_batch_fill_examples", frozenset({TARGET})] == 3


def test_after_kill_9_it_goes_on_where_it_was_and_sigterm_ends_it_cleanly(bootstrap: str, tmp_path: Path) -> None:
    with running_monitor(bootstrap, tmp_path) as monitor:
        publish(bootstrap, [assessed(keep=True, thinking="so", overall=0.5) for _ in range(4)])
        wait_until(lambda: events_told(bootstrap)[REASONING_ASSESSED.name] >= 4, "the first four are told")
        monitor.process.send_signal(signal.SIGKILL)
        monitor.process.wait()

    publish(bootstrap, [sealed(number=1, to_offset=0), *(assessed(keep=True, thinking="so", overall=0.5) for _ in range(2))])
    with running_monitor(bootstrap, tmp_path) as monitor:
        # Four before the kill and two after, less the one that the batch took: from the table and the log together.
        wait_until(lambda: windows(bootstrap)[-1].batch_fill == {TARGET: 5}, "the fill of the batch is right again")
        # A record may count twice after a crash, and none is missed.
        wait_until(lambda: events_told(bootstrap)[REASONING_ASSESSED.name] >= 6, "all six are told")
        starts = [window.window_start for window in windows(bootstrap)]
        assert sorted(set(starts)) == starts

        monitor.process.send_signal(signal.SIGTERM)
        assert monitor.process.wait(timeout=5) == 0


def test_it_waits_for_topics_that_are_not_there_yet_and_stops_while_it_waits(tmp_path: Path) -> None:
    with embedded_broker() as broker:
        monitor = Monitor(broker.bootstrap, tmp_path)
        try:

            def says_why() -> bool:
                try:
                    answer = httpx.get(f"{monitor.url}/readyz")
                except httpx.TransportError:
                    return False
                return answer.status_code == 503 and "interaction-completed-v1" in answer.text

            wait_until(says_why, "readyz names a missing topic")
            monitor.process.send_signal(signal.SIGTERM)
            assert monitor.process.wait(timeout=5) == 0
        finally:
            monitor.process.kill()
            monitor.process.wait()
