"""What is taken out of the store is gone, and nothing else is."""

from __future__ import annotations

import asyncio
import fcntl
import threading
from pathlib import Path

import pytest

from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import ArtifactDamaged, FileStore


def put(store: FileStore, folder: Path, name: str, **files: str) -> ArtifactReference:
    place = folder / f"in-{len(list(folder.iterdir()))}"
    place.mkdir()
    for file, text in files.items():
        (place / f"{file}.jsonl").write_text(text)
    return asyncio.run(store.put_tree(place, kind="datasets", name=name))


def texts(root: Path) -> str:
    return "\n".join(path.read_text() for path in root.rglob("*") if path.is_file())


def test_a_removed_folder_is_gone_with_its_files_but_for_those_that_others_name(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    old = put(store, tmp_path, "a/b/1", train="secret\nshared\n", holdout="common\n")
    new = put(store, tmp_path, "a/b/1", train="shared\n", holdout="common\n")
    single = asyncio.run(store.put_file(_file(tmp_path), kind="gguf", name="g"))
    asyncio.run(store.remove_tree(old))
    assert "secret" not in texts(tmp_path / "store")
    asyncio.run(store.check(new))
    asyncio.run(store.check(single))
    assert asyncio.run(store.list_trees(kind="datasets")) == [("a/b/1", new)]
    asyncio.run(store.remove_tree(old))  # a second time changes nothing


def _file(folder: Path) -> Path:
    path = folder / "single"
    path.write_text("a model")
    return path


def test_what_a_crash_has_left_on_its_way_in_goes_too(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    old = put(store, tmp_path, "a/b/1", train="secret\n")
    left = tmp_path / "store" / "blobs" / "ab" / ".partial-x"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("half of a secret")
    asyncio.run(store.remove_tree(old))
    assert not left.exists()


class Killed(BaseException):
    """The process ends here."""


class StoreThatEnds(FileStore):
    """Ends the process after so many files of a folder."""

    files = 1

    def _keep(self, source: Path, target: Path, sha256: str, size_bytes: int) -> None:
        if self.files == 0:
            raise Killed
        self.files -= 1
        super()._keep(source, target, sha256, size_bytes)


def test_files_of_a_folder_that_never_became_whole_are_taken_out_and_what_others_name_of_them_stays(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    other = put(store, tmp_path, "a/b/1", holdout="common\n")
    with pytest.raises(Killed):
        # Files are kept in the order of their names: the common one, then the secret one.
        put(StoreThatEnds(tmp_path / "store"), tmp_path, "a/b/2", holdout="common\n", train="secret\n")
    ending = StoreThatEnds(tmp_path / "store")
    ending.files = 2
    with pytest.raises(Killed):
        put(ending, tmp_path, "a/b/2", holdout="common\n", train="secret\n", verifiable="question\n")
    assert "secret" in texts(tmp_path / "store")
    assert [name for name, _ in asyncio.run(store.list_trees(kind="datasets"))] == ["a/b/1"]
    asyncio.run(store.remove_unfinished())
    assert "secret" not in texts(tmp_path / "store")
    asyncio.run(store.check(other))
    assert list((tmp_path / "store").rglob(".unfinished-*")) == []


def test_a_folder_that_is_put_in_again_after_a_crash_is_whole_and_stays_so(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        put(StoreThatEnds(tmp_path / "store"), tmp_path, "a/b/2", holdout="common\n", train="a row\n")
    store = FileStore(tmp_path / "store")
    whole = put(store, tmp_path, "a/b/2", holdout="common\n", train="a row\n")
    asyncio.run(store.remove_unfinished())
    asyncio.run(store.check(whole))
    assert list((tmp_path / "store").rglob(".unfinished-*")) == []


def test_a_removal_that_was_cut_short_is_finished_by_the_next_one(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    old = put(store, tmp_path, "a/b/1", train="secret\n", holdout="another secret\n")
    next(path for path in (tmp_path / "store" / "blobs").rglob("*") if path.is_file()).unlink()
    asyncio.run(store.remove_tree(old))
    assert "secret" not in texts(tmp_path / "store")


def test_nothing_is_removed_while_it_is_not_known_what_others_name(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    old, other = put(store, tmp_path, "a/b/1", train="secret\n"), put(store, tmp_path, "a/b/2", train="secret\n")
    Path(other.uri.removeprefix("file://").replace("%3A", ":")).write_text("damaged")
    with pytest.raises(ArtifactDamaged):
        asyncio.run(store.remove_tree(old))
    assert "secret" in texts(tmp_path / "store")


def test_a_removal_waits_for_whoever_is_putting_something_in(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    old = put(store, tmp_path, "a/b/1", train="secret\n")
    removing = threading.Thread(target=lambda: asyncio.run(store.remove_tree(old)))
    with (tmp_path / "store" / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        removing.start()
        removing.join(0.2)
        assert removing.is_alive()
        assert "secret" in texts(tmp_path / "store")
    removing.join(10)
    assert "secret" not in texts(tmp_path / "store")
