"""Out of which conversation each line of a dataset is, as its manifest says.

manifest.json   rows        all of train.jsonl, then all of holdout.jsonl, in the order of the lines
                questions   all of verifiable.jsonl, then all of verifiable-holdout.jsonl, by the offset of a row or of what
                            stands aside
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import ConfigDict, ValidationError

from ruminate.schemas.payload import Part
from ruminate.trainer.rows import BadDataset

MANIFEST_FILE: Final = "manifest.json"

Split = Literal["train", "holdout"]
SPLITS: Final[tuple[Split, ...]] = ("train", "holdout")


class _Of(Part):
    model_config = ConfigDict(extra="ignore")

    offset: int
    conversation: str


class _Row(_Of):
    split: Split


class _Question(Part):
    model_config = ConfigDict(extra="ignore")

    split: Split
    offset: int


class _Manifest(Part):
    model_config = ConfigDict(extra="ignore")

    rows: tuple[_Row, ...]
    questions: tuple[_Question, ...] = ()
    aside: tuple[_Of, ...] = ()


@dataclass(frozen=True)
class Conversations:
    """Of each line of a file, in their order; empty where nobody has written it down."""

    rows: dict[Split, list[str]] = field(default_factory=dict)
    questions: dict[Split, list[str]] = field(default_factory=dict)

    def of_rows(self, split: Split, count: int) -> list[str] | list[None]:
        """Those of the `count` rows of a split. Raises BadDataset where the manifest speaks of another number."""
        return _so_many(self.rows, split, count, "rows")

    def of_questions(self, split: Split, count: int) -> list[str] | list[None]:
        """The same of questions."""
        return _so_many(self.questions, split, count, "questions")


def read_conversations(dataset: Path) -> Conversations:
    """What the manifest of a dataset says; nothing where there is none. Raises BadDataset where it is no manifest."""
    try:
        manifest = _Manifest.model_validate_json((dataset / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        return Conversations()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadDataset(f"{MANIFEST_FILE}: {place}: {first['msg']}") from None
    at = {each.offset: each.conversation for each in (*manifest.aside, *manifest.rows)}
    missing = [question.offset for question in manifest.questions if question.offset not in at]
    if missing:
        raise BadDataset(f"{MANIFEST_FILE}: questions of offset {missing[0]}, which is neither of a row nor stands aside")
    return Conversations(
        {split: [row.conversation for row in manifest.rows if row.split == split] for split in SPLITS},
        {split: [at[question.offset] for question in manifest.questions if question.split == split] for split in SPLITS},
    )


def _so_many(found: dict[Split, list[str]], split: Split, count: int, what: str) -> list[str] | list[None]:
    if not found:
        return [None] * count
    if len(found[split]) != count:
        raise BadDataset(f"{MANIFEST_FILE} speaks of {len(found[split])} {what} ({split}), and {count} are there")
    return found[split]
