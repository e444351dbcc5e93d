"""Apache Kafka that lets nobody in unasked: TLS, log-ins and access lists, on one broker with a listener for each case."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from infra.real.kafka import QUICK, KafkaCluster, Protocol, kafka_cluster
from ruminate.command.acls import compare, grant
from ruminate.schemas.flow import SERVICES
from ruminate.shared.access import PEOPLE, Grant
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.plugins.certificates import Authority, Certificate, SigningKey
from tests.plugins.real import installed
from tests.plugins.token_endpoint import TokenEndpoint, token_endpoint

ACLS: Final = Path(__file__).parents[2] / "infra/kafka/acls.yaml"
ACTORS: Final = (*SERVICES, *PEOPLE)
LISTENERS: Final[dict[str, Protocol]] = {
    "LOGIN": "SASL_PLAINTEXT",
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",
}
MECHANISMS: Final = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
_END_SECONDS: Final = 60.0
_PACKAGE: Final = "org.apache.kafka.common.security"


def user_of(actor: str) -> str:
    return f"ruminate-{actor}"


def password_of(actor: str) -> str:
    return f"{actor} has, a=secret"


@dataclass
class GuardedKafka:
    """The broker, and everything that one needs to be let in."""

    cluster: KafkaCluster
    admin: AdminClient
    authority: Authority
    stranger: Authority
    client: Certificate
    tokens: TokenEndpoint

    def settings(self, listener: str = "LOGIN", actor: str = "operators", **fields: Any) -> ServiceSettings:
        """Whoever `actor` is, at a listener, by SCRAM; `fields` change that. The environment is not asked."""
        where = self.cluster.bootstrap if listener == "CLIENT" else self.cluster.internal if listener == "INTERNAL" else ""
        protocol = {**LISTENERS, "CLIENT": "SASL_SSL", "INTERNAL": "PLAINTEXT"}[listener]
        wanted: dict[str, Any] = {
            "kafka_bootstrap": where or self.cluster.at(listener),
            "kafka_security_protocol": protocol,
            **({"kafka_ca_file": self.authority.file} if protocol in ("SSL", "SASL_SSL") else {}),
            **(scram(actor) if protocol.startswith("SASL") else {}),
            **fields,
        }
        return ServiceSettings(**wanted)

    def by_token(self, actor: str = "operators", **fields: Any) -> ServiceSettings:
        """The same by OAUTHBEARER."""
        token: dict[str, Any] = {
            "kafka_sasl_mechanism": "OAUTHBEARER",
            "kafka_username": None,
            "kafka_password": None,
            "kafka_token_url": self.tokens.url,
            "kafka_token_client_id": user_of(actor),
            "kafka_token_client_secret": password_of(actor),
            "kafka_token_ca_file": self.authority.file,
        }
        return self.settings("CLIENT", actor, **{**token, **fields})

    def let_in(self, user: str, password: str) -> None:
        """Let the broker know a user by both kinds of SCRAM."""
        for mechanism in MECHANISMS.values():
            credential = ScramCredentialInfo(mechanism, 4096)
            self._alter(UserScramCredentialUpsertion(user, credential, password.encode()))

    def forget(self, user: str) -> None:
        """Let the broker know the user no longer; those who are connected stay so."""
        for mechanism in MECHANISMS.values():
            self._alter(UserScramCredentialDeletion(user, mechanism))

    def _alter(self, alteration: UserScramCredentialUpsertion | UserScramCredentialDeletion) -> None:
        for outcome in self.admin.alter_user_scram_credentials([alteration]).values():
            outcome.result(20)


def scram(actor: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
    """Settings of a log-in by user and password."""
    return {
        "kafka_sasl_mechanism": mechanism,
        "kafka_username": user_of(actor),
        "kafka_password": password_of(actor),
    }


def environment_of(settings: ServiceSettings) -> dict[str, str]:
    """The same settings for a process, secrets included."""
    found = {name: getattr(settings, name) for name in settings.model_fields_set}
    plain = {name: value.get_secret_value() if hasattr(value, "get_secret_value") else value for name, value in found.items()}
    return {f"RUMINATE_{name.upper()}": str(value) for name, value in plain.items() if value is not None}


def run_to_its_end(service: str, settings: ServiceSettings, folder: Path) -> subprocess.CompletedProcess[str]:
    """A service that ends by itself: how, and what it said."""
    return subprocess.run(
        [sys.executable, "-m", f"ruminate.{service}"],
        env={**os.environ, **environment_of(settings), "RUMINATE_STATE_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=_END_SECONDS,
        check=False,
    )


@pytest.fixture(scope="session")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    """One guarded broker for all tests of a process; every actor of the flow is known to it, and nobody has any right."""
    folder = tmp_path_factory.mktemp("guarded")
    authority, stranger = Authority(folder, "authority"), Authority(folder, "stranger")
    client, signing = authority.issue(user_of("operators")), SigningKey(folder)
    keys = folder / "jwks.json"
    keys.write_text(json.dumps({"keys": [signing.as_web_key()]}))
    secrets = {user_of(actor): password_of(actor) for actor in ACTORS}
    jvm = (*QUICK, f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys.as_uri()}")
    settings = _properties(authority, keys)
    with (
        installed(),
        token_endpoint(signing, authority.issue("tokens"), secrets) as endpoint,
        kafka_cluster(settings=settings, client_protocol="SASL_SSL", listeners=LISTENERS, jvm=jvm) as cluster,
        AdminClient({"bootstrap.servers": cluster.internal}) as admin,
    ):
        kafka = GuardedKafka(cluster, admin, authority, stranger, client, endpoint)
        for actor in ACTORS:
            kafka.let_in(user_of(actor), password_of(actor))
        yield kafka


def _properties(authority: Authority, keys: Path) -> dict[str, str]:
    shown = {
        "": authority.issue("broker"),
        "listener.name.expired.": authority.issue("expired", expired=True),
        "listener.name.elsewhere.": authority.issue("elsewhere", hosts="DNS:kafka.example"),
    }
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.file),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^CN=(.*?)(,.*)?$/$1/",
        "sasl.oauthbearer.jwks.endpoint.url": keys.as_uri(),
        "sasl.oauthbearer.expected.audience": "kafka",
        # The default of 4.1.0 lets in whoever signed it, and whomever it is for.
        "sasl.oauthbearer.jwt.validator.class": f"{_PACKAGE}.oauthbearer.BrokerJwtValidator",
    }
    for prefix, certificate in shown.items():
        properties |= {f"{prefix}ssl.keystore.type": "PEM", f"{prefix}ssl.keystore.location": str(certificate.both)}
    for listener in ("client", "login"):
        properties |= _log_ins(f"listener.name.{listener}.")
    return properties


def _log_ins(listener: str) -> Mapping[str, str]:
    offered = [*MECHANISMS, "PLAIN", *(["OAUTHBEARER"] if listener.endswith("client.") else [])]
    users = " ".join(f'user_{user_of(actor)}="{password_of(actor)}"' for actor in ACTORS)
    modules = {
        **{name.lower(): f"{_PACKAGE}.scram.ScramLoginModule required;" for name in MECHANISMS},
        "plain": f"{_PACKAGE}.plain.PlainLoginModule required {users};",
        "oauthbearer": f"{_PACKAGE}.oauthbearer.OAuthBearerLoginModule required;",
    }
    return {
        f"{listener}sasl.enabled.mechanisms": ",".join(offered),
        **{f"{listener}{name.lower()}.sasl.jaas.config": modules[name.lower()] for name in offered},
        f"{listener}oauthbearer.sasl.server.callback.handler.class": f"{_PACKAGE}.oauthbearer.OAuthBearerValidatorCallbackHandler",
        # A session ends with its token.
        f"{listener}oauthbearer.connections.max.reauth.ms": "3600000",
    }


@pytest.fixture(scope="session")
def guarded_flow(guarded_kafka: GuardedKafka) -> GuardedKafka:
    """The same with the access lists of `infra/kafka/acls.yaml`, and every topic of the flow, made by the operators themselves."""

    async def set_up() -> None:
        missing, beyond = await compare(guarded_kafka.admin, written_grants())
        assert not beyond
        await grant(guarded_kafka.admin, missing)
        await ensure_topics(guarded_kafka.settings("CLIENT", "operators"))

    asyncio.run(set_up())
    return guarded_kafka


def written_grants() -> list[Grant]:
    """What the generated file says."""
    found = yaml.safe_load(ACLS.read_text())
    return [
        Grant(principal, each["resource"], each["name"], each["pattern"], tuple(each["operations"]))
        for principal, lists in found.items()
        for each in lists
    ]
