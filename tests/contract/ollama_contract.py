"""What every node that speaks Ollama's API must do, asked by the official `ollama` and `openai` clients.

A suite is a subclass with a fixture `base_url`; where a node is known to do otherwise, `differences.py` says so and why. The
models are scripted (`tests/plugins/node.py`), so what they say is known; only `babble` is not, and it must babble the same
each time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import ollama
import openai
import pytest

from ruminate.shared.ollama import QWEN3_TEMPLATE
from tests.plugins.node import TinyModels

THOUGHT, ANSWER = "well so yes.", "Blue is the answer."
GREEDY = {"temperature": 0, "repeat_penalty": 1.0, "num_predict": 48}
ONE_THREAD = {"num_thread": 1}
"""For models so small that several threads wait for each other most of the time: a hundred times slower on a busy machine."""
HELLO = [{"role": "user", "content": "hello"}]
OK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "description": "one"}, "b": {"type": "integer", "description": "other"}},
            "required": ["a", "b"],
        },
    },
}
PLAIN_TEMPLATE = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}{{ end }}"
NO_SUCH_DIGEST = "sha256:" + "0" * 64
_fresh = itertools.count()


def fresh_name() -> str:
    """A name that no other test uses."""
    return f"fresh-{next(_fresh)}:v1"


def sha256_of(path: Path) -> str:
    """The digest that a blob of this file has."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


class OllamaContract:
    """The suite. Subclasses give the fixture `base_url`."""

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, base_url: str) -> Iterator[ollama.Client]:
        with ollama.Client(base_url) as client:
            yield client

    @pytest.fixture(scope="class")
    @classmethod
    def http(cls, base_url: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=base_url, timeout=60) as http:
            yield http

    @pytest.fixture(scope="class")
    @classmethod
    def v1(cls, base_url: str) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as v1:
            yield v1

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def models(cls, client: ollama.Client, tiny_models: TinyModels) -> None:
        for name in ("talk", "call", "babble", "endless", "parrot"):
            digest = client.create_blob(getattr(tiny_models, name))
            client.create(name, files={"model.gguf": digest}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD)
        client.create_blob(tiny_models.adapter)

    # what a node says of itself and of its models

    def test_it_says_that_it_is_running_and_which_version(self, http: httpx.Client) -> None:
        assert http.get("/").text == "Ollama is running"
        assert http.get("/api/version").json()["version"].count(".") >= 2
        assert http.get("/nowhere").status_code == 404

    def test_tags_list_every_name_with_size_digest_and_details(self, client: ollama.Client, tiny_models: TinyModels) -> None:
        listed = {model.model: model for model in client.list().models}
        talk = listed["talk:latest"]
        assert talk.size is not None and talk.size >= tiny_models.talk.stat().st_size // 2
        assert talk.digest is not None and len(talk.digest) == 64
        assert talk.details is not None and (talk.details.format, talk.details.family) == ("gguf", "qwen3")
        assert talk.modified_at is not None and talk.modified_at.tzinfo is not None
        assert {"call:latest", "babble:latest"} <= set(listed)

    def test_show_gives_capabilities_template_and_metadata(self, client: ollama.Client) -> None:
        shown = client.show("talk")
        assert {"completion", "tools", "thinking"} <= set(shown.capabilities or [])
        assert shown.template == QWEN3_TEMPLATE
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "qwen3"
        assert shown.modelinfo["qwen3.context_length"] == 2048
        assert shown.modelinfo["general.parameter_count"] > 100_000
        assert shown.details is not None and shown.details.quantization_level == "F16"
        assert shown.modified_at is not None

    def test_show_gives_system_and_parameters(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="talk", system="Be brief.", parameters={"num_ctx": 512, "temperature": 0.5, "stop": ["a", "b"]})
        shown = client.show(name)
        assert json.loads(shown.model_dump_json())["template"] == QWEN3_TEMPLATE
        lines = sorted(line.split() for line in (shown.parameters or "").splitlines())
        assert lines == [["num_ctx", "512"], ["num_thread", "1"], ["stop", '"a"'], ["stop", '"b"'], ["temperature", "0.5"]]
        assert httpx_show(client, name)["system"] == "Be brief."

    def test_a_template_that_can_less_than_the_one_in_the_gguf_gives_way_to_it(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="talk", template=PLAIN_TEMPLATE)
        assert set(client.show(name).capabilities or []) == {"completion", "tools", "thinking"}

    def test_a_template_without_thinking_and_tools_gives_neither_capability(
        self, client: ollama.Client, tiny_models: TinyModels
    ) -> None:
        name = fresh_name()
        client.create(name, files={"model.gguf": client.create_blob(tiny_models.bare)}, template=PLAIN_TEMPLATE)
        assert client.show(name).capabilities == ["completion"]
        with refused(400, f'"{name}" does not support thinking'):
            client.chat(name, HELLO, think=True)
        with refused(400, "does not support tools"):
            client.chat(name, HELLO, tools=[ADD])

    def test_without_a_template_the_capabilities_are_those_of_the_gguf(
        self, client: ollama.Client, tiny_models: TinyModels
    ) -> None:
        name = fresh_name()
        client.create(name, files={"model.gguf": client.create_blob(tiny_models.talk)})
        assert set(client.show(name).capabilities or []) == {"completion", "tools", "thinking"}

    def test_names_over_the_same_weights_each_keep_to_their_own_template(
        self, client: ollama.Client, tiny_models: TinyModels
    ) -> None:
        name = fresh_name()
        client.create(name, files={"model.gguf": client.create_blob(tiny_models.talk)}, parameters=ONE_THREAD)
        client.generate("talk", "")
        said = client.chat(name, HELLO, think=True, options=GREEDY)
        assert (said.message.thinking, said.message.content) == (THOUGHT, ANSWER)

    def test_what_some_take_for_an_end_of_a_line_is_part_of_a_question(self, client: ollama.Client) -> None:
        asked = [{"role": "user", "content": "one\u2028two\x85three\x0bfour\x0cfive"}]
        assert client.chat("talk", asked, think=False, options=GREEDY).message.content == ANSWER
        streamed = client.chat("talk", asked, think=False, options=GREEDY, stream=True)
        assert "".join(piece.message.content or "" for piece in streamed) == ANSWER

    def test_names_that_do_not_exist_are_404(self, client: ollama.Client, v1: openai.OpenAI) -> None:
        for ask in (client.delete, lambda name: client.chat(name, HELLO), lambda name: client.generate(name, "x")):
            with refused(404, "model 'ghost' not found"):
                ask("ghost")
        with refused(404, "not found"):
            client.show("ghost")
        with refused(404, 'model "ghost" not found'):
            client.copy("ghost", "other")
        with refused(404, 'model "ghost" not found, try pulling it first'):
            client.embed("ghost", "x")
        with pytest.raises(openai.NotFoundError, match="model 'ghost' not found"):
            v1.chat.completions.create(model="ghost", messages=[{"role": "user", "content": "x"}])

    @pytest.mark.parametrize(
        ("path", "body", "error"),
        [
            ("/api/chat", b"", "missing request body"),
            ("/api/chat", b"{nope", "invalid character"),
            ("/api/chat", b'{"model": 3}', "cannot unmarshal"),
            ("/api/chat", b'{"model": "talk", "messages": "hello"}', "cannot unmarshal"),
            ("/api/chat", b'{"model": "talk", "messages": [{"role": "user", "content": 3}]}', "cannot unmarshal"),
            ("/api/chat", b'{"model": "talk", "stream": "yes"}', "cannot unmarshal"),
            ("/api/chat", b'{"model": "talk", "options": 3}', "cannot unmarshal"),
            ("/api/chat", b'{"model": ""}', "model is required"),
            ("/api/chat", b'{"model": "a b"}', "invalid model name"),
            ("/api/chat", b'{"model": "talk", "think": "much"}', 'invalid think value: "much"'),
            ("/api/chat", b'{"model": "talk", "think": 3}', "think must be a boolean or string"),
            ("/api/chat", b'{"model": "talk", "keep_alive": "soon"}', 'time: invalid duration "soon"'),
            ("/api/generate", b'{"model": "talk", "prompt": "x", "suffix": "y"}', "does not support insert"),
            ("/api/generate", b'{"model": "talk", "raw": true, "system": "y"}', "raw mode does not support"),
            ("/api/show", b"{}", "model is required"),
            ("/api/copy", b'{"source": "a b", "destination": "c"}', 'source "a b" is invalid'),
            ("/api/copy", b'{"source": "talk", "destination": "c d"}', 'destination "c d" is invalid'),
            ("/api/embed", b'{"model": "talk", "input": 3}', "invalid input type"),
        ],
    )
    def test_requests_that_make_no_sense_are_400(self, http: httpx.Client, path: str, body: bytes, error: str) -> None:
        answer = http.post(path, content=body)
        assert answer.status_code == 400
        assert error in answer.json()["error"]

    @pytest.mark.parametrize("options", [{"num_ctx": "big"}, {"temperature": "hot"}])
    def test_options_of_a_wrong_type_are_named(self, client: ollama.Client, options: Mapping[str, Any]) -> None:
        with refused(500, f'option "{next(iter(options))}" must be of type'):
            client.chat("talk", HELLO, options=options)

    # blobs

    def test_a_blob_is_checked_against_its_digest(self, http: httpx.Client) -> None:
        content = uuid4().bytes
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        assert http.head(f"/api/blobs/{digest}").status_code == 404
        assert http.post(f"/api/blobs/{digest}", content=content).status_code == 201
        assert http.head(f"/api/blobs/{digest}").status_code == 200
        assert http.post(f"/api/blobs/{digest}", content=content).status_code == 200

    def test_a_blob_with_another_digest_is_refused_and_not_kept(self, http: httpx.Client) -> None:
        answer = http.post(f"/api/blobs/{NO_SUCH_DIGEST}", content=b"other bytes")
        assert answer.status_code == 400
        assert f'digest mismatch, expected "{NO_SUCH_DIGEST}", got "sha256:' in answer.json()["error"]
        assert http.head(f"/api/blobs/{NO_SUCH_DIGEST}").status_code == 404
        assert http.post("/api/blobs/md5:1", content=b"x").json() == {"error": "invalid digest format"}

    # create, copy, delete

    def test_create_tells_its_statuses(self, client: ollama.Client, tiny_models: TinyModels) -> None:
        new = uuid4().hex
        steps = client.create(fresh_name(), files={"m.gguf": client.create_blob(tiny_models.talk)}, system=new, stream=True)
        statuses = [step.status for step in steps]
        assert statuses[0] == "parsing GGUF"
        assert any(str(status).startswith("using existing layer sha256:") for status in statuses)
        assert any(str(status).startswith("creating new layer sha256:") for status in statuses)
        assert statuses[-2:] == ["writing manifest", "success"]

    @pytest.mark.parametrize(
        ("body", "status", "error"),
        [
            ({}, 400, "neither 'from' or 'files' was specified"),
            ({"modelfile": "FROM talk"}, 400, "neither 'from' or 'files' was specified"),
            ({"files": {}}, 400, "unknown type"),
            ({"files": {"m.gguf": NO_SUCH_DIGEST}}, 500, "no such file or directory"),
            ({"files": {"m.gguf": "sha256:1"}}, 500, "invalid digest format"),
            ({"files": {"m.gguf": ""}}, 400, "invalid digest format"),
            ({"files": {"../m.gguf": NO_SUCH_DIGEST}}, 400, "file path must be relative"),
            ({"from": "ghost"}, 500, "pull model manifest: "),
            ({"from": "a b"}, 400, "invalid model name"),
            ({"from": "talk", "adapters": {}}, 400, "unknown type"),
            ({"from": "talk", "adapters": {"a.gguf": NO_SUCH_DIGEST}}, 400, "no such file or directory"),
            ({"from": "talk", "template": "{{ if"}, 400, "template error: "),
            ({"from": "talk", "quantize": "q9_9"}, 500, "unsupported quantization type Q9_9 - supported types are "),
        ],
    )
    def test_create_refuses_what_it_cannot_do_and_leaves_no_name(
        self, http: httpx.Client, client: ollama.Client, body: Mapping[str, Any], status: int, error: str
    ) -> None:
        name = fresh_name()
        whole = http.post("/api/create", json={"model": name, "stream": False, **body})
        assert (whole.status_code, error in whole.json()["error"]) == (status, True), whole.text
        streamed = http.post("/api/create", json={"model": name, **body})
        assert error in json.loads(streamed.text.splitlines()[-1])["error"]
        assert name not in {model.model for model in client.list().models}

    @pytest.mark.parametrize(
        "template",
        [
            pytest.param("{{ if .Prompt }}", id="a block without its end"),
            pytest.param("{{ end }}", id="an end without its block"),
            pytest.param("{{ nonsense .Prompt }}", id="an unknown function"),
            pytest.param('{{ "open }}', id="a text without its end"),
        ],
    )
    def test_create_refuses_a_go_template_with_a_fault(self, client: ollama.Client, template: str) -> None:
        with refused(400, "template error: "):
            client.create(fresh_name(), from_="talk", template=template)

    def test_create_refuses_bytes_that_are_no_gguf(self, http: httpx.Client, client: ollama.Client, tmp_path: Path) -> None:
        junk = tmp_path / "junk.gguf"
        junk.write_bytes(b"junk")
        with refused(400, "supplied file was not in GGUF format"):
            client.create(fresh_name(), files={"junk.gguf": client.create_blob(junk)})
        assert http.post("/api/create", json={"model": "a b", "from": "talk"}).json() == {"error": "invalid model name"}

    def test_create_from_a_model_lays_over_it(self, client: ollama.Client) -> None:
        first, second = fresh_name(), fresh_name()
        client.create(first, from_="talk", system="One.", parameters={"num_ctx": 512, "top_k": 5}, license=["L1", "L2"])
        client.create(second, from_=first, system="Two.", parameters={"top_k": 7})
        shown = httpx_show(client, second)
        assert shown["system"] == "Two."
        assert shown["license"] == "L1\nL2"
        lines = sorted(line.split() for line in shown["parameters"].splitlines())
        assert lines == [["num_ctx", "512"], ["num_thread", "1"], ["top_k", "7"]]
        assert shown["template"] == QWEN3_TEMPLATE

    def test_messages_of_a_model_stand_before_every_conversation(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="talk", messages=[{"role": "user", "content": "before " * 20}, *HELLO])
        plain = client.chat("talk", HELLO, options=GREEDY).prompt_eval_count
        longer = client.chat(name, HELLO, options=GREEDY).prompt_eval_count
        assert plain is not None and longer is not None and longer > plain + 20

    def test_a_pull_says_why_it_failed(self, http: httpx.Client) -> None:
        nowhere = {"model": "127.0.0.1:1/a/b", "insecure": True, "stream": False}
        answer = http.post("/api/pull", json=nowhere)
        assert answer.status_code == 500
        assert "pull model manifest" in answer.json()["error"]

    def test_quantize_tells_that_it_does(self, client: ollama.Client) -> None:
        steps = [step.status for step in client.create(fresh_name(), from_="call", quantize="q8_0", stream=True)]
        assert any(str(step).startswith("quantizing F16 model to Q8_0") for step in steps)

    @pytest.mark.parametrize("kind", ["q4_K_M", "q4_K_S"])
    def test_quantize_knows_kinds_of_four_bits(self, client: ollama.Client, kind: str) -> None:
        name = fresh_name()
        client.create(name, from_="talk", quantize=kind)
        details = client.show(name).details
        assert details is not None and details.quantization_level == kind.upper()

    def test_quantize_writes_smaller_weights_that_say_the_same(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="talk", quantize="q8_0")
        sizes = {model.model: model.size or 0 for model in client.list().models}
        assert sizes[name] < 0.7 * sizes["talk:latest"]
        details = client.show(name).details
        assert details is not None and details.quantization_level == "Q8_0"
        assert client.chat(name, HELLO, think=False, options=GREEDY).message.content == ANSWER
        with refused(500, "quantization is only supported for F16, BF16 and F32 models"):
            client.create(fresh_name(), from_=name, quantize="q8_0")

    def test_an_adapter_changes_what_its_base_says(self, client: ollama.Client, tiny_models: TinyModels) -> None:
        name = fresh_name()
        client.create(name, from_="talk", adapters={"a.gguf": sha256_of(tiny_models.adapter)})
        assert client.chat(name, HELLO, think=False, options=GREEDY).message.content == "Adapted is the answer."
        assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER

    def test_a_copy_has_the_same_digest_and_outlives_its_source(self, client: ollama.Client) -> None:
        source, alias = fresh_name(), fresh_name()
        client.create(source, from_="talk", system="Copied.")
        client.copy(source, alias)
        digests = {model.model: model.digest for model in client.list().models}
        assert digests[source] == digests[alias]
        client.delete(source)
        assert client.chat(alias, HELLO, think=False, options=GREEDY).message.content == ANSWER
        with refused(404, f"model '{source}' not found"):
            client.show(source)

    def test_a_copy_over_a_name_moves_it(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="talk", system="Old.")
        client.copy("call", name)
        assert "system" not in httpx_show(client, name)

    def test_delete_removes_only_blobs_that_nothing_else_uses(self, http: httpx.Client, client: ollama.Client) -> None:
        name, system = fresh_name(), "A system prompt that only one model has: " + fresh_name()
        client.create(name, from_="talk", system=system)
        own = "sha256:" + hashlib.sha256(system.encode()).hexdigest()
        shared = "sha256:" + hashlib.sha256(QWEN3_TEMPLATE.encode()).hexdigest()
        assert http.head(f"/api/blobs/{own}").status_code == 200
        client.delete(name)
        assert http.head(f"/api/blobs/{own}").status_code == 404
        assert http.head(f"/api/blobs/{shared}").status_code == 200

    def test_equal_content_has_an_equal_digest_under_every_name(self, client: ollama.Client) -> None:
        first, second = fresh_name(), fresh_name()
        for name in (first, second):
            client.create(name, from_="talk", system="Equal.", parameters={"num_ctx": 512})
        digests = {model.model: model.digest for model in client.list().models}
        assert digests[first] == digests[second] != digests["talk:latest"]

    def test_the_weights_are_stored_as_they_were_uploaded(self, client: ollama.Client, tiny_models: TinyModels) -> None:
        made_of = str(httpx_show(client, "talk")["modelfile"])
        assert sha256_of(tiny_models.talk).replace(":", "-") in made_of

    def test_a_go_template_renders_the_prompt(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="call", template=QWEN3_TEMPLATE + " so" * 40)
        plain = client.chat("call", HELLO, think=False, options=GREEDY).prompt_eval_count or 0
        assert (client.chat(name, HELLO, think=False, options=GREEDY).prompt_eval_count or 0) >= plain + 40

    # chat

    @pytest.mark.parametrize("think", [None, True, "low", "medium", "high", "max"])
    def test_thinking_is_told_apart_from_the_answer(self, client: ollama.Client, think: Any) -> None:
        said = client.chat("talk", HELLO, think=think, options=GREEDY)
        assert (said.message.thinking, said.message.content) == (THOUGHT, ANSWER)
        assert (said.message.role, said.done, said.done_reason) == ("assistant", True, "stop")

    def test_thinking_can_be_turned_off(self, client: ollama.Client) -> None:
        said = client.chat("talk", HELLO, think=False, options=GREEDY)
        assert (said.message.thinking, said.message.content) == (None, ANSWER)

    def test_an_answer_counts_its_tokens_and_nanoseconds(self, client: ollama.Client) -> None:
        said = client.chat("talk", HELLO, think=False, options=GREEDY)
        assert said.eval_count == 5
        assert said.prompt_eval_count is not None and 10 < said.prompt_eval_count < 40
        for spent in (said.total_duration, said.load_duration, said.prompt_eval_duration, said.eval_duration):
            assert spent is not None and 0 < spent < 300e9
        assert said.total_duration is not None and said.total_duration >= (said.eval_duration or 0)
        assert said.created_at is not None and said.created_at.endswith("Z")

    def test_a_stream_comes_in_pieces_that_join_to_the_same_answer(self, client: ollama.Client) -> None:
        pieces = list(client.chat("talk", HELLO, think=True, options=GREEDY, stream=True))
        assert "".join(piece.message.thinking or "" for piece in pieces) == THOUGHT
        assert "".join(piece.message.content or "" for piece in pieces) == ANSWER
        assert len(pieces) > 5
        assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].eval_count == 10

    def test_num_predict_and_stop_end_an_answer(self, client: ollama.Client) -> None:
        short = client.chat("talk", HELLO, think=False, options={**GREEDY, "num_predict": 2})
        assert (short.message.content, short.done_reason, short.eval_count) == ("Blue is", "length", 2)
        stopped = client.chat("talk", HELLO, think=False, options={**GREEDY, "stop": [" the"]})
        assert (stopped.message.content, stopped.done_reason) == ("Blue is", "stop")

    def test_an_answer_may_be_longer_than_the_window(self, client: ollama.Client) -> None:
        said = client.chat("endless", HELLO, think=False, options={**GREEDY, "num_ctx": 64, "num_predict": 100})
        assert (said.eval_count, said.done_reason) == (100, "length")
        assert said.message.content == "Blue is the answer." * 25

    def test_nothing_is_held_against_repeating_unless_asked_for(self, client: ollama.Client) -> None:
        options = {"temperature": 0, "num_predict": 4}
        assert client.chat("parrot", HELLO, think=False, options=options).message.content == "Blue" * 4

    def test_a_penalty_on_repeating_counts(self, client: ollama.Client) -> None:
        options = {**GREEDY, "repeat_penalty": 1.1}
        assert client.chat("parrot", HELLO, think=False, options=options).message.content == "Blue so"

    def test_probabilities_of_tokens_are_given_when_asked_for(self, client: ollama.Client) -> None:
        options = {**GREEDY, "num_predict": 2}
        said = client.chat("talk", HELLO, think=False, logprobs=True, top_logprobs=2, options=options)
        assert [token.token for token in said.logprobs or []] == ["Blue", " is"]
        assert all(token.logprob <= 0 and len(token.top_logprobs or []) == 2 for token in said.logprobs or [])

    @pytest.mark.parametrize("think", [True, False])
    @pytest.mark.parametrize("format_", ["json", OK_SCHEMA])
    def test_a_format_binds_the_answer_and_not_the_thinking(self, client: ollama.Client, think: bool, format_: Any) -> None:
        said = client.chat("talk", HELLO, think=think, format=format_, options=GREEDY)
        assert json.loads(said.message.content or "") == {"ok": True}
        assert said.message.thinking == (THOUGHT if think else None)

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_format_that_is_none_is_refused(self, http: httpx.Client, stream: bool) -> None:
        answer = http.post(
            "/api/chat", json={"model": "talk", "messages": HELLO, "format": "xml", "stream": stream, "think": False}
        )
        assert answer.status_code == 500
        assert answer.json()["error"] == 'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'

    @pytest.mark.parametrize("stream", [True, False])
    def test_tool_calls_are_parsed(self, client: ollama.Client, stream: bool) -> None:
        if stream:
            pieces = list(client.chat("call", HELLO, think=True, tools=[ADD], options=GREEDY, stream=True))
            calls = [call for piece in pieces for call in piece.message.tool_calls or []]
            content = "".join(piece.message.content or "" for piece in pieces)
        else:
            said = client.chat("call", HELLO, think=True, tools=[ADD], options=GREEDY)
            assert said.message.thinking == THOUGHT
            calls, content = list(said.message.tool_calls or []), said.message.content or ""
        assert [(call.function.name, dict(call.function.arguments)) for call in calls] == [("add", {"a": 1, "b": 2})]
        assert content == ""

    def test_a_call_of_a_tool_that_was_not_offered_is_dropped(self, client: ollama.Client) -> None:
        other = {"type": "function", "function": {**ADD["function"], "name": "subtract"}}
        said = client.chat("call", HELLO, think=False, tools=[other], options=GREEDY)
        assert (said.message.content or "", said.message.tool_calls) == ("", None)

    def test_without_tools_a_call_is_text(self, client: ollama.Client) -> None:
        said = client.chat("call", HELLO, think=False, options=GREEDY)
        assert (said.message.content or "").startswith("<tool_call>")

    def test_a_tool_result_is_answered(self, client: ollama.Client) -> None:
        call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
        turns: list[dict[str, Any]] = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
        turns.append({"role": "tool", "content": "3", "tool_name": "add"})
        assert client.chat("talk", turns, tools=[ADD], think=False, options=GREEDY).message.content == ANSWER

    def test_a_last_assistant_message_is_continued(self, client: ollama.Client) -> None:
        begun = [*HELLO, {"role": "assistant", "content": "Blue is"}]
        assert client.chat("talk", begun, think=False, options=GREEDY).message.content == " the answer."

    def test_a_thought_that_is_given_is_not_thought_again(self, client: ollama.Client) -> None:
        begun = [*HELLO, {"role": "assistant", "content": "", "thinking": "enough of this"}]
        said = client.chat("talk", begun, think=True, options=GREEDY)
        assert (said.message.thinking or "", said.message.content) == ("", ANSWER)

    def test_a_system_message_replaces_the_models_own(self, client: ollama.Client) -> None:
        name = fresh_name()
        client.create(name, from_="talk", system="long " * 50)
        own = client.chat(name, HELLO, options=GREEDY).prompt_eval_count or 0
        other = client.chat(name, [{"role": "system", "content": "short"}, *HELLO], options=GREEDY).prompt_eval_count or 0
        assert own > other + 30

    def test_a_prompt_that_is_too_long_is_cut_and_its_count_says_so(self, client: ollama.Client) -> None:
        said = client.chat(
            "talk", [{"role": "user", "content": "one " * 900}], think=False, options={**GREEDY, "num_ctx": 256, "num_predict": 8}
        )
        # The first four tokens stay; of the rest, half of the window is left to the answer.
        assert said.prompt_eval_count == 256 - (256 - 4) // 2
        assert said.message.content == ANSWER

    def test_old_messages_go_before_the_last_one_is_cut(self, client: ollama.Client) -> None:
        turns = [{"role": "system", "content": "keep"}, *[{"role": "user", "content": "old " * 60}] * 9, *HELLO]
        said = client.chat("talk", turns, think=False, options={**GREEDY, "num_ctx": 256})
        assert (said.prompt_eval_count or 0) < 256
        assert said.message.content == ANSWER

    def test_an_image_is_not_seen_by_a_text_model(self, http: httpx.Client) -> None:
        shown = {"role": "user", "content": "what is it?", "images": ["aGVsbG8="]}
        answer = http.post(
            "/api/chat", json={"model": "talk", "messages": [shown], "stream": False, "think": False, "options": GREEDY}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]

    def test_temperature_zero_says_the_same_whoever_else_asks(self, client: ollama.Client) -> None:
        questions = [[{"role": "user", "content": f"{'so ' * n}what is {n}?"}] for n in range(6)]

        def ask(turns: list[dict[str, str]]) -> str:
            said = client.chat("babble", turns, think=False, options={**GREEDY, "num_predict": 24})
            return said.message.content or ""

        alone = [ask(turns) for turns in questions]
        assert len(set(alone)) > 1, "a model that says one thing cannot show a mix-up"
        assert [ask(turns) for turns in reversed(questions)] == alone[::-1]
        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(ask, questions * 2)) == alone * 2

    def test_a_seed_says_the_same_and_chance_does_not(self, client: ollama.Client) -> None:
        def ask(seed: int) -> str:
            options = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": seed, "num_predict": 24}
            return client.chat("babble", HELLO, think=False, options=options).message.content or ""

        assert ask(1) == ask(1)
        assert len({ask(seed) for seed in range(1, 6)}) > 1

    def test_an_answer_has_an_end_whatever_bytes_it_is_made_of(self, client: ollama.Client) -> None:
        for seed in range(20):
            options = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": seed, "num_predict": 24}
            assert client.chat("babble", HELLO, think=False, options=options).done, f"seed {seed}"

    def test_an_answer_has_an_end_however_often_it_says_the_same(self, client: ollama.Client) -> None:
        said = client.chat("parrot", HELLO, think=False, options=GREEDY | {"num_predict": 64})
        assert (said.done, said.eval_count) == (True, 64)

    # loading

    def test_an_empty_prompt_loads_and_keep_alive_zero_unloads(self, client: ollama.Client, http: httpx.Client) -> None:
        loaded = http.post("/api/generate", json={"model": "talk"}).json()
        assert (loaded["done"], loaded["done_reason"], loaded["response"]) == (True, "load", "")
        running = {model.model: model for model in client.ps().models}
        assert running["talk:latest"].context_length
        assert running["talk:latest"].expires_at is not None
        unloaded = http.post("/api/chat", json={"model": "talk", "messages": [], "keep_alive": 0}).json()
        assert (unloaded["done_reason"], unloaded["message"]["content"]) == ("unload", "")
        until(lambda: "talk:latest" not in {model.model for model in client.ps().models})

    def test_keep_alive_says_how_long_a_model_stays(self, client: ollama.Client) -> None:
        client.chat("talk", HELLO, options=GREEDY, keep_alive="1h")
        client.chat("call", HELLO, options=GREEDY, keep_alive=-1)
        running = {model.model: model.expires_at for model in client.ps().models}
        longer, shorter = running["call:latest"], running["talk:latest"]
        assert longer is not None
        assert shorter is not None
        assert longer > shorter
        client.chat("talk", HELLO, options=GREEDY, keep_alive=0)
        until(lambda: "talk:latest" not in {model.model for model in client.ps().models})

    # generate

    def test_generate_answers_a_prompt_with_thinking_beside_it(self, client: ollama.Client) -> None:
        said = client.generate("talk", "hello", think=True, options=GREEDY)
        assert (said.thinking, said.response) == (THOUGHT, ANSWER)
        without = client.generate("talk", "hello", think=False, options=GREEDY)
        assert (without.thinking, without.response) == (None, ANSWER)

    def test_generate_streams(self, client: ollama.Client) -> None:
        pieces = list(client.generate("talk", "hello", think=True, options=GREEDY, stream=True))
        assert "".join(piece.response or "" for piece in pieces) == ANSWER
        assert "".join(piece.thinking or "" for piece in pieces) == THOUGHT
        assert pieces[-1].done and pieces[-1].eval_count == 10

    def test_a_raw_prompt_is_continued_as_it_stands(self, client: ollama.Client) -> None:
        said = client.generate("talk", "<|im_start|>assistant\n", raw=True, think=False, options=GREEDY)
        assert (said.response, said.thinking) == (f"<think> {THOUGHT}</think>{ANSWER}", None)
        ended = "<|im_start|>assistant\n<think>\nenough\n</think>\n\n"
        assert client.generate("talk", ended, raw=True, think=False, options=GREEDY).response == ANSWER

    @pytest.mark.parametrize("opened", ["", "<think>"])
    def test_a_raw_answer_is_split_unless_thinking_is_off(self, client: ollama.Client, opened: str) -> None:
        said = client.generate("talk", f"<|im_start|>assistant\n{opened}", raw=True, options=GREEDY)
        assert (said.response, said.thinking) == (ANSWER, THOUGHT)

    @pytest.mark.parametrize("think", [False, True])
    def test_a_format_of_generate_binds_from_the_first_token_so_that_nothing_is_thought(
        self, client: ollama.Client, think: bool
    ) -> None:
        said = client.generate("talk", "hello", think=think, format=OK_SCHEMA, options=GREEDY)
        assert said.response is not None
        assert (json.loads(said.response), said.thinking) == ({"ok": True}, None)

    def test_generate_takes_a_template_with_the_request(self, client: ollama.Client) -> None:
        said = client.generate("talk", "hello", template="{{ .Prompt }} so so so", think=False, options=GREEDY)
        assert said.response == f" yes.</think>{ANSWER}"

    def test_generate_goes_on_from_a_context(self, client: ollama.Client) -> None:
        first = client.generate("talk", "hello", think=False, options=GREEDY)
        assert first.context
        second = client.generate("talk", "more", context=list(first.context), think=False, options=GREEDY)
        assert second.response == ANSWER
        assert (second.prompt_eval_count or 0) > len(first.context)

    # embeddings

    def test_embed_gives_a_unit_vector_a_text(self, client: ollama.Client, http: httpx.Client) -> None:
        vectors = client.embed("babble", ["one", "two", "one"]).embeddings
        assert len(vectors) == 3 and vectors[0] != vectors[1]
        assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
        assert sum(value * value for value in vectors[0]) == pytest.approx(1.0, abs=1e-4)
        assert client.embed("babble", []).embeddings == []
        older = http.post("/api/embeddings", json={"model": "babble", "prompt": "one"}).json()["embedding"]
        assert len(older) == len(vectors[0])

    # OpenAI's words

    def test_v1_answers_with_reasoning(self, v1: openai.OpenAI) -> None:
        said = v1.chat.completions.create(
            model="talk", messages=[{"role": "user", "content": "hello"}], temperature=0, max_tokens=48
        )
        choice = said.choices[0]
        assert (choice.message.content, reasoning_of(choice.message), choice.finish_reason) == (ANSWER, THOUGHT, "stop")
        assert said.usage is not None and said.usage.completion_tokens == 10
        assert said.object == "chat.completion" and said.model == "talk"

    @pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True), ("medium", True), ("high", True)])
    def test_v1_reasoning_effort_turns_thinking_on_and_off(self, v1: openai.OpenAI, effort: Any, thinks: bool) -> None:
        said = v1.chat.completions.create(
            model="talk", messages=[{"role": "user", "content": "hello"}], temperature=0, reasoning_effort=effort
        )
        assert said.choices[0].message.content == ANSWER
        assert reasoning_of(said.choices[0].message) == (THOUGHT if thinks else None)

    @pytest.mark.parametrize("effort", ["minimal", "xhigh", "ultra", "max"])
    def test_v1_knows_every_word_for_effort(self, v1: openai.OpenAI, effort: Any) -> None:
        said = v1.chat.completions.create(
            model="talk", messages=[{"role": "user", "content": "hello"}], temperature=0, reasoning_effort=effort
        )
        assert (said.choices[0].message.content, reasoning_of(said.choices[0].message)) == (ANSWER, THOUGHT)

    def test_v1_streams(self, v1: openai.OpenAI) -> None:
        chunks = list(
            v1.chat.completions.create(
                model="talk",
                messages=[{"role": "user", "content": "hello"}],
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == ANSWER
        assert "".join(reasoning_of(delta) or "" for delta in deltas) == THOUGHT
        assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 10
        assert len({chunk.id for chunk in chunks}) == 1

    def test_v1_keeps_to_a_response_format(self, v1: openai.OpenAI) -> None:
        formats: list[Any] = [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "x", "schema": OK_SCHEMA}}]
        for format_ in formats:
            said = v1.chat.completions.create(
                model="talk",
                messages=[{"role": "user", "content": "hello"}],
                temperature=0,
                response_format=format_,
                reasoning_effort="none",
            )
            assert json.loads(said.choices[0].message.content or "") == {"ok": True}

    @pytest.mark.parametrize("stream", [True, False])
    def test_v1_calls_tools(self, v1: openai.OpenAI, stream: bool) -> None:
        asked: dict[str, Any] = {"model": "call", "messages": HELLO, "temperature": 0, "tools": [ADD], "stream": stream}
        if stream:
            chunks = list(v1.chat.completions.create(**asked))
            calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
            reason = chunks[-1].choices[0].finish_reason
        else:
            choice = v1.chat.completions.create(**asked).choices[0]
            calls, reason = choice.message.tool_calls, choice.finish_reason
        assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [("add", {"a": 1, "b": 2})]
        assert calls[0].id and reason == "tool_calls"

    def test_v1_takes_tool_results_and_parts_of_text(self, v1: openai.OpenAI) -> None:
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
        turns: list[Any] = [
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ]
        said = v1.chat.completions.create(model="talk", messages=turns, temperature=0, reasoning_effort="none")
        assert said.choices[0].message.content == ANSWER

    def test_v1_refuses_in_openais_form(self, v1: openai.OpenAI, http: httpx.Client) -> None:
        with pytest.raises(openai.BadRequestError, match=r"invalid reasoning value: .wild."):
            v1.chat.completions.create(model="talk", messages=HELLO, reasoning_effort="wild")  # type: ignore[call-overload]
        body = http.post("/v1/chat/completions", content=b"{x").json()
        assert body["error"]["type"] == "invalid_request_error"
        assert "invalid character" in body["error"]["message"]
        assert http.post("/v1/chat/completions", json={"model": "talk", "messages": []}).status_code == 400

    def test_v1_lists_models(self, v1: openai.OpenAI) -> None:
        assert "talk:latest" in {model.id for model in v1.models.list()}
        assert v1.models.retrieve("talk").owned_by == "library"
        with pytest.raises(openai.NotFoundError):
            v1.models.retrieve("ghost")


def refused(status: int, error: str) -> Any:
    """Expect the official client to raise this."""
    return pytest.raises(ollama.ResponseError, check=lambda raised: raised.status_code == status and error in raised.error)


def reasoning_of(said: Any) -> str | None:
    """The field that the openai client does not know of."""
    return (said.model_extra or {}).get("reasoning") or None


def httpx_show(client: ollama.Client, name: str) -> dict[str, Any]:
    """`/api/show` with the fields that the client's model leaves out."""
    shown: dict[str, Any] = client._request_raw("POST", "/api/show", json={"model": name}).json()
    return shown


def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait until something is true, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not true"
        time.sleep(0.02)
