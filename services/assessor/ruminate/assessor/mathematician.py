"""The mathematician: compares expressions by `math-verify`, in a process of its own.

`math-verify` stops itself by an alarm, which raises wherever the program happens to be, and not even then always: a process can
be ended. It is started when first asked, answers one question at a time, and never outlives us.

    {"reference": "\\\\frac{3}{4}", "answer": "0.75"}  ->  true | false | null
"""

from __future__ import annotations

import json
import logging
import select
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Final, Self

from ruminate.assessor.mathematics import is_safe
from ruminate.shared.process import die_with_parent

_SECONDS: Final = 1
"""For parsing each of the two, and for comparing them: then math-verify gives up by itself."""
_MOST_SECONDS: Final = 5.0
"""For an answer: then its process is ended."""
_START_SECONDS: Final = 60.0
"""For its process to have loaded SymPy."""


class Mathematician:
    """Somebody who can be asked whether two expressions are equal. Close it, or use it as a context."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, reference: str, answer: str, /) -> bool | None:
        """Whether the two are equal; None where one of them is not understood in time."""
        if not (is_safe(reference) and is_safe(answer)):
            return None
        with self._lock:
            question = json.dumps({"reference": reference, "answer": answer}).encode() + b"\n"
            found = self._ask(question)
        return found if isinstance(found, bool) else None

    def close(self) -> None:
        """End its process."""
        with self._lock:
            self._end()

    def _ask(self, question: bytes) -> object:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._start()
        asking, answering = _pipes(process)
        try:
            asking.write(question)
            asking.flush()
        except BrokenPipeError:
            self._end()
            return None
        line = _line(answering, _MOST_SECONDS)
        if line is None:
            self._end()
            return None
        return json.loads(line)

    def _start(self) -> subprocess.Popen[bytes]:
        self._end()
        # At the end of its input it ends: nobody else holds the other end of that pipe.
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "ruminate.assessor.mathematician"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if _line(_pipes(process)[1], _START_SECONDS) is None:
            self._end()
            raise RuntimeError(f"math-verify did not load within {_START_SECONDS:.0f} s; is it installed?")
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in _pipes(process):
            with suppress(BrokenPipeError):  # it may have been ended with a question in its pipe
                pipe.close()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    return process.stdin, process.stdout


def _line(pipe: IO[bytes], seconds: float) -> bytes | None:
    """The next line; None where none comes in time, or ever."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    return (pipe.readline() or None) if ready else None


def _serve() -> None:
    """Answer what is asked on standard input, until its end."""
    from math_verify import parse, verify  # noqa: PLC0415 - it loads SymPy

    logging.disable(logging.CRITICAL)  # what it does not understand is no news
    print(flush=True)  # noqa: T201 - ready
    for line in sys.stdin:
        question = json.loads(line)
        found: bool | None = None
        try:
            wanted = parse(_marked(question["reference"]), parsing_timeout=_SECONDS)
            given = parse(_marked(question["answer"]), parsing_timeout=_SECONDS)
            if wanted and given:
                found = bool(verify(wanted, given, timeout_seconds=_SECONDS))
        except Exception:  # noqa: S110 - whatever SymPy makes of other people's expressions: it is not understood
            pass
        print(json.dumps(found), flush=True)  # noqa: T201 - the answer


def _marked(expression: str) -> str:
    return f"${expression.strip().strip('$').strip()}$"


if __name__ == "__main__":
    die_with_parent()
    _serve()
