"""The embedded node honours the contract of Ollama's API; what it does otherwise is stated here."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.contract.ollama_contract import OllamaContract
from tests.plugins.node import RunningNode

ONLY_SHAPE = "it refuses actions and blocks without an end; other faults never show, because it renders by Jinja"


class TestEmbeddedNode(OllamaContract):
    subject = "the embedded node"
    differences: ClassVar[dict[str, str]] = {
        "test_a_go_template_renders_the_prompt": "it renders by the Jinja template in the GGUF; a Go template is for capabilities",
        "test_create_refuses_a_go_template_with_a_fault[an unknown function]": ONLY_SHAPE,
        "test_create_refuses_a_go_template_with_a_fault[a text without its end]": ONLY_SHAPE,
        "test_a_pull_says_why_it_failed": "404: it knows no registry, neither to pull from nor to push to",
        "test_quantize_knows_kinds_of_four_bits": "500: `q8_0` is the one kind that it can write",
        "test_probabilities_of_tokens_are_given_when_asked_for": "400: it gives none",
        "test_generate_takes_a_template_with_the_request": "400: it renders by the Jinja template in the GGUF",
        "test_generate_goes_on_from_a_context": "it gives none, and takes none (400); a conversation goes to `/api/chat`",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def base_url(cls, embedded_node: RunningNode) -> str:
        return embedded_node.url
