"""The ground every payload stands on: frozen, strict, finite, and tolerant of fields it does not know."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    StringConstraints,
)
from pydantic_core import CoreSchema, core_schema


def _refuse_non_finite(value: JsonValue) -> JsonValue:
    pending: list[JsonValue] = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            raise ValueError("NaN and Infinity are not JSON; send null or leave the field out")
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return value


def _refuse_lone_surrogates(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"lone surrogate at character {error.start}; it has no UTF-8 form") from None
    return value


class _WithoutLoneSurrogates:
    """JSON holds none, so what comes from JSON is not looked at again: texts are most of what is read."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = handler(source)
        return core_schema.json_or_python_schema(
            json_schema=text, python_schema=core_schema.no_info_after_validator_function(_refuse_lone_surrogates, text)
        )


Text = Annotated[str, _WithoutLoneSurrogates()]
"""Any text, NUL included; never a lone surrogate."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A short identifier of one line: tenant, agent, model, node, version, job."""


Uri = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""An address."""


def _without_latest(name: str) -> str:
    return name.removesuffix(":latest") or name


Target = Annotated[Name, AfterValidator(_without_latest)]
"""The model name that agents ask for and that learns. `NAME:latest` is `NAME`, as for Ollama: one spelling, one chain."""

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share or a score between 0 and 1."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of things; exact in every JSON reader."""

Seconds = Annotated[float, Field(ge=0.0)]
"""A duration in seconds."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 in lower-case hexadecimal."""

FiniteJson = Annotated[JsonValue, AfterValidator(_refuse_non_finite)]
"""Any JSON value without NaN or Infinity at any depth."""

Timestamp = AwareDatetime
"""A moment with its offset from UTC (RFC 3339)."""


class Part(BaseModel):
    """A piece of a payload. Unknown fields are ignored, so that a newer writer never stops an older reader."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", allow_inf_nan=False, ser_json_inf_nan="constants", protected_namespaces=()
    )


class Payload(Part):
    """The JSON value of one event. Every event belongs to a tenant."""

    tenant: Name = Field(default="default", description="Who owns the event; nothing crosses from one tenant to another.")


class ArtifactReference(Part):
    """Where a file lies and how to know that it is whole. Artifacts are not events: they are referenced by hash."""

    uri: Uri = Field(description="`file://` or `s3://` address of the artifact, or of its manifest when it is a folder.")
    sha256: Sha256 = Field(description="Hash of the bytes behind `uri`.")
    size_bytes: Count = Field(description="Length of the bytes behind `uri`; for a folder, of its files together.")
