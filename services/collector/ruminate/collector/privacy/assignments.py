"""Passwords and secrets that show by what they are assigned to: `password = …`, `Authorization: Bearer …`, `scheme://user:…@host`.

Code speaks of passwords all the time without holding one. What follows the name has to look like a value: stand-ins, types,
calls, attributes and plain words are none. A password may be shorter and simpler than another secret, for people choose it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ruminate.collector.privacy.text import ASCII_WORD, Finding, Look, entropy_bits, in_lower_case, is_stand_in

PASSWORD: Final = "password"  # noqa: S105 - names a kind
SECRET: Final = "secret"  # noqa: S105
AWS_SECRET: Final = "aws_secret"  # noqa: S105
KINDS: Final = (PASSWORD, SECRET, AWS_SECRET)
"""Every kind that this module finds."""

# Every alternative begins with a letter of its own: so the search skips what cannot begin one.
NAMED: Final = re.compile(
    r"p(?:asswor[dt]e?|asswd|assphrase|asscode|ass\b|wd|w\b|arola d[’']ordine|rivate[ _-]?key)|_p(?:ass|w)\b"
    r"|s(?:ecret|enha|alasana|chl[üu]ssel|(?:igning|hared|ession|ervice)[ _-]?key)|token|c(?:redentials?|ontrase[ñn]a)|bearer"
    r"|m(?:ot de passe|aster[ _-]?key)|wachtwoord|webhook[ _-]?key|k(?:ennwort|ey(?= is ))|l[öo]senord|has[lł]o|identified by"
    r"|a(?:uth(?:orization|[ _-]?key)?|(?:pi|ccess|ccount|pp)[ ._-]?key)|encryption[ ._-]?key|deploy[ _-]?key"
    r"|парол[а-я]{0,2}|密码|密碼|パスワード|비밀번호"
)
_STEMS: Final = (
    "pass",
    "secret",
    "token",
    "key",
    "auth",
    "credential",
    "bearer",
    "pwd",
    "pw",
    "identified by",
    "wort",
    "woord",
    "senha",
    "senord",
    "schlussel",
    "salasana",
    "contrase",
    "haslo",
    "parola d",
)
_OTHER_STEMS: Final = ("schlüssel", "contraseña", "hasło", "парол", "密码", "密碼", "パスワード", "비밀번호", "lösenord")
_PASSWORD_NAMES: Final = (
    "passw", "passphrase", "passcode", "pwd", "parola d", "senha", "mot de passe", "contrase", "wachtwoord", "kennwort", "losenord",
    "lösenord", "haslo", "hasło", "парол", "salasana", "密码", "密碼", "パスワード", "비밀번호", "identified by",
)  # fmt: skip
_ABOUT_ONE: Final = frozenset((
    "arn", "budget", "confirm", "confirmation", "count", "endpoint", "encode", "decode", "error", "expired", "expires",
    "expiry", "field", "fields", "file", "files", "form", "header", "hint", "id", "ids", "index", "input", "label", "len",
    "length", "limit", "manager", "max", "min", "name", "names", "param", "path", "pattern", "placeholder", "policy", "prefix",
    "prompt", "provider", "ref", "regex", "reset", "ring", "s", "size", "store", "strength", "suffix", "ttl", "type", "types",
    "uri", "url", "usage", "valid", "validator", "version", "view",
))  # fmt: skip
_PIECES: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_REST_OF_NAME: Final = re.compile(r"[A-Za-z0-9_]{0,40}(?:[.-][A-Za-z0-9_]{1,40}){0,4}")
_IN_NAMES: Final = ASCII_WORD | {"-", "."}
_LONGEST: Final = 256

_SEPARATOR: Final = re.compile(r"""(?:\\?["'`])?\]?[ \t]{0,8}(?::=|=>|->|→|=|:|：|>)[ \t]{0,8}(?![=>])""")
# Compared with, or handed over beside its name: only what has a digit is a value then.
_WEAK_SEPARATOR: Final = re.compile(r"""(?:["']\]?[ \t]{0,3},|["']?\]?[ \t]{0,3}[=!]==?|\()[ \t]{0,3}(?=["'])""")
_QUOTED: Final = re.compile(
    rf"""\\(["'])(?P<e>[^"'\\\n]{{1,{_LONGEST}}})\\\1|"(?P<d>(?:[^"\\\n]|\\.){{1,{_LONGEST}}})"|"""
    rf"""'(?P<s>(?:[^'\\\n]|\\.){{1,{_LONGEST}}})'"""
    rf"""|`(?P<b>[^`\n]{{1,{_LONGEST}}})`|(?P<f>[fbru]["'])|(?P<n>["'][^"'\n]{{0,2}}$)"""
)
# `&`, `,`, `;` and `|` end it where another name follows, or nothing; elsewhere they are part of it.
_BARE: Final = re.compile(
    rf"""(?:[^\s"'`,;<>&|\\()\[\]{{}}]|[&,;|](?=[^\s"'`<>\\()\[\]{{}}])(?![A-Za-z_][\w.-]{{0,40}}[ ]?[=:]|&)){{1,{_LONGEST}}}"""
)
_BRACED: Final = re.compile(r"""[\[{(<$]""")
_PHRASE: Final = re.compile(
    r"""(?:[ \t](?:\(?[^\W\d_][\w'’]*\)?[ \t]){0,6}?(?:is|ist|lautet|est|es|è|är|er|jest|to|é|was|:)[ \t]{1,3}"""
    r"""|[^\S\n]?[:：][^\S\n]{1,3}"""
    r"""|[ \t](?:\(?[^\W\d_][\w'’]*\)?[ \t]){0,6}?\(?[^\W\d_]+\)?:[ \t]|[是は][ ]?)["'`«„“「]?[ \u00a0]?|(?P<straight>[ \t])"""
)
_SCHEME: Final = re.compile(
    rf"""(?:authorization["']?[ \t]{{0,3}}[:=][ \t]{{0,3}}["']?[ \t]{{0,3}})?(?:bearer|basic|token|digest|apikey)[ \t]{{1,3}}"""
    rf"""(?P<value>[A-Za-z0-9._~+/=:-]{{8,{_LONGEST}}})"""
)
_FLAG: Final = re.compile(r"[ \t]{1,3}")
_SQL: Final = re.compile(r"[ \t]{1,3}'")
_SHORT_FLAG: Final = re.compile(
    rf"""(?:sshpass[ \t]{{1,3}}-p[ \t]{{0,3}}|mysql[^\n]{{0,80}}?[ ]-p)["']?([^\s"'-][^\s"']{{2,{_LONGEST}}})"""
)
_USER_FLAG: Final = re.compile(
    rf"""(?<=[ \t])(?:-u|--user|--proxy-user)[ \t=]{{1,3}}["']?[^\s:"'/]{{1,64}}:([^\s"'/][^\s"']{{2,{_LONGEST}}})"""
)
_IN_URL: Final = re.compile(r"""://[^\s/@:"'<>?#]{0,256}:([^\s/@"'<>]{1,256})@(?=[\w\[.-])""")
_STRONG_NEARBY: Final = re.compile(r"[A-Za-z0-9+/_=-]{20,}")
_NEARBY_CHARACTERS: Final = 64
_OF_CONTENT: Final = re.compile(r"commit|sha-?\d|\bsha\b|hash|digest|checksum|md5|etag|revision|integrity|uuid|trace|nonce|public")

_PATH: Final = re.compile(r"[A-Za-z_$][\w$]*(?:(?:\.|::|->)[A-Za-z_$][\w$]*)+[.:;,]?\Z")
_PLAIN: Final = re.compile(r"[^\W\d]+(?:[-.][^\W\d]+)*[.:;,!?]?\Z")
_CAPITALS: Final = re.compile(r"[A-Z]+(?:_[A-Z0-9]+)*\Z")
_AMOUNT: Final = re.compile(r"[-+]?[0-9][0-9_.,:/]*[a-z%]{0,3}\Z|\d{4}-\d\d-\d\d")
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]*://|[./~]|[A-Za-z]:\\")
_CODE: Final = re.compile(r"[=!]=|[+*/]?=$")
_SLUG: Final = re.compile(r"[a-z]+[0-9]{0,3}(?:[-_./][a-z]*[0-9]{0,3})+\Z")
_WORDS_WITHIN: Final = re.compile("[A-Z]?[a-z]{3,}")
_DIGIT: Final = re.compile(r"[0-9]")
_LETTER: Final = re.compile(r"[^\W\d_]")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")


def may_hold(look: Look) -> bool:
    """Whether a name for a secret, or a URL with a user, occurs."""
    text, lower = look.text, look.lower
    if "://" in text and "@" in text:
        return True
    if " -u" in text or "--user" in text or "mysql" in text:
        return True
    may_be_named = any(map(lower.__contains__, _STEMS)) or not (lower.isascii() or not any(map(lower.__contains__, _OTHER_STEMS)))
    return may_be_named and NAMED.search(lower) is not None


def find(look: Look) -> Iterator[Finding]:
    """Every value that is assigned to a name for a secret; only the value, never the name."""
    text = look.text
    if look.key:
        yield from _under_key(look)
    if "://" in text and "@" in text:
        for found in _IN_URL.finditer(text):
            if not is_stand_in(found[1]) or any(map(str.isdigit, found[1])):
                yield Finding(*found.span(1), PASSWORD)
    for pattern in (_SHORT_FLAG, _USER_FLAG) if "sshpass" in text or " -u" in text or "--user" in text or "mysql" in text else ():
        for found in pattern.finditer(text):
            if not is_stand_in(found[1]):
                yield Finding(*found.span(1), PASSWORD)
    for named in NAMED.finditer(look.lower):
        yield from _after_name(look, named.start(), named.end())


def _under_key(look: Look) -> Iterator[Finding]:
    """The whole text is a value: `{"password": "…"}`."""
    value = look.text
    if all(_is_about(look.key, named.end()) for named in NAMED.finditer(in_lower_case(look.key))):
        return
    kind = _kind_of(look.key.lower())
    if "\n" not in value and len(value) <= _LONGEST and _is_value(value, kind, quoted=True):
        yield Finding(0, len(value), kind)


def _after_name(look: Look, start: int, end: int) -> Iterator[Finding]:
    text = look.text
    if look.lower.startswith(("auth", "bearer"), start):
        yield from _in_header(look, start)
    while start > 0 and end - start < 60 and text[start - 1] in _IN_NAMES:
        start -= 1
    if text[start - 1 : start] == "/":
        return  # a path, such as /etc/passwd
    rest = _REST_OF_NAME.match(text, end)
    stop = end if rest is None else rest.end()
    name = text[start:stop]
    kind = _kind_of(name.lower())
    if _is_about(name, end - start):
        return
    separator = _SEPARATOR.match(text, stop)
    if separator is not None:
        found = _value_at(text, separator.end(), kind, _is_tight(text, name, separator))
        if found is not None:
            yield found
            return
    elif (weak := _WEAK_SEPARATOR.match(text, stop)) is not None:
        found = _value_at(text, weak.end(), kind, tight=False)
        if found is not None and _DIGIT.search(text, found.start, found.end):
            yield found
        return
    elif name.startswith("--") or (name.lower() in ("password", "identified by") and _SQL.match(text, stop)):
        space = _FLAG.match(text, stop)
        if space is not None:
            found = _value_at(text, space.end(), kind, tight=False)
            if found is not None and not _CAPITALS.match(text[found.start : found.end]):
                yield found
                return
    yield from _in_prose(text, stop, kind)
    yield from _nearby(look, stop)


def _kind_of(name: str) -> str:
    if any(word in name for word in _PASSWORD_NAMES) or name.rstrip("0123456789").endswith(("pass", "pw")):
        return PASSWORD
    return AWS_SECRET if "aws_secret" in name or "secretaccesskey" in name or "secret_access_key" in name else SECRET


def _is_about(name: str, named: int) -> bool:
    """Whether the name means something else: `token_count`, `tokenizer`, `secretary`, `passwords`, `password_reset_url`."""
    rest = name[named:]
    if rest and rest[0].islower() and name[named - 1].islower():
        return True
    return any(piece.lower() in _ABOUT_ONE for piece in _PIECES.findall(rest))


def _is_tight(text: str, name: str, separator: re.Match[str]) -> bool:
    """Whether this is a line of a configuration or a command, where a plain word is a value, and not one of a program."""
    sign = text[separator.start() : separator.end()]
    return (sign == "=" and (name.isupper() or name.startswith("--") or "." in name)) or sign == ">"


def _value_at(text: str, at: int, kind: str, tight: bool) -> Finding | None:
    quoted = _QUOTED.match(text, at)
    if quoted is not None:
        group = quoted.lastgroup
        if group is None or group in "fn":
            return None
        value = quoted[group]
        return Finding(*quoted.span(group), kind) if _is_value(value, kind, quoted=True) else None
    bare = _BARE.match(text, at)
    if bare is None or (_BRACED.match(text, at) and not text.startswith("$2", at)):
        return None
    value, end = bare[0], bare.end()
    if end < len(text) and (text[end] in "([" or text.startswith("\\(", end) or text.startswith("{{", end)):
        return None
    if value[-1] in ".:" and (end == len(text) or text[end].isspace()):
        value, end = value[:-1], end - 1
    if value.startswith("base64:"):
        value, at = value[7:], at + 7
    return Finding(at, end, kind) if value and _is_value(value, kind, quoted=False, tight=tight) else None


def _is_value(value: str, kind: str, *, quoted: bool, tight: bool = False) -> bool:
    if len(value) < 4 or is_stand_in(value) or _CAPITALS.match(value) or (kind != AWS_SECRET and _ADDRESS.match(value)):
        return False
    digits, letters = _DIGIT.search(value) is not None, _LETTER.search(value) is not None
    if kind == PASSWORD:
        return _is_password(value, digits=digits, letters=letters, quoted=quoted, tight=tight)
    return _looks_drawn(value, mixed=digits and letters)


def _is_password(value: str, *, digits: bool, letters: bool, quoted: bool, tight: bool) -> bool:
    if any(map(str.isspace, value)):
        return quoted and digits and letters and value.count(" ") <= 2
    if _PATH.match(value) or _CODE.search(value[:3]):
        return False
    if _PLAIN.match(value):
        return (quoted and "." not in value and "_" not in value) or tight
    if not letters and _AMOUNT.match(value):
        return quoted or len(value) >= 6 or tight
    return quoted or tight or (digits and NAMED.search(value.lower()) is None) or not value.isidentifier()


def _looks_drawn(value: str, *, mixed: bool) -> bool:
    """Whether a key or token looks drawn at random, and not like a name, a path or an amount."""
    if len(value) < 8 or any(map(str.isspace, value)) or value[-1] in ":?":
        return False
    if _PATH.match(value) or _AMOUNT.match(value) or _SLUG.match(value) or _is_wordy(value):
        return False
    if mixed:
        return len(value) >= 16 or (entropy_bits(value) >= 2.75 and not value.replace("-", "_").islower())
    return len(value) >= 20 and entropy_bits(value) >= 3.5 and not value.islower() and not _PLAIN.match(value.replace("_", "-"))


def _in_header(look: Look, start: int) -> Iterator[Finding]:
    """`Authorization: Bearer …`, `Authorization: Basic …`, `Bearer …`."""
    found = _SCHEME.match(look.lower, start)
    if found is None:
        return
    value = look.text[found.start("value") : found.end("value")]
    if not is_stand_in(value) and (len(value) >= 16 or _DIGIT.search(value)) and not _PLAIN.match(value):
        yield Finding(*found.span("value"), SECRET)


def _in_prose(text: str, at: int, kind: str) -> Iterator[Finding]:
    """`my password is …`: only what no word of a sentence looks like."""
    phrase = _PHRASE.match(text, at, at + 120)
    if phrase is None or (phrase["straight"] and kind != PASSWORD):
        return
    bare = _BARE.match(text, phrase.end())
    if bare is None:
        return
    value, end = bare[0], bare.end()
    if end < len(text) and text[end] in "([":
        return
    if value[-1] in ".:" or (value[-1] in "!?" and end == len(text) and len(value) < 8):
        value, end = value[:-1], end - 1
    symbols = any(not character.isalnum() for character in value[1:-1])
    mixed = _DIGIT.search(value) is not None and _LETTER.search(value) is not None
    least = 6 if kind == PASSWORD else 16
    looks = mixed or (symbols and kind == PASSWORD and not _PLAIN.match(value))
    is_other = is_stand_in(value) or _ADDRESS.match(value) or _PATH.match(value) or _AMOUNT.match(value)
    if phrase["straight"] and not (mixed and value.lower() != value != value.upper()):
        return  # `password sha256`
    if len(value) >= least and looks and not is_other:
        yield Finding(phrase.end(), end, kind)


def _nearby(look: Look, at: int) -> Iterator[Finding]:
    """What looks drawn at random, on the same line as the name of a secret and not far from it."""
    text = look.text
    line_end = text.find("\n", at, at + _NEARBY_CHARACTERS)
    end = at + _NEARBY_CHARACTERS if line_end < 0 else line_end
    for strong in _STRONG_NEARBY.finditer(text, at, end):
        grown = _STRONG_NEARBY.match(text, strong.start(), strong.start() + _LONGEST)
        value = strong[0] if grown is None else grown[0]
        start = strong.start()
        if start and (text[start - 1] in ASCII_WORD or text[start - 1] in "./$#@"):
            continue
        if _DIGIT.search(value) is None or _LETTER.search(value) is None or _UUID.match(value) or is_stand_in(value):
            continue
        if _OF_CONTENT.search(look.lower, max(0, at - 20), start):
            continue
        is_hex = all(character in "0123456789abcdefABCDEF" for character in value)
        if (is_hex and len(value) >= 32 and entropy_bits(value) >= 3.0) or (not is_hex and _is_random(value)):
            yield Finding(start, start + len(value), SECRET)


def _is_wordy(value: str) -> bool:
    """Whether most of it is words, as in `Qwen2ForTokenClassification`: what is drawn in both cases has few."""
    mixed = not value.islower() and not value.isupper()
    return mixed and 2 * sum(map(len, _WORDS_WITHIN.findall(value))) > len(value)


def _is_random(value: str) -> bool:
    if _is_wordy(value):
        return False
    mixed_case = not value.islower() and not value.isupper()
    return (
        mixed_case
        and entropy_bits(value) >= 3.7
        and value.count("/") <= len(value) // 12
        and value.count("-") + value.count("_") <= 3
    )
