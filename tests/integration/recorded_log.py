"""Interactions on any bus, judged and sealed into chains by the parts that do it: what a rebuild starts from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

from ruminate.accumulator.accumulate import Accumulator
from ruminate.accumulator.rebuilding.rebuild import Rebuilt, SealedChain, read_chains, rebuild_chain
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.assessor.judging.decide import judge
from ruminate.assessor.policy import Policy
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking
from ruminate.shared.bus import Bus
from ruminate.shared.store import FileStore

START = datetime(2026, 11, 1, tzinfo=UTC)
TARGET = "qwen3:8b"
LENIENT = Policy(keep_overall_at_least=0, keep_evidence_at_least=0)
SETTINGS = AccumulatorSettings(
    seal_at_rows=8, seal_after_min_rows=4, seal_check_seconds=0.01, seal_retry_seconds=0.05, holdout_ratio=0.25
)


def interaction(number: int, *, thinks: bool = True, **changed: Any) -> InteractionRecorded:
    """Interaction `number`, a second after the one before, changed as told."""
    fields: dict[str, Any] = {
        "interaction_id": f"i-{number}",
        "conversation_id": f"c-{number}",
        "agent": "tester",
        "target_model": TARGET,
        "occurred_at": START + timedelta(seconds=number),
        "messages": (Message(role="user", content=f"What is {number} plus 1?"),),
        "response": Response(content=f"The answer is {number + 1}.", thinking=f"{number} + 1 = {number + 1}." if thinks else None),
        "thinking": Thinking(mode_used="thinking" if thinks else "direct"),
        "training_allowed": True,
        "source": "/tester",
        "recorded_id": UUID(int=number),
    } | changed
    return InteractionRecorded(**fields)


async def record(bus: Bus, *interactions: InteractionRecorded) -> None:
    """Write them as the collector does."""
    for each in interactions:
        envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
        await bus.publish(INTERACTION_RECORDED, each, envelope)


async def assess(
    bus: Bus,
    *interactions: InteractionRecorded,
    policy: Policy = LENIENT,
    evidence: Mapping[UUID, Sequence[EvidenceRecorded]] = MappingProxyType({}),
) -> None:
    """Write their assessments as the assessor does: the same interaction has the same event id each time.

    `evidence` by recorded id.
    """
    for each in interactions:
        assessed = judge(each, policy, policy_version=policy.version, evidence=tuple(evidence.get(each.recorded_id, ())))
        event_id = derive_event_id(
            tenant=each.tenant,
            cause_source="/ruminate/collector",
            cause_id=str(each.recorded_id),
            topic=REASONING_ASSESSED.name,
        )
        envelope = bus.begin(REASONING_ASSESSED, assessed, event_id=str(event_id), source="/ruminate/assessor")
        await bus.publish(REASONING_ASSESSED, assessed, envelope)


async def until(condition: Callable[[], bool], what: str, *, seconds: float = 60.0) -> None:
    """Return when the condition holds; fail with `what` after the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def accumulating(bus: Bus, store: FileStore, settings: AccumulatorSettings = SETTINGS) -> AsyncIterator[Accumulator]:
    """An accumulator at work, ended with the context."""
    accumulator = Accumulator(bus, store, settings, clock=lambda: datetime.now(UTC))
    task = asyncio.create_task(accumulator.serve())
    try:
        yield accumulator
    finally:
        if task.done():
            task.result()
        await bus.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def seal(bus: Bus, store: FileStore, batches: int, settings: AccumulatorSettings = SETTINGS, target: str = TARGET) -> None:
    """Let an accumulator work until the target has so many batches."""

    def sealed(accumulator: Accumulator) -> bool:
        return any(chain.target == target and chain.link.number >= batches for chain in accumulator._chains.values())

    async with accumulating(bus, store, settings) as accumulator:
        await until(lambda: sealed(accumulator), f"{batches} batches of {target}")


async def chain_of(bus: Bus, target: str = TARGET) -> SealedChain:
    """The chain of a target."""
    (chain,) = await read_chains(bus, target=target)
    return chain


async def rebuild(
    bus: Bus,
    store: FileStore,
    *,
    settings: AccumulatorSettings = SETTINGS,
    numbers: Collection[int] | None = None,
    without_manifests: bool = False,
    target: str = TARGET,
) -> list[Rebuilt]:
    """What becomes of the batches of a target."""
    chain = await chain_of(bus, target)
    rebuilding = rebuild_chain(bus, store, chain, settings=settings, numbers=numbers, without_manifests=without_manifests)
    return [rebuilt async for rebuilt in rebuilding]


def outcomes(rebuilt: Sequence[Rebuilt]) -> list[str]:
    """How each batch ended, in a word."""
    return [each.outcome for each in rebuilt]


@dataclass(frozen=True)
class Pieces:
    """The files of a store, to be lost and damaged."""

    root: Path

    def tree(self, batch: TrainingBatchSealed) -> Path:
        """Where the dataset's own manifest lies."""
        return Path(batch.dataset.uri.removeprefix("file://").replace("%3A", ":"))

    def blob(self, sha256: str) -> Path:
        """Where a file lies."""
        return self.root / "blobs" / sha256[:2] / sha256

    def blob_of(self, batch: TrainingBatchSealed, path: str) -> Path:
        """Where one file of a dataset lies."""
        import orjson

        files = {file["path"]: file["sha256"] for file in orjson.loads(self.tree(batch).read_bytes())["files"]}
        return self.blob(files[path])
