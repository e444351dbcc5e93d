"""Topics as the flow says they are: created where they are missing, and how far behind their readers are."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ruminate.schemas.flow import FLOW, GROUP_READERS, SIDE_TOPICS
from ruminate.schemas.topic import SideTopic, Topic
from ruminate.shared import lenient_records
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.kafka import visible_end
from ruminate.shared.profiles import PROFILES
from ruminate.shared.settings import ServiceSettings

_FOREVER_MS = "-1"
_PEEK_BYTES = 64 * 1024
_PEEK_SECONDS: Final = 5.0


class TopicsDiffer(RuntimeError):
    """A topic exists with another number of partitions; what is in it would be looked for in the wrong place."""


async def ensure_topics(settings: ServiceSettings, topics: Iterable[Topic[Any] | SideTopic] | None = None) -> list[str]:
    """Create what is missing (None: the whole flow with its dead letters and retries), and give the names of what was created.

    Raises TopicsDiffer where a topic has another number of partitions, BrokerUnavailable where no broker answers.
    """
    everything: Iterable[Topic[Any] | SideTopic] = topics if topics is not None else (*FLOW, *SIDE_TOPICS)
    wanted = {topic.name: topic for topic in everything}
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
    try:
        await admin.start()
        response = await admin.create_topics([_new_topic(topic, settings) for topic in wanted.values()])
        created = []
        for name, code, message in response.topic_errors:
            error = for_code(code)
            if code == 0:
                created.append(name)
            elif error is not TopicAlreadyExistsError:
                raise error(f"{name} could not be created: {message}")
        existing = {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics(list(wanted))}
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"topics could not be created at {settings.kafka_bootstrap}: {error}") from error
    finally:
        await admin.close()
    for name, topic in wanted.items():
        if existing.get(name, 0) not in (0, topic.partitions):
            raise TopicsDiffer(
                f"{name} has {existing[name]} partitions and needs {topic.partitions}; delete it, or copy it to a new one"
            )
    return created


def _new_topic(topic: Topic[Any] | SideTopic, settings: ServiceSettings) -> NewTopic:
    configuration: dict[str, str] = {}
    if PROFILES[settings.kafka_profile].takes_topic_configuration:
        configuration = {**_cleanup(topic), "max.message.bytes": str(topic.max_message_bytes)}
        if settings.kafka_replication >= 3:
            configuration["min.insync.replicas"] = "2"
    return NewTopic(topic.name, topic.partitions, settings.kafka_replication, topic_configs=configuration)


def _cleanup(topic: Topic[Any] | SideTopic) -> dict[str, str]:
    if isinstance(topic, SideTopic):
        return {"cleanup.policy": topic.cleanup, "retention.ms": _milliseconds(topic.retention)}
    if topic.cleanup == "compact":
        return {"cleanup.policy": "compact"}
    return {"cleanup.policy": "delete", "retention.ms": _FOREVER_MS if topic.retention is None else _milliseconds(topic.retention)}


def _milliseconds(duration: timedelta) -> str:
    return str(int(duration.total_seconds() * 1000))


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one reader is behind on one topic.

    `messages` counts records where they were few enough to look at, else offsets, of which compaction leaves gaps.
    `seconds` is the age of the oldest unread record; None when there is none.
    """

    reader: str
    topic: str
    messages: int
    seconds: float | None


class LagProbe:
    """Measures lag again and again over one connection: `async with LagProbe(settings) as probe: await probe.measure()`."""

    def __init__(self, settings: ServiceSettings, readers: Mapping[str, Collection[Topic[Any]]] = GROUP_READERS) -> None:
        lenient_records.install()
        self._settings = settings
        self._readers = readers
        self._profile = PROFILES[settings.kafka_profile]
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        bootstrap = self._settings.kafka_bootstrap
        self._admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=self._profile.isolation_level,
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=_PEEK_BYTES,
        )
        try:
            await self._admin.start()
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self.__aexit__(None, None, None)
            raise BrokerUnavailable(f"no broker answers at {bootstrap} (RUMINATE_KAFKA_BOOTSTRAP)") from error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
        if self._admin is not None:
            await self._admin.close()

    async def measure(self) -> list[Lag]:
        """The lag of every reader on every topic of its. Raises BrokerUnavailable."""
        try:
            async with asyncio.timeout(_PEEK_SECONDS):
                return [await self._measure(reader, topic) for reader, topics in self._readers.items() for topic in topics]
        except (KafkaError, OSError, TimeoutError) as error:
            raise BrokerUnavailable(
                f"lag could not be measured at {self._settings.kafka_bootstrap}: {type(error).__name__}"
            ) from error

    async def _measure(self, reader: str, topic: Topic[Any]) -> Lag:
        if self._admin is None or self._consumer is None:
            raise RuntimeError("open the probe first: `async with LagProbe(…) as probe`")
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        committed = await self._admin.list_consumer_group_offsets(reader, partitions=places)
        consumer = self._consumer
        consumer.assign(places)
        beginnings = await consumer.beginning_offsets(places)
        starts = {place: max(beginnings[place], committed[place].offset if place in committed else -1) for place in places}
        for place, start in starts.items():
            consumer.seek(place, start)
        messages, oldest_ms = 0, None
        pending = set(places)
        while pending:
            fetched = await consumer.getmany(*pending, timeout_ms=20)
            for place in list(pending):
                records = fetched.get(place, [])
                end, position = visible_end(consumer, place, self._profile), await consumer.position(place)
                if end is None or (not records and position < end):
                    continue
                messages += len(records) if position >= end else end - starts[place]
                if records and (oldest_ms is None or records[0].timestamp < oldest_ms):
                    oldest_ms = records[0].timestamp
                pending.discard(place)
                consumer.pause(place)
        seconds = None if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        return Lag(reader, topic.name, messages, seconds)


def main() -> None:
    """`python -m ruminate.shared.topics`: create what is missing, and say what was created."""
    created = asyncio.run(ensure_topics(ServiceSettings()))
    sys.stdout.write("".join(f"created {name}\n" for name in created) or "every topic exists\n")


if __name__ == "__main__":
    main()
