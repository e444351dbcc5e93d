"""Confined: runs Python source that nobody vouches for in a process that can do little, for a short time, and leaves nothing.

    time         seconds of computing, and three times as many by the clock; then everything that it started is ended
    memory       address space; open files, processes, core dumps and the size of files are bounded, too
    words        standard output and standard error up to a number of bytes; standard input is empty
    files        an empty folder that goes with it. Where the kernel lets us (Linux, user namespaces), all that it sees beside that
                 folder are the interpreter and the system's libraries, and it can write to none of them
    network      none where the kernel lets us; loopback neither. `network_cut` says whether
    processes    where the kernel lets us, it sees and reaches no process of ours
    surroundings no environment variable, no site-packages (`python -I -S -B`), no rights of root, none to be gained

It dies with us. Containers mostly forbid namespaces: then only limits hold, and what the service may read or reach, the source may,
too; `namespaces="required"` refuses to run it there. macOS has no namespaces.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Literal

from ruminate.shared import confining
from ruminate.shared.scratch import scratch

Ended = Literal["exited", "signalled", "out_of_cpu", "out_of_time", "too_much_output", "refused"]
Namespaces = Literal["required", "preferred", "none"]

FILE_BYTES: Final = 1 << 20
"""Of a file, and of all files together where they are in memory."""
CLOCK_FACTOR: Final = 3
"""Seconds by the clock to one of computing: a busy machine is no fault of the program."""
_GRACE_SECONDS: Final = 5.0
"""For the keeper to start and to end the program; then it is ended itself."""
_PIECE_BYTES: Final = 1 << 16
_UNKNOWN: Final = {"ended": "out_of_time", "status": 0, "network_cut": False, "files_hidden": False}


@dataclass(frozen=True, slots=True)
class ConfinedResult:
    """How a confined program ended. `status` is its exit status, or the signal that ended it."""

    ended: Ended
    status: int
    output: bytes
    errors: bytes
    seconds: float
    network_cut: bool
    files_hidden: bool

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.ended == "exited" and self.status == 0


def run_confined(
    source: str, *, seconds: float, memory_bytes: int, output_bytes: int, namespaces: Namespaces = "preferred"
) -> ConfinedResult:
    """Run Python source and wait for its end; blocks the calling thread, which has to live as long.

    `seconds` of computing are rounded to whole ones; each of its processes, 16 at most, has its own of them and of `memory_bytes`.
    Raises OSError where no process can be started.
    """
    began = time.monotonic()
    # Resolved: another user than ours may have to find it, and a virtual environment is of no use without its packages.
    python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    with scratch("confined") as place, tempfile.TemporaryFile() as written:
        folder = str(place)
        written.write(source.encode())
        written.seek(0)
        if os.getuid() == 0:
            os.chown(folder, confining.NOBODY, confining.NOBODY)
        reading, report = os.pipe()
        try:
            told = {
                "folder": folder,
                "source": written.fileno(),
                "report": report,
                "parent": os.getpid(),
                "python": python,
                "prefix": str(Path(sys.base_prefix).resolve()),
                "seconds": seconds,
                "clock_seconds": seconds * CLOCK_FACTOR,
                "memory_bytes": memory_bytes,
                "file_bytes": FILE_BYTES,
                "namespaces": namespaces != "none",
                "namespaces_required": namespaces == "required",
            }
            process = subprocess.Popen(  # noqa: S603 - this very interpreter, and a file of ours
                [python, "-I", "-S", "-B", confining.__file__, json.dumps(told)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd=folder,
                start_new_session=True,
                pass_fds=(written.fileno(), report),
            )
            os.close(report)
            report = -1
            output, errors, whole = _read(process, began + seconds * CLOCK_FACTOR + _GRACE_SECONDS, output_bytes)
            process.wait()
            said = os.read(reading, _PIECE_BYTES)
        finally:
            os.close(reading)
            if report >= 0:
                os.close(report)
    # The keeper has the last word; where it was ended itself, nobody knows more than that.
    found = json.loads(said.splitlines()[0]) if said else _UNKNOWN.copy()
    if not whole:
        found["ended"] = "too_much_output"
    elif not said and process.returncode > 0:
        found["ended"] = "refused"  # the keeper itself failed: nothing was run
    return ConfinedResult(output=output, errors=errors, seconds=time.monotonic() - began, **found)


def _read(process: subprocess.Popen[bytes], until: float, most: int) -> tuple[bytes, bytes, bool]:
    """What it says on both, and whether that is all of it; where it says more than `most` bytes, or never ends, it is ended."""
    outlets = [outlet for outlet in (process.stdout, process.stderr) if outlet is not None]
    said: dict[IO[bytes], bytearray] = {outlet: bytearray() for outlet in outlets}
    still = list(outlets)
    whole = True
    try:
        while still:
            ready, _, _ = select.select(still, [], [], max(0.0, until - time.monotonic()))
            if not ready:
                break
            for outlet in ready:
                piece = os.read(outlet.fileno(), _PIECE_BYTES)
                if not piece:
                    still.remove(outlet)
                room = most - sum(map(len, said.values()))
                said[outlet] += piece[:room]
                whole = whole and len(piece) <= room
            if not whole:
                break
    finally:
        for outlet in outlets:
            outlet.close()
        if still:
            _end(process)
    first, second = (bytes(said[outlet]) for outlet in outlets)
    return first, second, whole


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the keeper to end the program and all that is left of it; where it does not in time, end the keeper and its group."""
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        # With the keeper go those that die with their parent, and those in its namespace.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
