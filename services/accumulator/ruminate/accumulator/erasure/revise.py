"""Revise: what is left of a dataset when some of what it was made of has to be forgotten. Pure.

Lines go, the others stay as they are and in their order, so what is left is what a rebuild makes of the records that the log still
holds. Of what went the manifest keeps where it stood, for which request it went, and a hash that is salted with both: enough to
show somebody who asks that theirs is gone, and nothing to find it by.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

from ruminate.accumulator.curation.near import SIGNATURE_BYTES
from ruminate.accumulator.making.describe import replay_generated
from ruminate.accumulator.making.manifest import (
    HOLDOUT,
    MANIFEST,
    OTHER,
    PREFERENCES,
    REPLAY,
    SIGNATURES,
    TRAIN,
    VERIFIABLE,
    VERIFIABLE_HOLDOUT,
    AsideOrigin,
    Erased,
    Manifest,
    Rehearsed,
    RowOrigin,
    Was,
    as_bytes,
)
from ruminate.accumulator.records.names import Forgotten

LINES: Final = (TRAIN, REPLAY, HOLDOUT, PREFERENCES, VERIFIABLE, VERIFIABLE_HOLDOUT)
"""The files that hold lines, each a text."""

Gone = Mapping[UUID, str]
"""Interactions that have to be forgotten, and for which request."""


class Named(Protocol):
    """What a manifest says of an interaction whose text is in a dataset."""

    @property
    def recorded_id(self) -> UUID | None:
        """None for an anchor, which is nobody's."""

    @property
    def names(self) -> tuple[str, ...]:
        """As digests."""

    @property
    def occurred_at(self) -> datetime | None:
        """None where the first releases have not written it."""


def gone_from(interactions: Iterable[Named], forgotten: Forgotten) -> dict[UUID, str]:
    """Those of the interactions in a dataset that must not be in it, and for which request."""
    gone = {}
    for each in interactions:
        if each.recorded_id is not None and each.occurred_at is not None:
            request = forgotten.erased(each.names, each.occurred_at)
            if request is not None:
                gone[each.recorded_id] = request
    return gone


def revise(manifest: Manifest, files: Mapping[str, bytes], gone: Gone) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of the next revision. `files` has those of `LINES` and the signatures. Raises ValueError."""
    rows = [row for row in manifest.rows if row.recorded_id not in gone]
    aside = [each for each in manifest.aside if each.recorded_id not in gone]
    rehearsed = [each for each in manifest.rehearsed if each.recorded_id not in gone]
    offsets = {each.offset for was, each in _every(manifest) if was != "replay" and each.recorded_id in gone}
    pairs = [pair for pair in manifest.pairs if offsets.isdisjoint({pair.rejected, pair.chosen})]
    questions = [asked for asked in manifest.questions if asked.offset not in offsets]
    revised = manifest.model_copy(
        update={
            "revision": manifest.revision + 1,
            "counts": {name: count for name, count in manifest.counts.items() if name != "replay_generated"}
            | _counts(rows, rehearsed, len(pairs), sum(asked.split == "train" for asked in questions)),
            "strata": _strata(manifest, rows),
            "rows": tuple(rows),
            "rehearsed": tuple(rehearsed),
            "pairs": tuple(pairs),
            "questions": tuple(questions),
            "aside": tuple(aside),
            "erased": (*manifest.erased, *_erased(manifest, gone)),
        }
    )
    kept = {
        TRAIN: _kept(files, TRAIN, [row.recorded_id not in gone for row in manifest.rows if row.split == "train"]),
        REPLAY: _kept(files, REPLAY, [each.recorded_id not in gone for each in manifest.rehearsed]),
        HOLDOUT: _kept(files, HOLDOUT, [row.recorded_id not in gone for row in manifest.rows if row.split == "holdout"]),
        PREFERENCES: _kept(files, PREFERENCES, [pair in pairs for pair in manifest.pairs]),
    }
    for name, split in ((VERIFIABLE, "train"), (VERIFIABLE_HOLDOUT, "holdout")):
        kept[name] = _kept(files, name, [asked.offset not in offsets for asked in manifest.questions if asked.split == split])
    signatures = files[SIGNATURES]
    places = [each.recorded_id not in gone for was, each in _every(manifest) if was != "replay"]
    if len(signatures) != SIGNATURE_BYTES * len(places):
        raise ValueError(f"{manifest.batch_id}: {SIGNATURES} has not as many as the manifest")
    kept[SIGNATURES] = b"".join(
        signatures[place * SIGNATURE_BYTES : (place + 1) * SIGNATURE_BYTES] for place, stays in enumerate(places) if stays
    )
    return revised, {**kept, MANIFEST: as_bytes(revised)}


def salted(recorded_id: UUID, *, batch_id: str, erasure_id: str) -> str:
    """What a manifest keeps of an interaction that is forgotten."""
    return hashlib.sha256(f"{erasure_id}/{batch_id}/{recorded_id}".encode()).hexdigest()


def _kept(files: Mapping[str, bytes], name: str, stays: list[bool]) -> bytes:
    lines = files.get(name, b"").splitlines(keepends=True)
    if len(lines) != len(stays):
        raise ValueError(f"{name} has {len(lines)} lines, and the manifest names {len(stays)}")
    return b"".join(line for line, each in zip(lines, stays, strict=True) if each)


def _counts(rows: list[RowOrigin], rehearsed: list[Rehearsed], pairs: int, questions: int) -> dict[str, int]:
    train = [row for row in rows if row.split == "train"]
    reasoning = sum(row.reasoning for row in train)
    origins = Counter(each.origin for each in rehearsed)
    return {
        "train": len(train),
        "reasoning": reasoning,
        "direct": len(train) - reasoning,
        "generated": sum(row.generated_thinking for row in train),
        "holdout": len(rows) - len(train),
        "replay": origins["replay"],
        "anchors": origins["anchor"],
        **replay_generated(rehearsed),
        "preferences": pairs,
        "verifiable": questions,
        "thinking_missing": sum(row.thinking_called_for and not row.reasoning for row in rows),
    }


def _strata(manifest: Manifest, rows: list[RowOrigin]) -> dict[str, dict[str, int]]:
    """Those of whose domain a row is left, for a domain is a word of somebody's own; and what became of those rows."""
    domains = {row.domain for row in rows} | {OTHER}
    here: Counter[tuple[str, str]] = Counter(
        (f"{row.domain}/{row.difficulty}/{'thinking' if row.reasoning else 'direct'}", row.split) for row in rows
    )
    left = {}
    for name, fates in manifest.strata.items():
        if name.rsplit("/", 2)[0] in domains:
            now = {fate: here[name, fate] if fate in ("train", "holdout") else count for fate, count in fates.items()}
            left[name] = {fate: count for fate, count in now.items() if count}
    return left


def named_in(manifest: Manifest) -> Iterator[Named]:
    """Every interaction of which a dataset holds a text."""
    return (each for _, each in _every(manifest))


def _every(manifest: Manifest) -> Iterator[tuple[Was, RowOrigin | AsideOrigin | Rehearsed]]:
    """What each text in a dataset is of: of those with a signature in their order, then of what is rehearsed."""
    for row in manifest.rows:
        yield row.split, row
    for aside in manifest.aside:
        yield "aside", aside
    for rehearsed in manifest.rehearsed:
        yield "replay", rehearsed


def _erased(manifest: Manifest, gone: Gone) -> Iterable[Erased]:
    for was, each in _every(manifest):
        if each.recorded_id in gone and each.recorded_id is not None:
            erasure_id = gone[each.recorded_id]
            yield Erased(
                was=was,
                offset=None if was == "replay" else each.offset,
                salted_sha256=salted(each.recorded_id, batch_id=manifest.batch_id, erasure_id=erasure_id),
                erasure_id=erasure_id,
            )
