"""MLflow's tracking server itself: one for all tests of a process; each has targets, and so experiments, of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.real.mlflow import MlflowServer, mlflow_server
from tests.plugins.real import installed


@pytest.fixture(scope="session")
def mlflow() -> Iterator[MlflowServer]:
    """A server that answers; whoever stops it starts it again."""
    with installed(), mlflow_server() as server:
        yield server
