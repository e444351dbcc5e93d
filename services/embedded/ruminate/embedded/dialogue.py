"""One answer: conversation → prompt → tokens → pieces of thinking, text and tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import structlog

from ruminate.embedded.decide import Refused, cut_prompt, sampling_of
from ruminate.embedded.engine import Engine, EngineFailed, Stats
from ruminate.embedded.requests import Message
from ruminate.embedded.speech import THINK_CLOSE, THINK_OPEN, Call, ThinkingSplitter, ToolCallSplitter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that decides an answer, apart from the model."""

    messages: Sequence[Message] = ()
    raw_prompt: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    thinking: bool | None = None
    """Whether to think before the answer; None where the model cannot."""
    splits: bool = True
    """Whether what is thought is told apart from the answer."""
    schema: dict[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    context_tokens: int = 4096
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """What became certain at once; `stats` are with the last."""

    thinking: str = ""
    content: str = ""
    calls: tuple[Call, ...] = ()
    stats: Stats | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model continues."""

    text: str
    tokens: Sequence[int]


async def prompt_of(engine: Engine, question: Question, *, model: str) -> Prompt:
    """The prompt, at most as long as the window: old messages go first, then the middle is cut, and the log says so."""
    messages = list(question.messages)
    while True:
        text = question.raw_prompt if question.raw_prompt is not None else await _render(engine, messages, question)
        tokens = await engine.tokenize(text)
        if len(tokens) < question.context_tokens:
            break
        if not question.truncate:
            raise Refused(400, "the input length exceeds the context length")
        oldest = next((index for index, message in enumerate(messages[:-1]) if message.role != "system"), None)
        if oldest is None:
            break
        del messages[oldest]
    cut = cut_prompt(len(tokens), context_tokens=question.context_tokens, keep=question.options["num_keep"])
    kept = tokens if cut is None else [*tokens[: cut.keep], *tokens[cut.resume :]]
    dropped = len(question.messages) - len(messages)
    if cut or dropped:
        log.warning(
            "prompt_truncated",
            model=model,
            context_tokens=question.context_tokens,
            prompt_tokens=len(tokens),
            kept_tokens=len(kept),
            dropped_messages=dropped,
        )
    return Prompt(text, kept)


async def speak(engine: Engine, question: Question, prompt: Prompt) -> AsyncGenerator[Piece, None]:
    """The answer in pieces, the last with statistics."""
    tools = ToolCallSplitter(name for tool in question.tools if (name := tool.get("function", {}).get("name")))
    try:
        async with aclosing(_think_and_answer(engine, question, prompt)) as pieces:
            async for piece in pieces:
                content, calls = tools.add(piece.content) if question.tools else (piece.content, ())
                if piece.stats is not None and question.tools:
                    rest, last_calls = tools.finish()
                    content, calls = content + rest, calls + last_calls
                if piece.thinking or content or calls or piece.stats:
                    yield Piece(piece.thinking, content, calls, piece.stats)
    except EngineFailed as error:
        raise Refused(500, str(error)) from error


async def _think_and_answer(engine: Engine, question: Question, prompt: Prompt) -> AsyncGenerator[Piece, None]:
    if not question.thinking or not question.splits:
        async for text, stats in _complete(engine, question, prompt.tokens, question.schema):
            yield Piece(content=text, stats=stats)
        return
    inside = prompt.text.rstrip().endswith(THINK_OPEN)
    splitter, thought = ThinkingSplitter(inside=inside), ""
    spent: Stats | None = None
    tokens = 0
    async with aclosing(_complete(engine, question, prompt.tokens, None)) as pieces:
        async for text, stats in pieces:
            tokens += 1
            thinking, content = splitter.add(text)
            if stats is not None:
                rest = splitter.finish()
                thinking, content = thinking + rest[0], content + rest[1]
            thought += thinking
            if question.schema is not None and splitter.answering:
                # Thinking is free, the answer is not: it starts again behind the thought, held to its schema.
                if thinking:
                    yield Piece(thinking)
                break
            spent = stats
            if thinking or content or stats:
                yield Piece(thinking, content, stats=stats)
    if spent is not None:
        return
    opening = "" if inside else f"{THINK_OPEN}\n"
    closed = await engine.tokenize(f"{opening}{thought.rstrip()}\n{THINK_CLOSE}\n\n", beginning=False)
    async for text, stats in _complete(engine, question, [*prompt.tokens, *closed], question.schema):
        before = Stats(len(prompt.tokens), tokens, 0, 0, "stop")
        yield Piece(content=text, stats=before + stats if stats else None)


async def _complete(
    engine: Engine, question: Question, tokens: Sequence[int], schema: Mapping[str, Any] | None
) -> AsyncGenerator[tuple[str, Stats | None], None]:
    if len(tokens) >= question.context_tokens:
        raise Refused(400, f"{len(tokens)} tokens fill the context of {question.context_tokens}: raise num_ctx")
    sampling = sampling_of(question.options, context_tokens=question.context_tokens)
    async with aclosing(engine.complete(tokens, sampling, schema)) as pieces:
        async for piece in pieces:
            yield piece


async def _render(engine: Engine, messages: Sequence[Message], question: Question) -> str:
    continued = messages[-1] if messages and messages[-1].role == "assistant" else None
    spoken = [_for_jinja(message) for message in (messages[:-1] if continued else messages)]
    if continued is None:
        return await engine.render(spoken, question.tools, thinking=question.thinking)
    # A last assistant message is the beginning of the answer. Its thinking counts as finished.
    prompt = await engine.render(spoken, question.tools, thinking=None)
    if continued.thinking:
        prompt += f"{THINK_OPEN}\n{continued.thinking}\n{THINK_CLOSE}\n\n"
    elif question.thinking is False:
        prompt += f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"
    return prompt + continued.content


def _for_jinja(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        said["reasoning_content"] = message.thinking
    if message.tool_calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_name:
        said["name"] = message.tool_name
    if message.tool_call_id:
        said["tool_call_id"] = message.tool_call_id
    return said
