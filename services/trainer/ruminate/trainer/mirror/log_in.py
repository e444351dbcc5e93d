"""As whom MLflow is spoken to: a user and password, a token, or nobody. What contradicts itself is refused at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from ruminate.shared.kafka_settings import read_secret, variable

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class MlflowSettings(Protocol):
    """The part of the settings that is about it."""

    @property
    def mlflow_uri(self) -> str | None: ...
    @property
    def mlflow_username(self) -> str | None: ...
    @property
    def mlflow_password(self) -> SecretStr | None: ...
    @property
    def mlflow_password_file(self) -> Path | None: ...
    @property
    def mlflow_token(self) -> SecretStr | None: ...
    @property
    def mlflow_token_file(self) -> Path | None: ...
    @property
    def mlflow_ca_file(self) -> Path | None: ...


_FIELDS = (
    "mlflow_username",
    "mlflow_password",
    "mlflow_password_file",
    "mlflow_token",
    "mlflow_token_file",
    "mlflow_ca_file",
)


def contradictions(settings: MlflowSettings) -> Iterator[str]:
    """What makes no sense together, a sentence each, without any secret."""
    given = [name for name in _FIELDS if getattr(settings, name) is not None]
    name = variable("mlflow_uri")
    if settings.mlflow_uri is None:
        yield from (f"{variable(each)} is set, but {name} is not: set it, or leave the other out" for each in given)
        return
    yield from _address_problems(settings.mlflow_uri, logs_in=any(each != "mlflow_ca_file" for each in given))
    for secret in ("mlflow_password", "mlflow_token"):
        if secret in given and f"{secret}_file" in given:
            yield f"{variable(secret)} and {variable(secret)}_FILE are both set: keep one of them"
    by_password = any(each.startswith("mlflow_password") for each in given)
    if by_password != ("mlflow_username" in given):
        yield f"{variable('mlflow_username')} and {variable('mlflow_password')}_FILE go together: set both or none"
    if by_password and any(each.startswith("mlflow_token") for each in given):
        yield f"{variable('mlflow_password')} and {variable('mlflow_token')} are both set: keep one way to log in"


def _address_problems(uri: str, *, logs_in: bool) -> Iterator[str]:
    name = variable("mlflow_uri")
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        host, parts = None, urlsplit("")
    if "@" in parts.netloc:  # as part of the address it would be shown wherever that is
        user, password = variable("mlflow_username"), variable("mlflow_password")
        yield f"{name} holds a log-in: take it out, and set {user} and {password}_FILE"
    elif not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        yield f"{name} has to be the address of a tracking server, such as https://mlflow.example.org"
    elif logs_in and parts.scheme == "http" and host not in _LOOPBACK:
        yield f"{name}={uri} would send our secret readable: use https://"


def log_in_of(settings: MlflowSettings) -> Callable[[], httpx.Auth | None]:
    """How a request says who we are. Secrets that lie in files are read anew each time: a rotation needs no restart.

    What it gives raises WrongConnectionSettings where a file cannot be used.
    """
    if settings.mlflow_username is not None:
        user = settings.mlflow_username
        return lambda: httpx.BasicAuth(
            user, read_secret("mlflow_password", settings.mlflow_password, settings.mlflow_password_file)
        )
    if settings.mlflow_token is not None or settings.mlflow_token_file is not None:
        return lambda: _Bearer(read_secret("mlflow_token", settings.mlflow_token, settings.mlflow_token_file))
    return lambda: None


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        request.headers["authorization"] = f"Bearer {self._token}"
        yield request
