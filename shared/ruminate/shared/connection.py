"""From settings to clients' options, and from a client that gets nowhere to the sentence that says why.

    aiokafka_options(settings)     for every aiokafka client       librdkafka_options(settings)   for confluent-kafka
    why_not_connected(settings)    one attempt of our own, in words: for readiness, `doctor` and every verb
    ConnectionWatch(settings)      the same for a process that runs, asked when a client of its fails to connect

A log-in that is refused or a certificate that is not trusted ends no service: they are mended at the other end, too, by a
rotation perhaps, and who answers agents goes on answering them. It is not ready, says why, and tries again. Only what is
wrong with the settings themselves ends it, with 78.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog
from aiokafka import client as aiokafka_client
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator, collect_hosts
from aiokafka.errors import KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest
from pydantic import SecretStr

from ruminate.shared.kafka_settings import KafkaSettings, WrongConnectionSettings, read_secret, variable
from ruminate.shared.obstacles import (
    Obstacle,
    explain,
    hung_up,
    is_refusal,
    log_in_demanded,
    no_such_mechanism,
    no_tls_there,
    together,
)
from ruminate.shared.tls import broker_context, trusting
from ruminate.shared.tokens import Tokens, TokenUnavailable

log = structlog.get_logger()

_ATTEMPT_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0
_LET_GO_SECONDS: Final = 0.05
_LOOK_SECONDS: Final = 0.5
_SAY_AGAIN_SECONDS: Final = 30.0
_FIRST_DELAY_SECONDS: Final = 0.5
_LONGEST_DELAY_SECONDS: Final = 8.0

Broker = tuple[int, str, int]
"""Node id, host and port."""

T = TypeVar("T")


# Options.


def aiokafka_options(settings: KafkaSettings) -> dict[str, Any]:
    """Options of every aiokafka client. Raises WrongConnectionSettings.

    Secrets and certificates that lie in files are read anew for each connection, so that a rotation needs no restart.
    """
    aiokafka_client.create_conn = _connect
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_uses_tls:
        options["ssl_context"] = broker_context(settings)
    if settings.kafka_logs_in:
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        if settings.kafka_sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = tokens(settings)
        else:
            options["sasl_plain_username"] = settings.kafka_username
            options["sasl_plain_password"] = _Password.of(settings)
    return options


def librdkafka_options(settings: KafkaSettings) -> dict[str, Any]:
    """The same for clients of confluent-kafka. Raises WrongConnectionSettings."""
    options: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_uses_tls:
        broker_context(settings)  # says in our words what is wrong with the files
        options["ssl.endpoint.identification.algorithm"] = "https"
        # The wheel brings an OpenSSL that knows no authorities: the system's are looked for.
        options["ssl.ca.location"] = str(settings.kafka_ca_file or "probe")
        if settings.kafka_certificate_file is not None:
            options["ssl.certificate.location"] = str(settings.kafka_certificate_file)
            options["ssl.key.location"] = str(settings.kafka_key_file)
            if password := read_secret("kafka_key_password", settings.kafka_key_password, settings.kafka_key_password_file):
                options["ssl.key.password"] = password
    if settings.kafka_logs_in:
        options["sasl.mechanism"] = settings.kafka_sasl_mechanism
        if settings.kafka_sasl_mechanism == "OAUTHBEARER":
            options["oauth_cb"] = tokens(settings).for_librdkafka
        else:
            options["sasl.username"] = settings.kafka_username
            options["sasl.password"] = str(_Password.of(settings))
    return options


def tokens(settings: KafkaSettings) -> Tokens:
    """The tokens of these settings: one object for equal settings, so that clients share a token.

    Raises WrongConnectionSettings.
    """
    if settings.kafka_token_url is None or settings.kafka_token_client_id is None:
        raise WrongConnectionSettings(f"{variable('kafka_token_url')} and {variable('kafka_token_client_id')}: set both")
    found = _tokens(
        url=settings.kafka_token_url,
        client_id=settings.kafka_token_client_id,
        secret=settings.kafka_token_client_secret,
        secret_file=settings.kafka_token_client_secret_file,
        scope=settings.kafka_token_scope,
        audience=settings.kafka_token_audience,
        ca_file=settings.kafka_token_ca_file,
    )
    found.check()
    return found


@lru_cache
def _tokens(
    *,
    url: str,
    client_id: str,
    secret: SecretStr | None,
    secret_file: Path | None,
    scope: str | None,
    audience: str | None,
    ca_file: Path | None,
) -> Tokens:
    return Tokens(
        url,
        client_id=client_id,
        secret=lambda: read_secret("kafka_token_client_secret", secret, secret_file),
        tls=lambda: trusting("kafka_token_ca_file", ca_file),
        scope=scope,
        audience=audience,
    )


class _Password(str):
    """A password for aiokafka that knows its file."""

    now: Callable[[], str]

    @classmethod
    def of(cls, settings: KafkaSettings) -> Self:
        """Raises WrongConnectionSettings."""

        def now() -> str:
            return read_secret("kafka_password", settings.kafka_password, settings.kafka_password_file)

        password = cls(now())
        password.now = now
        return password

    def __repr__(self) -> str:
        return "'**********'"


# Each connection that aiokafka makes.


class _TokenLogIn(OAuthAuthenticator):  # type: ignore[misc]
    """aiokafka takes any answer for a welcome: a broker that refuses a token says so in its answer (RFC 7628, 3.2.2)."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise SaslAuthenticationFailed(payload.decode(errors="replace"))
        answer: tuple[bytes, bool] | None = await super().step(payload)
        return answer


class _Connection(AIOKafkaConnection):  # type: ignore[misc]
    async def _do_sasl_handshake(self) -> None:
        try:
            await super()._do_sasl_handshake()
        except (ValueError, LookupError) as error:  # by SCRAM the broker has to prove itself, too
            raise SaslAuthenticationFailed(f"it does not prove that it knows our password ({error})") from error

    def authenticator_oauth(self) -> _TokenLogIn:
        return _TokenLogIn(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _Refused:
    """When a client of this process last failed to connect, and whom to leave alone for how long after a refusal."""

    def __init__(self) -> None:
        self.last_failure_at = float("-inf")
        self._delays: dict[tuple[str, int], float] = {}

    async def pause(self, place: tuple[str, int]) -> None:
        """aiokafka would ask ten times a second: enough to lock an account, and to fill a log."""
        if (seconds := self._delays.get(place)) is not None:
            await asyncio.sleep(seconds)

    def failed(self, place: tuple[str, int], error: Exception) -> None:
        self.last_failure_at = time.monotonic()
        if is_refusal(error):
            self._delays[place] = min(2 * self._delays.get(place, _FIRST_DELAY_SECONDS / 2), _LONGEST_DELAY_SECONDS)

    def connected(self, place: tuple[str, int]) -> None:
        self._delays.pop(place, None)


_refused = _Refused()


async def _connect(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    """Stands in for aiokafka's own function: the password as its file has it now, and failures that can be noticed."""
    await _refused.pause((host, port))
    password = options.get("sasl_plain_password")
    if isinstance(password, _Password):
        with suppress(WrongConnectionSettings):  # being written: the one that we know serves meanwhile
            options["sasl_plain_password"] = password.now()
    connection = _Connection(host, port, **options)
    try:
        await connection.connect()
    except (OSError, KafkaError) as error:
        _refused.failed((host, port), error)
        raise
    _refused.connected((host, port))
    return connection


# Why there is no connection.


async def why_not_connected(settings: KafkaSettings) -> str:
    """Why no client of ours gets through to the broker, and the way out; empty when one does. Never a secret."""
    obstacle = await find_obstacle(settings)
    return "" if obstacle is None else obstacle.says


async def find_obstacle(settings: KafkaSettings) -> Obstacle | None:
    """Connect once to the brokers that are named, then to those that they name, as a client does."""
    try:
        options = aiokafka_options(settings)
        if (provider := options.get("sasl_oauth_token_provider")) is not None:
            # Before the attempts: in one, who is slow to give a token would be taken for a broker that is slow to answer.
            await provider.token()
    except WrongConnectionSettings as error:
        return Obstacle(str(error))
    except TokenUnavailable as error:
        return Obstacle(error.what, error.heals_by_waiting)
    named = {(host, port) for host, port, _ in collect_hosts(options.pop("bootstrap_servers"))}
    outcomes = await asyncio.gather(*(_attempt(settings, options, host, port) for host, port in sorted(named)))
    obstacles = [outcome for outcome in outcomes if isinstance(outcome, Obstacle)]
    if len(obstacles) == len(outcomes):
        return together(obstacles)
    advertised = {broker for outcome in outcomes if not isinstance(outcome, Obstacle) for broker in outcome}
    others = sorted((node, host, port) for node, host, port in advertised if (host, port) not in named)
    outcomes = await asyncio.gather(*(_attempt(settings, options, host, port) for _, host, port in others))
    return together(
        [
            Obstacle(f"broker {node} is advertised as {host}:{port}; {outcome.says}", outcome.heals_by_waiting)
            for (node, host, port), outcome in zip(others, outcomes, strict=True)
            if isinstance(outcome, Obstacle)
        ]
    )


async def _attempt(settings: KafkaSettings, options: Mapping[str, Any], host: str, port: int) -> set[Broker] | Obstacle:
    """The brokers that this one names, or why it does not."""

    async def brokers(connection: AIOKafkaConnection) -> set[Broker]:
        return {tuple(broker[:3]) for broker in (await connection.send(MetadataRequest([]))).brokers}

    try:
        return await _ask(host, port, options, brokers)
    except (KafkaError, OSError) as error:
        return explain(error, settings, f"{host}:{port}") or await _ask_back(settings, options, host, port, error)


async def _ask_back(
    settings: KafkaSettings, options: Mapping[str, Any], host: str, port: int, error: KafkaError | OSError
) -> Obstacle:
    """The broker did not say why: ask it in the way in which we did not."""
    where, unknown_mechanism = f"{host}:{port}", isinstance(error, UnsupportedSaslMechanismError)
    if unknown_mechanism or not settings.kafka_logs_in:
        offered = await _offered_mechanisms(settings, options, host, port)
        if unknown_mechanism:
            return no_such_mechanism(settings, where, offered)
        if offered:
            return log_in_demanded(settings, where, offered)
    if settings.kafka_uses_tls and await _answers_plainly(host, port):
        return no_tls_there(settings, where)
    return hung_up(error, where)


async def _offered_mechanisms(settings: KafkaSettings, options: Mapping[str, Any], host: str, port: int) -> list[str]:
    """The SASL mechanisms of a listener; none where it asks for no log-in, or says nothing."""

    async def mechanisms(connection: AIOKafkaConnection) -> list[str]:
        return sorted((await connection.send(SaslHandShakeRequest("PLAIN"))).enabled_mechanisms)

    tls = {"security_protocol": "SSL", "ssl_context": options["ssl_context"]} if settings.kafka_uses_tls else {}
    try:
        return await _ask(host, port, tls, mechanisms)
    except (KafkaError, OSError):
        return []


async def _answers_plainly(host: str, port: int) -> bool:
    async def nothing(_: AIOKafkaConnection) -> bool:
        return True

    try:
        return await _ask(host, port, {}, nothing)
    except (KafkaError, OSError):
        return False


async def _ask(host: str, port: int, options: Mapping[str, Any], question: Callable[[AIOKafkaConnection], Awaitable[T]]) -> T:
    """Connect, ask, hang up. Raises KafkaError, OSError."""
    milliseconds = int(_ATTEMPT_SECONDS * 1000)
    connection = _Connection(host, port, client_id="ruminate-diagnosis", request_timeout_ms=milliseconds, **options)
    try:
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            await connection.connect()
            return await question(connection)
    finally:
        # Without a handshake nobody tells that the connection is gone, and it needs a turn to go.
        seconds = _CLOSE_SECONDS if connection.connected() else _LET_GO_SECONDS
        if (closed := connection.close()) is not None:
            await asyncio.wait((closed,), timeout=seconds)


# While a process runs.


class ConnectionWatch:
    """Says why clients of this process do not get through, in the log and as a reason for not being ready.

    It costs nothing while they do: only where one has just failed, an attempt of our own finds out why. All that watch one
    connection in a process are one: what is said of it is said once.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        aiokafka_options(settings)  # what is wrong with the settings themselves is said at once
        self._settings = settings
        self._watched: _Watch | None = None

    async def __aenter__(self) -> Self:
        loop = id(asyncio.get_running_loop())
        values = (getattr(self._settings, name) for name in _CONNECTION_FIELDS)
        key = (loop, *(str(value.get_secret_value() if isinstance(value, SecretStr) else value) for value in values))
        self._watched = _watches.get(key) or _watches.setdefault(key, _Watch(self._settings, key))
        self._watched.enter()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._watched is not None:
            await self._watched.leave()

    def reasons(self) -> Collection[str]:
        """Why the broker cannot be reached; empty while it can."""
        return [] if self._watched is None else self._watched.reasons()


_CONNECTION_FIELDS: Final = tuple(KafkaSettings.model_fields)
_watches: Final[dict[tuple[object, ...], _Watch]] = {}


class _Watch:
    """What several look at."""

    def __init__(self, settings: KafkaSettings, key: tuple[object, ...]) -> None:
        self._settings = settings
        self._key = key
        self._watchers = 0
        self._why = ""
        self._began_at = self._said_at = 0.0
        self._delay_seconds = _LOOK_SECONDS
        self._watching: asyncio.Task[None] | None = None

    def enter(self) -> None:
        """One more looks."""
        self._watchers += 1
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="connection-watch")

    async def leave(self) -> None:
        """One less; with the last one it ends."""
        self._watchers -= 1
        if self._watchers or self._watching is None:
            return
        _watches.pop(self._key, None)
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    def reasons(self) -> Collection[str]:
        """Why the broker cannot be reached; empty while it can."""
        return [self._why] if self._why else []

    async def _watch(self) -> None:
        looked_at = float("-inf")
        while True:
            await asyncio.sleep(self._delay_seconds)
            if self._why or _refused.last_failure_at > looked_at:
                looked_at = time.monotonic()
                self._found(await find_obstacle(self._settings))

    def _found(self, obstacle: Obstacle | None) -> None:
        patient = obstacle is not None and not obstacle.heals_by_waiting
        self._delay_seconds = min(2 * self._delay_seconds, _LONGEST_DELAY_SECONDS) if patient else _LOOK_SECONDS
        now, why = time.monotonic(), "" if obstacle is None else obstacle.says
        if why and not self._why:
            self._began_at = now
        if why and (why != self._why or now - self._said_at >= _SAY_AGAIN_SECONDS):
            self._said_at = now
            log.error("broker_not_reached", why=why, since_seconds=round(now - self._began_at, 1))
        if self._why and not why:
            log.info("broker_reached_again", after_seconds=round(now - self._began_at, 1))
        self._why = why
