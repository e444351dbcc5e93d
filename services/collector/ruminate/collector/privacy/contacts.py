"""Where somebody can be reached: e-mail addresses, phone numbers, IP and MAC addresses."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

import phonenumbers

from ruminate.collector.privacy.text import ASCII_WORD, Finding, Look, Words, begins_word, ends_word

EMAIL: Final = "email"
PHONE: Final = "phone"
IP: Final = "ip"
MAC: Final = "mac"
KINDS: Final = (EMAIL, PHONE, IP, MAC)
"""Every kind that this module finds."""

_LOCAL_CHARACTERS: Final = 64
_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\u00c0-\u024f-]{1,64}\Z")
_DOMAIN: Final = re.compile(
    r"@((?:[A-Za-z0-9\u00c0-\u024f](?:[A-Za-z0-9\u00c0-\u024f-]{0,61}[A-Za-z0-9\u00c0-\u024f])?\.){1,8}"
    r"(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,50}))"
    r"(?![A-Za-z0-9_-])"
)
_NO_LOCAL: Final = re.compile(r"[.'\"`{}|/=!?&*#$%^~]+")
_IMAGE: Final = re.compile(r"[1-9]x\.(?:png|jpe?g|gif|webp|svg|avif|heic)\Z", re.IGNORECASE)
_RESERVED_DOMAIN: Final = re.compile(
    r"(?:.*\.)?(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|localdomain)\Z", re.IGNORECASE
)
_USER_OF_URL: Final = re.compile(r"://[^\s/@]{0,320}\Z")
_AFTER_ENCODING: Final = re.compile(r".*(?:%[0-9A-Fa-f]{2}|\\[nrt]|[=/&?])", re.DOTALL)


def may_hold_email(look: Look) -> bool:
    """Whether an `@` with something on both sides occurs."""
    return "@" in look.text


def find_emails(look: Look) -> Iterator[Finding]:
    """Addresses with a domain that has a dot. `git@host:…` names an account of a program, not of a person."""
    text = look.text
    for domain in _DOMAIN.finditer(text):
        at = domain.start()
        lowest = max(0, at - _LOCAL_CHARACTERS)
        local = _LOCAL.search(text, lowest, at)
        if local is None or _IMAGE.match(domain[1]) or _RESERVED_DOMAIN.match(domain[1]):
            continue
        start = local.start()
        # Names of parameters and encoded characters before the address are no part of it.
        before = _AFTER_ENCODING.match(text, start, at)
        if before is not None:
            start = before.end()
        lead = _NO_LOCAL.match(text, start, at)
        if lead is not None:
            start = lead.end()
        name = text[start:at]
        if (
            not name
            or name.endswith(".")
            or _is_program(text, name, domain.end())
            or _USER_OF_URL.search(text, max(0, start - 330), start)
        ):
            continue
        yield Finding(start, domain.end(), EMAIL)


def _is_program(text: str, name: str, end: int) -> bool:
    return name == "git" and text[end : end + 1] in (":", "/")


# --- phone numbers ----------------------------------------------------------------------------------------------------

_INTERNATIONAL: Final = re.compile(r"(?:\+|00)[1-9](?:[ \u00a0.()/\u2010-\u2012-]{0,2}[0-9]){6,14}(?![0-9])")
_GROUP: Final = re.compile(r"[0-9]+")
_NATIONAL: Final = re.compile(r"\(?[0-9](?:[ \u00a0.()/\u2010-\u2012-]{0,2}[0-9]){6,13}(?![0-9])")
_NORTH_AMERICAN: Final = re.compile(r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}\Z")
_WITH_AREA: Final = re.compile(r"\(0?[1-9][0-9]{1,4}\)[ -]?[0-9]")
_TRUNK: Final = re.compile(r"0[1-9][0-9]{0,4}[ /-](?=[0-9])")
_DECIMAL: Final = re.compile(r"\+[0-9]+\.[0-9]+")
_DATE: Final = re.compile(r"(?:19|20)[0-9]{2}-(?:19|20)[0-9]{2}(?:\D|\Z)|[0-9]{1,4}([./-])[0-9]{1,2}\1[0-9]{1,4}(?:\D|\Z)")
_STEMS: Final = (
    "phone", "tel", "mobil", "cel", "call", "dial", "whatsapp", "signal", "sms", "text ", "ring", "reach ", "handy", "fax", "ruf",
    "erreich", "joindre", "appel", "num", "llam", "vil", "chiam", "liga", "bel m", "dzwo", "kom", "携帯", "電話", "전화", "тел",
    "звон", "contact", "kontakt", "contatt", "hotline", "durchwahl",
)  # fmt: skip
WORDS: Final = Words(
    re.compile(
        r"phone|\btel(?:\b|[eé][fp])|mobil|cell?ul|\bcell\b|\bcall(?:ed|s)?\b(?! last)|\bdial|whatsapp|signal|\bsms\b"
        r"|\btext (?:me|him|her|us|them)|\bring\b|reach (?:me|him|her|us)"
        r"|handy|\bfax|rufnummer|anrufen|\brufen?\b|erreich|joindre|appel|num[ée]ro|llam[ae]|m[óo]vil|chiam|cellulare|ligar?\b"
        r"|telemóvel|telefoon|bel (?:me|mij)|dzwo[nń]|zadzwo|kom[óo]rk|telefon|携帯|電話|전화|тел|звон|contact|kontakt|contatt"
        r"|hotline|durchwahl|my number"
    ),
    _STEMS,
)
PLAIN_WORDS: Final = Words(
    re.compile(
        r"phone|\btel(?:\b|[eé][fp])|mobile?\b|cellulare|celular|\bcell\b|whatsapp|\bsms\b|handy|rufnummer|móvil|携帯|電話|전화"
        r"|телефон|(?:call|text|ring) (?:me|him|her|us|them)|my number"
    ),
    _STEMS,
)
_BEFORE, _AFTER = 48, 12


def find_phones(look: Look, regions: Sequence[str]) -> Iterator[Finding]:
    """Numbers that the numbering plan of their country has. National ones need a word nearby, or a form that little else has."""
    text = look.text
    read = 0
    for found in _INTERNATIONAL.finditer(text) if "+" in text or "00" in text else ():
        start = found.start()
        if start and (text[start - 1] in ASCII_WORD or text[start - 1] in ".+") and not begins_word(text, start):
            continue
        written = found[0]
        if _DECIMAL.fullmatch(written):
            continue
        if written.startswith("00") and not _is_alone(text, start, found.end()):
            continue
        for end in _ends(written):
            if _is_valid("+" + written[2:end] if written.startswith("00") else written[:end], None):
                yield Finding(start, start + end, PHONE)
                break
    for found in _NATIONAL.finditer(text):
        start = found.start()
        if start < read or text[start - 1 : start] == "+" or _DATE.match(found[0]):
            continue
        # What follows the number may look like more of it: `01 23 45 67 89 (24h/24)`.
        for length in _ends(found[0])[:3]:
            written, end = found[0][:length], start + length
            if not _is_alone(text, start, end):
                continue
            if any(_is_valid(written, region) for region in _regions_of(look, written, start, end, regions)):
                yield Finding(start, end, PHONE)
                read = end
                break


def _regions_of(look: Look, written: str, start: int, end: int, regions: Sequence[str]) -> Sequence[str]:
    """In which countries a number written so may be looked for."""
    listed = look.text[max(0, start - 2) : start].rstrip()[-1:].isdigit() or look.text[end : end + 2].lstrip()[:1].isdigit()
    if _NORTH_AMERICAN.match(written) and not listed:
        return [region for region in regions if region in ("US", "CA")]
    digits = sum(map(str.isdigit, written))
    # Of digits in one piece, every country has some: they need a word that means nothing else.
    words = PLAIN_WORDS if digits == len(written) and written[0] != "0" else WORDS
    if digits >= 8 and words.stand_in(look.around(start, end, before=_BEFORE, after=_AFTER)):
        return regions
    if 9 <= digits <= 11 and not listed and (_TRUNK.match(written) or _WITH_AREA.match(written)) and "." not in written:
        return regions
    return ()


def _ends(written: str) -> list[int]:
    """Where the number may end: with all groups of digits, or without the last ones."""
    return [found.end() for found in _GROUP.finditer(written)][::-1][:6]


def _is_alone(text: str, start: int, end: int) -> bool:
    if start and text[start - 1] in _JOINS and not begins_word(text, start):
        return False
    before, sign = text[max(0, start - 2) : max(0, start - 1)], text[max(0, start - 1) : start]
    if sign and (sign in "#$€£" or (sign in "-./" and before.isalnum()) or (sign == "," and before.isdigit())):
        return False
    return end >= len(text) or (text[end] not in _JOINS and not (text[end] in "-./,:" and text[end + 1 : end + 2].isdigit()))


_JOINS: Final = ASCII_WORD | {"+", "%", "°"}


@lru_cache(maxsize=4096)  # a number comes again in every turn of its conversation
def _is_valid(written: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(written, region))
    except phonenumbers.NumberParseException:
        return False


# --- addresses of machines --------------------------------------------------------------------------------------------

_DOTTED: Final = re.compile(r"\.[0-9]{1,3}\.")
_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\.?[0-9])")
_HEX_COLON: Final = re.compile(r":[0-9a-fA-F]{0,4}:")
_COLONS: Final = re.compile(r"[0-9a-fA-F:]{1,46}(?:\.[0-9]{1,3}){0,3}")
_MAC_COLONS: Final = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\Z")
_MAC_DASHES: Final = re.compile(r"-[0-9a-fA-F]{2}-")
_MAC_WHOLE: Final = re.compile(r"(?:[0-9a-fA-F]{2}-){5}[0-9a-fA-F]{2}(?![0-9a-fA-F-])")
_VERSION_BEFORE: Final = re.compile(
    r"(?:\bv|\bver\.?|version\w*|release\w*|section|sec\.|§+|chapter|kapitel|chapitre|abschnitt|firmware"
    r"|driver|treiber|build|bootloader|\boid"
    r"|table|figure|appendix|anne[ex]o?"
    r"|art(?:icle|[íi]culo|ikel)?|clause|step|windows|office|update\w* to|upgrade\w* to|==|>=|<=|~=|\^)"
    r"[\s:=\"'(,]{0,3}\Z"
)
_VERSION_MORE: Final = re.compile(r"(?:version|firmware|section|section|release|chapter|bootloader|§)[^\n]{0,40}\Z")
_PRODUCT: Final = re.compile(r"[a-z0-9]/\Z")
_HEADING: Final = re.compile(r"[ \t]+[A-ZÄÖÜ][a-zäöü]+ ")
_ADDRESS_WORDS: Final = re.compile(
    r"\bip\b|ipv4|addr|host|server|ping|ssh|://|router|gateway|client|from|dns|subnet|printer|forwarded|listen|connect"
)
_LENGTH: Final = re.compile(r"/[0-9]{1,3}(?![0-9])")
_DOCUMENTATION: Final = tuple(
    map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"))
)


def may_hold_ip(look: Look) -> bool:
    """Whether dots or colons stand as in an address."""
    return _DOTTED.search(look.text) is not None or _HEX_COLON.search(look.text) is not None


def may_hold_mac(look: Look) -> bool:
    """Whether colons or dashes stand as in a MAC address."""
    return _HEX_COLON.search(look.text) is not None or _MAC_DASHES.search(look.text) is not None


def find_ips(look: Look, *, private: bool) -> Iterator[Finding]:
    """Addresses of IPv4 and IPv6, private ones where `private`; not loopback, unspecified, documentation, or netmasks."""
    text = look.text
    for found in _IPV4.finditer(text):
        start, end = found.span()
        if not begins_word(text, start) or text[start - 1 : start] in (".", "-", "+") or not ends_word(text, end):
            continue
        if (
            _is_personal(found[0], private=private)
            and not _is_network(text, found[0], end)
            and not _is_version(look, found[0], start, end)
        ):
            yield Finding(start, end, IP)
    for start, end in _colon_groups(text):
        written = text[start:end]
        # `1::2` and the like are rather code.
        is_address = written.count(":") >= 2 and len(written.partition(":")[0]) >= 3 and _is_personal(written, private=private)
        if is_address and not _is_network(text, written, end):
            yield Finding(start, end, IP)


def find_macs(look: Look) -> Iterator[Finding]:
    """MAC addresses with colons or dashes; not broadcast, not all zeros."""
    text = look.text
    for start, end in _colon_groups(text):
        if end - start == 17 and _MAC_COLONS.match(text, start, end) and _names_a_device(text[start:end]):
            yield Finding(start, end, MAC)
    if _MAC_DASHES.search(text) is None:
        return
    for found in _MAC_WHOLE.finditer(text):
        if begins_word(text, found.start()) and text[found.start() - 1 : found.start()] != "-" and _names_a_device(found[0]):
            yield Finding(*found.span(), MAC)


def _names_a_device(written: str) -> bool:
    digits = re.sub(r"[:-]", "", written).lower()
    # Six pairs of digits alone are rather a date and a time.
    return len(set(digits)) > 2 and (":" in written or not digits.isdigit())


def _colon_groups(text: str) -> Iterator[tuple[int, int]]:
    """Maximal runs of hexadecimal digits and colons, with a dotted tail, that end and begin like a word."""
    read = 0
    for hint in _HEX_COLON.finditer(text):
        if hint.start() < read:
            continue
        start = hint.start()
        while start > read and hint.start() - start < 5 and text[start - 1] in _HEXADECIMAL:
            start -= 1
        run = _COLONS.match(text, start)
        if run is None:
            continue
        read = run.end()
        end = run.end()
        if text[end - 1] == ":" and not text.startswith("::", end - 2):
            end -= 1
        if (
            begins_word(text, start)
            and text[start - 1 : start] not in (":", ".")
            and ends_word(text, end)
            and text[end : end + 1] != ":"
        ):
            yield start, end


_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")


@lru_cache(maxsize=4096)
def _is_personal(written: str, *, private: bool) -> bool:
    try:
        address = ipaddress.ip_address(written)
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast or (address.version == 4 and address.is_reserved):
        return False
    if any(address.version == network.version and address in network for network in _DOCUMENTATION):
        return False
    if address.version == 4 and written.startswith(("0.", "255.")):
        return False
    return private or not address.is_private


def _is_network(text: str, written: str, end: int) -> bool:
    """Whether it names a network, not one of its addresses: `10.0.0.0/8`."""
    length = _LENGTH.match(text, end)
    if length is None:
        return False
    try:
        return ipaddress.ip_network(written + length[0]).num_addresses > 1
    except ValueError:
        return False


def _is_version(look: Look, written: str, start: int, end: int) -> bool:
    before = look.before(start, 40)
    if _VERSION_BEFORE.search(before) or _VERSION_MORE.search(before) or _PRODUCT.search(before):
        return True
    at_line_start = start == 0 or look.text[start - 1] == "\n"
    if at_line_start and _HEADING.match(look.text, end):
        return True
    if max(map(int, written.split("."))) < 20 and not (written.startswith("10.") and ".0." in written):
        return _ADDRESS_WORDS.search(look.around(start, end, before=40, after=20)) is None and not look.text.startswith(
            (":", "/"), end
        )
    return False
