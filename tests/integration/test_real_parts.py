"""Real parts are installed whole or not at all, and leave nothing behind: no process, no folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from infra.real.cache import FailedTool, MissingPart, Part, run
from infra.real.ports import hold_port, on_free_ports
from infra.real.tied import Tied
from tests.plugins.real import installed

DEADLINE_SECONDS = 30.0
FAMILY = "import os, subprocess; subprocess.Popen(['sleep', '600']); os.execvp('sleep', ['sleep', '600'])"
"""A program with a child of its own, neither of which looks after the other."""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def family_of(leader: int) -> list[psutil.Process]:
    """Whoever is left of the process group."""
    return [each for each in psutil.process_iter() if _group_of(each.pid) == leader]


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid) if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else None
    except (ProcessLookupError, psutil.NoSuchProcess):
        return None


# --- the cache ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; nothing is ever installed into the system from here."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("RUMINATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


Packages = dict[str, tuple[str, ...]]


def part(
    build: Callable[[Path], None], *, recipe: str = "one", tools: Packages | None = None, needs: Packages | None = None
) -> Part:
    return Part(name="thing-1.0", alias="thing", recipe=recipe, build=build, tools=tools or {}, needs=needs or {})


def test_a_part_that_is_missing_names_the_line_to_type() -> None:
    with pytest.raises(MissingPart, match=r"thing-1\.0 is not installed\. Type: .*-m infra\.real install thing"):
        part(lambda folder: None).find()


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_part_that_is_missing_fails_a_test_where_ci_is_set_and_skips_it_elsewhere(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="install thing"), installed():
        part(lambda folder: None).find()


def test_a_part_is_built_once_and_again_when_its_recipe_is_another(cache: Path) -> None:
    built: list[str] = []

    def build(folder: Path) -> None:
        built.append(folder.name)
        (folder / "content").write_text(str(len(built)))

    said: list[str] = []
    assert part(build).install(said.append) == cache / "thing-1.0"
    assert part(build).install(said.append) == part(build).find()
    assert len(built) == 1
    assert "there already" in said[-1]
    with pytest.raises(MissingPart):
        part(build, recipe="two").find()
    assert (part(build, recipe="two").install(said.append) / "content").read_text() == "2"


def test_a_build_that_fails_leaves_nothing_and_what_was_there_stays(cache: Path) -> None:
    part(lambda folder: None).install(lambda _: None)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        part(fail, recipe="two").install(lambda _: None)
    assert part(lambda folder: None).find() == cache / "thing-1.0"
    assert sorted(path.name for path in cache.iterdir()) == ["thing-1.0", "thing-1.0.lock"]


def test_two_installers_build_a_part_once() -> None:
    building, go_on, built = threading.Event(), threading.Event(), []

    def build(folder: Path) -> None:
        built.append(folder)
        building.set()
        assert go_on.wait(DEADLINE_SECONDS)

    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(part(build).install, lambda _: None)
        assert building.wait(DEADLINE_SECONDS)
        second = pool.submit(part(build).install, said.append)
        until(lambda: said)
        assert said == ["thing-1.0: another installer is at work on it; waiting for that one …"]
        go_on.set()
        assert first.result(DEADLINE_SECONDS) == second.result(DEADLINE_SECONDS)
    assert len(built) == 1


def test_a_tool_that_is_missing_is_named_with_the_package_that_has_it() -> None:
    wants = part(lambda folder: None, tools={"no-such-tool": ("its-package", "or-this"), "sh": ("dash",)})
    with pytest.raises(MissingPart, match=r"no-such-tool: not there\. Type:  sudo apt-get install its-package$"):
        wants.install(lambda _: None)


def test_what_a_part_needs_to_run_is_asked_for_even_where_the_part_itself_is_there() -> None:
    part(lambda folder: None).install(lambda _: None)
    came_from_elsewhere = part(lambda folder: None, tools={"no-such-compiler": ("cc",)}, needs={"no-such-java": ("its-package",)})
    for ask in (came_from_elsewhere.find, lambda: came_from_elsewhere.install(lambda _: None)):
        with pytest.raises(MissingPart, match=r"^no-such-java: not there\. Type:  sudo apt-get install its-package$"):
            ask()


def test_a_tool_gives_its_output_and_one_that_fails_shows_the_end_of_it(tmp_path: Path) -> None:
    assert run("sh", "-c", "pwd; echo $WORD >&2", folder=tmp_path, environment={"WORD": "word"}) == f"{tmp_path}\nword\n"
    with pytest.raises(FailedTool, match=r"`sh -c .*` ended with code 3:\n(?s:.*)line 99$"):
        run("sh", "-c", "for n in $(seq 99); do echo line $n; done; exit 3")


INSTALLER = """
import sys
from infra.real import __main__ as real
from infra.real.cache import Part, run

tool = sys.argv.pop()

def build(folder):
    (folder / "half").write_text("half")
    run(sys.executable, "-c", tool)

real.PARTS["thing"] = Part(name="thing-1.0", alias="thing", recipe="one", build=build)
real.main()
"""


@contextmanager
def installer_at_work() -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """An installer whose tool has a child of its own, and all that it has started."""
    command = (sys.executable, "-c", INSTALLER, "install", "thing", FAMILY)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as installer:
        below = psutil.Process(installer.pid).children
        until(lambda: sum(each.name() == "sleep" for each in below(recursive=True)) == 2)
        yield installer, below(recursive=True)


def test_an_installer_that_is_asked_to_end_leaves_nothing(cache: Path) -> None:
    with installer_at_work() as (installer, tools):
        installer.terminate()
        assert installer.wait(DEADLINE_SECONDS) == 128 + signal.SIGTERM
    assert psutil.wait_procs(tools, timeout=DEADLINE_SECONDS)[1] == []
    assert [path.name for path in cache.iterdir()] == ["thing-1.0.lock"]


def test_an_installer_that_is_killed_takes_its_tools_along_and_the_next_one_removes_its_folder(cache: Path) -> None:
    with installer_at_work() as (installer, tools):
        installer.kill()
    assert psutil.wait_procs(tools, timeout=DEADLINE_SECONDS)[1] == []
    (left,) = cache.glob("thing-1.0.new-*")
    (cache / "thing-1.0.1.new-of-another").mkdir()
    said: list[str] = []
    part(lambda folder: None).install(said.append)
    assert said[0] == f"thing-1.0: removing {left.name}, which an installer that was killed has left"
    assert sorted(path.name for path in cache.iterdir()) == ["thing-1.0", "thing-1.0.1.new-of-another", "thing-1.0.lock"]


# --- ports ----------------------------------------------------------------------------------------------------------


def test_a_port_that_is_held_is_given_to_nobody_else_though_no_server_listens_on_it() -> None:
    with ExitStack() as ours, ExitStack() as theirs:
        held, free = hold_port(ours), hold_port(theirs)
        theirs.close()
        assert hold_port(theirs, iter([held, free]).__next__) == free
        ours.close()
        assert hold_port(theirs, iter([held, free]).__next__) == held


def test_a_held_port_is_free_for_its_server_and_one_with_a_server_is_not_given() -> None:
    with ExitStack() as ours, ExitStack() as theirs:
        served, free = hold_port(ours), hold_port(theirs)
        theirs.close()
        with socket.create_server(("127.0.0.1", served)):
            ours.close()
            assert hold_port(theirs, iter([served, free]).__next__) == free


def test_a_server_whose_port_was_taken_tries_others_and_every_other_failure_is_told() -> None:
    failures = [RuntimeError("bind: Address already in use"), RuntimeError("bind: address already in use")]

    def start() -> str:
        if failures:
            raise failures.pop()
        return "started"

    assert on_free_ports(start) == "started"
    failures.append(RuntimeError("no memory"))
    with pytest.raises(RuntimeError, match="no memory"):
        on_free_ports(start)
    failures.extend(RuntimeError("address already in use") for _ in range(100))
    with pytest.raises(RuntimeError, match="address already in use"):
        on_free_ports(start)


# --- programs -------------------------------------------------------------------------------------------------------


def test_a_program_ends_with_its_children_when_it_is_let_go(tmp_path: Path) -> None:
    program = Tied((sys.executable, "-c", FAMILY), log=tmp_path / "log")
    until(lambda: len(family_of(program.pid)) == 2)
    program.end()
    assert not family_of(program.pid)


def test_a_program_may_be_started_by_a_thread_that_ends_before_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        program = pool.submit(Tied, (sys.executable, "-c", FAMILY), log=tmp_path / "log").result()
    until(lambda: len(family_of(program.pid)) == 2)
    assert program.ended() is None
    program.end()


def test_a_program_that_ends_by_itself_takes_its_children_along_and_says_how_it_ended(tmp_path: Path) -> None:
    children = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('here', file=sys.stderr); sys.exit(7)"
    program = Tied((sys.executable, "-c", children), log=tmp_path / "log")
    assert program.wait(DEADLINE_SECONDS) == 7
    until(lambda: not family_of(program.pid))
    assert (tmp_path / "log").read_text() == "here\n"
    program.end()


def test_a_program_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^no-such-program could not be started: No such file or directory$"):
        Tied(("no-such-program",), log=tmp_path / "log")


PARENT = """
import sys, time
from pathlib import Path
from infra.real.tied import Tied, temporary_folder
with temporary_folder("test") as folder:
    program = Tied((sys.executable, "-c", sys.argv[1]), log=folder / "log")
    print(program.pid, folder, flush=True)
    time.sleep(600)
"""


def test_programs_and_folders_are_gone_when_whoever_started_them_is_killed() -> None:
    with subprocess.Popen((sys.executable, "-c", PARENT, FAMILY), stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        leader, folder = parent.stdout.readline().split()
        until(lambda: len(family_of(int(leader))) == 2)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not family_of(int(leader)))
    until(lambda: not Path(folder).exists())
