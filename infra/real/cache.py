"""Parts lie in a cache outside of the checkout, each whole or not at all, and are built once for everybody.

The cache is `$RUMINATE_CACHE`, else `$XDG_CACHE_HOME/ruminate`, else `~/.cache/ruminate`; a part is a folder in it. It is
built beside its place and renamed, under a lock, so that neither an interruption nor a second installer leaves half of one.
An installer that is killed takes its tools along; the folder in which it built is removed by the next one.
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

from infra.real.tied import Tied, tail, temporary_folder


class MissingPart(RuntimeError):
    """A part, or a tool that builds one, is not there; the message names the line to type."""


class FailedTool(RuntimeError):
    """A tool that builds a part failed; the message shows the end of what it said."""


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
    """Debian's packages for each program that `build` calls: the first that the system knows is taken."""
    needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The same for what the part itself calls: a cache may have come from a machine that had it."""

    @property
    def place(self) -> Path:
        return cache_folder() / self.name

    @property
    def installed(self) -> bool:
        stamp = self.place / "recipe"
        return stamp.is_file() and stamp.read_text() == self.recipe

    def find(self) -> Path:
        """Its folder, if it is installed, and what it needs is there."""
        if not self.installed:
            raise MissingPart(f"{self.name} is not installed. Type:  .venv/bin/python -m infra.real install {self.alias}")
        _refuse(_missing(self.needs))
        return self.place

    def install(self, say: Callable[[str], None] = print) -> Path:
        """Its folder, built first where it is not there; says what was done."""
        with _locked(cache_folder() / f"{self.name}.lock", say):
            self._sweep(say)
            _demand(self.needs if self.installed else {**self.needs, **self.tools}, say)
            if self.installed:
                say(f"{self.name}: there already, {_megabytes(self.place)} in {self.place}")
                return self.place
            say(f"{self.name}: building …")
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=self._beside) as beside:
                new = Path(beside) / self.name
                new.mkdir()
                self.build(new)
                (new / "recipe").write_text(self.recipe)
                if self.place.exists():
                    self.place.rename(Path(beside) / "previous")
                new.rename(self.place)
            say(f"{self.name}: built in {time.monotonic() - begun:.0f} s, {_megabytes(self.place)} in {self.place}")
            return self.place

    @property
    def _beside(self) -> str:
        """What the names of the folders in which it is built begin with."""
        return f"{self.name}.new-"

    def _sweep(self, say: Callable[[str], None]) -> None:
        """Remove what killed installers have left. We hold the lock, so nobody is at work in any of it."""
        for left in cache_folder().glob(f"{self._beside}*"):
            say(f"{self.name}: removing {left.name}, which an installer that was killed has left")
            shutil.rmtree(left, ignore_errors=True)  # what cannot go is in nobody's way


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
    """Run a tool to its end and give its output. It ends with us, and all that it started. Raises FailedTool."""
    words = [str(word) for word in command]
    with temporary_folder("tool") as place:
        log = place / "said"
        tool = Tied(words, log=log, folder=folder, environment=environment)
        try:
            code = tool.wait()
        finally:
            tool.end()
        if code:
            raise FailedTool(f"`{' '.join(words)}` ended with code {code}:\n{tail(log, lines=40)}")
        return log.read_text(errors="replace")


def _demand(tools: Mapping[str, tuple[str, ...]], say: Callable[[str], None]) -> None:
    """See that every tool is there; a fresh machine of a CI, where we are root on Debian, gets what is missing."""
    missing = _missing(tools)
    if missing and os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        run("apt-get", "update", "-q")
        packages = sorted({_known(packages) for packages in missing.values()})
        say(f"apt-get install {' '.join(packages)} …")
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages, environment=environment)
        missing = _missing(tools)
    _refuse(missing)


def _missing(tools: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
    return {tool: packages for tool, packages in tools.items() if not _there(tool)}


def _refuse(missing: Mapping[str, tuple[str, ...]]) -> None:
    """Raises MissingPart where anything is missing."""
    if missing:
        packages = sorted({packages[0] for packages in missing.values()})
        raise MissingPart(f"{', '.join(sorted(missing))}: not there. Type:  sudo apt-get install {' '.join(packages)}")


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
def _locked(lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{lock.stem}: another installer is at work on it; waiting for that one …")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _megabytes(folder: Path) -> str:
    return f"{sum(found.stat().st_size for found in folder.rglob('*') if found.is_file()) / 1e6:.0f} MB"
