"""TLS towards Kafka and the token endpoint: version 1.2 or later, names verified, rotated files used at the next connection."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import structlog
from pydantic import SecretStr

from ruminate.shared.kafka_settings import KafkaSettings, WrongConnectionSettings, read_secret, unusable, variable

log = structlog.get_logger()

_CERTIFICATE: Final = "kafka_certificate_file"
_KEY: Final = "kafka_key_file"
_KEY_PASSWORD: Final = "kafka_key_password"  # noqa: S105 - the name of a setting


def broker_context(settings: KafkaSettings) -> ssl.SSLContext:
    """What all connections to the broker share. Raises WrongConnectionSettings."""
    return _renewed(_Files.of(settings))


def trusting(name: str, authorities: Path | None) -> ssl.SSLContext:
    """A context that trusts the authorities in the file of setting `name`, or the system's. Raises WrongConnectionSettings."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(authorities)
    except OSError as error:  # ssl.SSLError is one
        raise WrongConnectionSettings(f"{unusable(name, authorities, error)} It holds authorities' certificates, as PEM") from None
    return context


@dataclass(frozen=True)
class _Files:
    """Our side of a handshake."""

    authorities: Path | None
    certificate: Path | None
    key: Path | None
    key_password: SecretStr | None
    key_password_file: Path | None

    @classmethod
    def of(cls, settings: KafkaSettings) -> Self:
        return cls(
            settings.kafka_ca_file,
            settings.kafka_certificate_file,
            settings.kafka_key_file,
            settings.kafka_key_password,
            settings.kafka_key_password_file,
        )

    def stamps(self) -> tuple[object, ...]:
        """What changes when a file is replaced."""
        return tuple(_stamp(path) for path in (self.authorities, self.certificate, self.key, self.key_password_file))

    def context(self) -> ssl.SSLContext:
        """What the files say now. Raises WrongConnectionSettings."""
        context = trusting("kafka_ca_file", self.authorities)
        if self.certificate is None:
            return context
        try:
            context.load_cert_chain(self.certificate, self.key, password=self._password)
        except (OSError, ValueError) as error:
            files = f"{self.certificate} with {variable(_KEY)}={self.key}"
            raise WrongConnectionSettings(
                f"{unusable(_CERTIFICATE, files, error)} Both are PEM, and the key is that of the certificate"
            ) from None
        return context

    def _password(self) -> str:
        # Without a callback OpenSSL would ask at the terminal.
        found = read_secret(_KEY_PASSWORD, self.key_password, self.key_password_file)
        if not found:
            raise WrongConnectionSettings(f"{variable(_KEY)}={self.key} is encrypted: set {variable(_KEY_PASSWORD)}_FILE")
        return found


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


class _RenewedContext(ssl.SSLContext):
    """Stands before a context and replaces it when a file has changed: clients keep the one that they were given."""

    files: _Files
    _current: ssl.SSLContext
    _stamps: tuple[object, ...]

    def renew(self) -> None:
        """Raises WrongConnectionSettings."""
        self._stamps = self.files.stamps()
        self._current = self.files.context()

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """What asyncio calls for each connection."""
        if self.files.stamps() != self._stamps:
            try:
                self.renew()
                log.info("certificates_renewed")
            except WrongConnectionSettings as error:  # half written, perhaps: what we have serves meanwhile
                log.warning("certificates_not_renewed", why=str(error))
        return self._current.wrap_bio(*arguments, **options)


@lru_cache
def _renewed(files: _Files) -> _RenewedContext:
    context = _RenewedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.files = files
    context.renew()
    return context
