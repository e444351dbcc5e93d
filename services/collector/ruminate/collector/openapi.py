"""The OpenAPI description of the collector's HTTP port; the interaction's part is generated from its schema."""

from __future__ import annotations

from typing import Any

from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.interaction import InteractionCompleted

_REFERENCE = "#/components/schemas/{model}"


def openapi(*, interaction_bytes: int, body_bytes: int, traces_bytes: int) -> dict[str, Any]:
    """OpenAPI 3.1, with the limits that hold here."""
    interaction = InteractionCompleted.model_json_schema(ref_template=_REFERENCE)
    feedback = FeedbackGiven.model_json_schema(ref_template=_REFERENCE)
    schemas = {
        **interaction.pop("$defs"),
        "InteractionCompleted": interaction,
        "FeedbackGiven": feedback,
        "Answer": _ANSWER,
        "Error": _ERROR,
    }
    answer = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Answer")}}}
    answers = {"application/x-ndjson": {"schema": {"$ref": _REFERENCE.format(model="Answer")}}}
    error = {"application/json": {"schema": {"$ref": _REFERENCE.format(model="Error")}}}
    retry = {"Retry-After": {"description": "Seconds to wait before sending it again.", "schema": {"type": "integer"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ruminate collector", "version": "1", "description": "Takes completed interactions."},
        "paths": {
            "/v1/interactions": {
                "post": {
                    "operationId": "postInteractions",
                    "summary": "Take one interaction, or many.",
                    "description": (
                        f"One as application/json (at most {interaction_bytes} bytes), or one a line as application/x-ndjson "
                        f"(at most {body_bytes} bytes together). Sending again what was taken is safe: the id decides."
                    ),
                    "parameters": [
                        _header("x-ruminate-source", "CloudEvents source of the events; `/agents/<agent>` where it is left out."),
                        _header("x-ruminate-tenant", "The tenant, where the interaction names none; else it has to be equal."),
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {"schema": {"$ref": _REFERENCE.format(model="InteractionCompleted")}},
                            "application/x-ndjson": {"schema": {"$ref": _REFERENCE.format(model="InteractionCompleted")}},
                        },
                    },
                    "responses": {
                        "200": {"description": "A duplicate, or an answer a line.", "content": {**answer, **answers}},
                        "202": {"description": "Taken: acknowledged by all in-sync replicas.", "content": answer},
                        "400": {"description": "No interaction; `error` says where and why.", "content": {"application/json": {
                            "schema": {"anyOf": [{"$ref": _REFERENCE.format(model=name)} for name in ("Answer", "Error")]}
                        }}},
                        "409": {"description": "The id was taken with other content.", "content": answer},
                        "413": {"description": "The body is over its limit.", "content": error},
                        "415": {"description": "Neither application/json nor application/x-ndjson.", "content": error},
                        "503": {
                            "description": "Not taken, or not every line: send it again, whole.",
                            "headers": retry,
                            "content": {**answer, **answers},
                        },
                    },
                }
            },
            "/v1/feedback": {
                "post": {
                    "operationId": "postFeedback",
                    "summary": "Take what somebody thinks of an answer.",
                    "description": (
                        "Thumb, score, outcome, correction or comment, soon or late. The interaction is named as its sender "
                        "named it: by id, source and conversation. The same words have the same id: sending them again is safe."
                    ),
                    "parameters": [
                        _header("x-ruminate-source", "CloudEvents source of the event; `/agents/<given_by>` where it is left out."),
                        _header("x-ruminate-tenant", "The tenant, where the feedback names none; else it has to be equal."),
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model="FeedbackGiven")}}},
                    },
                    "responses": {
                        "202": {"description": "Taken: acknowledged by all in-sync replicas.", "content": _FEEDBACK_ANSWER},
                        "400": {"description": "No feedback; `error` says where and why.", "content": _FEEDBACK_ANSWER},
                        "413": {"description": "The body is over its limit.", "content": error},
                        "415": {"description": "Not application/json.", "content": error},
                        "503": {"description": "Not acknowledged: send it again.", "headers": retry, "content": _FEEDBACK_ANSWER},
                    },
                }
            },
            "/v1/traces": {
                "post": {
                    "operationId": "postTraces",
                    "summary": "Take the spans of a model's answers, by OTLP/HTTP.",
                    "description": (
                        "An ExportTraceServiceRequest of OpenTelemetry, as protobuf or in OTLP's JSON mapping, at most "
                        f"{traces_bytes} bytes, gzip or not. The answer is an ExportTraceServiceResponse, or a google.rpc.Status, "
                        "in the same encoding. Sending again what was taken is safe: trace id and span id decide."
                    ),
                    "parameters": [
                        _header("x-ruminate-source", "CloudEvents source of the events; `/agents/<service.name>` where left out."),
                        _header("x-ruminate-tenant", "The tenant; `ruminate.tenant` of a resource has to be equal where both are."),
                        {
                            "name": "content-encoding",
                            "in": "header",
                            "required": False,
                            "description": "How the body is packed.",
                            "schema": {"enum": ["identity", "gzip"]},
                        },
                    ],
                    "requestBody": {"required": True, "content": _OTLP},
                    "responses": {
                        "200": {"description": "Taken; `partial_success` says what was refused and why.", "content": _OTLP},
                        "400": {"description": "The body cannot be decoded.", "content": _OTLP},
                        "413": {"description": "The body is over its limit.", "content": _OTLP},
                        "415": {"description": "Neither protobuf nor JSON, or packed otherwise than gzip.", "content": _OTLP},
                        "503": {"description": "Not acknowledged: send it again, whole.", "headers": retry, "content": _OTLP},
                    },
                }
            },
        },
        "components": {"schemas": schemas},
    }  # fmt: skip


def _header(name: str, says: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": says, "schema": {"type": "string", "maxLength": 200}}


_FEEDBACK_ANSWER: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "status": {"enum": ["taken", "invalid", "unavailable"]},
                "feedback_id": {"type": "string"},
                "error": {"type": "string"},
                "reason": {"type": "string"},
            },
            "required": ["status"],
        }
    }
}
_OTLP: dict[str, Any] = {
    "application/x-protobuf": {"schema": {"type": "string", "contentEncoding": "binary"}},
    "application/json": {"schema": {"type": "object"}},
}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "description": "What became of one interaction.",
    "required": ["line", "status"],
    "properties": {
        "line": {"type": "integer", "minimum": 1, "description": "The line of the body; 1 for a single interaction."},
        "status": {"enum": ["taken", "duplicate", "conflict", "invalid", "unavailable"]},
        "interaction_id": {"type": "string", "description": "Absent where the line could not be read."},
        "error": {"type": "string", "description": "What is wrong, where, and what is allowed; never contents."},
        "reason": {"type": "string", "description": "A constant word for what is wrong, such as invalid_payload."},
    },
}
_ERROR: dict[str, Any] = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
