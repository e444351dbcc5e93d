"""Every fault that a dataset can have beside its fresh rows, planted into a sound history: exactly that is found."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.rebuilding.rebuild import SealedChain
from ruminate.command.datasets.look import verify
from ruminate.schemas.flow import REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.schemas.interaction import Message
from ruminate.schemas.payload import ArtifactReference
from tests.unit.audit_history import TARGET, History, curated, with_fields
from tests.unit.making import question

Damage = Callable[[History], None]
Manifest = dict[str, Any]
CURATED: Final[list[tuple[list[str], Damage]]] = []


def plants(*kinds: str) -> Callable[[Damage], Damage]:
    """Damages a history so that it has faults of these kinds, and no others."""

    def register(damage: Damage) -> Damage:
        CURATED.append((list(kinds), damage))
        return damage

    return register


def edit(history: History, change: Callable[[Manifest, Path], object], *, batch: int = 1) -> None:
    """Another dataset in place of that of a batch, by default of the last; the batch announces it."""
    record = sorted(history.records(TRAINING_BATCH_SEALED.name), key=lambda each: each.timestamp)[batch]
    sealed = orjson.loads(record.value or b"")
    folder = history.folder / f"edited-{batch}"
    asyncio.run(history.store.fetch(ArtifactReference(**sealed["dataset"]), to=folder))
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    change(manifest, folder)
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    reference = asyncio.run(history.store.put_tree(folder, kind="datasets", name="edited"))
    history.change(record, value=with_fields(record, dataset=reference.model_dump()))


def lines_of(folder: Path, name: str) -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


def first_batch(history: History) -> tuple[Manifest, dict[str, list[bytes]]]:
    """The manifest and the lines of the first batch."""
    folder = history.folder / "first"
    asyncio.run(history.store.fetch(history.batches()[0].dataset, to=folder))
    names = ("train.jsonl", "holdout.jsonl", "verifiable.jsonl", "verifiable-holdout.jsonl")
    return orjson.loads((folder / "manifest.json").read_bytes()), {name: lines_of(folder, name) for name in names}


def put(folder: Path, name: str, number: int, line: bytes, told: dict[str, Any]) -> None:
    """A line in place of another, and its hash in what is told of it."""
    lines = lines_of(folder, name)
    lines[number] = line
    (folder / name).write_bytes(b"".join(lines))
    told["sha256"] = hashlib.sha256(line).hexdigest()


# Bytes


@pytest.mark.parametrize(
    "name", ["train.jsonl", "replay.jsonl", "holdout.jsonl", "preferences.jsonl", "verifiable.jsonl", "verifiable-holdout.jsonl"]
)
def test_a_line_of_any_file_that_is_not_the_one_of_its_manifest_is_found(name: str, tmp_path: Path) -> None:
    history = curated(tmp_path)
    edit(history, lambda _, folder: (folder / name).write_bytes((folder / name).read_bytes().replace(b"role", b"Role", 1)))
    faults = history.audit().faults
    assert [fault.detail for fault in faults if fault.detail.startswith(f"qwen3_8b-000002: line 1 of {name}: not what")]
    assert {fault.kind for fault in faults} == {"dataset_differs"}


@plants("dataset_differs")
def a_file_has_a_line_more_than_its_manifest_names(history: History) -> None:
    def add(manifest: Manifest, folder: Path) -> None:
        del manifest
        (folder / "preferences.jsonl").write_bytes(b"".join([*lines_of(folder, "preferences.jsonl"), b"{}\n"]))

    edit(history, add)


@plants("dataset_differs")
def a_row_is_counted_as_one_that_reasons_and_does_not(history: History) -> None:
    def quieten(manifest: Manifest, folder: Path) -> None:
        told = manifest["rehearsed"][0]
        row = orjson.loads(lines_of(folder, "replay.jsonl")[0])
        del row["completion"][0]["reasoning_content"]
        row["chat_template_kwargs"]["enable_thinking"] = False
        before = told["sha256"]
        put(folder, "replay.jsonl", 0, orjson.dumps(row) + b"\n", told)
        assert before != told["sha256"]
        told["origin"], told["named"], told["number"] = "anchor", "manners", None
        told["recorded_id"] = told["conversation"] = told["partition"] = None
        manifest["policy"]["anchor_rows"] = {"manners": "0" * 64}
        manifest["counts"] |= {"replay": 1, "anchors": 1}

    edit(history, quieten)


@plants("dataset_differs")
def a_batch_announces_fewer_rehearsed_rows_than_it_has(history: History) -> None:
    record = sorted(history.records(TRAINING_BATCH_SEALED.name), key=lambda each: each.timestamp)[1]
    history.change(record, value=with_fields(record, replay_rows=1))


@plants("dataset_differs")
def a_batch_announces_rehearsed_rows_with_written_thinking_and_has_none(history: History) -> None:
    record = sorted(history.records(TRAINING_BATCH_SEALED.name), key=lambda each: each.timestamp)[1]
    history.change(record, value=with_fields(record, replay_generated_rows=1))


@plants("replay_differs")
def a_rehearsed_row_is_said_to_have_written_thinking_and_was_captured(history: History) -> None:
    def written(manifest: Manifest, _: Path) -> None:
        manifest["rehearsed"][0]["generated_thinking"] = True
        manifest["counts"]["replay_generated"] = 1

    edit(history, written)
    record = sorted(history.records(TRAINING_BATCH_SEALED.name), key=lambda each: each.timestamp)[1]
    history.change(record, value=with_fields(record, replay_generated_rows=1))


@plants("dataset_differs", "dataset_differs")
def a_manifest_counts_more_anchors_than_it_names(history: History) -> None:
    edit(history, lambda manifest, _: manifest["counts"].update(replay=1, anchors=1))


@plants("dataset_differs")
def a_pair_comes_from_a_record_that_may_not_teach(history: History) -> None:
    edit(history, lambda manifest, _: manifest["pairs"][0].update(chosen=10_000))


@plants("dataset_differs")
def a_question_is_not_what_its_record_asks(history: History) -> None:
    def swap(manifest: Manifest, folder: Path) -> None:
        del folder
        teaches = [row["offset"] for row in manifest["rows"] if row["split"] == "train"]
        asked = next(each for each in manifest["questions"] if each["offset"] in teaches)
        asked["offset"] = next(offset for offset in teaches if offset != asked["offset"])

    edit(history, swap)


# Rehearsal


@plants("replay_differs")
def a_rehearsed_row_has_other_bytes_than_were_trained(history: History) -> None:
    def reword(manifest: Manifest, folder: Path) -> None:
        line = lines_of(folder, "replay.jsonl")[0].replace(b"Therefore", b"Hence")
        put(folder, "replay.jsonl", 0, line, manifest["rehearsed"][0])

    edit(history, reword)


@plants("replay_differs", "leaked")
def a_rehearsed_row_is_held_out_in_the_batch_that_it_names(history: History) -> None:
    first, lines = first_batch(history)
    row = next(row for row in first["rows"] if row["split"] == "holdout")

    def rehearse(manifest: Manifest, folder: Path) -> None:
        told = manifest["rehearsed"][0]
        told |= {name: row[name] for name in told if name in row and name != "origin"}
        put(folder, "replay.jsonl", 0, lines["holdout.jsonl"][0], told)

    edit(history, rehearse)


@plants("replay_differs")
def a_rehearsed_row_names_a_batch_that_is_not_before_its_own(history: History) -> None:
    edit(history, lambda manifest, _: manifest["rehearsed"][0].update(number=2))


@plants("replay_differs")
def a_rehearsed_row_names_another_interaction_than_it_had_when_it_was_fresh(history: History) -> None:
    first, _ = first_batch(history)

    def rename(manifest: Manifest, folder: Path) -> None:
        del folder
        told = manifest["rehearsed"][0]
        other = next(row for row in first["rows"] if row["split"] == "train" and row["recorded_id"] != told["recorded_id"])
        told |= {name: other[name] for name in ("recorded_id", "event_id", "offset", "conversation")}

    edit(history, rename)


@plants("replay_differs")
def a_row_is_rehearsed_twice(history: History) -> None:
    def repeat(manifest: Manifest, folder: Path) -> None:
        manifest["rehearsed"][1] = manifest["rehearsed"][0]
        put(folder, "replay.jsonl", 1, lines_of(folder, "replay.jsonl")[0], manifest["rehearsed"][1])

    edit(history, repeat)


@plants("replay_differs")
def an_anchor_is_of_a_file_that_the_policy_does_not_name(history: History) -> None:
    def anchor(manifest: Manifest, folder: Path) -> None:
        del folder
        manifest["rehearsed"][0] |= {"origin": "anchor", "named": "manners", "number": None}
        manifest["counts"] |= {"replay": 1, "anchors": 1}

    edit(history, anchor)


# What is held out


@plants("leaked")
def a_conversation_is_held_out_in_one_batch_and_trained_in_the_next(history: History) -> None:
    first, _ = first_batch(history)
    held_out = next(row for row in first["rows"] if row["split"] == "holdout")
    edit(history, lambda manifest, _: manifest["rows"][0].update(conversation=held_out["conversation"]))


@plants("leaked", "row_differs")
def a_question_is_held_out_in_one_batch_and_trained_in_the_next(history: History) -> None:
    first, lines = first_batch(history)
    held_out = next(row for row in first["rows"] if row["split"] == "holdout")

    def ask(manifest: Manifest, folder: Path) -> None:
        row = next(row for row in manifest["rows"] if row["split"] == "train")
        forget_question(manifest, folder, row["offset"])
        put(folder, "train.jsonl", 0, lines["holdout.jsonl"][0], row)
        row["question"] = held_out["question"]

    edit(history, ask)
    announce_a_question_less(history)


def announce_a_question_less(history: History) -> None:
    record = sorted(history.records(TRAINING_BATCH_SEALED.name), key=lambda each: each.timestamp)[1]
    questions = orjson.loads(record.value or b"")["verifiable_questions"]
    history.change(record, value=with_fields(record, verifiable_questions=questions - 1))


def forget_question(manifest: Manifest, folder: Path, offset: int) -> None:
    """What a record gives for practice goes: it is to be changed, and that would not be what it asks."""
    asked = [each for each in manifest["questions"] if each["split"] == "train"]
    gone = next(place for place, each in enumerate(asked) if each["offset"] == offset)
    lines = lines_of(folder, "verifiable.jsonl")
    del lines[gone]
    (folder / "verifiable.jsonl").write_bytes(b"".join(lines))
    manifest["questions"].remove(asked[gone])
    manifest["counts"]["verifiable"] -= 1


@plants("dataset_differs")
def a_row_is_said_to_ask_something_else_than_it_asks(history: History) -> None:
    def rename(manifest: Manifest, folder: Path) -> None:
        row = next(row for row in manifest["rows"] if row["split"] == "train")
        forget_question(manifest, folder, row["offset"])
        row["question"] = "f" * 32

    edit(history, rename)
    announce_a_question_less(history)


@plants("leaked")
def what_teaches_without_a_row_is_held_out_by_its_conversation(history: History) -> None:
    first, _ = first_batch(history)
    held_out = next(row for row in first["rows"] if row["split"] == "holdout")
    edit(history, lambda manifest, _: manifest["aside"][0].update(conversation=held_out["conversation"]))


@plants("leaked")
def what_was_trained_is_held_out_later(history: History) -> None:
    first, _ = first_batch(history)
    trained = next(row for row in first["rows"] if row["split"] == "train")

    def hold_out(manifest: Manifest, folder: Path) -> None:
        del folder
        next(row for row in manifest["rows"] if row["split"] == "holdout")["conversation"] = trained["conversation"]

    edit(history, hold_out)


@plants("leaked")
def a_preference_comes_from_what_is_held_out(history: History) -> None:
    def prefer(manifest: Manifest, folder: Path) -> None:
        row = next(row for row in manifest["rows"] if row["split"] == "holdout")
        held_out = orjson.loads(lines_of(folder, "holdout.jsonl")[0])
        pair = orjson.loads(lines_of(folder, "preferences.jsonl")[0]) | {"prompt": held_out["prompt"]}
        put(folder, "preferences.jsonl", 0, orjson.dumps(pair) + b"\n", manifest["pairs"][0])
        manifest["pairs"][0]["rejected"] = row["offset"]

    edit(history, prefer)


@plants("dataset_differs", "leaked")
def a_question_for_practice_is_held_out_and_passed_off_as_another(history: History) -> None:
    _, lines = first_batch(history)

    def practise(manifest: Manifest, folder: Path) -> None:
        asked = next(each for each in manifest["questions"] if each["split"] == "train")
        put(folder, "verifiable.jsonl", 0, lines["verifiable-holdout.jsonl"][0], asked)

    edit(history, practise)


# Ratio, report


@plants("below_ratio")
def too_few_rows_reason_with_those_that_are_rehearsed(history: History) -> None:
    def lower(manifest: Manifest, folder: Path) -> None:
        for number, told in enumerate(manifest["rehearsed"]):
            row = orjson.loads(lines_of(folder, "replay.jsonl")[number])
            del row["completion"][0]["reasoning_content"]
            row["chat_template_kwargs"]["enable_thinking"] = False
            put(folder, "replay.jsonl", number, orjson.dumps(row) + b"\n", told)
            told |= {"origin": "anchor", "named": "manners", "number": None, "reasoning": False}
            told["recorded_id"] = told["conversation"] = None
        manifest["policy"]["anchor_rows"] = {"manners": "0" * 64}
        manifest["counts"] |= {"replay": 0, "anchors": 2}

    edit(history, lower)


@plants("not_validated")
def a_batch_was_sealed_although_a_check_had_not_passed(history: History) -> None:
    def fail(manifest: Manifest, folder: Path) -> None:
        del manifest
        report = orjson.loads((folder / "report.json").read_bytes())
        report["checks"][7] |= {"passed": False, "problems": ["row at offset 3: it answers a question that is held out"]}
        (folder / "report.json").write_bytes(orjson.dumps(report))

    edit(history, fail)


@plants("not_validated")
def a_report_names_no_check(history: History) -> None:
    edit(history, lambda _, folder: (folder / "report.json").write_bytes(b'{"checks": []}'))


@plants("not_validated")
def a_report_is_none(history: History) -> None:
    edit(history, lambda _, folder: (folder / "report.json").write_bytes(b"garbage"))


@plants("artifact_missing")
def a_dataset_has_no_report(history: History) -> None:
    edit(history, lambda _, folder: (folder / "report.json").unlink())


# Consent


def forbid(history: History, recorded_id: str) -> None:
    """Its tenant does not allow training with what was judged."""
    for record in history.records(REASONING_ASSESSED.name):
        said = orjson.loads(record.value or b"")
        if said["recorded_id"] == recorded_id:
            history.change(record, value=with_fields(record, interaction=said["interaction"] | {"training_allowed": False}))


def last_manifest(history: History) -> Manifest:
    manifest: Manifest = asyncio.run(load_manifest(history.store, history.batches()[-1].dataset)).model_dump(mode="json")
    return manifest


@plants("no_consent")
def what_teaches_without_a_row_may_not(history: History) -> None:
    forbid(history, last_manifest(history)["aside"][0]["recorded_id"])


@plants("no_consent", "no_consent")
def a_row_may_not_be_taught_and_is_rehearsed_later(history: History) -> None:
    forbid(history, last_manifest(history)["rehearsed"][0]["recorded_id"])


# What is left out


@plants("offset_unaccounted")
def a_record_counts_as_contaminated_and_nothing_says_by_what(history: History) -> None:
    history.complete("again", messages=(Message(role="user", content=question(1)),))
    history.complete("new", messages=(Message(role="user", content=question(91)),))
    history.collect()
    history.assess()
    history.seal()

    def lie(manifest: Manifest, folder: Path) -> None:
        del folder
        assert [left["reason"] for left in manifest["left_out"]] == ["duplicate_exact"]
        manifest["left_out"][0]["reason"] = "contaminated"

    edit(history, lie, batch=2)


@plants("offset_unaccounted")
def a_record_counts_as_left_out_for_another_and_never_had_a_row(history: History) -> None:
    def lie(manifest: Manifest, folder: Path) -> None:
        del folder
        manifest["left_out"][0]["reason"] = "over_cluster_limit"

    edit(history, lie)


@plants("offset_unaccounted", "offset_unaccounted")
def what_teaches_without_a_row_is_in_no_account(history: History) -> None:
    def forget(manifest: Manifest, folder: Path) -> None:
        del folder
        offset = manifest["aside"][0]["offset"]
        manifest["left_out"] = [left for left in manifest["left_out"] if left["offset"] != offset]

    edit(history, forget)


@pytest.mark.parametrize(("kinds", "damage"), CURATED, ids=[damage.__name__ for _, damage in CURATED])
def test_a_planted_fault_is_found_and_nothing_else(kinds: list[str], damage: Damage, tmp_path: Path) -> None:
    history = curated(tmp_path)
    assert history.audit().clean
    damage(history)
    report = history.audit()
    assert [fault.kind for fault in report.faults] == kinds, report.faults


_OF_THE_STORE: Final = {"dataset_differs", "replay_differs", "leaked", "below_ratio", "not_validated"}


@pytest.mark.parametrize(
    ("kinds", "damage"),
    [each for each in CURATED if set(each[0]) <= _OF_THE_STORE],
    ids=[damage.__name__ for kinds, damage in CURATED if set(kinds) <= _OF_THE_STORE],
)
def test_what_the_store_alone_shows_is_found_by_verify_too(kinds: list[str], damage: Damage, tmp_path: Path) -> None:
    history = curated(tmp_path)
    damage(history)

    async def problems() -> list[list[str]]:
        chain = SealedChain(0, "default", TARGET, tuple(history.batches()))
        return [found async for _, found in verify(history.store, chain)]

    *before, found = asyncio.run(problems())
    assert before == [[]] * len(before)
    assert len(found) == len(kinds), found


def test_a_history_with_all_that_a_dataset_can_hold_is_sound(tmp_path: Path) -> None:
    history = curated(tmp_path)
    manifest = last_manifest(history)
    assert all(manifest[name] for name in ("rehearsed", "pairs", "aside", "left_out"))
    assert {each["split"] for each in (*manifest["rows"], *manifest["questions"])} == {"train", "holdout"}
    assert history.audit().clean


def test_of_rows_of_a_batch_that_is_gone_nothing_is_said(tmp_path: Path) -> None:
    history = curated(tmp_path)
    reference = history.batches()[0].dataset
    Path(reference.uri.removeprefix("file://").replace("%3A", ":")).unlink()
    assert [fault.kind for fault in history.audit().faults] == ["artifact_missing"]
