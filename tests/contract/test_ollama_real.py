"""Ollama itself honours the contract, before and since its llama-server engine; what each does otherwise is stated here.

RUMINATE_TEST_OLLAMA=http://127.0.0.1:11434 takes a node that runs already in place of the installed one of its engine.
"""

from __future__ import annotations

import os
from typing import ClassVar

import httpx
import pytest

from tests.contract.ollama_contract import OllamaContract

pytestmark = pytest.mark.real
NOT_A_WORD = "400: high, medium, low, max and none are all it knows"
GIVES_UP = (
    "it gives up on a token that comes more than thirty times in a row, and says 200, without `done`. The gateway makes a 502 of it"
)
NAMED = os.environ.get("RUMINATE_TEST_OLLAMA", "").rstrip("/")


def url_of(fixture: str, request: pytest.FixtureRequest) -> str:
    """The node that is named if it is of this engine, else the installed one."""
    if NAMED:
        major, minor = httpx.get(f"{NAMED}/api/version").json()["version"].split(".")[:2]
        if (fixture == "newer_ollama") == ((int(major), int(minor)) >= (0, 30)):
            return NAMED
    url: str = request.getfixturevalue(fixture).url
    return url


class TestOllamaBeforeLlamaServer(OllamaContract):
    subject = "Ollama 0.24.0"
    differences: ClassVar[dict[str, str]] = {
        "test_a_template_that_can_less_than_the_one_in_the_gguf_gives_way_to_it": "it looks at Go templates alone: `completion`",
        "test_without_a_template_the_capabilities_are_those_of_the_gguf": "it looks at Go templates alone: `completion`",
        "test_names_over_the_same_weights_each_keep_to_their_own_template": "it does not know the Jinja template inside the GGUF",
        "test_a_penalty_on_repeating_counts": "its engine for Qwen3 takes `repeat_penalty` and does not look at it",
        "test_an_adapter_changes_what_its_base_says": 'it takes the adapter and fails at its use: "loras are not yet implemented"',
        "test_a_prompt_that_is_too_long_is_cut_and_its_count_says_so": "it fills the whole window, and makes room while it answers",
        "test_an_image_is_not_seen_by_a_text_model": "it answers as if there were no image",
        "test_embed_gives_a_unit_vector_a_text": '501 "this model does not support embeddings"',
        "test_an_answer_has_an_end_however_often_it_says_the_same": GIVES_UP,
        **{f"test_v1_knows_every_word_for_effort[{word}]": NOT_A_WORD for word in ("minimal", "xhigh", "ultra")},
    }

    @pytest.fixture(scope="class")
    @classmethod
    def base_url(cls, request: pytest.FixtureRequest) -> str:
        return url_of("older_ollama", request)


class TestOllamaSinceLlamaServer(OllamaContract):
    subject = "Ollama 0.34.0"
    differences: ClassVar[dict[str, str]] = {
        "test_names_over_the_same_weights_each_keep_to_their_own_template": (
            "they share a runner, and with it the template mode of whichever was loaded first: `<think>` in the answer. "
            "Every name gets the same Go template from us, so nothing is mixed"
        ),
        "test_quantize_tells_that_it_does": 'it says "verifying conversion", and only once it has done so',
        "test_the_weights_are_stored_as_they_were_uploaded": (
            "create runs them through llama-quantize: other bytes of the same weights, equal on all nodes of the version; the "
            "upload stays beside them until a restart an hour later"
        ),
        "test_an_answer_has_an_end_however_often_it_says_the_same": GIVES_UP,
        "test_an_answer_has_an_end_whatever_bytes_it_is_made_of": (
            "llama-server gives up at bytes that are no text, and Ollama says 200 to what there is, without `done`. "
            "The gateway makes a 502 of it"
        ),
        "test_embed_gives_a_unit_vector_a_text": '501 "This server does not support embeddings"',
    }

    @pytest.fixture(scope="class")
    @classmethod
    def base_url(cls, request: pytest.FixtureRequest) -> str:
        return url_of("newer_ollama", request)
