"""The register of erasures: what a request covers, and what it does not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.schemas.erasure import ErasureRequested, Erasures, Names

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NAMES = Names(
    tenant="acme",
    occurred_at=NOON,
    target="qwen3:8b",
    recorded_id="6d0a2f0e-7f0e-4a53-9a0c-3f1e6a1c7b21",
    interaction_id="i-1",
    source="/agents/a",
    conversation_id="c-1",
    agent="ledger",
)


def request(scope: Any = "conversation", subject: str = "c-1", **changes: Any) -> ErasureRequested:
    fields: dict[str, Any] = {"tenant": "acme", "requested_by": "ada", "requested_at": NOON, **changes}
    return ErasureRequested(scope=scope, subject=subject, **fields)


def taken(*requests: ErasureRequested) -> Erasures:
    erasures = Erasures()
    for number, each in enumerate(requests):
        assert erasures.take(f"e-{number}", each)
    return erasures


@pytest.mark.parametrize(
    ("scope", "subject"),
    [
        *(("interaction", "i-1"), ("interaction", NAMES.recorded_id), ("conversation", "c-1"), ("agent", "ledger")),
        ("tenant", "acme"),
    ],
)
def test_an_interaction_is_covered_by_any_of_its_names_until_it_was_asked_for(scope: str, subject: str) -> None:
    erasures = taken(request(scope, subject))
    assert erasures.covers(NAMES) == "e-0"
    assert erasures.covers(NAMES._replace(occurred_at=NOON - HOUR)) == "e-0"
    assert erasures.covers(NAMES._replace(occurred_at=NOON + timedelta(microseconds=1))) is None
    assert erasures.covers(NAMES._replace(tenant="another")) is None
    assert taken(request(scope, "another")).covers(NAMES) is None


def test_ids_are_those_of_their_source_where_the_request_names_one() -> None:
    assert taken(request("interaction", "i-1", interaction_source="/agents/a")).covers(NAMES) == "e-0"
    assert taken(request("interaction", "i-1", interaction_source="/agents/b")).covers(NAMES) is None
    assert taken(request("interaction", "i-1")).covers(NAMES._replace(source=None)) == "e-0"


def test_a_target_is_meant_alone_where_it_is_named() -> None:
    assert taken(request(target_model="qwen3:8b:latest")).covers(NAMES) == "e-0"
    assert taken(request(target_model="qwen3:4b")).covers(NAMES) is None
    assert taken(request(target_model="qwen3:8b")).covers(NAMES._replace(target=None)) is None


def test_a_name_that_is_spelled_otherwise_in_unicode_is_the_same_name() -> None:
    assert taken(request(subject="Zu\u0308rich")).covers(NAMES._replace(conversation_id="Z\u00fcrich")) == "e-0"
    assert taken(request(subject="Z\u00fcrich")).covers(NAMES._replace(conversation_id="Zu\u0308rich")) == "e-0"


def test_what_continues_an_erased_interaction_repeats_it_and_is_covered() -> None:
    erasures = taken(request("interaction", "i-1", interaction_source="/agents/a"))
    after = NAMES._replace(interaction_id="i-2", recorded_id=None, continues_interaction="i-1")
    assert erasures.covers(after) == "e-0"
    assert erasures.covers(after._replace(occurred_at=NOON + HOUR)) is None
    assert erasures.covers(after._replace(source="/agents/b")) is None


def test_what_is_said_of_an_erased_interaction_later_is_known_by_its_id_alone() -> None:
    about = Names("acme", NOON + HOUR, interaction_id="i-1", source="/agents/a", conversation_id="c-1")
    assert taken(request("interaction", "i-1")).covers_said(about) == "e-0"
    assert taken(request("conversation"), request("tenant", "acme")).covers_said(about) is None
    assert taken(request("conversation")).covers_said(about._replace(occurred_at=NOON)) == "e-0"
    assert taken(request("conversation", target_model="qwen3:8b")).covers_said(about._replace(occurred_at=NOON)) is None


def test_a_withdrawal_erases_nothing_and_an_erasure_withdraws_too() -> None:
    withdrawn = taken(request("agent", "ledger", what="training"))
    assert withdrawn.covers(NAMES) is None
    assert withdrawn.withdrawn(NAMES) == "e-0"
    assert withdrawn.withdrawn(NAMES._replace(occurred_at=NOON + HOUR)) is None
    assert taken(request()).withdrawn(NAMES) == "e-0"
    both = taken(request(), request(what="training", requested_at=NOON + HOUR))
    assert both.withdrawn(NAMES) == "e-0"
    assert both.withdrawn(NAMES._replace(occurred_at=NOON + HOUR)) == "e-1"


def test_the_first_record_of_an_id_counts() -> None:
    erasures = taken(request())
    assert not erasures.take("e-0", request("tenant", "acme"))
    assert erasures.covers(NAMES._replace(conversation_id="c-2")) is None


few = st.sampled_from
moments = st.integers(0, 4).map(lambda hours: NOON + hours * HOUR)
requests = st.builds(
    ErasureRequested,
    tenant=few(["acme", "b"]),
    target_model=few(["*", "m", "n"]),
    scope=few(["interaction", "conversation", "agent", "tenant"]),
    subject=few(["1", "2", "acme", "b", "\u00fc"]),
    requested_by=st.just("ada"),
    requested_at=moments,
    interaction_source=few([None, "/a", "/b"]),
    what=few(["everything", "training"]),
)
some = few([None, "1", "2", "u\u0308"])
named = st.builds(
    Names,
    few(["acme", "b", "c"]),
    moments,
    few([None, "m", "n"]),
    recorded_id=some,
    interaction_id=some,
    source=few([None, "/a", "/b"]),
    conversation_id=some,
    agent=some,
    continues_interaction=some,
)


def means(asked: ErasureRequested, names: Names) -> bool:
    """The same in as many words."""
    if asked.tenant != names.tenant or names.occurred_at > asked.requested_at or asked.target_model not in ("*", names.target):
        return False
    source_fits = asked.interaction_source in (None, names.source)
    by_id = names.interaction_id, names.continues_interaction
    subjects = {
        "interaction": [*(by_id if source_fits else ()), *([names.recorded_id] if asked.interaction_source is None else ())],
        "conversation": [names.conversation_id],
        "agent": [names.agent],
        "tenant": [names.tenant],
    }[asked.scope]
    return asked.subject in [each and each.replace("u\u0308", "\u00fc") for each in subjects]


@given(st.lists(requests, max_size=12), named, st.randoms())
def test_in_whatever_order_requests_come_the_earliest_that_means_it_is_found(
    asked: list[ErasureRequested], names: Names, order: Any
) -> None:
    numbered = [(f"{number:02}", each) for number, each in enumerate(asked)]
    first = min(
        ((each.requested_at, key) for key, each in numbered if each.what == "everything" and means(each, names)), default=None
    )
    either = min(((each.requested_at, key) for key, each in numbered if means(each, names)), default=None)
    order.shuffle(numbered)
    erasures = Erasures()
    for key, each in [*numbered, *numbered]:
        erasures.take(key, each)
    assert erasures.covers(names) == (first and first[1])
    assert erasures.withdrawn(names) == (either and either[1])


def test_a_look_costs_the_same_whatever_the_number_of_requests() -> None:
    def seconds(erasures: Erasures) -> float:
        def once() -> float:
            began = time.perf_counter()
            for _ in range(2_000):
                erasures.covers(NAMES)
            return time.perf_counter() - began

        return min(once() for _ in range(7))

    few_of_them = seconds(taken(*(request(subject=f"other-{number}") for number in range(10))))
    many = seconds(taken(*(request(subject=f"other-{number}") for number in range(20_000))))
    assert many < 5 * few_of_them
