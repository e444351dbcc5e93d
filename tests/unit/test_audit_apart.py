"""What is no fault is not called one: each has a place of its own in the report."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruminate.assessor.policy import Policy
from ruminate.command.audit.findings import Report
from ruminate.command.audit.snapshot import SLACK_MS
from ruminate.schemas.envelope import derive_event_id, moment
from ruminate.schemas.erasure import ErasureRequested, Scope
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    DEAD_LETTER_SETTLED,
    ERASURE_REQUESTED,
    GROUP_READERS,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
)
from ruminate.schemas.topic import Topic
from ruminate.shared.memory import StoredRecord
from ruminate.shared.shares import Outgoing
from tests.unit.audit_history import START_MS, History, exchange, header, sound, with_fields, with_header

DAY_MS: Final = 86_400_000


def apart(report: Report) -> dict[str, int]:
    return {kind: listed.count for kind, listed in report.apart.items()}


def counts(report: Report, topic: Topic[Any]) -> tuple[int, int]:
    found = report.topics[topic.name]
    return found.repeats, found.superseded


def deliver_again(history: History, reader: str, topic: Topic[Any], serve: Callable[[], None]) -> None:
    """The reader was killed after it was acknowledged and before it committed."""
    history.committed[reader, topic.name].clear()
    serve()


def test_a_sound_history_has_no_fault_and_says_what_it_holds(tmp_path: Path) -> None:
    report = sound(tmp_path).audit()
    assert report.clean
    assert apart(report) == {}
    assert (report.batches, report.rows, report.artifacts) == (2, 6, 4)
    assert report.pending == {"trainer": 1}
    assert report.topics[INTERACTION_COMPLETED.name].records == 6
    assert report.horizon is None


def test_an_empty_log_is_clean(tmp_path: Path) -> None:
    assert History(tmp_path).audit().clean


def test_what_is_told_again_is_a_repeat(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("a")
    history.collect()
    deliver_again(history, "collector", INTERACTION_COMPLETED, history.collect)
    deliver_again(history, "assessor", INTERACTION_RECORDED, history.assess)
    report = history.audit()
    assert report.clean
    assert counts(report, INTERACTION_COMPLETED) == (1, 0)
    assert counts(report, INTERACTION_RECORDED) == (6, 0)
    assert counts(report, REASONING_ASSESSED) == (12, 0)


def test_a_repeat_of_what_is_sealed_is_accounted_for_in_the_next_batch(tmp_path: Path) -> None:
    history = sound(tmp_path)
    deliver_again(history, "assessor", INTERACTION_RECORDED, history.assess)
    history.complete("g")
    history.run()
    report = history.audit()
    assert report.clean
    assert (report.batches, report.rows) == (3, 7)


def test_what_clocks_nodes_and_rules_say_otherwise_the_second_time_is_superseded(tmp_path: Path) -> None:
    history = sound(tmp_path)
    later = moment(history.now_ms + 1).isoformat()
    history.again(TRAINING_BATCH_SEALED, value=with_fields(history.records(TRAINING_BATCH_SEALED.name)[0], sealed_at=later))
    history.again(ADAPTER_TRAINED, value=with_fields(history.records(ADAPTER_TRAINED.name)[0], duration_seconds=9.0))
    history.again(MODEL_REGISTERED, value=with_fields(history.records(MODEL_REGISTERED.name)[0], registered_at=later))
    deliver_again(history, "assessor", INTERACTION_RECORDED, lambda: history.assess(policy_version="p2"))
    report = history.audit()
    assert report.clean
    for topic, superseded in ((TRAINING_BATCH_SEALED, 1), (ADAPTER_TRAINED, 1), (MODEL_REGISTERED, 1), (REASONING_ASSESSED, 6)):
        assert counts(report, topic) == (0, superseded)


def in_other_words(record: StoredRecord) -> bytes:
    """The same interaction: its keys in another order, its accents in another form, and a field that nobody knows."""
    said = orjson.loads(unicodedata.normalize("NFD", (record.value or b"").decode()))
    return json.dumps(dict(reversed(said.items())) | {"logprob": float("nan")}, indent=1, ensure_ascii=False).encode()


def test_what_is_told_again_in_other_words_is_a_repeat(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("g", agent="J\u00fcrgen")
    history.collect()
    history.assess()
    history.complete("g", agent="J\u00fcrgen")
    index = next(at for at, each in enumerate(history.records(INTERACTION_COMPLETED.name)) if header(each, "ce_id") == "g")
    record = history.records(INTERACTION_COMPLETED.name)[index]
    history.again(INTERACTION_COMPLETED, index, value=in_other_words(record))
    history.collect()
    report = history.audit()
    assert report.clean
    assert counts(report, INTERACTION_COMPLETED) == (2, 0)
    assert apart(report) == {}


def test_what_its_reader_takes_is_an_event_however_odd(tmp_path: Path) -> None:
    """NaN where nobody looks, and a header that is null where it may be left out."""
    history = History(tmp_path)
    history.complete("g")
    (record,) = history.records(INTERACTION_COMPLETED.name)
    history.change(
        record,
        value=in_other_words(record),
        headers=[*record.headers, ("ce_causationid", None)],
    )
    history.collect()
    history.assess()
    report = history.audit()
    assert report.topics[REASONING_ASSESSED.name].records == 1
    assert report.clean


def test_the_later_of_two_batches_with_one_number_is_a_rival(tmp_path: Path) -> None:
    history = sound(tmp_path)
    cause = header(history.records(REASONING_ASSESSED.name)[2], "ce_id")
    event_id = str(
        derive_event_id(tenant="default", cause_source="/ruminate/assessor", cause_id=cause, topic=TRAINING_BATCH_SEALED.name)
    )
    record = history.records(TRAINING_BATCH_SEALED.name)[0]
    headers = with_header(record, ce_id=event_id, ce_causationid=cause)
    history.again(TRAINING_BATCH_SEALED, key=event_id.encode(), headers=headers, value=with_fields(record, to_offset=2))
    history.train()
    report = history.audit()
    assert report.clean
    assert apart(report) == {"rivals": 1}


@pytest.mark.parametrize(
    ("steps", "pending"),
    [
        ((), {"collector": 1}),
        (("collect",), {"assessor": 1}),
        (("collect", "assess"), {"accumulator": 1}),
        (("collect", "assess", "seal"), {"trainer": 1}),
        (("collect", "assess", "seal", "train"), {"deployer": 1}),
        (("collect", "assess", "seal", "train", "deploy"), {}),
    ],
)
def test_what_its_reader_has_not_committed_is_pending(steps: tuple[str, ...], pending: dict[str, int], tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete("a")
    history.run()
    history.complete("b")
    for step in steps:
        getattr(history, step)()
    report = history.audit()
    assert report.clean
    assert report.pending == pending


def test_an_effect_that_is_not_committed_yet_is_neither_pending_nor_missing(tmp_path: Path) -> None:
    history = sound(tmp_path)
    for log in history.committed.values():
        log.clear()
    report = history.audit()
    assert report.clean
    assert report.pending == {"trainer": 1}


def test_a_failed_batch_and_a_refused_version_are_results(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.fail()
    history.complete("g")
    history.collect()
    history.assess()
    history.seal()
    history.train()
    history.deploy(refuse=True)
    assert history.audit().clean


# Dead letters.


def test_a_letter_that_stands_explains_and_a_conflict_is_one(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.complete("a", agent="somebody else")
    history.collect()
    report = history.audit()
    assert report.clean
    assert apart(report) == {"standing": 2}
    reasons = {says.split()[-1] for says in report.apart["standing"].first}
    assert reasons == {"conflict", "not_json"}


def test_a_dropped_letter_explains(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    history.settle(INTERACTION_COMPLETED, "collector", "dropped")
    history.now_ms += DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"dropped": 1}
    assert "by operator: because" in report.apart["dropped"].first[0]


def crashed(history: History, name: str) -> None:
    """The collector gave up an interaction that is sound."""
    history.complete(name)
    history.bury(INTERACTION_COMPLETED, "collector", history.records(INTERACTION_COMPLETED.name)[-1], "crashed")
    for (topic, partition), end in history.ends.items():
        if topic == INTERACTION_COMPLETED.name:
            history.committed["collector", topic][partition] = end


def test_a_letter_that_was_sent_back_is_pending_then_has_its_effect(tmp_path: Path) -> None:
    history = sound(tmp_path, interactions=("a",))
    crashed(history, "zz")
    history.settle(INTERACTION_COMPLETED, "collector", "replayed")
    report = history.audit()
    assert report.clean
    assert apart(report) == {"replayed": 1}
    assert report.pending == {"trainer": 1, "collector": 1}
    history.collect()
    history.assess()
    report = history.audit()
    assert report.clean
    assert report.pending == {"trainer": 1, "accumulator": 1}


UNFOLLOWED = [
    (topic, reader)
    for reader, topics in GROUP_READERS.items()
    for topic in topics
    if reader not in ("collector", "assessor", "accumulator", "trainer", "deployer")
]


@pytest.mark.parametrize(("topic", "reader"), UNFOLLOWED, ids=lambda each: each if isinstance(each, str) else each.name)
def test_a_letter_of_a_reader_that_owes_nothing_for_sure_is_pending_until_it_is_read_again(
    topic: Topic[Any], reader: str, tmp_path: Path
) -> None:
    history = sound(tmp_path, interactions=("a",))
    history.append(Outgoing(topic.name, 0, b"", b"garbage", []))
    (garbage,) = history.records(topic.name)
    history.bury(topic, reader, garbage, "not_json")
    history.settle(topic, reader, "replayed")
    # Where the audit reads the topic itself, what is no event is a fault of whoever wrote it.
    unreadable = {"unreadable"} if topic is ERASURE_REQUESTED else set()
    report = history.audit()
    assert report.kinds() == unreadable
    assert apart(report) == {"replayed": 1}
    assert report.pending == {"trainer": 1, reader: 1}
    history.committed[reader, topic.retries(reader).name] = {0: 1}
    report = history.audit()
    assert report.kinds() == unreadable
    assert report.pending == {"trainer": 1}


def test_a_letter_that_was_sent_back_may_be_dead_again_and_be_dropped(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    history.settle(INTERACTION_COMPLETED, "collector", "replayed")
    history.collect()
    report = history.audit()
    assert report.clean
    assert apart(report) == {"replayed": 1, "standing": 1}
    letters = history.records(INTERACTION_COMPLETED.dead_letters("collector").name)
    history.settle(INTERACTION_COMPLETED, "collector", "dropped", index=len(letters) - 1)
    history.now_ms += DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"replayed": 1, "dropped": 1}


@pytest.mark.parametrize("action", ["dropped", "replayed"])
def test_a_letter_explains_at_each_step_of_its_settling(action: str, tmp_path: Path) -> None:
    """The record back on its way, the word, the tombstone: whoever looks between two of them misses nothing."""
    history = sound(tmp_path)
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    steps = {place: len(log) for place, log in history.logs.items()}
    history.settle(INTERACTION_COMPLETED, "collector", action)
    letters = INTERACTION_COMPLETED.dead_letters("collector").name
    later = [each for (name, number), log in history.logs.items() for each in log[steps.get((name, number), 0) :]]
    later.sort(key=lambda record: record.timestamp)
    assert [record.topic for record in later][-2:] == [DEAD_LETTER_SETTLED.name, letters]
    for record in reversed(later):
        assert history.audit().clean
        history.remove(record)
        history.ends[record.topic, record.partition] -= 1
    assert apart(history.audit()) == {"standing": 1}


@pytest.mark.parametrize("said", [True, False])
def test_a_letter_that_was_sent_back_explains_when_it_or_its_retry_has_expired(said: bool, tmp_path: Path) -> None:
    """Whoever sent it back was perhaps cut short before he said so: then the retry says it, and else the word."""
    history = sound(tmp_path, interactions=("a",))
    history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.collect()
    letters, retries = INTERACTION_COMPLETED.dead_letters("collector").name, INTERACTION_COMPLETED.retries("collector").name
    history.settle(INTERACTION_COMPLETED, "collector", "replayed")
    gone = retries if said else DEAD_LETTER_SETTLED.name
    for record in (*history.records(letters), *history.records(gone)):
        history.remove(record)
    if said:
        assert history.audit().kinds() == {"missing_effect"}
        history.whole_since_ms[retries] = history.now_ms + DAY_MS
    report = history.audit()
    assert report.clean
    assert report.pending == {"trainer": 1} | ({} if said else {"collector": 1})


def test_a_verdict_that_came_back_stands_at_its_new_place(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("g")
    history.collect()
    history.assess()
    history.bury(REASONING_ASSESSED, "accumulator", history.records(REASONING_ASSESSED.name)[-1], "crashed")
    history.settle(REASONING_ASSESSED, "accumulator", "replayed")
    assert history.audit().clean
    history.again(REASONING_ASSESSED, -1)  # passed on by the accumulator
    history.committed["accumulator", REASONING_ASSESSED.retries("accumulator").name] = {0: 1}
    history.seal()
    report = history.audit()
    assert report.clean
    assert report.rows == 7


def test_what_its_reader_gave_up_states_no_fact(tmp_path: Path) -> None:
    """A stranger's verdict lies in another partition and contradicts the true one: the letters say all there is to say."""
    history = sound(tmp_path)
    history.complete("g")
    history.collect()
    history.assess()
    true = history.records(REASONING_ASSESSED.name)[-1]
    history.remove(true)
    stranger = replace(true, value=with_fields(true, target_model="another"))
    never = replace(true, value=with_fields(true, recorded_id=str(UUID(int=1))))
    for each in (stranger, never):
        history.append(Outgoing(each.topic, each.partition, each.key, each.value, each.headers))
    history.append(Outgoing(true.topic, true.partition, true.key, true.value, true.headers))
    for each in history.records(REASONING_ASSESSED.name)[-3:-1]:
        history.bury(REASONING_ASSESSED, "accumulator", each, "inconsistent")
    history.seal()
    report = history.audit()
    assert report.faults == ()
    assert report.rows == 7
    assert apart(report) == {"standing": 2}


def test_a_batch_that_lies_astray_and_was_given_up_is_in_no_chain(tmp_path: Path) -> None:
    history = sound(tmp_path)
    record = history.records(TRAINING_BATCH_SEALED.name)[-1]
    beside = (record.partition + 1) % TRAINING_BATCH_SEALED.partitions
    last = history.batches()[-1]
    value = with_fields(
        record,
        assessed_partition=beside,
        number=last.number + 1,
        previous_batch_id=last.batch_id,
        after_offset=last.to_offset,
        to_offset=last.to_offset + 1,
    )
    stranger = str(UUID(int=1))
    place = history.append(Outgoing(record.topic, beside, stranger.encode(), value, with_header(record, ce_id=stranger)))
    stray = history.at(place)
    assert history.audit().kinds() == {"wrong_partition"}
    history.bury(TRAINING_BATCH_SEALED, "trainer", stray, "wrong_partition")
    report = history.audit()
    assert report.faults == ()
    assert report.batches == 2
    assert apart(report) == {"standing": 1}


# Time and compaction.


def test_a_cause_that_is_older_than_the_horizon_is_listed(tmp_path: Path) -> None:
    history = sound(tmp_path)
    for record in history.records(INTERACTION_COMPLETED.name):
        history.remove(record)
        history.begins[record.topic, record.partition] = record.offset + 1
    history.whole_since_ms[INTERACTION_COMPLETED.name] = START_MS + DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 6}
    assert report.horizon == moment(START_MS + DAY_MS)
    history.whole_since_ms[INTERACTION_COMPLETED.name] = START_MS - SLACK_MS + 1
    assert apart(history.audit()) == {"older": 6}
    history.whole_since_ms[INTERACTION_COMPLETED.name] = START_MS - SLACK_MS
    assert history.audit().fault_counts == {"unknown_cause": 6}


def test_effects_and_causes_that_may_have_left_their_topic_are_not_missed(tmp_path: Path) -> None:
    history = sound(tmp_path)
    for record in history.records(INTERACTION_RECORDED.name):
        history.remove(record)
    assert history.audit().fault_counts == {"missing_effect": 6, "unknown_cause": 6}
    history.whole_since_ms[INTERACTION_RECORDED.name] = history.now_ms + DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 12}
    history.whole_since_ms[INTERACTION_RECORDED.name] = START_MS - SLACK_MS
    assert history.audit().fault_counts == {"missing_effect": 6, "unknown_cause": 6}


def test_versions_that_may_have_left_their_topic_are_not_missed(tmp_path: Path) -> None:
    history = sound(tmp_path)
    for record in history.records(ADAPTER_TRAINED.name):
        history.remove(record)
    assert history.audit().fault_counts == {"missing_effect": 1, "unknown_cause": 1}
    history.whole_since_ms[ADAPTER_TRAINED.name] = history.now_ms + DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 2}


def test_what_is_no_event_and_whose_letter_may_have_expired_is_listed(tmp_path: Path) -> None:
    history = sound(tmp_path)
    place = history.again(INTERACTION_COMPLETED, value=b"garbage")
    history.committed["collector", INTERACTION_COMPLETED.name][place.partition] = place.offset + 1
    history.whole_since_ms[INTERACTION_COMPLETED.dead_letters("collector").name] = history.now_ms + DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 1}


def test_an_interaction_of_a_time_before_all_time_is_older_than_any_horizon(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete("g", occurred_at=datetime.fromisoformat("0001-01-01T00:00:00+14:00"))
    history.collect()
    history.remove(history.records(INTERACTION_COMPLETED.name)[0])
    history.whole_since_ms[INTERACTION_COMPLETED.name] = START_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 1}


def test_an_input_whose_letter_may_have_expired_is_listed(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("lost")
    for (topic, partition), end in history.ends.items():
        if topic == INTERACTION_COMPLETED.name:
            history.committed["collector", topic][partition] = end
    history.whole_since_ms[INTERACTION_COMPLETED.dead_letters("collector").name] = history.now_ms + DAY_MS
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 1}


def test_compaction_leaves_the_last_of_equal_records_and_no_fault(tmp_path: Path) -> None:
    history = sound(tmp_path)
    first_recorded, first_assessed = history.records(INTERACTION_RECORDED.name), history.records(REASONING_ASSESSED.name)
    deliver_again(history, "collector", INTERACTION_COMPLETED, history.collect)
    deliver_again(history, "assessor", INTERACTION_RECORDED, history.assess)
    for record in (*first_recorded, *first_assessed):
        history.remove(record)
    report = history.audit()
    assert report.clean
    assert apart(report) == {}
    history.complete("g")
    history.run()
    report = history.audit()
    assert report.clean
    assert report.rows == 7


def test_where_other_rules_refused_what_is_sealed_compaction_leaves_no_row_and_no_fault(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete("a", "b", reference_answer=None)
    history.run()
    sealed = history.records(REASONING_ASSESSED.name)
    strict = Policy(keep_overall_at_least=1.0)
    deliver_again(history, "assessor", INTERACTION_RECORDED, lambda: history.assess(strict, policy_version="p2"))
    assert orjson.loads(history.records(REASONING_ASSESSED.name)[-1].value or b"")["verdict"]["decision"] == "reject"
    assert counts(history.audit(), REASONING_ASSESSED) == (0, 2)
    for record in sealed:
        history.remove(record)
    report = history.audit()
    assert report.faults == ()
    assert apart(report) == {"erased": 2}


def test_what_was_erased_is_listed_while_its_tombstone_stands_and_where_a_row_remembers_it(tmp_path: Path) -> None:
    history = sound(tmp_path)
    recorded, assessed = history.records(INTERACTION_RECORDED.name)[0], history.records(REASONING_ASSESSED.name)[0]
    history.tombstone(recorded)
    history.tombstone(assessed)
    report = history.audit()
    assert report.clean
    assert apart(report) == {"erased": 2}
    history.remove(recorded)
    history.remove(assessed)
    report = history.audit()
    assert report.clean
    assert apart(report) == {"erased": 3}  # two tombstones, and the row of a dataset


def test_a_verdict_alone_can_be_erased(tmp_path: Path) -> None:
    history = sound(tmp_path)
    history.complete("g")
    history.collect()
    history.assess()
    record = history.records(REASONING_ASSESSED.name)[-1]
    history.tombstone(record)
    history.remove(record)
    assert history.audit().clean


@pytest.mark.parametrize(
    ("scope", "subject"),
    [("interaction", "g"), ("conversation", "conversation-g"), ("agent", "forgotten"), ("tenant", "default")],
)
def test_a_request_explains_what_was_erased_so_long_ago_that_its_tombstone_is_gone(
    scope: Scope, subject: str, tmp_path: Path
) -> None:
    history = History(tmp_path)
    history.complete("g", agent="forgotten")
    history.collect()
    history.remove(history.records(INTERACTION_RECORDED.name)[0])
    assert history.audit().kinds() == {"missing_effect"}
    request = ErasureRequested(
        scope=scope,
        subject=subject,
        requested_by="somebody",
        requested_at=moment(START_MS),
    )
    history.publish(ERASURE_REQUESTED, request, source="/ruminate/command", event_id="erasure-1")
    report = history.audit()
    assert report.clean
    assert apart(report) == {"erased": 1}


@pytest.mark.parametrize(
    "asked",
    [
        {"scope": "conversation", "subject": "conversation-g", "what": "training"},
        {"scope": "conversation", "subject": "conversation-g", "target_model": "another"},
        {"scope": "interaction", "subject": "g", "interaction_source": "/agents/another"},
        {"scope": "tenant", "subject": "default", "tenant": "another"},
    ],
)
def test_a_request_that_means_something_else_explains_nothing(asked: dict[str, Any], tmp_path: Path) -> None:
    history = History(tmp_path)
    history.complete("g", agent="forgotten")
    history.collect()
    history.remove(history.records(INTERACTION_RECORDED.name)[0])
    request = ErasureRequested(requested_by="somebody", requested_at=moment(START_MS), **asked)
    history.publish(ERASURE_REQUESTED, request, source="/ruminate/command", event_id="erasure-1")
    assert history.audit().kinds() == {"missing_effect"}


def test_names_that_nfc_changes_break_no_derivation(tmp_path: Path) -> None:
    history = History(tmp_path)
    name = "Zu\u0308rich"
    history.publish(INTERACTION_COMPLETED, exchange(name, tenant=name), source="/agents/tester", event_id=name)
    history.collect()
    history.assess()
    report = history.audit()
    assert report.clean
    assert orjson.loads(history.records(INTERACTION_RECORDED.name)[0].value or b"")["tenant"] == "Z\u00fcrich"
    history.whole_since_ms[INTERACTION_COMPLETED.name] = START_MS + DAY_MS
    history.remove(history.records(INTERACTION_COMPLETED.name)[0])
    report = history.audit()
    assert report.clean
    assert apart(report) == {"older": 1}


# Whatever happens.

HAPPENS: Final = (
    *("complete", "again", "conflict", "garbage", "kill", "drop", "replay", "compact", "erase"),
    *("collect", "assess", "assess strictly", "seal", "train", "fail", "deploy", "refuse", "forget", "revise"),
)


def step(history: History, what: str, number: int) -> None:
    """One thing that happens to a running system, where it can happen."""
    match what:
        case "complete":
            name = f"i-{len(history.records(INTERACTION_COMPLETED.name))}"
            history.complete(name, training_allowed=number % 5 != 0, reference_answer="5" if number % 3 else None)
        case "again" if names := [header(each, "ce_id") for each in history.records(INTERACTION_COMPLETED.name)]:
            history.complete(names[number % len(names)])
        case "conflict" if names := [header(each, "ce_id") for each in history.records(INTERACTION_COMPLETED.name)]:
            history.complete(names[number % len(names)], outcome="unknown")
        case "garbage" if records := history.records(INTERACTION_COMPLETED.name):
            history.again(INTERACTION_COMPLETED, number % len(records), value=b"garbage")
        case "seal":
            history.seal(commit=number % 2 == 0)
        case "kill":
            topic = (INTERACTION_COMPLETED, INTERACTION_RECORDED, TRAINING_BATCH_SEALED, ADAPTER_TRAINED)[number % 4]
            reader = {INTERACTION_COMPLETED: "collector", INTERACTION_RECORDED: "assessor", TRAINING_BATCH_SEALED: "trainer"}
            committed = history.committed[reader.get(topic, "deployer"), topic.name]
            for partition in committed:
                committed[partition] = max(0, committed[partition] - number % 3)
        case "drop" | "replay":
            name = INTERACTION_COMPLETED.dead_letters("collector").name
            standing = {each.key: at for at, each in enumerate(history.records(name)) if each.value is not None}
            for each in history.records(name):
                if each.value is None:
                    standing.pop(each.key, None)
            if standing:
                index = list(standing.values())[number % len(standing)]
                history.settle(INTERACTION_COMPLETED, "collector", "dropped" if what == "drop" else "replayed", index=index)
        case "compact":
            _compact(history, (INTERACTION_RECORDED, REASONING_ASSESSED)[number % 2])
        case "erase" if records := [each for each in history.records(INTERACTION_RECORDED.name) if each.value is not None]:
            victim = records[number % len(records)]
            history.tombstone(victim)
            cause = header(victim, "ce_id")
            for each in [each for each in history.records(REASONING_ASSESSED.name) if each.value is not None]:
                if header(each, "ce_causationid") == cause:
                    history.tombstone(each)
        case "forget" if records := [each for each in history.records(INTERACTION_RECORDED.name) if each.value is not None]:
            subject = header(records[number % len(records)], "ce_id")
            asked = len(history.records(ERASURE_REQUESTED.name))
            history.ask_to_forget(f"erasure-{asked}", scope="interaction", subject=subject)
        case "assess strictly":
            history.assess(Policy(keep_overall_at_least=1.0), policy_version="p2")
        case "refuse":
            history.deploy(refuse=True)
        case "collect" | "assess" | "train" | "fail" | "deploy" | "revise":
            getattr(history, what)()


def _compact(history: History, topic: Topic[Any]) -> None:
    """Of each key the last record is left."""
    lasts = {(each.partition, each.key): each.offset for each in history.records(topic.name)}
    for each in history.records(topic.name):
        if each.offset < lasts[each.partition, each.key]:
            history.remove(each)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(HAPPENS), st.integers(0, 1000)), max_size=40))
def test_whatever_happens_to_services_that_do_their_work_there_is_no_fault(steps: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        history = History(Path(folder))
        for what, number in steps:
            step(history, what, number)
        assert history.audit().faults == ()
        history.revise()
        history.now_ms += DAY_MS
        assert history.audit().faults == ()
        for what in ("collect", "assess", "train", "deploy"):
            step(history, what, 0)
        report = history.audit()
        assert report.faults == ()
        assert not report.pending.keys() & {"collector", "assessor"}
