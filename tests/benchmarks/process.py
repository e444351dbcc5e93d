"""A process under test: what it has used, by the kernel's own books."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final

from infra.real.tied import Tied, tail

_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS: Final = 30.0


class Measured:
    """A program that runs, on the given cores or wherever the system likes."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str], cores: set[int] | None) -> None:
        pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(cores)))) if cores else ()
        self._tied = Tied([*pinned, *command], log=log, environment=environment)
        self.pid = self._tied.pid
        self._most_seen = 0.0

    def check(self) -> None:
        """Raise with the end of its log where it has ended."""
        if (code := self._tied.ended()) is not None:
            raise RuntimeError(f"it ended with code {code}:\n{tail(self._tied.log)}")

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND

    def peak_megabytes(self) -> float:
        """The most memory that was resident at once: never less than `megabytes` has ever said."""
        return max(self._most_seen, self._memory_megabytes("VmHWM"))

    def megabytes(self) -> float:
        """The memory that is resident now."""
        # Linux counts pages a core, and notes its high water mark only where memory is given back: it may lag behind a little.
        self._most_seen = max(self._most_seen, resident := self._memory_megabytes("VmRSS"))
        return resident

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not help."""
        self._tied.signal(signal.SIGTERM)
        with suppress(TimeoutExpired):
            self._tied.wait(_STOP_SECONDS)
        self._tied.end()

    def _memory_megabytes(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"the kernel says no {name} of process {self.pid}")
