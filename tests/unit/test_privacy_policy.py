"""Policies: what is off, allowed and added; by tenant; and what is refused at the start, with what to do."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ruminate.collector.privacy.policy import KINDS, PrivacyPolicy, PrivacySettings
from ruminate.collector.privacy.redaction import Privacy, Redactor
from ruminate.collector.settings import CollectorSettings
from ruminate.shared.settings import problems_of

TEXT = "Anna.Berg@web.de, password=Winter4821!, 10.20.30.40, My SSN is 219-09-9997, K-123456"


def redacted(text: str = TEXT, **policy: object) -> str:
    return Redactor(PrivacyPolicy.model_validate(policy)).text(text).text


def test_everything_but_names_is_on() -> None:
    assert redacted() == "[EMAIL_1], password=[PASSWORD_1], [IP_1], My SSN is [US_SSN_1], K-123456"
    assert {kind for kind in KINDS if not PrivacyPolicy().is_on(kind)} == {"person"}


def test_kinds_and_groups_of_them_can_be_off() -> None:
    assert redacted(off=("email", "ip")) == "Anna.Berg@web.de, password=[PASSWORD_1], 10.20.30.40, My SSN is [US_SSN_1], K-123456"
    assert redacted(off=("personal",)) == TEXT.replace("Winter4821!", "[PASSWORD_1]")
    assert "219-09-9997" in redacted(off=("national_numbers",))
    assert redacted(off=("secrets", "personal")) == TEXT


def test_values_and_domains_that_are_allowed_stay() -> None:
    assert redacted("a@web.de b@mail.web.de c@other.de", allowed=("WEB.de",)) == "a@web.de b@mail.web.de [EMAIL_1]"
    assert redacted("a@web.de b@web.de 10.20.30.40", allowed=("b@web.de", "10.20.30.40")) == "[EMAIL_1] b@web.de 10.20.30.40"


def test_a_policy_adds_kinds_of_its_own() -> None:
    assert (
        redacted("K-123456, K-654321, K-123456", patterns={"customer": "K-[0-9]{6}"}) == "[CUSTOMER_1], [CUSTOMER_2], [CUSTOMER_1]"
    )


@pytest.mark.parametrize("pattern", [r".", r"\[EMAIL_1\]", r"[A-Z]+", r"\w+", r".\[EMAIL_[0-9]\]"])
def test_a_pattern_that_matches_placeholders_leaves_them_whole(pattern: str) -> None:
    redactor = Redactor(PrivacyPolicy(patterns={"mine": pattern}))
    once = redactor.text("x[EMAIL_1] a@b.co y").text
    assert redactor.text(once).text == once
    assert "[EMAIL_1]" in once or "[MINE_" in once


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)+b", "(a*)*b", "(?:a?){500}a{500}b"])
def test_no_pattern_takes_for_ever(pattern: str) -> None:
    """By Python's engine each of these would take longer than anybody lives."""
    assert redacted("a" * 20_000, patterns={"mine": pattern}) == "a" * 20_000


def test_a_pattern_counts_characters_whatever_stands_before_it() -> None:
    assert redacted("Zürich 😀 K-123456 für Kunde ÅNGSTRÖM.", patterns={"customer": "K-[0-9]{6}", "name": r"\p{Lu}{4,}"}) == (
        "Zürich 😀 [CUSTOMER_1] für Kunde [NAME_1]."
    )


def test_private_addresses_and_countries_can_be_left_out() -> None:
    assert redacted("10.20.30.40 52.20.30.40", private_addresses=False) == "10.20.30.40 [IP_1]"
    assert redacted("My SSN is 219-09-9997", countries=("DE",)) == "My SSN is 219-09-9997"


def test_a_tenant_changes_what_it_names_and_keeps_the_rest_of_the_default() -> None:
    settings = PrivacySettings.model_validate(
        {"default": {"off": ["ip"], "allowed": ["web.de"]}, "tenants": {"acme": {"off": ["password"]}, "open": {"allowed": []}}}
    )
    privacy = Privacy(settings)
    assert privacy.redact_text(TEXT, tenant="acme").text == TEXT.replace("10.20.30.40", "[IP_1]").replace(
        "219-09-9997", "[US_SSN_1]"
    )
    assert privacy.redact_text(TEXT).text.startswith("Anna.Berg@web.de, password=[PASSWORD_1], 10.20.30.40")
    assert privacy.redact_text(TEXT, tenant="open").text.startswith("[EMAIL_1], password=[PASSWORD_1], 10.20.30.40")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"off": ["emial"]}, "'emial' is no kind; there are age_key"),
        ({"patterns": {"c": "x*"}}, "'x*' can match nothing at all"),
        ({"patterns": {"c": r"\b"}}, "can match nothing at all"),
        ({"patterns": {"c": r"$|x"}}, "can match nothing at all"),
        ({"patterns": {"c": "("}}, "'(' is no regular expression of RE2, which knows no looking around: missing )"),
        ({"patterns": {"c": "(?<=K-)[0-9]+"}}, "which knows no looking around: invalid perl operator: (?<="),
        ({"patterns": {"c": "x{1001}"}}, "invalid repetition size"),
        ({"patterns": {"C d": "x"}}, "'C d' cannot name a pattern"),
        ({"patterns": {"email": "x"}}, "'email' is a kind or group already"),
        ({"countries": ["XX"]}, "'XX' is no country that we know numbers of; there are AT, AU"),
        ({"allowed": [" "]}, "has 1 characters; a value or domain that is left alone has 1 to 400"),
        ({"of": []}, "Extra inputs are not permitted"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_is_allowed(policy: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        CollectorSettings.model_validate({"privacy": {"tenants": {"acme": policy}}})
    (problem,) = problems_of(refused.value)
    assert problem.startswith("RUMINATE_PRIVACY_TENANTS_ACME_")
    assert said in problem


def test_the_environment_sets_it_whole_or_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMINATE_PRIVACY", '{"default": {"off": ["ip"]}, "tenants": {"acme": {"allowed": ["acme.com"]}}}')
    monkeypatch.setenv("RUMINATE_PRIVACY__DEFAULT__PRIVATE_ADDRESSES", "false")
    privacy = CollectorSettings().privacy
    assert privacy.policy_of("acme") == PrivacyPolicy(off=("ip",), allowed=("acme.com",), private_addresses=False)


def test_names_are_found_by_what_is_given_to_find_them() -> None:
    def find_names(text: str, /) -> list[tuple[int, int]]:
        at = text.find("Ada Lovelace")
        return [(at, at + 12)] if at >= 0 else []

    settings = PrivacySettings.model_validate({"tenants": {"acme": {"names": True}}})
    privacy = Privacy(settings, find_names)
    assert privacy.redact_text("Ask Ada Lovelace.", tenant="acme").text == "Ask [PERSON_1]."
    assert privacy.redact_text("Ask Ada Lovelace.").text == "Ask Ada Lovelace."
