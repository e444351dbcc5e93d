"""Versions that have learned from what was erased since, and the deployer that says so once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from ruminate.deployer.mark import Marker
from ruminate.schemas.batch import DatasetRevised
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import ADAPTER_TRAINED, DATASET_REVISED, MODEL_MARKED
from ruminate.schemas.marking import Mark, marks, marks_by_chain
from ruminate.schemas.model import ModelMarked
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained
from ruminate.shared.bus import BrokerUnavailable, Unavailable
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.record import Position

P = TypeVar("P", bound=Payload)

AT = datetime(2026, 3, 14, tzinfo=UTC)


def dataset(batch: int, revision: int = 0) -> ArtifactReference:
    sha256 = f"{batch:032x}{revision:032x}"
    return ArtifactReference(uri=f"file:///store/{sha256}.json", sha256=sha256, size_bytes=1)


def trained(number: int, parent: int | None = None, *, revision: int = 0, **changed: Any) -> AdapterTrained:
    """Version `number`, trained on this revision of the dataset of its batch."""
    fields: dict[str, Any] = {
        "job_id": f"b-{number}",
        "batch_id": f"b-{number}",
        "target_model": "qwen3:8b",
        "version": f"v{number}",
        "number": number,
        "parent_version": None if parent is None else f"v{parent}",
        "base_model": "tiny",
        "adapter": dataset(99),
        "gguf": (),
        "dataset": dataset(number, revision),
        "stages": ("cold_start",),
        "settings": {},
        "metrics": {},
        "duration_seconds": 1.0,
        "trained_at": AT,
    }
    return AdapterTrained(**fields | changed)


def revised(batch: int, revision: int, *erasure_ids: str, interactions: int = 1, **changed: Any) -> DatasetRevised:
    """This revision; ids and interactions are those of all revisions until then."""
    fields: dict[str, Any] = {
        "batch_id": f"b-{batch}",
        "target_model": "qwen3:8b",
        "number": batch,
        "revision": revision,
        "replaces": dataset(batch, revision - 1),
        "dataset": dataset(batch, revision),
        "revised_at": AT,
        "erasure_ids": erasure_ids,
        "erased_interactions": interactions,
        "rows": 1,
        "reasoning_rows": 1,
        "direct_rows": 0,
    }
    return DatasetRevised(**fields | changed)


def test_a_version_is_marked_for_what_left_its_dataset_after_it_was_trained() -> None:
    assert marks([trained(1)], [revised(1, 1, "e-1", interactions=3)]) == [Mark("v1", "b-1", 1, ("e-1",), 3, None)]


def test_a_version_that_was_trained_on_what_was_left_is_not() -> None:
    assert marks([trained(1, revision=1)], [revised(1, 1, "e-1")]) == []


def test_each_later_revision_is_a_mark_of_its_own_and_says_what_is_new_in_it() -> None:
    revisions = [revised(1, 1, "e-1", interactions=2), revised(1, 2, "e-1", "e-2", interactions=5), revised(1, 3, "e-1", "e-2")]
    assert marks([trained(1, revision=1)], revisions[:2]) == [Mark("v1", "b-1", 2, ("e-2",), 3, None)]
    # The same request once more: it is what the revision was made for.
    assert marks([trained(1, revision=2)], [*revisions[:2], revised(1, 3, "e-1", "e-2", interactions=6)]) == [
        Mark("v1", "b-1", 3, ("e-1", "e-2"), 1, None)
    ]


def test_whoever_goes_on_from_a_marked_version_inherits_the_mark_over_however_many_steps() -> None:
    versions = [trained(1), trained(2, 1), trained(3, 2), trained(4)]
    found = marks(versions, [revised(1, 1, "e-1"), revised(2, 1, "e-1")])
    assert [(mark.version, mark.batch_id, mark.inherited_from) for mark in found] == [
        ("v1", "b-1", None),
        ("v2", "b-2", None),
        ("v2", "b-1", "v1"),
        ("v3", "b-2", "v2"),
        ("v3", "b-1", "v1"),
    ]


def test_what_does_not_count_makes_no_mark() -> None:
    revision = revised(1, 1, "e-1")
    assert marks([trained(1, version="v9", dataset=dataset(7)), trained(1)], [revision]) == []  # the first result of a batch counts
    assert marks([trained(1)], [revised(1, 2, "e-1")]) == []  # a revision that follows none
    second = revised(1, 1, "e-2", dataset=dataset(1, 8))  # it came second
    assert [mark.erasure_ids for mark in marks([trained(1)], [revision, second])] == [("e-1",)]
    assert marks_by_chain([trained(1, tenant="other")], [revision]) == {("default", "qwen3:8b"): []}


def test_parents_that_go_in_a_circle_end_it() -> None:
    found = marks([trained(1, 2), trained(2, 1)], [revised(1, 1, "e-1")])
    assert [(mark.version, mark.inherited_from) for mark in found] == [("v1", None), ("v2", "v1")]


# The deployer.


def play(scenario: Callable[[MemoryBroker], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario(MemoryBroker()))


async def tell(bus: MemoryBus, *events: AdapterTrained | DatasetRevised) -> None:
    for event in events:
        topic: Any = ADAPTER_TRAINED if isinstance(event, AdapterTrained) else DATASET_REVISED
        await bus.publish(topic, event, bus.begin(topic, event))


async def marked(bus: MemoryBus) -> list[ModelMarked]:
    return [each.payload async for each in bus.read(MODEL_MARKED)]


async def looking(broker: MemoryBroker, done: Callable[[list[ModelMarked]], bool]) -> list[ModelMarked]:
    """A deployer that looks until what is marked is what is waited for, and then once more."""
    bus = MemoryBus(broker, reader="deployer")
    marker = Marker(bus)
    deadline = time.monotonic() + 10
    async with AsyncExitStack() as followed:
        for following in marker.followings:
            await followed.enter_async_context(following)
        while not done(await marked(bus)):
            assert time.monotonic() < deadline, marker.readiness()
            await marker.look()
            await asyncio.sleep(0)
        await marker.look()
    assert marker.readiness() == []
    return await marked(bus)


def test_every_mark_is_told_once_however_often_the_deployer_starts() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        bus = MemoryBus(broker, reader="tester")
        await tell(bus, trained(1), trained(2, 1), revised(1, 1, "e-1", interactions=2))
        first = await looking(broker, lambda told: len(told) == 2)
        assert [(each.version, each.inherited_from, each.erasure_ids, each.erased_interactions) for each in first] == [
            ("v1", None, ("e-1",), 2),
            ("v2", "v1", ("e-1",), 2),
        ]
        # A second start tells what is new, and nothing again.
        await tell(bus, revised(2, 1, "e-1"))
        again = await looking(broker, lambda told: len(told) == 3)
        assert again[:2] == first
        assert (again[2].version, again[2].batch_id, again[2].inherited_from) == ("v2", "b-2", None)

    play(scenario)


def test_a_version_that_is_trained_after_the_erasure_and_goes_on_from_a_marked_one_is_marked_then() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        bus = MemoryBus(broker, reader="tester")
        await tell(bus, trained(1), revised(1, 1, "e-1"))
        await looking(broker, lambda told: len(told) == 1)
        await tell(bus, trained(2, 1))
        found = await looking(broker, lambda told: len(told) == 2)
        assert (found[1].version, found[1].inherited_from) == ("v2", "v1")

    play(scenario)


def test_two_deployers_tell_one_event() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        bus = MemoryBus(broker, reader="tester")
        await tell(bus, trained(1), revised(1, 1, "e-1"))
        await asyncio.gather(looking(broker, lambda told: len(told) >= 1), looking(broker, lambda told: len(told) >= 1))
        ids = {each.envelope.id async for each in bus.read(MODEL_MARKED)}
        assert len(ids) == 1

    play(scenario)


class AwayForOnce(MemoryBus):
    """A broker that does not take the first event."""

    away = True

    async def publish(self, topic: Topic[P], payload: P, envelope: Envelope) -> Position:
        if self.away:
            self.away = False
            raise BrokerUnavailable("away")
        return await super().publish(topic, payload, envelope)


def test_a_mark_that_the_broker_did_not_take_is_said_to_wait_and_told_later() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        await tell(MemoryBus(broker, reader="tester"), trained(1), revised(1, 1, "e-1"))
        bus = AwayForOnce(broker, reader="deployer")
        marker = Marker(bus)
        await marker.look()
        assert marker.readiness() == []  # nothing was read, so nothing is due
        async with AsyncExitStack() as followed:
            for following in marker.followings:
                await followed.enter_async_context(following)
            while bus.away:
                await marker.look()
                await asyncio.sleep(0)
            assert marker.readiness() == ["versions that learned from what was erased are not marked: away"]
            await marker.look()
            assert marker.readiness() == []
        assert [each.version for each in await marked(bus)] == ["v1"]

    play(scenario)


def test_nothing_is_marked_before_what_was_marked_is_read() -> None:
    async def scenario(broker: MemoryBroker) -> None:
        bus = MemoryBus(broker, reader="deployer")
        marker = Marker(bus)
        await tell(bus, trained(1), revised(1, 1, "e-1"))
        of_trained, of_revised, of_marks = marker.followings
        async with of_trained, of_revised:
            while not marker.readiness():
                await marker.look()
                await asyncio.sleep(0)
            assert await marked(bus) == []
            with pytest.raises(Unavailable):
                of_marks.check()

    play(scenario)
