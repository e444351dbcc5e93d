"""Apart: somebody who works in a process of its own, because its work is not always over in time, and only a process can be ended.

It answers a line of JSON with a line of JSON, one question at a time. It is started when first asked, and never outlives us.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any, Final, Self

_START_SECONDS: Final = 60.0
"""For its process to have loaded what it works with."""


class Apart:
    """A module that calls `serve_apart` when it is run, in a process of its own. Close it, or use it as a context."""

    def __init__(self, module: str, *, answer_seconds: float) -> None:
        self._module = module
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: Mapping[str, object]) -> Any:
        """Its answer; None where none comes in time: then its process is ended, and the next question starts another one.

        Raises RuntimeError where no process can be started.
        """
        with self._lock:
            return self._ask(json.dumps(question).encode() + b"\n")

    def close(self) -> None:
        """End its process."""
        with self._lock:
            self._end()

    def _ask(self, question: bytes) -> Any:
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
        line = _line(answering, self._answer_seconds)
        if line is None:
            self._end()
            return None
        return json.loads(line)

    def _start(self) -> subprocess.Popen[bytes]:
        self._end()
        # At the end of its input it ends: nobody else holds the other end of that pipe.
        process = self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, and a module of ours
            [sys.executable, "-m", self._module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if _line(_pipes(process)[1], _START_SECONDS) is None:
            self._end()
            raise RuntimeError(f"{self._module} did not start within {_START_SECONDS:.0f} s; is all installed that it needs?")
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


def serve_apart(answer: Callable[[Any], object]) -> None:
    """Answer what is asked on standard input, until its end."""
    print(flush=True)  # noqa: T201 - ready
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)  # noqa: T201 - the answer


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    return process.stdin, process.stdout


def _line(pipe: IO[bytes], seconds: float) -> bytes | None:
    """The next line; None where none comes in time, or ever."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    return (pipe.readline() or None) if ready else None
