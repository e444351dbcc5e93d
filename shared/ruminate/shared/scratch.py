"""Scratch: a folder for what is on its way somewhere else, gone with whoever made it, also where that was killed.

    with scratch("dataset") as folder: ...

What lies there are texts that somebody may have to be rid of, and nobody else knows of the folder. So it is locked for as long
as its process lives, and `sweep_scratch` removes those that nobody holds any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "ruminate-scratch-"


@contextmanager
def scratch(what: str) -> Iterator[Path]:
    """An empty folder of our own below the machine's folder for temporary files, for as long as the context lasts."""
    folder, lock = _made(f"{_PREFIX}{what}-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep_scratch() -> None:
    """Remove what processes that are gone have left. What is another user's is left to them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _made(prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # swept before it was locked
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)
