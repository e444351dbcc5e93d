"""How a command finds what runs: `addresses.json` in the state folder, or what the caller names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import why_not_connected
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.kafka_settings import WrongConnectionSettings
from ruminate.shared.settings import ServiceSettings, problems_of


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


def settings_for(*, kafka: str, profile: str, state: Path) -> ServiceSettings:
    """Settings of a client that reads and writes topics from the command line. Raises WrongConnectionSettings."""
    try:
        if profile == "embedded":  # asks nobody who they are, whatever the environment says of another broker
            return ServiceSettings(
                kafka_bootstrap=kafka, kafka_profile="embedded", kafka_security_protocol="PLAINTEXT", state_dir=state
            )
        return ServiceSettings(kafka_bootstrap=kafka, kafka_profile="kafka", state_dir=state)
    except ValidationError as error:
        raise WrongConnectionSettings("; ".join(problems_of(error))) from None


def find_settings(state: Path, kafka: str | None, store: str | None = None) -> ServiceSettings:
    """Broker and store: as named, else of the loop in this folder, else as the services read them from the environment.

    Raises NothingRuns, WrongConnectionSettings.
    """
    addresses: Addresses | None = None
    try:
        addresses = read_addresses(state)
    except NothingRuns:
        settings = ServiceSettings()
        if kafka is None and "kafka_bootstrap" not in settings.model_fields_set:
            raise
    if kafka is not None:
        settings = settings_for(kafka=kafka, profile="kafka", state=state)
    elif addresses is not None:
        settings = settings_for(kafka=addresses.kafka, profile=addresses.kafka_profile, state=state)
    if store is not None:
        uri = store if "://" in store else Path(store).resolve().as_uri()
    elif addresses is not None:
        uri = addresses.store
    else:
        uri = settings.store_uri
    return settings.model_copy(update={"store_uri": uri})


@asynccontextmanager
async def open_bus(state: Path, kafka: str | None) -> AsyncIterator[KafkaBus]:
    """The bus at the broker that `find_settings` finds. Raises BrokerUnavailable where none answers us."""
    settings = find_settings(state, kafka)
    # A service waits for its broker; whoever types a command wants to know at once.
    if why := await why_not_connected(settings):
        raise BrokerUnavailable(why)
    async with KafkaBus(settings, reader="command") as bus:
        yield bus
