"""Accounts, cards and the numbers by which states know people. Check digits decide; where they cannot, a word nearby must.

Check digits are python-stdnum's, but for the kinds whose module there looks at the clock: what is found must not depend on the day.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from stdnum import luhn, verhoeff
from stdnum.at import vnr
from stdnum.au import tfn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.iso7064 import mod_97_10
from stdnum.it import codicefiscale
from stdnum.jp import in_ as my_number
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.us import itin, ssn

from ruminate.collector.privacy.text import Finding, Look, Words, begins_word, ends_word

IBAN: Final = "iban"
CARD: Final = "card"

_BEFORE, _AFTER = 60, 24
_MOST_GROUPS: Final = 8
_FEWEST_DIGITS, _MOST_DIGITS = 8, 19


@dataclass(frozen=True, slots=True)
class _National:
    """A number of one country, made of digits alone but for separators."""

    kind: str
    country: str
    lengths: tuple[int, ...]
    is_valid: Callable[[str], bool]
    words: Words
    form: re.Pattern[str] | None = None
    """Written so, it needs no word nearby."""


@dataclass(frozen=True, slots=True)
class _Lettered:
    """A number of one country with letters in it."""

    kind: str
    country: str
    shapes: tuple[bytes, ...]
    """One of them is in the shape of whatever the pattern finds."""
    pattern: re.Pattern[str]
    is_valid: Callable[[str], bool]
    words: Words | None = None
    """Needed nearby where the pattern's group `weak` took part."""

    def may_stand_in(self, look: Look) -> bool:
        """Whether a look at the pattern is worth it."""
        return any(map(look.shape.__contains__, self.shapes))


def _is_date(year: int, month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(2000 if year % 4 == 0 else 2001, month)[1]


def _has_date(digits: str, order: str) -> bool:
    """Whether the first six digits are a date, in the order `ymd` or `dmy`."""
    first, month, last = int(digits[:2]), int(digits[2:4]), int(digits[4:6])
    return _is_date(first, month, last) if order == "ymd" else _is_date(last, month, first)


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def _is_se_personnummer(digits: str) -> bool:
    if len(digits) == 12 and digits[:2] not in ("18", "19", "20"):
        return False
    digits = digits[-10:]
    day = int(digits[4:6])  # 60 more for a coordination number
    return _is_date(int(digits[:2]), int(digits[2:4]), day - 60 if day > 60 else day) and luhn.is_valid(digits)


def _is_no_fnr(digits: str) -> bool:
    day = int(digits[:2])  # 40 more for a D number
    if not _is_date(int(digits[4:6]), int(digits[2:4]) % 40, day - 40 if day > 40 else day):
        return False
    return (
        _weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2, 1)) % 11 == 0
        and _weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2, 1)) % 11 == 0
    )


def _is_be_national_number(digits: str) -> bool:
    if not (int(digits[2:4]) % 20 <= 12 and int(digits[4:6]) <= 31):
        return False
    # Who was born from 2000 on has a 2 before the number when its check digits are computed.
    return any(97 - int(century + digits[:9]) % 97 == int(digits[9:]) for century in ("", "2"))


def _is_kr_rrn(digits: str) -> bool:
    if not (_has_date(digits, "ymd") and digits[6] in "12345678"):
        return False
    return (11 - _weighted(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)) % 11) % 10 == int(digits[12])


def _is_kr_rrn_of_any_age(digits: str) -> bool:
    return _has_date(digits, "ymd") and digits[6] in "12345678"  # since October 2020 the last digits are drawn


def _is_aadhaar(digits: str) -> bool:
    return digits[0] > "1" and digits != digits[::-1] and verhoeff.is_valid(digits)


def _is_ssn(digits: str) -> bool:
    return ssn.is_valid(digits) and len(set(digits)) > 2 and digits not in ("123456789", "987654321")


def _is_long_and(valid: Callable[[str], bool], digits: str) -> bool:
    return len(set(digits)) > 2 and valid(digits)


def _words(pattern: str, *stems: str) -> Words:
    return Words(re.compile(pattern), stems)


_RRN_WORDS: Final = _words("주민|resident registration|rrn", "주민", "resident", "rrn")
_TAX_AND_INSURANCE: Final = r"social security|\bss[n#]|\bsoc\.? sec"
NATIONAL: Final = (
    _National(
        "us_ssn", "US", (9,), _is_ssn, _words(_TAX_AND_INSURANCE, "ss", "soc"), re.compile(r"[0-9]{3}([ -])[0-9]{2}\1[0-9]{4}\Z"),
    ),
    _National(
        "us_itin", "US", (9,), itin.is_valid, _words(r"\bitin\b|taxpayer|\btin\b", "tin", "taxpayer"),
        re.compile(r"9[0-9]{2}([ -])[0-9]{2}\1[0-9]{4}\Z"),
    ),
    _National(
        "uk_nhs", "GB", (10,), partial(_is_long_and, nhs.is_valid),
        _words(r"\bnhs\b|national health|patient", "nhs", "national", "patient"),
    ),
    _National(
        "de_tax_id", "DE", (11,), idnr.is_valid,
        _words(r"steuer|\bidnr|\bid-nr|\btin\b|tax id", "steuer", "idnr", "id-nr", "tin", "tax id"),
        re.compile(r"[0-9]{2} [0-9]{3} [0-9]{3} [0-9]{3}\Z"),
    ),
    _National(
        "fr_nir", "FR", (15,), nir.is_valid, _words("s[ée]cu|nir", "cu", "nir"),
        re.compile(r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}\Z"),
    ),
    _National(
        "nl_bsn", "NL", (9,), partial(_is_long_and, bsn.is_valid),
        _words(r"\bbsn\b|burgerservice|sofi|persoonsnummer", "bsn", "burger", "sofi", "persoon"),
    ),
    _National("pl_pesel", "PL", (11,), pesel.is_valid, _words("pesel", "pesel")),
    _National(
        "be_national_number", "BE", (11,), _is_be_national_number,
        _words(
            r"rijksregister|registre national|num[ée]ro national|insz|niss|national number", "rijks", "national", "insz", "niss"
        ),
        re.compile(r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}\Z"),
    ),
    _National(
        "ch_ahv", "CH", (13,), ahv.is_valid, _words(r"\bahv|\bavs\b|\bavs-|oasi", "ahv", "avs", "oasi"),
        re.compile(r"756[. ]?[0-9]{4}[. ]?[0-9]{4}[. ]?[0-9]{2}\Z"),
    ),
    _National(
        "at_svnr", "AT", (10,), vnr.is_valid,
        _words(
            r"sozialversicherung|\bsvnr|\bsv-nr|versicherungsnummer|\bvsnr", "versicherung", "svnr", "sv-nr", "vsnr"
        ),
        re.compile(r"[0-9]{4} [0-9]{6}\Z"),
    ),
    _National(
        "se_personnummer", "SE", (10, 12), _is_se_personnummer,
        _words(r"personn|samordningsn|\bpnr\b", "personn", "samordning", "pnr"),
        re.compile(r"[0-9]{6}-[0-9]{4}\Z"),
    ),
    _National("dk_cpr", "DK", (10,), partial(_has_date, order="dmy"), _words(r"\bcpr\b|\bcpr-|personnummer", "cpr", "personn")),
    _National(
        "no_fnr", "NO", (11,), _is_no_fnr, _words("f[øo]dselsn|personn", "dselsn", "personn"),
        re.compile(r"[0-9]{6} ?[0-9]{5}\Z"),
    ),
    _National(
        "br_cpf", "BR", (11,), partial(_is_long_and, cpf.is_valid), _words(r"\bcpf\b|cadastro", "cpf", "cadastro"),
        re.compile(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}\Z"),
    ),
    _National(
        "in_aadhaar", "IN", (12,), _is_aadhaar, _words("aadhaar|aadhar|uidai|आधार", "aadha", "uidai", "आधार"),
        re.compile(r"[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\Z"),
    ),
    _National(
        "ca_sin", "CA", (9,), partial(_is_long_and, sin.is_valid),
        _words(r"\bsin\b|social insurance|\bnas\b|assurance sociale", "sin", "soc", "nas"),
    ),
    _National("au_tfn", "AU", (8, 9), partial(_is_long_and, tfn.is_valid), _words(r"\btfn\b|tax file", "tfn", "tax file")),
    _National(
        "jp_my_number", "JP", (12,), my_number.is_valid,
        _words("マイナンバー|個人番号|my number|individual number", "マイナンバー", "個人番号", "number"),
    ),
    _National("kr_rrn", "KR", (13,), _is_kr_rrn, _RRN_WORDS, re.compile(r"[0-9]{6}-[1-8][0-9]{6}\Z")),
    _National("kr_rrn", "KR", (13,), _is_kr_rrn_of_any_age, _RRN_WORDS),
)  # fmt: skip


def _is_hetu(written: str) -> bool:
    digits = written[:6] + written[7:10]
    return _has_date(digits, "dmy") and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(digits) % 31] == written[10]


def _always(_: str) -> bool:
    return True


_NI_WORDS: Final = _words(
    r"\bnino?\b|national insurance|\bni (?:no|number)|\bni:|payroll|p60|hmrc",
    "nin",
    "national",
    "ni ",
    "ni:",
    "payroll",
    "p60",
    "hmrc",
)
LETTERED: Final = (
    _Lettered(
        "uk_nino", "GB", (b"AA 00 00 00 A", b"AA000000"),
        re.compile(
            r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
            r"(?: [0-9]{2} [0-9]{2} [0-9]{2} [A-D]|(?P<weak>[0-9]{6} ?[A-D]))"
        ),
        _always, _NI_WORDS,
    ),
    _Lettered(
        "es_dni", "ES", (b"00000000A", b"00000000 A", b"00000000-A"), re.compile("[0-9]{8}[ -]?[A-HJ-NP-TV-Z]"), dni.is_valid,
    ),
    _Lettered(
        "es_dni", "ES", (b"A0000000", b"A 0000000", b"A-0000000"),
        re.compile("[XYZ][ -]?[0-9]{7}[ -]?[A-HJ-NP-TV-Z]"), nie.is_valid,
    ),
    _Lettered(
        "it_fiscal_code", "IT", (b"AAAAAA0", b"AAAAAAAAA"),
        re.compile("[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"), codicefiscale.is_valid,
    ),
    _Lettered(
        "fi_hetu", "FI", (b"000000-000", b"000000+000", b"000000A000"),
        re.compile("[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]"), _is_hetu,
    ),
    _Lettered(
        "fr_nir", "FR", (b"0A000", b"0A 000"),
        re.compile("[12] ?[0-9]{2} ?[0-9]{2} ?2[AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"), nir.is_valid,
    ),
    _Lettered(
        "in_pan", "IN", (b"AAAAA0000A",), re.compile("[A-Z]{3}(?:P|(?P<weak>[ABCFGHJLT]))[A-Z][0-9]{4}[A-Z]"), _always,
        _words(r"\bpan\b|income tax|permanent account", "pan", "income", "permanent"),
    ),
)  # fmt: skip
_LETTERED_SHAPES: Final = tuple(dict.fromkeys(shape for kind in LETTERED for shape in kind.shapes))
NATIONAL_KINDS: Final = tuple(dict.fromkeys(kind.kind for kind in (*NATIONAL, *LETTERED)))
KINDS: Final = (IBAN, CARD, *NATIONAL_KINDS)
"""Every kind that this module finds."""
COUNTRIES: Final = tuple(sorted({kind.country for kind in (*NATIONAL, *LETTERED)}))
"""The countries whose numbers are known."""

_LENGTHS_OF_IBAN: Final = {
    country: int(length)
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ XK LT LU MN", 21: "HR LV LI CH",
        22: "BH BG CR DE GE IE ME RS GB VA", 23: "GI IQ IL OM SO TL AE", 24: "AD CZ MD PK RO SA SK ES SE TN VG", 25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE",
        31: "MT SC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_IBAN_BEGIN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[ \u00a0-]?[A-Z0-9]")
_SMALL_IBAN: Final = re.compile("[a-z]{2}[0-9]{2}[a-z0-9]{11,29}(?![A-Za-z0-9])")
_IBAN_REST: Final = re.compile(r"(?:[ \u00a0-]?[A-Z0-9]){15,33}")
_RUN: Final = re.compile(r"[0-9](?:[ \u00a0./\u2010-\u2012-]?[0-9]){7,}")
_GROUP: Final = re.compile(r"[0-9]+")
_CARD_FORM: Final = re.compile(
    r"[0-9]{13,19}\Z|[0-9]{4}(?P<s>[ -])[0-9]{4}(?P=s)[0-9]{4}(?P=s)[0-9]{4}(?:(?P=s)[0-9]{1,3})?\Z"
    r"|[0-9]{4}(?P<t>[ -])[0-9]{6}(?P=t)[0-9]{4,5}\Z"
)
# Visa's cards of 13 digits are gone, while the numbers of goods and milliseconds since 1970 have as many.
_ISSUERS: Final = re.compile(
    r"(?:4[0-9]{15}(?:[0-9]{3})?|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}"
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12,15}|35(?:2[89]|[3-8][0-9])[0-9]{12,15}|3(?:0[0-5]|[689][0-9])[0-9]{11,16}"
    r"|62[0-9]{14,17}|(?:5018|5020|5038|6304|6759|676[1-3])[0-9]{8,15})\Z"
)


def may_hold_iban(look: Look) -> bool:
    """Whether an account may begin."""
    return b"AA00" in look.shape or b"aa00" in look.shape


def may_hold_lettered(look: Look) -> bool:
    """Whether letters and digits stand together as in a national number with letters."""
    return any(map(look.shape.__contains__, _LETTERED_SHAPES))


def find_ibans(look: Look) -> Iterator[Finding]:
    """Accounts of the length that their country has, whose check digits are right; in one piece or in groups."""
    text = look.text
    for begin in _IBAN_BEGIN.finditer(text) if b"AA00" in look.shape else ():
        start = begin.start()
        length = _LENGTHS_OF_IBAN.get(text[start : start + 2])
        if length is None or not begins_word(text, start):
            continue
        rest = _IBAN_REST.match(text, start)
        end = _end_of(text, start, length, rest.end()) if rest else None
        if end is not None and ends_word(text, end) and mod_97_10.is_valid(_compact(text[start:end])):
            yield Finding(start, end, IBAN)
    for small in _SMALL_IBAN.finditer(text) if b"aa00" in look.shape else ():
        written = small[0].upper()
        is_long_enough = _LENGTHS_OF_IBAN.get(written[:2]) == len(written)
        if is_long_enough and begins_word(text, small.start()) and mod_97_10.is_valid(_compact(written)):
            yield Finding(*small.span(), IBAN)


def _compact(written: str) -> str:
    """As the check digits want it: country and check digits last."""
    bare = re.sub(r"[^A-Z0-9]", "", written)
    return bare[4:] + bare[:4]


def _end_of(text: str, start: int, length: int, limit: int) -> int | None:
    """Where `length` letters and digits end."""
    seen = 0
    for at in range(start, limit):
        seen += text[at].isalnum()
        if seen == length:
            return at + 1
    return None


def find_lettered(look: Look, countries: Collection[str], kinds: Collection[str]) -> Iterator[Finding]:
    """National numbers with letters."""
    text = look.text
    for kind in LETTERED:
        if kind.country not in countries or kind.kind not in kinds or not kind.may_stand_in(look):
            continue
        for found in kind.pattern.finditer(text):
            start, end = found.span()
            if not begins_word(text, start) or not ends_word(text, end) or text[start - 1 : start] in ("-", "."):
                continue
            weak = "weak" in kind.pattern.groupindex and found["weak"] is not None
            if weak and (kind.words is None or not kind.words.stand_in(look.around(start, end, before=_BEFORE, after=_AFTER))):
                continue
            if kind.is_valid(found[0]):
                yield Finding(start, end, kind.kind)


@lru_cache(maxsize=256)
def _by_length(countries: tuple[str, ...], kinds: frozenset[str]) -> Mapping[int, Sequence[_National]]:
    """The national numbers of digits alone that are wanted, by how many digits they have."""
    wanted = [kind for kind in NATIONAL if kind.country in countries and kind.kind in kinds]
    return {length: [kind for kind in wanted if length in kind.lengths] for length in range(_FEWEST_DIGITS, _MOST_DIGITS + 1)}


class _Near:
    """What stands near a run of digits, looked at once for each kind of number."""

    def __init__(self, look: Look, start: int, end: int) -> None:
        # Words may stand before or behind a list; what stands beside the middle of a long one is no word.
        self._around = look.around(start, end, before=_BEFORE, after=_AFTER)
        self._named: dict[str, bool] = {}

    def names(self, kind: _National) -> bool:
        """Whether words that name this kind stand there."""
        named = self._named.get(kind.kind)
        if named is None:
            named = self._named[kind.kind] = kind.words.stand_in(self._around)
        return named


def find_digits(look: Look, countries: tuple[str, ...], kinds: frozenset[str]) -> Iterator[Finding]:
    """Cards, and national numbers of digits alone."""
    by_length = _by_length(countries, kinds)
    for run in _RUN.finditer(look.text):
        if not begins_word(look.text, run.start()):
            continue
        groups = [group.span() for group in _GROUP.finditer(look.text, *run.span())]
        near = _Near(look, *run.span())
        at = 0
        while at < len(groups):
            found = _at_group(look.text, groups, at, by_length, near, card=CARD in kinds)
            if found is None:
                at += 1
            else:
                yield found
                while at < len(groups) and groups[at][0] < found.end:
                    at += 1


def _at_group(
    text: str,
    groups: list[tuple[int, int]],
    at: int,
    by_length: Mapping[int, Sequence[_National]],
    near: _Near,
    *,
    card: bool,
) -> Finding | None:
    """What begins with this group of digits: the longest that is something."""
    start, length = groups[at][0], 0
    windows: list[tuple[int, int]] = []
    for last in range(at, min(len(groups), at + _MOST_GROUPS)):
        length += groups[last][1] - groups[last][0]
        if length > _MOST_DIGITS:
            break
        if length >= _FEWEST_DIGITS:
            windows.append((last, length))
    if not windows or text[start - 1 : start] in ("$", "€", "£", "#"):
        return None
    for last, length in reversed(windows):
        is_card_long = card and length >= 13
        if not (by_length[length] or is_card_long):
            continue
        end = groups[last][1]
        if not ends_word(text, end):
            continue
        written = text[start:end]
        digits = written if last == at else "".join([text[first:stop] for first, stop in groups[at : last + 1]])
        apart = _stands_apart(text, groups, at, last)
        if (
            is_card_long
            and (apart or _is_one_of_cards(groups, at, last))
            and _CARD_FORM.match(written)
            and _ISSUERS.match(digits)
            and luhn.is_valid(digits)
        ):
            return Finding(start, end, CARD)
        for kind in by_length[length]:
            if near.names(kind) and kind.is_valid(digits):
                return Finding(start, end, kind.kind)
        for kind in by_length[length] if apart else ():
            if kind.form is not None and kind.form.match(written) and kind.is_valid(digits):
                return Finding(start, end, kind.kind)
    return None


def _is_one_of_cards(groups: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    """Whether all groups are of four digits, and as many as cards have."""
    if last - first != 3 or first % 4 or len(groups) % 4:
        return False
    return all(stop - start == 4 for start, stop in groups[max(0, first - 4) : last + 5])


def _stands_apart(text: str, groups: list[tuple[int, int]], first: int, last: int) -> bool:
    """Whether no group of digits that is joined by a sign, or looks like one more of a list, stands beside."""
    start, end = groups[first][0], groups[last][1]
    if start and text[start - 1] in ".-/" and start > 1 and text[start - 2].isalnum():
        return False
    if end < len(text) and text[end] in ".-/" and text[end + 1 : end + 2].isalnum():
        return False
    size = groups[last][1] - groups[last][0]
    beside = [groups[at] for at in (first - 1, last + 1) if 0 <= at < len(groups)]
    return all(other[1] - other[0] != size for other in beside)
