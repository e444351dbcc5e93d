"""Prometheus' own checker of rules, out of Debian's package: the program alone, nothing of it is installed into the system.

Where one is on the PATH (`brew install prometheus`), that one is taken.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from infra.real.cache import Part, digest, run
from infra.real.tied import temporary_folder


def find_promtool() -> Path:
    """The program. Raises MissingPart, which names the line to type."""
    there = shutil.which("promtool")
    return Path(there) if there else PROMTOOL.find() / "promtool"


def _build(folder: Path) -> None:
    if os.environ.get("CI") and os.geteuid() == 0:
        run("apt-get", "update", "-q")  # a fresh machine of a CI knows of no packages yet
    with temporary_folder("promtool-install") as place:
        # Installed, the package would start a server.
        run("apt-get", "download", "-q", "prometheus", folder=place)
        (package,) = place.glob("prometheus_*.deb")
        run("dpkg-deb", "--extract", package, place / "unpacked")
        shutil.copy2(place / "unpacked" / "usr" / "bin" / "promtool", folder / "promtool")


PROMTOOL = Part(
    name="promtool",
    alias="promtool",
    recipe=digest("the program out of Debian's package"),
    build=_build,
    tools={"apt-get": ("apt",), "dpkg-deb": ("dpkg",)},
)
