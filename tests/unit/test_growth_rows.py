"""Rows are written as plain values, and are to the byte what the model of a row would write."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.records.rows import Built, Row, build
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking, ToolCall

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
MAYBE = st.none() | TEXT
NAME = st.none() | st.text('abcäß-7 /"\\', min_size=1, max_size=10).filter(str.strip)
CALLS = st.lists(
    st.builds(ToolCall, name=st.just("look_up"), arguments=st.dictionaries(TEXT, TEXT | st.integers() | st.booleans()), id=NAME),
    max_size=2,
).map(tuple)
MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=TEXT, thinking=MAYBE, tool_calls=CALLS)
    | st.builds(Message, role=st.just("tool"), content=TEXT, tool_name=NAME, tool_call_id=NAME),
    max_size=4,
).map(tuple)
NONE = Score(value=None)


@given(messages=MESSAGES, question=TEXT, answer=TEXT, thinking=MAYBE, calls=CALLS)
def test_a_line_is_what_the_model_of_a_row_writes(
    messages: tuple[Message, ...], question: str, answer: str, thinking: str | None, calls: tuple[ToolCall, ...]
) -> None:
    interaction = InteractionRecorded(
        interaction_id="i",
        conversation_id="c",
        agent="tester",
        target_model="qwen3:8b",
        occurred_at=datetime(2026, 11, 1, tzinfo=UTC),
        messages=(*messages, Message(role="user", content=question)),
        response=Response(content=answer, thinking=thinking, tool_calls=calls),
        thinking=Thinking(mode_used="thinking"),
        training_allowed=True,
        source="/tester",
        recorded_id=UUID(int=1),
    )
    record = ReasoningAssessed(
        target_model="qwen3:8b",
        recorded_id=UUID(int=1),
        policy_version="p",
        scorer_version="s",
        verdict=Verdict(
            answer_quality=NONE,
            reasoning_quality=ReasoningQuality(
                logical_coherence=NONE,
                problem_decomposition=NONE,
                evidence_usage=NONE,
                conclusion_validity=NONE,
                step_by_step_clarity=NONE,
            ),
            mode_appropriateness=NONE,
            overall=NONE,
            evidence_ratio=0.0,
            decision="keep",
            reasons=(),
        ),
        interaction=interaction,
    )
    built = build(record)
    if isinstance(built, Built):
        assert built.line == Row.model_validate_json(built.line).model_dump_json(exclude_none=True).encode() + b"\n"
    else:
        assert built == "empty_answer"
