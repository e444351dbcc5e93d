"""Where in a text something has to go: every recogniser that a policy wants, and one answer where they overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from ruminate.collector.privacy import assignments, contacts, numbers, tokens
from ruminate.collector.privacy.patterns import Pattern
from ruminate.collector.privacy.policy import PERSON, SECRETS, PrivacyPolicy
from ruminate.collector.privacy.text import Finding, Look, holds_many_digits

Find = Callable[[Look], Iterator[Finding]]
MayHold = Callable[[Look], bool]


class FindNames(Protocol):
    """Finds names of people: from where up to where in the text. The same text gives the same names."""

    def __call__(self, text: str, /) -> Iterable[tuple[int, int]]: ...


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Looks whether to look, which is cheap, then where."""

    kinds: tuple[str, ...]
    may_hold: MayHold
    """May say yes for nothing, never no for something, but for what a key says."""
    find: Find


# Where two overlap, the kind that stands first here names both. What a provider's prefix shows is surest.
_SUREST_FIRST: Final[Mapping[str, int]] = {
    kind: place
    for place, kind in enumerate(
        (
            "private_key", "sentry_dsn", "slack_webhook", "discord_webhook",
            *(kind for kind in tokens.KINDS if kind != "jwt"), "jwt",
            assignments.AWS_SECRET, assignments.PASSWORD, assignments.SECRET,
            contacts.EMAIL, numbers.IBAN, numbers.CARD, contacts.MAC, contacts.IP, *numbers.NATIONAL_KINDS, contacts.PHONE,
        )
    )
}  # fmt: skip


class Scanner:
    """The recognisers of one policy."""

    def __init__(self, policy: PrivacyPolicy, find_names: FindNames | None = None) -> None:
        self.recognisers = tuple(_wanted(policy, find_names))
        self._allowed = frozenset(value.casefold() for value in policy.allowed)

    def recognisers_for(self, joined: str) -> Sequence[Recogniser]:
        """Those that may find something in texts that are joined to this one; mostly none."""
        return _that_may_find(self.recognisers, Look.at(joined))

    def find(self, look: Look, recognisers: Sequence[Recogniser]) -> list[Finding]:
        """What has to go, in order, without overlaps."""
        # What stands under a key may be something for what the key says alone.
        wanted = recognisers if look.key else _that_may_find(recognisers, look)
        found = [finding for recogniser in wanted for finding in recogniser.find(look) if not self._is_allowed(look.text, finding)]
        return list(_apart(sorted(found))) if found else found

    def _is_allowed(self, text: str, finding: Finding) -> bool:
        if not self._allowed:
            return False
        value = text[finding.start : finding.end].casefold()
        if value in self._allowed:
            return True
        domain = value.rpartition("@")[2] if finding.kind == contacts.EMAIL else ""
        return any(domain == allowed or domain.endswith(f".{allowed}") for allowed in self._allowed) if domain else False


def _that_may_find(recognisers: Sequence[Recogniser], look: Look) -> list[Recogniser]:
    held: dict[MayHold, bool] = {}  # several have the same look
    for recogniser in recognisers:
        if recogniser.may_hold not in held:
            held[recogniser.may_hold] = recogniser.may_hold(look)
    return [recogniser for recogniser in recognisers if held[recogniser.may_hold]]


def _wanted(policy: PrivacyPolicy, find_names: FindNames | None) -> Iterator[Recogniser]:
    on = {kind for kind in (*tokens.KINDS, *assignments.KINDS, *contacts.KINDS, *numbers.KINDS) if policy.is_on(kind)}
    national = frozenset(kind for kind in numbers.KINDS if kind in on)
    countries = policy.countries
    known = [
        Recogniser(tokens.KINDS, tokens.may_hold, tokens.find),
        Recogniser(assignments.KINDS, assignments.may_hold, assignments.find),
        Recogniser((contacts.EMAIL,), contacts.may_hold_email, contacts.find_emails),
        Recogniser((contacts.PHONE,), holds_many_digits, partial(contacts.find_phones, regions=countries)),
        Recogniser((contacts.IP,), contacts.may_hold_ip, partial(contacts.find_ips, private=policy.private_addresses)),
        Recogniser((contacts.MAC,), contacts.may_hold_mac, contacts.find_macs),
        Recogniser((numbers.IBAN,), numbers.may_hold_iban, numbers.find_ibans),
        Recogniser(
            numbers.NATIONAL_KINDS, numbers.may_hold_lettered, partial(numbers.find_lettered, countries=countries, kinds=national)
        ),
        Recogniser(
            (numbers.CARD, *numbers.NATIONAL_KINDS),
            holds_many_digits,
            partial(numbers.find_digits, countries=countries, kinds=national),
        ),
    ]
    for recogniser in known:
        kept = frozenset(recogniser.kinds) & on
        if kept == frozenset(recogniser.kinds):
            yield recogniser
        elif kept:
            yield Recogniser(tuple(sorted(kept)), recogniser.may_hold, partial(_only, recogniser.find, kept))
    for name, pattern in policy.patterns.items():
        # Anchors may say otherwise of a text alone than of many joined, so it is always looked for.
        yield Recogniser((name,), lambda _: True, partial(_find_pattern, Pattern(pattern), name))
    if policy.is_on(PERSON) and find_names is not None:
        yield Recogniser((PERSON,), lambda _: True, partial(_find_persons, find_names))


def _only(find: Find, kinds: frozenset[str], look: Look) -> Iterator[Finding]:
    return (finding for finding in find(look) if finding.kind in kinds)


def _find_pattern(pattern: Pattern, name: str, look: Look) -> Iterator[Finding]:
    return (Finding(start, end, name) for start, end in pattern.find(look.text))


def _find_persons(find_names: FindNames, look: Look) -> Iterator[Finding]:
    return (Finding(start, end, PERSON) for start, end in find_names(look.text) if start < end)


def _apart(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Of findings in order, those that overlap as one. A secret goes as far as any of them; else the surest decides."""
    current: Finding | None = None
    for finding in findings:
        if current is None or finding.start >= current.end:
            if current is not None:
                yield current
            current = finding
        else:
            current = _merged(current, finding)
    if current is not None:
        yield current


def _merged(one: Finding, other: Finding) -> Finding:
    surer = min(one, other, key=lambda finding: (_SUREST_FIRST.get(finding.kind, -1), finding.start, -finding.end))
    if one.kind in SECRETS or other.kind in SECRETS or surer.kind not in _SUREST_FIRST:
        return Finding(min(one.start, other.start), max(one.end, other.end), surer.kind)
    return surer
