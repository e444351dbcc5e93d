"""The topics that have to exist before Faust starts: those that are read, and the tables' own changelogs."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ruminate.monitor.decide import WATCHED_TOPICS
from ruminate.monitor.settings import MonitorSettings
from ruminate.schemas.flow import CHANGELOGS
from ruminate.shared.connection import aiokafka_options, why_not_connected

log = structlog.get_logger()

NEEDED: Final = (*WATCHED_TOPICS, *(changelog.name for changelog in CHANGELOGS))
_RETRY_SECONDS = 0.5


class TopicsGate:
    """Open once every topic exists. Whoever sets the broker up creates them: `ruminate topics apply`."""

    def __init__(self, settings: MonitorSettings) -> None:
        self._settings = settings
        self._waits_for = "the broker has not been asked for its topics yet"

    def readiness(self) -> list[str]:
        """What is missing, as a sentence; empty once the gate is open."""
        return [self._waits_for] if self._waits_for else []

    async def passed(self) -> None:
        """Return once every topic exists, however long the broker takes."""
        waited = False
        while True:
            try:
                self._waits_for = await self._missing()
            except (KafkaError, OSError) as error:
                self._waits_for = await why_not_connected(self._settings) or f"the broker hung up ({error!r})"
            if not self._waits_for:
                if not waited:
                    return
                # What is created now is not yet known to every broker, and Faust would start without it: look once more.
                waited, self._waits_for = False, "the topics have just been created"
            else:
                waited = True
            log.info("topics_awaited", reason=self._waits_for)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _missing(self) -> str:
        admin = AIOKafkaAdminClient(**aiokafka_options(self._settings), client_id="ruminate-monitor-topics")
        try:
            await admin.start()
            there = set(await admin.list_topics())
        finally:
            await admin.close()
        missing = [name for name in NEEDED if name not in there]
        if not missing:
            return ""
        return f"{len(missing)} topics are missing, the first is {missing[0]}; create them:  ruminate topics apply"
