"""Artifacts: files and folders, addressed by the hash of their bytes. The manifest is written last.

    <root>/blobs/<first two>/<sha256>          bytes
    <root>/<kind>/<name>/<sha256>.json         a folder's manifest: path, sha256 and size of each file

Whoever loses a race overwrites nothing: equal bytes lie under one name, other bytes under another. Only what no longer
has the bytes of its name is replaced, by those bytes.

On its way in, a folder's manifest is the first of its files under another name (`.unfinished-…`), so that what a crash leaves of
it is named by something, and can be taken out.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import orjson
from pydantic import ValidationError

from ruminate.schemas.payload import ArtifactReference

_CHUNK_BYTES = 1024 * 1024
_PARTIAL = ".partial-"
_UNFINISHED = ".unfinished-"


class StoreError(Exception):
    """The store cannot do what was asked; the message names the artifact and the way out."""


class ArtifactMissing(StoreError):
    """Nothing lies where the reference points."""


class NotInFolder(ArtifactMissing):
    """The folder is whole, and has no file of that name."""


class ArtifactDamaged(StoreError):
    """What lies there does not have the bytes that the reference names."""


class Store(Protocol):
    """Where datasets, adapters and GGUF files lie."""

    async def put_file(self, path: Path, *, kind: str, name: str) -> ArtifactReference:
        """Keep a copy of the file. Writing the same bytes again changes nothing."""
        ...

    async def put_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        """Keep a copy of every file in the folder; the reference is to the manifest, which is written last."""
        ...

    async def address_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        """The reference that `put_tree` would give; nothing is kept."""
        ...

    async def check(self, reference: ArtifactReference) -> None:
        """Read the artifact where it lies, every byte verified. Raises ArtifactMissing, ArtifactDamaged."""
        ...

    async def fetch(self, reference: ArtifactReference, *, to: Path) -> Path:
        """Copy the artifact to `to` (a file, or a folder for a manifest), every byte verified.

        Raises ArtifactMissing, ArtifactDamaged.
        """
        ...

    async def read_bytes(self, reference: ArtifactReference) -> bytes:
        """The bytes behind the reference (a manifest's own), verified."""
        ...

    async def read_file(self, reference: ArtifactReference, path: str) -> bytes:
        """One file of a folder, verified by the hash that the folder's manifest names.

        Raises NotInFolder, ArtifactMissing, ArtifactDamaged.
        """
        ...

    async def local_path(self, reference: ArtifactReference) -> Path | None:
        """Where a single file lies on this machine, or None when it has to be fetched. Not verified."""
        ...

    async def find_trees(self, *, kind: str, name: str) -> list[ArtifactReference]:
        """Every folder kept under this kind and name, the latest last; each manifest is verified, its files are not.

        Raises ArtifactDamaged.
        """
        ...

    async def list_trees(self, *, kind: str) -> list[tuple[str, ArtifactReference]]:
        """Every folder kept under this kind, with its name. Raises ArtifactDamaged."""
        ...

    async def remove_tree(self, reference: ArtifactReference) -> None:
        """Take a folder out of the store: every file that no other folder names, and last its manifest.

        What a crash has left on its way into the store goes with it. Nothing happens where it is gone already. Waits until nobody
        is putting anything in, for that may be the same files.
        """
        ...

    async def remove_unfinished(self) -> None:
        """Take out what a crash has left on its way into the store. Waits until nobody is putting anything in."""
        ...


def open_store(uri: str) -> Store:
    """The store behind a `file://` address, absolute or relative to the working folder."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise StoreError(f"store {uri!r}: only file:// is known; set RUMINATE_STORE_URI to file:///some/folder")
    return FileStore(Path(unquote(parts.netloc + parts.path)))


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 and length in bytes of a file, read once in pieces."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


@dataclass(frozen=True)
class _TreeFile:
    """One file of a folder, as the folder's manifest names it."""

    path: str
    sha256: str
    size_bytes: int


class FileStore:
    """A store in a folder of this machine, or on a disk that all services share."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    async def put_file(self, path: Path, *, kind: str, name: str) -> ArtifactReference:
        """See Store."""
        del kind, name  # a single file is found by its reference alone
        return await asyncio.to_thread(self._put_file, path)

    async def put_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        """See Store."""
        return await asyncio.to_thread(self._put_tree, folder, kind, name)

    async def address_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        """See Store."""
        reference, _, _ = await asyncio.to_thread(self._address_tree, folder, kind, name)
        return reference

    async def check(self, reference: ArtifactReference) -> None:
        """See Store."""
        await asyncio.to_thread(self._check, reference)

    async def fetch(self, reference: ArtifactReference, *, to: Path) -> Path:
        """See Store."""
        return await asyncio.to_thread(self._fetch, reference, to)

    async def read_bytes(self, reference: ArtifactReference) -> bytes:
        """See Store."""
        return await asyncio.to_thread(self._read_verified, reference)

    async def read_file(self, reference: ArtifactReference, path: str) -> bytes:
        """See Store."""
        return await asyncio.to_thread(self._read_file, reference, path)

    async def local_path(self, reference: ArtifactReference) -> Path | None:
        """See Store."""
        return self._path_of(reference)

    async def find_trees(self, *, kind: str, name: str) -> list[ArtifactReference]:
        """See Store."""
        return await asyncio.to_thread(self._find_trees, kind, name)

    async def list_trees(self, *, kind: str) -> list[tuple[str, ArtifactReference]]:
        """See Store."""
        return await asyncio.to_thread(self._list_trees, kind)

    async def remove_tree(self, reference: ArtifactReference) -> None:
        """See Store."""
        await asyncio.to_thread(self._remove_tree, reference)

    async def remove_unfinished(self) -> None:
        """See Store."""
        await asyncio.to_thread(self._remove_unfinished)

    def _put_file(self, path: Path) -> ArtifactReference:
        sha256, size = hash_file(path)
        target = self._blob(sha256)
        with self._open_for(fcntl.LOCK_SH):
            self._keep(path, target, sha256, size)
        return _reference(target, sha256, size)

    def _put_tree(self, folder: Path, kind: str, name: str) -> ArtifactReference:
        reference, manifest, files = self._address_tree(folder, kind, name)
        target = self._path_of(reference)
        unfinished = target.with_name(f"{_UNFINISHED}{secrets.token_hex(8)}")  # others may be putting in the same
        with self._open_for(fcntl.LOCK_SH):
            named = _holds(target, reference.sha256, len(manifest))
            if not named:
                with whole_file(unfinished) as out:
                    out.write(manifest)
            for file in files:
                self._keep(folder / file.path, self._blob(file.sha256), file.sha256, file.size_bytes)
            if not named:
                unfinished.replace(target)
        return reference

    def _address_tree(self, folder: Path, kind: str, name: str) -> tuple[ArtifactReference, bytes, list[_TreeFile]]:
        files = [
            _TreeFile(path.relative_to(folder).as_posix(), *hash_file(path)) for path in sorted(folder.rglob("*")) if path.is_file()
        ]
        if not files:
            raise StoreError(f"{folder} holds no file; there is nothing to keep")
        content = {"kind": kind, "name": name, "files": [asdict(file) for file in files]}
        manifest = orjson.dumps(content, option=orjson.OPT_INDENT_2)
        sha256 = hashlib.sha256(manifest).hexdigest()
        target = self._root / kind / _safe(name) / f"{sha256}.json"
        size_bytes = sum(file.size_bytes for file in files)
        return _reference(target, sha256, size_bytes), manifest, files

    def _fetch(self, reference: ArtifactReference, to: Path) -> Path:
        source = self._path_of(reference)
        if source.suffix != ".json":
            self._copy_whole(source, to)
            self._verify(to, reference.sha256, reference.uri)
            return to
        for file in self._files_of(reference):
            target = to / file.path
            self._copy_whole(self._present(file, reference), target)
            self._verify(target, file.sha256, self._blob(file.sha256).as_uri())
        return to

    def _check(self, reference: ArtifactReference) -> None:
        source = self._path_of(reference)
        if source.suffix == ".json":
            for file in self._files_of(reference):
                if hash_file(self._present(file, reference))[0] != file.sha256:
                    raise _damaged(self._blob(file.sha256).as_uri(), file.sha256)
        elif not source.exists():
            raise ArtifactMissing(f"{source} is missing; restore it or leave this artifact out")
        elif hash_file(source)[0] != reference.sha256:
            raise _damaged(reference.uri, reference.sha256)

    def _read_file(self, reference: ArtifactReference, path: str) -> bytes:
        for file in self._files_of(reference):
            if file.path == path:
                data = self._present(file, reference).read_bytes()
                if hashlib.sha256(data).hexdigest() != file.sha256:
                    raise _damaged(self._blob(file.sha256).as_uri(), file.sha256)
                return data
        raise NotInFolder(f"{reference.uri} names no file {path!r}")

    def _files_of(self, reference: ArtifactReference) -> list[_TreeFile]:
        """The files that a folder's manifest names. Raises ArtifactMissing, ArtifactDamaged."""
        try:
            entries = orjson.loads(self._read_verified(reference))["files"]
            files = [_TreeFile(str(entry["path"]), str(entry["sha256"]), int(entry["size_bytes"])) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactDamaged(f"{reference.uri} is no manifest of a folder ({type(error).__name__})") from error
        for file in files:
            relative = PurePosixPath(file.path)
            if relative.is_absolute() or ".." in relative.parts:
                raise ArtifactDamaged(f"{reference.uri} names {file.path!r}, which lies outside of its folder")
        return files

    def _find_trees(self, kind: str, name: str) -> list[ArtifactReference]:
        found = []
        paths = (self._root / kind / _safe(name)).glob("[0-9a-f]*.json")
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            reference = _reference(path, path.stem, 0)
            size_bytes = sum(file.size_bytes for file in self._files_of(reference))
            found.append(reference.model_copy(update={"size_bytes": size_bytes}))
        return found

    def _list_trees(self, kind: str) -> list[tuple[str, ArtifactReference]]:
        found = []
        for path in sorted((self._root / kind).glob("*/[0-9a-f]*.json")):
            reference = _reference(path, path.stem, 0)
            size_bytes = sum(file.size_bytes for file in self._files_of(reference))
            name = str(orjson.loads(path.read_bytes()).get("name", ""))
            found.append((name, reference.model_copy(update={"size_bytes": size_bytes})))
        return found

    def _remove_tree(self, reference: ArtifactReference) -> None:
        manifest = self._path_of(reference)
        with self._open_for(fcntl.LOCK_EX):
            self._remove_what_is_not_whole()
            if manifest.exists():
                self._remove_files({file.sha256 for file in self._files_of(reference)}, but_for=manifest)
                manifest.unlink()

    def _remove_unfinished(self) -> None:
        with self._open_for(fcntl.LOCK_EX):
            self._remove_what_is_not_whole()

    def _remove_what_is_not_whole(self) -> None:
        """Nobody puts anything in now, so what is not whole will never be."""
        for partial in (*self._root.glob(f"blobs/*/{_PARTIAL}*"), *self._root.glob(f"*/*/{_PARTIAL}*")):
            partial.unlink(missing_ok=True)
        for unfinished in self._root.glob(f"*/*/{_UNFINISHED}*"):
            self._remove_files(_named_by(unfinished), but_for=unfinished)
            unfinished.unlink()

    def _remove_files(self, mine: set[str], *, but_for: Path) -> None:
        """Those of these files that no other folder names. Raises ArtifactDamaged."""
        for other in self._root.glob("*/*/[0-9a-f]*.json"):
            if other != but_for and not mine.isdisjoint(others := _named_by(other)):
                mine -= others
        for sha256 in sorted(mine):
            self._blob(sha256).unlink(missing_ok=True)

    @contextmanager
    def _open_for(self, how: int) -> Iterator[None]:
        """Many put in at once (LOCK_SH), or one takes out (LOCK_EX); the lock goes with the process that holds it."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".lock").open("ab") as file:
            fcntl.flock(file, how)
            yield

    def _present(self, file: _TreeFile, reference: ArtifactReference) -> Path:
        blob = self._blob(file.sha256)
        if not blob.exists():
            raise ArtifactMissing(f"{blob} is missing, which {reference.uri} names; restore it or leave this artifact out")
        return blob

    def _read_verified(self, reference: ArtifactReference) -> bytes:
        path = self._path_of(reference)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ArtifactMissing(f"{reference.uri} is missing; restore it or leave this artifact out") from None
        if hashlib.sha256(data).hexdigest() != reference.sha256:
            raise _damaged(reference.uri, reference.sha256)
        return data

    def _path_of(self, reference: ArtifactReference) -> Path:
        parts = urlsplit(reference.uri)
        if parts.scheme != "file":
            raise StoreError(f"{reference.uri}: this store reads file:// only")
        return Path(unquote(parts.path))

    def _blob(self, sha256: str) -> Path:
        return self._root / "blobs" / sha256[:2] / sha256

    def _verify(self, path: Path, sha256: str, uri: str) -> None:
        found, _ = hash_file(path)
        if found != sha256:
            path.unlink()
            raise _damaged(uri, sha256)

    def _keep(self, source: Path, target: Path, sha256: str, size_bytes: int) -> None:
        if not _holds(target, sha256, size_bytes):
            self._copy_whole(source, target)

    def _copy_whole(self, source: Path, target: Path) -> None:
        try:
            file = source.open("rb")
        except FileNotFoundError:
            raise ArtifactMissing(f"{source} is missing; restore it or leave this artifact out") from None
        with file, whole_file(target) as out:
            shutil.copyfileobj(file, out, _CHUNK_BYTES)


def _named_by(manifest: Path) -> set[str]:
    """The hashes that another folder's manifest names; none where it is gone by now. Raises ArtifactDamaged: then nothing goes."""
    try:
        return {str(entry["sha256"]) for entry in orjson.loads(manifest.read_bytes())["files"]}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactDamaged(f"{manifest.as_uri()} is no manifest of a folder ({type(error).__name__}); restore it") from error


def _holds(path: Path, sha256: str, size_bytes: int) -> bool:
    return path.exists() and path.stat().st_size == size_bytes and hash_file(path)[0] == sha256


def _reference(target: Path, sha256: str, size_bytes: int) -> ArtifactReference:
    try:
        return ArtifactReference(uri=target.as_uri(), sha256=sha256, size_bytes=size_bytes)
    except ValidationError as error:
        why = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise StoreError(
            f"{target} cannot be referred to ({why}); set RUMINATE_STORE_URI to a folder with a shorter path"
        ) from None


def _damaged(uri: str, sha256: str) -> ArtifactDamaged:
    return ArtifactDamaged(f"{uri} does not have the SHA-256 {sha256}; restore it from another copy")


def _safe(name: str) -> str:
    """A name as a folder: what could leave the folder or surprise a shell is replaced."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".") or "-"


@contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all: written beside its place, flushed to the disk, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
