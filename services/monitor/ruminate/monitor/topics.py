"""The topics that have to exist before Faust starts: those that are read, and the tables' own changelogs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ruminate.monitor.decide import WATCHED_TOPICS
from ruminate.monitor.settings import MonitorSettings
from ruminate.monitor.windows import CHANGELOGS

log = structlog.get_logger()

_RETRY_SECONDS = 0.5
_DAY_MS = "86400000"
"""Deletes closed windows; a topic that is only compacted keeps the last value of each key whatever this says."""


class TopicsGate:
    """Open once every topic exists. The watched ones are made by whoever sets the broker up, the changelogs here."""

    def __init__(self, settings: MonitorSettings) -> None:
        self._settings = settings
        self._waits_for = "the broker has not been asked for its topics yet"

    def readiness(self) -> list[str]:
        """What is missing, as a sentence; empty once the gate is open."""
        return [self._waits_for] if self._waits_for else []

    async def passed(self) -> None:
        """Return once every topic exists, however long the broker takes."""
        while self._waits_for:
            try:
                self._waits_for = await self._missing()
            except (KafkaError, OSError) as error:
                self._waits_for = f"the broker at {self._settings.kafka_bootstrap} does not answer ({error!r})"
            if self._waits_for:
                log.info("topics_awaited", reason=self._waits_for)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _missing(self) -> str:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._settings.kafka_bootstrap, client_id="ruminate-monitor-topics")
        try:
            await admin.start()
            there = set(await admin.list_topics())
            if missing := [topic for topic in WATCHED_TOPICS if topic not in there]:
                return f"{len(missing)} topics are missing, the first is {missing[0]}; create them with the topics command"
            if unmade := {name: cleanup for name, cleanup in CHANGELOGS.items() if name not in there}:
                await self._make_changelogs(admin, unmade)
                # Created is not yet known to every broker: Faust would start without them, so we look again.
                return "the tables' changelogs are being created"
            return ""
        finally:
            await admin.close()

    async def _make_changelogs(self, admin: AIOKafkaAdminClient, changelogs: Mapping[str, str]) -> None:
        replication = self._settings.kafka_replication
        answer = await admin.create_topics(
            [NewTopic(name, 1, replication, topic_configs=_configuration(cleanup)) for name, cleanup in changelogs.items()]
        )
        for _, code, *_ in answer.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise for_code(code)


def _configuration(cleanup: str) -> dict[str, str]:
    return {"cleanup.policy": cleanup, "retention.ms": _DAY_MS}
