"""Datasets against the log: every record of an interval accounted for once, every row the one that stands there. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from ruminate.accumulator.chain import digest_of
from ruminate.accumulator.dataset import Manifest, RowOrigin
from ruminate.accumulator.rows import LeftOut
from ruminate.command.audit import facts
from ruminate.command.audit.facts import Told
from ruminate.command.audit.findings import FaultKind, Findings
from ruminate.command.audit.interactions import ABSENT, Interactions, packed
from ruminate.schemas.batch import TrainingBatchSealed

TRAIN: Final = "train.jsonl"
HOLDOUT: Final = "holdout.jsonl"

_WITHOUT_ROW: Final[frozenset[LeftOut]] = frozenset({"rejected", "not_allowed", "images", "no_question", "empty_answer"})
"""Left out for what the record itself says, so that the log gives no row for it, either."""
_SPOKEN_FOR: Final[frozenset[LeftOut]] = frozenset({"duplicate", "superseded", "sealed_before"})
"""Left out because another record of the interaction is decided on, in this batch or before it."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as it lies in the store: its manifest, and its lines."""

    manifest: Manifest
    train: bytes
    holdout: bytes

    def lines(self) -> Iterator[bytes]:
        """Every line in the order of the manifest's rows."""
        return chain(self.train.splitlines(keepends=True), self.holdout.splitlines(keepends=True))


class Datasets:
    """All datasets of the accepted batches, in the order of their chains."""

    def __init__(self, interactions: Interactions, findings: Findings) -> None:
        self._interactions = interactions
        self._findings = findings
        self.rows = 0
        self._batch_ids: list[str] = []
        self._whole_to: dict[tuple[str, str], int] = {}
        """By chain: the number of the batch up to which all were taken in."""

    def take(self, batch: Told[TrainingBatchSealed], dataset: Dataset) -> None:
        """Compare one batch's dataset with its announcement, with itself and with the log."""
        manifest = dataset.manifest
        if differences := tuple(_differences(batch.payload, manifest)):
            self._accuse("dataset_differs", batch, f"manifest and announcement differ in {', '.join(differences)}")
            return
        self._batch_ids.append(manifest.batch_id)
        self.rows += len(manifest.rows)
        hashes = [hashlib.sha256(line).hexdigest() for line in dataset.lines()]
        if hashes != [row.sha256 for row in manifest.rows]:
            self._accuse("dataset_differs", batch, "the lines do not have the hashes that the manifest names for them")
        self._check_cause(batch, manifest)
        self._account(batch, manifest)
        self._check_left_out(batch, manifest)
        for row in manifest.rows:
            if row.origin == "fresh":
                self._check_row(batch, manifest, row)

    def _check_cause(self, batch: Told[TrainingBatchSealed], manifest: Manifest) -> None:
        """A batch follows from the last record of its interval."""
        last = manifest.to_offset
        events = [digest_of(row.event_id).hex() for row in manifest.rows if row.offset == last]
        events += [omission.event for omission in manifest.left_out if omission.offset == last]
        if events and digest_of(batch.cause or "").hex() not in events:
            detail = f"it follows from {batch.cause}, which is not the record at its end, offset {last}"
            self._accuse("unknown_cause", batch, detail)

    def _account(self, batch: Told[TrainingBatchSealed], manifest: Manifest) -> None:
        accounted = Counter(row.offset for row in manifest.rows if row.origin == "fresh")
        accounted.update(omission.offset for omission in manifest.left_out)
        log = self._interactions.chains.get((manifest.tenant, manifest.target_model))
        standing = set() if log is None else set(log.between(manifest.after_offset, manifest.to_offset))
        for what, offsets in (
            ("the manifest says nothing of", standing - accounted.keys()),
            ("the manifest speaks twice of", {offset for offset, count in accounted.items() if count > 1}),
            (
                "the manifest speaks, outside of its interval, of",
                {offset for offset in accounted if not manifest.after_offset < offset <= manifest.to_offset},
            ),
        ):
            for offset in sorted(offsets):
                self._accuse("offset_unaccounted", batch, f"{what} offset {offset} of partition {manifest.partition}")

    def _check_left_out(self, batch: Told[TrainingBatchSealed], manifest: Manifest) -> None:
        """What is left out has the reason that is given: nothing is lost to learning by a word."""
        interactions, chain = self._interactions, (manifest.tenant, manifest.target_model)
        for recorded_id in (
            *(row.recorded_id for row in manifest.rows),
            *(omission.recorded_id for omission in manifest.left_out if omission.reason not in _SPOKEN_FOR),
        ):
            interactions.decide(interactions.row(recorded_id.bytes))
        whole = self._whole_to.get(chain, 0) == manifest.number - 1
        if whole:
            self._whole_to[chain] = manifest.number
        for omission in manifest.left_out:
            number = interactions.row(omission.recorded_id.bytes)
            judged = interactions.at(packed(manifest.partition, omission.offset), number)
            if omission.reason in _WITHOUT_ROW and judged is not None and judged.line != facts.NO_ROW:
                why_not = "the log gives a row for it"
            elif omission.reason in _SPOKEN_FOR and whole and not interactions.is_decided(number):
                why_not = f"no batch holds or refuses {omission.recorded_id}"
            else:
                continue
            where = f"offset {omission.offset} of partition {manifest.partition}"
            self._accuse("offset_unaccounted", batch, f"{where} is left out as {omission.reason}, and {why_not}")

    def _check_row(self, batch: Told[TrainingBatchSealed], manifest: Manifest, row: RowOrigin) -> None:
        interactions = self._interactions
        number = interactions.row(row.recorded_id.bytes)
        before = interactions.fresh_in[number]
        if before != ABSENT:
            self._accuse("fresh_twice", batch, f"{row.recorded_id} is new in {self._batch_ids[before]}, too")
        interactions.fresh_in[number] = len(self._batch_ids) - 1
        where = f"row of {row.recorded_id} at {row.partition}:{row.offset}"
        chain = interactions.chains.get((manifest.tenant, manifest.target_model))
        judged = interactions.at(packed(row.partition, row.offset), number)
        mine = judged is not None and chain is not None and chain.holds(row.offset)
        if row.partition != manifest.partition or (not mine and interactions.is_taken(row.partition, row.offset)):
            self._accuse("row_differs", batch, f"{where}: another event stands there, or one of another tenant or target")
            return
        if judged is None:
            judged = interactions.anywhere(number, row.revision)
            # Where other rules have judged again and refused, compaction leaves what has no row.
            if judged is None or (judged.allowed and judged.line == facts.NO_ROW):
                self._findings.set_apart("erased", f"{manifest.batch_id}: {where} is gone from the log")
                return
        if not judged.allowed:
            self._accuse("no_consent", batch, f"{where}: training_allowed is false")
        elif judged.line != facts.digest_of_hash(row.sha256):
            self._accuse("row_differs", batch, f"{where}: the log gives another line")
        elif facts.id_bytes(row.event_id) != interactions.assessed_id(number, manifest.tenant, row.recorded_id, judged.revision):
            self._accuse("row_differs", batch, f"{where}: the log has another event id than {row.event_id}")

    def _accuse(self, kind: FaultKind, batch: Told[TrainingBatchSealed], detail: str) -> None:
        self._findings.accuse(kind, batch.position, batch.event_id, f"{batch.payload.batch_id}: {detail}")


def _differences(batch: TrainingBatchSealed, manifest: Manifest) -> Iterator[str]:
    counts = manifest.counts
    for what, announced, found in (
        ("batch_id", batch.batch_id, manifest.batch_id),
        ("number", batch.number, manifest.number),
        ("previous", batch.previous_batch_id, manifest.previous),
        ("tenant", batch.tenant, manifest.tenant),
        ("target_model", batch.target_model, manifest.target_model),
        ("partition", batch.assessed_partition, manifest.partition),
        ("after_offset", batch.after_offset, manifest.after_offset),
        ("to_offset", batch.to_offset, manifest.to_offset),
        ("rows", batch.rows, counts.get("train")),
        ("reasoning_rows", batch.reasoning_rows, counts.get("reasoning")),
        ("direct_rows", batch.direct_rows, counts.get("direct")),
        ("holdout_rows", batch.holdout_rows, counts.get("holdout")),
        ("rows", batch.rows + batch.holdout_rows, len(manifest.rows)),
    ):
        if announced != found:
            yield what
