"""The plan of topics: what is created, what is changed, what is refused and what is left alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from ruminate.schemas.flow import (
    CHANGELOGS,
    DERIVED,
    ERASABLE,
    GROUP_READERS,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    RAW,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
)
from ruminate.shared.lag import READ_BY
from ruminate.shared.topic_plan import AnyTopic, Found, Plan, plan_lines, plan_topics, settings_of, spelled
from ruminate.shared.topics import EVERY_TOPIC, main

LETTERS = INTERACTION_COMPLETED.dead_letters("collector")
DAY_MS = str(24 * 3600 * 1000)


def as_wanted(topic: AnyTopic, *, replication: int = 1) -> Found:
    return Found(partitions=topic.partitions, replication=replication, settings=settings_of(topic, replication=replication))


def drifted(topic: AnyTopic, **settings: str) -> Found:
    """The topic with other settings, spelled with underscores, and ten records in it."""
    found = as_wanted(topic)
    mine = {name.replace("_", "."): value for name, value in settings.items()}
    return replace(found, settings={**found.settings, **mine}, set_by_hand=frozenset(mine), offsets=10, records=10)


def plan_of(topic: AnyTopic, found: Found, *, replication: int = 1, allow_loss: tuple[str, ...] = ()) -> Plan:
    return plan_topics([topic], {topic.name: found}, replication=replication, allow_loss=allow_loss)


def test_what_is_missing_is_created_as_the_flow_says() -> None:
    plan = plan_topics(EVERY_TOPIC, {}, replication=3)
    made = {creation.name: creation for creation in plan.creations}
    assert made.keys() == {topic.name for topic in EVERY_TOPIC}
    assert all(creation.settings["min.insync.replicas"] == "2" for creation in plan.creations)
    recorded = made[INTERACTION_RECORDED.name]
    assert (recorded.partitions, recorded.settings["cleanup.policy"]) == (12, "compact")
    assert made[TRAINING_BATCH_SEALED.name].settings["retention.ms"] == "-1"
    assert made[CHANGELOGS[0].name].settings["cleanup.policy"] == "compact,delete"
    assert plan.to_do == len(EVERY_TOPIC)


def test_what_is_as_the_flow_says_needs_nothing() -> None:
    plan = plan_topics(EVERY_TOPIC, {topic.name: as_wanted(topic) for topic in EVERY_TOPIC}, replication=1)
    assert plan == Plan()
    assert list(plan_lines(plan)) == ["Every topic is what the flow says."]


def test_two_in_sync_are_asked_for_from_three_replicas_on() -> None:
    assert "min.insync.replicas" not in settings_of(INTERACTION_RECORDED, replication=2)
    assert settings_of(INTERACTION_RECORDED, replication=3)["min.insync.replicas"] == "2"


def test_policies_that_differ_in_order_alone_are_the_same() -> None:
    found = as_wanted(LETTERS)
    assert plan_of(LETTERS, replace(found, settings={**found.settings, "cleanup.policy": "delete,compact"})) == Plan()


def test_a_longer_life_and_larger_records_are_changed() -> None:
    found = drifted(INTERACTION_COMPLETED, retention_ms=DAY_MS, max_message_bytes="1048588")
    plan = plan_of(INTERACTION_COMPLETED, found)
    assert [(change.what, change.old, change.new) for change in plan.changes] == [
        ("max.message.bytes", "1048588", str(16 * 1024 * 1024)),
        ("retention.ms", DAY_MS, str(7 * 24 * 3600 * 1000)),
    ]
    assert plan.refusals == ()


@pytest.mark.parametrize("before", [{"retention_ms": "-1"}, {"retention_ms": str(30 * 86_400_000)}, {"cleanup_policy": "compact"}])
def test_a_shorter_life_is_refused_where_records_would_vanish(before: dict[str, str]) -> None:
    found = replace(drifted(INTERACTION_COMPLETED, **before), older_records=4)
    plan = plan_of(INTERACTION_COMPLETED, found)
    assert plan.changes == ()
    assert "4 of its 10 records are older than 7 days and would vanish" in plan.refusals[0].why
    assert f"--allow-loss {INTERACTION_COMPLETED.name}" in plan.refusals[0].instead


def test_a_shorter_life_is_changed_where_nothing_is_that_old_or_where_the_loss_was_allowed() -> None:
    found = drifted(INTERACTION_COMPLETED, retention_ms="-1")
    assert len(plan_of(INTERACTION_COMPLETED, found).changes) == 1
    old = replace(found, older_records=4)
    assert len(plan_of(INTERACTION_COMPLETED, old, allow_loss=(INTERACTION_COMPLETED.name,)).changes) == 1
    assert plan_of(INTERACTION_COMPLETED, old, allow_loss=(LETTERS.name,)).changes == ()


def test_a_life_is_changed_as_a_whole_or_not_at_all() -> None:
    found = replace(drifted(LETTERS, cleanup_policy="compact", retention_ms="-1"), older_records=1)
    plan = plan_of(LETTERS, found)
    assert plan.changes == ()
    assert {refusal.what for refusal in plan.refusals} == {"cleanup.policy", "retention.ms"}


def test_what_is_kept_is_given_its_life_back_whatever_limited_it() -> None:
    limited = drifted(TRAINING_BATCH_SEALED, retention_ms=DAY_MS, retention_bytes="1000")
    assert {change.what for change in plan_of(TRAINING_BATCH_SEALED, limited).changes} == {"retention.ms", "retention.bytes"}


def test_smaller_records_are_refused_while_there_are_records() -> None:
    found = drifted(INTERACTION_RECORDED, max_message_bytes=str(64 * 1024 * 1024))
    (refusal,) = plan_of(INTERACTION_RECORDED, found).refusals
    assert (refusal.what, refusal.why) == (
        "max.message.bytes",
        "it holds 10 records that may be larger, and could not be written again",
    )
    assert len(plan_of(INTERACTION_RECORDED, replace(found, records=0)).changes) == 1


def test_more_partitions_of_an_ordered_topic_are_refused_and_the_way_is_a_second_version() -> None:
    found = replace(as_wanted(REASONING_ASSESSED), partitions=6, offsets=1)
    (refusal,) = plan_of(REASONING_ASSESSED, found).refusals
    assert (refusal.old, refusal.new) == ("6", "12")
    assert "add reasoning-assessed-v2 to the flow" in refusal.instead
    assert "have both written (by: assessor)" in refusal.instead
    assert "have reasoning-assessed-v2 read in its place (by: accumulator)" in refusal.instead


def test_partitions_are_added_where_no_order_can_break() -> None:
    never_written = replace(as_wanted(REASONING_ASSESSED), partitions=1)
    assert [change.what for change in plan_of(REASONING_ASSESSED, never_written).changes] == ["partitions"]
    letters = replace(as_wanted(LETTERS), partitions=6, offsets=9, records=9)
    assert [change.what for change in plan_of(LETTERS, letters).changes] == ["partitions"]
    retries = INTERACTION_COMPLETED.retries("collector")
    emptied = replace(as_wanted(retries), partitions=3, offsets=5)
    assert "Let its reader empty it" in plan_of(retries, emptied).refusals[0].instead


def test_fewer_partitions_are_refused() -> None:
    found = replace(as_wanted(REASONING_ASSESSED), partitions=24)
    (refusal,) = plan_of(REASONING_ASSESSED, found).refusals
    assert refusal.why.startswith("no broker takes partitions away")
    assert refusal.instead.startswith(
        "If it is empty, delete it and apply again. The way is a new topic: add reasoning-assessed-v2"
    )


@pytest.mark.parametrize(
    ("topic", "way"),
    [
        (LETTERS, "Stop the service that fills it, settle what stands there (`ruminate dlq list`)"),
        (
            INTERACTION_COMPLETED.retries("collector"),
            "Let its reader empty it (`ruminate status` shows its lag), stop that service",
        ),
        (CHANGELOGS[0], "Stop the monitor"),
    ],
)
def test_the_way_out_is_one_that_there_is_for_this_kind_of_side_topic(topic: AnyTopic, way: str) -> None:
    found = replace(as_wanted(topic), partitions=topic.partitions + 1, offsets=9, records=9)
    (refusal,) = plan_of(topic, found).refusals
    assert refusal.instead.startswith(f"{way}, delete {topic.name}, apply again, and start")


def test_more_replicas_are_not_ours_to_place_and_more_than_asked_for_are_left() -> None:
    (refusal,) = plan_of(LETTERS, as_wanted(LETTERS, replication=1), replication=3).refusals
    assert "kafka-reassign-partitions.sh" in refusal.instead
    plan = plan_of(LETTERS, as_wanted(LETTERS, replication=3), replication=1)
    assert plan.refusals == ()
    assert [(left.what, left.value) for left in plan.left] == [("replication", "3")]


def test_settings_of_others_are_shown_and_left() -> None:
    plan = plan_of(LETTERS, drifted(LETTERS, segment_bytes="1000000"))
    assert plan.to_do == 0
    assert [(left.what, left.value) for left in plan.left] == [("segment.bytes", "1000000")]


def test_what_holds_texts_closes_its_segments_soon_and_what_is_compacted_does_not_wait_for_garbage() -> None:
    hours, days = 3_600_000, 86_400_000
    for topic in EVERY_TOPIC:
        settings = settings_of(topic, replication=1)
        assert settings.get("segment.ms") == (str(6 * hours) if topic.holds_texts or topic in DERIVED else None)
        erasable = topic.holds_texts and "compact" in settings["cleanup.policy"]
        assert settings.get("max.compaction.lag.ms") == (str(3 * days) if erasable else None)
        assert settings.get("delete.retention.ms") == (str(7 * days) if erasable else None)
    assert {topic.name for topic in ERASABLE} == {"interaction-recorded-v1", "evidence-recorded-v1", "reasoning-assessed-v1"}
    assert {topic.name for topic in RAW} == {"interaction-completed-v1", "feedback-given-v1"}
    sooner = {"segment_ms": "1000", "max_compaction_lag_ms": "2000", "delete_retention_ms": str(30 * days)}
    assert plan_of(INTERACTION_RECORDED, drifted(INTERACTION_RECORDED, **sooner)) == Plan(), "that keeps the promise, too"
    longest = drifted(INTERACTION_RECORDED, max_compaction_lag_ms=str(2**63 - 1))
    assert "      max.compaction.lag.ms: no limit -> 3 days" in list(plan_lines(plan_of(INTERACTION_RECORDED, longest)))


def test_topics_named_like_ours_that_nothing_owns_are_shown_and_those_of_others_are_not() -> None:
    other = Found(partitions=1, replication=1, settings={})
    names = [
        *("interaction-recorded-v0", "interaction-recorded-v2", "interaction-recorded-v1-judge-dlq"),
        *("answers-given-v3-collector-retry", "ruminate-monitor-old-changelog", "orders-v1", "__consumer_offsets"),
    ]
    found = {LETTERS.name: as_wanted(LETTERS)} | dict.fromkeys(names, other)
    plan = plan_topics([LETTERS], found, replication=1)
    assert plan.unowned == (
        "answers-given-v3-collector-retry",
        "interaction-recorded-v0",
        "interaction-recorded-v1-judge-dlq",
        "interaction-recorded-v2",
        "ruminate-monitor-old-changelog",
    )
    assert plan.to_do == 0


def test_a_broker_that_changes_no_topic_is_asked_for_names_alone() -> None:
    bare = Found(partitions=LETTERS.partitions, replication=1, settings={})
    assert plan_topics([LETTERS], {LETTERS.name: bare}, replication=1, changeable=False) == Plan()
    (creation,) = plan_topics([LETTERS], {}, replication=1, changeable=False).creations
    assert creation.settings == {}
    grown = plan_topics([LETTERS], {LETTERS.name: replace(bare, partitions=1)}, replication=1, changeable=False)
    assert grown.refusals[0].why == "the embedded broker changes no topic"


def test_people_read_values_with_their_units() -> None:
    week = str(int(timedelta(days=7).total_seconds() * 1000))
    assert spelled("retention.ms", week) == "7 days"
    assert spelled("retention.ms", "-1") == "for ever"
    assert spelled("retention.ms", "1500") == "1500 ms"
    assert spelled("max.message.bytes", str(17 * 1024 * 1024)) == "17 MiB"
    assert spelled("max.message.bytes", "1048588") == "1048588 bytes"
    assert spelled("cleanup.policy", "") == "unset"


def test_the_lines_name_each_difference_under_its_topic() -> None:
    short = replace(drifted(INTERACTION_COMPLETED, retention_ms="-1"), older_records=4)
    found = {
        INTERACTION_COMPLETED.name: short,
        INTERACTION_RECORDED.name: drifted(INTERACTION_RECORDED, max_message_bytes="1000", segment_bytes="9"),
    }
    plan = plan_topics([LETTERS, INTERACTION_COMPLETED, INTERACTION_RECORDED], found, replication=1)
    assert list(plan_lines(plan)) == [
        f"+ {LETTERS.name}  (12 partitions, replication 1)",
        "      cleanup.policy = compact,delete",
        "      delete.retention.ms = 7 days",
        "      max.compaction.lag.ms = 3 days",
        "      max.message.bytes = 17 MiB",
        "      retention.ms = 30 days",
        "      segment.ms = 6 hours",
        f"~ {INTERACTION_RECORDED.name}",
        "      max.message.bytes: 1000 bytes -> 17 MiB",
        f"! {INTERACTION_COMPLETED.name}",
        "      retention.ms: for ever -> 7 days",
        "        refused: 4 of its 10 records are older than 7 days and would vanish.",
        f"        Raise what the flow says, or accept it:  ruminate topics apply --allow-loss {INTERACTION_COMPLETED.name}",
        f". {INTERACTION_RECORDED.name}  segment.bytes = 9 is not ours and stays",
        "Topics: 1 to create, 1 to change, 1 refused.",
    ]


def test_what_a_reader_is_sent_back_is_its_lag_too() -> None:
    assert READ_BY["collector"] == (INTERACTION_COMPLETED, INTERACTION_COMPLETED.retries("collector"))
    assert READ_BY.keys() == GROUP_READERS.keys()


def test_a_setting_that_makes_no_sense_ends_the_container_of_topics_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMINATE_KAFKA_REPLICATION", "many")
    with pytest.raises(SystemExit, match=r"^topics: RUMINATE_KAFKA_REPLICATION: "):
        main()
