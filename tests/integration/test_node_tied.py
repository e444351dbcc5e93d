"""A foreign program ends with whoever started it, and takes what it started itself along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from ruminate.shared.process import Rope

DEADLINE_SECONDS = 20.0
FAMILY = "import subprocess, time\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"
DEAF = "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FAMILY
BRIEF = "import subprocess, sys\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\nsys.stdin.read()\nsys.exit(7)"
ALONE = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)"


@contextmanager
def tied(code: str, rope: Rope) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A tied program with a child of its own; both are up."""
    command = [sys.executable, "-m", "ruminate.embedded.tied", sys.executable, "-c", code]
    environment = os.environ | rope.environment()
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, pass_fds=(rope.reading_end,), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        yield process, [child, *psutil.Process(process.pid).children()]


def test_letting_go_of_the_rope_ends_the_program_and_its_children() -> None:
    rope = Rope()
    with tied(FAMILY, rope) as (process, family):
        rope.cut()
        assert process.wait(DEADLINE_SECONDS) == 128 + signal.SIGKILL
        assert psutil.wait_procs(family, timeout=DEADLINE_SECONDS)[1] == []


@pytest.mark.parametrize(("code", "ended_by"), [(FAMILY, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_sigterm_is_passed_on_and_who_does_not_listen_is_killed(code: str, ended_by: signal.Signals) -> None:
    rope = Rope()
    with tied(code, rope) as (process, family):
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 128 + ended_by
        assert psutil.wait_procs(family, timeout=DEADLINE_SECONDS)[1] == []
    rope.cut()


def test_a_program_that_ends_by_itself_takes_its_children_along_and_keeps_its_code() -> None:
    rope = Rope()
    with tied(BRIEF, rope) as (process, family):
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(DEADLINE_SECONDS) == 7
        assert psutil.wait_procs(family, timeout=DEADLINE_SECONDS)[1] == []
    rope.cut()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel has to tell the program")
def test_who_ties_a_program_is_killed_and_the_program_ends_all_the_same() -> None:
    rope = Rope()
    with tied(ALONE, rope) as (process, family):
        process.kill()
        assert psutil.wait_procs(family, timeout=DEADLINE_SECONDS)[1] == []
    rope.cut()


def test_a_program_that_is_not_there_is_said_in_a_line() -> None:
    rope = Rope()
    done = subprocess.run(
        [sys.executable, "-m", "ruminate.embedded.tied", "no-such-program"],
        env=os.environ | rope.environment(),
        pass_fds=(rope.reading_end,),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    rope.cut()
    assert done.returncode == 127
    assert done.stderr == "no-such-program could not be started: No such file or directory\n"
