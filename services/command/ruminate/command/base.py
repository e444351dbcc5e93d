"""The base that a target starts from: the caller's folder or hub name, or the tiny stand-in, made once in the state folder.

torch lives in the trainer, so what needs it runs as a process of the trainer's.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from ruminate.command.demo.lesson import corpus
from ruminate.shared.process import Rope
from ruminate.shared.store import hash_file

SEED = 0


class BaseError(Exception):
    """The base cannot be used; the message says why and what to do."""


def tiny_base(state: Path) -> Path:
    """Where the tiny stand-in for Qwen3 lies in a state folder."""
    return state / "base" / "tiny-qwen3"


async def prepare_base(base: str, *, state: Path, say: Callable[[str], None]) -> None:
    """Make the tiny base if it is the one that is asked for and is not there yet. Raises BaseError."""
    folder = tiny_base(state)
    if Path(base) != folder:
        if Path(base).is_absolute() and not (Path(base) / "config.json").exists():
            raise BaseError(f"base {base} has no config.json; --base takes a folder with a Qwen3 model, or a hub name")
        return
    if (folder / "config.json").exists():
        return
    say("making the tiny Qwen3 (random weights, a vocabulary of its own)")
    texts = state / "base" / "corpus.txt"
    texts.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(texts.write_text, "\n".join(corpus()), encoding="utf-8")
    # Its config.json is written before its weights: killed in between, half a base would pass for a whole one.
    making = folder.with_name(f".making-{folder.name}")
    for unfinished in (making, folder):
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
    await _trainer("ruminate.trainer.tiny", str(making), "--corpus", str(texts), "--seed", str(SEED))
    making.rename(folder)


async def weights_of(base: Path, *, state: Path) -> tuple[Path, str]:
    """The base as one GGUF file, and its SHA-256: what a node is given. Raises BaseError."""
    if not (base / "config.json").exists():
        raise BaseError(
            f"{base} is not a folder with a model, so it cannot be given to a node; download it, or create the target there"
        )
    weights = state / "base" / f"{base.name}-f16.gguf"
    if not weights.exists():
        await _trainer("ruminate.trainer.gguf_export", str(base), str(weights), "--encoding", "f16")
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
