"""What an error on the way to the broker means, in a sentence with the setting and the way out. Pure.

A password, a certificate or a listener is mended by somebody; what is only away comes back by itself. The difference decides
how often we try again.
"""

from __future__ import annotations

import re
import socket
import ssl
from asyncio import IncompleteReadError
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aiokafka.errors import IllegalSaslStateError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from ruminate.shared.kafka_settings import KafkaSettings, variable
from ruminate.shared.tokens import TokenUnavailable

_BOOTSTRAP: Final = variable("kafka_bootstrap")
_MECHANISM: Final = variable("kafka_sasl_mechanism")
_TLS_RECORDS: Final = (0x15, 0x16)
"""First byte of an alert and of a handshake: what a TLS broker answers to a plain request, taken for a length."""
_DEEPEST_CAUSE: Final = 5

# Codes of OpenSSL's verification (openssl-verification-options(1)).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
_ABOUT_OUR_CERTIFICATE: Final = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")
_ABOUT_THE_VERSION: Final = ("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "NO_SHARED_CIPHER", "NO_PROTOCOLS_AVAILABLE")


@dataclass(frozen=True)
class Obstacle:
    """Why no client of ours gets through."""

    says: str
    heals_by_waiting: bool = False


def together(obstacles: Collection[Obstacle]) -> Obstacle | None:
    """One obstacle of several; None where there is none."""
    found = tuple(dict.fromkeys(obstacles))
    if not found:
        return None
    return Obstacle("; ".join(each.says for each in found), all(each.heals_by_waiting for each in found))


def missing_right(error: BaseException) -> str:
    """What to do where the broker knows us and does not let us; empty for every other error."""
    denied = re.search(r"\w+AuthorizationFailed\w*", f"{error!r} {error.__cause__!r}")
    return f"{denied[0]}: our user has no right to it; `ruminate acls plan` shows what is missing" if denied else ""


def is_refusal(error: BaseException) -> bool:
    """Whether trying again soon is of no use."""
    if isinstance(error, TokenUnavailable):
        return not error.heals_by_waiting
    return isinstance(error, (SaslAuthenticationFailed, IllegalSaslStateError, UnsupportedSaslMechanismError, ssl.SSLError))


def explain(error: BaseException, settings: KafkaSettings, where: str) -> Obstacle | None:
    """What an error of a connection to `where` means; None where the error alone does not tell."""
    cause: BaseException | None = error
    for _ in range(_DEEPEST_CAUSE):
        if cause is None:
            break
        if (obstacle := _explain(cause, settings, where)) is not None:
            return obstacle
        cause = cause.__cause__
    return None


def _explain(error: BaseException, settings: KafkaSettings, where: str) -> Obstacle | None:
    says: str | None = None
    match error:
        case TokenUnavailable():
            return Obstacle(error.what, error.heals_by_waiting)
        case SaslAuthenticationFailed() | IllegalSaslStateError():
            says = _log_in_refused(error, settings, where)
        case ssl.SSLCertVerificationError():
            says = _not_trusted(error, where)
        case ssl.SSLError():
            says = _handshake_refused(error, settings, where)
        case IncompleteReadError() if error.expected and error.expected >> 24 in _TLS_RECORDS:
            needed = "SASL_SSL" if settings.kafka_logs_in else "SSL"
            says = f"{where} speaks TLS, and {chosen(settings)} does not. Set {needed}, or name a listener without TLS"
        case OSError():
            return _away(error, where)
    return None if says is None else Obstacle(says)


def _away(error: OSError, where: str) -> Obstacle | None:
    match error:
        case TimeoutError():
            why = " in time. Check what lies between, and"
        case socket.gaierror():
            why = f": the name is not known here ({error.strerror}). Check"
        case ConnectionRefusedError():
            why = ": nothing listens there. Start it, or check"
        case ConnectionError():
            return None  # it was there, and hung up
        case _:
            why = f": {error}. Start it, or check"
    return Obstacle(f"no broker answers at {where}{why} {_BOOTSTRAP}", heals_by_waiting=True)


def chosen(settings: KafkaSettings) -> str:
    """The protocol that the settings chose, as people set it."""
    return f"{variable('kafka_security_protocol')}={settings.kafka_security_protocol}"


def _log_in_refused(error: SaslAuthenticationFailed | IllegalSaslStateError, settings: KafkaSettings, where: str) -> str:
    if isinstance(error, IllegalSaslStateError):
        instead = "SSL" if settings.kafka_uses_tls else "PLAINTEXT"
        return f"{where} takes no log-in, and {chosen(settings)} has one. Name its SASL listener, or set {instead}"
    said = str(error.args[0]) if error.args else "it gave no reason"
    if settings.kafka_sasl_mechanism == "OAUTHBEARER":
        return (
            f"{where} refused the token of client {settings.kafka_token_client_id}: {said}. Check that it trusts who signs for "
            f"{settings.kafka_token_url}, {variable('kafka_token_scope')}, {variable('kafka_token_audience')}, and both clocks"
        )
    return (
        f"{where} refused to log {settings.kafka_username} in by {settings.kafka_sasl_mechanism}: {said}. Check "
        f"{variable('kafka_username')} and {variable('kafka_password')}, and that the broker knows that user by that mechanism"
    )


def no_such_mechanism(settings: KafkaSettings, where: str, offered: Collection[str]) -> Obstacle:
    """The broker does not offer our mechanism."""
    instead = f"Set one that it offers: {', '.join(offered)}" if offered else "Its sasl.enabled.mechanisms names what it offers"
    return Obstacle(f"{where} does not offer {_MECHANISM}={settings.kafka_sasl_mechanism}. {instead}")


def log_in_demanded(settings: KafkaSettings, where: str, offered: Collection[str]) -> Obstacle:
    """The broker wants to know who we are."""
    needed = "SASL_SSL" if settings.kafka_uses_tls else "SASL_PLAINTEXT"
    return Obstacle(
        f"{where} demands a log-in, and {chosen(settings)} has none. Set {needed}, {_MECHANISM} (it offers {', '.join(offered)}) "
        "and what that one needs"
    )


def no_tls_there(settings: KafkaSettings, where: str) -> Obstacle:
    """The broker answers in plain."""
    instead = "SASL_PLAINTEXT" if settings.kafka_logs_in else "PLAINTEXT"
    return Obstacle(f"{where} does not speak TLS, and {chosen(settings)} does. Name its TLS listener, or set {instead}")


def hung_up(error: BaseException, where: str) -> Obstacle:
    """The broker ended the connection, and nothing tells why."""
    cause = error.__cause__ or error
    said = str(cause) or type(cause).__name__
    return Obstacle(f"{where} ended the connection ({said}). Its log may say why", heals_by_waiting=True)


def _not_trusted(error: ssl.SSLCertVerificationError, where: str) -> str:
    theirs, code = f"the certificate of {where}", error.verify_code
    if code == _EXPIRED:
        return f"{theirs} has expired. Renew it at the broker; nothing has to be set here"
    if code == _NOT_YET_VALID:
        return f"{theirs} is not valid yet. Check the clock of this machine, and the certificate at the broker"
    if code in _OTHER_NAME:
        return (
            f"{theirs} is for another host ({error.verify_message}). Name the broker, in {_BOOTSTRAP} and in its "
            "advertised.listeners, as its certificate does, or give it a certificate with this name"
        )
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"{theirs} is signed by an authority that is not trusted here ({error.verify_message}). "
            f"Let {variable('kafka_ca_file')} name the PEM file of that authority"
        )
    return f"{theirs} is not trusted ({error.verify_message}). Check it, and {variable('kafka_ca_file')}"


def _handshake_refused(error: ssl.SSLError, settings: KafkaSettings, where: str) -> str | None:
    reason = (error.reason or str(error)).upper()
    if any(word in reason for word in _ABOUT_THE_VERSION):
        return f"{where} shares no version of TLS with us ({reason}): let it speak TLS 1.2 or later"
    if not any(word in reason for word in _ABOUT_OUR_CERTIFICATE):
        return None
    ours = variable("kafka_certificate_file")
    if settings.kafka_certificate_file is None:
        return f"{where} demands a certificate from us ({reason}). Set {ours} and {variable('kafka_key_file')}"
    return (
        f"{where} does not take our certificate ({reason}). Check that {ours}={settings.kafka_certificate_file} has not expired, "
        "and that the broker trusts the authority that signed it"
    )
