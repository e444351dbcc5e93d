"""Erasures take lines out of datasets: what they took is erased and not lost, and every fault of that, planted, is found."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import orjson
import pytest

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.rebuilding.rebuild import SealedChain
from ruminate.command.audit.findings import Report
from ruminate.command.audit.forgotten import WITHIN_MS
from ruminate.command.audit.snapshot import CouldNotJudge, Snapshot
from ruminate.command.datasets.look import verify
from ruminate.schemas.batch import DatasetRevised
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DATASET_REVISED,
    ERASURE_REQUESTED,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
)
from ruminate.schemas.interaction import Message
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.memory import StoredRecord
from tests.unit.audit_history import TARGET, History, curated, header, with_fields, with_header
from tests.unit.making import question

Damage = Callable[[History], None]
ERASED: Final[list[tuple[list[str], Damage]]] = []


def plants(*kinds: str) -> Callable[[Damage], Damage]:
    """Damages a history in which something was erased so that it has faults of these kinds, and no others."""

    def register(damage: Damage) -> Damage:
        ERASED.append((list(kinds), damage))
        return damage

    return register


def manifests(history: History) -> list[Manifest]:
    return [asyncio.run(load_manifest(history.store, batch.dataset)) for batch in history.batches()]


def chosen(history: History) -> set[UUID]:
    """Of the first batch: a row that the second one rehearses, one that is held out, one that teaches without a row."""
    first, second = manifests(history)
    held_out = next(row.recorded_id for row in first.rows if row.split == "holdout")
    rehearsed = next(each.recorded_id for each in second.rehearsed if each.recorded_id is not None)
    return {held_out, rehearsed, first.aside[0].recorded_id}


def ask(history: History) -> set[UUID]:
    """Ask that those are forgotten."""
    asked = chosen(history)
    for number, recorded_id in enumerate(sorted(asked), start=1):
        history.ask_to_forget(f"erasure-{number}", scope="interaction", subject=str(recorded_id))
    return asked


def erased(folder: Path) -> History:
    """Two batches with all that a dataset can hold, and something of everything is erased from both."""
    history = curated(folder)
    ask(history)
    history.revise()
    return history


def hours_pass(history: History) -> None:
    history.now_ms += WITHIN_MS


def last(history: History, *, revision: bool = True) -> StoredRecord:
    """The last revision, or the last batch."""
    topic = DATASET_REVISED if revision else TRAINING_BATCH_SEALED
    return max(history.records(topic.name), key=lambda record: record.timestamp)


def apart(report: Report) -> dict[str, int]:
    return {kind: listed.count for kind, listed in report.apart.items()}


def edit(history: History, change: Callable[[dict[str, Any], Path], None], **announced: Any) -> None:
    """Another dataset in place of that of the last revision, which announces it."""
    record = last(history)
    folder = history.folder / "edited"
    asyncio.run(history.store.fetch(ArtifactReference(**orjson.loads(record.value or b"")["dataset"]), to=folder))
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    change(manifest, folder)
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    reference = asyncio.run(history.store.put_tree(folder, kind="datasets", name="edited"))
    history.change(record, value=with_fields(record, dataset=reference.model_dump(), **announced))


def problems(history: History) -> list[list[str]]:
    async def verified() -> list[list[str]]:
        revisions: dict[int, list[DatasetRevised]] = defaultdict(list)
        for each in history.told(DATASET_REVISED):
            revisions[each.payload.number].append(each.payload)
        by_number = {number: tuple(each) for number, each in revisions.items()}
        chain = SealedChain(0, "default", TARGET, tuple(history.batches()), by_number)
        return [found async for _, found in verify(history.store, chain)]

    return asyncio.run(verified())


# What is no fault.


def test_what_has_left_a_dataset_is_erased_and_not_lost(tmp_path: Path) -> None:
    history = curated(tmp_path)
    before = manifests(history)
    asked = ask(history)
    history.revise()
    after = manifests(history)
    assert [manifest.revision for manifest in after] == [1, 1]
    gone = {row.recorded_id for manifest in before for row in manifest.rows} - {
        row.recorded_id for manifest in after for row in manifest.rows
    }
    assert gone
    assert gone <= asked
    report = history.audit()
    assert report.faults == ()
    assert (report.batches, report.revisions) == (2, 2)
    assert report.rows == sum(len(manifest.rows) for manifest in after)
    left = sum(len({each.salted_sha256 for each in manifest.erased}) for manifest in after)
    assert apart(report) == {"erased": len(asked) + left}  # the interactions themselves, and of each dataset what has left it
    assert problems(history) == [[], []]


def test_once_the_log_has_lost_it_too_nothing_is_missing(tmp_path: Path) -> None:
    history = curated(tmp_path)
    asked = ask(history)
    history.revise()
    for record in list(history.records(REASONING_ASSESSED.name)):
        if UUID(header(record, "ce_causationid")) in asked:
            history.remove(record)
    hours_pass(history)
    assert history.audit().faults == ()


def test_an_erasure_is_given_an_hour_and_its_datasets_are_listed_meanwhile(tmp_path: Path) -> None:
    history = curated(tmp_path)
    ask(history)
    report = history.audit()
    assert report.faults == ()
    assert apart(report)["unrevised"] == 3 + 1  # all three in the first batch, and one of them again in the second
    hours_pass(history)
    report = history.audit()
    assert report.kinds() == {"not_forgotten"}


def test_an_erasure_that_has_reached_the_first_of_two_datasets_makes_no_fault_of_the_second(tmp_path: Path) -> None:
    history = curated(tmp_path)
    ask(history)
    history.revise(only={1})
    first, second = manifests(history)
    assert (first.revision, second.revision) == (1, 0)
    report = history.audit()
    assert report.faults == ()
    assert apart(report)["unrevised"] == 1
    assert problems(history) == [[], []]


def test_what_a_revision_replaces_may_be_in_the_store_for_a_while(tmp_path: Path) -> None:
    history = curated(tmp_path)
    ask(history)
    history.revise(remove=False)
    report = history.audit()
    assert report.faults == ()
    assert apart(report)["unrevised"] == 2


def test_a_version_may_have_learned_from_a_dataset_as_it_was_before_or_after(tmp_path: Path) -> None:
    history = curated(tmp_path)
    history.train()
    history.deploy()
    ask(history)
    history.revise()
    history.train()
    history.deploy()
    first, second = (each.payload.dataset.sha256 for each in history.told(ADAPTER_TRAINED))
    assert first != history.batches()[0].dataset.sha256
    assert second == history.batches()[1].dataset.sha256
    assert history.audit().faults == ()


def test_a_second_erasure_revises_what_is_left(tmp_path: Path) -> None:
    history = erased(tmp_path)
    (first, _) = manifests(history)
    history.ask_to_forget("erasure-9", scope="interaction", subject=str(first.rows[0].recorded_id))
    history.revise()
    hours_pass(history)
    report = history.audit()
    assert report.faults == ()
    assert report.revisions == 3
    assert manifests(history)[0].revision == 2


def test_a_record_that_repeats_what_was_erased_is_spoken_for(tmp_path: Path) -> None:
    history = curated(tmp_path)
    (first, _) = manifests(history)
    row = first.rows[0]
    repeated = next(each for each in history.records(REASONING_ASSESSED.name) if header(each, "ce_id") == row.event_id)
    history.again(REASONING_ASSESSED, history.records(REASONING_ASSESSED.name).index(repeated))
    for number in range(70, 76):
        history.complete(f"i-{number}", messages=(Message(role="user", content=question(number)),))
    history.collect()
    history.assess()
    history.seal()
    assert manifests(history)[2].left_out_counts == {"duplicate": 1}
    history.ask_to_forget("erasure-1", scope="interaction", subject=str(row.recorded_id))
    history.revise()
    assert history.audit().faults == ()


def test_the_same_revision_told_again_and_one_that_came_second_are_no_fault(tmp_path: Path) -> None:
    history = erased(tmp_path)
    history.again(DATASET_REVISED)
    history.again(DATASET_REVISED, value=with_fields(history.records(DATASET_REVISED.name)[0], rows=0))
    record = history.records(DATASET_REVISED.name)[0]
    strange = "11111111-2222-3333-4444-555555555555"
    history.again(DATASET_REVISED, key=strange.encode(), headers=with_header(record, ce_id=strange))
    report = history.audit()
    assert report.faults == ()
    assert (report.topics[DATASET_REVISED.name].repeats, report.topics[DATASET_REVISED.name].superseded) == (1, 1)
    assert apart(report)["rivals"] == 1


class RevisedMeanwhile(History):
    """An erasure revises the datasets when the cut is taken and before the store is looked at."""

    async def snapshot(self) -> Snapshot:
        taken = await super().snapshot()
        await asyncio.to_thread(ask, self)
        await asyncio.to_thread(self.revise)
        return taken


def test_a_dataset_that_is_revised_while_the_audit_reads_ends_it_without_a_word_on_what_is_gone(tmp_path: Path) -> None:
    history = curated(tmp_path)
    history.__class__ = RevisedMeanwhile
    with pytest.raises(CouldNotJudge, match="revised datasets while they were read"):
        history.audit()
    history.__class__ = History
    assert history.audit().faults == ()


# Faults.


@plants("revision_broken")
def a_revision_skips_one(history: History) -> None:
    record = last(history)
    revision = orjson.loads(record.value or b"")["revision"]
    history.again(
        DATASET_REVISED,
        history.records(DATASET_REVISED.name).index(record),
        value=with_fields(record, revision=revision + 2),
        headers=with_header(record, ce_id="another"),
    )


@plants("revision_broken")
def a_revision_replaces_what_its_batch_never_had(history: History) -> None:
    record = last(history)
    said = orjson.loads(record.value or b"")
    history.again(
        DATASET_REVISED,
        history.records(DATASET_REVISED.name).index(record),
        value=with_fields(record, revision=said["revision"] + 1, replaces=said["replaces"]),
        headers=with_header(record, ce_id="another"),
    )


@plants("revision_broken")
def a_revision_is_of_no_batch(history: History) -> None:
    record = last(history)
    history.again(
        DATASET_REVISED,
        history.records(DATASET_REVISED.name).index(record),
        value=with_fields(record, batch_id="another", revision=1),
        headers=with_header(record, ce_id="another"),
    )


@plants("id_not_derived")
def a_revision_has_another_id_than_its_batch_and_number_give(history: History) -> None:
    record = last(history)
    history.change(record, key=b"another", headers=with_header(record, ce_id="another"))


@plants("unknown_cause", "unknown_cause")
def lines_have_left_for_a_request_that_nobody_made(history: History) -> None:
    """Both batches held it."""
    named = [orjson.loads(each.value or b"")["erasure_ids"] for each in history.records(DATASET_REVISED.name)]
    (shared,) = set(named[0]) & set(named[1])
    history.remove(next(each for each in history.records(ERASURE_REQUESTED.name) if header(each, "ce_id") == shared))


@plants("unreadable")
def a_revision_is_none(history: History) -> None:
    history.again(DATASET_REVISED, value=b"garbage")


@plants("not_forgotten")
def a_revised_dataset_holds_what_it_says_is_gone(history: History) -> None:
    """At once, for it says so itself."""
    record = last(history)
    request = history.records(ERASURE_REQUESTED.name)
    named = orjson.loads(record.value or b"")["erasure_ids"][0]
    victim = next(each for each in request if header(each, "ce_id") == named)
    other = manifests(history)[1].rows[0].recorded_id
    history.change(victim, value=with_fields(victim, subject=str(other)))


@plants("not_forgotten")
def an_old_dataset_is_still_in_the_store(history: History) -> None:
    history.ask_to_forget("erasure-9", scope="interaction", subject=str(manifests(history)[0].rows[0].recorded_id))
    history.revise(remove=False)
    hours_pass(history)


@plants("not_forgotten")
def a_dataset_that_no_chain_names_holds_what_was_erased(history: History) -> None:
    """A backup has brought back what was there before, under another name."""
    folder = history.folder / "old"
    history.ask_to_forget("erasure-9", scope="interaction", subject=str(manifests(history)[0].rows[0].recorded_id))
    asyncio.run(history.store.fetch(history.batches()[0].dataset, to=folder))
    history.revise()
    (folder / "note.txt").write_text("from the backup")
    asyncio.run(history.store.put_tree(folder, kind="datasets", name=f"default/{TARGET}/1"))
    hours_pass(history)


@plants("dataset_differs")
def a_revision_announces_more_erasures_than_its_manifest_knows(history: History) -> None:
    record = last(history)
    history.change(record, value=with_fields(record, erased_interactions=7))


@plants("dataset_differs")
def a_revision_announces_rows_that_it_does_not_have(history: History) -> None:
    record = last(history)
    history.change(record, value=with_fields(record, rows=orjson.loads(record.value or b"")["rows"] + 1))


@plants("offset_unaccounted")
def a_row_is_gone_and_no_erasure_says_so(history: History) -> None:
    """One that was held out, for the manifest's own count of what has left goes by interactions."""
    history.ask_to_forget("erasure-9", scope="interaction", subject=str(manifests(history)[1].rows[0].recorded_id))
    history.revise()

    def forget(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        gone = [each for each in manifest["erased"] if each["was"] in ("train", "holdout")]
        assert len(gone) == 1
        gone[0]["was"] = "replay"

    edit(history, forget)


@plants("contradicts_cause")
def a_version_was_trained_on_what_no_revision_of_its_batch_is(history: History) -> None:
    history.train()
    record = history.records(ADAPTER_TRAINED.name)[0]
    dataset = orjson.loads(record.value or b"")["dataset"] | {"sha256": "f" * 64}
    history.change(record, value=with_fields(record, dataset=dataset))


@pytest.mark.parametrize(("kinds", "damage"), ERASED, ids=[damage.__name__ for _, damage in ERASED])
def test_a_planted_fault_is_found_and_nothing_else(kinds: list[str], damage: Damage, tmp_path: Path) -> None:
    history = erased(tmp_path)
    assert history.audit().clean
    damage(history)
    report = history.audit()
    assert [fault.kind for fault in report.faults] == kinds, report.faults
