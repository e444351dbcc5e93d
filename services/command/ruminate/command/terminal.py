"""What all verbs do alike at a terminal: the options that find a broker, what is said where, and the exit that says how it ended.

Standard output is for what was asked for; everything else, complaints and questions, goes to standard error.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import sys
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TypeVar

import orjson
import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from ruminate.command.connection import NothingRuns
from ruminate.schemas.payload import Name
from ruminate.shared.bus import BusError

T = TypeVar("T")
Exceptions = tuple[type[Exception], ...]

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

DEFAULT_STATE: Final = Path(".ruminate")

State = Annotated[Path, typer.Option("--state", help="State folder of what `up` runs.", file_okay=False)]
Kafka = Annotated[
    str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Your Kafka; else the one in --state, else RUMINATE_*.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]

# What is printed is names and texts of others: nothing in it is a word to rich.
console = Console(markup=False, emoji=False, highlight=False)
complaints = Console(stderr=True, markup=False, emoji=False, highlight=False)


def line(out: Console, text: str, *, style: str | None = None) -> None:
    """One line of it, whatever its length."""
    out.print(printable(text), style=style, soft_wrap=True)


def printable(text: str) -> str:
    """Nothing that a terminal would take for a command: names and letters come from anybody."""
    return "".join(char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text)


def write_json(value: object) -> None:
    """One value, for people to read, too."""
    _write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def write_json_lines(values: Iterable[object]) -> None:
    """A value a line."""
    for value in values:
        _write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def who(by: str | None) -> str:
    """Who decides: as it was typed, else whoever types at this machine."""
    return whoever() if by is None else checked(Name, by, "--by")


def whoever() -> str:
    """Who types this, as what is published names them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"[:200]


def checked(kind: Any, text: str, option: str) -> str:
    """The text of an option, where it is one of this kind; else the end."""
    try:
        return TypeAdapter[str](kind).validate_python(text)
    except ValidationError as error:
        refuse(f"{option}: {error.errors(include_input=False, include_url=False)[0]['msg']}")


def refuse(message: str) -> NoReturn:
    """End: what was typed makes no sense."""
    _end(message, USAGE)


def fail(message: str) -> NoReturn:
    """End: it could not be done."""
    _end(message, FAILED)


def _end(message: str, code: int) -> NoReturn:
    line(complaints, f"ruminate: {message}", style="red")
    raise typer.Exit(code)


def run(work: Coroutine[Any, Any, T], *, failures: Exceptions = (), mistakes: Exceptions = ()) -> T:
    """What `work` gives. What we foresaw becomes one line and an exit, what we did not keeps its traceback.

    A mistake is in what was typed; a failure is anything else, as where no broker answers.
    """
    everywhere: Exceptions = (NothingRuns, BusError, OSError)
    try:
        return asyncio.run(work)
    except mistakes as error:
        refuse(str(error))
    except everywhere + failures as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
