"""`publish` puts interactions on their topic from a file; `tail` prints the events of a topic as they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from ruminate.command.terminal import printable
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Bus, BusError, Delivery

_IN_FLIGHT = 256
_SHOWN_FIELDS = (
    "target_model",
    "agent",
    "interaction_id",
    "batch_id",
    "job_id",
    "version",
    "phase",
    "step",
    "steps",
    "loss",
    "erasure_id",
    "scope",
    "stage",
    "reason",
    "rows",
    "node",
    "healthy",
)


class BadLine(Exception):
    """A line of the file is no interaction; says which line and why."""


def read_interactions(path: Path) -> Iterator[InteractionCompleted]:
    """The interactions of a file: one JSON object, a JSON list, or one object a line (`-` is standard input). Raises BadLine."""
    raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        whole = orjson.loads(raw)
        lines = [orjson.dumps(item) for item in whole] if isinstance(whole, list) else [raw]
    except orjson.JSONDecodeError:
        lines = [line for line in raw.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        try:
            yield InteractionCompleted.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
            raise BadLine(f"{path}, interaction {number}: {where or 'the whole line'}: {first['msg']}{more}") from None


async def publish(bus: Bus, interactions: list[InteractionCompleted], *, source: str) -> int:
    """Write the interactions; return how many are acknowledged. The id of the event is the interaction's own.

    Raises what `Bus.publish` raises, for the first that could not be written.
    """
    gate = asyncio.Semaphore(_IN_FLIGHT)

    async def write(interaction: InteractionCompleted) -> None:
        async with gate:
            envelope = bus.begin(INTERACTION_COMPLETED, interaction, event_id=interaction.interaction_id, source=source)
            await bus.publish(INTERACTION_COMPLETED, interaction, envelope)

    try:
        async with asyncio.TaskGroup() as group:
            for interaction in interactions:
                group.create_task(write(interaction))
    except* BusError as failures:
        failure = failures.exceptions[0]
    else:
        return len(interactions)
    raise failure


async def tail(bus: Bus, topic: Topic[Any], *, as_json: bool, from_beginning: bool, follow: bool, console: Console) -> None:
    """Print the events of a topic: what is there, then what comes, until interrupted."""
    seen_before: set[tuple[int, int]] = set()
    if not from_beginning:
        seen_before = {(d.position.partition, d.position.offset) async for d in bus.read(topic)}
    async for delivery in bus.read(topic, follow=follow):
        if (delivery.position.partition, delivery.position.offset) in seen_before:
            continue
        if as_json:
            sys.stdout.buffer.write(_as_line(delivery) + b"\n")
            sys.stdout.buffer.flush()
        else:
            console.print(_as_text(delivery), highlight=False, emoji=False, soft_wrap=True)


def _as_line(delivery: Delivery[Any]) -> bytes:
    envelope = delivery.envelope
    return orjson.dumps(
        {
            "id": envelope.id,
            "source": envelope.source,
            "type": envelope.type,
            "time": envelope.time,
            "cause": envelope.cause,
            "partition": delivery.position.partition,
            "offset": delivery.position.offset,
            "data": orjson.loads(delivery.value),
        }
    )


def _as_text(delivery: Delivery[Any]) -> str:
    data = delivery.payload.model_dump(mode="json")
    shown = "  ".join(f"{name}={data[name]}" for name in _SHOWN_FIELDS if data.get(name) is not None)
    time = delivery.envelope.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    place = f"{delivery.position.partition}:{delivery.position.offset}"
    said, event_id = escape(printable(shown)), escape(printable(delivery.envelope.id))  # anybody's words
    return f"[dim]{time}[/dim]  [cyan]{place}[/cyan]  {said}  [dim]{event_id}[/dim]"
