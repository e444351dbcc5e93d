"""Processes that never outlive whoever started them, even when that one is killed with -9.

Two ropes, because each alone has a gap: the kernel's parent-death signal (Linux), and a pipe whose other end only the
parent holds, which reads end-of-file once the parent is gone (everywhere).
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable

ROPE_VARIABLE = "RUMINATE_ROPE_FD"
"""Names the file descriptor of the pipe's reading end that a child inherited."""

_PR_SET_PDEATHSIG = 1

_farewells: list[Callable[[], object]] = []


def die_with_parent() -> None:
    """End this process at once when its parent ends. To be called first thing in a child that a `Rope` ties."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptor = os.environ.pop(ROPE_VARIABLE, None)
    if descriptor is not None:
        threading.Thread(target=_exit_at_end_of_file, args=(int(descriptor),), name="rope", daemon=True).start()


def before_dying(farewell: Callable[[], object]) -> None:
    """Call `farewell` when the parent is gone, before this process ends: for children of ours that hold on to no rope."""
    _farewells.append(farewell)


def _exit_at_end_of_file(descriptor: int) -> None:
    while True:
        try:
            if os.read(descriptor, 1) == b"":
                break
        except InterruptedError:
            continue
    for farewell in _farewells:
        farewell()
    # No other clean-up: whoever would want to hear of it is gone, and what is committed is safe.
    os._exit(128 + signal.SIGKILL)


class Rope:
    """A pipe that ties children to this process. Keep it as long as they shall live; hand `reading_end` to each in `pass_fds`."""

    def __init__(self) -> None:
        # The writing end is not inheritable, so it closes with this process and with nothing else.
        self.reading_end, self._writing_end = os.pipe()
        os.set_inheritable(self.reading_end, True)

    def environment(self) -> dict[str, str]:
        """What a child needs in its environment to hold on to the rope."""
        return {ROPE_VARIABLE: str(self.reading_end)}

    def cut(self) -> None:
        """Let go: every child that still holds on ends."""
        os.close(self._writing_end)
        os.close(self.reading_end)


def main() -> None:
    """`python -m ruminate.shared.process MODULE ARGUMENT…`: tie this process to its parent, then run the module in it.

    Tied before anything else is imported, so that there is no moment at which the parent's death goes unnoticed.
    """
    die_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
