"""Ollama itself, one node of each version for all tests that ask for it; each test names its own models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.real.ollama import NEWER, OLDER, OllamaNode, ollama_node
from tests.plugins.real import installed


@pytest.fixture(scope="session")
def older_ollama() -> Iterator[OllamaNode]:
    """A node of the engine before llama-server."""
    with installed(), ollama_node(OLDER) as node:
        yield node


@pytest.fixture(scope="session")
def newer_ollama() -> Iterator[OllamaNode]:
    """A node of the engine with llama-server."""
    with installed(), ollama_node(NEWER) as node:
        yield node
