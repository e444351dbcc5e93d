"""Holdings: what a dataset has that decides on later ones, so that no row is fresh twice and none changes its side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ruminate.accumulator.curation.asked import Asked, asked_in, texts_in
from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.known import Settled
from ruminate.accumulator.curation.near import SIGNATURE_BYTES
from ruminate.accumulator.curation.predictor import Predictor
from ruminate.accumulator.curation.rehearsal import Rehearsable
from ruminate.accumulator.making.dataset import Made, load_manifest
from ruminate.accumulator.making.manifest import HOLDOUT, SIGNATURES, TRAIN, AsideOrigin, Manifest, RowOrigin
from ruminate.accumulator.sealing.chain import Sealed, digest_of
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import ArtifactDamaged, Store


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a dataset holds that decides on later ones: its manifest, the signatures of its questions, what is held out."""

    manifest: Manifest
    signatures: bytes
    held_out: tuple[bytes, ...]

    @classmethod
    def of(cls, made: Made) -> Holdings:
        """Those of a dataset that was just made."""
        held_out = tuple(candidate.line for candidate in made.candidates if candidate.held_out)
        return cls(made.manifest, b"".join(made.signatures()), held_out)


def account(holdings: Holdings, sealed: Sealed) -> None:
    """Add to `sealed` what this batch holds, so that no later batch holds it again. Raises ValueError where it is not whole."""
    manifest, known = holdings.manifest, sealed.known
    for row in manifest.rows:
        sealed.events.add(digest_of(row.event_id))
        sealed.interactions.add(row.recorded_id.bytes)
    for omission in manifest.left_out:
        sealed.events.add(bytes.fromhex(omission.event))
        if omission.reason == "continued":
            sealed.interactions.add(omission.recorded_id.bytes)
    sealed.sample = manifest.sample
    known.settle(settled_by(holdings))
    known.settle_beside(_settled_beside(holdings))
    for pair in manifest.pairs:
        known.pairs.add(bytes.fromhex(pair.sha256)[:DIGEST_BYTES])
    for question in manifest.questions:
        known.questions.add(bytes.fromhex(question.sha256)[:DIGEST_BYTES])
    for row in manifest.rows:
        if row.split == "train":
            name, cluster = row.recorded_id.bytes, bytes.fromhex(row.cluster)
            known.buffer.add(Rehearsable(manifest.number, name, cluster, row.score, row.reasoning, row.domain, row.difficulty))
    if manifest.predictor:
        signs = dict(manifest.predictor)
        known.predictor = Predictor(signs.pop("seen"), signs)


def settled_by(holdings: Holdings) -> list[tuple[Settled, str | None]]:
    """The rows of a dataset in the order of the log, those that are held out with their questions. Raises ValueError."""
    rows, signatures = holdings.manifest.rows, holdings.signatures
    lines = iter(holdings.held_out)
    questions = len(rows) + len(holdings.manifest.aside)
    if len(signatures) != SIGNATURE_BYTES * questions or len(holdings.held_out) != sum(row.split == "holdout" for row in rows):
        raise ValueError(f"{holdings.manifest.batch_id}: {SIGNATURES} or {HOLDOUT} has not as many rows as the manifest")
    settled = []
    for number, row in enumerate(rows):
        question = texts_in(next(lines))[0] if row.split == "holdout" else None
        thing = None if row.thing is None else bytes.fromhex(row.thing)
        held_out = row.split == "holdout"
        settled.append((row.offset, (_settled(row, holdings, number, thing=thing, held_out=held_out), question)))
    return [each for _, each in sorted(settled, key=lambda entry: entry[0])]


def _settled_beside(holdings: Holdings) -> list[Settled]:
    rows = len(holdings.manifest.rows)
    return [
        _settled(aside, holdings, rows + number, thing=None, held_out=False) for number, aside in enumerate(holdings.manifest.aside)
    ]


def _settled(row: RowOrigin | AsideOrigin, holdings: Holdings, place: int, *, thing: bytes | None, held_out: bool) -> Settled:
    asked = Asked(
        question=bytes.fromhex(row.question),
        signature=holdings.signatures[place * SIGNATURE_BYTES : (place + 1) * SIGNATURE_BYTES],
        content=bytes.fromhex(row.content),
        thing=thing,
        lane="thinking" if row.reasoning else "direct",
    )
    return Settled(row.recorded_id.bytes, bytes.fromhex(row.conversation), asked, held_out)


async def load_holdings(store: Store, dataset: ArtifactReference) -> Holdings:
    """What a dataset in the store holds. Raises ArtifactMissing, ArtifactDamaged."""
    manifest, held_out = await load_manifest(store, dataset), await store.read_file(dataset, HOLDOUT)
    lines = held_out.splitlines(keepends=True)
    try:
        if manifest.policy_version in _WITHOUT_SIGNATURES:
            trained = (await store.read_file(dataset, TRAIN)).splitlines(keepends=True)
            holdings = await asyncio.to_thread(_of_the_first_release, manifest, [*trained, *lines])
        else:
            holdings = Holdings(manifest, await store.read_file(dataset, SIGNATURES), tuple(lines))
        settled_by(holdings)
    except ValueError as error:
        raise ArtifactDamaged(f"{dataset.uri}: {error}") from None
    return holdings


_WITHOUT_SIGNATURES: Final = frozenset({"batch-1"})


def _of_the_first_release(manifest: Manifest, lines: Sequence[bytes]) -> Holdings:
    """The holdings of a dataset that knew nothing of clusters: of each row one of its own, joined to others by what comes later."""
    asked = [asked_in(line) for line in lines]
    rows = tuple(
        row.model_copy(
            update={
                "cluster": row.recorded_id.hex,
                "question": each.question.hex(),
                "content": each.content.hex(),
                "thing": None if each.thing is None else each.thing.hex(),
            }
        )
        for row, each in zip(manifest.rows, asked, strict=True)
    )
    held_out = tuple(line for row, line in zip(rows, lines, strict=True) if row.split == "holdout")
    return Holdings(manifest.model_copy(update={"rows": rows}), b"".join(each.signature for each in asked), held_out)
