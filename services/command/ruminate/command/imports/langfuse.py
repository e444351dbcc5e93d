"""Exports of Langfuse: observations and traces, as its tables, its API and its blob storage give them. Pure.

    observations    a row each (CSV, JSON, JSONL), fields in camel case, or in snake case from the blob storage
    a page          {"data": [observation, …], "meta": …} of the API
    a trace         {"id", "observations": [observation, …], "scores": […]}, or {"trace": …, "observations": …} as downloaded
    traces          a row each, without observations: input and output of the application

Of observations those of type GENERATION are answers of a model. A trace that has observations is told by them, because its
own input and output are the application's. What a score means is its author's secret: the outcome is taken only from a
BOOLEAN score named success, succeeded, passed or correct, or a CATEGORICAL one named outcome that says succeeded or failed,
and only where all of these agree; and from level ERROR beside an output, which is a failure by Langfuse's own word. Scores
that a table has flattened into columns have lost their type, so they count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from ruminate.collector.chat import Json, Turn, Untellable, read_message, read_turns
from ruminate.command.imports.told import (
    NO_ANSWER,
    NO_QUESTION,
    UNKNOWN_SHAPE,
    Found,
    PassedOver,
    Refused,
    Told,
    count_of,
    key_of,
    named,
    text_or_none,
    time_of,
    tools_offered,
)
from ruminate.schemas.interaction import Outcome, ToolDefinition

_TYPES: Final = frozenset(
    {"GENERATION", "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL"}
)
_VERDICTS: Final = frozenset({"success", "succeeded", "passed", "correct"})
_OUTCOMES: Final[dict[str, Outcome]] = {"succeeded": "succeeded", "failed": "failed"}


def looks_like(record: Json) -> str | None:
    """Why this is a record of Langfuse; None where it is not."""
    if isinstance(record.get("observations"), list) or isinstance(record.get("trace"), Mapping):
        return "it is a trace with observations"
    if isinstance(record.get("data"), list) and "meta" in record:
        return "it is a page of the API"
    if str(record.get("type")) in _TYPES and _field(record, "traceId", "startTime") is not None:
        return "it has the type and the trace of an observation"
    if "input" in record and "output" in record and _field(record, "sessionId", "userId", "traceId", "projectId") is not None:
        return "it has input and output, and the session or user of a trace"
    return None


def read(record: Json) -> Iterator[Found]:
    """What a record tells. Each observation of a trace stands for itself: one that cannot be told is refused alone."""
    if isinstance(record.get("data"), list):
        for each in record["data"]:
            yield from read(each) if isinstance(each, dict) else (Refused(UNKNOWN_SHAPE, "an item of data is no object"),)
        return
    trace = record["trace"] if isinstance(record.get("trace"), dict) else record
    observations = [each for each in _list(record.get("observations")) if isinstance(each, dict)]
    if observations:
        scores = [each for each in _list(record.get("scores") or trace.get("scores")) if isinstance(each, Mapping)]
        generations = sum(each.get("type") == "GENERATION" for each in observations)
        for each in observations:
            yield _checked(each, trace, _scores_of(each, scores, alone=generations == 1))
    elif "dataType" in record or "data_type" in record:
        yield PassedOver("score")
    else:
        own = [each for each in _list(record.get("scores")) if isinstance(each, Mapping)]
        yield _checked(record, record, own)


def _checked(row: Json, trace: Json, scores: Sequence[Mapping[str, Any]]) -> Found:
    try:
        return _observation(row, trace, scores)
    except Untellable as error:
        return Refused(error.reason, error.explanation)


def _observation(row: Json, trace: Json, scores: Sequence[Mapping[str, Any]]) -> Found:
    kind = row.get("type")
    if isinstance(kind, str) and kind and kind != "GENERATION":
        return PassedOver(kind.lower()[:40] if kind in _TYPES else "other observation")
    asked, offered = _asked(_json(row.get("input")))
    answer, done_reason = _answered(_json(row.get("output")))
    if answer is None:
        return Refused(NO_ANSWER, "output is missing, or it is neither text nor a message of the assistant")
    if not asked:
        return Refused(NO_QUESTION, "input is missing, or it is neither text nor messages")
    begun, ended = time_of(_field(row, "startTime", "timestamp")), time_of(_field(row, "endTime"))
    usage = _usage(row) | {"done_reason": done_reason}
    if begun and ended and ended >= begun:
        usage["total_seconds"] = (ended - begun).total_seconds()
    first = time_of(_field(row, "completionStartTime"))
    if begun and first and first >= begun:
        usage["first_token_seconds"] = (first - begun).total_seconds()
    own_id = text_or_none(row.get("id"))
    facts: Json = {}
    if trace_id := text_or_none(_field(row, "traceId")):
        facts["trace_id"] = trace_id
    return Told(
        # Within a project of Langfuse an id is one observation.
        key=own_id if own_id and len(own_id) <= 200 else key_of(None, asked, answer, str(ended)),
        turns=asked,
        answer=answer,
        models=named(row.get("model"), _field(row, "providedModelName")),
        conversation=text_or_none(_field(row, "sessionId") or _field(trace, "sessionId")),
        occurred_at=ended or begun,
        usage=usage,
        outcome=_outcome(row, scores),
        tags=named(*_list(_json(_field(trace, "tags", "traceTags")))),
        tools=offered,
        facts=facts,
    )


def _asked(value: Any) -> tuple[list[Turn], tuple[ToolDefinition, ...]]:
    """The messages of an input, and the tools that were offered."""
    offered: tuple[ToolDefinition, ...] = ()
    if isinstance(value, Mapping):
        offered = tools_offered(value.get("tools"))
        inner = value.get("messages")
        if isinstance(inner, list):
            value = inner
        elif "prompt" in value:
            value = value["prompt"]
        elif "role" in value:
            value = [value]
    if isinstance(value, str):
        value = [{"role": "user", "content": value}] if value.strip() else []
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        return [], offered
    return read_turns({"role": "user", **item} for item in value), offered


def _answered(value: Any) -> tuple[Turn | None, str | None]:
    """The answer in an output, and why it ended. A number was text that Langfuse took for JSON; digits give it back."""
    if isinstance(value, Mapping) and isinstance(value.get("choices"), list):
        value = value["choices"]
    if isinstance(value, list):
        value = value[-1] if value and isinstance(value[-1], Mapping) else None
    reason = None
    if isinstance(value, Mapping):
        reason = text_or_none(value.get("finish_reason"))
        value = value.get("message", value)
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        value = {"content": str(value)}
    if not isinstance(value, Mapping) or value.keys().isdisjoint(("content", "tool_calls", "function_call", "parts")):
        return None, None
    turns = read_message({**value, "role": "assistant"})
    return next((turn for turn in turns if turn["role"] == "assistant"), None), reason


def _usage(row: Json) -> Json:
    details = _json(_field(row, "usageDetails"))
    older = _json(row.get("usage"))
    found: Json = {**(older if isinstance(older, dict) else {}), **(details if isinstance(details, dict) else {})}
    return {
        "prompt_tokens": _first_count(found.get("input"), found.get("promptTokens"), _field(row, "promptTokens", "inputTokens")),
        "response_tokens": _first_count(
            found.get("output"), found.get("completionTokens"), _field(row, "completionTokens", "outputTokens")
        ),
        "thinking_tokens": _first_count(found.get("output_reasoning_tokens"), found.get("output_reasoning")),
    }


def _first_count(*values: Any) -> int | None:
    return next((count for value in values if (count := count_of(value)) is not None), None)


def _scores_of(row: Json, scores: Sequence[Mapping[str, Any]], *, alone: bool) -> list[Mapping[str, Any]]:
    """The scores of this observation; those of the whole trace are its own where it is the only answer."""
    own = row.get("id")
    return [
        score
        for score in scores
        if (of := _field(score, "observationId")) == own or (not of and alone and row.get("type") == "GENERATION")
    ]


def _outcome(row: Json, scores: Sequence[Mapping[str, Any]]) -> Outcome:
    if row.get("level") == "ERROR":
        return "failed"
    found: set[Outcome] = set()
    for score in scores:
        name, kind = str(score.get("name", "")).strip().lower(), _field(score, "dataType")
        if kind == "BOOLEAN" and name in _VERDICTS and score.get("value") in (0, 1):
            found.add("succeeded" if score["value"] else "failed")
        elif kind == "CATEGORICAL" and name == "outcome":
            word = str(_field(score, "stringValue") or score.get("value") or "").strip().lower()
            if word in _OUTCOMES:
                found.add(_OUTCOMES[word])
    return found.pop() if len(found) == 1 else "unknown"


def _field(row: Mapping[str, Any], *names: str) -> Any:
    """The first that says something, in camel case or in snake case."""
    for name in names:
        for spelled in (name, "".join(f"_{char.lower()}" if char.isupper() else char for char in name)):
            value = row.get(spelled)
            if value is not None and value != "":
                return value
    return None


def _json(value: Any) -> Any:
    """What CSV and the blob storage write as JSON text; any other text stays as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "[", '"'):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
