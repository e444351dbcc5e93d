"""What passes from node to client: bytes, names and findings."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.gateway.answer import Passage, renamed
from ruminate.gateway.question import Dialect


def lines(*chunks: object) -> bytes:
    return b"".join(orjson.dumps(chunk) + b"\n" for chunk in chunks)


def events(*chunks: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def delta(finish: str | None = None, **fields: object) -> dict[str, object]:
    return {"id": "c", "model": "node-name", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


CHAT = lines(
    {"model": "node-name", "message": {"role": "assistant", "content": "", "thinking": "h"}, "done": False},
    {"model": "node-name", "message": {"role": "assistant", "content": "", "thinking": "m"}, "done": False},
    {"model": "node-name", "message": {"role": "assistant", "content": "Gr\u00fc\u00df\u2028e"}, "done": False},
    {
        "model": "node-name",
        "message": {"content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
        "done": False,
    },
    {"model": "node-name", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 3},
)
GENERATE = lines(
    {"model": "node-name", "response": "", "thinking": "hm", "done": False},
    {"model": "node-name", "response": "Gr\u00fc\u00df\u2028e", "done": False},
    {"model": "node-name", "response": "", "done": True, "done_reason": "stop", "eval_count": 3},
)
OPENAI = events(
    delta(role="assistant", content="", reasoning="h"),
    delta(reasoning="m"),
    delta(content="Gr\u00fc\u00df\u2028e"),
    delta(tool_calls=[{"index": 0, "id": "call_1", "function": {"name": "add", "arguments": '{"a"'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]),
    delta(finish="stop"),
    {"id": "c", "model": "node-name", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}},
)
STREAMS: list[tuple[Dialect, bytes]] = [("chat", CHAT), ("generate", GENERATE), ("openai", OPENAI)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@pytest.mark.parametrize(("dialect", "stream"), STREAMS)
@given(places=st.lists(st.integers(min_value=0, max_value=10_000), max_size=12))
def test_however_a_stream_is_cut_the_same_bytes_pass_and_the_same_answer_is_found(
    dialect: Dialect, stream: bytes, places: list[int]
) -> None:
    passage = Passage(dialect, name=None)
    passed = b"".join(passage.feed(piece) for piece in cut(stream, places))
    assert passed + passage.end() == stream
    response = passage.answer.response()
    assert (response.content, response.thinking) == ("Gr\u00fc\u00df\u2028e", "hm")
    if dialect != "generate":
        assert [(call.name, call.arguments) for call in response.tool_calls] == [("add", {"a": 1})]
    assert passage.answer.usage(first_token_seconds=None).response_tokens == 3
    assert passage.answer.done_reason == "stop"
    assert not passage.unreadable


@pytest.mark.parametrize(("dialect", "stream"), STREAMS)
def test_nothing_after_the_models_last_word_leaves_before_the_end(dialect: Dialect, stream: bytes) -> None:
    passage = Passage(dialect, name=None)
    left = passage.feed(stream)
    assert passage.answer.ended
    assert left
    assert not any(mark in left for mark in (b'"done":true', b'"stop"', b"[DONE]"))


@pytest.mark.parametrize(("dialect", "stream"), STREAMS)
def test_a_stream_that_breaks_off_has_not_ended(dialect: Dialect, stream: bytes) -> None:
    marks = [b'"done":true', b'"stop"']
    passage = Passage(dialect, name=None)
    broken = stream[: min(stream.find(mark) for mark in marks if mark in stream)]
    assert passage.feed(broken) + passage.end() == broken
    assert not passage.answer.ended


@pytest.mark.parametrize(("dialect", "stream"), STREAMS)
def test_the_client_sees_the_name_that_it_asked_for_and_every_other_byte_unchanged(dialect: Dialect, stream: bytes) -> None:
    passage = Passage(dialect, name="asked")
    assert passage.feed(stream) + passage.end() == stream.replace(b'"node-name"', b'"asked"')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", "b"]) | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["a", "model", "z"]), json_values), st.text(min_size=1), st.text(min_size=1), st.booleans())
def test_renaming_changes_the_outer_model_and_nothing_else(
    fields: dict[str, object], name: str, asked: str, indented: bool
) -> None:
    chunk = {"nested": {"model": name}, "said": f'{{"model":"{name}"}}', **fields, "model": name}
    raw = orjson.dumps(chunk, option=orjson.OPT_INDENT_2 if indented else 0)
    assert orjson.loads(renamed(raw, chunk, asked)) == {**chunk, "model": asked}


def test_what_is_no_chunk_passes_and_makes_the_answer_unreadable() -> None:
    for garbage in (b"not json\n", b"[1]\n", b'{"message": {"tool_calls": [3]}}\n'):
        passage = Passage("chat", name="asked")
        assert passage.feed(garbage) == garbage
        assert passage.unreadable


def test_an_error_of_the_node_ends_nothing() -> None:
    passage = Passage("chat", name=None)
    assert passage.feed(b'{"error":"out of memory"}\n') == b'{"error":"out of memory"}\n'
    assert passage.answer.refused
    assert not passage.answer.ended


def test_one_whole_answer_reads_like_its_stream() -> None:
    passage = Passage("openai", name="asked")
    message = {"role": "assistant", "content": "x", "reasoning": "y"}
    body = orjson.dumps({"model": "node-name", "choices": [{"index": 0, "message": message, "finish_reason": "length"}]})
    assert orjson.loads(passage.whole(body))["model"] == "asked"
    assert passage.answer.ended
    assert (passage.answer.response().content, passage.answer.response().thinking) == ("x", "y")
    assert passage.answer.done_reason == "length"
