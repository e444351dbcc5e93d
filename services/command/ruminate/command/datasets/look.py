"""`list`, `show` and `verify`: what the chains hold, and whether it is what was sealed. The store alone, and the sealed cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import REPORT, Manifest
from ruminate.accumulator.making.report import Report
from ruminate.accumulator.rebuilding.rebuild import Artifact, SealedChain, artifact_of, read_chains
from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.datasets.erased import interactions_by_request
from ruminate.command.datasets.files import files_of, has_report
from ruminate.command.datasets.soundness import ChainSoundness, Dataset, announced_counts
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.bus import Bus
from ruminate.shared.store import ArtifactDamaged, Store, StoreError

_SHOWN_CHAINS: Final = 10
DIGITS: Final = 8
"""So many digits of a SHA-256 are asked for at least."""


class NotFound(Exception):
    """What was named fits nothing; the message says what there is."""


@dataclass(frozen=True)
class Listed:
    """One batch as `list` shows it."""

    batch: TrainingBatchSealed
    artifact: Artifact
    revised: DatasetRevised | None = None
    """The last of what erasures have made of its dataset."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return self.batch.model_dump(mode="json") | {
            "artifact": self.artifact,
            "revision": self.revised.revision if self.revised else 0,
            "erased_interactions": self.revised.erased_interactions if self.revised else 0,
            "erasure_ids": list(self.revised.erasure_ids) if self.revised else [],
        }


async def chains_of(bus: Bus, *, tenant: str | None = None, target: str | None = None) -> list[SealedChain]:
    """Every chain, or those of a tenant and a target. Raises NotFound where there are chains, and none of them."""
    every = await read_chains(bus)
    chosen = [chain for chain in every if tenant in (None, chain.tenant) and target in (None, chain.target)]
    if every and not chosen:
        raise not_found("no batch is sealed", tenant, target, ((chain.tenant, chain.target) for chain in every))
    return chosen


def not_found(what: str, tenant: str | None, target: str | None, there: Iterable[tuple[str, str]]) -> NotFound:
    """Says that nothing is there of a tenant and a target, and of which there is something."""
    asked = " ".join((*([f"for {target}"] if target is not None else ()), *([f"of {tenant}"] if tenant is not None else ())))
    found = sorted({f"{target} of {tenant}" for tenant, target in there})
    more = ", …" if len(found) > _SHOWN_CHAINS else ""
    return NotFound(f"{what} {asked}; there is something for {', '.join(found[:_SHOWN_CHAINS]) or 'nobody'}{more}")


async def listed(store: Store, chain: SealedChain) -> AsyncIterator[Listed]:
    """The batches of a chain, each read whole to see whether it is."""
    for batch in chain.batches:
        yield Listed(batch, await artifact_of(store, batch.dataset), last_revision(chain, batch))


def last_revision(chain: SealedChain, batch: TrainingBatchSealed) -> DatasetRevised | None:
    """What the last erasure has made of a batch's dataset; None where none has touched it."""
    revisions = chain.revisions.get(batch.number, ())
    return revisions[-1] if revisions else None


def find(chains: list[SealedChain], batch_id: str) -> TrainingBatchSealed:
    """The batch of this id. Raises NotFound."""
    for chain in chains:
        for batch in chain.batches:
            if batch.batch_id == batch_id:
                return batch
    last = ", ".join(chain.batches[-1].batch_id for chain in chains) or "none yet"
    raise NotFound(f"no batch is named {batch_id!r}; the last of each chain: {last}. All of them:  ruminate datasets list")


def pick(chains: list[SealedChain], text: str) -> tuple[SealedChain, TrainingBatchSealed]:
    """The batch that `text` means: a number, an id, the dataset's address, or the beginning of its SHA-256. Raises NotFound."""
    found = [(chain, batch) for chain in chains for batch in chain.batches if _means(text, chain, batch)]
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(f"{batch.batch_id} of {chain.tenant}" for chain, batch in found[:_SHOWN_CHAINS])
        raise NotFound(f"{text!r} is {len(found)} batches: {several}. Name the chain (--target, --tenant), or the batch by its id")
    last = ", ".join(f"{chain.batches[-1].number} ({chain.batches[-1].batch_id})" for chain in chains) or "none yet"
    raise NotFound(
        f"no batch is {text!r}; a batch is named by its number, its id, or its dataset's address or SHA-256 (at least "
        f"{DIGITS} digits). The last of each chain: {last}. All of them:  ruminate datasets list"
    )


def _means(text: str, chain: SealedChain, batch: TrainingBatchSealed) -> bool:
    if text.isdecimal() and len(text) < DIGITS:
        return int(text) == batch.number
    # What a version says that it was trained on may have been revised since.
    datasets = (batch.dataset, *(revised.replaces for revised in chain.revisions.get(batch.number, ())))
    return text == batch.batch_id or any(
        text == dataset.uri or (len(text) >= DIGITS and dataset.sha256.startswith(text.lower())) for dataset in datasets
    )


def described(batch: TrainingBatchSealed, manifest: Manifest, report: Report | None) -> dict[str, Any]:
    """Everything about a batch but its single rows, pairs and questions, which are counted."""
    said = manifest.model_dump(mode="json", exclude={"rows", "rehearsed", "pairs", "questions", "aside", "left_out", "erased"})
    details = Counter((left.reason, left.detail) for left in manifest.left_out if left.detail is not None)
    return said | {
        "rejected_interactions": manifest.rejected_interactions,
        "left_out_details": _nested(details),
        "rehearsed": _nested(Counter((each.origin, each.named) for each in manifest.rehearsed)),
        "pairs": _counted(pair.kind for pair in manifest.pairs),
        "questions": _nested(Counter((asked.split, asked.kind) for asked in manifest.questions)),
        "aside": len(manifest.aside),
        "erased": interactions_by_request(manifest),
        "erased_lines": _counted(erased.was for erased in manifest.erased),
        "indicators": _counted(name for row in manifest.rows for name in row.indicators),
        "conversations": len({row.conversation for row in manifest.rows}),
        "report": None if report is None else [check.model_dump(mode="json") for check in report.checks],
        "sealed_at": batch.sealed_at.isoformat(),
        "reason": batch.reason,
        "explanation": batch.explanation,
        "dataset": batch.dataset.model_dump(mode="json"),
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _nested(counts: Counter[tuple[Any, Any]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (outer, inner), count in sorted(counts.items()):
        found.setdefault(outer, {})[inner] = count
    return found


async def load_report(store: Store, dataset: ArtifactReference, manifest: Manifest) -> Report | None:
    """The report on a dataset; None where it has none. Raises ArtifactMissing, ArtifactDamaged."""
    if not has_report(manifest):
        return None
    try:
        return Report.model_validate_json(await store.read_file(dataset, REPORT))
    except ValueError as error:
        raise ArtifactDamaged(f"{dataset.uri} holds no {REPORT} that can be read ({type(error).__name__})") from None


async def read_dataset(store: Store, dataset: ArtifactReference) -> Dataset:
    """A dataset with all its lines. Raises ArtifactMissing, ArtifactDamaged."""
    manifest = await load_manifest(store, dataset)
    contents = {file.name: await store.read_file(dataset, file.path) for file in files_of(manifest)}
    report = await store.read_file(dataset, REPORT) if has_report(manifest) else None
    return Dataset(manifest, contents, report)


async def verify(store: Store, chain: SealedChain) -> AsyncIterator[tuple[TrainingBatchSealed, list[str]]]:
    """Every batch of a chain with what is wrong with it: its bytes, its account of them, and its place in the chain."""
    fresh: dict[bytes, str] = {}
    soundness = ChainSoundness()
    for batch in chain.batches:
        try:
            dataset = await read_dataset(store, batch.dataset)
            problems = [
                *_not_as_sealed(batch, last_revision(chain, batch), dataset.manifest),
                *(problem.says for problem in soundness.take(dataset)),
                *_across(batch, dataset.manifest, fresh),
            ]
        except StoreError as error:
            problems = [str(error)]
        yield batch, problems


def _not_as_sealed(batch: TrainingBatchSealed, revised: DatasetRevised | None, manifest: Manifest) -> Iterator[str]:
    if manifest.revision != (revised.revision if revised else 0):
        yield f"it is revision {manifest.revision} in the manifest and {revised.revision if revised else 0} in the log"
    if revised is not None and revised.erased_interactions != len({erased.salted_sha256 for erased in manifest.erased}):
        yield f"{revised.erased_interactions} interactions have left it by the log, and another number by the manifest"
    said = {
        "batch_id": batch.batch_id,
        "number": batch.number,
        "previous": batch.previous_batch_id,
        "tenant": batch.tenant,
        "target_model": batch.target_model,
        "partition": batch.assessed_partition,
        "after_offset": batch.after_offset,
        "to_offset": batch.to_offset,
    }
    for name, value in said.items():
        if getattr(manifest, name) != value:
            yield f"{name} is {getattr(manifest, name)} in the manifest and {value} in the sealed record"
    for name, sealed, found in announced_counts(batch, manifest):
        if found != sealed:
            yield f"{name} are {found} in the manifest and {sealed} in the sealed record"


def _across(batch: TrainingBatchSealed, manifest: Manifest, fresh: dict[bytes, str]) -> Iterator[str]:
    for row in manifest.rows:
        first = fresh.setdefault(row.recorded_id.bytes, batch.batch_id)
        if first != batch.batch_id:
            yield f"the interaction of offset {row.offset} is fresh in {first}, too"
    repeated = len(manifest.rows) - len({digest_of(row.event_id) for row in manifest.rows})
    if repeated:
        yield f"{repeated} rows repeat an event"
