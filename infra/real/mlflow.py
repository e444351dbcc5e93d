"""MLflow's tracking server itself, for as long as a context lasts: from PyPI, in a virtual environment of its own.

    with mlflow_server() as server:
        server.url                 where it answers
        server.stop()              asks politely; kill() does not
        server.start()             back on the same port, with all that it was told
        server.forget()            as one that was set up anew; only while it does not run
        server.pause()             connections are taken and nothing answers; resume()

It keeps runs in SQLite and takes artifacts itself, as `mlflow server` does by default. Everything is pinned with hashes in
`pins/mlflow.txt`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from infra.real.cache import Part, digest, run
from infra.real.ports import hold_port, on_free_ports
from infra.real.tied import Tied, tail, temporary_folder

READY_SECONDS: Final = 180.0
"""It imports for four seconds of a free processor, twice."""
STOP_SECONDS: Final = 20.0
_PINS: Final = Path(__file__).resolve().parents[2] / "pins" / "mlflow.txt"
_DATABASE: Final = "mlflow.db"
_PYTHON: Final = f"python{sys.version_info[0]}.{sys.version_info[1]}"


class TrackerDidNotStart(RuntimeError):
    """The server ended early or did not answer in time; the message shows the end of its log."""


@dataclass
class MlflowServer:
    """One server: a port and a folder of its own, which it keeps over its ends and starts."""

    part: Path
    folder: Path
    port: int
    running: Tied | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """All that it has said, over its restarts."""
        return self.folder / "mlflow.log"

    def start(self) -> None:
        """Start it, on the port and the runs that it had; returns when it answers."""
        if self.running is not None and self.running.ended() is None:
            raise RuntimeError(f"the server at {self.url} runs already")
        self.end()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _DATABASE).exists():
            shutil.copy(self.part / _DATABASE, self.folder)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, which evaluate traces
        }
        options = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self.folder / _DATABASE}",
            "--artifacts-destination": str(self.folder / "artifacts"),
        }
        words = (word for option in options.items() for word in option)
        # Nothing else of our surroundings, lest somebody's own MLFLOW_… decides a test.
        only = ("env", "-i", *(f"{name}={value}" for name, value in environment.items()))
        program = self.part / "venv" / "bin" / "python"
        self.running = Tied((*only, str(program), "-m", "mlflow", "server", *words), log=self.log, folder=self.folder)
        self._wait_until_ready(self.running)

    def stop(self) -> None:
        """SIGTERM."""
        running = self._running()
        running.signal(signal.SIGTERM)
        try:
            running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the server did not stop within {STOP_SECONDS:.0f} s of SIGTERM:\n{tail(self.log)}") from None
        self.end()

    def kill(self) -> None:
        """SIGKILL, to all of it; gone when this returns."""
        self._running().kill()
        self.running = None

    def forget(self) -> None:
        """Lose all that it was told, as a server that was set up anew."""
        if self.running is not None:
            raise RuntimeError(f"the server at {self.url} runs: stop it first")
        (self.folder / _DATABASE).unlink()

    def pause(self) -> None:
        """SIGSTOP, to all of it: connections are taken and nothing answers."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.running is not None:
            self.running.end()
            self.running = None

    def _running(self) -> Tied:
        if self.running is None:
            raise RuntimeError(f"the server at {self.url} does not run")
        return self.running

    def _wait_until_ready(self, running: Tied) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with httpx.Client(timeout=5) as client:
            while not _answers(client, self.url):
                if (code := running.ended()) is not None:
                    raise TrackerDidNotStart(f"mlflow server ended with code {code}:\n{tail(self.log)}")
                if time.monotonic() > deadline:
                    raise TrackerDidNotStart(f"mlflow server did not answer within {READY_SECONDS:.0f} s:\n{tail(self.log)}")
                time.sleep(0.05)


@contextmanager
def mlflow_server(*, folder: Path | None = None, port: int = 0) -> Iterator[MlflowServer]:
    """A server that answers, on loopback, for as long as the context lasts.

    folder: where runs and artifacts lie and stay; without it, in a temporary folder that goes with the context.
    """
    part = MLFLOW.find()
    with ExitStack() as resources:
        place = folder if folder is not None else resources.enter_context(temporary_folder("mlflow"))

        def start() -> MlflowServer:
            server = MlflowServer(part, place, port or hold_port(resources))
            resources.callback(server.end)
            server.start()
            return server

        yield start() if port else on_free_ports(start)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def _build(folder: Path) -> None:
    uv, python = Path(sys.executable).parent / "uv", folder / "venv" / "bin" / "python"
    run(uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, folder / "venv")
    run(uv, "pip", "install", "--quiet", "--compile-bytecode", "--require-hashes", "--python", folder / "venv", "-r", _PINS)
    # Every server begins with a copy: making the tables takes longer than starting it.
    database = f"sqlite:///{folder / _DATABASE}"
    run(python, "-m", "mlflow", "db", "upgrade", database, environment={"MLFLOW_DISABLE_TELEMETRY": "true"})


MLFLOW: Final = Part(
    name=f"mlflow-{_PYTHON}",
    alias="mlflow",
    recipe=digest(_PINS, f"{_PYTHON}, relocatable"),
    build=_build,
)
