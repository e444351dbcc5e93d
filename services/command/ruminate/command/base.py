"""The base that a target starts from: the caller's folder or hub name, or the small one that comes along and can calculate.

torch lives in the trainer, so what needs it runs as a process of the trainer's.
"""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Final

import orjson

from ruminate.shared.process import Rope
from ruminate.shared.store import hash_file
from ruminate.trainer.bases.arithmetic import anchors, exam
from ruminate.trainer.settings import SCHOOL_PROBLEMS, SCHOOL_SET

ANCHORS: Final = 2400
EXAM_QUESTIONS: Final = 256


class BaseError(Exception):
    """The base cannot be used; the message says why and what to do."""


_REHEARSED: Final = "base/sums.jsonl"
_EXAM: Final = "base/exam.jsonl"


def small_base() -> Path:
    """Where the small base lies, as it was shipped."""
    return Path(str(files("ruminate.trainer.bases") / "small_qwen3"))


def asked_of_small_base(state: Path) -> dict[str, str]:
    """The settings by which what the small base can do is rehearsed with every batch and asked of every version."""
    exams = orjson.dumps({"sums": str(state / _EXAM)}).decode()
    return {
        "RUMINATE_ANCHOR_ROWS": orjson.dumps({"sums": str(state / _REHEARSED)}).decode(),
        "RUMINATE_PROOF_SETS": exams,
        "RUMINATE_PROTECTED_SETS": exams,
    }


def write_what_small_base_can(state: Path) -> None:
    """The rows and the questions that these settings name."""
    rows = anchors(ANCHORS, Random(0))  # noqa: S311 - no secret
    for name, lines in ((_REHEARSED, rows), (_EXAM, exam(EXAM_QUESTIONS))):
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def asked_of_any_base() -> dict[str, str]:
    """The setting that keeps what every version is asked unless told otherwise out of what is trained."""
    return {"RUMINATE_PROTECTED_SETS": orjson.dumps({SCHOOL_SET: str(SCHOOL_PROBLEMS)}).decode()}


def require_base(base: str) -> None:
    """Refuse a folder that holds no model. Raises BaseError."""
    if Path(base).is_absolute() and not (Path(base) / "config.json").exists():
        raise BaseError(f"base {base} has no config.json; --base takes a folder with a Qwen3 model, or a hub name")


async def weights_of(base: Path, *, state: Path) -> tuple[Path, str]:
    """The base as one GGUF file, and its SHA-256: what a node is given. Raises BaseError."""
    if not (base / "config.json").exists():
        raise BaseError(
            f"{base} is not a folder with a model, so it cannot be given to a node; download it, or create the target there"
        )
    # Another release may bring another base in the same place.
    newest = max(path.stat().st_mtime_ns for path in base.iterdir())
    weights = state / "base" / f"{base.name}-{newest:x}-f16.gguf"
    if not weights.exists():
        await _trainer("ruminate.trainer.export", str(base), str(weights), "--encoding", "f16")
    sha256, _ = await asyncio.to_thread(hash_file, weights)
    return weights, sha256


async def _trainer(module: str, *arguments: str) -> None:
    rope = Rope()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ruminate.shared.process", module, *arguments),
            env=environment | rope.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            pass_fds=(rope.reading_end,),
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
    finally:
        rope.cut()
    if process.returncode != 0:
        raise BaseError(f"{module} ended with exit {process.returncode}: {output.decode(errors='replace')[-2000:]}")
