"""Ask the log and the store, and let `decide` judge: `report = await audit(settings)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ruminate.accumulator.dataset import load_manifest
from ruminate.command.audit.datasets import HOLDOUT, TRAIN, Dataset
from ruminate.command.audit.decide import Audit
from ruminate.command.audit.facts import Told
from ruminate.command.audit.findings import FaultKind, Report
from ruminate.command.audit.kafka_log import KafkaLog
from ruminate.command.audit.snapshot import READING_ORDER, CouldNotJudge, Log
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store, StoreError, open_store

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
    return auditing.report()


async def _ask_store(auditing: Audit, store: Store, store_uri: str, progress: Progress) -> None:
    if auditing.artifacts and _is_away(store_uri):
        raise CouldNotJudge(f"the store {store_uri} is not there (RUMINATE_STORE_URI, --store); mount it, then run the audit again")
    seen: dict[ArtifactReference, Outcome] = {}
    for done, artifact in enumerate(auditing.artifacts, start=1):
        reference = artifact.reference
        if reference not in seen:
            seen[reference] = await _look(store_uri, store.check(reference))
        auditing.take_artifact(artifact, *seen[reference])
        progress(STORE, done, len(auditing.artifacts))
    for batch, artifact in auditing.datasets:
        if seen[artifact.reference] == WHOLE:
            outcome = await _look(store_uri, _take_dataset(auditing, batch, store))
            if outcome != WHOLE:
                auditing.take_artifact(artifact, *outcome)


async def _take_dataset(auditing: Audit, batch: Told[TrainingBatchSealed], store: Store) -> None:
    reference = batch.payload.dataset
    manifest = await load_manifest(store, reference)
    train, holdout = await store.read_file(reference, TRAIN), await store.read_file(reference, HOLDOUT)
    auditing.take_dataset(batch, Dataset(manifest, train, holdout))


async def _look(store_uri: str, looking: Awaitable[None]) -> Outcome:
    """What the store says. Raises CouldNotJudge where it says nothing."""
    try:
        await looking
    except ArtifactMissing as error:
        return "artifact_missing", str(error)
    except ArtifactDamaged as error:
        return "artifact_damaged", str(error)
    except (StoreError, OSError) as error:
        raise CouldNotJudge(f"the store {store_uri} could not be read: {error}") from error
    return WHOLE


def _is_away(store_uri: str) -> bool:
    parts = urlsplit(store_uri)
    return parts.scheme == "file" and not Path(unquote(parts.netloc + parts.path)).is_dir()
