"""Ollama itself honours the contract: what differs between its versions and the embedded node is stated here.

Start one (`OLLAMA_NO_CLOUD=1 OLLAMA_MODELS=DIR ollama serve`) and name it: RUMINATE_TEST_OLLAMA=http://127.0.0.1:11434.
"""

from __future__ import annotations

import os

import httpx
import pytest

from tests.contract.ollama_contract import OllamaContract

pytestmark = pytest.mark.real
URL = os.environ.get("RUMINATE_TEST_OLLAMA", "")


def _version() -> tuple[int, int]:
    major, minor = httpx.get(f"{URL}/api/version").json()["version"].split(".")[:2]
    return int(major), int(minor)


class RealOllama(OllamaContract):
    cuts_to_room = False

    @pytest.fixture(scope="class")
    @classmethod
    def base_url(cls) -> str:
        if not URL:
            pytest.skip("no Ollama: start one and set RUMINATE_TEST_OLLAMA=http://127.0.0.1:11434")
        if (_version() >= (0, 30)) != cls.llama_server:
            pytest.skip(f"{URL} is of the other engine")
        return URL

    llama_server: bool


class TestOllamaBefore030(RealOllama):
    llama_server = False
    serves_adapters = embeds = thinks_by_jinja = False
    ignores_images = True


class TestOllamaFrom030(RealOllama):
    llama_server = True
    keeps_uploaded_digest = False
