"""The mathematician: compares expressions by `math-verify`, in a process of its own.

`math-verify` stops itself by an alarm, which raises wherever the program happens to be, and not even then always: a process can
be ended.

    {"reference": "\\\\frac{3}{4}", "answer": "0.75"}  ->  true | false | null
"""

from __future__ import annotations

import logging
from typing import Final

from ruminate.grading.checking.apart import Apart, serve_apart
from ruminate.grading.checking.mathematics import is_safe
from ruminate.shared.process import die_with_parent

_SECONDS: Final = 1
"""For parsing each of the two, and for comparing them: then math-verify gives up by itself."""
_MOST_SECONDS: Final = 5.0
"""For an answer: then its process is ended."""


class Mathematician(Apart):
    """Somebody who can be asked whether two expressions are equal. Close it, or use it as a context."""

    def __init__(self) -> None:
        super().__init__("ruminate.grading.checking.mathematician", answer_seconds=_MOST_SECONDS)

    def __call__(self, reference: str, answer: str, /) -> bool | None:
        """Whether the two are equal; None where one of them is not understood in time."""
        if not (is_safe(reference) and is_safe(answer)):
            return None
        found = self.ask({"reference": reference, "answer": answer})
        return found if isinstance(found, bool) else None


def _serve() -> None:
    from math_verify import parse, verify  # noqa: PLC0415 - it loads SymPy

    logging.disable(logging.CRITICAL)  # what it does not understand is no news

    def are_equal(question: dict[str, str]) -> bool | None:
        try:
            wanted = parse(_marked(question["reference"]), parsing_timeout=_SECONDS)
            given = parse(_marked(question["answer"]), parsing_timeout=_SECONDS)
            # Without `raise_on_error`, what is not compared in time counts as different: a wrong accusation on a busy machine.
            return bool(verify(wanted, given, timeout_seconds=_SECONDS, raise_on_error=True)) if wanted and given else None
        except Exception:  # whatever SymPy makes of other people's expressions: it is not understood
            return None

    # SymPy loads most of itself at its first work; that is no part of the first question's time.
    verify(parse("$(x+1)^2$", parsing_timeout=30), parse("$x^2+2x+1$", parsing_timeout=30), timeout_seconds=30)
    serve_apart(are_equal)


def _marked(expression: str) -> str:
    return f"${expression.strip().strip('$').strip()}$"


if __name__ == "__main__":
    die_with_parent()
    _serve()
