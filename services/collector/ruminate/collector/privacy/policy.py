"""What a tenant wants found, and what it wants left alone."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ruminate.collector.privacy import assignments, contacts, numbers, tokens
from ruminate.collector.privacy.patterns import NoPattern, Pattern
from ruminate.schemas.payload import Name

PERSON: Final = "person"
SECRETS: Final = frozenset((*tokens.KINDS, *assignments.KINDS))
"""Kinds that open something."""
PERSONAL: Final = frozenset((*contacts.KINDS, *numbers.KINDS, PERSON))
"""Kinds that point at somebody."""
GROUPS: Final = {"secrets": SECRETS, "personal": PERSONAL, "national_numbers": frozenset(numbers.NATIONAL_KINDS)}
"""Names for many kinds, where a policy names kinds."""
KINDS: Final = SECRETS | PERSONAL
"""Every kind there is, but for those that a policy adds."""

_PATTERN_NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def _check_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    for kind in kinds:
        if kind not in KINDS and kind not in GROUPS:
            raise _wrong(f"{kind!r} is no kind; there are {', '.join(sorted(KINDS))}, and the groups {', '.join(sorted(GROUPS))}")
    return kinds


def _check_countries(countries: tuple[str, ...]) -> tuple[str, ...]:
    for country in countries:
        if country not in numbers.COUNTRIES:
            raise _wrong(f"{country!r} is no country that we know numbers of; there are {', '.join(numbers.COUNTRIES)}")
    return countries


def _check_patterns(patterns: dict[str, str]) -> dict[str, str]:
    for name, pattern in patterns.items():
        if not _PATTERN_NAME.fullmatch(name) or len(name) > 40:
            raise _wrong(f"{name!r} cannot name a pattern; a name is lower-case words joined by _, of at most 40 characters")
        if name in KINDS or name in GROUPS:
            raise _wrong(f"{name!r} is a kind or group already; give the pattern a name of its own")
        try:
            compiled = Pattern(pattern)
        except NoPattern as error:
            raise _wrong(f"{name}: {pattern!r} is no regular expression of RE2, which knows no looking around: {error}") from None
        if compiled.may_match_nothing:
            raise _wrong(f"{name}: {pattern!r} can match nothing at all; let it demand at least one character")
    return patterns


def _check_allowed(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.strip() or len(value) > 400:
            raise _wrong(f"{value[:40]!r} has {len(value)} characters; a value or domain that is left alone has 1 to 400")
    return values


def _wrong(problem: str) -> PydanticCustomError:
    return PydanticCustomError("privacy", "{problem}", {"problem": problem})


class PrivacyPolicy(BaseModel):
    """What is looked for in the interactions of a tenant."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    off: Annotated[tuple[str, ...], AfterValidator(_check_kinds)] = Field(
        default=(), description="Kinds that stay as they are, or groups: `secrets`, `personal`, `national_numbers`."
    )
    patterns: Annotated[dict[str, str], AfterValidator(_check_patterns)] = Field(
        default_factory=dict,
        description='Regular expressions by name for more kinds: `{"customer": "K-[0-9]{6}"}` gives `[CUSTOMER_1]`.',
    )
    allowed: Annotated[tuple[str, ...], AfterValidator(_check_allowed)] = Field(
        default=(), description="Values that stay as they are, and domains whose e-mail addresses do; in any case of letters."
    )
    countries: Annotated[tuple[str, ...], AfterValidator(_check_countries)] = Field(
        default=numbers.COUNTRIES,
        description="Whose national numbers and phone numbers without a country code are known, such as `DE`.",
    )
    private_addresses: bool = Field(default=True, description="Whether IP addresses of private networks count.")
    names: bool = Field(default=False, description="Whether names of people count; needs the extra `ruminate-collector[names]`.")

    def is_on(self, kind: str) -> bool:
        """Whether this kind is looked for."""
        if kind == PERSON and not self.names:
            return False
        return kind not in self.off and not any(kind in kinds for group, kinds in GROUPS.items() if group in self.off)


class PrivacySettings(BaseModel):
    """The policy of every tenant: `RUMINATE_PRIVACY` as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    default: PrivacyPolicy = Field(
        default=PrivacyPolicy(), description="For tenants that are not named, and for what those leave out."
    )
    tenants: dict[Name, PrivacyPolicy] = Field(default_factory=dict, description="By tenant, what differs from the default.")

    def policy_of(self, tenant: str) -> PrivacyPolicy:
        """The tenant's policy: the fields that it sets, and the default's."""
        own = self.tenants.get(tenant)
        if own is None:
            return self.default
        return self.default.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})

    @property
    def asks_for_names(self) -> bool:
        """Whether any tenant wants names of people found."""
        return any(self.policy_of(tenant).names for tenant in ("", *self.tenants))
