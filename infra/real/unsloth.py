"""Unsloth itself, with what it cannot be imported without, beside the packages of `.venv`: a folder for PYTHONPATH.

Versions and hashes are those of `pins/trainer-gpu.txt`; its own dependencies are in `.venv`, or training needs none of them.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Final

from infra.real.cache import Part, digest, run
from infra.real.tied import temporary_folder

PINS: Final = Path(__file__).resolve().parents[2] / "pins" / "trainer-gpu.txt"
NEEDED: Final = ("unsloth", "unsloth-zoo", "bitsandbytes", "torchao", "torchvision", "pillow", "sentencepiece", "cut-cross-entropy")
"""The last one is imported where it is there; without any of the others nothing starts."""
LEFT_OUT: Final = ("studio", "unsloth_cli", "test", "tests", "bin", "torchao/prototype/benchmarks")
CUDA: Final = "130"
_PYTHON: Final = f"python{sys.version_info[0]}.{sys.version_info[1]}"


def pinned(names: tuple[str, ...], pins: str) -> str:
    r"""The lines of some packages, hashes included.

    >>> pinned(("b",), "a==1 \\\n    --hash=sha256:00\nb==2 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n")
    'b==2 \\\n    --hash=sha256:11 \\\n    --hash=sha256:22\n'
    """
    entries = re.findall(r"^(?:[a-z0-9-]+)==(?:.*\\\n)*.*\n", pins, re.MULTILINE)
    return "".join(entry for entry in entries if entry.split("==")[0] in names)


def cut(site: Path) -> None:
    """Remove what training does not touch."""
    for name in LEFT_OUT:
        shutil.rmtree(site / name, ignore_errors=True)
    for library in site.glob("bitsandbytes/libbitsandbytes_*.so"):
        if library.stem.rpartition("_")[2] not in (f"cuda{CUDA}", "cpu"):
            library.unlink()
    for cache in [*site.rglob("__pycache__")]:
        shutil.rmtree(cache)


def _build(folder: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    with temporary_folder("unsloth") as place:
        wanted = place / "wanted.txt"
        wanted.write_text(pinned(NEEDED, PINS.read_text(encoding="utf-8")), encoding="utf-8")
        run(
            uv,
            "pip",
            "install",
            "--quiet",
            "--target",
            folder,
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "-r",
            wanted,
        )
    cut(folder)


UNSLOTH: Final = Part(
    name=f"unsloth-{_PYTHON}",
    alias="unsloth",
    recipe=digest(pinned(NEEDED, PINS.read_text(encoding="utf-8")), *LEFT_OUT, _PYTHON),
    build=_build,
)
