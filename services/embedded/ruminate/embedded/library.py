"""Models on disk: blobs under their own sha256, and a manifest a name, laid out as Ollama lays them out.

A blob is written beside its place and renamed into it, a manifest likewise, so that whoever reads finds a whole one or
none, whenever the process ends. A model's digest is the sha256 of its manifest, and nothing of this machine is in it:
equal content has equal digests on every node.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ruminate.embedded.decide import (
    ModelName,
    Refused,
    human_number,
    parse_name,
    template_capabilities,
)
from ruminate.embedded.weights import Header, read_header

log = structlog.get_logger()

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")
_KIND = "application/vnd.ollama.image."
_WRITE_BYTES = 1 << 20


class Layer(BaseModel):
    """One blob of a model, and what it is to it."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    media_type: str = Field(alias="mediaType")
    digest: str
    size: int

    @property
    def kind(self) -> str:
        """`model`, `adapter`, `template`, `system`, `params`, `messages`, `license`."""
        return self.media_type.removeprefix(_KIND)


class Manifest(BaseModel):
    """The blobs of one model."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_version: int = Field(default=2, alias="schemaVersion")
    media_type: str = Field(default="application/vnd.docker.distribution.manifest.v2+json", alias="mediaType")
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def digests(self) -> frozenset[str]:
        """Every blob that it needs."""
        return frozenset(layer.digest for layer in (*self.layers, self.config))

    def digest_of(self, kind: str) -> str | None:
        """The blob of this kind, the last if there are several."""
        return next((layer.digest for layer in reversed(self.layers) if layer.kind == kind), None)


@dataclass(frozen=True, slots=True)
class Model:
    """One name, with everything that its manifest names read."""

    name: ModelName
    digest: str
    size_bytes: int
    modified_at: datetime
    weights: Path
    weights_digest: str
    adapter: Path | None
    header: Header
    template: str
    system: str
    parameters: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    licenses: tuple[str, ...]

    @property
    def capabilities(self) -> tuple[str, ...]:
        """`completion` or `embedding`, and what its template adds."""
        pooled = f"{self.header.architecture}.pooling_type" in self.header.metadata
        template = template_capabilities(go=self.template, jinja=self.header.chat_template)
        return ("embedding" if pooled else "completion", *template)

    @property
    def details(self) -> dict[str, Any]:
        """What lists say of it."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.header.architecture,
            "families": [self.header.architecture],
            "parameter_size": human_number(self.header.parameters),
            "quantization_level": self.header.file_type,
        }


class Library:
    """Every model of a node. `shelf` is held by whoever adds names or takes them away."""

    def __init__(self, root: Path) -> None:
        self.blobs, self.manifests = root / "blobs", root / "manifests"
        for folder in (self.blobs, self.manifests):
            folder.mkdir(parents=True, exist_ok=True)
        for left_over in self.blobs.glob("partial-*"):
            left_over.unlink()
        self.shelf = asyncio.Lock()

    def blob(self, digest: str) -> Path:
        """Where these bytes lie, or would; Refused where `digest` is none."""
        if not _DIGEST.fullmatch(digest):
            raise Refused(400, "invalid digest format")
        return self.blobs / digest.lower().replace(":", "-")

    async def take_in(self, digest: str, pieces: AsyncIterable[bytes]) -> bool:
        """Store uploaded bytes under their digest; False if they are here already, Refused if they are others."""
        place = self.blob(digest)
        if place.exists():
            return False
        partial = self.partial()
        sha256 = hashlib.sha256()
        try:
            with partial.open("wb") as file:
                waiting = bytearray()
                async for piece in pieces:
                    waiting += piece
                    if len(waiting) >= _WRITE_BYTES:
                        await asyncio.to_thread(_write, file.fileno(), sha256, bytes(waiting))
                        waiting.clear()
                await asyncio.to_thread(_write, file.fileno(), sha256, bytes(waiting))
                await asyncio.to_thread(os.fsync, file.fileno())
            found = f"sha256:{sha256.hexdigest()}"
            if found != digest.replace("-", ":"):
                raise Refused(400, f'digest mismatch, expected "{digest}", got "{found}"')
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
        return True

    def partial(self) -> Path:
        """A fresh place for bytes whose digest is not known yet; swept away at the next start."""
        return self.blobs / f"partial-{secrets.token_hex(8)}"

    def store(self, kind: str, content: bytes) -> tuple[Layer, bool]:
        """A layer of small content, and whether its blob is new."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        place = self.blob(digest)
        fresh = not place.exists()
        if fresh:
            _write_atomically(place, content)
        media_type = "application/vnd.docker.container.image.v1+json" if kind == "config" else _KIND + kind
        return Layer(media_type=media_type, digest=digest, size=len(content)), fresh

    def shelve(self, partial: Path) -> str:
        """Move a finished file under its own digest, which is given."""
        with partial.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        partial.replace(self.blob(digest))
        return digest

    def layer(self, kind: str, digest: str) -> Layer:
        """A layer over a blob that is here; Refused if it is not."""
        place = self.blob(digest)
        if not place.exists():
            raise Refused(500, f"open {place}: no such file or directory")
        return Layer(media_type=_KIND + kind, digest=digest.replace("-", ":"), size=place.stat().st_size)

    def name(self, manifest: Manifest, name: ModelName) -> None:
        """Let `name` stand for this content from now on, and drop blobs that only its former content used."""
        former = self.manifest(name)
        _write_atomically(self._path(name), orjson.dumps(manifest.model_dump(by_alias=True)) + b"\n")
        if former is not None:
            self._drop(former.digests)

    def copy(self, source: ModelName, destination: ModelName) -> bool:
        """Let `destination` stand for what `source` stands for; False if that is nothing."""
        manifest = self.manifest(source)
        if manifest is None:
            return False
        former = self.manifest(destination)
        _write_atomically(self._path(destination), self._path(source).read_bytes())
        if former is not None:
            self._drop(former.digests)
        return True

    def delete(self, name: ModelName) -> bool:
        """Forget a name, and the blobs that no other name uses; False if there is no such name."""
        manifest = self.manifest(name)
        if manifest is None:
            return False
        place = self._path(name)
        place.unlink()
        for folder in place.parents[:3]:
            if any(folder.iterdir()):
                break
            folder.rmdir()
        self._drop(manifest.digests)
        return True

    def existing(self, name: ModelName) -> ModelName:
        """The name as it is written on disk: case does not make another name."""
        if self._path(name).exists():
            return name
        return next((known for known in self.names() if known.full.lower() == name.full.lower()), name)

    def names(self) -> Iterator[ModelName]:
        """Every name that has a manifest."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            host, namespace, model, tag = path.relative_to(self.manifests).parts
            if not tag.startswith("."):
                yield ModelName(host, namespace, model, tag)

    def manifest(self, name: ModelName) -> Manifest | None:
        """The manifest of a name, None if there is none."""
        try:
            return Manifest.model_validate_json(self._path(name).read_bytes())
        except FileNotFoundError:
            return None

    def models(self) -> list[Model]:
        """Every model, last changed first. One that cannot be read is logged and left out."""
        found: list[Model] = []
        for name in self.names():
            try:
                found.append(self._read(name))
            except (OSError, ValidationError, orjson.JSONDecodeError) as error:
                log.warning("model_unreadable", model=name.short, error=str(error))
        return sorted(found, key=lambda model: model.modified_at, reverse=True)

    def find(self, text: str, *, status: int = 404, error: str = "model '{}' not found") -> Model:
        """The model of this name; Refused in Ollama's words where there is none."""
        name = self.existing(parse_name(text))
        try:
            return self._read(name)
        except FileNotFoundError:
            raise Refused(status, error.format(text)) from None

    def header(self, digest: str) -> Header:
        """What a GGUF blob says of itself."""
        return _header(self.blob(digest))

    def _read(self, name: ModelName) -> Model:
        place = self._path(name)
        raw = place.read_bytes()
        manifest = Manifest.model_validate_json(raw)
        weights = manifest.digest_of("model")
        if weights is None:
            raise FileNotFoundError(f"{name.short} names no weights")
        adapter = manifest.digest_of("adapter")
        return Model(
            name=name,
            digest=hashlib.sha256(raw).hexdigest(),
            size_bytes=sum(layer.size for layer in (*manifest.layers, manifest.config)),
            modified_at=datetime.fromtimestamp(place.stat().st_mtime, UTC),
            weights=self.blob(weights),
            weights_digest=weights,
            adapter=None if adapter is None else self.blob(adapter),
            header=self.header(weights),
            template=self._text(manifest, "template"),
            system=self._text(manifest, "system"),
            parameters=orjson.loads(self._text(manifest, "params") or "{}"),
            messages=tuple(orjson.loads(self._text(manifest, "messages") or "[]")),
            licenses=tuple(self.blob(layer.digest).read_text() for layer in manifest.layers if layer.kind == "license"),
        )

    def _text(self, manifest: Manifest, kind: str) -> str:
        digest = manifest.digest_of(kind)
        return "" if digest is None else self.blob(digest).read_text()

    def _drop(self, digests: frozenset[str]) -> None:
        used = {digest for name in self.names() if (manifest := self.manifest(name)) for digest in manifest.digests}
        for digest in digests - used:
            self.blob(digest).unlink(missing_ok=True)

    def _path(self, name: ModelName) -> Path:
        return self.manifests.joinpath(*name.parts)


@lru_cache(maxsize=256)
def _header(path: Path) -> Header:
    # A blob is named by its content, so what was read once stays true.
    return read_header(path)


def _write(descriptor: int, sha256: hashlib._Hash, content: bytes) -> None:
    sha256.update(content)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_atomically(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)
