"""What operators say of training: it is followed at once, beside whatever runs, and what it comes to stands in the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.flow import ADAPTER_TRAINED, TRAINING_BATCH_SEALED, TRAINING_DIRECTED, TRAINING_FAILED, TRAINING_PROGRESSED
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.training import Direction, TrainingDirected
from ruminate.shared.bus import TooManyDeadLetters, Unavailable
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.service import out_of_groups
from ruminate.shared.store import FileStore, Store, open_store
from ruminate.trainer.attend import attend
from ruminate.trainer.outcome import Failure, JobFailed
from ruminate.trainer.settings import TrainerSettings
from ruminate.trainer.train import Trainer
from ruminate.trainer.turns import Turns, devices_for
from ruminate.trainer.waiting import Waits
from ruminate.trainer.words import Words
from tests.integration.test_trainer_service import NOW, PATIENCE_SECONDS, dataset, publish, sealed, told, until
from tests.integration.test_trainer_service import base as base  # noqa: PLC0414 - a fixture
from tests.integration.test_trainer_service import settings as settings  # noqa: PLC0414

MISSING = ArtifactReference(uri="file:///nowhere/dataset.json", sha256="0" * 64, size_bytes=1)


@dataclass
class Gate:
    """A store that hands out nothing before it is opened, and has nothing then: a job that is in hand as long as a test wants."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    away: bool = False
    """Whether it says then that it is away, and nothing comes of the job."""
    asked: list[str] = field(default_factory=list)

    def store(self, folder: Path) -> Store:
        """The store."""
        gate = self

        class Gated(FileStore):
            async def fetch(self, reference: ArtifactReference, *, to: Path) -> Path:
                gate.asked.append(to.parent.name.removeprefix("job-"))
                await gate.opened.wait()
                if gate.away:
                    raise Unavailable("the store is away")
                return await super().fetch(reference, to=to)

        return Gated(folder)


@asynccontextmanager
async def at_work(broker: MemoryBroker, store: Store, settings: TrainerSettings) -> AsyncIterator[tuple[MemoryBus, Waits]]:
    """A trainer, and what its batches wait for."""
    async with MemoryBus(broker, settings, reader="trainer") as bus:
        waits = Waits(bus)
        turns = Turns(devices_for(settings.training_at_once, None))
        parts = Trainer(bus=bus, store=store, settings=settings, turns=turns, words=Words(), waits=waits)
        serving = asyncio.create_task(out_of_groups(attend(parts)))
        try:
            yield bus, waits
        finally:
            await bus.stop()
            await asyncio.wait_for(serving, PATIENCE_SECONDS)


async def direct(
    bus: MemoryBus,
    direction: Direction,
    batch_id: str | None = None,
    *,
    target: str = "tiny",
    attempt: int | None = None,
    priority: int = 0,
    reason: str = "",
    tenant: str = "default",
) -> None:
    """An operator's word."""
    word = TrainingDirected(
        tenant=tenant,
        target_model=target,
        direction=direction,
        batch_id=batch_id,
        attempt=attempt,
        priority=priority,
        directed_by="ada",
        directed_at=NOW,
        reason=reason,
    )
    await publish(bus, TRAINING_DIRECTED, word)


def of(target: str, number: int = 1, *, minutes: int = 0) -> TrainingBatchSealed:
    """A batch of another target, sealed so much later."""
    return sealed(number, MISSING).model_copy(
        update={"target_model": target, "batch_id": f"{target}-{number:06d}", "sealed_at": NOW + timedelta(minutes=minutes)}
    )


def nowhere(tmp_path: Path, **changed: object) -> TrainerSettings:
    """Of a trainer whose jobs never come to a base."""
    given = {"bases": {f"t{n}": "/nowhere" for n in range(9)}, "state_dir": tmp_path / "state", "proof": "off"}
    return TrainerSettings(**{**given, **changed})  # type: ignore[arg-type]


def test_a_job_that_is_cancelled_is_stopped_and_a_retry_trains_its_batch_after_all(
    settings: TrainerSettings, tmp_path: Path
) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store(settings.store_uri)
        batch = sealed(1, await store.put_tree(dataset(tmp_path / "first", "Amber Bay"), kind="datasets", name="first"))
        async with at_work(broker, store, settings) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, batch)
            await until(lambda: any(each.phase == "preparing" for each in told(broker, TRAINING_PROGRESSED)))
            await direct(bus, "cancel", batch.batch_id, attempt=1, reason="out of date")
            await until(lambda: bool(told(broker, TRAINING_FAILED)))
            (cancelled,) = told(broker, TRAINING_FAILED)
            assert (cancelled.reason, cancelled.phase, cancelled.attempt) == ("cancelled", "preparing", 1)
            assert cancelled.explanation.startswith("ada cancelled tiny-000001: out of date. ")
            assert told(broker, ADAPTER_TRAINED) == []

            await direct(bus, "retry", batch.batch_id, attempt=1)
            await direct(bus, "retry", batch.batch_id, attempt=1)
            await until(lambda: bool(told(broker, ADAPTER_TRAINED)))
            await direct(bus, "cancel", batch.batch_id, attempt=2)
            await direct(bus, "retry", batch.batch_id, attempt=2)
        (trained,) = told(broker, ADAPTER_TRAINED)
        assert (trained.batch_id, trained.version, trained.attempt) == (batch.batch_id, "v1", 2)
        progress = told(broker, TRAINING_PROGRESSED)
        assert {each.attempt for each in progress} == {1, 2}
        steps = [each for each in progress if each.step]
        assert steps and all(each.memory_bytes and each.loss and each.tokens_per_second for each in steps)
        await store.fetch(trained.adapter, to=tmp_path / "adapter")
        assert {path.name for path in (tmp_path / "adapter" / "curves").iterdir()} == {"loss.png", "events.out.tfevents.ruminate"}
        assert len(told(broker, TRAINING_FAILED)) == 1

    asyncio.run(scenario())


def test_a_retry_is_begun_by_whoever_has_the_partition_though_nobody_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store((tmp_path / "store").as_uri())
        async with at_work(broker, store, nowhere(tmp_path)) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 1)
        async with MemoryBus(broker, nowhere(tmp_path), reader="command") as bus:
            await direct(bus, "retry", "t1-000001", target="t1", attempt=1)
        for _ in range(2):
            async with at_work(broker, store, nowhere(tmp_path)) as (bus, _):
                await until(lambda: len(told(broker, TRAINING_FAILED)) == 2)
        assert [(each.attempt, each.reason) for each in told(broker, TRAINING_FAILED)] == [(1, "bad_dataset"), (2, "bad_dataset")]
        ids = [dict(record.headers)["ce_id"] for record in broker.records(TRAINING_FAILED.name)]
        assert len(set(ids)) == 2

    asyncio.run(scenario())


def test_the_next_batch_waits_for_the_retry_of_the_one_before_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, gate = MemoryBroker(), Gate()
        async with at_work(broker, open_store((tmp_path / "store").as_uri()), nowhere(tmp_path)) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 1)
        async with at_work(broker, gate.store(tmp_path / "store"), nowhere(tmp_path)) as (bus, waits):
            await direct(bus, "retry", "t1-000001", target="t1", attempt=1)
            second = of("t1", 2).model_copy(update={"previous_batch_id": "t1-000001"})
            await until(lambda: gate.asked == ["t1-000001"])
            await publish(bus, TRAINING_BATCH_SEALED, second)
            await until(lambda: bool(waits.notes()))
            assert waits.notes() == ["t1-000001 of t1 is tried again first"]
            gate.opened.set()
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 3)
        assert [(each.batch_id, each.attempt) for each in told(broker, TRAINING_FAILED)] == [
            ("t1-000001", 1),
            ("t1-000001", 2),
            ("t1-000002", 1),
        ]

    asyncio.run(scenario())


def test_a_batch_whose_target_wants_approval_waits_for_it_and_says_what_to_type(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, store = MemoryBroker(), open_store((tmp_path / "store").as_uri())
        settings = nowhere(tmp_path, approval={"*": "manual", "t2": "auto"})
        async with at_work(broker, store, settings) as (bus, waits):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await publish(bus, TRAINING_BATCH_SEALED, of("t2"))
            await until(lambda: [each.target_model for each in told(broker, TRAINING_FAILED)] == ["t2"] and bool(waits.notes()))
            says = "t1-000001 of t1 waits for approval (RUMINATE_APPROVAL). Type:  ruminate train approve t1-000001"
            assert (waits.notes(), waits.reasons()) == ([says], [])
            assert [each.waits_for for each in told(broker, TRAINING_PROGRESSED) if each.waits_for] == [says]
            await direct(bus, "approve", "t1-000001", target="t1")
            await until(lambda: [each.target_model for each in told(broker, TRAINING_FAILED)] == ["t2", "t1"])
            assert waits.notes() == []
            await direct(bus, "retry", "t1-000001", target="t1", attempt=1)
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 3)

    asyncio.run(scenario())


def test_of_a_paused_target_nothing_starts_what_runs_goes_on_and_a_cancelled_batch_does_not_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, gate = MemoryBroker(), Gate()
        async with at_work(broker, gate.store(tmp_path / "store"), nowhere(tmp_path)) as (bus, waits):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await until(lambda: gate.asked == ["t1-000001"])
            await direct(bus, "pause", target="t1", reason="the GPU is needed")
            await direct(bus, "pause", target="t2")
            await publish(bus, TRAINING_BATCH_SEALED, of("t2"))
            await until(lambda: bool(waits.notes()))
            assert waits.notes() == ["t2 was paused by ada. Type:  ruminate resume t2"]
            gate.opened.set()
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 1)
            for number in (2, 3):
                following = of("t1", number).model_copy(update={"previous_batch_id": f"t1-{number - 1:06d}"})
                await publish(bus, TRAINING_BATCH_SEALED, following)
            await until(lambda: len(waits.notes()) == 2)
            assert "t1 was paused by ada: the GPU is needed. Type:  ruminate resume t1" in waits.notes()
            await direct(bus, "cancel", "t1-000002", target="t1", attempt=1)
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 2)
            await until(lambda: len(waits.notes()) == 2)
            assert len(gate.asked) == 1
            await direct(bus, "resume", target="t1")
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 3)
        assert [(each.batch_id, each.reason) for each in told(broker, TRAINING_FAILED)] == [
            ("t1-000001", "bad_dataset"),
            ("t1-000002", "cancelled"),
            ("t1-000003", "bad_dataset"),
        ]

    asyncio.run(scenario())


def test_one_job_runs_at_a_time_the_highest_priority_first_and_then_what_was_sealed_first(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, gate = MemoryBroker(), Gate()
        async with at_work(broker, gate.store(tmp_path / "store"), nowhere(tmp_path)) as (bus, waits):
            await publish(bus, TRAINING_BATCH_SEALED, of("t0"))
            await until(lambda: gate.asked == ["t0-000001"])
            for number, minutes in ((1, 4), (2, 3), (3, 2), (4, 1)):
                await publish(bus, TRAINING_BATCH_SEALED, of(f"t{number}", minutes=minutes))
            await until(lambda: len(waits.notes()) == 4)
            assert "t1-000001 waits for its turn behind t0-000001" in waits.notes()
            await direct(bus, "prioritise", target="t1", priority=5)
            await direct(bus, "prioritise", "t2-000001", target="t2", priority=9)
            await direct(bus, "prioritise", "t4-000001", target="t4", priority=-1)
            await publish(bus, TRAINING_BATCH_SEALED, of("t5", minutes=9))
            await until(lambda: len(waits.notes()) == 5)
            assert len(gate.asked) == 1
            gate.opened.set()
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 6)
        assert [name.partition("-")[0] for name in gate.asked] == ["t0", "t2", "t1", "t3", "t5", "t4"]

    asyncio.run(scenario())


@pytest.mark.parametrize("at_once", [2, 3])
def test_as_many_jobs_run_as_may_and_never_two_of_a_target(tmp_path: Path, at_once: int) -> None:
    async def scenario() -> None:
        broker, gate = MemoryBroker(), Gate()
        async with at_work(broker, gate.store(tmp_path / "store"), nowhere(tmp_path, training_at_once=at_once)) as (bus, waits):
            for number in range(4):
                await publish(bus, TRAINING_BATCH_SEALED, of(f"t{number}"))
            await publish(bus, TRAINING_BATCH_SEALED, of("t0", 2).model_copy(update={"previous_batch_id": "t0-000001"}))
            await until(lambda: (len(gate.asked), len(waits.notes())) == (at_once, 4 - at_once))
            gate.opened.set()
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 5)

    asyncio.run(scenario())


def test_what_is_in_the_hands_of_a_trainer_that_goes_is_begun_by_the_other_and_so_is_a_retry(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker, gates = MemoryBroker(), (Gate(), Gate())
        async with at_work(broker, open_store((tmp_path / "store").as_uri()), nowhere(tmp_path)) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 1)

        async def one(number: int, go: asyncio.Event) -> None:
            settings = nowhere(tmp_path, state_dir=tmp_path / f"state-{number}")
            async with at_work(broker, gates[number].store(tmp_path / "store"), settings):
                await go.wait()

        async with MemoryBus(broker, nowhere(tmp_path), reader="command") as bus, asyncio.TaskGroup() as group:
            leaving = (asyncio.Event(), asyncio.Event())
            trainers = [group.create_task(one(number, go)) for number, go in enumerate(leaving)]
            await until(lambda: len(broker.group("trainer", TRAINING_BATCH_SEALED.name).members) == 2)
            await direct(bus, "retry", "t1-000001", target="t1", attempt=1)
            await until(lambda: any(gate.asked for gate in gates))
            has = 0 if gates[0].asked else 1
            assert not gates[1 - has].asked
            gates[has].away = True
            gates[has].opened.set()
            leaving[has].set()
            await until(trainers[has].done)
            gates[1 - has].opened.set()
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 2)
            leaving[1 - has].set()
        assert gates[1 - has].asked == ["t1-000001"]
        assert [each.attempt for each in told(broker, TRAINING_FAILED)] == [1, 2]

    asyncio.run(scenario())


def test_what_ends_a_trainer_is_raised_as_it_is_whether_a_batch_or_a_retry_was_in_hand(tmp_path: Path) -> None:
    class Broken(FileStore):
        async def fetch(self, reference: ArtifactReference, *, to: Path) -> Path:
            raise RuntimeError("a fault of ours")

    async def batch() -> None:
        broker = MemoryBroker()
        for offset in range(3):
            broker.append(TRAINING_BATCH_SEALED.name, b"{", partition=offset)
        async with at_work(broker, open_store((tmp_path / "store").as_uri()), nowhere(tmp_path, dead_letter_limit=2)) as (bus, _):
            await until(lambda: not bus.readiness() and len(broker.records(f"{TRAINING_BATCH_SEALED.name}-trainer-dlq")) >= 2)

    async def retry() -> None:
        broker = MemoryBroker()
        async with at_work(broker, open_store((tmp_path / "store").as_uri()), nowhere(tmp_path)) as (bus, _):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 1)
        async with MemoryBus(broker, nowhere(tmp_path), reader="trainer") as bus:
            turns, waits = Turns([None]), Waits(bus)
            parts = Trainer(
                bus=bus,
                store=Broken(tmp_path / "store"),
                settings=nowhere(tmp_path),
                turns=turns,
                words=Words(),
                waits=waits,
            )
            serving = asyncio.create_task(out_of_groups(attend(parts)))
            await direct(bus, "retry", "t1-000001", target="t1", attempt=1)
            await asyncio.wait_for(serving, PATIENCE_SECONDS)

    with pytest.raises(TooManyDeadLetters):
        asyncio.run(batch())
    with pytest.raises(RuntimeError, match="a fault of ours"):
        asyncio.run(retry())


def test_a_job_whose_base_is_away_gives_its_turn_back_says_so_and_can_be_cancelled_at_once(tmp_path: Path) -> None:
    class Away(FileStore):
        async def fetch(self, reference: ArtifactReference, *, to: Path) -> Path:
            if to.parent.name == "job-t1-000001":
                raise JobFailed(Failure(phase="preparing", reason="base_unreachable", explanation="the hub does not answer"))
            return await super().fetch(reference, to=to)

    async def scenario() -> None:
        broker = MemoryBroker()
        async with at_work(broker, Away(tmp_path / "store"), nowhere(tmp_path)) as (bus, waits):
            await publish(bus, TRAINING_BATCH_SEALED, of("t1"))
            await until(lambda: bool(waits.reasons()))
            assert (waits.reasons(), waits.notes()) == (["a batch waits: the hub does not answer"], [])
            await publish(bus, TRAINING_BATCH_SEALED, of("t2"))
            await until(lambda: [each.batch_id for each in told(broker, TRAINING_FAILED)] == ["t2-000001"])
            await direct(bus, "cancel", "t1-000001", target="t1", attempt=1)
            await until(lambda: len(told(broker, TRAINING_FAILED)) == 2)
            assert waits.reasons() == []
        assert told(broker, TRAINING_FAILED)[1].reason == "cancelled"

    asyncio.run(scenario())
