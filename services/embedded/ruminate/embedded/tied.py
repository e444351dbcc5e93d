"""`python -m ruminate.embedded.tied PROGRAM ARGUMENT…`: run a foreign program that ends, children and all, with who started it.

The program gets a process group of its own. The group is killed when the rope's other end is gone (see
`ruminate.shared.process`) and whenever the program itself has ended, so that no child of it is left behind. SIGTERM and
SIGINT are passed on; who does not end in time is killed. Unlike the kernel's parent-death signal, which comes as soon as
the *thread* ends that started a child, this may be started from any thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType

from ruminate.shared.process import ROPE_VARIABLE

_PR_SET_PDEATHSIG = 1
STOP_WITHIN_SECONDS = 0.5
"""Less than a supervisor waits before it kills us, and with us whoever could still end the group."""
EXIT_NOT_STARTED = 127
"""As a shell says it."""


def main() -> int:
    """Run what the command line says, on the rope that we were given."""
    return run_tied(sys.argv[1:], rope=int(os.environ.pop(ROPE_VARIABLE)))


def run_tied(
    command: Sequence[str],
    *,
    rope: int,
    stdin: int | None = None,
    stdout: int | None = None,
    started: Callable[[int], object] | None = None,
) -> int:
    """Run a program to its end, and give its exit code, 128 and more for a signal. For a process that does nothing else.

    rope: a descriptor that reads end-of-file when the program has to end.
    started: is told the program's id, which is that of its group, once it runs.
    """
    program: subprocess.Popen[bytes] | None = None

    def kill() -> None:
        if program is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, STOP_WITHIN_SECONDS)
        if program is not None:
            program.terminate()

    # Before there is a program: who is asked to end while it starts one must not leave it behind.
    signal.signal(signal.SIGALRM, lambda _signal, _frame: kill())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # Should we be killed outright, the program is at least asked to end, and ends its children.
    last_wish = partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM) if sys.platform == "linux" else None
    try:
        program = subprocess.Popen(command, stdin=stdin, stdout=stdout, process_group=0, preexec_fn=last_wish)  # noqa: S603, PLW1509 - what we were given
    except OSError as error:
        sys.stderr.write(f"{command[0]} could not be started: {error.strerror}\n")
        return EXIT_NOT_STARTED
    threading.Thread(target=_kill_without_rope, args=(rope, kill), daemon=True).start()
    if started is not None:
        started(program.pid)
    code = program.wait()
    kill()
    return code if code >= 0 else 128 - code


def _kill_without_rope(rope: int, kill: Callable[[], None]) -> None:
    # Nothing is ever written: this returns when the other end is gone.
    os.read(rope, 1)
    kill()


if __name__ == "__main__":
    sys.exit(main())
