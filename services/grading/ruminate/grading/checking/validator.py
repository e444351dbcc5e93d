"""The validator: holds JSON against a JSON Schema by `jsonschema`, in a process of its own.

A pattern may look for ever, and references may lead round in circles: a process can be ended. It looks nothing up: where a
reference leads out of the schema, nothing is decided.

    {"schema": {…}, "value": …}  ->  {"faults": 2, "first": "required"} | {"refused": "SchemaError"}
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

from pydantic import JsonValue

from ruminate.grading.checking.apart import Apart, serve_apart
from ruminate.shared.process import die_with_parent

_MOST_SECONDS: Final = 3.0
"""For an answer: then its process is ended."""
_MOST_FAULTS: Final = 100


class Validator(Apart):
    """Somebody who can be asked whether JSON is what a schema wants. Close it, or use it as a context."""

    def __init__(self) -> None:
        super().__init__("ruminate.grading.checking.validator", answer_seconds=_MOST_SECONDS)

    def __call__(self, schema: JsonValue, value: JsonValue, /) -> tuple[int, str] | None:
        """How many faults were found, and the keyword of the first one; None where the schema is none, or takes too long."""
        found = self.ask({"schema": schema, "value": value})
        return (found["faults"], found["first"]) if isinstance(found, dict) and "faults" in found else None


def _serve() -> None:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only this process needs it
    from jsonschema.validators import validator_for  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415

    def faults(question: dict[str, Any]) -> dict[str, object]:
        schema = question["schema"]
        try:
            kind = validator_for(schema, default=Draft202012Validator)
            kind.check_schema(schema)
            # An empty registry that retrieves nothing: without one, jsonschema would fetch what a reference names.
            found = list(islice(kind(schema, registry=Registry()).iter_errors(question["value"]), _MOST_FAULTS))
        except Exception as error:  # whatever other people's schemas make of it: nothing is decided
            return {"refused": type(error).__name__}
        return {"faults": len(found), "first": str(found[0].validator) if found else ""}

    serve_apart(faults)


if __name__ == "__main__":
    die_with_parent()
    _serve()
