"""A cut through a log that moves never makes anything look lost, whatever happens between its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruminate.command.audit.snapshot import LETTERS, READING_ORDER, RETRIES, ROUNDS, Offsets, Snapshot, cut
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    DEAD_LETTER_SETTLED,
    ERASURE_REQUESTED,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_DIRECTED,
    TRAINING_FAILED,
)
from tests.unit.audit_history import CLUSTER, History

WORK = ("complete", "garbage", "collect", "assess", "seal", "train", "deploy", "drop", "replay")


@dataclass
class BusyHistory(History):
    """Something happens between any two steps of a cut."""

    work: Iterator[str] = field(default_factory=lambda: iter(()))

    def happen(self) -> None:
        match next(self.work, ""):
            case "complete":
                self.complete(f"i-{len(self.records(INTERACTION_COMPLETED.name))}")
            case "garbage" if self.records(INTERACTION_COMPLETED.name):
                self.again(INTERACTION_COMPLETED, value=b"garbage")
            case ("drop" | "replay") as what:
                letters = self.records(LETTERS[0])
                settled = {each.key for each in letters if each.value is None}
                index = next((at for at, each in enumerate(letters) if each.key not in settled), None)
                if index is not None:
                    self.settle(INTERACTION_COMPLETED, "collector", "dropped" if what == "drop" else "replayed", index=index)
            case ("collect" | "assess" | "seal" | "train" | "deploy") as what:
                getattr(self, what)()

    async def asked_committed(self) -> dict[tuple[str, str], dict[int, int]]:
        await asyncio.to_thread(self.happen)
        return {place: dict(offsets) for place, offsets in self.committed.items()}

    async def asked_ends(self, topics: Sequence[str]) -> Offsets:
        found: Offsets = {}
        for topic in topics:
            await asyncio.to_thread(self.happen)
            found[topic] = {number: self.ends[topic, number] for number in range(12)}
        return found

    async def snapshot(self) -> Snapshot:
        committed, ends = await cut(_Asked(self))
        begins = {topic: dict.fromkeys(numbers, 0) for topic, numbers in ends.items()}
        return Snapshot(cluster=CLUSTER, taken_at_ms=self.now_ms, begins=begins, ends=ends, committed=committed, whole_since_ms={})


@dataclass
class _Asked:
    history: BusyHistory

    async def committed(self) -> dict[tuple[str, str], dict[int, int]]:
        return await self.history.asked_committed()

    async def ends(self, topics: Sequence[str]) -> Offsets:
        return await self.history.asked_ends(topics)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(WORK), min_size=5, max_size=30), st.integers(0, 20))
def test_whatever_happens_between_the_steps_of_a_cut_there_is_no_fault(work: list[str], before: int) -> None:
    with TemporaryDirectory() as folder:
        history = BusyHistory(Path(folder), work=iter([*work, *WORK]))
        for _ in range(before):
            history.happen()
        assert history.audit().faults == ()


def test_a_cause_is_cut_after_its_effect_and_what_explains_before_what_is_explained() -> None:
    order = [topic for topics in ROUNDS for topic in topics]
    for effect, cause in (
        (INTERACTION_RECORDED, INTERACTION_COMPLETED),
        (REASONING_ASSESSED, INTERACTION_RECORDED),
        (TRAINING_BATCH_SEALED, REASONING_ASSESSED),
        (ADAPTER_TRAINED, TRAINING_BATCH_SEALED),
        (ADAPTER_TRAINED, DATASET_REVISED),
        (DATASET_REVISED, TRAINING_BATCH_SEALED),
        (DATASET_REVISED, ERASURE_REQUESTED),
        (TRAINING_FAILED, TRAINING_BATCH_SEALED),
        (TRAINING_FAILED, TRAINING_DIRECTED),
        (ADAPTER_TRAINED, TRAINING_DIRECTED),
        (MODEL_REGISTERED, ADAPTER_TRAINED),
        (MODEL_ROLLED_BACK, ADAPTER_TRAINED),
    ):
        assert order.index(effect.name) < order.index(cause.name)
    for letters, retries in zip(LETTERS, RETRIES, strict=True):
        assert order.index(letters) < order.index(DEAD_LETTER_SETTLED.name) < order.index(retries)
    assert set(order) == set(READING_ORDER)


def test_what_is_committed_is_asked_before_any_end() -> None:
    asked: list[str] = []

    class Log:
        async def committed(self) -> dict[tuple[str, str], dict[int, int]]:
            asked.append("committed")
            return {}

        async def ends(self, topics: Sequence[str]) -> Offsets:
            asked.append(topics[0])
            return {}

    asyncio.run(cut(Log()))
    assert asked[0] == "committed"
    assert len(asked) == 1 + len(ROUNDS)
