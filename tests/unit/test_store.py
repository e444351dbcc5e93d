"""The store: bytes under their own hash, manifests last, every byte checked on the way out."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, FileStore, StoreError, open_store, whole_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("alpha")
    (source / "deep" / "b.txt").write_text("beta")
    return source


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def _blob_of(store_root: Path, content: str) -> Path:
    return next(path for path in (store_root / "blobs").rglob("*") if path.is_file() and path.read_text() == content)


def test_a_folder_comes_back_as_it_was(store: FileStore, folder: Path, tmp_path: Path) -> None:
    reference = asyncio.run(store.put_tree(folder, kind="datasets", name="default/qwen3:8b/1"))
    copy = asyncio.run(store.fetch(reference, to=tmp_path / "copy"))
    assert {p.relative_to(copy).as_posix(): p.read_text() for p in copy.rglob("*") if p.is_file()} == {
        "a.txt": "alpha",
        "deep/b.txt": "beta",
    }
    assert reference.size_bytes == len("alpha") + len("beta")


def test_the_same_bytes_lie_once_and_have_the_same_reference(store: FileStore, folder: Path) -> None:
    one = asyncio.run(store.put_file(folder / "a.txt", kind="gguf", name="x"))
    two = asyncio.run(store.put_file(folder / "a.txt", kind="gguf", name="y"))
    assert one == two
    assert asyncio.run(store.put_tree(folder, kind="k", name="n")) == asyncio.run(store.put_tree(folder, kind="k", name="n"))


def test_other_content_under_the_same_name_overwrites_nothing(store: FileStore, folder: Path, tmp_path: Path) -> None:
    first = asyncio.run(store.put_tree(folder, kind="datasets", name="n"))
    (folder / "a.txt").write_text("changed")
    second = asyncio.run(store.put_tree(folder, kind="datasets", name="n"))
    assert first.uri != second.uri
    assert (asyncio.run(store.fetch(first, to=tmp_path / "one")) / "a.txt").read_text() == "alpha"


def test_damage_is_found_and_nothing_damaged_is_handed_out(store: FileStore, folder: Path, tmp_path: Path) -> None:
    reference = asyncio.run(store.put_tree(folder, kind="k", name="n"))
    _blob_of(tmp_path / "store", "beta").write_text("BETA")
    with pytest.raises(ArtifactDamaged, match="SHA-256"):
        asyncio.run(store.fetch(reference, to=tmp_path / "copy"))
    assert not (tmp_path / "copy" / "deep" / "b.txt").exists()


def test_what_is_missing_is_named(store: FileStore, folder: Path, tmp_path: Path) -> None:
    reference = asyncio.run(store.put_tree(folder, kind="k", name="n"))
    _blob_of(tmp_path / "store", "alpha").unlink()
    with pytest.raises(ArtifactMissing, match="which file://"):
        asyncio.run(store.fetch(reference, to=tmp_path / "copy"))
    gone = ArtifactReference(uri=(tmp_path / "nowhere").as_uri(), sha256="0" * 64, size_bytes=0)
    with pytest.raises(ArtifactMissing):
        asyncio.run(store.read_bytes(gone))


def test_one_file_of_a_folder_is_read_alone_and_verified(store: FileStore, folder: Path, tmp_path: Path) -> None:
    reference = asyncio.run(store.put_tree(folder, kind="k", name="n"))
    _blob_of(tmp_path / "store", "alpha").unlink()
    assert asyncio.run(store.read_file(reference, "deep/b.txt")) == b"beta"
    with pytest.raises(ArtifactMissing, match="which file://"):
        asyncio.run(store.read_file(reference, "a.txt"))
    with pytest.raises(ArtifactMissing, match=r"names no file 'c\.txt'"):
        asyncio.run(store.read_file(reference, "c.txt"))
    _blob_of(tmp_path / "store", "beta").write_text("BETA")
    with pytest.raises(ArtifactDamaged, match="SHA-256"):
        asyncio.run(store.read_file(reference, "deep/b.txt"))


def test_a_check_reads_every_byte_where_it_lies(store: FileStore, folder: Path, tmp_path: Path) -> None:
    tree = asyncio.run(store.put_tree(folder, kind="k", name="n"))
    single = asyncio.run(store.put_file(folder / "a.txt", kind="k", name="n"))
    asyncio.run(store.check(tree))
    asyncio.run(store.check(single))
    _blob_of(tmp_path / "store", "beta").write_text("BETA")
    asyncio.run(store.check(single))
    with pytest.raises(ArtifactDamaged, match="SHA-256"):
        asyncio.run(store.check(tree))
    _blob_of(tmp_path / "store", "alpha").unlink()
    for reference in (tree, single):
        with pytest.raises(ArtifactMissing):
            asyncio.run(store.check(reference))


def test_keeping_it_again_puts_back_what_is_missing_and_mends_what_is_damaged(
    store: FileStore, folder: Path, tmp_path: Path
) -> None:
    reference = asyncio.run(store.put_tree(folder, kind="k", name="n"))
    assert asyncio.run(store.address_tree(folder, kind="k", name="n")) == reference
    _blob_of(tmp_path / "store", "alpha").unlink()
    _blob_of(tmp_path / "store", "beta").write_text("BETA")
    next((tmp_path / "store" / "k").rglob("*.json")).write_text("{}")
    assert asyncio.run(store.put_tree(folder, kind="k", name="n")) == reference
    asyncio.run(store.check(reference))


def test_an_address_alone_keeps_nothing(store: FileStore, folder: Path, tmp_path: Path) -> None:
    asyncio.run(store.address_tree(folder, kind="k", name="n"))
    assert not (tmp_path / "store").exists()


def test_a_manifest_that_points_outside_of_its_folder_is_refused(store: FileStore, folder: Path, tmp_path: Path) -> None:
    reference = asyncio.run(store.put_tree(folder, kind="k", name="n"))
    manifest = json.loads(asyncio.run(store.read_bytes(reference)))
    manifest["files"][0]["path"] = "../escaped.txt"
    evil = tmp_path / "evil.json"
    evil.write_text(json.dumps(manifest))
    kept = asyncio.run(store.put_file(evil, kind="k", name="n"))
    renamed = tmp_path / "evil-kept.json"
    renamed.write_bytes(evil.read_bytes())
    with pytest.raises(ArtifactDamaged, match="outside of its folder"):
        asyncio.run(
            store.fetch(
                ArtifactReference(uri=renamed.as_uri(), sha256=kept.sha256, size_bytes=kept.size_bytes), to=tmp_path / "copy"
            )
        )
    assert not (tmp_path / "escaped.txt").exists()


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"files": [{"path": "a"}]}', '{"files": [1]}'])
def test_what_is_no_manifest_of_a_folder_is_damaged_although_it_has_its_hash(store: FileStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    reference = asyncio.run(store.put_file(tmp_path / "other.json", kind="k", name="n"))
    (tmp_path / "manifest.json").write_text(text)
    named = ArtifactReference(uri=(tmp_path / "manifest.json").as_uri(), sha256=reference.sha256, size_bytes=reference.size_bytes)
    with pytest.raises(ArtifactDamaged, match="no manifest of a folder"):
        asyncio.run(store.check(named))


def test_an_empty_folder_and_an_unknown_address_are_refused_with_the_way_out(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="holds no file"):
        asyncio.run(store.put_tree(tmp_path / "empty", kind="k", name="n"))
    with pytest.raises(StoreError, match="RUMINATE_STORE_URI"):
        open_store("ftp://somewhere/else")


def test_an_address_that_no_event_can_carry_is_refused_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    store = FileStore(tmp_path.joinpath(*("x" * 180 for _ in range(11))))
    with pytest.raises(StoreError, match=r"cannot be referred to .* RUMINATE_STORE_URI to a folder with a shorter path"):
        asyncio.run(store.address_tree(folder, kind="k", name="n"))


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with pytest.raises(RuntimeError, match="half-way"), whole_file(target) as out:
        out.write(b"half")
        raise RuntimeError("half-way")
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"]
    with whole_file(target) as out:
        out.write(b"whole")
    assert target.read_bytes() == b"whole"


def test_every_folder_of_a_name_is_found_the_latest_last(store: FileStore, folder: Path, tmp_path: Path) -> None:
    one = asyncio.run(store.put_tree(folder, kind="replays", name="a/b"))
    (folder / "a.txt").write_text("another")
    two = asyncio.run(store.put_tree(folder, kind="replays", name="a/b"))
    os.utime(store._path_of(one), ns=(1, 1))
    assert asyncio.run(store.find_trees(kind="replays", name="a/b")) == [one, two]
    assert asyncio.run(store.find_trees(kind="replays", name="nobody")) == []
    store._path_of(two).write_bytes(b"{}")
    with pytest.raises(ArtifactDamaged):
        asyncio.run(store.find_trees(kind="replays", name="a/b"))
