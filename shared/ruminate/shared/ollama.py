"""A client for nodes that speak Ollama's API, and the one template that every version of a Qwen3 is created with.

OllamaError
├── NodeUnavailable   no answer, a broken answer, or busy (503): worth another try later
└── NodeRefused       the node understood and said no: `status` and its own words in `error`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ruminate.shared.lines import streamed_lines

QWEN3_TEMPLATE = r"""{{- $query := -1 }}{{ $previous := "" }}
{{- range $index, $_ := .Messages }}
{{- if eq .Role "user" }}{{ $query = $index }}{{ end }}
{{- end }}
{{- range $index, $message := .Messages }}
{{- $final := eq (len (slice $.Messages $index)) 1 }}{{ $calls := .ToolCalls }}
{{- if and (eq $index 0) (or $.Tools (eq .Role "system")) }}<|im_start|>system
{{ if eq .Role "system" }}{{ .Content }}{{ end }}
{{- if $.Tools }}
{{- if eq .Role "system" }}

{{ end }}# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{{- range $.Tools }}
{{ json . }}
{{- end }}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
{{- end }}<|im_end|>
{{ end }}
{{- if and (eq $previous "tool") (ne .Role "tool") }}<|im_end|>
{{ end }}
{{- if or (eq .Role "user") (and (eq .Role "system") $index) }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if and .Thinking (gt $index $query) }}<think>
{{ .Thinking }}
</think>

{{ else if and $final $.IsThinkSet (not $.Think) }}<think>

</think>

{{ end }}
{{- .Content }}
{{- if and .Content $calls }}
{{ end }}
{{- if .ToolCalls }}{{ range $number, $_ := .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ json .Function.Arguments }}}
</tool_call>
{{- if gt (len (slice $calls $number)) 1 }}
{{ end }}{{ end }}{{ end }}
{{- if not $final }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}
{{- if ne $previous "tool" }}<|im_start|>user{{ end }}
<tool_response>
{{ .Content }}
</tool_response>
{{- end }}
{{- $previous = .Role }}
{{- end }}
{{- if eq $previous "tool" }}<|im_end|>
{{ end }}
{{- if ne $previous "assistant" }}<|im_start|>assistant
{{ if and .IsThinkSet (not .Think) }}<think>

</think>

{{ end }}{{ end }}"""
"""Qwen3's chat format as a Go template: thinking, tools, and a last assistant message that is continued.

Sent on every version, because names that share a GGUF share whichever template was loaded first, and because without one
Ollama before 0.30 knows neither thinking nor tools. Ollama finds the thinking tags in the texts around `.Thinking` and the
tool tag in the first text under `if .ToolCalls`: keep both as they stand. A last assistant message with thinking and no
content has its thinking closed, which is how a thinking budget is enforced and how Ollama 0.24 starts structured output.
"""

SMALL_WEIGHTS_BYTES = 64 << 20
"""Under this size threads wait for each other longer than they work: two on a busy machine take a hundred times as long as one."""


def parameters_for(weights_bytes: int) -> dict[str, int]:
    """What a model of this size should be created with, whatever else it is created with."""
    return {"num_thread": 1} if weights_bytes < SMALL_WEIGHTS_BYTES else {}


Think = bool | Literal["low", "medium", "high", "max"]


class OllamaError(Exception):
    """Anything that a node has to say against a request."""


class NodeUnavailable(OllamaError):
    """The node did not answer, broke off, or is busy."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"node {url}: {reason}")
        self.url = url
        self.reason = reason


class NodeRefused(OllamaError):
    """The node answered with an error of its own."""

    def __init__(self, url: str, status: int, error: str) -> None:
        super().__init__(f"node {url} refused ({status}): {error}")
        self.url = url
        self.status = status
        self.error = error


class _Answer(BaseModel):
    # Newer nodes say more than we know of.
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class ModelDetails(_Answer):
    """What a GGUF says of itself."""

    format: str = ""
    family: str = ""
    parameter_size: str = ""
    quantization_level: str = ""


class ListedModel(_Answer):
    """One name on a node; `digest` is the sha256 of its manifest, equal on all nodes that hold the same."""

    name: str
    digest: str
    size: int
    modified_at: datetime
    details: ModelDetails = ModelDetails()


class ShownModel(_Answer):
    """What a node knows of one name."""

    capabilities: frozenset[str] = frozenset()
    template: str = ""
    parameters: str = ""
    system: str = ""
    details: ModelDetails = ModelDetails()
    model_info: dict[str, Any] = Field(default_factory=dict)
    modified_at: datetime | None = None


class RunningModel(_Answer):
    """A model that is in memory."""

    name: str
    digest: str
    size: int
    size_vram: int = 0
    context_length: int = 0
    expires_at: datetime


class ToolFunction(_Answer):
    """Which tool to call, with what."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(_Answer):
    """One call that the model asks for."""

    function: ToolFunction


class ChatMessage(_Answer):
    """One message of an answer."""

    role: str = "assistant"
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class _Usage(_Answer):
    done_reason: str = ""
    prompt_eval_count: int = 0
    eval_count: int = 0
    total_duration: int = Field(default=0, description="Nanoseconds, as all durations here.")
    load_duration: int = 0
    prompt_eval_duration: int = 0
    eval_duration: int = 0


class ChatAnswer(_Usage):
    """A whole answer of `/api/chat`."""

    message: ChatMessage


class GeneratedText(_Usage):
    """A whole answer of `/api/generate`."""

    response: str = ""
    thinking: str = ""


class _Version(_Answer):
    version: str


class _Tags(_Answer):
    models: list[ListedModel]


class _Running(_Answer):
    models: list[RunningModel]


A = TypeVar("A", bound=_Answer)


class OllamaClient:
    """One node, asked over HTTP. Every call raises NodeUnavailable or NodeRefused; timeouts are between two bytes.

    Digests are given as 64 hexadecimal digits, without `sha256:`.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 30.0, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=self.url, timeout=httpx.Timeout(timeout_seconds, connect=min(5.0, timeout_seconds)), transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.aclose()

    async def version(self) -> str:
        """The node's version, as it says it."""
        return (await self._ask(_Version, "GET", "/api/version")).version

    async def tags(self) -> list[ListedModel]:
        """Every name on the node."""
        return (await self._ask(_Tags, "GET", "/api/tags")).models

    async def show(self, name: str) -> ShownModel:
        """What the node knows of `name`; NodeRefused with status 404 if it does not exist."""
        return await self._ask(ShownModel, "POST", "/api/show", {"model": name})

    async def ps(self) -> list[RunningModel]:
        """The models in memory."""
        return (await self._ask(_Running, "GET", "/api/ps")).models

    async def has_blob(self, sha256: str) -> bool:
        """Whether the node holds these bytes."""
        try:
            await self._send("HEAD", f"/api/blobs/sha256:{sha256}")
        except NodeRefused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    async def push_blob(self, path: Path, sha256: str, *, timeout_seconds: float = 600.0) -> None:
        """Send the file in pieces; the node checks the digest. The node answers only once it has written everything."""

        async def pieces() -> AsyncIterator[bytes]:
            with path.open("rb") as file:
                # A read of 1 MiB takes less than a hop to a thread and back.
                while piece := file.read(1 << 20):
                    yield piece

        size = (await asyncio.to_thread(path.stat)).st_size
        await self._send(
            "POST",
            f"/api/blobs/sha256:{sha256}",
            content=pieces(),
            headers={"Content-Length": str(size)},
            timeout_seconds=timeout_seconds,
        )

    async def create(
        self,
        name: str,
        *,
        files: Mapping[str, str] | None = None,
        from_: str | None = None,
        adapters: Mapping[str, str] | None = None,
        template: str | None = QWEN3_TEMPLATE,
        system: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        license_text: str | None = None,
        quantize: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> tuple[str, ...]:
        """Create `name` from pushed blobs (`files`: file name → digest) or from another name; gives the statuses it passed.

        `timeout_seconds` is for one step: each status that the node streams begins a new wait.
        """
        body = {
            "model": name,
            "files": _digests(files),
            "from": from_,
            "adapters": _digests(adapters),
            "template": template,
            "system": system,
            "parameters": parameters,
            "messages": messages,
            "license": license_text,
            "quantize": quantize,
        }
        statuses: list[str] = []
        request = self._request("POST", "/api/create", _given(body), timeout_seconds=timeout_seconds)
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if answer.status_code >= 400:
                    await answer.aread()
                    self._raise_for(answer)
                async for line in streamed_lines(answer):
                    step = orjson.loads(line)
                    if "error" in step:
                        raise NodeRefused(self.url, answer.status_code, str(step["error"]))
                    statuses.append(str(step.get("status", "")))
            finally:
                await answer.aclose()
        except (httpx.HTTPError, orjson.JSONDecodeError) as error:
            raise NodeUnavailable(self.url, f"create {name}: {_words(error)}") from error
        if statuses[-1:] != ["success"]:
            raise NodeUnavailable(self.url, f"create {name} broke off after {statuses[-1:] or 'nothing'}")
        return tuple(statuses)

    async def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        think: Think | None = None,
        format: str | Mapping[str, Any] | None = None,  # noqa: A002 - the API's own word
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | None = None,
        timeout_seconds: float = 300.0,
    ) -> ChatAnswer:
        """One whole answer. `think` None leaves it to the model, which thinks if it can."""
        body = {
            "model": name, "messages": messages, "think": think, "format": format, "tools": tools, "options": options,
            "keep_alive": keep_alive, "stream": False,
        }  # fmt: skip
        return await self._ask(ChatAnswer, "POST", "/api/chat", _given(body), timeout_seconds=timeout_seconds)

    async def generate(
        self,
        name: str,
        prompt: str,
        *,
        raw: bool = False,
        think: Think | None = None,
        format: str | Mapping[str, Any] | None = None,  # noqa: A002 - the API's own word
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
        keep_alive: float | str | None = None,
        timeout_seconds: float = 300.0,
    ) -> GeneratedText:
        """One whole continuation. `raw` sends the prompt as it is; then nothing splits thinking off either.

        An empty prompt loads the model; with `keep_alive` 0 it unloads it.
        """
        body = {
            "model": name, "prompt": prompt, "raw": raw or None, "think": think, "format": format, "system": system,
            "options": options, "keep_alive": keep_alive, "stream": False,
        }  # fmt: skip
        return await self._ask(GeneratedText, "POST", "/api/generate", _given(body), timeout_seconds=timeout_seconds)

    async def copy(self, source: str, destination: str) -> None:
        """Let `destination` name what `source` names; what it named before is replaced."""
        await self._send("POST", "/api/copy", {"source": source, "destination": destination})

    async def delete(self, name: str) -> None:
        """Remove the name, and the blobs that no other name uses; NodeRefused with status 404 if it does not exist."""
        await self._send("DELETE", "/api/delete", {"model": name})

    async def _ask(
        self, kind: type[A], method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> A:
        answer = await self._send(method, path, body, timeout_seconds=timeout_seconds)
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as error:
            raise NodeUnavailable(self.url, f"{path} answered what is no {kind.__name__}: {error.error_count()} faults") from error

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        request = self._request(method, path, body, content=content, headers=headers, timeout_seconds=timeout_seconds)
        try:
            answer = await self._http.send(request)
        except httpx.HTTPError as error:
            raise NodeUnavailable(self.url, f"{method} {path}: {_words(error)}") from error
        self._raise_for(answer)
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        content: AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Request:
        timeout = self._http.timeout if timeout_seconds is None else httpx.Timeout(timeout_seconds, connect=5.0)
        payload = content if body is None else orjson.dumps(body)
        return self._http.build_request(method, path, content=payload, headers=headers, timeout=timeout)

    def _raise_for(self, answer: httpx.Response) -> None:
        if answer.status_code < 400:
            return
        try:
            error = str(orjson.loads(answer.content)["error"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            error = answer.text[:200] or answer.reason_phrase
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise NodeUnavailable(self.url, error)
        raise NodeRefused(self.url, answer.status_code, error)


def _digests(files: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if files is None else {name: f"sha256:{sha256}" for name, sha256 in files.items()}


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
