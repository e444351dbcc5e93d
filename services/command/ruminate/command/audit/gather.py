"""Ask the log and the store, and let `decide` judge: `report = await audit(settings)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from ruminate.accumulator.erasure.revise import Named, named_in
from ruminate.accumulator.making.manifest import KIND as DATASETS
from ruminate.accumulator.making.manifest import MANIFEST, Manifest
from ruminate.accumulator.rebuilding.replay import KIND as REPLAYS
from ruminate.accumulator.rebuilding.replay import ReplayManifest
from ruminate.command.audit.decide import Audit
from ruminate.command.audit.findings import FaultKind, Report
from ruminate.command.audit.kafka_log import KafkaLog
from ruminate.command.audit.snapshot import READING_ORDER, CouldNotJudge, Log, Snapshot
from ruminate.command.datasets.look import read_dataset
from ruminate.schemas.flow import DATASET_REVISED
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store, StoreError, open_store

T = TypeVar("T")

Progress = Callable[[str, int, int], None]
"""Called with what is looked at, how much of it, and of how much."""

STORE: Final = "store"

Outcome = tuple[FaultKind | None, str]
WHOLE: Final[Outcome] = (None, "")


def quietly(what: str, done: int, of: int) -> None:
    """No progress is shown."""
    del what, done, of


async def audit(settings: ServiceSettings, *, progress: Progress = quietly) -> Report:
    """Judge what is at this broker and in this store. Raises CouldNotJudge."""
    try:
        store = open_store(settings.store_uri)
    except StoreError as error:
        raise CouldNotJudge(str(error)) from error
    async with KafkaLog(settings) as log:
        return await judge(log, store, store_uri=settings.store_uri, progress=progress)


async def judge(log: Log, store: Store, *, store_uri: str, progress: Progress = quietly) -> Report:
    """Take a cut through the log, read all of it, and compare it with itself and with the store. Raises CouldNotJudge."""
    snapshot = await log.snapshot()
    auditing = Audit(snapshot)
    for topic in READING_ORDER:
        done, of = 0, snapshot.offsets([topic])
        async for records in log.read(topic, snapshot):
            auditing.take(topic, records)
            done += len(records)
            progress(topic, done, of)
    auditing.link()
    await _ask_store(auditing, store, store_uri, progress)
    await _look_for_what_was_erased(auditing, store, store_uri)
    await _check_that_nothing_was_revised(auditing, log, snapshot)
    return auditing.report()


async def _ask_store(auditing: Audit, store: Store, store_uri: str, progress: Progress) -> None:
    if auditing.artifacts and _is_away(store_uri):
        raise CouldNotJudge(f"the store {store_uri} is not there (RUMINATE_STORE_URI, --store); mount it, then run the audit again")
    seen: dict[ArtifactReference, Outcome] = {}
    for done, artifact in enumerate(auditing.artifacts, start=1):
        reference = artifact.reference
        if reference not in seen:
            _, seen[reference] = await _look(store_uri, store.check(reference))
        auditing.take_artifact(artifact, *seen[reference])
        progress(STORE, done, len(auditing.artifacts))
    for held in auditing.datasets:
        if seen[held.artifact.reference] == WHOLE:
            dataset, outcome = await _look(store_uri, read_dataset(store, held.artifact.reference))
            if dataset is None:
                auditing.take_artifact(held.artifact, *outcome)
            else:
                auditing.take_dataset(held, dataset)


async def _look_for_what_was_erased(auditing: Audit, store: Store, store_uri: str) -> None:
    """What a chain no longer names, or never did, and still lies there."""
    for revised in auditing.replaced:
        _, (fault, _) = await _look(store_uri, store.read_bytes(revised.payload.replaces))
        auditing.take_replaced(revised, there=fault != "artifact_missing")
    if not auditing.forgets:
        return
    judged = {held.artifact.reference.sha256 for held in auditing.datasets}
    judged |= {revised.payload.replaces.sha256 for revised in auditing.replaced}
    for kind in (DATASETS, REPLAYS):
        trees, (_, says) = await _look(store_uri, store.list_trees(kind=kind))
        if trees is None:
            auditing.take_unread(says)
            continue
        for name, reference in trees:
            # What a replay says of all its datasets lies beside them, and has no manifest.
            if reference.sha256 not in judged and (kind == DATASETS or "/" in name):
                await _look_through(auditing, store, store_uri, kind, reference)


async def _look_through(auditing: Audit, store: Store, store_uri: str, kind: str, reference: ArtifactReference) -> None:
    data, (_, says) = await _look(store_uri, store.read_file(reference, MANIFEST))
    try:
        if data is None:
            auditing.take_unread(says)
        elif kind == DATASETS:
            dataset = Manifest.model_validate_json(data)
            auditing.take_stray(dataset.tenant, dataset.target_model, named_in(dataset), reference.uri)
        else:
            replay = ReplayManifest.model_validate_json(data)
            named: tuple[Named, ...] = (*replay.rows, *replay.aside, *replay.rehearsed)
            auditing.take_stray(replay.tenant, replay.target_model, named, reference.uri)
    except ValueError as error:
        auditing.take_unread(f"{reference.uri} holds no {MANIFEST} that can be read ({type(error).__name__})")


async def _check_that_nothing_was_revised(auditing: Audit, log: Log, snapshot: Snapshot) -> None:
    """What is gone from the store may have gone for a revision that came after the cut. Raises CouldNotJudge."""
    if auditing.misses_something and await log.has_grown(DATASET_REVISED.name, snapshot):
        raise CouldNotJudge("an erasure has revised datasets while they were read; run the audit again")


async def _look(store_uri: str, looking: Awaitable[T]) -> tuple[T | None, Outcome]:
    """What lies in the store, and what is to be said of it. Raises CouldNotJudge where the store says nothing."""
    try:
        return await looking, WHOLE
    except ArtifactMissing as error:
        return None, ("artifact_missing", str(error))
    except ArtifactDamaged as error:
        return None, ("artifact_damaged", str(error))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        return None, ("artifact_missing", f"{error.filename} is no file")
    except (LookupError, TypeError, ValueError) as error:
        # Its bytes have their hash, and are of something else: whoever named it wrote the event by hand.
        return None, ("artifact_damaged", f"what lies there is no folder's manifest ({type(error).__name__})")
    except (StoreError, OSError) as error:
        raise CouldNotJudge(f"the store {store_uri} could not be read: {error}") from error


def _is_away(store_uri: str) -> bool:
    parts = urlsplit(store_uri)
    return parts.scheme == "file" and not Path(unquote(parts.netloc + parts.path)).is_dir()
