"""Datasets against the log: every record of an interval accounted for once, every row the one that stands there. Pure.

What a dataset must be beside itself and the other datasets of its chain is looked at where `ruminate datasets verify` looks, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from ruminate.accumulator.curation.known import HELD_OUT
from ruminate.accumulator.erasure.revise import named_in
from ruminate.accumulator.making.manifest import Manifest, Omission, RowOrigin
from ruminate.accumulator.records.rows import LeftOut
from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.audit import facts
from ruminate.command.audit.facts import Told
from ruminate.command.audit.findings import FaultKind, Findings
from ruminate.command.audit.forgotten import Forgetting
from ruminate.command.audit.interactions import ABSENT, Interactions, Judged, packed
from ruminate.command.audit.versions import Held
from ruminate.command.datasets.erased import Remembered
from ruminate.command.datasets.soundness import ChainSoundness, Dataset, announced_counts
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed

_WITHOUT_ROW: Final[frozenset[LeftOut]] = frozenset({"rejected", "not_allowed", "no_question", "empty_answer", "breaks_template"})
"""Left out for what the record itself says, so that the log gives no row for it, either. Of `images` policy and record decide."""
_WITH_ROW: Final[frozenset[LeftOut]] = frozenset(
    {
        "too_large",
        "over_context",
        "continued",
        "duplicate_exact",
        "over_cluster_limit",
        "contaminated",
        "over_generated",
        "over_ratio",
    }
)
"""Left out for the sake of others, or for a limit, so that the log gives a row for it all the same."""
_SPOKEN_FOR: Final[frozenset[LeftOut]] = frozenset({"duplicate", "superseded", "sealed_before"})
"""Left out because another record of the interaction is decided on, in this batch or before it."""


class Datasets:
    """All datasets of the accepted batches, in the order of their chains."""

    def __init__(self, interactions: Interactions, forgetting: Forgetting, findings: Findings) -> None:
        self._interactions = interactions
        self._forgetting = forgetting
        self._findings = findings
        self.rows = 0
        self._batch_ids: list[str] = []
        self._whole_to: dict[tuple[str, str], int] = {}
        """By chain: the number of the batch up to which all were taken in."""
        self._soundness: dict[tuple[str, str], ChainSoundness] = {}
        self._remembered: dict[tuple[str, str], list[Remembered]] = {}
        """By chain: what has left the datasets so far."""

    def take(self, held: Held, dataset: Dataset) -> None:
        """Compare one batch's dataset, as it is by now, with what is said of it, with itself, the log and what was asked."""
        batch, manifest = held.batch, dataset.manifest
        if differences := tuple(_differences(batch.payload, held.revised, manifest)):
            self._accuse("dataset_differs", batch, f"manifest and announcement differ in {', '.join(differences)}")
            return
        self._batch_ids.append(manifest.batch_id)
        self.rows += len(manifest.rows)
        for problem in self._soundness.setdefault((manifest.tenant, manifest.target_model), ChainSoundness()).take(dataset):
            self._accuse(problem.kind, batch, problem.says)
        self._check_cause(batch, manifest)
        self._take_erased(batch, manifest)
        self._account(batch, manifest)
        self._check_left_out(batch, manifest)
        for row in manifest.rows:
            if row.origin == "fresh":
                self._check_row(batch, manifest, row)
        self._check_consent(batch, manifest)

    def _take_erased(self, batch: Told[TrainingBatchSealed], manifest: Manifest) -> None:
        """What has left the dataset is known by salted hashes alone; what is to leave it must not be in it for long."""
        if manifest.erased:
            self._remembered.setdefault((manifest.tenant, manifest.target_model), []).append(Remembered(manifest))
        for erasure_id, _ in sorted({(erased.erasure_id, erased.salted_sha256) for erased in manifest.erased}):
            self._findings.set_apart("erased", f"{manifest.batch_id}: an interaction has left its dataset for {erasure_id}")
        self._forgetting.judge(
            manifest.tenant,
            manifest.target_model,
            named_in(manifest),
            f"{manifest.batch_id}: its dataset",
            at=(batch.position, batch.event_id),
            gone_for={erased.erasure_id for erased in manifest.erased},
        )

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
        # What stood beside the rows is left out, too; a rehearsed line is of another interval.
        accounted.update(
            erased.offset for erased in manifest.erased if erased.offset is not None and erased.was in ("train", "holdout")
        )
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
            elif omission.reason in _WITH_ROW and judged is not None and judged.line == facts.NO_ROW:
                why_not = "the log gives no row for it"
            elif omission.reason == "contaminated" and not _names_what_it_gives_away(omission, manifest):
                why_not = f"{omission.detail or 'nothing'} is no protected set of the batch"
            elif omission.reason in _SPOKEN_FOR and whole and not self._is_decided(omission.recorded_id, number, chain):
                why_not = f"no batch holds or refuses {omission.recorded_id}"
            else:
                continue
            where = f"offset {omission.offset} of partition {manifest.partition}"
            self._accuse("offset_unaccounted", batch, f"{where} is left out as {omission.reason}, and {why_not}")
        left_out = {omission.offset for omission in manifest.left_out}
        for aside in manifest.aside:
            if aside.offset not in left_out:
                where = f"offset {aside.offset} of partition {manifest.partition}"
                self._accuse("offset_unaccounted", batch, f"{where} teaches without a row, and is not left out")

    def _is_decided(self, recorded_id: UUID, number: int, chain: tuple[str, str]) -> bool:
        """Whether a batch of the chain holds or refuses it, or has held it until it was erased."""
        if not self._interactions.is_decided(number) and any(each.of(recorded_id) for each in self._remembered.get(chain, ())):
            self._interactions.decide(number)
        return self._interactions.is_decided(number)

    def _check_consent(self, batch: Told[TrainingBatchSealed], manifest: Manifest) -> None:
        """Whatever teaches without a row of its own was allowed to: pairs and questions come from rows, or from these."""
        teach: list[tuple[str, UUID, int, int]] = [
            *(("what teaches without a row", aside.recorded_id, manifest.partition, aside.offset) for aside in manifest.aside),
            *(
                ("rehearsed row", each.recorded_id, each.partition, each.offset)
                for each in manifest.rehearsed
                if each.recorded_id is not None and each.partition is not None and each.offset is not None
            ),
        ]
        for what, recorded_id, partition, offset in teach:
            judged = self._find(recorded_id, partition, offset)
            where = f"{what} of {recorded_id} at {partition}:{offset}"
            if judged is None:
                self._findings.set_apart("erased", f"{manifest.batch_id}: {where} is gone from the log")
            elif not judged.allowed:
                self._accuse("no_consent", batch, f"{where}: training_allowed is false")

    def _find(self, recorded_id: UUID, partition: int, offset: int) -> Judged | None:
        number = self._interactions.row(recorded_id.bytes)
        return self._interactions.at(packed(partition, offset), number) or self._interactions.anywhere(number)

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


def _differences(batch: TrainingBatchSealed, revised: DatasetRevised | None, manifest: Manifest) -> Iterator[str]:
    for what, announced, found in (
        ("batch_id", batch.batch_id, manifest.batch_id),
        ("number", batch.number, manifest.number),
        ("previous", batch.previous_batch_id, manifest.previous),
        ("tenant", batch.tenant, manifest.tenant),
        ("target_model", batch.target_model, manifest.target_model),
        ("partition", batch.assessed_partition, manifest.partition),
        ("after_offset", batch.after_offset, manifest.after_offset),
        ("to_offset", batch.to_offset, manifest.to_offset),
        *announced_counts(batch, manifest),
        ("rows", batch.rows + batch.holdout_rows, len(manifest.rows)),
        ("revision", revised.revision if revised else 0, manifest.revision),
        ("erasure_ids", set(revised.erasure_ids) if revised else set(), {erased.erasure_id for erased in manifest.erased}),
        (
            "erased_interactions",
            revised.erased_interactions if revised else 0,
            len({erased.salted_sha256 for erased in manifest.erased}),
        ),
    ):
        if announced != found:
            yield what


def _names_what_it_gives_away(omission: Omission, manifest: Manifest) -> bool:
    """Whether it is said which protected set it touches, and the batch had such a set."""
    sets = manifest.policy.get("protected_sets")
    known = {HELD_OUT, *(sets if isinstance(sets, dict) else ())}
    return (omission.detail or "").rpartition("/")[0] in known
