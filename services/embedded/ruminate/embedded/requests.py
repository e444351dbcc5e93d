"""What clients may send, read as strictly as Ollama reads it: unknown fields pass, null means absent, wrong types do not pass."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ruminate.embedded.decide import Refused, Think, check_think, seconds_of

KeepAlive = Annotated[float, BeforeValidator(seconds_of)]
Thinking = Annotated[Think, BeforeValidator(check_think)]


class Body(BaseModel):
    """A JSON object that a client sends."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, populate_by_name=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return {name: item for name, item in value.items() if item is not None} if isinstance(value, dict) else value


class CallFunction(Body):
    """A call that was made in an earlier turn."""

    name: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)


class ToolCall(Body):
    """A call that was made in an earlier turn, wrapped as the API wraps it."""

    id: str = ""
    function: CallFunction = CallFunction()


class Message(Body):
    """One message of a conversation."""

    role: str = ""
    content: str = ""
    thinking: str = ""
    images: list[str] = Field(default_factory=list)
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_name: str = ""
    tool_call_id: str = ""


class _Named(Body):
    model: str = ""
    name: str = ""

    @property
    def name_of_model(self) -> str:
        """`model`, or what it was called before."""
        return self.model or self.name


class _Asking(Body):
    model: str = ""
    stream: bool = True
    format: str | dict[str, Any] | list[Any] | bool | int | float | None = None
    think: Thinking | None = None
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    truncate: bool = True
    logprobs: bool = False


class ChatRequest(_Asking):
    """`POST /api/chat`."""

    messages: list[Message] = Field(default_factory=list)
    tools: list[dict[str, Any]] = Field(default_factory=list)


class GenerateRequest(_Asking):
    """`POST /api/generate`."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: list[int] = Field(default_factory=list)
    raw: bool = False
    images: list[str] = Field(default_factory=list)


class EmbedRequest(Body):
    """`POST /api/embed`."""

    model: str = ""
    input: Any = None
    truncate: bool = True
    dimensions: int = 0
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class EmbeddingsRequest(Body):
    """`POST /api/embeddings`, the older form."""

    model: str = ""
    prompt: str = ""
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class CreateRequest(_Named):
    """`POST /api/create`."""

    from_: str = Field(default="", alias="from")
    files: dict[str, str] | None = None
    adapters: dict[str, str] | None = None
    template: str = ""
    system: str = ""
    parameters: dict[str, Any] | None = None
    messages: list[Message] = Field(default_factory=list)
    license_: str | list[str] | None = Field(default=None, alias="license")
    quantize: str = ""
    stream: bool = True


class ShowRequest(_Named):
    """`POST /api/show`."""


class DeleteRequest(_Named):
    """`DELETE /api/delete`."""


class CopyRequest(Body):
    """`POST /api/copy`."""

    source: str = ""
    destination: str = ""


B = TypeVar("B", bound=Body)


def read_body(kind: type[B], body: bytes) -> B:
    """The request, or Refused with what is wrong in it."""
    if not body.strip():
        raise Refused(400, "missing request body")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Refused(400, _what_is_wrong(kind.__name__, error)) from None


def _what_is_wrong(kind: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return f"invalid character in request body: {first['ctx']['error']}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    field = ".".join(str(part) for part in first["loc"])
    return f"json: cannot unmarshal field {kind}.{field}: {first['msg']}"
