"""Where imported interactions go: the topic, or a collector. Nothing counts as taken before it is acknowledged.

kafka   acknowledged by all in-sync replicas; repeats are found later, by the collector that reads the topic
http    the collector answers for each: taken, duplicate, or refused and why
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Literal, Protocol, TypeAlias

import httpx
import orjson

from ruminate.command.imports.told import Refused
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.topic import MEBIBYTE
from ruminate.shared.bus import BrokerUnavailable, Bus, Unprocessable

Sent: TypeAlias = Literal["taken", "duplicate"] | Refused

_IN_FLIGHT: Final = 512
_HEADER_ROOM_BYTES: Final = 64 * 1024
_BODY_BYTES: Final = 4 * MEBIBYTE
_BODY_LINES: Final = 500
_PATIENCE_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 60.0


class NotAcknowledged(Exception):
    """Where it should go is away; what was acknowledged is noted, and the same command goes on."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An interaction that passed the topic's own gate, and its JSON."""

    payload: InteractionCompleted
    value: bytes


class Sink(Protocol):
    """Takes a batch; one word for each, in its order. Raises NotAcknowledged."""

    tells_duplicates: bool

    async def send(self, batch: Sequence[Ready], source: str) -> list[Sent]: ...


class DrySink:
    """Takes everything and sends nothing."""

    tells_duplicates = False

    async def send(self, batch: Sequence[Ready], source: str) -> list[Sent]:
        return ["taken"] * len(batch)


class KafkaSink:
    """The topic itself. The id of an event is the interaction's own."""

    tells_duplicates = False

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._most_bytes = INTERACTION_COMPLETED.max_message_bytes - _HEADER_ROOM_BYTES
        self._gate = asyncio.Semaphore(_IN_FLIGHT)

    async def send(self, batch: Sequence[Ready], source: str) -> list[Sent]:
        async with asyncio.TaskGroup() as group:
            under_way = [group.create_task(self._publish(ready, source)) for ready in batch]
        sent = [task.result() for task in under_way]
        if away := next((each for each in sent if isinstance(each, BrokerUnavailable)), None):
            raise NotAcknowledged(str(away))
        return [each for each in sent if not isinstance(each, BrokerUnavailable)]

    async def _publish(self, ready: Ready, source: str) -> Sent | BrokerUnavailable:
        if len(ready.value) > self._most_bytes:
            return Refused("too_large", f"the interaction has {len(ready.value)} bytes; the topic takes {self._most_bytes}")
        payload = ready.payload
        async with self._gate:
            envelope = self._bus.begin(INTERACTION_COMPLETED, payload, event_id=payload.interaction_id, source=source)
            try:
                await self._bus.publish(INTERACTION_COMPLETED, payload, envelope)
            except BrokerUnavailable as error:
                return error
            except Unprocessable as error:
                return Refused(error.reason, error.explanation)
        return "taken"


@asynccontextmanager
async def open_collector(url: str) -> AsyncIterator[HttpSink]:
    """A collector at this address. Raises NotAcknowledged where none answers."""
    async with httpx.AsyncClient(base_url=url, timeout=_ANSWER_SECONDS) as client:
        try:
            (await client.get("/openapi.json")).raise_for_status()
        except httpx.HTTPError as error:
            raise NotAcknowledged(f"no collector answers at {url} ({type(error).__name__}); name one by --collector URL") from None
        except httpx.InvalidURL as error:
            raise NotAcknowledged(f"--collector {url!r} is no address: {error}") from None
        yield HttpSink(client)


class HttpSink:
    """`POST /v1/interactions` of a collector, lines together in a body. 503 and broken connections are tried again for a minute."""

    tells_duplicates = True

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def send(self, batch: Sequence[Ready], source: str) -> list[Sent]:
        headers = {b"content-type": b"application/x-ndjson", b"x-ruminate-source": source.encode()}
        return [sent for body in _bodies(batch) for sent in await self._post(body, headers)]

    async def _post(self, lines: Sequence[bytes], headers: dict[bytes, bytes]) -> list[Sent]:
        begun, pause = monotonic(), 0.5
        while True:
            why = "no answer"
            try:
                answer = await self._client.post("/v1/interactions", content=b"\n".join(lines), headers=headers)
            except httpx.TransportError as error:
                why = type(error).__name__
            else:
                if answer.status_code == 200:
                    return [_sent(orjson.loads(line)) for line in answer.content.splitlines()]
                if answer.status_code == 413 and len(lines) > 1:
                    return [sent for line in lines for sent in await self._post([line], headers)]
                if answer.status_code == 413:
                    return [Refused("too_large", f"the collector takes no body of {len(lines[0])} bytes")]
                why = f"it answers {answer.status_code}"
                if answer.status_code not in (429, 502, 503, 504):
                    raise NotAcknowledged(f"the collector at {self._client.base_url} cannot be used: {why}")
            if monotonic() - begun + pause > _PATIENCE_SECONDS:
                raise NotAcknowledged(f"the collector at {self._client.base_url} does not acknowledge: {why}")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 8.0)


def _bodies(batch: Sequence[Ready]) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    length = 0
    for ready in batch:
        if lines and (length + len(ready.value) > _BODY_BYTES or len(lines) == _BODY_LINES):
            yield lines
            lines, length = [], 0
        lines.append(ready.value)
        length += len(ready.value) + 1
    if lines:
        yield lines


def _sent(answer: dict[str, Any]) -> Sent:
    status = answer["status"]
    if status in ("taken", "duplicate"):
        found: Literal["taken", "duplicate"] = status
        return found
    return Refused(answer.get("reason") or status, answer.get("error") or "")
