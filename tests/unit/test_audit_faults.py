"""Every kind of fault, planted into a sound history: exactly that one is found."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
import pytest

from ruminate.command.audit.findings import ADVICE, FAULT_KINDS
from ruminate.command.audit.gather import judge
from ruminate.command.audit.snapshot import CouldNotJudge
from ruminate.schemas.envelope import derive_event_id, moment
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    ERASURE_REQUESTED,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
)
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.topic import Topic
from ruminate.shared.memory import StoredRecord
from ruminate.shared.partitioning import partition_of
from ruminate.shared.shares import Outgoing
from ruminate.shared.store import FileStore
from tests.unit.audit_history import (
    History,
    failure,
    header,
    refusal,
    sound,
    with_fields,
    with_header,
)
from tests.unit.test_audit_curated import CURATED
from tests.unit.test_audit_erased import ERASED

Damage = Callable[[History], None]
STRANGE: Final = "11111111-2222-3333-4444-555555555555"
OTHER_SHA: Final = "f" * 64
PLANTED: Final[list[tuple[list[str], Damage]]] = []


def plants(*kinds: str) -> Callable[[Damage], Damage]:
    """Damages a sound history so that it has faults of these kinds, and no others."""

    def register(damage: Damage) -> Damage:
        PLANTED.append((list(kinds), damage))
        return damage

    return register


def acknowledge(history: History, reader: str, topic: Topic[Any]) -> None:
    """The reader has committed everything on the topic."""
    for (name, partition), end in history.ends.items():
        if name == topic.name:
            history.committed[reader, name][partition] = end


def last(history: History, topic: Topic[Any]) -> StoredRecord:
    return max(history.records(topic.name), key=lambda record: record.timestamp)


def renamed(record: StoredRecord, name: str = STRANGE) -> dict[str, Any]:
    """The record under a strange id."""
    return {"key": name.encode(), "headers": with_header(record, ce_id=name)}


def of_unknown_cause(record: StoredRecord, cause_source: str) -> dict[str, Any]:
    """The record, following from what never was, under the id that this gives."""
    cause = str(uuid4())
    event_id = str(derive_event_id(tenant="default", cause_source=cause_source, cause_id=cause, topic=record.topic))
    return {"key": event_id.encode(), "headers": with_header(record, ce_id=event_id, ce_causationid=cause)}


def move(history: History, record: StoredRecord, **changed: Any) -> None:
    """The record in the partition beside its own."""
    history.remove(record)
    partition = (record.partition + 1) % 12
    history.logs[record.topic, partition].append(
        StoredRecord(
            record.topic,
            partition,
            history.ends[record.topic, partition],
            record.timestamp,
            record.key,
            changed.get("value", record.value),
            record.headers,
        )
    )
    history.ends[record.topic, partition] += 1


def edit_dataset(history: History, edit: Callable[[dict[str, Any], Path], None]) -> None:
    """Another dataset in place of that of the latest batch; the batch announces it."""
    record = last(history, TRAINING_BATCH_SEALED)
    sealed = orjson.loads(record.value or b"")
    folder = history.folder / "edited"
    asyncio.run(history.store.fetch(ArtifactReference(**sealed["dataset"]), to=folder))
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    edit(manifest, folder)
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    reference = asyncio.run(history.store.put_tree(folder, kind="datasets", name="edited"))
    history.change(record, value=with_fields(record, dataset=reference.model_dump()))


def blobs(history: History, holding: bytes) -> Iterator[Path]:
    for path in (history.folder / "store" / "blobs").rglob("*"):
        if path.is_file() and holding in path.read_bytes():
            yield path


# An effect is missing.


@plants("missing_effect")
def an_interaction_was_acknowledged_and_never_recorded(history: History) -> None:
    history.complete("lost")
    acknowledge(history, "collector", INTERACTION_COMPLETED)


@plants("missing_effect")
def what_is_no_event_was_acknowledged_without_a_dead_letter(history: History) -> None:
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    acknowledge(history, "collector", INTERACTION_COMPLETED)


@plants("missing_effect")
def a_record_was_acknowledged_and_never_judged(history: History) -> None:
    history.complete("lost")
    history.collect()
    acknowledge(history, "assessor", INTERACTION_RECORDED)


@plants("missing_effect")
def a_verdict_was_acknowledged_and_is_in_no_batch(history: History) -> None:
    history.complete("lost")
    history.collect()
    history.assess()
    acknowledge(history, "accumulator", REASONING_ASSESSED)


@plants("missing_effect")
def a_batch_was_acknowledged_and_has_no_result(history: History) -> None:
    acknowledge(history, "trainer", TRAINING_BATCH_SEALED)


@plants("missing_effect")
def a_version_was_acknowledged_and_has_no_result(history: History) -> None:
    history.train()
    acknowledge(history, "deployer", ADAPTER_TRAINED)


@plants("missing_effect")
def a_dead_letter_was_taken_away_without_a_word(history: History) -> None:
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    (letter,) = history.records(INTERACTION_COMPLETED.dead_letters("collector").name)
    history.tombstone(letter)


@plants("missing_effect")
def a_letter_counts_as_sent_back_and_was_not(history: History) -> None:
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    history.settle(INTERACTION_COMPLETED, "collector", "replayed")
    (sent_back,) = history.records(INTERACTION_COMPLETED.retries("collector").name)
    history.remove(sent_back)
    history.now_ms += 3_600_000


@plants("missing_effect")
def a_verdict_was_sent_back_and_read_and_not_put_on_its_topic_again(history: History) -> None:
    history.complete("crashing")
    history.collect()
    history.assess()
    history.bury(REASONING_ASSESSED, "accumulator", last(history, REASONING_ASSESSED), "crashed")
    history.settle(REASONING_ASSESSED, "accumulator", "replayed")
    history.committed["accumulator", REASONING_ASSESSED.retries("accumulator").name] = {0: 1}


@plants("missing_effect")
def a_letter_was_sent_back_and_read_and_came_to_nothing(history: History) -> None:
    history.complete("crashing")
    history.bury(INTERACTION_COMPLETED, "collector", last(history, INTERACTION_COMPLETED), "crashed")
    acknowledge(history, "collector", INTERACTION_COMPLETED)
    history.settle(INTERACTION_COMPLETED, "collector", "replayed")
    history.committed["collector", INTERACTION_COMPLETED.retries("collector").name] = {0: 1}


@plants("missing_effect")
def other_content_under_a_known_id_was_acknowledged_and_no_dead_letter_says_so(history: History) -> None:
    history.complete("a", agent="somebody else")
    acknowledge(history, "collector", INTERACTION_COMPLETED)


@plants("missing_effect")
def what_is_invalid_under_a_known_id_was_acknowledged_without_a_dead_letter(history: History) -> None:
    record = history.records(INTERACTION_COMPLETED.name)[0]
    history.again(INTERACTION_COMPLETED, value=with_fields(record, messages=[]))
    acknowledge(history, "collector", INTERACTION_COMPLETED)


@plants("missing_effect")
def an_interaction_of_no_time_was_lost_when_somebody_else_was_to_be_forgotten(history: History) -> None:
    request = ErasureRequested(scope="agent", subject="else", requested_by="somebody", requested_at=moment(history.now_ms))
    history.publish(ERASURE_REQUESTED, request, source="/ruminate/command", event_id="erasure-1")
    history.complete("lost")
    history.change(last(history, INTERACTION_COMPLETED), timestamp=-1)
    acknowledge(history, "collector", INTERACTION_COMPLETED)


@plants("missing_effect")
def an_interaction_was_lost_that_came_after_its_agent_was_to_be_forgotten(history: History) -> None:
    request = ErasureRequested(scope="agent", subject="tester", requested_by="somebody", requested_at=moment(history.now_ms))
    history.publish(ERASURE_REQUESTED, request, source="/ruminate/command", event_id="erasure-1")
    history.now_ms += 1
    history.complete("lost", occurred_at=moment(history.now_ms))
    acknowledge(history, "collector", INTERACTION_COMPLETED)


# Ids, contents, causes, places.


@plants("two_ids")
def an_interaction_was_recorded_under_two_ids(history: History) -> None:
    history.again(INTERACTION_RECORDED, **renamed(history.records(INTERACTION_RECORDED.name)[0]))
    history.assess()  # the assessor cannot know: it judges both
    history.remove(last(history, REASONING_ASSESSED))


@plants("two_ids")
def an_interaction_was_judged_under_two_ids(history: History) -> None:
    history.again(REASONING_ASSESSED, **renamed(history.records(REASONING_ASSESSED.name)[0]))


@plants("two_ids")
def a_batch_was_trained_under_two_ids(history: History) -> None:
    history.again(ADAPTER_TRAINED, **renamed(history.records(ADAPTER_TRAINED.name)[0]))


@plants("two_ids")
def a_batch_failed_under_two_ids(history: History) -> None:
    history.fail()
    history.again(TRAINING_FAILED, **renamed(history.records(TRAINING_FAILED.name)[0]))


@plants("two_ids")
def a_version_was_registered_under_two_ids(history: History) -> None:
    history.again(MODEL_REGISTERED, **renamed(history.records(MODEL_REGISTERED.name)[0]))


@plants("id_not_derived")
def a_record_has_another_id_than_its_interaction_gives(history: History) -> None:
    history.complete("strange")
    history.collect()
    record = last(history, INTERACTION_RECORDED)
    history.change(record, **renamed(record))


@plants("id_not_derived")
def a_verdict_has_another_id_than_its_record_gives(history: History) -> None:
    history.complete("strange")
    history.collect()
    history.assess()
    record = last(history, REASONING_ASSESSED)
    history.change(record, **renamed(record))


@plants("id_not_derived")
def a_batch_has_another_id_than_its_last_verdict_gives(history: History) -> None:
    record = last(history, TRAINING_BATCH_SEALED)
    history.change(record, **renamed(record))


@plants("id_not_derived")
def a_version_has_another_id_than_its_batch_gives(history: History) -> None:
    history.train()
    record = last(history, ADAPTER_TRAINED)
    history.change(record, **renamed(record))


@plants("id_not_derived")
def a_failure_has_another_id_than_its_batch_gives(history: History) -> None:
    history.fail()
    record = last(history, TRAINING_FAILED)
    history.change(record, **renamed(record))


@plants("id_not_derived")
def a_registration_has_another_id_than_its_version_gives(history: History) -> None:
    record = last(history, MODEL_REGISTERED)
    history.change(record, **renamed(record))


@plants("id_not_derived")
def a_refusal_has_another_id_than_its_version_gives(history: History) -> None:
    history.train()
    history.deploy(refuse=True)
    record = last(history, MODEL_ROLLED_BACK)
    history.change(record, **renamed(record))


@plants("two_contents")
def one_id_was_recorded_with_two_contents(history: History) -> None:
    record = history.records(INTERACTION_RECORDED.name)[0]
    history.again(INTERACTION_RECORDED, value=with_fields(record, agent="somebody else"))


@plants("two_contents")
def one_id_was_judged_in_two_ways_by_the_same_rules(history: History) -> None:
    record = history.records(REASONING_ASSESSED.name)[0]
    verdict = orjson.loads(record.value or b"")["verdict"] | {"thinking_words": 7}
    history.again(REASONING_ASSESSED, value=with_fields(record, verdict=verdict))


@plants("two_contents")
def two_batches_that_end_with_one_verdict_have_one_id(history: History) -> None:
    history.complete("g")
    history.collect()
    history.assess()
    history.again(REASONING_ASSESSED, -2)  # the record that ended the second batch, told again
    history.seal()
    _, *both = history.records(TRAINING_BATCH_SEALED.name)
    cause = header(both[0], "ce_causationid")
    event_id = str(
        derive_event_id(tenant="default", cause_source="/ruminate/assessor", cause_id=cause, topic=TRAINING_BATCH_SEALED.name)
    )
    for record in both:
        assert header(record, "ce_causationid") == cause
        history.change(record, key=event_id.encode(), headers=with_header(record, ce_id=event_id))


@plants("unknown_cause")
def a_record_follows_from_an_interaction_that_never_was(history: History) -> None:
    history.complete("forged")
    history.collect()
    history.remove(last(history, INTERACTION_COMPLETED))


@plants("unknown_cause")
def a_verdict_follows_from_a_record_that_never_was(history: History) -> None:
    recorded_id = str(uuid4())
    record = history.records(REASONING_ASSESSED.name)[0]
    event_id = str(
        derive_event_id(tenant="default", cause_source="/ruminate/collector", cause_id=recorded_id, topic=REASONING_ASSESSED.name)
    )
    within = orjson.loads(record.value or b"")["interaction"] | {"recorded_id": recorded_id}
    history.again(
        REASONING_ASSESSED,
        key=event_id.encode(),
        value=with_fields(record, recorded_id=recorded_id, interaction=within),
        headers=with_header(record, ce_id=event_id, ce_causationid=recorded_id),
    )


@plants("unknown_cause")
def a_batch_follows_from_a_verdict_that_never_was(history: History) -> None:
    record = last(history, TRAINING_BATCH_SEALED)
    history.change(record, **of_unknown_cause(record, "/ruminate/assessor"))


@plants("unknown_cause")
def a_version_follows_from_a_batch_that_never_was(history: History) -> None:
    history.train()
    record = last(history, ADAPTER_TRAINED)
    history.change(record, **of_unknown_cause(record, "/ruminate/accumulator"))


@plants("unknown_cause")
def a_registration_follows_from_a_version_that_never_was(history: History) -> None:
    record = last(history, MODEL_REGISTERED)
    history.change(record, **of_unknown_cause(record, "/ruminate/trainer"))


@plants("wrong_partition")
def a_record_lies_beside_its_conversation(history: History) -> None:
    move(history, history.records(INTERACTION_RECORDED.name)[0])


@plants("wrong_partition")
def a_verdict_lies_beside_its_target(history: History) -> None:
    history.complete("astray")
    history.collect()
    history.assess()
    move(history, last(history, REASONING_ASSESSED))


@plants("wrong_partition")
def a_batch_lies_beside_its_target(history: History) -> None:
    history.committed["accumulator", REASONING_ASSESSED.name].clear()
    move(history, last(history, TRAINING_BATCH_SEALED))


@plants("wrong_partition")
def a_failure_lies_beside_its_target(history: History) -> None:
    history.fail()
    history.committed["trainer", TRAINING_BATCH_SEALED.name].clear()
    move(history, last(history, TRAINING_FAILED))


@plants("unreadable")
def a_registration_is_none(history: History) -> None:
    history.again(MODEL_REGISTERED, value=b"garbage")


@plants("unreadable")
def a_dead_letter_says_nothing_of_where_it_stood(history: History) -> None:
    record = history.records(INTERACTION_COMPLETED.name)[0]
    letters = INTERACTION_COMPLETED.dead_letters("collector").name
    history.logs[letters, 0].append(StoredRecord(letters, 0, 0, record.timestamp, b"key", b"value", []))
    history.ends[letters, 0] = 1


@plants("unreadable")
def a_letter_lies_among_those_of_another_reader(history: History) -> None:
    history.bury(INTERACTION_COMPLETED, "collector", last(history, INTERACTION_RECORDED), "crashed")


@plants("unreadable")
def what_was_sent_back_was_a_letter_of_another_reader(history: History) -> None:
    record = last(history, INTERACTION_RECORDED)
    history.bury(INTERACTION_RECORDED, "assessor", record, "crashed")
    (letter,) = history.records(INTERACTION_RECORDED.dead_letters("assessor").name)
    retries = INTERACTION_COMPLETED.retries("collector").name
    history.append(Outgoing(retries, 0, b"", letter.value or b"", letter.headers))


@plants("log_cut")
def a_partition_ends_before_what_its_reader_has_acknowledged(history: History) -> None:
    committed = history.committed["collector", INTERACTION_COMPLETED.name]
    committed[max(committed)] += 1


# Batches and their datasets.


@plants("chain_broken")
def a_batch_skips_a_number(history: History) -> None:
    record = last(history, TRAINING_BATCH_SEALED)
    value = with_fields(record, number=4, batch_id="qwen3_8b-000004", after_offset=90, to_offset=99)
    history.again(TRAINING_BATCH_SEALED, 1, value=value, **renamed(record))


@plants("fresh_twice")
def an_interaction_is_new_in_two_batches(history: History) -> None:
    history.again(REASONING_ASSESSED)
    history.seal(forget_sealed=True)


@plants("offset_unaccounted")
def a_manifest_is_silent_about_a_record(history: History) -> None:
    history.complete("private", training_allowed=False)
    history.complete("open")
    history.collect()
    history.assess()
    history.seal()

    def forget(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        (omission,) = manifest["left_out"]
        assert omission["reason"] == "not_allowed"
        manifest["left_out"] = []

    edit_dataset(history, forget)


@plants("offset_unaccounted")
def a_record_is_left_out_for_another_that_no_batch_holds(history: History) -> None:
    history.complete("private", training_allowed=False)
    history.complete("open")
    history.collect()
    history.assess()
    history.seal()

    def lie(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        manifest["left_out"][0]["reason"] = "duplicate"

    edit_dataset(history, lie)


@plants("offset_unaccounted")
def a_record_is_left_out_that_the_log_gives_a_row_for(history: History) -> None:
    history.complete("private", training_allowed=False)
    history.complete("open")
    history.collect()
    history.assess()
    history.seal()
    record = history.records(REASONING_ASSESSED.name)[-2]
    within = orjson.loads(record.value or b"")["interaction"] | {"training_allowed": True}
    history.change(record, value=with_fields(record, interaction=within))


@plants("offset_unaccounted")
def a_manifest_speaks_of_what_lies_outside_of_its_interval(history: History) -> None:
    def add(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        row = manifest["rows"][0]
        omission = {"offset": 0, "event": "0" * 32, "recorded_id": row["recorded_id"], "reason": "duplicate"}
        manifest["left_out"] = [omission]

    edit_dataset(history, add)


@plants("dataset_differs")
def a_dataset_is_of_another_interval_than_its_batch(history: History) -> None:
    edit_dataset(history, lambda manifest, _: manifest.update(to_offset=manifest["to_offset"] + 1))


@plants("dataset_differs")
def a_line_of_a_dataset_is_not_the_one_of_its_manifest(history: History) -> None:
    def swap(manifest: dict[str, Any], folder: Path) -> None:
        del manifest
        lines = (folder / "train.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "train.jsonl").write_bytes(b"".join(reversed(lines)))

    edit_dataset(history, swap)


@plants("row_differs")
def a_row_is_not_what_the_log_gives(history: History) -> None:
    """The line and its hash agree with each other: only the log knows better."""

    def reword(manifest: dict[str, Any], folder: Path) -> None:
        lines = (folder / "train.jsonl").read_bytes().splitlines(keepends=True)
        lines[0] = lines[0].replace(b"question", b"Question")
        manifest["rows"][0]["sha256"] = hashlib.sha256(lines[0]).hexdigest()
        (folder / "train.jsonl").write_bytes(b"".join(lines))

    edit_dataset(history, reword)


@plants("dataset_differs", "dataset_differs", "row_differs", "row_differs")
def two_rows_have_each_others_offsets(history: History) -> None:
    def swap(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        one, other = manifest["rows"]
        one["offset"], other["offset"] = other["offset"], one["offset"]
        one["event_id"], other["event_id"] = other["event_id"], one["event_id"]

    edit_dataset(history, swap)


@plants("row_differs")
def a_row_names_another_partition(history: History) -> None:
    def move_row(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        manifest["rows"][0]["partition"] += 1

    edit_dataset(history, move_row)


@plants("row_differs")
def a_row_names_an_event_that_is_not_its_own(history: History) -> None:
    def rename(manifest: dict[str, Any], folder: Path) -> None:
        del folder
        earliest = min(manifest["rows"], key=lambda row: int(row["offset"]))
        earliest["event_id"] = STRANGE

    edit_dataset(history, rename)


@plants("row_differs")
def a_row_is_of_another_target_in_the_same_partition(history: History) -> None:
    partition = last(history, REASONING_ASSESSED).partition
    other = next(name for name in map("other-{}".format, range(1_000)) if partition_of(f"default/{name}", 12) == partition)
    history.complete("astray", target_model=other)
    history.complete("g")
    history.collect()
    history.assess()
    history.seal(mixing_in=other, commit=False)


@plants("no_consent")
def a_row_was_taken_although_only_its_verdict_says_that_it_may_be(history: History) -> None:
    history.complete("private", training_allowed=False)
    history.collect()
    history.assess()
    record = last(history, REASONING_ASSESSED)
    within = orjson.loads(record.value or b"")["interaction"] | {"training_allowed": True}
    history.change(record, value=with_fields(record, interaction=within))
    history.seal()


@plants("no_consent")
def a_row_was_taken_against_the_will_of_its_tenant(history: History) -> None:
    record = history.records(REASONING_ASSESSED.name)[0]
    within = orjson.loads(record.value or b"")["interaction"] | {"training_allowed": False}
    history.change(record, value=with_fields(record, interaction=within))


# The store.


@plants("artifact_missing")
def the_manifest_of_a_dataset_is_gone(history: History) -> None:
    reference = orjson.loads(last(history, TRAINING_BATCH_SEALED).value or b"")["dataset"]
    Path(reference["uri"].removeprefix("file://").replace("%3A", ":")).unlink()


@plants("artifact_missing")
def the_manifest_is_gone_that_a_later_one_relies_on(history: History) -> None:
    """What the later one leaves out as a repeat stood in the one that is gone: nothing is to be said of that."""
    history.committed["assessor", INTERACTION_RECORDED.name].clear()
    history.assess()
    history.complete("g")
    history.run()
    reference = orjson.loads(history.records(TRAINING_BATCH_SEALED.name)[0].value or b"")["dataset"]
    Path(reference["uri"].removeprefix("file://").replace("%3A", ":")).unlink()


@plants("artifact_missing")
def a_file_of_an_adapter_is_gone(history: History) -> None:
    for path in blobs(history, b"adapter of v1"):
        path.unlink()


@plants("artifact_damaged")
def the_weights_of_a_version_are_not_its_own(history: History) -> None:
    for path in blobs(history, b"weights of v1"):
        path.write_bytes(b"weights of v7")


@plants("artifact_damaged")
def a_dataset_is_of_another_hash_than_its_batch_says(history: History) -> None:
    record = last(history, TRAINING_BATCH_SEALED)
    dataset = orjson.loads(record.value or b"")["dataset"] | {"sha256": OTHER_SHA}
    history.change(record, value=with_fields(record, dataset=dataset))


@plants("artifact_missing")
def a_version_names_a_folder_for_its_weights(history: History) -> None:
    record = last(history, ADAPTER_TRAINED)
    gguf = orjson.loads(record.value or b"")["gguf"]
    gguf[0]["file"]["uri"] = (history.folder / "store").as_uri()
    history.change(record, value=with_fields(record, gguf=gguf))


@plants("artifact_damaged")
def a_batch_names_something_else_for_its_dataset(history: History) -> None:
    (history.folder / "else.json").write_text("[]")
    reference = ArtifactReference(
        uri=(history.folder / "else.json").as_uri(), sha256=hashlib.sha256(b"[]").hexdigest(), size_bytes=2
    )
    record = last(history, TRAINING_BATCH_SEALED)
    history.change(record, value=with_fields(record, dataset=reference.model_dump()))


# Versions.


@plants("trained_twice")
def two_batches_claim_one_version(history: History) -> None:
    history.train()
    record = last(history, ADAPTER_TRAINED)
    history.change(record, value=with_fields(record, version="v1"))


@plants("registered_twice")
def a_version_was_registered_with_two_contents(history: History) -> None:
    record = history.records(MODEL_REGISTERED.name)[0]
    weights = orjson.loads(record.value or b"")["weights"] | {"sha256": OTHER_SHA}
    history.again(MODEL_REGISTERED, value=with_fields(record, weights=weights))


@plants("two_results")
def a_batch_was_trained_and_failed(history: History) -> None:
    (batch, _) = history.told(TRAINING_BATCH_SEALED)
    event_id = str(batch.derived_id(TRAINING_FAILED))
    failed = failure(batch.payload, "crashed")
    derived = derive_event_id(
        tenant="default", cause_source="/ruminate/accumulator", cause_id=batch.envelope.id, topic=TRAINING_FAILED.name
    )
    assert event_id == str(derived)
    history.publish(TRAINING_FAILED, failed, source="/ruminate/trainer", event_id=event_id, cause=batch.envelope.id)


@plants("two_results")
def an_attempt_at_a_batch_was_trained_and_failed(history: History) -> None:
    history.fail()
    (_, batch) = history.told(TRAINING_BATCH_SEALED)
    history.retry(batch.payload.batch_id)
    history.deploy()
    failed = failure(batch.payload, "crashed").model_copy(update={"attempt": 2})
    event_id = str(batch.derived_id(TRAINING_FAILED, ordinal=1))
    history.publish(TRAINING_FAILED, failed, source="/ruminate/trainer", event_id=event_id, cause=batch.envelope.id)


@plants("unknown_cause")
def a_batch_was_tried_again_and_nobody_had_asked_for_it(history: History) -> None:
    history.fail()
    (_, batch) = history.told(TRAINING_BATCH_SEALED)
    history.retry(batch.payload.batch_id, said=False)
    history.deploy()


@plants("unknown_cause")
def a_batch_was_tried_again_that_had_not_failed(history: History) -> None:
    (_, batch) = history.told(TRAINING_BATCH_SEALED)
    history.retry(batch.payload.batch_id)
    history.deploy()
    history.committed["trainer", TRAINING_BATCH_SEALED.name][batch.position.partition] = batch.position.offset + 1


@plants("id_not_derived")
def a_second_attempt_has_the_id_of_the_first(history: History) -> None:
    history.fail()
    (_, batch) = history.told(TRAINING_BATCH_SEALED)
    history.retry(batch.payload.batch_id)
    record = last(history, ADAPTER_TRAINED)
    history.change(record, **renamed(record, str(batch.derived_id(ADAPTER_TRAINED))))


@plants("two_results")
def a_version_was_refused_and_registered(history: History) -> None:
    (version,) = history.told(ADAPTER_TRAINED)
    event_id = str(version.derived_id(MODEL_ROLLED_BACK))
    refused = refusal(version.payload)
    history.publish(MODEL_ROLLED_BACK, refused, source="/ruminate/deployer", event_id=event_id, cause=version.envelope.id)


@plants("contradicts_cause")
def a_version_was_trained_on_another_dataset_than_its_batch(history: History) -> None:
    history.train()
    record = last(history, ADAPTER_TRAINED)
    dataset = orjson.loads(record.value or b"")["dataset"] | {"sha256": OTHER_SHA}
    history.change(record, value=with_fields(record, dataset=dataset))


@plants("contradicts_cause")
def a_registration_names_other_weights_than_its_version(history: History) -> None:
    record = last(history, MODEL_REGISTERED)
    weights = orjson.loads(record.value or b"")["weights"] | {"sha256": OTHER_SHA}
    history.change(record, value=with_fields(record, weights=weights))


@plants("contradicts_cause")
def a_registration_names_another_parent_than_its_version(history: History) -> None:
    record = last(history, MODEL_REGISTERED)
    history.change(record, value=with_fields(record, parent_version="v7"))


@plants("contradicts_cause")
def a_failure_is_of_another_batch_than_it_follows_from(history: History) -> None:
    history.fail()
    history.committed["trainer", TRAINING_BATCH_SEALED.name].clear()
    record = last(history, TRAINING_FAILED)
    history.change(record, value=with_fields(record, batch_id="another"))


@plants("contradicts_cause")
def a_refusal_is_of_another_version_than_it_follows_from(history: History) -> None:
    history.train()
    history.deploy(refuse=True)
    history.committed["deployer", ADAPTER_TRAINED.name].clear()
    record = last(history, MODEL_ROLLED_BACK)
    history.change(record, value=with_fields(record, version="v9"))


def test_a_batch_that_failed_and_became_a_version_at_its_next_attempt_is_in_order(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.fail()
    (_, batch) = history.told(TRAINING_BATCH_SEALED)
    history.retry(batch.payload.batch_id)
    history.deploy()
    report = history.audit()
    assert report.clean, report.faults
    assert [each.payload.version for each in history.told(MODEL_REGISTERED)] == ["v1", "v2"]


@pytest.mark.parametrize(("kinds", "damage"), PLANTED, ids=[damage.__name__ for _, damage in PLANTED])
def test_a_planted_fault_is_found_and_nothing_else(kinds: list[str], damage: Damage, tmp_path: Path) -> None:
    history = sound(tmp_path)
    assert history.audit().clean
    damage(history)
    report = history.audit()
    assert [fault.kind for fault in report.faults] == kinds, report.faults
    assert not report.clean
    assert all(fault.detail for fault in report.faults)


def test_every_kind_of_fault_is_planted_and_has_its_advice() -> None:
    assert {kind for kinds, _ in (*PLANTED, *CURATED, *ERASED) for kind in kinds} == set(FAULT_KINDS) == set(ADVICE)


def test_a_fault_says_where_and_of_what(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("lost")
    acknowledge(history, "collector", INTERACTION_COMPLETED)
    record = last(history, INTERACTION_COMPLETED)
    (fault,) = history.audit().faults
    recorded_id = derive_event_id(tenant="default", cause_source="/agents/tester", cause_id="lost", topic=INTERACTION_RECORDED.name)
    assert (fault.topic, fault.partition, fault.offset) == (record.topic, record.partition, record.offset)
    assert UUID(fault.event_id) == recorded_id
    assert "collector" in fault.detail


def test_a_fault_names_the_record_that_is_owed_and_none_that_was_given_up_before_it(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete("lost")
    acknowledge(history, "collector", INTERACTION_COMPLETED)
    history.bury(INTERACTION_COMPLETED, "collector", last(history, INTERACTION_COMPLETED), "crashed")
    history.settle(INTERACTION_COMPLETED, "collector", "dropped")
    assert history.audit().clean
    again = history.again(INTERACTION_COMPLETED)
    acknowledge(history, "collector", INTERACTION_COMPLETED)
    (fault,) = history.audit().faults
    assert (fault.topic, fault.partition, fault.offset) == again


def test_a_letter_that_lies_among_those_of_another_reader_explains_nothing(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("lost")
    acknowledge(history, "collector", INTERACTION_COMPLETED)
    history.bury(INTERACTION_COMPLETED, "collector", last(history, INTERACTION_COMPLETED), "crashed")
    assert history.audit().clean
    (letter,) = history.records(INTERACTION_COMPLETED.dead_letters("collector").name)
    history.remove(letter)
    others = INTERACTION_RECORDED.dead_letters("assessor").name
    history.append(Outgoing(others, letter.partition, letter.key, letter.value, letter.headers))
    assert history.audit().fault_counts == {"unreadable": 1, "missing_effect": 1}


def test_a_store_that_is_away_is_no_fault_of_its_artifacts(tmp_path: Path) -> None:
    history = sound(tmp_path)
    with pytest.raises(CouldNotJudge, match="is not there"):
        asyncio.run(judge(history, FileStore(tmp_path / "nowhere"), store_uri=(tmp_path / "nowhere").as_uri()))


def test_what_no_store_of_ours_can_reach_cannot_be_judged(tmp_path: Path) -> None:
    history = sound(tmp_path)
    record = last(history, TRAINING_BATCH_SEALED)
    dataset = orjson.loads(record.value or b"")["dataset"] | {"uri": "s3://bucket/datasets/1.json"}
    history.change(record, value=with_fields(record, dataset=dataset))
    with pytest.raises(CouldNotJudge, match=r"s3://bucket/datasets/1\.json"):
        history.audit()


def test_thousands_of_faults_are_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete(*(f"lost-{number}" for number in range(1_200)))
    acknowledge(history, "collector", INTERACTION_COMPLETED)
    report = history.audit()
    assert report.fault_counts == {"missing_effect": 1_200}
    assert len(report.faults) == 1_000
