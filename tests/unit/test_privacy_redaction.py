"""Placeholders: one a value, the same in the next turn, never one that was there; and where in an interaction they go."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from ruminate.collector.privacy.policy import PrivacyPolicy
from ruminate.collector.privacy.redaction import Redactor
from ruminate.schemas.interaction import (
    AnswerCheck,
    ContextFacts,
    ImageReference,
    InteractionCompleted,
    Message,
    Response,
    Thinking,
    ToolCall,
    ToolDefinition,
)

REDACTOR = Redactor(PrivacyPolicy())
MAIL, OTHER_MAIL = "anna.berg@web.de", "kim@hey.com"
CARD = "4111 1111 1111 1111"
TOKEN = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5"
PLANTED = (
    MAIL,
    OTHER_MAIL,
    CARD,
    TOKEN,
    "+49 151 23456789",
    "10.20.30.40",
    "password=Winter4821!",
    "postgres://app:hunter2hunter@db/app",
    "[EMAIL_1]",
    "[EMAIL_12]",
    "[SECRET_1]",
)


def completed(**changed: Any) -> InteractionCompleted:
    fields: dict[str, Any] = {
        "interaction_id": "i-1",
        "conversation_id": "c-1",
        "agent": "tester",
        "target_model": "qwen3",
        "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
        "messages": (Message(role="user", content="Where?"),),
        "response": Response(content="There."),
        "thinking": Thinking(mode_used="direct"),
    } | changed
    return InteractionCompleted(**fields)


def redacted(text: str) -> str:
    return REDACTOR.text(text).text


def test_one_value_has_one_placeholder_however_it_is_written_and_another_value_the_next() -> None:
    assert redacted(f"{MAIL}, {OTHER_MAIL}, {MAIL.upper()}") == "[EMAIL_1], [EMAIL_2], [EMAIL_1]"
    assert redacted(f"{CARD} {CARD.replace(' ', '-')} or {CARD.replace(' ', '')}") == "[CARD_1] [CARD_1] or [CARD_1]"


def test_numbers_follow_the_order_of_the_conversation_before_that_of_the_rest() -> None:
    found = REDACTOR.interaction(
        completed(
            tags=(OTHER_MAIL,),
            reference_answer=f"{OTHER_MAIL} or c@hey.com",
            response=Response(content="c@hey.com", thinking="b@hey.com"),
            messages=(Message(role="user", content=MAIL), Message(role="assistant", content="d@hey.com", thinking=OTHER_MAIL)),
        )
    )
    payload = found.payload
    assert [message.content for message in payload.messages] == ["[EMAIL_1]", "[EMAIL_3]"]
    assert payload.messages[1].thinking == "[EMAIL_2]"
    assert payload.response == Response(content="[EMAIL_5]", thinking="[EMAIL_4]")
    assert payload.reference_answer == "[EMAIL_2] or [EMAIL_5]"
    assert payload.tags == ("[EMAIL_2]",)
    assert found.counts == {"email": 8}


def test_the_next_turn_gives_the_same_placeholders_to_what_it_repeats() -> None:
    asked = Message(role="user", content=f"Write to {MAIL} and {OTHER_MAIL}.")
    first = completed(messages=(asked,), response=Response(thinking="x@hey.com?", content=f"I wrote to {MAIL}, not y@hey.com."))
    said = Message(role="assistant", thinking=first.response.thinking, content=first.response.content)
    second = completed(
        messages=(asked, said, Message(role="user", content="And z@hey.com, y@hey.com?")), reference_answer="w@hey.com"
    )
    one, two = REDACTOR.interaction(first).payload, REDACTOR.interaction(second).payload
    assert two.messages[0] == one.messages[0]
    assert (two.messages[1].thinking, two.messages[1].content) == (one.response.thinking, one.response.content)
    assert two.messages[2].content == "And [EMAIL_5], [EMAIL_4]?"


SHOWN_BY_THEMSELVES = (MAIL, OTHER_MAIL, CARD, TOKEN, "+49 151 23456789", "10.20.30.40", " ", "\n", "and")


@given(st.lists(st.lists(st.sampled_from(SHOWN_BY_THEMSELVES), max_size=5).map(" ".join), min_size=2, max_size=6))
def test_every_turn_begins_as_the_one_before_it(contents: list[str]) -> None:
    turns = [
        REDACTOR.interaction(completed(messages=tuple(Message(role="user", content=content) for content in contents[:length])))
        for length in range(1, len(contents) + 1)
    ]
    for earlier, later in pairwise(turns):
        assert later.payload.messages[: len(earlier.payload.messages)] == earlier.payload.messages


def test_what_is_offered_in_every_turn_has_the_same_placeholders_in_each() -> None:
    tools = (ToolDefinition(name="mail", description=f"Writes to {OTHER_MAIL}, never to {MAIL}"),)
    asked = (Message(role="user", content="To whom?"),)
    first = completed(tools=tools, messages=asked, response=Response(content=f"Not to {MAIL}."))
    said = Message(role="assistant", content=first.response.content)
    later = completed(tools=tools, messages=(*asked, said, Message(role="user", content="Why?")))
    one, other = (REDACTOR.interaction(each).payload for each in (first, later))
    assert one.tools == other.tools
    assert one.response.content == other.messages[1].content == "Not to [EMAIL_2]."


def test_what_is_offered_again_is_the_same_whatever_was_found_before_and_a_secret_of_the_messages_goes_in_it_too() -> None:
    redactor = Redactor(PrivacyPolicy())
    clean = (ToolDefinition(name="log_in", description="Opens the door for Winter4821Garden."),)
    dirty = (ToolDefinition(name="mail", description=f"Writes to {MAIL}."),)
    plain = completed(tools=clean)
    secret = completed(tools=clean, messages=(Message(role="user", content="password=Winter4821Garden"),))
    for _ in range(2):
        for payload in (plain, secret, completed(tools=dirty), plain):
            assert redactor.interaction(payload) == Redactor(PrivacyPolicy()).interaction(payload)
    assert redactor.interaction(secret).payload.tools[0].description == "Opens the door for [PASSWORD_1]."
    assert redactor.interaction(plain).payload is plain


def test_a_placeholder_that_somebody_wrote_stays_and_its_number_is_skipped() -> None:
    found = REDACTOR.interaction(completed(messages=(Message(role="user", content=MAIL),), response=Response(content="[EMAIL_1]?")))
    assert found.payload.messages[0].content == "[EMAIL_2]"
    assert found.payload.response.content == "[EMAIL_1]?"


@given(
    st.lists(
        st.one_of(st.sampled_from(PLANTED), st.text(max_size=12), st.sampled_from((" ", "\n", "=", ": ", "@", "."))), max_size=12
    )
)
def test_what_was_redacted_stays_as_it_is(pieces: list[str]) -> None:
    once = REDACTOR.text("".join(pieces))
    again = REDACTOR.text(once.text)
    assert again.text == once.text
    assert not again.counts


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from((MAIL, CARD, TOKEN)))
def test_a_planted_value_is_gone_whatever_stands_around_it(before: str, after: str, value: str) -> None:
    assert value not in redacted(f"{before}\n {value} \n{after}")


def test_a_secret_that_shows_in_one_place_goes_in_all() -> None:
    found = redacted("Is tr0ub4dor&3x a good one? My password is tr0ub4dor&3x.")
    assert found == "Is [PASSWORD_1] a good one? My password is [PASSWORD_1]."


def test_every_string_that_was_written_is_looked_at_and_names_are_not() -> None:
    arguments: dict[str, JsonValue] = {
        "to": [MAIL, {MAIL: {"deep": MAIL}}],
        "card": 4111111111111111,
        "count": 12,
        "ratio": 0.5,
        "none": None,
        "yes": True,
    }
    call = ToolCall(name=MAIL, id=MAIL, arguments=arguments)
    image = ImageReference(sha256="0" * 64, media_type="image/png", size_bytes=1, uri="https://u:s3cretpass@img.corp/1.png")
    payload = completed(
        agent=MAIL,
        tenant=MAIL,
        node=MAIL,
        messages=(
            Message(role="assistant", content=MAIL, thinking=MAIL, tool_calls=(call,)),
            Message(role="tool", content=MAIL, tool_name=MAIL, tool_call_id=MAIL, images=(image,)),
        ),
        response=Response(content=MAIL, thinking=MAIL, tool_calls=(call,)),
        thinking=Thinking(mode_used="thinking", reason=MAIL),
        context=ContextFacts(other={"owner": MAIL, "big": 2**70}),
        tags=(f"owner:{MAIL}",),
        reference_answer=MAIL,
        answer_check=AnswerCheck(kind="exact", content=f"Write to {MAIL}"),
        tools=(
            ToolDefinition(name=MAIL, description=MAIL, parameters={"properties": {"to": {"default": MAIL, "examples": [MAIL]}}}),
            ToolDefinition(name="now"),
        ),
    )
    found = REDACTOR.interaction(payload).payload
    kept = found.model_copy(update={"agent": "", "tenant": "", "node": ""})
    text = kept.model_dump_json()
    for name in (f'"name":"{MAIL}"', f'"id":"{MAIL}"', f'"tool_name":"{MAIL}"', f'"tool_call_id":"{MAIL}"'):
        assert name in text
        text = text.replace(name, "")
    assert MAIL not in text
    assert "s3cretpass" not in text
    assert (found.agent, found.tenant, found.node) == (MAIL, MAIL, MAIL)
    assert found.messages[0].tool_calls[0].arguments == {
        "to": ["[EMAIL_1]", {"[EMAIL_1]": {"deep": "[EMAIL_1]"}}],
        "card": "[CARD_1]",
        "count": 12,
        "ratio": 0.5,
        "none": None,
        "yes": True,
    }
    assert found.messages[1].images[0].uri == "https://u:[PASSWORD_1]@img.corp/1.png"
    assert found.context.other == {"owner": "[EMAIL_1]", "big": 2**70}
    assert found.tags == ("owner:[EMAIL_1]",)
    assert InteractionCompleted.model_validate_json(found.model_dump_json()) == found


def test_a_clean_interaction_is_the_very_same() -> None:
    payload = completed()
    assert REDACTOR.interaction(payload).payload is payload


def test_the_key_of_an_argument_says_what_its_value_is() -> None:
    arguments: dict[str, JsonValue] = {
        "password": "swordfish",
        "auth": {"api_key": "q8Zr2LmX4vTy"},
        "secretKey": ["q8Zr2LmX4vTx"],
        "ssn": "219099997",
        "note": "219099997",
        "token": "str",
    }
    call = ToolCall(name="t", arguments=arguments)
    found = REDACTOR.interaction(completed(response=Response(content="", tool_calls=(call,)))).payload
    assert found.response.tool_calls[0].arguments == {
        "password": "[PASSWORD_1]",
        "auth": {"api_key": "[SECRET_1]"},
        "secretKey": ["[SECRET_2]"],
        "ssn": "[US_SSN_1]",
        "note": "[US_SSN_1]",  # known from the other place
        "token": "str",
    }


def test_two_keys_that_are_one_value_stay_two() -> None:
    call = ToolCall(name="t", arguments={MAIL: 1, MAIL.upper(): 2})
    found = REDACTOR.interaction(completed(response=Response(content="", tool_calls=(call,)))).payload
    assert found.response.tool_calls[0].arguments == {"[EMAIL_1]": 1, "[EMAIL_1] (2)": 2}


def test_a_tag_that_outgrows_its_limit_becomes_its_placeholder() -> None:
    tag = " ".join(f"{letter}@b.co" for letter in "abcdefghijklmnopqrstuvwxyzABCDEFG")[:200]
    found = REDACTOR.interaction(completed(tags=(tag, "short"))).payload
    assert found.tags == ("[EMAIL_1]", "short")


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (MAIL, MAIL.replace("@", "\\u0040")),
        (CARD, CARD.replace(" ", "\\u0020").replace("4", "\\u0034")),
        (TOKEN, "".join(f"\\u{ord(character):04x}" for character in TOKEN)),
    ],
)
def test_escapes_of_json_hide_nothing(value: str, encoded: str) -> None:
    text = json.dumps(completed().model_dump(mode="json")).replace("Where?", f"\\n{encoded}\\n")
    payload = InteractionCompleted.model_validate_json(text)
    assert value in payload.messages[0].content
    assert value not in REDACTOR.interaction(payload).payload.messages[0].content


def test_escapes_that_a_text_quotes_hide_nothing_either() -> None:
    key = "-----BEGIN " + "PRIVATE KEY-----\\n" + "Ab3" * 20 + "\\n" + "-----END " + "PRIVATE KEY-----\\n"
    quoted = json.dumps(json.dumps({"key": key, "text": f"one\n{TOKEN}\ntwo", "password": "Winter4821!"}))
    found = redacted(quoted)
    assert TOKEN not in found
    assert "Ab3Ab3" not in found
    assert "Winter4821" not in found
