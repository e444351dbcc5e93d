"""A virtual environment for quixstreams, which needs an older confluent-kafka than the services: from pins, in the cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from infra.real.cache import Part, digest, run

_PINS: Final = Path(__file__).parent.parent / "quixstreams.txt"
_ROOT: Final = Path(__file__).parents[3]


def _build(folder: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    run(uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, folder / "venv")
    run(uv, "pip", "install", "--quiet", "--require-hashes", "--python", folder / "venv", "-r", _PINS)


QUIXSTREAMS: Final = Part(
    name="bench-quixstreams",
    alias="quixstreams",
    recipe=digest(_PINS, f"python {sys.version_info[:2]}, relocatable"),
    build=_build,
)


def quixstreams_python() -> str:
    """Its Python; the environment is made first where it is not there."""
    place = QUIXSTREAMS.place if QUIXSTREAMS.installed else QUIXSTREAMS.install()
    return str(place / "venv" / "bin" / "python")


def import_path() -> str:
    """PYTHONPATH for a Python that does not have the workspace installed."""
    return os.pathsep.join(map(str, (_ROOT, _ROOT / "schemas", _ROOT / "shared", *sorted(_ROOT.glob("services/*/")))))
