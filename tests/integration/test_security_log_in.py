"""Log-ins as aiokafka does them under our hand, at a doorkeeper that says what no broker says at will."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from ruminate.shared.connection import aiokafka_options, why_not_connected
from ruminate.shared.settings import ServiceSettings

METADATA, HANDSHAKE, VERSIONS, AUTHENTICATE = 3, 17, 18, 36
OFFERED: Final = ("OAUTHBEARER", "PLAIN", "SCRAM-SHA-512")
DEADLINE_SECONDS = 20.0


class Doorkeeper:
    """Speaks as much of Kafka's protocol as a log-in takes, notes what it is told, and hangs up at anything else."""

    def __init__(self, answer: Callable[[bytes], bytes] = lambda _: b"") -> None:
        self.answer = answer
        self.told: list[bytes] = []
        self.asked: list[int] = []
        self.port = 0
        self.talks: set[asyncio.Task[None] | None] = set()

    def settings(self, mechanism: str, **fields: Any) -> ServiceSettings:
        return ServiceSettings(
            kafka_bootstrap=f"127.0.0.1:{self.port}",
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_mechanism=mechanism,
            **fields,
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.talks.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while (answer := self._answer(await reader.readexactly(*struct.unpack(">i", await reader.readexactly(4))))) is not None:
                writer.write(struct.pack(">i", len(answer)) + answer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    def _answer(self, request: bytes) -> bytes | None:
        kind, version, number, name_bytes = struct.unpack_from(">hhih", request)
        self.asked.append(kind)
        head = struct.pack(">ih", number, 0)
        match kind:
            case 18:
                known = struct.pack(">i9h", 3, HANDSHAKE, 0, 1, AUTHENTICATE, 0, 0, METADATA, 0, 0)
                return head + known + (struct.pack(">i", 0) if version else b"")
            case 17:
                return head + struct.pack(">i", len(OFFERED)) + b"".join(struct.pack(">h", len(o)) + o.encode() for o in OFFERED)
            case 36:
                self.told.append(request[10 + name_bytes + 4 :])
                said = self.answer(self.told[-1])
                return head + struct.pack(">hi", -1, len(said)) + said
        return None


@asynccontextmanager
async def at_the_door(keeper: Doorkeeper) -> AsyncIterator[Doorkeeper]:
    async with await asyncio.start_server(keeper.serve, "127.0.0.1", 0) as server:
        keeper.port = server.sockets[0].getsockname()[1]
        yield keeper
        await asyncio.gather(*filter(None, keeper.talks))


async def knock(client: AIOKafkaClient) -> None:
    with pytest.raises(KafkaConnectionError):
        await client.bootstrap()


def test_a_password_file_is_read_for_each_connection_of_a_client(tmp_path: Path) -> None:
    file = tmp_path / "password"

    async def scenario() -> None:
        async with at_the_door(Doorkeeper()) as keeper:
            file.write_text("first")
            client = AIOKafkaClient(**aiokafka_options(keeper.settings("PLAIN", kafka_username="me", kafka_password_file=file)))
            for password in ("first", "second"):
                file.write_text(password)
                await knock(client)
            file.write_text("")  # as while it is written
            await knock(client)
            await client.close()
        assert keeper.told == [b"me\0me\0first", b"me\0me\0second", b"me\0me\0first"]

    asyncio.run(scenario())


class AnyToken(AbstractTokenProvider):  # type: ignore[misc]
    async def token(self) -> str:
        return "a token"


@pytest.mark.parametrize(("answer", "let_in"), [(b"", True), (b'{"status":"invalid_token"}', False)])
def test_a_token_that_the_answer_refuses_opens_no_connection(answer: bytes, let_in: bool) -> None:
    async def scenario() -> None:
        async with at_the_door(Doorkeeper(lambda _: answer)) as keeper:
            settings = keeper.settings(
                "OAUTHBEARER",
                kafka_token_url="https://login.example/token",
                kafka_token_client_id="me",
                kafka_token_client_secret="s",
            )
            client = AIOKafkaClient(**aiokafka_options(settings) | {"sasl_oauth_token_provider": AnyToken()})
            await knock(client)
            await client.close()
        assert keeper.asked[:3] == [VERSIONS, HANDSHAKE, AUTHENTICATE]
        assert (METADATA in keeper.asked) == let_in

    asyncio.run(scenario())


def test_a_broker_that_cannot_prove_that_it_knows_our_password_is_refused() -> None:
    def pretend(told: bytes) -> bytes:
        if told.startswith(b"n,,"):
            return told.rpartition(b",")[2] + b"more,s=c2FsdA==,i=4096"
        return b"v=bm90IGl0"

    async def scenario() -> str:
        async with at_the_door(Doorkeeper(pretend)) as keeper, asyncio.timeout(DEADLINE_SECONDS):
            return await why_not_connected(keeper.settings("SCRAM-SHA-512", kafka_username="me", kafka_password="secret"))

    why = asyncio.run(scenario())
    assert "refused to log me in by SCRAM-SHA-512: it does not prove that it knows our password" in why


def test_a_token_endpoint_that_is_slow_is_not_taken_for_a_slow_broker() -> None:
    async def scenario(endpoint: int) -> str:
        async with at_the_door(Doorkeeper()) as keeper, asyncio.timeout(DEADLINE_SECONDS):
            settings = keeper.settings(
                "OAUTHBEARER",
                kafka_token_url=f"http://127.0.0.1:{endpoint}/token",
                kafka_token_client_id="me",
                kafka_token_client_secret="s",
            )
            return await why_not_connected(settings)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        why = asyncio.run(scenario(silent.getsockname()[1]))
    assert "the token endpoint" in why
    assert "does not answer" in why
    assert "no broker" not in why
