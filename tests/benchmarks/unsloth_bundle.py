"""What a CUDA machine without network lacks for Unsloth, small enough to be carried there.

    python -m tests.benchmarks.unsloth_bundle FOLDER          then, there: tar xJf FOLDER/unsloth.tar.xz, PYTHONPATH=where/it/lies

The pinned wheels of what `import unsloth` and training need beside the trainer's own packages, without their parts for other uses
(its web studio, tests, bitsandbytes for other devices). They are for the Python and the CUDA of the pins (torch 2.13, CUDA 13.0).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Annotated, Final

import typer

_ROOT: Final = Path(__file__).parents[2]
PINS: Final = _ROOT / "pins" / "trainer-gpu.txt"
NEEDED: Final = ("unsloth", "unsloth-zoo", "bitsandbytes", "torchao", "torchvision", "pillow", "sentencepiece", "cut-cross-entropy")
"""The last one is imported where it is there; without any of the others nothing starts."""
LEFT_OUT: Final = ("studio", "unsloth_cli", "test", "tests", "bin", "torchao/prototype/benchmarks")
CUDA: Final = "130"


def main(folder: Annotated[Path, typer.Argument(help="It is made, and holds `unsloth/` and `unsloth.tar.xz` afterwards.")]) -> None:
    """Fetch, cut and pack."""
    site = folder / "unsloth"
    if site.exists():
        shutil.rmtree(site)
    site.mkdir(parents=True)
    subprocess.run(
        [_ROOT / ".venv" / "bin" / "uv", "pip", "install", "--python", sys.executable, "--target", site, "--no-deps", *wanted()],
        check=True,
    )
    cut(site)
    packed = folder / "unsloth.tar.xz"
    with tarfile.open(packed, "w:xz", preset=6) as archive:
        for path in sorted(site.iterdir()):
            archive.add(path, arcname=path.name)
    print(f"{site}: {sum(path.stat().st_size for path in site.rglob('*') if path.is_file()) / 2**20:.0f} MiB, ", end="")
    print(f"{packed}: {packed.stat().st_size / 2**20:.0f} MiB")


def wanted() -> list[str]:
    """The needed packages in their pinned versions."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", PINS.read_text(encoding="utf-8"), re.MULTILINE))
    return [f"{name}=={pinned[name]}" for name in NEEDED]


def cut(site: Path) -> None:
    """Remove what training does not touch."""
    for name in LEFT_OUT:
        shutil.rmtree(site / name, ignore_errors=True)
    for library in site.glob("bitsandbytes/libbitsandbytes_*.so"):
        if library.stem.rpartition("_")[2] not in (f"cuda{CUDA}", "cpu"):
            library.unlink()
    for cache in [*site.rglob("__pycache__")]:
        shutil.rmtree(cache)


if __name__ == "__main__":
    typer.run(main)
