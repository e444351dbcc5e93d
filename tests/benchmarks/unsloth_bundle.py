"""What a CUDA machine without network lacks for Unsloth, or for all of the trainer, small enough to be carried there.

    python -m tests.benchmarks.unsloth_bundle FOLDER                               Unsloth, where the trainer's packages are
    python -m tests.benchmarks.unsloth_bundle FOLDER --has LIST --python 3.12      all that LIST lacks of the trainer's pins
    then, there: tar xJf FOLDER/unsloth.tar.xz, PYTHONPATH=where/it/lies

LIST is what `pip list --format=freeze` prints there; the versions of what it has are taken as they are, torch's above all. The
wheels come without their parts for other uses (a web studio, tests, bitsandbytes for other devices, benchmarks).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Final

import typer
from packaging.markers import Marker
from packaging.utils import canonicalize_name

from infra.real.unsloth import NEEDED, PINS, cut

_ROOT: Final = Path(__file__).parents[2]
BOUND_TO_TORCH: Final = re.compile(r"torch|torchvision|triton|xformers|nvidia-.*|cuda-.*")
"""Built for one torch and one CUDA: of another machine's, its own are taken, or none."""
PLATFORM: Final = "x86_64-manylinux_2_28"


def main(
    folder: Annotated[Path, typer.Argument(help="It is made, and holds `unsloth/` and `unsloth.tar.xz` afterwards.")],
    has: Annotated[Path | None, typer.Option(help="Packages of the other machine, NAME==VERSION a line.")] = None,
    python: Annotated[str, typer.Option(help="The other machine's Python.")] = f"{sys.version_info.major}.{sys.version_info.minor}",
) -> None:
    """Fetch, cut and pack."""
    site = folder / "unsloth"
    if site.exists():
        shutil.rmtree(site)
    site.mkdir(parents=True)
    there = None if has is None else names_in(has.read_text(encoding="utf-8"))
    what = [*wanted(PINS.read_text(encoding="utf-8"), there, python)]
    uv = [str(_ROOT / ".venv" / "bin" / "uv"), "pip", "install", "--target", str(site), "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*uv, "--python-version", python, "--python-platform", PLATFORM, *what], check=True)
    cut(site)
    if has is not None:
        for library in site.glob("torchao/_C*.so"):
            library.unlink()  # compiled against a torch that is not there
    packed = folder / "unsloth.tar.xz"
    with tarfile.open(packed, "w:xz", preset=6) as archive:
        for path in sorted(site.iterdir()):
            archive.add(path, arcname=path.name)
    print(f"{site}: {sum(path.stat().st_size for path in site.rglob('*') if path.is_file()) / 2**20:.0f} MiB, ", end="")
    print(f"{packed}: {packed.stat().st_size / 2**20:.0f} MiB")


def names_in(listed: str) -> frozenset[str]:
    """Names of a `pip list --format=freeze`, as they are compared."""
    return frozenset(canonicalize_name(line.split("==")[0].strip()) for line in listed.splitlines() if line.strip())


def wanted(pins: str, there: Collection[str] | None, python: str) -> Iterator[str]:
    """Pinned packages to be carried: those that Unsloth needs, or, where it is known what is there, all that is not.

    >>> [*wanted("numpy==2.4.6 ; python_full_version < '3.12'\\nnumpy==2.5.5 ; python_full_version >= '3.12'", (), "3.12")]
    ['numpy==2.5.5']
    """
    here = {
        "python_full_version": f"{python}.0", "python_version": python, "sys_platform": "linux", "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }  # fmt: skip
    for name, version, marker in re.findall(r"^([a-z0-9-]+)==([^ ;]+)(?: ; ([^\\\n]+))?", pins, re.MULTILINE):
        if marker and not Marker(marker.strip()).evaluate({**here}):
            continue
        if name in NEEDED if there is None else name not in there and not BOUND_TO_TORCH.fullmatch(name):
            yield f"{name}=={version}"


if __name__ == "__main__":
    typer.run(main)
