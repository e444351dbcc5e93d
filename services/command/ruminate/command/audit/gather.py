"""Ask the log and the store, and let `decide` judge: `report = await audit(settings)`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from ruminate.accumulator.dataset import load_manifest
from ruminate.command.audit.datasets import HOLDOUT, TRAIN, Dataset
from ruminate.command.audit.decide import Audit
from ruminate.command.audit.findings import FaultKind, Report
from ruminate.command.audit.kafka_log import KafkaLog
from ruminate.command.audit.snapshot import READING_ORDER, CouldNotJudge, Log
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
    for batch, artifact in auditing.datasets:
        if seen[artifact.reference] == WHOLE:
            dataset, outcome = await _look(store_uri, _read_dataset(store, artifact.reference))
            if dataset is None:
                auditing.take_artifact(artifact, *outcome)
            else:
                auditing.take_dataset(batch, dataset)


async def _read_dataset(store: Store, reference: ArtifactReference) -> Dataset:
    manifest = await load_manifest(store, reference)
    return Dataset(manifest, await store.read_file(reference, TRAIN), await store.read_file(reference, HOLDOUT))


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
