"""The answer in the very bytes that pass from node to client.

    chat       {"message": {…}, "done": …}, one a line, or one alone
    generate   {"response": …, "thinking": …, "done": …}, likewise
    openai     data: {"choices": [{"delta": {…}}]} lines up to data: [DONE], or one object alone

Pure: bytes in, bytes and findings out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from ruminate.gateway.question import Dialect, Json, tool_call
from ruminate.schemas.interaction import Response, Usage


@dataclass(slots=True)
class _CallParts:
    name: str = ""
    id: str | None = None
    arguments: Json | str = ""


@dataclass(slots=True)
class Answer:
    """An answer as it grows. `ended` once the model has finished; `refused` once the node has sent an error."""

    dialect: Dialect
    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    calls: dict[int, _CallParts] = field(default_factory=dict)
    counts: Json = field(default_factory=dict)
    done_reason: str | None = None
    ended: bool = False
    refused: bool = False

    @property
    def begun(self) -> bool:
        """Whether a first token has come."""
        return bool(self.content or self.thinking or self.calls)

    def add(self, chunk: Json) -> None:
        """Take in one chunk, or a whole answer."""
        if chunk.get("error"):
            self.refused = True
        elif self.dialect == "openai":
            self._add_openai(chunk)
        else:
            self._add_ollama(chunk)

    def response(self) -> Response:
        """What the model answered. Raises pydantic.ValidationError for tool calls that are none."""
        return Response(
            content="".join(self.content),
            thinking="".join(self.thinking) or None,
            tool_calls=tuple(tool_call(call.name, call.arguments, call.id) for _, call in sorted(self.calls.items())),
        )

    def usage(self, *, first_token_seconds: float | None) -> Usage:
        """Tokens and times as the node counted them."""
        counted = self.counts
        if self.dialect == "openai":
            return Usage(
                prompt_tokens=counted.get("prompt_tokens"),
                response_tokens=counted.get("completion_tokens"),
                first_token_seconds=first_token_seconds,
                done_reason=self.done_reason,
            )
        return Usage(
            prompt_tokens=counted.get("prompt_eval_count"),
            response_tokens=counted.get("eval_count"),
            total_seconds=_seconds(counted.get("total_duration")),
            load_seconds=_seconds(counted.get("load_duration")),
            prompt_seconds=_seconds(counted.get("prompt_eval_duration")),
            response_seconds=_seconds(counted.get("eval_duration")),
            first_token_seconds=first_token_seconds,
            done_reason=self.done_reason,
        )

    def _add_ollama(self, chunk: Json) -> None:
        said = chunk if self.dialect == "generate" else chunk.get("message") or {}
        _grow(self.content, said.get("response" if self.dialect == "generate" else "content"))
        _grow(self.thinking, said.get("thinking"))
        for call in said.get("tool_calls") or ():
            function = call["function"]
            self.calls[len(self.calls)] = _CallParts(function["name"], call.get("id"), function.get("arguments") or {})
        if chunk.get("done") is True:
            self.ended, self.counts, self.done_reason = True, chunk, chunk.get("done_reason")

    def _add_openai(self, chunk: Json) -> None:
        self.counts = chunk.get("usage") or self.counts
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            said = choice.get("delta") or choice.get("message") or {}
            _grow(self.content, said.get("content"))
            _grow(self.thinking, said.get("reasoning") or said.get("reasoning_content"))
            for place, call in enumerate(said.get("tool_calls") or ()):
                parts = self.calls.setdefault(call.get("index", place), _CallParts())
                function = call.get("function") or {}
                parts.id = call.get("id") or parts.id
                parts.name = function.get("name") or parts.name
                parts.arguments = f"{parts.arguments}{function.get('arguments') or ''}"
            if choice.get("finish_reason"):
                self.ended, self.done_reason = True, choice["finish_reason"]


def _grow(pieces: list[str], piece: str | None) -> None:
    if piece:
        pieces.append(piece)


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e9


class Passage:
    """What passes from node to client: read, and given the name that was asked for.

    `feed` gives what may leave now. From the chunk on in which the model has finished, everything is held until `end`, so
    that the answer can be kept before its last chunk leaves. Lines are never broken up: a part of one waits for the rest.
    """

    def __init__(self, dialect: Dialect, *, name: str | None) -> None:
        self.answer = Answer(dialect)
        self.unreadable = False
        self._name = name
        self._parts: list[bytes] = []
        self._held: list[bytes] = []

    @property
    def renames(self) -> bool:
        """Whether the name in it changes on its way."""
        return self._name is not None

    def feed(self, data: bytes) -> bytes:
        """Take what came from the node, give what may leave."""
        if b"\n" not in data:
            self._parts.append(data)
            return b""
        *lines, rest = b"".join((*self._parts, data)).split(b"\n")
        self._parts = [rest]
        leaving: list[bytes] = []
        for line in lines:
            passed = self._line(line)
            (self._held if self.answer.ended else leaving).extend((passed, b"\n"))
        return b"".join(leaving)

    def end(self) -> bytes:
        """The node has sent its last byte: give what was held, and a last line that has no line feed."""
        rest = b"".join(self._parts)
        last = self._line(rest) if rest else b""
        return b"".join((*self._held, last))

    def whole(self, body: bytes) -> bytes:
        """Take an answer that comes in one piece, give what leaves in its place."""
        return self._chunk(body)

    def _line(self, line: bytes) -> bytes:
        if self.answer.dialect != "openai":
            return self._chunk(line) if line.strip() else line
        value = line[5:].strip() if line.startswith(b"data:") else b""
        return line if value in (b"", b"[DONE]") else line.replace(value, self._chunk(value), 1)

    def _chunk(self, raw: bytes) -> bytes:
        try:
            chunk = orjson.loads(raw)
            self.answer.add(chunk)
        except (ValueError, TypeError, AttributeError, KeyError):
            # It passes as it is: what the node says is between the node and its client.
            self.unreadable = True
            return raw
        return raw if self._name is None else renamed(raw, chunk, self._name)


def renamed(raw: bytes, parsed: Json, name: str) -> bytes:
    """The JSON object with its field `model` set to `name`, and every other byte as it was wherever that can be proved."""
    if parsed.get("model") in (None, name):
        return raw
    wanted = {**parsed, "model": name}
    spliced = raw.replace(b'"model":' + orjson.dumps(parsed["model"]), b'"model":' + orjson.dumps(name), 1)
    # The first match may lie inside of a text or a nested object: only an equal object will do.
    try:
        proved = orjson.loads(spliced) == wanted
    except orjson.JSONDecodeError:
        proved = False
    return spliced if proved else orjson.dumps(wanted)
