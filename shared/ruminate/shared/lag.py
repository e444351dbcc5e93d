"""How far behind their readers are, on what they read and on what is sent back to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ruminate.schemas.flow import GROUP_READERS
from ruminate.shared import lenient_records
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import aiokafka_options, why_not_connected
from ruminate.shared.kafka import visible_end
from ruminate.shared.profiles import PROFILES
from ruminate.shared.record import Record
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topic_plan import AnyTopic

log = structlog.get_logger()

READ_BY: Final[dict[str, tuple[AnyTopic, ...]]] = {
    reader: tuple(each for topic in topics for each in (topic, topic.retries(reader))) for reader, topics in GROUP_READERS.items()
}
"""Everything that each reader reads as a group."""

PEEK_BYTES: Final = 64 * 1024
ASK_SECONDS: Final = 3.0
"""How long the offsets of one topic may take."""
PEEK_SECONDS: Final = 2.0
"""How long we look for the oldest unread records."""
_TURN_MS: Final = 20


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one reader is behind on one topic.

    `messages` counts records where they were few enough to look at, else offsets, of which compaction and transactions leave
    gaps; None where the broker did not say in time. `seconds` is the age of the oldest unread record; None when there is none,
    or when it could not be looked at in time.
    """

    reader: str
    topic: str
    messages: int | None
    seconds: float | None


@dataclass(slots=True)
class _Unread:
    """What we know of one reader on one topic so far."""

    reader: str
    topic: str
    starts: dict[TopicPartition, int]
    known: bool = True
    messages: int = 0
    oldest_ms: int | None = None

    def lag(self, now: float) -> Lag:
        if not self.known:
            return Lag(self.reader, self.topic, None, None)
        seconds = None if self.oldest_ms is None else max(0.0, now - self.oldest_ms / 1000)
        return Lag(self.reader, self.topic, self.messages, seconds)


class LagProbe:
    """Measures lag again and again over one connection: `async with LagProbe(settings) as probe: await probe.measure()`."""

    def __init__(self, settings: ServiceSettings, readers: Mapping[str, Collection[AnyTopic]] = READ_BY) -> None:
        lenient_records.install()
        self._settings = settings
        self._readers = [(reader, topic) for reader, topics in readers.items() for topic in topics]
        if len({topic.name for _, topic in self._readers}) < len(self._readers):
            raise ValueError("two readers of one topic need a probe each: a connection has one place in a partition")
        self._profile = PROFILES[settings.kafka_profile]
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None

    async def __aenter__(self) -> Self:
        options = aiokafka_options(self._settings)
        self._admin = AIOKafkaAdminClient(**options)
        self._consumer = AIOKafkaConsumer(
            **options,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=self._profile.isolation_level,
            fetch_max_wait_ms=_TURN_MS,
            max_partition_fetch_bytes=PEEK_BYTES,
        )
        try:
            await self._admin.start()
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            await self.__aexit__(None, None, None)
            why = await why_not_connected(self._settings)
            raise BrokerUnavailable(why or f"{self._settings.kafka_bootstrap} ended the connection: {error}") from error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._consumer is not None:
            await self._consumer.stop()
        if self._admin is not None:
            await self._admin.close()

    async def measure(self) -> list[Lag]:
        """The lag of every reader on each topic of its. One that cannot be measured spoils no other.

        Raises BrokerUnavailable where nothing can be measured.
        """
        if self._admin is None or self._consumer is None:
            raise RuntimeError("open the probe first: `async with LagProbe(…) as probe`")
        admin, consumer = self._admin, self._consumer
        asked = await asyncio.gather(*(self._starts(admin, consumer, reader, topic) for reader, topic in self._readers))
        if not any(unread.known for unread in asked):
            raise BrokerUnavailable(
                f"lag could not be measured at {self._settings.kafka_bootstrap}: no topic of any reader answers"
            )
        await self._peek(consumer, asked)
        now = time.time()
        return [unread.lag(now) for unread in asked]

    async def _starts(self, admin: AIOKafkaAdminClient, consumer: AIOKafkaConsumer, reader: str, topic: AnyTopic) -> _Unread:
        """Where the reader stands in each partition: at what it has committed, or at the beginning."""
        places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
        try:
            async with asyncio.timeout(ASK_SECONDS):
                committed = await admin.list_consumer_group_offsets(reader, partitions=places)
                beginnings = await consumer.beginning_offsets(places)
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("lag_not_measured", reader=reader, topic=topic.name, error=type(error).__name__)
            return _Unread(reader, topic.name, {}, known=False)
        starts = {place: max(beginnings[place], committed[place].offset if place in committed else -1) for place in places}
        return _Unread(reader, topic.name, starts)

    async def _peek(self, consumer: AIOKafkaConsumer, asked: Collection[_Unread]) -> None:
        """Look at the first unread records of all partitions at once.

        It is the position that has to reach the end: markers of transactions are offsets that no record will ever come from.
        """
        by_place = {place: unread for unread in asked for place in unread.starts}
        consumer.assign(list(by_place))
        for place, unread in by_place.items():
            consumer.seek(place, unread.starts[place])
        try:
            async with asyncio.timeout(PEEK_SECONDS):
                while by_place:
                    fetched = await consumer.getmany(*by_place, timeout_ms=_TURN_MS)
                    for place in list(by_place):
                        if await self._look(consumer, place, by_place[place], fetched.get(place, [])):
                            del by_place[place]
                            consumer.pause(place)
        except (TimeoutError, KafkaError) as error:
            log.info("lag_counts_offsets", partitions=len(by_place), error=type(error).__name__)
            self._count_offsets(consumer, by_place)

    async def _look(self, consumer: AIOKafkaConsumer, place: TopicPartition, unread: _Unread, records: list[Record]) -> bool:
        """Take in what came of one partition; whether that is enough."""
        end, position = visible_end(consumer, place, self._profile), await consumer.position(place)
        if end is None or (not records and position < end):
            return False
        unread.messages += len(records) if position >= end else max(0, end - unread.starts[place])
        if records and (unread.oldest_ms is None or records[0].timestamp < unread.oldest_ms):
            unread.oldest_ms = records[0].timestamp
        return True

    def _count_offsets(self, consumer: AIOKafkaConsumer, by_place: Mapping[TopicPartition, _Unread]) -> None:
        """Partitions of which nothing came in time: their offsets count, as far as a fetch has said where they end."""
        for place, unread in by_place.items():
            end = visible_end(consumer, place, self._profile)
            if end is None:
                unread.known = False
                log.warning("lag_not_measured", reader=unread.reader, topic=place.topic, partition=place.partition)
            else:
                unread.messages += max(0, end - unread.starts[place])
