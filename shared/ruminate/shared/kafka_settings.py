"""How a process reaches Kafka: where, over TLS or not, and as whom. What contradicts itself is refused at the start.

    PLAINTEXT        nothing is asked          SSL         TLS; the broker may ask for a certificate
    SASL_PLAINTEXT   a log-in, readable        SASL_SSL    a log-in over TLS

`ruminate.shared.connection` makes clients' options of it. There is no switch that turns verification off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ruminate.shared.bus import BusError

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN", "OAUTHBEARER"]

_TLS = ("kafka_ca_file", "kafka_certificate_file", "kafka_key_file", "kafka_key_password", "kafka_key_password_file")
_LOG_IN = ("kafka_username", "kafka_password", "kafka_password_file")
_TOKEN = (
    "kafka_token_url",
    "kafka_token_client_id",
    "kafka_token_client_secret",
    "kafka_token_client_secret_file",
    "kafka_token_scope",
    "kafka_token_audience",
    "kafka_token_ca_file",
)
_SECRETS = ("kafka_password", "kafka_key_password", "kafka_token_client_secret")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BROKER = re.compile(r"(?:\[[^\[\]\s]+\]|[\w-]+(?:\.[\w-]+)*\.?):(?P<port>\d{1,5})")
_LAST_PORT = 65_535


class WrongConnectionSettings(BusError):
    """The settings, or a file that they name, cannot be used; the message says which, why, and what to do."""


class KafkaSettings(BaseSettings):
    """Where the broker is and how we prove who we are."""

    # What is wrong is said without its value: it might be a password.
    model_config = SettingsConfigDict(
        env_prefix="RUMINATE_", frozen=True, extra="ignore", protected_namespaces=(), hide_input_in_errors=True
    )

    kafka_bootstrap: str = Field(default="127.0.0.1:9092", description="Kafka bootstrap servers, `host:port[,host:port]`.")
    kafka_profile: Literal["kafka", "embedded"] = Field(
        default="kafka", description="Which broker answers: Apache Kafka, or the embedded one with its known limits."
    )
    kafka_security_protocol: SecurityProtocol = Field(
        default="PLAINTEXT",
        description="How the broker is spoken to: `PLAINTEXT`, `SSL` (TLS), `SASL_PLAINTEXT` (a log-in) or `SASL_SSL` (both).",
    )
    kafka_sasl_mechanism: SaslMechanism | None = Field(
        default=None, description="How we log in: `SCRAM-SHA-512`, `SCRAM-SHA-256`, `PLAIN` or `OAUTHBEARER`."
    )
    kafka_username: str | None = Field(default=None, description="Who logs in by SCRAM or PLAIN, such as `ruminate-collector`.")
    kafka_password: SecretStr | None = Field(default=None, description="The password of that user; better in a file.")
    kafka_password_file: Path | None = Field(default=None, description="File that holds the password.")
    kafka_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may sign the broker's certificate; without it, those that the system trusts.",
    )
    kafka_certificate_file: Path | None = Field(
        default=None, description="PEM file of our own certificate and its chain, where the broker asks for one."
    )
    kafka_key_file: Path | None = Field(default=None, description="PEM file of the key of our certificate; may be the same file.")
    kafka_key_password: SecretStr | None = Field(default=None, description="What that key is encrypted with; better in a file.")
    kafka_key_password_file: Path | None = Field(default=None, description="File that holds what the key is encrypted with.")
    kafka_token_url: str | None = Field(
        default=None, description="Token endpoint for OAUTHBEARER (client credentials): `https://…`, or `http://` on loopback."
    )
    kafka_token_client_id: str | None = Field(default=None, description="Our client id at the token endpoint.")
    kafka_token_client_secret: SecretStr | None = Field(default=None, description="The secret of that client; better in a file.")
    kafka_token_client_secret_file: Path | None = Field(default=None, description="File that holds the secret of that client.")
    kafka_token_scope: str | None = Field(default=None, description="Scope to ask the token for, where the endpoint wants one.")
    kafka_token_audience: str | None = Field(
        default=None, description="Audience to ask the token for, where the endpoint wants one."
    )
    kafka_token_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may sign the token endpoint's certificate; without it, the system's.",
    )

    @field_validator("kafka_sasl_mechanism", *_TLS, *_LOG_IN, *_TOKEN, mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        # Container files pass variables on that nobody has set: `NAME: ${NAME:-}`.
        return None if value == "" else value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        problem = next(_contradictions(self), None)
        if problem is not None:
            raise PydanticCustomError("connection", "{problem}", {"problem": problem})
        return self

    @property
    def kafka_uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.kafka_security_protocol in ("SSL", "SASL_SSL")

    @property
    def kafka_logs_in(self) -> bool:
        """Whether we say who we are by SASL."""
        return self.kafka_security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")


def _contradictions(settings: KafkaSettings) -> Iterator[str]:
    """What makes no sense together, a sentence each: which settings, what is allowed, what to do."""
    chosen = f"{variable('kafka_security_protocol')}={settings.kafka_security_protocol}"
    if not all(map(_names_a_broker, settings.kafka_bootstrap.split(","))):
        yield f"{variable('kafka_bootstrap')} has to be host:port[,host:port], with ports from 1 to {_LAST_PORT}"
    if settings.kafka_profile == "embedded":
        if settings.kafka_security_protocol != "PLAINTEXT":
            yield f"{chosen}: the embedded broker speaks PLAINTEXT alone. Leave it out, or set RUMINATE_KAFKA_PROFILE=kafka"
        return
    for secret in _SECRETS:
        if _is_set(settings, secret) and _is_set(settings, f"{secret}_file"):
            yield f"{variable(secret)} and {variable(secret)}_FILE are both set: keep one of them"
    if not settings.kafka_uses_tls:
        for name in _those_set(settings, _TLS):
            yield f"{variable(name)} is set, but {chosen} makes no TLS connection. Set SSL or SASL_SSL, or leave it out"
    if _is_set(settings, "kafka_certificate_file") != _is_set(settings, "kafka_key_file"):
        yield f"{variable('kafka_certificate_file')} and {variable('kafka_key_file')} go together: set both or none"
    if not _is_set(settings, "kafka_key_file"):
        for name in _those_set(settings, ("kafka_key_password", "kafka_key_password_file")):
            yield f"{variable(name)} is set, but {variable('kafka_key_file')} is not: set it, or leave the password out"
    yield from (
        _log_in_contradictions(settings, chosen)
        if settings.kafka_logs_in
        else (
            f"{variable(name)} is set, but {chosen} logs nobody in. Set SASL_SSL, or leave it out"
            for name in _those_set(settings, ("kafka_sasl_mechanism", *_LOG_IN, *_TOKEN))
        )
    )


def _names_a_broker(place: str) -> bool:
    found = _BROKER.fullmatch(place)
    return found is not None and 0 < int(found["port"]) <= _LAST_PORT


def _log_in_contradictions(settings: KafkaSettings, chosen: str) -> Iterator[str]:
    mechanism = settings.kafka_sasl_mechanism
    if mechanism is None:
        name = variable("kafka_sasl_mechanism")
        yield f"{chosen} needs {name}: SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or OAUTHBEARER, whichever the broker offers"
        return
    by_token = mechanism == "OAUTHBEARER"
    how = f"{variable('kafka_sasl_mechanism')}={mechanism}"
    needed, secret, foreign = (
        (("kafka_token_url", "kafka_token_client_id"), "kafka_token_client_secret", _LOG_IN)
        if by_token
        else (("kafka_username",), "kafka_password", _TOKEN)
    )
    for name in needed:
        if not _is_set(settings, name):
            yield f"{how} needs {variable(name)}: set it"
    if not _is_set(settings, secret) and not _is_set(settings, f"{secret}_file"):
        yield f"{how} needs {variable(secret)}_FILE or {variable(secret)}: set one of them"
    for name in _those_set(settings, foreign):
        yield f"{variable(name)} is set, but {how} does not use it: leave it out, or choose another mechanism"
    if by_token and settings.kafka_token_url is not None:
        yield from _token_url_problems(settings.kafka_token_url)


def _token_url_problems(url: str) -> Iterator[str]:
    name = variable("kafka_token_url")
    try:
        parts = urlsplit(url)
    except ValueError:
        yield f"{name} is no address: it has to begin with https:// and the name of a host"
        return
    if "@" in parts.netloc:  # as part of the address it would be shown wherever that is
        client, secret = variable("kafka_token_client_id"), variable("kafka_token_client_secret")
        yield f"{name} holds a log-in: take it out, and set {client} and {secret}_FILE"
    elif not parts.hostname or (parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        yield f"{name}={url} would send our secret readable: use https://"


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return f"RUMINATE_{field.upper()}"


def read_secret(name: str, value: SecretStr | None, file: Path | None) -> str:
    """The secret of a setting, or what the file that is named instead holds now; empty where neither is set.

    Raises WrongConnectionSettings.
    """
    if file is None:
        return "" if value is None else value.get_secret_value()
    try:
        text = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongConnectionSettings(unusable(f"{name}_file", file, error)) from None
    if not text:
        raise WrongConnectionSettings(f"{variable(name)}_FILE={file} is empty: write the secret into it")
    return text


def unusable(name: str, value: object, error: Exception) -> str:
    """Why a setting's file cannot be used, without what is in it."""
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return f"{variable(name)}={value} cannot be used: {why}."


def _is_set(settings: KafkaSettings, name: str) -> bool:
    return getattr(settings, name) is not None


def _those_set(settings: KafkaSettings, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if _is_set(settings, name)]
