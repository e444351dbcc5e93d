"""The embedded node honours the contract of Ollama's API."""

from __future__ import annotations

import pytest

from tests.contract.ollama_contract import OllamaContract
from tests.plugins.node import RunningNode


class TestEmbeddedNode(OllamaContract):
    @pytest.fixture(scope="class")
    @classmethod
    def base_url(cls, embedded_node: RunningNode) -> str:
        return embedded_node.url
