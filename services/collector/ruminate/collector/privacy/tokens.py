"""Keys and tokens that show by themselves what they are: by a prefix that their provider gave them, or by their shape.

Each is looked for by its prefix, which is fast; the pattern is then matched there and nowhere else. All repeats are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ruminate.collector.privacy.text import Finding, Look, begins_word, ends_word, is_varied

_ANYTHING: Final = 512
_PEM_CHARACTERS: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    prefix: str
    pattern: re.Pattern[str]


def _token(kind: str, prefixes: str, body: str) -> list[_Token]:
    return [_Token(kind, prefix, re.compile(re.escape(prefix) + body)) for prefix in prefixes.split()]


_W: Final = "[A-Za-z0-9_-]"
_A: Final = "[A-Za-z0-9]"
_H: Final = "[0-9a-f]"
TOKENS: Final = [
    *_token("aws_key", "AKIA ASIA ABIA ACCA", "[A-Z0-9]{16}"),
    *_token("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", f"{_A}{{30,255}}"),
    *_token("github_token", "github_pat_", "[A-Za-z0-9_]{22,255}"),
    *_token("gitlab_token", "glpat- gldt- glrt- glcbt- glptt- glft- glsoat- glagent- gloas-", f"[A-Za-z0-9_.-]{{20,{_ANYTHING}}}"),
    *_token(
        "slack_token", "xoxb- xoxp- xoxa- xoxo- xoxs- xoxr- xoxe- xoxe.xoxp- xoxc- xoxd- xapp-", f"[A-Za-z0-9%-]{{10,{_ANYTHING}}}"
    ),
    *_token("slack_webhook", "https://hooks.slack.com/", f"(?:services|workflows|triggers)/[A-Za-z0-9/_-]{{20,{_ANYTHING}}}"),
    *_token("stripe_key", "sk_live_ sk_test_ rk_live_ rk_test_ whsec_", f"[A-Za-z0-9+/=]{{16,{_ANYTHING}}}"),
    *_token("anthropic_key", "sk-ant-", f"{_W}{{20,{_ANYTHING}}}"),
    *_token("openrouter_key", "sk-or-", f"{_W}{{20,{_ANYTHING}}}"),
    *_token("openai_key", "sk-proj- sk-svcacct- sk-admin- sk-None-", f"{_W}{{20,{_ANYTHING}}}"),
    *_token("openai_key", "sk-", f"{_A}{{20,{_ANYTHING}}}"),
    *_token("google_key", "AIza", f"{_W}{{35,60}}"),
    *_token("google_token", "ya29.", f"{_W}{{20,{_ANYTHING}}}"),
    *_token("google_secret", "GOCSPX-", f"{_W}{{20,60}}"),
    *_token("huggingface_token", "hf_ api_org_", f"{_A}{{30,60}}"),
    *_token("npm_token", "npm_", f"{_A}{{36,60}}"),
    *_token("pypi_token", "pypi-AgE", f"{_W}{{40,1000}}"),
    *_token("sendgrid_key", "SG.", f"{_W}{{16,40}}\\.{_W}{{30,80}}"),
    *_token("brevo_key", "xkeysib- xsmtpsib-", f"{_W}{{40,120}}"),
    *_token("twilio_key", "SK", f"{_H}{{32}}"),
    *_token(
        "discord_webhook",
        "https://discord.com/api/webhooks/ https://discordapp.com/api/webhooks/",
        f"[0-9]{{10,25}}/{_W}{{30,100}}",
    ),
    *_token("databricks_token", "dapi", f"{_H}{{32}}(?:-[0-9])?"),
    *_token("digitalocean_token", "dop_v1_ doo_v1_ dor_v1_", f"{_H}{{40,80}}"),
    *_token("shopify_token", "shpat_ shpss_ shpca_ shppa_ shptka_", "[0-9a-fA-F]{32}"),
    *_token("square_token", "sq0csp- sq0atp- sq0idp-", f"{_W}{{20,60}}"),
    *_token("square_token", "EAAA", f"{_W}{{56,80}}"),
    *_token("facebook_token", "EAA", f"{_A}{{80,400}}"),
    *_token("mailgun_key", "key-", f"{_H}{{32}}"),
    *_token("vault_token", "hvs. hvb. hvr.", f"{_W}{{24,300}}"),
    *_token("docker_token", "dckr_pat_ dckr_oat_", f"{_W}{{20,60}}"),
    *_token("linear_key", "lin_api_ lin_oauth_", f"{_A}{{30,80}}"),
    *_token("notion_token", "ntn_", f"{_A}{{40,60}}"),
    *_token("notion_token", "secret_", f"{_A}{{43}}"),
    *_token("atlassian_token", "ATATT3 ATCTT3 ATBB", f"[A-Za-z0-9_=-]{{24,{_ANYTHING}}}"),
    *_token("sentry_token", "sntrys_ sntryu_", f"[A-Za-z0-9_=+/-]{{40,{_ANYTHING}}}"),
    *_token("groq_key", "gsk_", f"{_A}{{40,80}}"),
    *_token("xai_key", "xai-", f"{_A}{{60,100}}"),
    *_token("perplexity_key", "pplx-", f"{_A}{{32,80}}"),
    *_token("replicate_token", "r8_", f"{_A}{{37,60}}"),
    *_token("langsmith_key", "lsv2_pt_ lsv2_sk_", "[0-9a-f_]{32,80}"),
    *_token("figma_token", "figd_ figu_", f"{_W}{{30,80}}"),
    *_token("postman_key", "PMAK-", f"{_W}{{50,80}}"),
    *_token("newrelic_key", "NRAK- NRJS- NRII-", f"{_W}{{19,60}}"),
    *_token("grafana_token", "glsa_ glc_", f"[A-Za-z0-9_+/=]{{32,{_ANYTHING}}}"),
    *_token("doppler_token", "dp.pt. dp.st. dp.ct.", "[A-Za-z0-9_.-]{36,80}"),
    *_token("planetscale_token", "pscale_tkn_ pscale_pw_ pscale_oauth_", f"{_W}{{32,80}}"),
    *_token("supabase_token", "sbp_ sb_secret_", f"{_W}{{30,80}}"),
    *_token("rubygems_key", "rubygems_", f"{_H}{{48}}"),
    *_token("netlify_token", "nfp_", f"{_A}{{36,60}}"),
    *_token("pulumi_token", "pul-", f"{_H}{{40}}"),
    *_token("tailscale_key", "tskey-", f"{_W}{{20,80}}"),
    *_token("heroku_key", "HRKU-", f"{_W}{{36,80}}"),
    *_token("age_key", "AGE-SECRET-KEY-1", "[A-Z0-9]{50,70}"),
    *_token("dropbox_token", "sl.", f"{_W}{{100,{_ANYTHING}}}"),
    *_token("mapbox_token", "sk.eyJ", f"[A-Za-z0-9_.-]{{60,{_ANYTHING}}}"),
    *_token("sourcegraph_token", "sgp_", "[A-Za-z0-9_]{40,80}"),
    *_token("buildkite_token", "bkua_ bkct_", f"{_A}{{40,80}}"),
    *_token("hubspot_token", "pat-na1- pat-eu1-", "[0-9a-fA-F-]{36}"),
    *_token("jwt", "eyJ", r"[A-Za-z0-9_-]{8,2000}(?:\.[A-Za-z0-9_-]{0,4000}){2,4}"),
]
_AFTER_A_COLON: Final = re.compile(r":AA[A-Za-z0-9_-]{32,36}(?![A-Za-z0-9_-])")
_BETWEEN_DOTS: Final = re.compile(r"\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,45}(?![A-Za-z0-9_.-])")
_DISCORD: Final = re.compile(r"[MNO][A-Za-z0-9_-]{22,27}\Z")
_DIGITS: Final = re.compile(r"[0-9]{8,11}\Z")
_SENTRY: Final = re.compile(r"(?:(?<=\W)|\A)https?://[0-9a-f]{32}(?::[0-9a-f]{32})?\Z")
_SENTRY_HOST: Final = re.compile(r"@[A-Za-z0-9.-]{1,80}/[0-9]{1,12}")
_ACCOUNT_KEY: Final = re.compile(r"AccountKey=([A-Za-z0-9+/]{40,100}={0,2})", re.IGNORECASE)
_SIGNATURE: Final = re.compile(r"[?&;]sig=((?:[A-Za-z0-9+/=_-]|%[0-9A-Fa-f]{2}){40,200})")
_BEGIN_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END_KEY: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:\\n)?")
_KEY_LINES: Final = re.compile(r"(?:(?:\s|\\[nr]){1,20}[A-Za-z0-9+/=]{16,5000})*")

_SHORTEST: Final = 20
"""No other token is shorter, and none but a private key has a space."""
_OF_SHORT_ONES: Final = ("eyJ", "xox", "xapp-", "-----BEGIN")
_LOOSE: Final = re.compile(r":AA|AccountKey=|[?&;]sig=|://[0-9a-f]{32}[:@]", re.IGNORECASE)
_PREFIXES: Final = tuple(
    sorted({token.prefix for token in TOKENS if not any(token.prefix != o.prefix and o.prefix in token.prefix for o in TOKENS)})
)
KINDS: Final = tuple(
    dict.fromkeys(
        [token.kind for token in TOKENS]
        + ["telegram_token", "discord_token", "sentry_dsn", "azure_key", "azure_sas", "private_key"]
    )
)
"""Every kind that this module finds."""


def may_hold(look: Look) -> bool:
    """Whether a prefix occurs in a word that is long enough; a text without one needs no further look."""
    text = look.text
    if any(map(text.__contains__, _OF_SHORT_ONES)):
        return True
    # Of a clean text, hardly a word is left.
    long_words = " ".join([word for word in text.split() if len(word) >= _SHORTEST])
    return len(long_words) >= _SHORTEST and (
        any(map(long_words.__contains__, _PREFIXES))
        or _BETWEEN_DOTS.search(long_words) is not None
        or _LOOSE.search(long_words) is not None
    )


def find(look: Look) -> Iterator[Finding]:
    """Every token, in no order; the same place may come as two kinds."""
    text = look.text
    for token in TOKENS:
        at = text.find(token.prefix)
        while at >= 0:
            end = at + len(token.prefix)
            if begins_word(text, at):
                found = token.pattern.match(text, at)
                if found is not None and ends_word(text, found.end()) and is_varied(text[end : found.end()]):
                    end = found.end()
                    yield Finding(at, end, token.kind)
            at = text.find(token.prefix, end)
    yield from _by_shape(text)
    yield from _private_keys(text)


def _by_shape(text: str) -> Iterator[Finding]:
    for found in _AFTER_A_COLON.finditer(text):
        bot = _DIGITS.search(text, max(0, found.start() - 11), found.start())
        if bot is not None and begins_word(text, bot.start()):
            yield Finding(bot.start(), found.end(), "telegram_token")
    for found in _BETWEEN_DOTS.finditer(text):
        user = _DISCORD.search(text, max(0, found.start() - 28), found.start())
        if user is not None and begins_word(text, user.start()):
            yield Finding(user.start(), found.end(), "discord_token")
    for found in _SENTRY_HOST.finditer(text):
        key = _SENTRY.search(text, max(0, found.start() - 80), found.start())
        if key is not None:
            yield Finding(key.start(), found.end(), "sentry_dsn")
    for pattern, kind in ((_ACCOUNT_KEY, "azure_key"), (_SIGNATURE, "azure_sas")):
        for found in pattern.finditer(text):
            yield Finding(*found.span(1), kind)


def _private_keys(text: str) -> Iterator[Finding]:
    """Whole blocks; where the end is missing, as many lines as look like a key's."""
    read = 0
    for begin in _BEGIN_KEY.finditer(text):
        if begin.start() < read:
            continue
        lines = _KEY_LINES.match(text, begin.end())
        read = begin.end() if lines is None else lines.end()
        end = _END_KEY.search(text, begin.end(), begin.end() + _PEM_CHARACTERS)
        if end is not None:
            read = end.end()
        if read > begin.end() + 1:
            yield Finding(begin.start(), read, "private_key")
