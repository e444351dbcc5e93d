"""Out of which conversation each line of a dataset is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ruminate.trainer.conversations import read_conversations
from ruminate.trainer.rows import BadDataset

MANIFEST: dict[str, Any] = {
    "rows": [
        {"split": "train", "offset": 0, "conversation": "a", "score": 0.9},
        {"split": "train", "offset": 1, "conversation": "b"},
        {"split": "holdout", "offset": 2, "conversation": "c"},
    ],
    "questions": [
        {"split": "holdout", "offset": 2, "kind": "exact"},
        {"split": "train", "offset": 3, "kind": "exact"},
        {"split": "holdout", "offset": 4, "kind": "exact"},
    ],
    "aside": [{"offset": 3, "conversation": "a"}, {"offset": 4, "conversation": "d"}],
    "counts": {},
}


def written(folder: Path, manifest: Any) -> Path:
    """A dataset with this manifest."""
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_rows_and_questions_are_found_in_the_order_of_their_lines(tmp_path: Path) -> None:
    known = read_conversations(written(tmp_path, MANIFEST))
    assert known.of_rows("train", 2) == ["a", "b"]
    assert known.of_rows("holdout", 1) == ["c"]
    assert known.of_questions("train", 1) == ["a"]
    assert known.of_questions("holdout", 2) == ["c", "d"]


def test_of_a_dataset_without_a_manifest_nothing_is_known(tmp_path: Path) -> None:
    assert read_conversations(tmp_path).of_rows("train", 2) == [None, None]


def test_a_manifest_of_other_lines_is_refused(tmp_path: Path) -> None:
    known = read_conversations(written(tmp_path, MANIFEST))
    with pytest.raises(BadDataset, match=r"manifest\.json speaks of 2 rows \(train\), and 3 are there"):
        known.of_rows("train", 3)
    with pytest.raises(BadDataset, match="questions of offset 4"):
        read_conversations(written(tmp_path, {**MANIFEST, "aside": MANIFEST["aside"][:1]}))
    with pytest.raises(BadDataset, match=r"manifest\.json: rows"):
        read_conversations(written(tmp_path, {}))
