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
from collections.abc import Callable
from functools import partial
from types import FrameType

from ruminate.shared.process import ROPE_VARIABLE

_PR_SET_PDEATHSIG = 1
STOP_WITHIN_SECONDS = 0.5
"""Less than a supervisor waits before it kills us, and with us whoever could still end the group."""


def main() -> int:
    """Run the program to its end, and give its exit code."""
    rope = int(os.environ.pop(ROPE_VARIABLE))
    # Should we be killed outright, the program is at least asked to end, and ends its children.
    last_wish = partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM) if sys.platform == "linux" else None
    program = subprocess.Popen(sys.argv[1:], process_group=0, preexec_fn=last_wish)  # noqa: S603, PLW1509 - what we were given
    kill = partial(_kill_group, program.pid)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        program.terminate()
        signal.setitimer(signal.ITIMER_REAL, STOP_WITHIN_SECONDS)

    signal.signal(signal.SIGALRM, lambda _signal, _frame: kill())
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    threading.Thread(target=_kill_without_rope, args=(rope, kill), daemon=True).start()
    code = program.wait()
    kill()
    return code if code >= 0 else 128 - code


def _kill_without_rope(rope: int, kill: Callable[[], None]) -> None:
    # Nothing is ever written: this returns when the other end is gone.
    os.read(rope, 1)
    kill()


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
