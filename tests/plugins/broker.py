"""The embedded broker, started once for all tests that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ruminate.embedded.broker import EmbeddedBroker, embedded_broker


@pytest.fixture(scope="session")
def broker() -> Iterator[EmbeddedBroker]:
    with embedded_broker() as running:
        yield running
