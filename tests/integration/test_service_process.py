"""How a service's process ends, and what its operations port says."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time

import httpx
import psutil
import pytest

from ruminate.shared.operations import STUCK_AFTER_SECONDS, PortTaken, serve_operations
from ruminate.shared.process import Rope

DEADLINE_SECONDS = 20.0


def _service(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = textwrap.dedent("""
        import asyncio
        from ruminate.shared.bus import OffsetLost, TooManyDeadLetters
        from ruminate.shared.service import run, wait_for_stop
        from ruminate.shared.settings import ServiceSettings

        async def main(settings):
            BODY

        run("probe", ServiceSettings, main)
    """).replace("BODY", body)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return", 0),
        ("raise RuntimeError('broken')", 70),
        ("raise TooManyDeadLetters('all of them')", 78),
        ("async with asyncio.TaskGroup(): raise TooManyDeadLetters('beside other tasks')", 78),
        ("raise OffsetLost('gone')", 78),
    ],
)
def test_the_exit_code_says_how_it_went(body: str, code: int) -> None:
    ended = _service(body)
    assert ended.returncode == code, ended.stderr


def test_a_setting_that_makes_no_sense_is_named_without_its_value_and_nobody_restarts_it() -> None:
    ended = _service("return", RUMINATE_OPERATIONS_PORT="secret-looking")
    assert ended.returncode == 78
    assert "RUMINATE_OPERATIONS_PORT" in ended.stderr
    assert "secret-looking" not in ended.stderr


def test_a_process_on_a_rope_ends_with_whoever_holds_it() -> None:
    rope = Rope()
    child = subprocess.Popen(
        [sys.executable, "-m", "ruminate.shared.process", "http.server", "0", "--bind", "127.0.0.1"],
        pass_fds=(rope.reading_end,),
        env={**os.environ, **rope.environment()},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while psutil.Process(child.pid).num_threads() < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    rope.cut()
    assert child.wait(DEADLINE_SECONDS) == 128 + signal.SIGKILL


def test_the_operations_port_says_alive_ready_and_counts() -> None:
    async def scenario() -> None:
        reasons = ["node a is away"]
        turned_at = time.monotonic()
        async with (
            serve_operations(host="127.0.0.1", port=0, ready=lambda: reasons, turned_at=lambda: turned_at) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            waiting = await client.get("/readyz")
            assert (waiting.status_code, waiting.json()) == (503, {"ready": False, "reasons": ["node a is away"], "notes": []})
            assert (await client.get("/livez")).status_code == 200
            reasons.clear()
            turned_at -= STUCK_AFTER_SECONDS
            assert (await client.get("/readyz")).status_code == 200
            assert (await client.get("/livez")).status_code == 503
            assert "process_cpu_seconds_total" in (await client.get("/metrics")).text
            with pytest.raises(PortTaken, match=f"127.0.0.1:{port} cannot be bound"):
                async with serve_operations(host="127.0.0.1", port=port, ready=lambda: ()):
                    pass

    asyncio.run(scenario())
