"""How a command finds what runs: `addresses.json` in the state folder, or what the caller names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import why_not_connected
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.kafka_settings import WrongConnectionSettings
from ruminate.shared.settings import ServiceSettings, problems_of

S = TypeVar("S", bound=ServiceSettings)


class NothingRuns(Exception):
    """There are no addresses to talk to; the message says how to start or name them."""


@dataclass(frozen=True)
class Addresses:
    """What `addresses.json` says."""

    kafka: str
    kafka_profile: str
    gateway: str
    collector: str
    nodes: dict[str, str]
    operations: dict[str, str]
    target: str
    store: str


def read_addresses(state: Path) -> Addresses:
    """The addresses of what runs in this state folder. Raises NothingRuns."""
    path = state / "addresses.json"
    try:
        found: dict[str, Any] = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise NothingRuns(f"nothing runs in {state}: {path} does not exist. Type:  ruminate up --state {state}") from None
    return Addresses(**{name: found[name] for name in Addresses.__annotations__})


def read_settings(kind: type[S]) -> S:
    """Settings as the services read them, from the environment. Raises WrongConnectionSettings."""
    try:
        return kind()
    except ValidationError as error:
        raise _wrong(error) from None


def settings_for(*, kafka: str, profile: str, state: Path) -> ServiceSettings:
    """Settings of a client that reads and writes topics from the command line. Raises WrongConnectionSettings."""
    try:
        if profile == "embedded":  # asks nobody who they are, whatever the environment says of another broker
            return ServiceSettings(
                kafka_bootstrap=kafka, kafka_profile="embedded", kafka_security_protocol="PLAINTEXT", state_dir=state
            )
        return ServiceSettings(kafka_bootstrap=kafka, kafka_profile="kafka", state_dir=state)
    except ValidationError as error:
        raise _wrong(error) from None


def _wrong(error: ValidationError) -> WrongConnectionSettings:
    return WrongConnectionSettings("; ".join(problems_of(error)))


def find_settings(state: Path, kafka: str | None, store: str | None = None) -> ServiceSettings:
    """Broker and store: as named, else of the loop in this folder, else as the services read them from the environment.

    The loop's store goes with the loop's broker: what lies there explains nothing about another one. Raises NothingRuns,
    WrongConnectionSettings.
    """
    loop, why = None, ""
    try:
        loop = read_addresses(state)
    except NothingRuns as error:
        why = str(error)
    if loop is not None and kafka in (None, loop.kafka):
        settings = settings_for(kafka=loop.kafka, profile=loop.kafka_profile, state=state)
        settings = settings.model_copy(update={"store_uri": loop.store})
    elif kafka is not None:
        settings = settings_for(kafka=kafka, profile="kafka", state=state)
    else:
        settings = read_settings(ServiceSettings)
        if "kafka_bootstrap" not in settings.model_fields_set:
            raise NothingRuns(f"{why}   (or name a broker: --kafka HOST:PORT, RUMINATE_KAFKA_BOOTSTRAP)")
    if store is not None:
        settings = settings.model_copy(update={"store_uri": store if "://" in store else Path(store).resolve().as_uri()})
    return settings


@asynccontextmanager
async def open_bus(state: Path, kafka: str | None) -> AsyncIterator[KafkaBus]:
    """The bus at the broker that `find_settings` finds. Raises BrokerUnavailable where none answers us."""
    async with open_bus_at(find_settings(state, kafka)) as bus:
        yield bus


@asynccontextmanager
async def open_bus_at(settings: ServiceSettings) -> AsyncIterator[KafkaBus]:
    """The bus at this broker. Raises BrokerUnavailable where none answers us."""
    # A service waits for its broker; whoever types a command wants to know at once.
    if why := await why_not_connected(settings):
        raise BrokerUnavailable(why)
    async with KafkaBus(settings, reader="command") as bus:
        yield bus
