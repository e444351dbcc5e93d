"""Topics as the flow says they are: looked at, created, changed where that costs nothing.

One piece of code for `ruminate topics`, for `up` and for `python -m ruminate.shared.topics`. Settings are changed one by one
(`incremental_alter_configs`), so that what somebody else has set stays set.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)
from pydantic import ValidationError

from ruminate.schemas.flow import CHANGELOGS, FLOW, SIDE_TOPICS
from ruminate.shared.bus import BrokerUnavailable, BusError
from ruminate.shared.connection import librdkafka_options, why_not_connected
from ruminate.shared.profiles import PROFILES
from ruminate.shared.settings import ServiceSettings, problems_of
from ruminate.shared.topic_plan import AnyTopic, Change, Found, Plan, is_kept, plan_lines, plan_topics, retention_of, settings_of

log = structlog.get_logger()

EVERY_TOPIC: Final[tuple[AnyTopic, ...]] = (*FLOW, *SIDE_TOPICS, *CHANGELOGS)
"""What has to exist before a service starts."""

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 15.0
_SHOWN_SECONDS: Final = 15.0
_LOOK_AGAIN_SECONDS: Final = 0.05
_LEADER_IS_NEW: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class TopicsDiffer(RuntimeError):
    """Something about a topic differs that we do not change; the message says why, and the way out."""


@asynccontextmanager
async def open_admin(settings: ServiceSettings) -> AsyncIterator[TopicAdmin]:
    """The topics of a broker. Raises BrokerUnavailable where none answers, there or later."""
    # librdkafka waits long for a broker, and says little about it.
    if why := await why_not_connected(settings):
        raise BrokerUnavailable(why)
    client = AdminClient({**librdkafka_options(settings), "log_level": 2})
    try:
        with client:
            yield TopicAdmin(client, settings)
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        raise BrokerUnavailable(f"the topics at {settings.kafka_bootstrap}: {reason.str()}") from error


@dataclass(frozen=True)
class TopicAdmin:
    """Looks at topics and changes them."""

    client: AdminClient
    settings: ServiceSettings

    @property
    def _changeable(self) -> bool:
        return PROFILES[self.settings.kafka_profile].takes_topic_configuration

    async def plan(self, wanted: Iterable[AnyTopic] = EVERY_TOPIC, *, allow_loss: Collection[str] = ()) -> Plan:
        """What differs between the broker and the flow."""
        topics = {topic.name: topic for topic in wanted}
        found = await self._partitions()
        if self._changeable:
            found = await self._with_records(await self._with_settings(found, topics), topics)
        return plan_topics(
            topics.values(),
            found,
            replication=self.settings.kafka_replication,
            changeable=self._changeable,
            allow_loss=allow_loss,
        )

    async def apply(self, wanted: Iterable[AnyTopic] = EVERY_TOPIC, *, allow_loss: Collection[str] = ()) -> Plan:
        """Create and change what the plan says, and give it back once the broker shows it. What it refuses is not touched."""
        topics = list(wanted)
        plan = await self.plan(topics, allow_loss=allow_loss)
        await self._create(plan)
        await self._grow(plan)
        await self._set(plan)
        deadline = time.monotonic() + _SHOWN_SECONDS
        # What the controller has decided reaches every broker, and gives each partition its leader, a moment later.
        while plan.to_do and not (await self._led(plan) and not (await self.plan(topics, allow_loss=allow_loss)).to_do):
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"applied, but the broker does not show it after {_SHOWN_SECONDS:.0f} s; plan again")
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return plan

    async def settings_of(self, names: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """Every setting in force of these topics, wherever it comes from; those that are missing are left out."""
        found = await self._partitions()
        there = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names if name in found]
        described = await _all(self.client.describe_configs(there, request_timeout=_ANSWER_SECONDS)) if there else {}
        return {
            resource.name: {entry.name: entry.value or "" for entry in entries.values()} for resource, entries in described.items()
        }

    # Looking.

    async def _partitions(self) -> dict[str, Found]:
        metadata = await asyncio.to_thread(self.client.list_topics, timeout=_CONNECT_SECONDS)
        return {
            name: Found(
                partitions=len(topic.partitions),
                replication=min((len(partition.replicas) for partition in topic.partitions.values()), default=0),
                settings={},
            )
            for name, topic in metadata.topics.items()
        }

    async def _with_settings(self, found: dict[str, Found], topics: Mapping[str, AnyTopic]) -> dict[str, Found]:
        there = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in topics if name in found]
        if not there:
            return found
        described = await _all(self.client.describe_configs(there, request_timeout=_ANSWER_SECONDS))
        by_hand = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        return found | {
            resource.name: replace(
                found[resource.name],
                settings={entry.name: entry.value or "" for entry in entries.values()},
                set_by_hand=frozenset(entry.name for entry in entries.values() if entry.source == by_hand),
            )
            for resource, entries in described.items()
        }

    async def _with_records(self, found: dict[str, Found], topics: Mapping[str, AnyTopic]) -> dict[str, Found]:
        """Count records where the answer depends on them: an offset is asked for only where something differs."""
        looked_at = dict(found)
        for name, topic in topics.items():
            there = found.get(name)
            if there is None or (there.partitions == topic.partitions and not self._differs(topic, there)):
                continue
            retention = retention_of(settings_of(topic, replication=there.replication))
            beginnings = await self._offsets(name, there.partitions, OffsetSpec.earliest())
            ends = await self._offsets(name, there.partitions, OffsetSpec.latest())
            kept = ends
            if retention is not None:
                since = OffsetSpec.for_timestamp(int(time.time() * 1000) - retention)
                kept = await self._offsets(name, there.partitions, since)
            looked_at[name] = replace(
                there,
                offsets=sum(ends),
                records=sum(ends) - sum(beginnings),
                # No record is as young as that where the answer is -1: then all of them are older.
                older_records=sum(
                    (end if young < 0 else young) - beginning for beginning, end, young in zip(beginnings, ends, kept, strict=True)
                )
                if retention is not None
                else 0,
            )
        return looked_at

    def _differs(self, topic: AnyTopic, there: Found) -> bool:
        wanted = settings_of(topic, replication=there.replication)
        return any(not is_kept(name, there.settings.get(name), value) for name, value in wanted.items())

    async def _offsets(self, name: str, partitions: int, spec: OffsetSpec) -> list[int]:
        places = {TopicPartition(name, number): spec for number in range(partitions)}
        deadline = time.monotonic() + _SHOWN_SECONDS
        while True:
            try:
                answers = await _all(self.client.list_offsets(places, request_timeout=_ANSWER_SECONDS))
                break
            except KafkaException as error:
                # A leader that has just been chosen does not know it yet.
                if error.args[0].code() not in _LEADER_IS_NEW or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        by_partition = {place.partition: int(answer.offset) for place, answer in answers.items()}
        return [by_partition[number] for number in range(partitions)]

    # Changing.

    async def _create(self, plan: Plan) -> None:
        if not plan.creations:
            return
        made = self.client.create_topics(
            [NewTopic(topic.name, topic.partitions, topic.replication, config=dict(topic.settings)) for topic in plan.creations],
            request_timeout=_ANSWER_SECONDS,
        )
        for name, outcome in made.items():
            try:
                await asyncio.wrap_future(outcome)
            except KafkaException as error:
                # Somebody else creates the same topics at this moment; the next plan sees what came of it.
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise KafkaException(KafkaError(error.args[0].code(), f"{name}: {error.args[0].str()}")) from error

    async def _led(self, plan: Plan) -> bool:
        metadata = await asyncio.to_thread(self.client.list_topics, timeout=_CONNECT_SECONDS)
        made = [metadata.topics.get(topic.name) for topic in plan.creations]
        return all(topic and all(partition.leader >= 0 for partition in topic.partitions.values()) for topic in made)

    async def _grow(self, plan: Plan) -> None:
        growing = [NewPartitions(change.name, int(change.new)) for change in plan.changes if change.what == "partitions"]
        if growing:
            await _all(self.client.create_partitions(growing, request_timeout=_ANSWER_SECONDS))

    async def _set(self, plan: Plan) -> None:
        by_topic: dict[str, list[Change]] = {}
        for change in plan.changes:
            if change.what != "partitions":
                by_topic.setdefault(change.name, []).append(change)
        if by_topic:
            await _all(
                self.client.incremental_alter_configs(
                    [
                        ConfigResource(
                            ConfigResource.Type.TOPIC,
                            name,
                            incremental_configs=[
                                ConfigEntry(change.what, change.new, incremental_operation=AlterConfigOpType.SET)
                                for change in changes
                            ],
                        )
                        for name, changes in by_topic.items()
                    ],
                    request_timeout=_ANSWER_SECONDS,
                )
            )


async def _all(outcomes: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
    return {key: await asyncio.wrap_future(outcome) for key, outcome in outcomes.items()}


async def ensure_topics(settings: ServiceSettings, topics: Iterable[AnyTopic] = EVERY_TOPIC) -> list[str]:
    """Create what is missing, change what costs nothing, and give the names of what was created.

    Raises TopicsDiffer where something differs that we do not change, BrokerUnavailable where no broker answers.
    """
    async with open_admin(settings) as admin:
        plan = await admin.apply(topics)
    for change in plan.changes:
        log.info("topic_changed", topic=change.name, what=change.what, old=change.old, new=change.new)
    if plan.refusals:
        raise TopicsDiffer(
            "; ".join(
                f"{refusal.name}: {refusal.what} is {refusal.old} and should be {refusal.new}, but {refusal.why}. {refusal.instead}"
                for refusal in plan.refusals
            )
        )
    return [topic.name for topic in plan.creations]


async def _ensure_and_say(settings: ServiceSettings) -> int:
    async with open_admin(settings) as admin:
        plan = await admin.apply()
    sys.stdout.write("".join(f"{line}\n" for line in plan_lines(plan)))
    return 1 if plan.refusals else 0


def main() -> None:
    """`python -m ruminate.shared.topics`: what `ruminate topics apply` does, where only this package is installed."""
    try:
        code = asyncio.run(_ensure_and_say(ServiceSettings()))
    except ValidationError as error:
        sys.exit(f"topics: {'; '.join(problems_of(error))}")
    except BusError as error:
        sys.exit(f"topics: {error}")
    sys.exit(code)


if __name__ == "__main__":
    main()
