"""A program that ends with whoever started it, together with all that it started itself, whatever happens.

Between us and the program stands `ruminate.embedded.tied`, in a process of its own that runs this file: it holds one end of
a pipe, reads end-of-file once we are gone (or let go), and kills the program's whole process group. So it does not matter
which thread started a program, and a program that cannot be taught about parents (a JVM, a server with runners of its own)
needs none of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ruminate.embedded.tied import run_tied

_END_SECONDS = 20.0


class Tied:
    """A running program, started at once; its standard output and error are appended to `log`."""

    def __init__(
        self, command: Sequence[str], *, log: Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self._supervisor = subprocess.Popen(
                (sys.executable, "-I", __file__, *command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=folder,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is for us to answer
            )
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as answer:
            started = answer.readline()
        if not started:
            self.end()
            raise RuntimeError(tail(log, lines=1))
        self.pid = int(started)
        """Of the program itself, which leads a process group of its own."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and all that it started; nothing happens where it has ended."""
        if self._supervisor.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def ended(self) -> int | None:
        """The exit code, 128 and more for a signal; None while it runs."""
        return self._supervisor.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Wait for the program to end by itself; TimeoutExpired if it does not do so in time."""
        return self._supervisor.wait(seconds)

    def kill(self) -> None:
        """End the program at once and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self._supervisor.wait(_END_SECONDS)
        self.end()

    def end(self) -> None:
        """Let go: the program is killed if it still runs, and is gone when this returns."""
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.close()
        self._supervisor.wait(_END_SECONDS)


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder that is gone after the context, and also soon after our death."""
    folder = tempfile.mkdtemp(prefix=f"ruminate-{name}-")
    # What died with us may still write for a moment.
    sweep = 'cat; for attempt in 1 2 3 4 5 6 7 8 9; do rm -rf -- "$1" && break; sleep 0.2; done'
    broom = subprocess.Popen(("sh", "-c", sweep, "sh", folder), stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield Path(folder)
    finally:
        assert broom.stdin is not None
        broom.stdin.close()
        broom.wait(_END_SECONDS)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def main() -> int:
    """Run a program; our standard input is its rope, and our output the one line that says who it is."""

    def tell(program: int) -> None:
        print(program, flush=True)
        sys.stdout.close()

    return run_tied(sys.argv[1:], rope=sys.stdin.fileno(), stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), started=tell)


if __name__ == "__main__":
    sys.exit(main())
