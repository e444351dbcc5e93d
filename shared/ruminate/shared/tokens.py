"""Access tokens for OAUTHBEARER: the client-credentials grant (RFC 6749, 4.4), kept and renewed before its end."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_plus

import httpx
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaConnectionError

from ruminate.shared.kafka_settings import WrongConnectionSettings

_ANSWER_SECONDS: Final = 5.0
_RENEW_AFTER_RATIO: Final = 0.8
_UNSAID_LIFE_SECONDS: Final = 60.0
"""How long a token is used whose answer does not say how long it lives."""
_PATIENCE_SECONDS: Final = 1.0
"""Clients that reconnect ask ten times a second; an endpoint that has just refused is left alone for so long."""


class TokenUnavailable(KafkaConnectionError):  # type: ignore[misc]
    """The token endpoint gave no token; a client takes it for a failed connection, and tries again."""

    def __init__(self, what: str, *, heals_by_waiting: bool) -> None:
        super().__init__(what)
        self.what = what
        self.heals_by_waiting = heals_by_waiting


@dataclass(frozen=True)
class _Token:
    text: str
    ends_at: float
    renew_at: float


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """One token for all clients of a process, whichever thread asks.

    `secret` and `tls` are asked anew for each token, so that what was rotated is used.
    """

    def __init__(
        self,
        url: str,
        *,
        client_id: str,
        secret: Callable[[], str],
        tls: Callable[[], ssl.SSLContext],
        scope: str | None = None,
        audience: str | None = None,
    ) -> None:
        self._url = url
        self._client_id = client_id
        self._secret = secret
        self._tls = tls
        self._form = {"grant_type": "client_credentials"}
        self._form |= {name: value for name, value in (("scope", scope), ("audience", audience)) if value is not None}
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._refusal: tuple[float, TokenUnavailable] | None = None

    def check(self) -> None:
        """Raises WrongConnectionSettings where a file cannot be used."""
        self._secret()
        self._tls()

    async def token(self) -> str:
        """For aiokafka. Raises TokenUnavailable."""
        return (await asyncio.to_thread(self._valid)).text

    def for_librdkafka(self, _configuration: str) -> tuple[str, float]:
        """For confluent-kafka's `oauth_cb`: the token, and the second (since 1970) in which it ends. Raises TokenUnavailable."""
        token = self._valid()
        return token.text, token.ends_at

    def _valid(self) -> _Token:
        with self._lock:
            now = time.time()
            if self._token is not None and now < self._token.renew_at:
                return self._token
            if self._refusal is not None and now < self._refusal[0]:
                raise self._refusal[1]
            try:
                self._token, self._refusal = self._ask(now), None
            except TokenUnavailable as error:
                if self._token is not None and now < self._token.ends_at:
                    return self._token  # an early renewal may fail
                self._refusal = (now + _PATIENCE_SECONDS, error)
                raise
            return self._token

    def _ask(self, now: float) -> _Token:
        try:
            secret, tls = self._secret(), self._tls()
        except WrongConnectionSettings as error:  # gone since we began
            raise TokenUnavailable(str(error), heals_by_waiting=False) from None
        # Each part of the log-in is form-encoded first (RFC 6749, 2.3.1).
        who = httpx.BasicAuth(quote_plus(self._client_id), quote_plus(secret))
        try:
            with httpx.Client(verify=tls, timeout=_ANSWER_SECONDS) as client:
                answer = client.post(self._url, data=self._form, auth=who, headers={"accept": "application/json"})
        except httpx.HTTPError as error:
            says = str(error) or type(error).__name__
            check = "RUMINATE_KAFKA_TOKEN_CA_FILE" if "CERTIFICATE" in says else "RUMINATE_KAFKA_TOKEN_URL, and that it runs"
            raise TokenUnavailable(
                f"the token endpoint {self._url} does not answer: {says}. Check {check}", heals_by_waiting=True
            ) from error
        if answer.is_success:
            return self._read(answer, now)
        client_error = answer.is_client_error and answer.status_code != httpx.codes.TOO_MANY_REQUESTS
        raise TokenUnavailable(
            f"the token endpoint {self._url} refused client {self._client_id}: HTTP {answer.status_code}{_error_of(answer)}. "
            "Check RUMINATE_KAFKA_TOKEN_CLIENT_ID, its secret, RUMINATE_KAFKA_TOKEN_SCOPE and RUMINATE_KAFKA_TOKEN_AUDIENCE",
            heals_by_waiting=not client_error,
        )

    def _read(self, answer: httpx.Response, now: float) -> _Token:
        try:
            found = answer.json()
            text, life = str(found["access_token"]), float(found.get("expires_in", _UNSAID_LIFE_SECONDS))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokenUnavailable(
                f"{self._url} answered HTTP {answer.status_code} without a token ({type(error).__name__}). "
                "Is RUMINATE_KAFKA_TOKEN_URL the token endpoint?",
                heals_by_waiting=False,
            ) from None
        return _Token(text, ends_at=now + life, renew_at=now + life * _RENEW_AFTER_RATIO)


def _error_of(answer: httpx.Response) -> str:
    """The `error` word that RFC 6749 asks for; nothing else of the answer, which might repeat what we sent."""
    try:
        word = answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f", {word}" if isinstance(word, str) and word.isascii() and len(word) <= 60 else ""
