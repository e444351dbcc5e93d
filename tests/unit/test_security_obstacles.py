"""From an error to a sentence: what no broker can be made to show at will."""

from __future__ import annotations

import asyncio
import ssl

import pytest
from aiokafka.errors import KafkaConnectionError, SaslAuthenticationFailed

from ruminate.shared.obstacles import Obstacle, explain, hung_up, is_refusal, together
from ruminate.shared.settings import ServiceSettings

WHERE = "kafka.example:9093"
PLAIN = ServiceSettings()
TLS = ServiceSettings(kafka_security_protocol="SSL")


def verification(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError()
    error.verify_code, error.verify_message = code, message
    return error


def caused(cause: BaseException) -> KafkaConnectionError:
    error = KafkaConnectionError("closed")
    error.__cause__ = cause
    return error


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] said the broker")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "says", "heals"),
    [
        (verification(9, "certificate is not yet valid"), "is not valid yet. Check the clock of this machine", False),
        (verification(19, "self-signed certificate in chain"), "signed by an authority that is not trusted here", False),
        (verification(23, "certificate revoked"), "is not trusted (certificate revoked)", False),
        (alert("TLSV1_ALERT_PROTOCOL_VERSION"), "shares no version of TLS with us", False),
        (caused(alert("TLSV13_ALERT_CERTIFICATE_REQUIRED")), "demands a certificate from us", False),
        (SaslAuthenticationFailed("no"), "refused to log None in", False),
        (TimeoutError(), "no broker answers at kafka.example:9093 in time", True),
        (OSError("Multiple exceptions: [Errno 111], [Errno 113]"), "no broker answers at kafka.example:9093: Multiple", True),
    ],
)
def test_an_error_becomes_a_sentence(error: BaseException, says: str, heals: bool) -> None:
    obstacle = explain(error, TLS, WHERE)
    assert obstacle is not None
    assert says in obstacle.says
    assert obstacle.heals_by_waiting is heals


@pytest.mark.parametrize("first_byte", [0x15, 0x16])
def test_an_answer_that_is_a_tls_record_shows_that_the_broker_speaks_tls(first_byte: int) -> None:
    obstacle = explain(caused(asyncio.IncompleteReadError(b"", first_byte << 24 | 0x030300)), PLAIN, WHERE)
    assert obstacle is not None
    assert "speaks TLS" in obstacle.says


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), caused(asyncio.IncompleteReadError(b"", 4)), alert("UNEXPECTED_EOF_WHILE_READING"), ValueError()],
)
def test_where_a_broker_just_hung_up_the_error_alone_does_not_tell(error: BaseException) -> None:
    assert explain(error, TLS, WHERE) is None


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionResetError(), "ConnectionResetError"),
        (caused(ConnectionResetError()), "ConnectionResetError"),
        (caused(EOFError("0 bytes read")), "0 bytes read"),
    ],
)
def test_a_broker_that_just_hung_up_is_told_by_whatever_there_is(error: BaseException, said: str) -> None:
    obstacle = hung_up(error, WHERE)
    assert obstacle == Obstacle(f"{WHERE} ended the connection ({said}). Its log may say why", heals_by_waiting=True)


def test_an_obstacle_of_several_heals_by_waiting_only_if_all_do_and_nothing_is_said_twice() -> None:
    away, refused = Obstacle("away", heals_by_waiting=True), Obstacle("refused")
    assert together([]) is None
    assert together([away, away]) == away
    assert together([away, refused]) == Obstacle("away; refused")


def test_what_somebody_has_to_mend_is_not_tried_again_at_once() -> None:
    assert is_refusal(SaslAuthenticationFailed("no"))
    assert is_refusal(verification(10, "expired"))
    assert not is_refusal(ConnectionRefusedError())
