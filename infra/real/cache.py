"""Parts lie in a cache outside of the checkout, each whole or not at all, and are built once for everybody.

The cache is `$RUMINATE_CACHE`, else `$XDG_CACHE_HOME/ruminate`, else `~/.cache/ruminate`; a part is a folder in it. It is
built beside its place and renamed, under a lock, so that neither an interruption nor a second installer leaves half of one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path


class MissingPart(RuntimeError):
    """A part, or a tool that builds one, is not there; the message names the line to type."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Something to install: what it is made from, what makes it, and how."""

    name: str
    """Of its folder, version included."""
    alias: str
    """The word for it on the command line."""
    recipe: str
    """Digest of all that decides the contents: another one means to build again."""
    build: Callable[[Path], None]
    """Fills an empty folder."""
    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Debian's packages for each program that `build` or the part itself calls: the first that the system knows is taken."""

    @property
    def place(self) -> Path:
        return cache_folder() / self.name

    @property
    def installed(self) -> bool:
        stamp = self.place / "recipe"
        return stamp.is_file() and stamp.read_text() == self.recipe

    def find(self) -> Path:
        """Its folder, if it is installed."""
        if not self.installed:
            raise MissingPart(f"{self.name} is not installed. Type:  .venv/bin/python -m infra.real install {self.alias}")
        return self.place

    def install(self, say: Callable[[str], None] = print) -> Path:
        """Its folder, built first where it is not there; says what was done."""
        with _locked(cache_folder() / f"{self.name}.lock"):
            if self.installed:
                say(f"{self.name}: there already, {_megabytes(self.place)} in {self.place}")
                return self.place
            _demand(self.tools, say)
            say(f"{self.name}: building …")
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=f"{self.name}.new-") as beside:
                new = Path(beside) / self.name
                new.mkdir()
                self.build(new)
                (new / "recipe").write_text(self.recipe)
                if self.place.exists():
                    self.place.rename(Path(beside) / "previous")
                new.rename(self.place)
            say(f"{self.name}: built in {time.monotonic() - begun:.0f} s, {_megabytes(self.place)} in {self.place}")
            return self.place


def cache_folder() -> Path:
    """Where parts lie; created if it is not there."""
    home = os.environ.get("RUMINATE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ruminate"
    folder = Path(home).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def digest(*inputs: str | Path) -> str:
    """A recipe from words and the contents of files."""
    digests = (sha256(i.read_bytes() if isinstance(i, Path) else i.encode()).digest() for i in inputs)
    return sha256(b"".join(digests)).hexdigest()


def run(*command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a tool to its end and give its output; where it fails, the error shows the end of what it said."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=None if environment is None else {**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-40:])
        raise RuntimeError(f"`{' '.join(map(str, command))}` ended with code {done.returncode}:\n{end}")
    return done.stdout


def _demand(tools: Mapping[str, tuple[str, ...]], say: Callable[[str], None]) -> None:
    """See that every tool is there; a fresh machine of a CI, where we are root on Debian, gets what is missing."""
    missing = {tool: packages for tool, packages in tools.items() if not _there(tool)}
    if not missing:
        return
    if os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        run("apt-get", "update", "-q")
        packages = sorted({_known(packages) for packages in missing.values()})
        say(f"apt-get install {' '.join(packages)} …")
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages, environment=environment)
        missing = {tool: packages for tool, packages in tools.items() if not _there(tool)}
    if missing:
        names = ", ".join(sorted(missing))
        packages = sorted({packages[0] for packages in missing.values()})
        raise MissingPart(f"{names}: not there. Type:  sudo apt-get install {' '.join(packages)}")


def _there(tool: str) -> bool:
    """A program on the path, or a file where the word begins with a slash."""
    return Path(tool).exists() if tool.startswith("/") else shutil.which(tool) is not None


def _known(packages: Iterable[str]) -> str:
    for package in packages:
        found = subprocess.run(("apt-cache", "show", package), capture_output=True, check=False)
        if found.returncode == 0:
            return package
    raise MissingPart(f"this system has none of the packages {', '.join(packages)}")


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _megabytes(folder: Path) -> str:
    return f"{sum(found.stat().st_size for found in folder.rglob('*') if found.is_file()) / 1e6:.0f} MB"
