"""What a broker says that is not ready, or that does not show us everything, is never taken for an empty log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    LeaderNotAvailableError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import OffsetAndMetadata

from ruminate.command.audit.kafka_log import committed_by, partitions_of
from ruminate.command.audit.snapshot import CouldNotJudge

PLACES = [TopicPartition("topic", 0), TopicPartition("topic", 1)]

Answer: TypeAlias = Mapping[TopicPartition, int] | KafkaError


class Coordinator:
    """Gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: Answer) -> None:
        self._answers: Iterator[Answer] = iter(answers)
        self._answer: Answer = {}

    async def list_consumer_group_offsets(
        self, group: str, *, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        assert (group, partitions) == ("reader", PLACES)
        self._answer = next(self._answers, self._answer)
        if isinstance(self._answer, KafkaError):
            raise self._answer
        return {place: OffsetAndMetadata(offset, "") for place, offset in self._answer.items()}


def committed(*answers: Answer) -> dict[TopicPartition, int]:
    return asyncio.run(committed_by(Coordinator(*answers), "reader", PLACES, seconds=0.2))


def test_what_was_never_committed_is_zero() -> None:
    assert committed(dict(zip(PLACES, (7, -1), strict=True))) == dict(zip(PLACES, (7, 0), strict=True))


@pytest.mark.parametrize("answer", [{}, {PLACES[0]: 7}, GroupCoordinatorNotAvailableError()])
def test_a_coordinator_that_is_starting_is_asked_again(answer: Answer) -> None:
    assert committed(answer, answer, dict.fromkeys(PLACES, 7)) == dict.fromkeys(PLACES, 7)


@pytest.mark.parametrize("answer", [{}, {PLACES[0]: 7}, GroupCoordinatorNotAvailableError()])
def test_a_coordinator_that_says_nothing_is_not_taken_for_a_group_that_has_committed_nothing(answer: Answer) -> None:
    with pytest.raises(CouldNotJudge, match="what reader has committed is not said"):
        committed(answer)


def test_a_group_that_we_may_not_see_is_said_to_be_one() -> None:
    with pytest.raises(GroupAuthorizationFailedError):
        committed(GroupAuthorizationFailedError(), dict.fromkeys(PLACES, 7))


def described(name: str, error: type[KafkaError] | None = None) -> dict[str, Any]:
    partitions = [] if error else [{"partition": 1}, {"partition": 0}]
    return {"topic": name, "error_code": error.errno if error else 0, "partitions": partitions}


def test_a_topic_that_does_not_exist_counts_as_empty() -> None:
    assert partitions_of([described("there"), described("absent", UnknownTopicOrPartitionError)]) == {"there": [0, 1]}


@pytest.mark.parametrize("error", [TopicAuthorizationFailedError, LeaderNotAvailableError])
def test_a_topic_that_we_cannot_see_does_not_count_as_empty(error: type[KafkaError]) -> None:
    with pytest.raises(CouldNotJudge, match=f"hidden is not described: {error.__name__}"):
        partitions_of([described("there"), described("hidden", error)])
