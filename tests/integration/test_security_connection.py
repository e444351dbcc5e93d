"""Every way into a broker that asks who we are, by every kind of client; and every way to be refused says so."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from infra.real.ports import hold_port
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.schemas.flow import DEAD_LETTER_SETTLED
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import aiokafka_options, tokens, why_not_connected
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.lag import LagProbe
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import EVERY_TOPIC, open_admin
from tests.plugins.certificates import SigningKey
from tests.plugins.guarded import GuardedKafka, environment_of, password_of, run_to_its_end, scram, user_of

pytestmark = pytest.mark.real

EXAMPLE = Path(__file__).parents[2] / "schemas/examples/dead-letter-settled-v1/valid/dropped.json"
DEADLINE_SECONDS = 60.0

Way = Callable[[GuardedKafka], ServiceSettings]


def _locked(kafka: GuardedKafka) -> dict[str, Any]:
    return {
        "kafka_certificate_file": kafka.client.certificate,
        "kafka_key_file": kafka.authority.lock(kafka.client, "locked away"),
    }


WAYS_IN: dict[str, Way] = {
    "TLS": lambda kafka: kafka.settings("TLS"),
    "a certificate of ours": lambda kafka: kafka.settings(
        "MUTUAL", kafka_certificate_file=kafka.client.both, kafka_key_file=kafka.client.both
    ),
    "an encrypted key": lambda kafka: kafka.settings("MUTUAL", **_locked(kafka), kafka_key_password="locked away"),
    "SCRAM-SHA-256": lambda kafka: kafka.settings(**scram("operators", "SCRAM-SHA-256")),
    "SCRAM-SHA-512 over TLS": lambda kafka: kafka.settings("CLIENT"),
    "PLAIN over TLS": lambda kafka: kafka.settings("CLIENT", **scram("operators", "PLAIN")),
    "OAUTHBEARER over TLS": lambda kafka: kafka.by_token(),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_every_client_gets_in(guarded_flow: GuardedKafka, way: str) -> None:
    async def scenario(settings: ServiceSettings) -> None:
        assert await why_not_connected(settings) == ""
        async with open_admin(settings) as admin:  # librdkafka
            assert not (await admin.plan()).creations
        async with asyncio.timeout(DEADLINE_SECONDS), LagProbe(settings) as probe:
            while any(lag.messages is None for lag in await probe.measure()):
                pass  # partitions that have just been created are not fetched from at once
        settled = DeadLetterSettled.model_validate_json(json.dumps(json.loads(EXAMPLE.read_bytes())["value"]))
        async with KafkaBus(settings, reader="operators") as bus:
            envelope = bus.begin(DEAD_LETTER_SETTLED, settled)
            await bus.publish(DEAD_LETTER_SETTLED, settled, envelope)
            assert envelope.id in [found.envelope.id async for found in bus.read(DEAD_LETTER_SETTLED)]
            assert not bus.readiness()

    asyncio.run(scenario(WAYS_IN[way](guarded_flow)))


@dataclass(frozen=True)
class Refusal:
    """Settings that are refused, and what has to be said about it."""

    way: Way
    says: tuple[str, ...]


REFUSALS: dict[str, Refusal] = {
    "wrong password": Refusal(
        lambda kafka: kafka.settings("CLIENT", kafka_password="wr0ng"),
        ("refused to log ruminate-operators in by SCRAM-SHA-512", "RUMINATE_KAFKA_PASSWORD"),
    ),
    "wrong password by PLAIN": Refusal(
        lambda kafka: kafka.settings(kafka_sasl_mechanism="PLAIN", kafka_password="wr0ng"),
        ("refused to log ruminate-operators in by PLAIN", "RUMINATE_KAFKA_PASSWORD"),
    ),
    "unknown user": Refusal(
        lambda kafka: kafka.settings(kafka_username="nobody"), ("refused to log nobody in", "RUMINATE_KAFKA_USERNAME")
    ),
    "unknown authority": Refusal(
        lambda kafka: kafka.settings("TLS", kafka_ca_file=kafka.stranger.file),
        ("signed by an authority that is not trusted here", "RUMINATE_KAFKA_CA_FILE"),
    ),
    "an authority that the system does not know": Refusal(
        lambda kafka: kafka.settings("TLS", kafka_ca_file=None),
        ("signed by an authority that is not trusted here", "RUMINATE_KAFKA_CA_FILE"),
    ),
    "expired certificate": Refusal(lambda kafka: kafka.settings("EXPIRED"), ("has expired", "Renew it at the broker")),
    "wrong host name": Refusal(
        lambda kafka: kafka.settings("ELSEWHERE"), ("is for another host", "advertised.listeners", "RUMINATE_KAFKA_BOOTSTRAP")
    ),
    "no certificate of ours": Refusal(
        lambda kafka: kafka.settings("MUTUAL"), ("demands a certificate from us", "RUMINATE_KAFKA_CERTIFICATE_FILE")
    ),
    "our certificate is a stranger's": Refusal(
        lambda kafka: kafka.settings("MUTUAL", **_certificate(kafka)),
        ("does not take our certificate", "RUMINATE_KAFKA_CERTIFICATE_FILE"),
    ),
    "an encrypted key without its password": Refusal(
        lambda kafka: kafka.settings("MUTUAL", **_locked(kafka)), ("is encrypted: set RUMINATE_KAFKA_KEY_PASSWORD_FILE",)
    ),
    "an encrypted key with another password": Refusal(
        lambda kafka: kafka.settings("MUTUAL", **_locked(kafka), kafka_key_password="wr0ng"),
        ("RUMINATE_KAFKA_CERTIFICATE_FILE=", "cannot be used"),
    ),
    "a TLS broker, spoken to in plain": Refusal(
        lambda kafka: kafka.settings("TLS", kafka_security_protocol="PLAINTEXT", kafka_ca_file=None),
        ("speaks TLS, and RUMINATE_KAFKA_SECURITY_PROTOCOL=PLAINTEXT does not", "Set SSL"),
    ),
    "a TLS broker, logged in to in plain": Refusal(
        lambda kafka: kafka.settings("CLIENT", kafka_security_protocol="SASL_PLAINTEXT", kafka_ca_file=None),
        ("speaks TLS, and RUMINATE_KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT does not", "Set SASL_SSL"),
    ),
    "a plain broker, spoken to by TLS": Refusal(
        lambda kafka: kafka.settings("INTERNAL", kafka_security_protocol="SSL", kafka_ca_file=kafka.authority.file),
        ("does not speak TLS, and RUMINATE_KAFKA_SECURITY_PROTOCOL=SSL does",),
    ),
    "a broker that asks for a log-in": Refusal(
        lambda kafka: kafka.settings("CLIENT", kafka_security_protocol="SSL", **NO_LOG_IN),
        ("demands a log-in", "Set SASL_SSL", "it offers OAUTHBEARER, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
    ),
    "a broker that takes no log-in": Refusal(
        lambda kafka: kafka.settings("TLS", kafka_security_protocol="SASL_SSL", **scram("operators")),
        ("takes no log-in", "Name its SASL listener, or set SSL"),
    ),
    "a mechanism that is not offered": Refusal(
        lambda kafka: kafka.by_token(
            kafka_bootstrap=kafka.cluster.at("LOGIN"), kafka_security_protocol="SASL_PLAINTEXT", kafka_ca_file=None
        ),
        ("does not offer RUMINATE_KAFKA_SASL_MECHANISM=OAUTHBEARER", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
    ),
    "token endpoint away": Refusal(
        lambda kafka: kafka.by_token(kafka_token_url="https://127.0.0.1:9/token"), ("does not answer", "RUMINATE_KAFKA_TOKEN_URL")
    ),
    "token endpoint of an unknown authority": Refusal(
        lambda kafka: kafka.by_token(kafka_token_ca_file=kafka.stranger.file), ("does not answer", "RUMINATE_KAFKA_TOKEN_CA_FILE")
    ),
    "wrong client secret": Refusal(
        lambda kafka: kafka.by_token(kafka_token_client_secret="wr0ng"),
        ("refused client ruminate-operators: HTTP 401, invalid_client", "RUMINATE_KAFKA_TOKEN_CLIENT_ID"),
    ),
    "a token for somebody else": Refusal(
        lambda kafka: kafka.by_token(kafka_token_audience="another-service"),
        ("refused the token of client ruminate-operators", "RUMINATE_KAFKA_TOKEN_AUDIENCE"),
    ),
    "nobody there": Refusal(
        lambda kafka: kafka.settings(kafka_bootstrap="127.0.0.1:9"), ("nothing listens there", "RUMINATE_KAFKA_BOOTSTRAP")
    ),
    "no such host": Refusal(
        lambda kafka: kafka.settings(kafka_bootstrap="kafka.invalid:9092"), ("name is not known here", "RUMINATE_KAFKA_BOOTSTRAP")
    ),
}
NO_LOG_IN: dict[str, Any] = {"kafka_sasl_mechanism": None, "kafka_username": None, "kafka_password": None}


def _certificate(kafka: GuardedKafka) -> dict[str, Any]:
    made = kafka.stranger.issue("stranger")
    return {"kafka_certificate_file": made.certificate, "kafka_key_file": made.key}


@pytest.mark.parametrize("case", REFUSALS)
def test_every_refusal_says_why_and_names_the_setting(guarded_kafka: GuardedKafka, case: str) -> None:
    settings = REFUSALS[case].way(guarded_kafka)
    why = asyncio.run(why_not_connected(settings))
    assert all(words in why for words in REFUSALS[case].says), why
    assert "wr0ng" not in why
    assert password_of("operators") not in why


def test_a_token_that_a_stranger_signed_is_refused(guarded_kafka: GuardedKafka, tmp_path: Path) -> None:
    settings = guarded_kafka.by_token(kafka_token_scope="signed by a stranger")
    ours, guarded_kafka.tokens.key = guarded_kafka.tokens.key, SigningKey(tmp_path)
    try:
        assert "refused the token of client ruminate-operators" in asyncio.run(why_not_connected(settings))
    finally:
        guarded_kafka.tokens.key = ours


@pytest.mark.parametrize("case", ["wrong password", "unknown authority", "wrong client secret"])
def test_clients_that_start_say_it_too(guarded_kafka: GuardedKafka, case: str) -> None:
    settings = REFUSALS[case].way(guarded_kafka)

    async def by_admin() -> None:
        async with open_admin(settings) as admin:
            await admin.plan()

    async def by_probe() -> None:
        async with LagProbe(settings):
            pass

    for client in (by_admin, by_probe):
        with pytest.raises(BrokerUnavailable, match=REFUSALS[case].says[0]):
            asyncio.run(client())


# Processes.


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def reasons(self) -> list[str] | None:
        """Why it is not ready; None before it listens."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                found = json.load(answer)
        except HTTPError as error:
            with error:
                found = json.load(error)
        except OSError:
            return None
        return list(found["reasons"])

    def until(self, condition: Callable[[list[str]], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (found := self.reasons()) is None or not condition(found):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"not {what}: {found}\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def free_port() -> Iterator[int]:
    with ExitStack() as held:
        yield hold_port(held)


@contextmanager
def running(service: str, settings: ServiceSettings, folder: Path, port: int) -> Iterator[Service]:
    log = folder / f"{service}.log"
    environment = {
        **os.environ,
        **environment_of(settings),
        "RUMINATE_STATE_DIR": str(folder),
        "RUMINATE_OPERATIONS_PORT": str(port),
    }
    with (
        log.open("wb") as output,
        subprocess.Popen([sys.executable, "-m", f"ruminate.{service}"], env=environment, stderr=output) as process,
    ):
        try:
            yield Service(process, log, port)
        finally:
            process.kill()


def test_a_service_that_is_refused_waits_says_why_and_needs_no_restart_once_it_is_mended(
    guarded_flow: GuardedKafka, tmp_path: Path, free_port: int
) -> None:
    secret = tmp_path / "password"
    secret.write_text("wr0ng\n")
    settings = guarded_flow.settings("LOGIN", "assessor", kafka_password=None, kafka_password_file=secret)
    try:
        with running("assessor", settings, tmp_path, free_port) as service:
            service.until(lambda reasons: any("refused to log ruminate-assessor in" in why for why in reasons), "refused")
            assert len(service.said("broker_not_reached")) == 1

            secret.write_text(password_of("assessor") + "\n")
            service.until(lambda reasons: not reasons, "ready with the right password")
            assert service.said("broker_reached_again")

            # The broker comes back with another password for us: those who reconnect are refused.
            guarded_flow.let_in(user_of("assessor"), "rotated")
            guarded_flow.cluster.stop(0)
            service.until(lambda reasons: any("nothing listens there" in why for why in reasons), "without a broker")
            guarded_flow.cluster.start(0)
            service.until(lambda reasons: any("refused to log ruminate-assessor in" in why for why in reasons), "refused again")

            secret.write_text("rotated\n")
            service.until(lambda reasons: not reasons, "ready with the rotated password")
            told = [line["why"] for line in service.said("broker_not_reached")]
            assert len(told) <= 6, told
            assert "wr0ng" not in service.log.read_text()
            assert "rotated" not in "".join(told)
    finally:
        guarded_flow.let_in(user_of("assessor"), password_of("assessor"))


def test_a_service_whose_files_cannot_be_used_ends_with_78(guarded_kafka: GuardedKafka, tmp_path: Path) -> None:
    settings = guarded_kafka.settings("TLS", kafka_ca_file=tmp_path / "missing.pem")
    done = run_to_its_end("assessor", settings, tmp_path)
    assert done.returncode == 78, done.stderr
    assert f"RUMINATE_KAFKA_CA_FILE={tmp_path / 'missing.pem'} cannot be used: No such file or directory" in done.stderr


def test_a_verb_that_is_refused_says_why_at_once(guarded_kafka: GuardedKafka) -> None:
    settings = guarded_kafka.settings("CLIENT", kafka_password="wr0ng")
    environment = {**os.environ, **environment_of(settings), "COLUMNS": "500"}
    verbs = (("tail", DEAD_LETTER_SETTLED.name, "--no-follow"), ("doctor",), ("acls", "plan"))
    commands = [(sys.executable, "-m", "ruminate.command", *verb, "--kafka", settings.kafka_bootstrap) for verb in verbs]
    with ExitStack() as running_verbs:
        processes = [
            running_verbs.enter_context(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
            for command in commands
        ]
        for process in processes:
            said, _ = process.communicate(timeout=DEADLINE_SECONDS)
            assert process.returncode == 1, said
            assert "refused to log ruminate-operators in" in said
            assert "wr0ng" not in said


# What changes while a client lives.


def test_clients_of_one_process_ask_for_one_token(guarded_flow: GuardedKafka) -> None:
    settings = guarded_flow.by_token(kafka_token_scope="shared")

    async def scenario() -> None:
        async with AIOKafkaProducer(**aiokafka_options(settings)), open_admin(settings) as admin:
            await admin.plan(EVERY_TOPIC[:1])

    asyncio.run(scenario())
    asked = [form for _, form in guarded_flow.tokens.asked if form.get("scope") == "shared"]
    assert asked == [{"grant_type": "client_credentials", "scope": "shared"}]


def test_a_token_is_renewed_before_its_end_and_a_client_goes_on_when_its_session_ends(guarded_flow: GuardedKafka) -> None:
    settings = guarded_flow.by_token(kafka_token_scope="brief")

    async def scenario() -> None:
        async with AIOKafkaProducer(**aiokafka_options(settings), acks="all", enable_idempotence=True) as producer:
            first, ends = await tokens(settings).token(), time.monotonic() + 2 * guarded_flow.tokens.life_seconds
            while time.monotonic() < ends:
                await producer.send_and_wait(DEAD_LETTER_SETTLED.name, b"{}", partition=0)
                await asyncio.sleep(0.05)
            assert await tokens(settings).token() != first

    guarded_flow.tokens.life_seconds = 2
    try:
        asyncio.run(scenario())
    finally:
        guarded_flow.tokens.life_seconds = 600
    assert 2 <= len([form for _, form in guarded_flow.tokens.asked if form.get("scope") == "brief"]) <= 4


def test_a_certificate_that_is_replaced_serves_the_next_connection(guarded_flow: GuardedKafka, tmp_path: Path) -> None:
    wrong = guarded_flow.stranger.issue("operators")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    settings = guarded_flow.settings("MUTUAL", kafka_certificate_file=certificate, kafka_key_file=key)

    def put(source: Any) -> None:
        shutil.copy(source.certificate, certificate)
        shutil.copy(source.key, key)

    async def scenario() -> None:
        put(wrong)
        options = aiokafka_options(settings)
        producer = AIOKafkaProducer(**options)
        with pytest.raises(KafkaConnectionError):
            await producer.start()
        await producer.stop()
        key.write_text("half writ")
        assert "does not take our certificate" in await why_not_connected(settings)
        put(guarded_flow.client)
        async with AIOKafkaProducer(**options) as again:
            await again.send_and_wait(DEAD_LETTER_SETTLED.name, b"{}", partition=0)

    asyncio.run(scenario())
