"""The embedded broker: KafkaBus on it honours the bus contract, and what it does otherwise than Apache Kafka is known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from ruminate.embedded.broker import EmbeddedBroker, embedded_broker
from ruminate.shared.bus import Delivery, TransactionsRefused
from tests.contract.bench import Sample, sample_topic, served_until_it_ends
from tests.contract.broker_contract import BrokerContract
from tests.contract.bus_contract import BusContract
from tests.contract.kafka_bench import KafkaBench


class OwnEmbeddedBroker:
    """Comes back on its port, and with nothing else."""

    def __init__(self) -> None:
        self._port = 0
        self._running = ExitStack()
        self.start()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    def kill(self) -> None:
        self._broker.process.kill()
        self._running.close()

    def start(self) -> None:
        self._broker = self._running.enter_context(embedded_broker(self._port))
        self._port = int(self._broker.bootstrap.rsplit(":", 1)[1])


class TestTheEmbeddedBroker(BusContract, BrokerContract):
    subject: ClassVar = "the embedded broker"
    differences: ClassVar = {
        "test_a_setting_of_a_topic_can_be_changed": "does not know the request",
        "test_partitions_can_be_added_to_a_topic": "does not know the request",
        "test_a_record_that_is_larger_than_its_topic_allows_is_refused": "takes it: it keeps a topic's settings and follows none",
        "test_what_a_tombstone_took_the_place_of_is_gone_once_a_later_record_has_closed_its_segment": (
            "compacts nothing: readers pass it over, and its bytes are in memory, and on no disk, until the broker stops"
        ),
        "test_a_producer_may_be_idempotent": "refuses it with an unknown error; a client's own retry may write a record twice",
        "test_records_of_aborted_transactions_are_not_seen_and_reading_still_ends": "refuses transactions with an unknown error",
        "test_a_record_is_fetched_as_soon_as_it_is_there": "looks again only after half of the time that the fetch may wait",
        "test_the_end_of_a_partition_is_the_offset_after_its_last_record": "names the one after its last batch's first record",
        "test_the_first_offset_from_a_time_on_is_found": "names offset 0, whatever the time",
        "test_a_new_group_starts_where_the_log_begins": "deletes none: every log begins at 0",
        "test_a_committed_offset_that_is_gone_stops_the_service_and_the_lost_range_is_named": "deletes no records",
        "test_a_commit_keeps_its_metadata": "forgets it; crashes on an offset are counted in a file instead",
        "test_a_session_of_less_than_six_seconds_is_refused": "takes any; a join waits for half of it, so 2 s are asked for",
        "test_a_static_member_that_was_killed_reads_again_before_its_session_is_over": "lets it wait for several sessions",
        "test_what_was_written_outlives_the_broker": "lives in memory: all topics are gone, and `up` stops everything",
    }

    @pytest.fixture
    def bench(self, tmp_path: Path, broker: EmbeddedBroker) -> KafkaBench:
        return KafkaBench(tmp_path, broker.bootstrap, "embedded")

    @pytest.fixture
    def own_broker(self) -> Iterator[OwnEmbeddedBroker]:
        broker = OwnEmbeddedBroker()
        yield broker
        broker.kill()

    def test_transactions_are_refused_with_the_way_out(self, bench: KafkaBench) -> None:
        async def scenario() -> None:
            topic = sample_topic(partitions=1)
            await bench.create(topic, reader=bench.reader)

            async def handle(delivery: Delivery[Sample]) -> None:
                raise AssertionError("nothing is read")

            async with bench.bus(bench.reader, kafka_transactions=True) as bus:
                with pytest.raises(TransactionsRefused, match="embedded broker has no transactions; unset it, or name an Apache"):
                    await served_until_it_ends(bus, topic, handle)

        asyncio.run(scenario())
