"""Datasets: a folder in the store whose manifest accounts for every record of its interval.

    train.jsonl     the rows to train on, in the order in which they are trained
    holdout.jsonl   the rows that are never trained, for measuring
    manifest.json   where each row comes from, what was left out and why, and every value that shaped the result

No clock and no random id takes part: the same records, settings and chain give the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import ValidationError

from ruminate.accumulator.chain import Link, Sealed, digest_of
from ruminate.accumulator.decide import Candidate, Selection
from ruminate.accumulator.rows import REPEATS, LeftOut, thinking_called_for
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.payload import ArtifactReference, Count, FiniteJson, Name, Part, Sha256
from ruminate.shared.store import ArtifactDamaged, Store

POLICY_VERSION: Final = "batch-1"
"""Changes whenever the same records and settings would give other bytes than before."""

KIND: Final = "datasets"
MANIFEST: Final = "manifest.json"

Origin = Literal["fresh"]

T = TypeVar("T")


class RowOrigin(Part):
    """Where one line comes from. The rows stand in the order of the lines: all of train.jsonl, then all of holdout.jsonl."""

    split: Literal["train", "holdout"]
    origin: Origin = "fresh"
    partition: Count
    offset: Count
    event_id: Name
    recorded_id: UUID
    revision: Count
    conversation: Name
    sha256: Sha256
    reasoning: bool
    indicators: tuple[Name, ...]
    thinking_called_for: bool


class Omission(Part):
    """A record of the interval that has no row."""

    offset: Count
    event: Name
    recorded_id: UUID
    reason: LeftOut


class Manifest(Part):
    """What a dataset is made of. `event` and `conversation` are 16-byte BLAKE2b digests, so that they give nothing away."""

    batch_id: Name
    number: Count
    previous: Name | None
    tenant: Name
    target_model: Name
    partition: Count
    after_offset: int
    to_offset: Count
    policy_version: Name
    policy: dict[str, FiniteJson]
    seed: Name
    scorer_versions: tuple[Name, ...]
    assessor_policy_versions: tuple[Name, ...]
    counts: dict[str, Count]
    left_out_counts: dict[str, Count]
    rows: tuple[RowOrigin, ...]
    left_out: tuple[Omission, ...]

    @property
    def rejected_interactions(self) -> int:
        """Interactions of the interval without a row; a record that repeats another speaks of none of its own."""
        return sum(count for reason, count in self.left_out_counts.items() if reason not in REPEATS)


def describe(
    candidates: Sequence[Candidate],
    selection: Selection,
    *,
    batch_id: str,
    seed: str,
    tenant: str,
    target: str,
    partition: int,
    link: Link,
    to_offset: int,
    settings: AccumulatorSettings,
) -> Manifest:
    """The manifest of these rows, which follow `link` in the chain."""
    rows = tuple(_origin_of(candidate, partition, settings) for candidate in candidates)
    train = [row for row in rows if row.split == "train"]
    reasoning = sum(row.reasoning for row in train)
    return Manifest(
        batch_id=batch_id,
        number=link.number + 1,
        previous=link.batch_id,
        tenant=tenant,
        target_model=target,
        partition=partition,
        after_offset=link.to_offset,
        to_offset=to_offset,
        policy_version=POLICY_VERSION,
        policy={
            "min_reasoning_ratio": settings.min_reasoning_ratio,
            "holdout_ratio": settings.holdout_ratio,
            "row_max_bytes": settings.row_max_bytes,
            "shuffle_seed": settings.shuffle_seed,
            "indicator_weights": dict(sorted(settings.indicator_weights.items())),
            "thinking_called_for_at": settings.thinking_called_for_at,
        },
        seed=seed,
        scorer_versions=tuple(sorted({candidate.scorer_version for candidate in candidates})),
        assessor_policy_versions=tuple(sorted({candidate.assessor_policy_version for candidate in candidates})),
        counts={
            "train": len(train),
            "reasoning": reasoning,
            "direct": len(train) - reasoning,
            "holdout": len(rows) - len(train),
            "thinking_missing": sum(row.thinking_called_for and not row.reasoning for row in rows),
        },
        left_out_counts=dict(sorted(Counter(reason for _, reason in selection.left_out).items())),
        rows=rows,
        left_out=tuple(
            Omission(offset=item.offset, event=item.event.hex(), recorded_id=UUID(bytes=item.recorded), reason=reason)
            for item, reason in selection.left_out
        ),
    )


def _origin_of(candidate: Candidate, partition: int, settings: AccumulatorSettings) -> RowOrigin:
    item = candidate.item
    return RowOrigin(
        split="holdout" if candidate.held_out else "train",
        partition=partition,
        offset=item.offset,
        event_id=candidate.event_id,
        recorded_id=UUID(bytes=item.recorded),
        revision=item.revision,
        conversation=item.conversation.hex(),
        sha256=hashlib.sha256(candidate.line).hexdigest(),
        reasoning=item.reasoning,
        indicators=candidate.indicators,
        thinking_called_for=thinking_called_for(
            candidate.indicators, weights=settings.indicator_weights, at=settings.thinking_called_for_at
        ),
    )


def account(manifest: Manifest, sealed: Sealed) -> None:
    """Add to `sealed` what this batch holds, so that no later batch holds it again."""
    for row in manifest.rows:
        sealed.events.add(digest_of(row.event_id))
        sealed.interactions.add(row.recorded_id.bytes)
        sealed.held_out.settle(bytes.fromhex(row.conversation), held_out=row.split == "holdout")
    for omission in manifest.left_out:
        sealed.events.add(bytes.fromhex(omission.event))
        if omission.reason == "continued":
            sealed.interactions.add(omission.recorded_id.bytes)


async def keep_dataset(store: Store, manifest: Manifest, candidates: Sequence[Candidate]) -> ArtifactReference:
    """Write the dataset into the store, its tree's manifest last."""

    async def keep(folder: Path) -> ArtifactReference:
        await asyncio.to_thread(write_dataset, folder, manifest, candidates)
        return await store.put_tree(folder, kind=KIND, name=name_of(manifest))

    return await in_a_folder(keep)


def name_of(manifest: Manifest) -> str:
    """The dataset's name in the store."""
    return f"{manifest.tenant}/{manifest.target_model}/{manifest.number}"


def write_dataset(folder: Path, manifest: Part, candidates: Sequence[Candidate]) -> None:
    """Write the three files."""
    for name, held_out in (("train.jsonl", False), ("holdout.jsonl", True)):
        with (folder / name).open("wb") as file:
            file.writelines(candidate.line for candidate in candidates if candidate.held_out is held_out)
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest.model_dump(mode="json"), option=orjson.OPT_INDENT_2))


async def load_manifest(store: Store, dataset: ArtifactReference) -> Manifest:
    """The manifest of a dataset in the store. Raises ArtifactMissing, ArtifactDamaged."""
    data = await store.read_file(dataset, MANIFEST)
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactDamaged(f"{dataset.uri} holds no {MANIFEST} that can be read ({type(error).__name__})") from None


async def in_a_folder(work: Callable[[Path], Coroutine[Any, Any, T]]) -> T:
    """Let `work` have a folder of its own, and remove it when nothing is written there any more.

    A thread cannot be cancelled: a folder removed under one comes back with the texts in it, or the removal fails and its
    error takes the place of the cancellation. So a cancellation waits for `work`, and only a second one is passed on to it.
    """
    with tempfile.TemporaryDirectory(prefix="ruminate-dataset-", ignore_cleanup_errors=True) as name:
        working = asyncio.create_task(work(Path(name)))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise
