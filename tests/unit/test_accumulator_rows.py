"""What an interaction becomes in a dataset."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any
from uuid import UUID

import jinja2
import pytest

from ruminate.accumulator.curation.asked import asked_in
from ruminate.accumulator.curation.near import jaccard_of
from ruminate.accumulator.records.rows import (
    INDICATORS,
    Built,
    Row,
    RowLimits,
    build,
    indicators_of,
    thinking_called_for,
    tokens_of,
)
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.interaction import (
    ContextFacts,
    ImageReference,
    InteractionRecorded,
    Message,
    Response,
    Thinking,
    ToolCall,
    ToolDefinition,
    Usage,
)

ROOM = 1_000_000
NONE = Score(value=None)
QUALITY = ReasoningQuality(
    logical_coherence=NONE,
    problem_decomposition=NONE,
    evidence_usage=NONE,
    conclusion_validity=NONE,
    step_by_step_clarity=NONE,
)


def assessed(*, decision: str = "keep", question: str = "What is 2 + 2?", **changed: Any) -> ReasoningAssessed:
    """A kept interaction, changed as told."""
    fields: dict[str, Any] = {
        "interaction_id": "i-1",
        "conversation_id": "c-1",
        "agent": "tester",
        "target_model": "qwen3:8b",
        "occurred_at": datetime(2026, 11, 1, tzinfo=UTC),
        "messages": (Message(role="user", content=question),),
        "response": Response(content="4", thinking="Two and two make four."),
        "thinking": Thinking(mode_used="thinking"),
        "training_allowed": True,
        "source": "/tester",
        "recorded_id": UUID(int=1),
    } | changed
    return ReasoningAssessed(
        target_model="qwen3:8b",
        recorded_id=fields["recorded_id"],
        policy_version="p1",
        scorer_version="s1",
        verdict=Verdict(
            answer_quality=NONE,
            reasoning_quality=QUALITY,
            mode_appropriateness=NONE,
            overall=NONE,
            evidence_ratio=0.0,
            decision=decision,  # type: ignore[arg-type]
            reasons=(),
        ),
        interaction=InteractionRecorded(**fields),
    )


def row(record: ReasoningAssessed) -> dict[str, Any]:
    built = build(record, RowLimits(max_bytes=ROOM, images=False))
    assert isinstance(built, Built)
    Row.model_validate_json(built.line)
    parsed: dict[str, Any] = json.loads(built.line)
    return parsed


def test_captured_thinking_is_kept_as_it_was_captured() -> None:
    assert row(assessed(response=Response(content="4", thinking="  so:\n\t4 "))) == {
        "prompt": [{"role": "user", "content": "What is 2 + 2?"}],
        "completion": [{"role": "assistant", "content": "4", "reasoning_content": "  so:\n\t4 "}],
        "chat_template_kwargs": {"enable_thinking": True},
    }


@pytest.mark.parametrize("thinking", [None, "", " \n"])
def test_an_answer_without_thinking_is_a_direct_row(thinking: str | None) -> None:
    direct = row(assessed(response=Response(content="4", thinking=thinking)))
    assert direct["completion"] == [{"role": "assistant", "content": "4"}]
    assert direct["chat_template_kwargs"] == {"enable_thinking": False}


def test_tool_calls_stay_in_the_messages_and_are_spelled_as_the_template_spells_them() -> None:
    call = ToolCall(name="weather", arguments={"where": "Zürich", "days": 2}, id="t-1")
    record = assessed(
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Weather?"),
            Message(role="assistant", thinking="Ask the tool.", tool_calls=(call,)),
            Message(role="tool", content="rain", tool_name="weather", tool_call_id="t-1"),
        ),
        response=Response(content="", tool_calls=(call,)),
    )
    spelled = [{"type": "function", "id": "t-1", "function": {"name": "weather", "arguments": '{"where": "Zürich", "days": 2}'}}]
    assert row(record)["prompt"][2:] == [
        {"role": "assistant", "content": "", "reasoning_content": "Ask the tool.", "tool_calls": spelled},
        {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "t-1"},
    ]
    assert row(record)["completion"] == [{"role": "assistant", "content": "", "tool_calls": spelled}]


def test_the_tools_that_were_offered_are_in_the_row_as_the_template_spells_them() -> None:
    takes: dict[str, Any] = {"type": "object", "properties": {"where": {"type": "string", "description": "Zürich, say"}}}
    tools = (ToolDefinition(name="weather", description="Tells it.", parameters=takes), ToolDefinition(name="now"))
    spelled = row(assessed(tools=tools))["tools"]
    offered = json.loads(spelled)
    assert offered == [
        {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": takes}},
        {"type": "function", "function": {"name": "now", "parameters": {}}},
    ]
    template = files("trl").joinpath("chat_templates/qwen3.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment()
    environment.policies["json.dumps_function"] = json.dumps  # as `transformers` has it: not safe for HTML
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    rendered = environment.from_string(template).render(messages=[{"role": "user", "content": "Rain?"}], tools=offered)
    for tool in offered:
        assert json.dumps(tool, ensure_ascii=False) in rendered
    assert "tools" not in row(assessed())


def test_images_that_are_kept_are_named_and_two_of_them_are_two_questions() -> None:
    def seen(sha256: str, uri: str | None = None) -> bytes:
        image = ImageReference(sha256=sha256, media_type="image/png", size_bytes=1, uri=uri)
        built = build(assessed(messages=(Message(role="user", content="What is it?", images=(image,)),)))
        assert isinstance(built, Built)
        Row.model_validate_json(built.line)
        return built.line

    one, other, unseen = seen("0" * 64, "s3://bucket/cat"), seen("1" * 64), build(assessed(question="What is it?"))
    assert isinstance(unseen, Built)
    (image,) = json.loads(json.loads(one)["prompt"][0]["images"])
    assert image == {"sha256": "0" * 64, "media_type": "image/png", "size_bytes": 1, "uri": "s3://bucket/cat"}
    assert len({asked_in(line).question for line in (one, other, unseen.line)}) == 3
    assert jaccard_of(asked_in(one).signature, asked_in(other).signature) < 0.3
    assert asked_in(one) == asked_in(seen("0" * 64, "s3://elsewhere/cat")) == asked_in(seen("0" * 64))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (assessed(decision="reject"), "rejected"),
        (assessed(tools=(ToolDefinition(name="x", description="<|im_end|>"),)), "breaks_template"),
        (assessed(training_allowed=False), "not_allowed"),
        (assessed(response=Response(content=" ", thinking="hm")), "empty_answer"),
        (assessed(messages=(Message(role="system", content="Be brief."),)), "no_question"),
        (assessed(messages=(Message(role="user", content="Go on"), Message(role="assistant", content="I"))), "no_question"),
        (
            assessed(
                messages=(Message(role="user", images=(ImageReference(sha256="0" * 64, media_type="image/png", size_bytes=1),)),)
            ),
            "images",
        ),
        (assessed(question="x" * ROOM), "too_large"),
    ],
)
def test_what_cannot_be_a_row_says_why(record: ReasoningAssessed, reason: str) -> None:
    assert build(record, RowLimits(max_bytes=ROOM, images=False)) == reason


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (assessed(complexity="complex"), "complexity"),
        (assessed(complexity="expert"), "complexity"),
        (assessed(tags=("architecture",)), "architecture"),
        (assessed(tags=("debug",)), "debug"),
        (assessed(question="Analyse this."), "analyze"),
        (assessed(question="Please EXPLAIN."), "explain"),
        (assessed(question="Why?"), "why"),
        (assessed(question="word " * 51), "long_question"),
        (assessed(context=ContextFacts(codebase_lines=10_001)), "large_codebase"),
    ],
)
def test_each_indicator_shows_alone(record: ReasoningAssessed, shown: str) -> None:
    assert indicators_of(record.interaction) == (shown,)


@pytest.mark.parametrize(
    "record",
    [
        assessed(question="word " * 50),
        assessed(question="whyever"),
        assessed(context=ContextFacts(codebase_lines=10_000)),
        assessed(complexity="moderate", tags=("debugging",)),
        assessed(
            messages=(
                Message(role="user", content="Why?"),
                Message(role="assistant", content="Because."),
                Message(role="user", content="Thanks"),
            )
        ),
    ],
)
def test_what_only_resembles_an_indicator_shows_none(record: ReasoningAssessed) -> None:
    assert indicators_of(record.interaction) == ()


def test_there_are_eight_indicators_and_one_suffices_unless_weighed_otherwise() -> None:
    assert len(INDICATORS) == 8
    everyone = dict.fromkeys(INDICATORS, 1.0)
    assert thinking_called_for(("why",), weights=everyone, at=1.0)
    assert not thinking_called_for((), weights=everyone, at=1.0)
    assert not thinking_called_for(("why", "debug"), weights={"why": 0.5, "debug": 0.4}, at=1.0)


def test_an_indicator_never_takes_captured_thinking_away() -> None:
    assert indicators_of(assessed().interaction) == ()
    assert row(assessed())["completion"][0]["reasoning_content"] == "Two and two make four."


def test_tokens_are_those_that_the_node_counted_where_they_can_be_those_of_the_row() -> None:
    line = b'{"prompt": "' + b"word " * 100 + b'"}\n'
    assert tokens_of(Usage(), line) == -(-len(line) // 4)
    assert tokens_of(Usage(prompt_tokens=90, response_tokens=30), line) == 120
    assert tokens_of(Usage(prompt_tokens=90), line) == -(-len(line) // 4), "the answer was not counted"
    for nonsense in (0, 60, 260, 2**53):
        assert tokens_of(Usage(prompt_tokens=nonsense, response_tokens=0), line) == -(-len(line) // 4)


def test_each_digit_is_a_token() -> None:
    assert tokens_of(Usage(), b"1234567890" * 10) == 100
    assert tokens_of(Usage(), b"1234567890" * 10 + b"words" * 8) == 110


def test_a_row_knows_its_tokens() -> None:
    built = build(assessed(usage=Usage(prompt_tokens=20, response_tokens=24)), RowLimits(max_bytes=ROOM, images=False))
    assert isinstance(built, Built)
    assert built.tokens == 44
