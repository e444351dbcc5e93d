"""Datasets: a folder in the store whose manifest accounts for every record of its interval.

    train.jsonl               the rows to train on, in the order in which they are trained
    replay.jsonl              rows of earlier batches, and anchors, to be trained with them
    holdout.jsonl             the rows that are never trained, for measuring
    preferences.jsonl         answers of which people prefer one (`beside.py`)
    verifiable.jsonl          questions whose answers can be checked, for practice
    verifiable-holdout.jsonl  the same of the rows that are held out, for measuring
    signatures.bin            the MinHash signature of each question, as the manifest lists them: what later batches compare with
    report.json               what was validated before it was sealed, and what was found
    manifest.json             where each line comes from, what was left out and why, and every value that shaped the result

No clock and no random id takes part: the same records, settings and chain give the same bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ruminate.accumulator.making.beside import Pair, Question
from ruminate.accumulator.making.candidate import Candidate, asked_of
from ruminate.accumulator.making.describe import Revived
from ruminate.accumulator.making.manifest import (
    HOLDOUT,
    KIND,
    MANIFEST,
    PREFERENCES,
    REPLAY,
    REPORT,
    SIGNATURES,
    TRAIN,
    VERIFIABLE,
    VERIFIABLE_HOLDOUT,
    Manifest,
    as_bytes,
    name_of,
)
from ruminate.accumulator.making.report import Report
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.scratch import scratch, sweep_scratch
from ruminate.shared.store import ArtifactDamaged, Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Made:
    """A dataset before it is written."""

    manifest: Manifest
    candidates: Sequence[Candidate]
    revived: Sequence[Revived]
    pairs: Sequence[Pair]
    questions: Sequence[Question]
    aside: Sequence[Candidate]
    report: Report | None
    """None for what an erasure has left of a dataset: that is what it was, less some."""

    def signatures(self) -> list[bytes]:
        """Those of the rows, in the order of their lines, then those of what stands aside."""
        return [asked_of(candidate).signature for candidate in (*self.candidates, *self.aside)]

    def files(self) -> dict[str, Iterable[bytes]]:
        """The contents of every file."""
        return {
            TRAIN: (candidate.line for candidate in self.candidates if not candidate.held_out),
            REPLAY: (each.line for each in self.revived),
            HOLDOUT: (candidate.line for candidate in self.candidates if candidate.held_out),
            PREFERENCES: (pair.line for pair in self.pairs),
            VERIFIABLE: (question.line for question in self.questions if not question.held_out),
            VERIFIABLE_HOLDOUT: (question.line for question in self.questions if question.held_out),
            SIGNATURES: self.signatures(),
            **({} if self.report is None else {REPORT: (as_bytes(self.report),)}),
            MANIFEST: (as_bytes(self.manifest),),
        }

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it must not be written."""
        return () if self.report is None else self.report.problems


def as_earlier_releases(made: Made) -> Made:
    """Without a word about the thinking of rehearsed rows."""
    silent = [replace(each, origin=each.origin.model_copy(update={"generated_thinking": False})) for each in made.revived]
    counts = {name: count for name, count in made.manifest.counts.items() if name != "replay_generated"}
    told = {"rehearsed": tuple(each.origin for each in silent), "counts": counts}
    return replace(made, manifest=made.manifest.model_copy(update=told), revived=silent)


async def keep_dataset(store: Store, made: Made) -> ArtifactReference:
    """Write the dataset into the store, its tree's manifest last."""

    async def keep(folder: Path) -> ArtifactReference:
        await asyncio.to_thread(write_files, folder, made.files())
        return await store.put_tree(folder, kind=KIND, name=name_of(made.manifest))

    return await in_a_folder(keep)


def write_files(folder: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """Write them into a folder."""
    for name, contents in files.items():
        with (folder / name).open("wb") as file:
            file.writelines(contents)


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
    await asyncio.to_thread(sweep_scratch)
    with scratch("dataset") as folder:
        working = asyncio.create_task(work(folder))
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            await asyncio.gather(working, return_exceptions=True)
            raise
