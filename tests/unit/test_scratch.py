"""Scratch folders are gone with whoever made them, and are nobody else's to remove while they are used."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ruminate.shared.scratch import scratch, sweep_scratch

HOLDS_ONE = """
import sys
from ruminate.shared.scratch import scratch
with scratch("test") as folder:
    (folder / "text").write_text("secret")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's folder for temporary files, for this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_is_empty_and_gone_in_the_end_whatever_happens(own_folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch("test") as folder:
        assert list(folder.iterdir()) == []
        (folder / "below").mkdir()
        (folder / "below" / "text").write_text("secret")
        raise ZeroDivisionError
    assert list(own_folder.iterdir()) == []


def test_what_a_killed_process_has_left_goes_and_what_another_uses_stays(own_folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with scratch("test") as ours:
            sweep_scratch()
            assert (left / "text").read_text() == "secret"
            assert ours.is_dir()
        other.kill()
    assert (left / "text").exists(), "nobody had the time to remove it"
    sweep_scratch()
    assert list(own_folder.iterdir()) == []


def test_a_folder_that_is_nobodys_scratch_stays(own_folder: Path) -> None:
    (own_folder / "ruminate-else").mkdir()
    (own_folder / "ruminate-scratch-link").symlink_to(own_folder / "ruminate-else")
    sweep_scratch()
    assert (own_folder / "ruminate-else").is_dir()
