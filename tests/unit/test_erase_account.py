"""How far an erasure is, in words and for programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from ruminate.command.erase.account import Account, accounts_of, details, forecast, meant, reach_of, summary
from ruminate.schemas.erasure import ErasureRequested, RecordsErased
from tests.unit.test_marking import revised, trained

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def request(**changes: Any) -> ErasureRequested:
    fields: dict[str, Any] = {"scope": "conversation", "subject": "c-1", "requested_by": "ada", "requested_at": NOON, **changes}
    return ErasureRequested(**fields)


def told(number: int, stage: Any = "tombstoned", **changes: Any) -> RecordsErased:
    fields: dict[str, Any] = {
        "target_model": "*",
        "erasure_id": "e-1",
        "stage": stage,
        "pass_number": number,
        "erased": {},
        "touched": {},
        "ends_by": {},
        "erased_at": NOON + timedelta(hours=number),
        **changes,
    }
    return RecordsErased(**fields)


def test_an_erasure_is_asked_for_then_tombstoned_then_finished_and_repeats_change_nothing() -> None:
    first, last = told(1, erased={"a-v1": 3}), told(2, "finished", gone_by=NOON + timedelta(days=3))
    asked = [("e-1", request())]
    assert accounts_of(asked, [])["e-1"].state == "asked"
    assert accounts_of(asked, [("t-1", first)])["e-1"].state == "tombstoned"
    account = accounts_of(
        [*asked, ("e-1", request(subject="other"))], [("t-2", last), ("t-1", first), ("t-1", told(9, "finished"))]
    )["e-1"]
    assert (account.state, account.request.subject, account.told) == ("finished", "c-1", (first, last))
    assert account.erased == {"a-v1": 3}
    assert account.gone_by == NOON + timedelta(days=3)
    assert orjson.loads(orjson.dumps(account.as_json()))["state"] == "finished"
    assert accounts_of([("w", request(what="training"))], [])["w"].state == "withdrawn"


def test_they_come_in_the_order_in_which_they_were_asked_for() -> None:
    asked = [
        ("b", request(requested_at=NOON + timedelta(hours=1))),
        ("c", request()),
        ("a", request(requested_at=NOON + timedelta(hours=2))),
    ]
    assert list(accounts_of(asked, [])) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "conversation c-1 of tenant default"),
        ({"scope": "tenant", "subject": "default"}, "everything of tenant default"),
        ({"scope": "agent", "subject": "a", "target_model": "qwen3:8b"}, "agent a of tenant default, asked of qwen3:8b"),
        ({"scope": "interaction", "subject": "i", "interaction_source": "/a"}, "interaction i of source /a of tenant default"),
    ],
)
def test_what_is_meant_is_said_in_words(asked: dict[str, str], words: str) -> None:
    assert meant(request(**asked)) == words


def test_before_anybody_agrees_it_is_said_what_goes_when() -> None:
    shown = "\n".join(forecast(request()))
    assert "cannot be taken back" in shown
    assert "bytes  gone by about 2026-03-18 01:00 UTC" in shown
    assert "interaction-completed-v1 (as it was sent): gone by 2026-03-21 18:00 UTC" in shown
    assert "lesson-noted-v1 (digests and figures, no text): gone by 2026-06-12 18:00 UTC" in shown
    assert "they are gone when it stops" in "\n".join(forecast(request(), forgets=False))
    assert "Later turns" in "\n".join(forecast(request(scope="interaction")))
    (first, second) = forecast(request(what="training"))
    assert first.startswith("No batch from now on learns from conversation c-1")
    assert second.startswith("Nothing is erased.")


def test_what_is_known_of_one_is_said_line_by_line() -> None:
    ends = {"interaction-completed-v1": NOON + timedelta(days=7), "gone-v1": NOON, "kept-v1": None}
    passes = (
        told(1, erased={"a-v1": 3}),
        told(2, "finished", gone_by=NOON + timedelta(days=3), ends_by=ends, unreadable={"x-dlq": 1}),
    )
    account = Account("e-1", request(reason="a letter"), passes)
    shown = "\n".join(details(account, now=NOON + timedelta(days=1)))
    assert "asked by      ada: a letter" in shown
    assert "a-v1 3" in shown
    assert "gone by 2026-03-17" in shown
    assert "interaction-completed-v1: until its retention takes it, by 2026-03-21" in shown
    assert "gone-v1" not in shown
    assert "kept-v1: its retention has no end" in shown
    assert "x-dlq: 1 record of which nobody can say" in shown
    assert "gone since" in "\n".join(details(account, now=NOON + timedelta(days=4)))
    assert summary(account).endswith("3 records erased, nothing left")


def test_an_erasure_names_the_datasets_that_it_revised_and_the_versions_that_learned_before() -> None:
    account = Account("e-1", request())
    revisions = [revised(1, 1, "e-1", "e-2", interactions=3), revised(2, 1, "e-2"), revised(2, 2, "e-1", "e-2", interactions=2)]
    reach = reach_of("e-1", revisions, [trained(1), trained(2, 1)])
    shown = list(details(account, now=NOON, reach=reach))[4:]
    assert shown == [
        "  dataset       b-1 of default, revision 1, 2026-03-14 00:00 UTC: 3 interactions left it, for this and 1 other request",
        "  dataset       b-2 of default, revision 2, 2026-03-14 00:00 UTC: 1 interaction left it",
        "  version       v1 of qwen3:8b (default) has learned from it, for it was trained on b-1 before its revision 1",
        "  version       v2 of qwen3:8b (default) has learned from it, for it was trained on b-2 before its revision 2",
        "  version       v2 of qwen3:8b (default) has learned from it, by v1, which was trained on b-1 before its revision 1",
    ]
    said = orjson.loads(orjson.dumps(reach.as_json()))
    assert [(each["batch_id"], each["revision"]) for each in said["datasets"]] == [("b-1", 1), ("b-2", 2)]
    assert [(each["version"], each["inherited_from"]) for each in said["versions"]] == [("v1", None), ("v2", None), ("v2", "v1")]
