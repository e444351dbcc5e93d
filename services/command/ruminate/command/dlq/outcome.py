"""What became of letters that were sent back: their reader has settled them, given them up again, or not come to them yet."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import aiokafka_options
from ruminate.shared.letters import Box, Letters, SentBack, read_letters
from ruminate.shared.member import Member
from ruminate.shared.profiles import PROFILES
from ruminate.shared.record import Position
from ruminate.shared.settings import ServiceSettings

_TURN_SECONDS: Final = 0.2

Fate = Literal["done", "dead again", "waiting", "sent before"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one. `says` is for people; empty where the fate says it all."""

    sent: SentBack
    fate: Fate
    says: str = ""


async def outcomes(bus: Member, settings: ServiceSettings, sent: Sequence[SentBack], *, seconds: float) -> list[Outcome]:
    """Wait until the readers have come to all of these, at most `seconds`. Raises BrokerUnavailable."""
    last: defaultdict[Box, int] = defaultdict(lambda: -1)
    for each in sent:
        if each.offset is not None:
            last[each.letter.box] = max(last[each.letter.box], each.offset)
    read_to = await _read_to(settings, last, seconds=seconds)
    if PROFILES[settings.kafka_profile].transactions:
        await _all_decided(settings, last)
    return fates(sent, read_to, await read_letters(bus, last))


def fates(sent: Iterable[SentBack], read_to: Mapping[Box, int], known: Letters) -> list[Outcome]:
    """What became of each, from what its reader has committed of its retries and from the letters that stand or stood since."""
    dead = {letter.position: f"{letter.reason}: {letter.explanation}" for letter in known.standing()}
    dead |= {
        Position(word.topic, word.partition, word.offset): f"{word.reason}, and {word.action} since by {word.settled_by}"
        for word in known.settled()
    }
    return [_fate(each, read_to, dead) for each in sent]


def _fate(each: SentBack, read_to: Mapping[Box, int], dead: Mapping[Position, str]) -> Outcome:
    box = each.letter.box
    if each.offset is None:
        return Outcome(each, "sent before", "an attempt that was cut short had sent it")
    if each.offset >= read_to[box]:
        return Outcome(each, "waiting", f"{box.reader} has not come to it. Does it run?  ruminate status")
    again = dead.get(Position(box.retries.name, 0, each.offset))
    return Outcome(each, "done") if again is None else Outcome(each, "dead again", again)


async def _all_decided(settings: ServiceSettings, boxes: Iterable[Box]) -> None:
    """Wait until no letter is out of sight any more: a transaction may show its offset before it shows the letter it wrote.

    Raises BrokerUnavailable.
    """
    # A letter lies in the partition of what was given up, and retries have one.
    places = [TopicPartition(box.letters.name, 0) for box in boxes]
    profile = PROFILES[settings.kafka_profile]
    deadline = time.monotonic() + profile.delivery_timeout_seconds
    options = aiokafka_options(settings)
    try:
        async with (
            AIOKafkaConsumer(**options, isolation_level="read_uncommitted") as every,
            AIOKafkaConsumer(**options, isolation_level="read_committed") as decided,
        ):
            ends = await every.end_offsets(places)
            while any(end < ends[place] for place, end in (await decided.end_offsets(places)).items()):
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        "whether they are dead again is not decided, for a transaction is open: list them later"
                    )
                await asyncio.sleep(_TURN_SECONDS)
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"whether they are dead again could not be asked: {type(error).__name__}") from error


async def _read_to(settings: ServiceSettings, last: dict[Box, int], *, seconds: float) -> dict[Box, int]:
    """What each reader has committed of its retries, once that is beyond `last` or the time is up."""
    deadline = time.monotonic() + seconds
    admin = AIOKafkaAdminClient(**aiokafka_options(settings))
    try:
        await admin.start()
        while True:
            read_to = {box: await _committed(admin, box) for box in last}
            if all(read_to[box] > offset for box, offset in last.items()) or time.monotonic() > deadline:
                return read_to
            await asyncio.sleep(_TURN_SECONDS)
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"how far the readers are could not be asked: {type(error).__name__}") from error
    finally:
        await admin.close()


async def _committed(admin: AIOKafkaAdminClient, box: Box) -> int:
    place = TopicPartition(box.retries.name, 0)
    found = await admin.list_consumer_group_offsets(box.reader, partitions=[place])
    return max(0, found[place].offset) if place in found else 0
