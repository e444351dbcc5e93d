"""MLflow's tracking server itself, for as long as a context lasts: from PyPI, in a virtual environment of its own.

    with mlflow_server() as server:
        server.url                 where it answers
        server.stop()              asks politely; kill() does not
        server.start()             back on the same port, with all that it was told
        server.forget()            as one that was set up anew; only while it does not run
        server.pause()             connections are taken and nothing answers; resume()

    with mlflow_server(guard=Guard(...)) as server:    answers by TLS alone, and whoever logs in

It keeps runs in SQLite and takes artifacts itself, as `mlflow server` does by default. Everything is pinned with hashes in
`pins/mlflow.txt`.
"""

from __future__ import annotations

import shutil
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.real.cache import Part, digest, run
from infra.real.ports import hold_port, on_free_ports
from infra.real.server import Server
from infra.real.tied import temporary_folder

_PINS: Final = Path(__file__).resolve().parents[2] / "pins" / "mlflow.txt"
_DATABASE: Final = "mlflow.db"
_USERS: Final = "users.ini"
USER: Final = "admin"
"""Of a server that asks for a log-in."""
_PYTHON: Final = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Guard:
    """What a server that asks for a log-in needs: PEM files, and the password of USER."""

    certificate: Path
    key: Path
    authority: Path
    password: str


@dataclass(kw_only=True)
class MlflowServer(Server):
    """One server, with its runs in a folder."""

    named = "mlflow"
    answers_at = "/health"
    ready_seconds = 180.0  # it imports for four seconds of a free processor, twice
    stop_seconds = 20.0

    part: Path
    guard: Guard | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return super().url if self.guard is None else f"https://127.0.0.1:{self.port}"

    def trusted(self) -> ssl.SSLContext | bool:
        """Its own authority."""
        return super().trusted() if self.guard is None else ssl.create_default_context(cafile=self.guard.authority)

    def prepare(self) -> None:
        """A database with its tables, where there is none."""
        if not (self.folder / _DATABASE).exists():
            shutil.copy(self.part / _DATABASE, self.folder)
        if self.guard is not None:
            (self.folder / _USERS).write_text(
                f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{self.folder / 'users.db'}\n"
                f"admin_username = {USER}\nadmin_password = {self.guard.password}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
                encoding="utf-8",
            )

    def command(self) -> Sequence[str]:
        """One worker, which keeps runs and artifacts in the folder."""
        options = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
            "--backend-store-uri": f"sqlite:///{self.folder / _DATABASE}",
            "--artifacts-destination": str(self.folder / "artifacts"),
        }
        if self.guard is not None:
            options["--app-name"] = "basic-auth"
            options["--uvicorn-opts"] = f"--ssl-certfile {self.guard.certificate} --ssl-keyfile {self.guard.key}"
        words = (word for option in options.items() for word in option)
        return (str(self.part / "venv" / "bin" / "python"), "-m", "mlflow", "server", *words)

    def environment(self) -> Mapping[str, str]:
        """It tells its makers nothing, and starts no more than it needs."""
        return {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, which evaluate traces
            **({} if self.guard is None else {"MLFLOW_AUTH_CONFIG_PATH": _USERS, "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test"}),
        }

    def forget(self) -> None:
        """Lose all that it was told, as a server that was set up anew."""
        if self.running is not None:
            raise RuntimeError(f"the server at {self.url} runs: stop it first")
        (self.folder / _DATABASE).unlink()


@contextmanager
def mlflow_server(*, folder: Path | None = None, port: int = 0, guard: Guard | None = None) -> Iterator[MlflowServer]:
    """A server that answers, on loopback, for as long as the context lasts.

    folder: where runs and artifacts lie and stay; without it, in a temporary folder that goes with the context.
    guard: with it, it answers by TLS, and nobody but USER with the password.
    """
    part = MLFLOW.find()
    with ExitStack() as resources:
        place = folder if folder is not None else resources.enter_context(temporary_folder("mlflow"))

        def start() -> MlflowServer:
            server = MlflowServer(part=part, folder=place, guard=guard, port=port or hold_port(resources))
            resources.callback(server.end)
            server.start()
            return server

        yield start() if port else on_free_ports(start)


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
