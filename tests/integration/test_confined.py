"""Source that nobody vouches for: it runs, it ends within its limits whatever it does, and nothing of it is left."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ruminate.shared import confining
from ruminate.shared.confined import ConfinedResult, Namespaces, run_confined
from ruminate.shared.scratch import sweep_scratch

SECONDS = 1.0
LATE_SECONDS = 7.0
BOMB = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        count += 1
except OSError:
    print(count)
"""


def run(source: str, *, namespaces: Namespaces = "preferred", **limits: Any) -> ConfinedResult:
    limits = {"seconds": SECONDS, "memory_bytes": 256 << 20, "output_bytes": 20_000} | limits
    return run_confined(source, namespaces=namespaces, **limits)


NAMESPACES = sys.platform == "linux" and run("print(1)", namespaces="required").ended == "exited"
needs_namespaces = pytest.mark.skipif(not NAMESPACES, reason="this system gives no user namespaces to us")


def reachable(path: Path) -> bool:
    """Whether another user than root finds the interpreter: as root, limits alone need that."""
    return os.getuid() != 0 or all(each.stat().st_mode & 0o005 == 0o005 for each in (path, *path.parents))


WAYS: list[Any] = [pytest.param("preferred", id="apart", marks=needs_namespaces)]
WAYS.append(
    pytest.param(
        "none",
        id="limits-alone",
        marks=pytest.mark.skipif(
            not reachable(Path(getattr(sys, "_base_executable", sys.executable)).resolve()),
            reason="we are root, and nobody else can reach this interpreter",
        ),
    )
)


def left_over() -> list[str]:
    """Processes that look like ours, zombies included, and folders."""
    folders = [path.name for path in Path(tempfile.gettempdir()).glob("ruminate-scratch-confined-*")]
    if sys.platform != "linux":
        return folders
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            words = status.read_text()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        parent = next(line.split()[1] for line in words.splitlines() if line.startswith("PPid:"))
        if parent == str(os.getpid()) and b"confining" in command:
            found.append(words.splitlines()[0])
        if b"<confined>" in command:
            found.append(words.splitlines()[0])
    return folders + found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert left_over() == []


@pytest.mark.parametrize("way", WAYS)
class TestEitherWay:
    def test_it_runs_and_says_what_it_says(self, way: Namespaces) -> None:
        found = run("import sys\nprint('hello')\nprint('oh', file=sys.stderr)", namespaces=way)
        assert found.succeeded
        assert (found.output, found.errors) == (b"hello\n", b"oh\n")
        assert found.network_cut == found.files_hidden == (way == "preferred")

    def test_its_status_is_told(self, way: Namespaces) -> None:
        found = run("import sys; sys.exit(7)", namespaces=way)
        assert (found.ended, found.status, found.succeeded) == ("exited", 7, False)
        assert run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV); import time; time.sleep(9)", namespaces=way).status

    def test_a_syntax_error_is_an_error_like_others(self, way: Namespaces) -> None:
        found = run("def f(:", namespaces=way)
        assert (found.ended, found.status) == ("exited", 1)
        assert b"SyntaxError" in found.errors

    def test_its_surroundings_are_empty(self, way: Namespaces) -> None:
        source = (
            "import os, sys\n"
            "print(sorted(os.environ), os.listdir(), sys.stdin.read(), os.getuid() != 0, sys.flags.isolated, sys.flags.no_site)\n"
            "try:\n    import pydantic\nexcept ImportError:\n    print('no packages')"
        )
        os.environ["RUMINATE_KAFKA_PASSWORD"] = "secret"
        try:
            found = run(source, namespaces=way)
        finally:
            del os.environ["RUMINATE_KAFKA_PASSWORD"]
        assert found.output.decode() == "['LC_ALL'] []  True 1 1\nno packages\n", found.errors

    def test_an_endless_loop_runs_out_of_computing(self, way: Namespaces) -> None:
        found = run("while True: pass", namespaces=way)
        assert found.ended == "out_of_cpu"
        assert found.seconds < LATE_SECONDS

    def test_who_only_waits_runs_out_of_time(self, way: Namespaces) -> None:
        found = run("import time; time.sleep(600)", namespaces=way)
        assert found.ended == "out_of_time"
        assert found.seconds < LATE_SECONDS

    def test_memory_is_bounded(self, way: Namespaces) -> None:
        found = run("hoard = []\nwhile True: hoard.append(bytearray(1 << 24))", namespaces=way)
        assert (found.ended, found.status) == ("exited", 1)
        assert b"MemoryError" in found.errors

    def test_forks_are_few_and_end_with_it_though_they_leave_its_session(self, way: Namespaces) -> None:
        found = run(BOMB, namespaces=way)
        assert found.ended == "exited", found
        assert int(found.output.split()[-1]) < confining.PROCESSES
        assert found.seconds < LATE_SECONDS

    def test_forks_that_never_let_go_end_when_its_time_is_up(self, way: Namespaces) -> None:
        found = run(BOMB + "\nwhile True: pass", namespaces=way)
        assert found.ended == "out_of_cpu"

    @pytest.mark.parametrize("outlet", [1, 2])
    def test_a_flood_of_words_is_cut(self, way: Namespaces, outlet: int) -> None:
        found = run(f"import os\nwhile True: os.write({outlet}, b'x' * 4096)", namespaces=way)
        assert found.ended == "too_much_output"
        assert len(found.output) + len(found.errors) == 20_000
        assert found.seconds < SECONDS * 3

    def test_files_are_bounded_and_go_with_it(self, way: Namespaces) -> None:
        source = "with open('large', 'wb') as file:\n    while True: file.write(b'x' * 65536)"
        found = run(source, namespaces=way)
        assert (found.ended, found.status) == ("exited", 1)
        assert b"OSError" in found.errors

    def test_deep_recursion_is_its_own_affair(self, way: Namespaces) -> None:
        found = run("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", namespaces=way)
        assert not found.succeeded
        assert found.seconds < LATE_SECONDS


@needs_namespaces
def test_it_sees_and_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    tmp_path.chmod(0o777)
    source = (
        f"import os\nfor path in ('{tmp_path}/evil', '/evil', '/usr/evil', '/tmp/evil', '/dev/shm/evil', '../evil', 'own'):\n"
        f"    try:\n        open(path, 'w').write('x')\n        print(path)\n    except OSError:\n        pass\n"
        f"print(os.path.exists('{secret}'), os.path.exists('/proc'), os.path.exists('/etc/passwd'))"
    )
    found = run(source)
    assert found.output.decode().split("\n")[:-1] == ["own", "False False False"], found
    assert list(tmp_path.iterdir()) == [secret]


@needs_namespaces
def test_no_network_not_even_loopback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        found = run(f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=1)")
        assert b"unreachable" in found.errors
        with pytest.raises(TimeoutError):
            server.accept()
    assert found.network_cut


@needs_namespaces
def test_it_reaches_no_process_of_ours_and_gains_no_rights() -> None:
    source = (
        "import os, ctypes\n"
        f"try:\n    os.kill({os.getpid()}, 0)\n    print('reached')\nexcept OSError:\n    print('nobody')\n"
        "print(ctypes.CDLL(None).unshare(0x10000000))\n"
        "try:\n    os.setuid(0)\nexcept OSError:\n    print('no rights')"
    )
    assert run(source).output == b"nobody\n-1\nno rights\n"


@pytest.mark.skipif(NAMESPACES, reason="this system gives namespaces")
def test_where_there_are_no_namespaces_it_is_refused_who_needs_them() -> None:
    found = run("print(1)", namespaces="required")
    assert (found.ended, found.output) == ("refused", b"")


@needs_namespaces
def test_it_dies_with_who_started_it() -> None:
    source = (
        "from ruminate.shared.confined import run_confined\n"
        "run_confined('import time; time.sleep(600)', seconds=600, memory_bytes=1 << 28, output_bytes=100)"
    )
    starter = subprocess.Popen([sys.executable, "-c", source])
    try:
        until = time.monotonic() + 20
        while not _running():
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        starter.kill()
        starter.wait()
    until = time.monotonic() + 20
    while _running():
        assert time.monotonic() < until, _running()
        time.sleep(0.05)
    # Killed, it could not take its folder away.
    sweep_scratch()
    assert left_over() == []


def _running() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"<confined>" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
