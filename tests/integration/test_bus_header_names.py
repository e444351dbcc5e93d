"""One record with a header name that is not UTF-8 stops no reader: it is read, and what is wrong in it is a dead letter."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from ruminate.embedded.broker import EmbeddedBroker
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Delivery
from ruminate.shared.dead_letters import DeadLetter
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics

_CRC_AT, _ATTRIBUTES_AT = 17, 21


class Word(Payload):
    word: str


WORDS: Topic[Word] = Topic(
    name="header-names-v1", says="", carries=Word, record_key="event_id", partitioned_by=("word",), cleanup="delete",
    written_by=(), read_by=(), partitions=1,
)  # fmt: skip
HEADERS = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", WORDS.event_type.encode())]
GOOD = b'{"word": "w"}'


async def _write_with_bad_names(producer: AIOKafkaProducer, *values: bytes) -> None:
    """What no client of ours would send: the name `zz` becomes two bytes that are no UTF-8."""
    batch = producer.create_batch()
    for value in values:
        batch.append(key=None, value=value, timestamp=None, headers=[*HEADERS, ("zz", b"v")])
    batch.close()
    batch._build()
    raw = bytearray(batch._buffer).replace(b"zz", b"\xff\xfe")
    raw[_CRC_AT : _CRC_AT + 4] = calc_crc32c(memoryview(raw)[_ATTRIBUTES_AT:]).to_bytes(4, "big")
    batch._buffer = raw
    await (await producer.send_batch(batch, WORDS.name, partition=0))


def test_a_header_name_that_is_no_text_stops_nobody(broker: EmbeddedBroker, tmp_path: Path) -> None:
    settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=tmp_path)

    async def scenario() -> None:
        await ensure_topics(settings, [WORDS, WORDS.dead_letters("tester"), WORDS.retries("tester")])
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            await producer.send_and_wait(WORDS.name, GOOD, headers=HEADERS, partition=0)
            await _write_with_bad_names(producer, b"garbage", GOOD)
            await producer.send_and_wait(WORDS.name, GOOD, headers=HEADERS, partition=0)
        seen: list[int] = []
        async with KafkaBus(settings, reader="tester") as bus:

            async def handle(delivery: Delivery[Word]) -> None:
                seen.append(delivery.position.offset)
                if delivery.position.offset == 3:
                    stopping.append(asyncio.create_task(bus.stop()))

            stopping: list[asyncio.Task[None]] = []
            async with asyncio.timeout(60):
                await bus.serve(WORDS, handle)
                await asyncio.gather(*stopping)
            given_up = [record async for record in bus.records(WORDS.dead_letters("tester"))]
            letters = [(DeadLetter.from_headers(record.headers).reason, record.value) for record in given_up]
        assert seen == [0, 2, 3]
        assert letters == [("not_json", b"garbage")]

    asyncio.run(scenario())
