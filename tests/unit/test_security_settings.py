"""How Kafka is reached: what contradicts itself is refused in a sentence, and no secret is ever shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ruminate.shared.connection import aiokafka_options, librdkafka_options
from ruminate.shared.kafka_settings import WrongConnectionSettings
from ruminate.shared.settings import ServiceSettings, problems_of

ROOT = Path(__file__).parents[2]
SECRET = "not-for-your-eyes"
SCRAM: dict[str, Any] = {
    "kafka_security_protocol": "SASL_PLAINTEXT",
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_username": "ruminate-collector",
    "kafka_password": SECRET,
}
TOKEN: dict[str, Any] = {
    "kafka_security_protocol": "SASL_PLAINTEXT",
    "kafka_sasl_mechanism": "OAUTHBEARER",
    "kafka_token_url": "https://login.example/token",
    "kafka_token_client_id": "ruminate-collector",
    "kafka_token_client_secret": SECRET,
}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kafka_security_protocol": "SASL_SSL"}, "RUMINATE_KAFKA_SECURITY_PROTOCOL=SASL_SSL needs RUMINATE_KAFKA_SASL_MECHANISM"),
        ({"kafka_username": "me"}, "RUMINATE_KAFKA_USERNAME is set, but RUMINATE_KAFKA_SECURITY_PROTOCOL=PLAINTEXT logs nobody in"),
        ({"kafka_ca_file": "ca.pem"}, "RUMINATE_KAFKA_CA_FILE is set, but RUMINATE_KAFKA_SECURITY_PROTOCOL=PLAINTEXT makes no TLS"),
        (SCRAM | {"kafka_ca_file": "ca.pem"}, "RUMINATE_KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT makes no TLS connection"),
        (SCRAM | {"kafka_username": None}, "RUMINATE_KAFKA_SASL_MECHANISM=SCRAM-SHA-512 needs RUMINATE_KAFKA_USERNAME"),
        (SCRAM | {"kafka_password": ""}, "needs RUMINATE_KAFKA_PASSWORD_FILE or RUMINATE_KAFKA_PASSWORD"),
        (SCRAM | {"kafka_password_file": "p"}, "RUMINATE_KAFKA_PASSWORD and RUMINATE_KAFKA_PASSWORD_FILE are both set"),
        (
            SCRAM | {"kafka_token_scope": "kafka"},
            "RUMINATE_KAFKA_TOKEN_SCOPE is set, but RUMINATE_KAFKA_SASL_MECHANISM=SCRAM-SHA-512",
        ),
        (TOKEN | {"kafka_username": "me"}, "RUMINATE_KAFKA_USERNAME is set, but RUMINATE_KAFKA_SASL_MECHANISM=OAUTHBEARER"),
        (TOKEN | {"kafka_token_client_id": None}, "RUMINATE_KAFKA_SASL_MECHANISM=OAUTHBEARER needs RUMINATE_KAFKA_TOKEN_CLIENT_ID"),
        (TOKEN | {"kafka_token_url": "http://login.example/token"}, "would send our secret readable: use https://"),
        (TOKEN | {"kafka_token_url": "login.example"}, "would send our secret readable: use https://"),
        (TOKEN | {"kafka_token_url": "https://[login"}, "RUMINATE_KAFKA_TOKEN_URL is no address"),
        (TOKEN | {"kafka_token_url": f"https://me:{SECRET}@login.example/token"}, "RUMINATE_KAFKA_TOKEN_URL holds a log-in"),
        (TOKEN | {"kafka_token_url": f"http://me:{SECRET}@login.example/token"}, "RUMINATE_KAFKA_TOKEN_URL holds a log-in"),
        (
            {"kafka_security_protocol": "SSL", "kafka_certificate_file": "tls.crt"},
            "RUMINATE_KAFKA_CERTIFICATE_FILE and RUMINATE_KAFKA_KEY_FILE go together",
        ),
        (
            {"kafka_security_protocol": "SSL", "kafka_key_password": SECRET},
            "RUMINATE_KAFKA_KEY_PASSWORD is set, but RUMINATE_KAFKA_KEY_FILE is not",
        ),
        ({"kafka_profile": "embedded", "kafka_security_protocol": "SSL"}, "the embedded broker speaks PLAINTEXT alone"),
        ({"kafka_security_protocol": "TLS"}, "RUMINATE_KAFKA_SECURITY_PROTOCOL: Input should be 'PLAINTEXT', 'SSL'"),
        (SCRAM | {"kafka_sasl_mechanism": "GSSAPI"}, "RUMINATE_KAFKA_SASL_MECHANISM: Input should be 'SCRAM-SHA-256'"),
        *(
            ({"kafka_bootstrap": wrong}, "RUMINATE_KAFKA_BOOTSTRAP has to be host:port[,host:port], with ports from 1 to 65535")
            for wrong in (
                "",
                "kafka",
                "kafka:",
                "kafka:0",
                "kafka:99999",
                "a..b:9092",
                "[::1",
                "a:9092,",
                "a:9092, b:9092",
                f"{SECRET}@a:1",
            )
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_in_a_sentence_that_names_them(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ServiceSettings(**fields)
    (problem,) = problems_of(refused.value)
    assert says in problem
    assert SECRET not in f"{refused.value!s}{refused.value!r}{problem}"


@pytest.mark.parametrize("places", ["127.0.0.1:9092", "[::1]:9092", "kafka-1.example.:9092,kafka_2:1", "künstlich.example:65535"])
def test_brokers_are_named_by_host_and_port(places: str) -> None:
    assert aiokafka_options(ServiceSettings(kafka_bootstrap=places))["bootstrap_servers"] == places


def test_the_embedded_broker_is_reached_whatever_the_environment_says_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMINATE_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512")
    monkeypatch.setenv("RUMINATE_KAFKA_PASSWORD", SECRET)
    assert not ServiceSettings(kafka_profile="embedded").kafka_logs_in


def test_variables_that_are_passed_on_empty_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SASL_MECHANISM", "USERNAME", "PASSWORD", "PASSWORD_FILE", "CA_FILE", "TOKEN_URL"):
        monkeypatch.setenv(f"RUMINATE_KAFKA_{name}", "")
    assert aiokafka_options(ServiceSettings()) == {"bootstrap_servers": "127.0.0.1:9092", "security_protocol": "PLAINTEXT"}


def test_a_secret_is_shown_nowhere_and_given_to_clients_alone() -> None:
    settings = ServiceSettings(**SCRAM)
    for_aiokafka, for_librdkafka = aiokafka_options(settings), librdkafka_options(settings)
    assert SECRET not in f"{settings!s}{settings!r}{for_aiokafka!r}"
    assert (for_aiokafka["sasl_plain_password"], for_librdkafka["sasl.password"]) == (SECRET, SECRET)
    assert for_aiokafka["sasl_mechanism"] == for_librdkafka["sasl.mechanism"] == "SCRAM-SHA-512"


def test_host_names_are_verified_and_old_versions_of_tls_are_not_spoken() -> None:
    settings = ServiceSettings(kafka_security_protocol="SSL")
    context = aiokafka_options(settings)["ssl_context"]
    assert context._current.check_hostname
    assert context._current.verify_mode.name == "CERT_REQUIRED"
    assert context._current.minimum_version.name == "TLSv1_2"
    assert librdkafka_options(settings)["ssl.endpoint.identification.algorithm"] == "https"


def test_clients_of_one_process_share_one_token() -> None:
    first, second = (aiokafka_options(ServiceSettings(**TOKEN))["sasl_oauth_token_provider"] for _ in range(2))
    assert first is second
    assert librdkafka_options(ServiceSettings(**TOKEN))["oauth_cb"].__self__ is first


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (SCRAM | {"kafka_password": None, "kafka_password_file": "gone"}, "RUMINATE_KAFKA_PASSWORD_FILE"),
        (
            TOKEN | {"kafka_token_client_secret": None, "kafka_token_client_secret_file": "gone"},
            "RUMINATE_KAFKA_TOKEN_CLIENT_SECRET_FILE",
        ),
        (TOKEN | {"kafka_token_ca_file": "gone"}, "RUMINATE_KAFKA_TOKEN_CA_FILE"),
        ({"kafka_security_protocol": "SSL", "kafka_ca_file": "gone"}, "RUMINATE_KAFKA_CA_FILE"),
        (
            {"kafka_security_protocol": "SSL", "kafka_certificate_file": "gone", "kafka_key_file": "gone"},
            "RUMINATE_KAFKA_CERTIFICATE_FILE",
        ),
    ],
)
def test_a_file_that_is_not_there_is_named_with_its_setting(fields: dict[str, Any], name: str) -> None:
    for options in (aiokafka_options, librdkafka_options):
        with pytest.raises(WrongConnectionSettings, match=f"{name}=gone.* cannot be used: No such file or directory"):
            options(ServiceSettings(**fields))


def test_no_setting_turns_verification_off() -> None:
    suspicious = ("insecure", "verify", "skip", "hostname", "endpoint_identification", "trust_all")
    assert not [name for name in ServiceSettings.model_fields if any(word in name for word in suspicious)]


def test_a_password_file_is_read_to_the_end_of_its_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET} \r\n")
    settings = ServiceSettings(**SCRAM | {"kafka_password": None, "kafka_password_file": file})
    assert librdkafka_options(settings)["sasl.password"] == f"{SECRET} "


def test_no_client_goes_past_the_settings() -> None:
    """Who names a bootstrap server to a client by hand forgets the log-in: one module does it for all."""
    sources = [path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py")]
    by_hand = [path.name for path in sources if re.search(r"bootstrap[_.]servers", path.read_text())]
    assert by_hand == ["connection.py"]
