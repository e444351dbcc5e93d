"""The log on Kafka's protocol, for one audit: no group, no commit, no trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.metadata import MetadataRequest

from ruminate.command.audit.snapshot import READING_ORDER, CouldNotJudge, Offsets, Snapshot, cut
from ruminate.schemas.flow import GROUP_READERS
from ruminate.shared import lenient_records
from ruminate.shared.connection import aiokafka_options, why_not_connected
from ruminate.shared.profiles import PROFILES
from ruminate.shared.record import Record
from ruminate.shared.settings import ServiceSettings

_TURN_MS: Final = 50
_FETCH_BYTES: Final = 4 * 1024 * 1024
_PEEK_BYTES: Final = 64 * 1024
_UNLIMITED: Final = -1


class KafkaLog:
    """See `ruminate.command.audit.snapshot.Log`. An async context manager."""

    def __init__(self, settings: ServiceSettings) -> None:
        lenient_records.install()
        self._settings = settings
        self._profile = PROFILES[settings.kafka_profile]
        self._admin = AIOKafkaAdminClient(**aiokafka_options(settings))
        self._consumer = self._make_consumer(self._profile.isolation_level, _FETCH_BYTES)
        # Asked for an end, a reader of committed records is told where the first open transaction begins.
        self._scout = self._make_consumer("read_uncommitted", _PEEK_BYTES)
        self._partitions: dict[str, list[int]] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._consumer.start()
            await self._scout.start()
        except (KafkaError, OSError) as error:
            await self.__aexit__(None, None, None)
            why = await why_not_connected(self._settings) or type(error).__name__
            raise CouldNotJudge(f"the broker at {self._settings.kafka_bootstrap} is not reached: {why}") from error
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._consumer.stop()
        await self._scout.stop()
        await self._admin.close()

    async def snapshot(self) -> Snapshot:
        """See Log."""
        try:
            self._partitions = await self._find_partitions()
            places = _places(self._partitions)
            self._scout_out(places)
            taken_at_ms = int(time.time() * 1000)
            committed, ends = await cut(self)
            begins = _by_topic(await self._scout.beginning_offsets(places))
            return Snapshot(
                cluster=(await self._admin.describe_cluster())["cluster_id"],
                taken_at_ms=taken_at_ms,
                begins=begins,
                ends=ends,
                committed=committed,
                whole_since_ms=await self._whole_since(begins, ends, taken_at_ms),
            )
        except (KafkaError, OSError, TimeoutError) as error:
            raise CouldNotJudge(f"the broker did not say where its topics begin and end: {type(error).__name__} {error}") from error

    async def read(self, topic: str, snapshot: Snapshot) -> AsyncIterator[Sequence[Record]]:
        """See Log."""
        ends = {TopicPartition(topic, number): end for number, end in snapshot.ends.get(topic, {}).items()}
        begins = snapshot.begins.get(topic, {})
        pending = {place for place, end in ends.items() if end > begins[place.partition]}
        if not pending:
            return
        consumer = self._consumer
        try:
            consumer.assign(list(pending))
            for place in pending:
                consumer.seek(place, begins[place.partition])
            silent_since = time.monotonic()
            while pending:
                fetched = await consumer.getmany(*pending, timeout_ms=_TURN_MS)
                for place, records in fetched.items():
                    yield records if records[-1].offset < ends[place] else [r for r in records if r.offset < ends[place]]
                for place in list(pending):
                    # Markers and what compaction took are offsets without a record: it is the position that has to get there.
                    if await consumer.position(place) >= ends[place]:
                        pending.discard(place)
                        consumer.pause(place)
                        silent_since = time.monotonic()
                if fetched:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > self._profile.delivery_timeout_seconds:
                    raise CouldNotJudge(_silence(topic, pending, self._profile.delivery_timeout_seconds))
        except OffsetOutOfRangeError as error:
            raise CouldNotJudge(
                f"{topic} lost records while it was read (retention took {error.args[0]}); run the audit again"
            ) from error
        except (KafkaError, OSError) as error:
            raise CouldNotJudge(f"{topic} could not be read: {type(error).__name__} {error}") from error

    async def has_grown(self, topic: str, snapshot: Snapshot) -> bool:
        """See Log."""
        try:
            return (await self.ends([topic])).get(topic, {}) != snapshot.ends.get(topic, {})
        except (KafkaError, OSError, TimeoutError) as error:
            raise CouldNotJudge(f"the broker did not say where {topic} ends by now: {type(error).__name__} {error}") from error

    def _make_consumer(self, isolation_level: str, fetch_bytes: int) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **aiokafka_options(self._settings),
            client_id="ruminate-audit",
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=isolation_level,
            request_timeout_ms=self._profile.request_timeout_ms,
            fetch_max_wait_ms=_TURN_MS,
            max_partition_fetch_bytes=fetch_bytes,
        )

    async def _find_partitions(self) -> dict[str, list[int]]:
        """The topics of ours that exist, with their partitions."""
        # By name: a list of all topics leaves out what we may not see, and aiokafka's own question by name would create them.
        answer = await self._admin._send_request(MetadataRequest(list(READING_ORDER), allow_auto_topic_creation=False))
        found = partitions_of(answer.to_object()["topics"])
        if not found:
            where = self._settings.kafka_bootstrap
            raise CouldNotJudge(f"no topic of the flow exists at {where}; is it the right broker (RUMINATE_KAFKA_BOOTSTRAP)?")
        return {name: found[name] for name in READING_ORDER if name in found}

    async def committed(self) -> dict[tuple[str, str], dict[int, int]]:
        """See Cuttable."""
        partitions = self._partitions
        committed: dict[tuple[str, str], dict[int, int]] = {}
        for reader, topics in GROUP_READERS.items():
            names = [name for topic in topics for name in (topic.name, topic.retries(reader).name) if name in partitions]
            places = _places({name: partitions[name] for name in names})
            found = await committed_by(self._admin, reader, places, seconds=self._profile.delivery_timeout_seconds)
            for place, offset in found.items():
                committed.setdefault((reader, place.topic), {})[place.partition] = offset
        return committed

    async def ends(self, topics: Sequence[str]) -> Offsets:
        """See Cuttable. The embedded broker's answer may lag behind; there a fetch from it says the true one."""
        places = _places({name: self._partitions[name] for name in topics if name in self._partitions})
        if not places:
            return {}
        ends: dict[TopicPartition, int] = await self._scout.end_offsets(places)
        if self._settings.kafka_profile == "embedded":
            peeked = await self._peek(ends)
            ends = {place: max(end, peeked[place][0]) for place, end in ends.items()}
        return _by_topic(ends)

    def _scout_out(self, places: Collection[TopicPartition]) -> None:
        """Know all of these partitions at once, and fetch from none of them yet."""
        self._scout.assign(places)
        for place in places:
            self._scout.seek(place, 0)
        self._scout.pause(*places)

    async def _peek(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, tuple[int, int | None]]:
        """What a fetch from these offsets says: the high watermark, and the time of the first record there."""
        scout, pending = self._scout, set(offsets)
        for place, offset in offsets.items():
            scout.seek(place, offset)
        scout.resume(*offsets)
        peeked: dict[TopicPartition, tuple[int, int | None]] = {}
        deadline = time.monotonic() + self._profile.delivery_timeout_seconds
        while pending:
            fetched = await scout.getmany(*pending, timeout_ms=_TURN_MS, max_records=len(pending))
            for place in list(pending):
                records, highwater = fetched.get(place, []), scout.highwater(place)
                if highwater is None or (not records and await scout.position(place) < highwater):
                    continue
                peeked[place] = (highwater, records[0].timestamp if records else None)
                pending.discard(place)
                scout.pause(place)
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing came from {sorted(pending)}")
        return peeked

    async def _whole_since(
        self, begins: Mapping[str, Mapping[int, int]], ends: Mapping[str, Mapping[int, int]], now_ms: int
    ) -> dict[str, int]:
        """Since when topics that have lost their beginning are whole.

        Retention takes only what is older than it says, so a partition is whole since then, or since its first record where
        that is older still. Where bytes limit a topic, too, only its first record tells.
        """
        cut = {
            TopicPartition(topic, number): begin
            for topic, numbers in begins.items()
            for number, begin in numbers.items()
            if begin > 0
        }
        if not cut:
            return {}
        retention = await self._retention({place.topic for place in cut})
        held = {place: begin for place, begin in cut.items() if begin < ends[place.topic][place.partition]}
        firsts = await self._peek(held) if held else {}
        since: dict[str, int] = {}
        for place in cut:
            kept_ms, limited_by_bytes = retention[place.topic]
            first_ms = firsts[place][1] if place in firsts else None
            kept_since = now_ms if limited_by_bytes or kept_ms == _UNLIMITED else now_ms - kept_ms
            whole = kept_since if first_ms is None else min(first_ms, kept_since)
            since[place.topic] = max(since.get(place.topic, 0), whole)
        return since

    async def _retention(self, topics: Iterable[str]) -> dict[str, tuple[int, bool]]:
        """How long each topic keeps records in milliseconds, and whether bytes limit it."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
        found: dict[str, tuple[int, bool]] = {}
        for response in await self._admin.describe_configs(resources):
            for code, _, _, name, entries in (resource[:5] for resource in response.resources):
                if code:
                    raise CouldNotJudge(f"how long {name} keeps its records is not said: {for_code(code).__name__}")
                values = {entry[0]: entry[1] for entry in entries}
                by_time = "delete" in values["cleanup.policy"]
                kept_ms = int(values["retention.ms"]) if by_time else _UNLIMITED
                found[name] = (kept_ms, int(values["retention.bytes"]) != _UNLIMITED)
        return found


def partitions_of(described: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """The partitions of the topics that exist. Raises CouldNotJudge where it is not said whether one does.

    What we may not see would count as empty, and all that came to it or from it as lost.
    """
    found: dict[str, list[int]] = {}
    for topic in described:
        if topic["error_code"] == 0:
            found[topic["topic"]] = sorted(each["partition"] for each in topic["partitions"])
        elif topic["error_code"] != UnknownTopicOrPartitionError.errno:
            why = for_code(topic["error_code"]).__name__
            raise CouldNotJudge(f"{topic['topic']} is not described: {why}; an audit has to see every topic of the flow")
    return found


async def committed_by(
    admin: AIOKafkaAdminClient, reader: str, places: Collection[TopicPartition], *, seconds: float
) -> dict[TopicPartition, int]:
    """What a group has committed of each of these places, 0 where nothing. Raises KafkaError, CouldNotJudge.

    A coordinator that is just starting answers without any place, and aiokafka passes that on as if nothing were committed:
    then everything would be pending, and nothing missed.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = await admin.list_consumer_group_offsets(reader, partitions=list(places))
            if found.keys() >= set(places):
                return {place: max(0, found[place].offset) for place in places}
        except KafkaError as error:
            if not error.retriable:
                raise
        if time.monotonic() > deadline:
            raise CouldNotJudge(f"what {reader} has committed is not said; its group's coordinator may be starting: run it again")
        await asyncio.sleep(_TURN_MS / 1000)


def _places(topics: Mapping[str, Iterable[int]]) -> list[TopicPartition]:
    return [TopicPartition(name, number) for name, numbers in topics.items() for number in numbers]


def _by_topic(offsets: Mapping[TopicPartition, int]) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = {}
    for place, offset in offsets.items():
        found.setdefault(place.topic, {})[place.partition] = offset
    return found


def _silence(topic: str, pending: Iterable[TopicPartition], seconds: float) -> str:
    numbers = ", ".join(str(place.partition) for place in sorted(pending))
    return (
        f"nothing came from partitions {numbers} of {topic} for {seconds:.0f} s: the broker is in trouble, "
        "or a transaction is open there; run the audit again"
    )
