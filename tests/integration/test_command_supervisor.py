"""The supervisor: what crashes comes back, what gave up waits, and nothing outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from ruminate.command.plan import Part, PartKind
from ruminate.command.supervisor import Supervisor, SupervisorError, running_supervisor

DEADLINE_SECONDS = 20.0


def _part(name: str, code: str, *, kind: PartKind = "service") -> Part:
    return Part(name, kind, (sys.executable, "-c", textwrap.dedent(code)), {})


def _appends(path: Path, then: str) -> str:
    return f"import os, sys, time\nwith open({str(path)!r}, 'a') as f: f.write('started\\n')\n{then}\n"


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def _starts(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main())


def test_a_part_that_crashes_is_started_again_and_counted(tmp_path: Path) -> None:
    marks = tmp_path / "marks"

    async def work() -> None:
        async with Supervisor(tmp_path / "state") as supervisor:
            await supervisor.start(_part("fragile", _appends(marks, "sys.exit(1)")))
            await _until(lambda: _starts(marks) >= 3)
            described = supervisor.describe()["fragile"]
            assert described["restarts"] >= 2
            assert described["exit_code"] == 1

    _run(work())


def test_exit_78_waits_until_somebody_resumes_it(tmp_path: Path) -> None:
    marks, state = tmp_path / "marks", tmp_path / "state"

    async def work() -> None:
        async with Supervisor(state) as supervisor:
            await supervisor.start(_part("stubborn", _appends(marks, "sys.exit(78)")))
            await _until(lambda: supervisor.describe()["stubborn"]["state"] == "halted")
            assert _starts(marks) == 1
            (state / "resume" / "stubborn").touch()
            await _until(lambda: _starts(marks) == 2)

    _run(work())


def test_the_end_of_the_broker_ends_everything_with_the_reason(tmp_path: Path) -> None:
    async def work() -> None:
        async with Supervisor(tmp_path / "state") as supervisor:
            await supervisor.start(_part("broker", "import time; time.sleep(60)", kind="broker"))
            broker = supervisor.describe()["broker"]["pid"]
            os.kill(broker, signal.SIGKILL)
            with pytest.raises(SupervisorError, match="lived in memory"):
                await supervisor.unless_ended(asyncio.sleep(DEADLINE_SECONDS))

    _run(work())


def test_leaving_the_context_stops_every_part_and_frees_the_folder(tmp_path: Path) -> None:
    state = tmp_path / "state"
    pids: list[int] = []

    async def work() -> None:
        async with Supervisor(state) as supervisor:
            for name in ("one", "two"):
                await supervisor.start(_part(name, "import time; time.sleep(60)"))
            pids.extend(part["pid"] for part in supervisor.describe().values())
            assert running_supervisor(state) == os.getpid()
        assert not any(psutil.pid_exists(pid) for pid in pids)

    _run(work())
    assert running_supervisor(state) is None


def test_a_second_supervisor_in_the_same_folder_is_refused_with_the_way_out(tmp_path: Path) -> None:
    async def work() -> None:
        async with Supervisor(tmp_path / "state"):
            with pytest.raises(SupervisorError, match="ruminate down"):
                async with Supervisor(tmp_path / "state"):
                    pass

    _run(work())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "terminate"])
def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from ruminate.command.plan import Part
        from ruminate.command.supervisor import Supervisor

        state = Path(sys.argv[1])
        child = (sys.executable, "-m", "ruminate.shared.process", "http.server", "0", "--bind", "127.0.0.1")

        async def main():
            async with Supervisor(state) as supervisor:
                for name in ("one", "two"):
                    await supervisor.start(Part(name, "service", child, {}))
                print("up", flush=True)
                await supervisor.until_stopped()

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "state")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.send_signal(number)
        process.wait(DEADLINE_SECONDS)
    _, alive = psutil.wait_procs(children, timeout=5.0)
    assert alive == []


def test_a_part_that_never_gets_ready_is_reported_with_its_log(tmp_path: Path) -> None:
    async def work() -> None:
        async with Supervisor(tmp_path / "state") as supervisor:
            part = Part("mute", "service", (sys.executable, "-c", "import time; time.sleep(60)"), {}, "http://127.0.0.1:1/readyz")
            await supervisor.start(part)
            begun = time.monotonic()
            with pytest.raises(SupervisorError, match=r"mute is not ready .*mute\.log"):
                await supervisor.wait_ready("mute", within_seconds=0.5)
            assert time.monotonic() - begun < DEADLINE_SECONDS

    _run(work())
