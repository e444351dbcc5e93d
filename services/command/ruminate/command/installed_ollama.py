"""An Ollama that is installed on this machine: where it is, which version, and what to type where there is none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

VARIABLE = "RUMINATE_OLLAMA_BINARY"
HOW_TO_INSTALL = (
    f"install Ollama so that `ollama --version` answers, or name the program in {VARIABLE}. In a checkout, `make real` builds two"
)
_ANSWER_WITHIN_SECONDS = 10.0


class NoOllama(Exception):
    """There is no program to start: `what` says why, the message also what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; {HOW_TO_INSTALL}")
        self.what = what


def find_ollama() -> Path:
    """The program that RUMINATE_OLLAMA_BINARY names, else `ollama` on the PATH. Raises NoOllama."""
    named = os.environ.get(VARIABLE)
    found = shutil.which(named or "ollama")
    if found is None:
        looked = f"{VARIABLE} names {named}, which is no program" if named else "there is no `ollama` on the PATH"
        raise NoOllama(looked)
    return Path(found).absolute()


def version_of(program: Path) -> str:
    """Which version it says it is. Raises NoOllama where it does not say."""
    # Nobody listens there, so that it speaks of itself and not of a server that happens to run.
    environment = os.environ | {"OLLAMA_HOST": "127.0.0.1:1"}
    try:
        said = subprocess.run(  # noqa: S603 - the program that the user named
            (program, "--version"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_ANSWER_WITHIN_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoOllama(f"{program} does not run: {error}") from None
    version = re.search(r"version is (\S+)", said)
    if version is None:
        raise NoOllama(f"{program} is no Ollama: asked for its version, it said {said.strip()[:200]!r}")
    return version[1]
