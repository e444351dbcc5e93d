"""Recognisers one by one: what the labelled set does not say, and that none takes more than linear time."""

from __future__ import annotations

import re
import sys
from types import FrameType, ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.collector.privacy import assignments, contacts, numbers, placeholders, text, tokens
from ruminate.collector.privacy.policy import KINDS, PrivacyPolicy
from ruminate.collector.privacy.scan import Scanner
from ruminate.collector.privacy.text import Look, Words, in_lower_case, is_stand_in
from tests.data.privacy.labelled import Snippet, snippets

SCANNER = Scanner(PrivacyPolicy())


def found(written: str, key: str = "") -> dict[str, str]:
    """What is found, by kind."""
    return {
        finding.kind: written[finding.start : finding.end]
        for finding in SCANNER.find(Look.at(written, key), SCANNER.recognisers_for(f"{key}\n{written}"))
    }


@pytest.mark.parametrize(
    "stand_in",
    [
        "<your key>",
        "***",
        "${VAR}",
        "$TOKEN",
        "os.environ['X']",
        "{password}",
        "%(password)s",
        "your-key-here",
        "xxxxxxxx",
        "str",
        "changeme",
    ],
)
def test_what_stands_for_a_value_is_none(stand_in: str) -> None:
    assert is_stand_in(stand_in)
    for form in ("password={}", 'api_key: "{}"', "--token {}", "postgres://app:{}@db/app", "Authorization: Bearer {}"):
        assert not found(form.format(stand_in)), form


@pytest.mark.parametrize("value", ["Winter4821!", "hunter2", "tr0ub4dor&3", "correct-horse-7", "7Hq2mZx9"])
def test_of_an_assignment_only_the_value_goes(value: str) -> None:
    for form in (
        "password={}",
        'password: "{}"',
        "DB_PASSWORD={}",
        "--password {}",
        "my password is {}",
        '\\"password\\": \\"{}\\"',
    ):
        assert found(form.format(value)) == {"password": value}, form


def test_in_a_url_only_the_password_goes() -> None:
    assert found("https://anna:s3cr3t-pw@files.corp/x") == {"password": "s3cr3t-pw"}
    assert found("see https://files.corp/@anna:latest") == {}


def test_an_address_of_git_is_a_program_and_a_prompt_without_a_dot_is_no_address() -> None:
    assert found("git@github.com:team/app.git") == {}
    assert found("root@web-01:~# ls") == {}
    assert found("ssh anna@build.corp.net") == {"email": "anna@build.corp.net"}


def test_numbers_need_a_word_nearby_where_their_digits_alone_say_little() -> None:
    assert found("219099997") == {}
    assert found("ssn 219099997") == {"us_ssn": "219099997"}
    assert found("219099997", key="ssn") == {"us_ssn": "219099997"}


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "0.0.0.0", "::1", "192.0.2.1", "255.255.255.0", "2001:db8::7", "224.0.0.1", "10.0.0.0/8"]
)
def test_addresses_that_are_nobodys_stay(address: str) -> None:
    assert found(f"host {address}") == {}


def test_an_account_in_small_letters_is_one_and_a_hash_is_none() -> None:
    assert found("iban: de89370400440532013000") == {"iban": "de89370400440532013000"}
    assert found("de89370400440532013001 9fceb02d0ae598e95dc970b74767f19372d61af8") == {}


def test_letters_of_other_scripts_touch_a_number_without_hiding_it() -> None:
    assert found("電話番号は090-1234-5678です") == {"phone": "090-1234-5678"}
    assert found("連絡先はkim@hey.comです") == {"email": "kim@hey.com"}


def test_lower_case_keeps_places() -> None:
    assert in_lower_case("İPassword") == "İpassword"
    assert found("İİİ password=Winter4821!") == {"password": "Winter4821!"}


def test_the_kinds_of_all_recognisers_are_the_kinds_of_a_policy() -> None:
    assert {*tokens.KINDS, *assignments.KINDS, *contacts.KINDS, *numbers.KINDS, "person"} == KINDS


# --- linear time --------------------------------------------------------------------------------------------------------

ADVERSARIES = (
    "a@", "a@a.", "a@a.aa", "anna@corp.com ", "4", "4111 1111 ",
    "1 2 ", "1.1.1.1.", "10.1.2.3 ", "A", "Zm9v", "eyJ", "eyJaaaaaaaa.",
    "password=", "password ", "secret: x", "token is the ", "ab:", "::", "-----BEGIN " + "PRIVATE KEY-----", "://a:b", "://aa:bb@",
    "+1 ", "(0", "DE89 ", "AB12", "sk-", ".aaaaaa", '"password": "', "[EMAIL_1] ", " -u a:",
    "mysql ", '\\"password\\', "\n", "authorization: ", "ab-", "01.01.2020 ",
)  # fmt: skip


def calls_for(written: str) -> int:
    """How many functions are called to look through a text: the same number in every run."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        SCANNER.find(Look.at(written), SCANNER.recognisers_for(written))
    finally:
        sys.setprofile(before)
    return calls


NAMING = (
    contacts.WORDS,
    contacts.PLAIN_WORDS,
    *(kind.words for kind in (*numbers.NATIONAL, *numbers.LETTERED) if kind.words is not None),
)


@given(st.data())
def test_a_word_that_names_a_number_is_seen_by_its_stem(data: st.DataObject) -> None:
    words = data.draw(st.sampled_from(NAMING))
    assert words.stand_in(data.draw(st.from_regex(words.pattern)))


@given(st.data())
def test_a_number_with_letters_is_seen_by_its_shape(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(numbers.LETTERED))
    assert kind.may_stand_in(Look.at(data.draw(st.from_regex(kind.pattern))))


@given(st.data())
def test_a_token_is_as_long_as_what_is_looked_at(data: st.DataObject) -> None:
    token = data.draw(st.sampled_from(tokens.TOKENS))
    assert tokens.may_hold(Look.at(data.draw(st.from_regex(token.pattern, fullmatch=True))))


@given(st.from_regex(assignments.NAMED))
def test_a_name_for_a_secret_is_seen_by_its_stem(named: str) -> None:
    assert assignments.may_hold(Look.at(named)) or assignments.NAMED.search(in_lower_case(named)) is None


LABELLED = tuple(snippet for snippet in snippets() if snippet.labels)


@given(st.lists(st.sampled_from(LABELLED), min_size=1, max_size=3), st.sampled_from(["\n", " ", ", "]))
def test_what_may_find_nothing_finds_nothing(some: list[Snippet], between: str) -> None:
    look = Look.at(between.join(snippet.text for snippet in some))
    everybody = SCANNER.recognisers
    assert SCANNER.find(look, SCANNER.recognisers_for(look.text)) == SCANNER.find(look, everybody)
    for recogniser in everybody:
        assert recogniser.may_hold(look) or not list(recogniser.find(look)), recogniser.kinds


@pytest.mark.parametrize(
    "written", ["xoxb-1234567890ab", "mysql -u root -phunter2!", "curl -u anna:hunter2! acme.io", "Schlussel: Xk29dkQ1zz0pLm4v"]
)
def test_what_is_found_beside_something_else_is_found_alone(written: str) -> None:
    assert found(written)


@pytest.mark.parametrize("piece", ADVERSARIES)
def test_ten_times_the_text_takes_no_more_than_ten_times_the_calls(piece: str) -> None:
    small, large = (piece * (characters // len(piece)) for characters in (2_000, 20_000))
    calls_for(small)  # what is cached is cached
    assert calls_for(large) <= 11 * calls_for(small) + 200


@pytest.mark.parametrize("piece", ["a@", "a@a.", "4", "Zm9v", "1.1.1.1.", "eyJaaaaaaaa.", "ab:"])
def test_a_megabyte_of_nothing_is_looked_through(piece: str) -> None:
    written = piece * (1_000_000 // len(piece))
    assert SCANNER.find(Look.at(written), SCANNER.recognisers_for(written)) == []


LOOKED_AT_IN_A_WINDOW = (
    "_PIECES", "_PHRASE", "_STRONG_NEARBY", "_PATH", "_PLAIN", "_SLUG", "_CAPITALS", "_AMOUNT", "_ADDRESS",
    "_WORDS_WITHIN", "_NO_LOCAL",
    "_RESERVED_DOMAIN", "_AFTER_ENCODING", "_DECIMAL", "_VERSION_BEFORE", "_VERSION_MORE", "_HEADING", "_STAND_IN",
)  # fmt: skip
"""Patterns that see a name, a value or some dozen characters before it, never a whole text."""
NEVER_STEP_BACK = ("_RUN", "_GROUP", "_KEY_LINES")
"""What they repeat is followed by nothing, and the next search begins behind it."""


@pytest.mark.parametrize("module", [assignments, contacts, numbers, placeholders, text, tokens])
def test_a_pattern_that_sees_whole_texts_repeats_nothing_without_limit(module: ModuleType) -> None:
    patterns = {name: value for name, value in vars(module).items() if isinstance(value, re.Pattern)}
    patterns |= {name: value.pattern for name, value in vars(module).items() if isinstance(value, Words)}
    if module is tokens:
        patterns |= {token.prefix: token.pattern for token in tokens.TOKENS}
    for name, pattern in patterns.items():
        if name not in LOOKED_AT_IN_A_WINDOW and name not in NEVER_STEP_BACK:
            bare = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern.pattern)
            assert not re.search(r"[*+]|,\}", bare), name
