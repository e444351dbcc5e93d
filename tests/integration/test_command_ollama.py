"""`up --node ollama`: an installed Ollama is found, started, watched and stopped; where there is none, the way out is told."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import ollama
import psutil
import pytest

from infra.real.ollama import NEWER, OLLAMA, VERSIONS
from ruminate.command.installed_ollama import VARIABLE, NoOllama, find_ollama, version_of
from ruminate.command.plan import INSTALLED, SERVICE_ORDER, Ports, Wishes, node_urls, plan_parts
from ruminate.command.supervisor import Supervisor
from ruminate.command.up import choose_ports
from ruminate.shared.ollama import QWEN3_TEMPLATE
from tests.contract.ollama_contract import ANSWER, GREEDY, HELLO, ONE_THREAD
from tests.e2e.running_loop import eventually, start_loop
from tests.plugins.node import TinyModels
from tests.plugins.real import installed

RUMINATE = [sys.executable, "-m", "ruminate.command"]
PORTS = Ports(broker=1, node=2, gateway=3, collector=4, operations={name: 10 + n for n, name in enumerate(SERVICE_ORDER)})


def wishes(state: Path, *nodes: str) -> Wishes:
    return Wishes(state=state, target="tiny", base="/base", nodes=nodes)


def ruminate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if name != VARIABLE} | environment
    return subprocess.run([*RUMINATE, *arguments], env=ours, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("named", "said"),
    [({}, "there is no `ollama` on the PATH"), ({VARIABLE: "/no/ollama"}, f"{VARIABLE} names /no/ollama, which is no program")],
)
def test_without_an_ollama_up_and_doctor_say_where_they_looked_and_what_to_do(
    tmp_path: Path, named: dict[str, str], said: str
) -> None:
    environment = {"PATH": str(tmp_path), **named}
    up = ruminate("up", "--node", "ollama", "--state", str(tmp_path / "state"), **environment)
    assert up.returncode == 1
    assert said in up.stderr and "make real" in up.stderr and "without --node" in up.stderr
    assert not (tmp_path / "state").exists()
    doctor = ruminate("doctor", "--node", "ollama", "--state", str(tmp_path), **environment)
    assert doctor.returncode == 1
    assert said in doctor.stdout and "make real" in doctor.stdout


def test_a_program_that_is_no_ollama_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "ollama"
    other.write_text("#!/bin/sh\necho hello\n")
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(VARIABLE, str(other))
    assert find_ollama() == other
    with pytest.raises(NoOllama, match="is no Ollama: asked for its version, it said 'hello'"):
        version_of(other)


def test_an_installed_ollama_may_stand_beside_others() -> None:
    wanted = wishes(Path("/state"), INSTALLED, "http://gpu:11434/")
    assert node_urls(wanted, PORTS) == {"ollama": "http://127.0.0.1:2", "node-2": "http://gpu:11434"}
    node = next(part for part in plan_parts(wanted, PORTS, ollama=Path("/bin/ollama")) if part.kind == "node")
    assert node.environment == {"OLLAMA_HOST": "127.0.0.1:2", "OLLAMA_MODELS": "/state/ollama", "OLLAMA_NO_CLOUD": "1"}


@pytest.fixture
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Ollama that is installed, by its version."""
    with installed():
        found = OLLAMA[request.param].find() / "bin" / "ollama"
    monkeypatch.setenv(VARIABLE, str(found))
    return found


@pytest.mark.real
@pytest.mark.parametrize("program", VERSIONS, indirect=True)
def test_an_installed_ollama_is_started_brought_back_and_stopped_with_its_runners(
    program: Path, tmp_path: Path, tiny_models: TinyModels
) -> None:
    assert find_ollama() == program
    assert version_of(program) in VERSIONS
    ports = choose_ports()
    url = f"http://127.0.0.1:{ports.node}"
    (node,) = (part for part in plan_parts(wishes(tmp_path, INSTALLED), ports, ollama=program) if part.kind == "node")

    async def work() -> list[psutil.Process]:
        async with Supervisor(tmp_path) as supervisor:
            await supervisor.start(node)
            await supervisor.wait_ready("node", within_seconds=30)
            with ollama.Client(url) as client:
                digest = client.create_blob(tiny_models.talk)
                client.create("talk", files={"m.gguf": digest}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD)
                assert (tmp_path / "ollama" / "blobs").is_dir()
                first = processes_of(supervisor)
                assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER
                running = processes_of(supervisor)
                assert len(running) > len(first), "a runner"
                # The server alone crashes: its runner must not stay behind.
                server = next(process for process in running if process.cmdline() == [str(program), "serve"])
                server.kill()
                assert psutil.wait_procs(running, timeout=10)[1] == []
                await supervisor.wait_ready("node", within_seconds=30)
                assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER
            return processes_of(supervisor)

    left = asyncio.run(work())
    assert len(left) >= 3
    assert psutil.wait_procs(left, timeout=5)[1] == []


def processes_of(supervisor: Supervisor) -> list[psutil.Process]:
    """The node's own process and all below it."""
    own = psutil.Process(supervisor.describe()["node"]["pid"])
    return [own, *own.children(recursive=True)]


@pytest.mark.real
@pytest.mark.parametrize("program", VERSIONS, indirect=True)
def test_an_installed_ollama_ends_when_its_supervisor_is_killed(program: Path, tmp_path: Path, tiny_models: TinyModels) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from ruminate.command.plan import Wishes, plan_parts
        from ruminate.command.supervisor import Supervisor
        from ruminate.command.up import choose_ports

        async def main():
            ports, state = choose_ports(), Path(sys.argv[2])
            wishes = Wishes(state=state, target="tiny", base="/base", nodes=("ollama",))
            (node,) = (part for part in plan_parts(wishes, ports, ollama=Path(sys.argv[1])) if part.kind == "node")
            async with Supervisor(state) as supervisor:
                await supervisor.start(node)
                await supervisor.wait_ready("node", within_seconds=30)
                print(ports.node, flush=True)
                await supervisor.until_stopped()

        asyncio.run(main())
    """)
    command = [sys.executable, "-c", script, str(program), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with ollama.Client(f"http://127.0.0.1:{process.stdout.readline().strip()}") as client:
            digest = client.create_blob(tiny_models.talk)
            client.create("talk", files={"m.gguf": digest}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD)
            client.generate("talk", "")
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 3, "who ties, the server and its runner"
        process.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(children, timeout=5)[1] == []


@pytest.mark.real
@pytest.mark.parametrize("program", [NEWER], indirect=True)
def test_up_runs_the_whole_loop_over_an_installed_ollama(program: Path, tmp_path: Path) -> None:
    with start_loop(["up", "--node", "ollama"], state=tmp_path / "state", environment={VARIABLE: str(program)}) as loop:
        eventually(lambda: "stop with Ctrl-C" in loop.said(), within_seconds=180, loop=loop)
        assert f"Ollama {NEWER} at {program}" in loop.said()
        (url,) = loop.addresses["nodes"].values()
        with ollama.Client(url) as client:
            (base,) = client.list().models
            assert base.model == "qwen3-tiny:latest"
            assert "num_thread" in (client.show("qwen3-tiny").parameters or "")
        with ollama.Client(loop.addresses["gateway"]) as client:
            asked = [{"role": "user", "content": "47+38?"}]
            said = client.chat("qwen3-tiny", asked, think=True, options={"temperature": 0}).message
            assert ((said.thinking or "").strip(), said.content) == ("7+8=15, 4+3+1=8", "85"), "the base thinks, there as here"
        assert loop.parts()["node"]["state"] == "running"
        assert loop.stop(signal.SIGINT) == []
