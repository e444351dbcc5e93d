"""`ruminate datasets export` of all that a batch holds: every config opens as it is, and TRL takes it as it is."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["HF_DATASETS_OFFLINE"] = "1"

from ruminate.accumulator.accumulate import _announcement
from ruminate.accumulator.making.anchors import read_anchors
from ruminate.accumulator.making.dataset import Made
from ruminate.accumulator.making.make import Sets
from ruminate.accumulator.rebuilding.rebuild import SealedChain
from ruminate.accumulator.sealing.decide import Seal
from ruminate.command.datasets import versions
from ruminate.command.datasets.card import markdown
from ruminate.command.datasets.export import Export, Written
from ruminate.command.datasets.fetched import fetched
from ruminate.command.datasets.files import DATA_FILES, DataFile, FileName
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.interaction import AnswerCheck, Message, ToolCall, ToolDefinition
from ruminate.shared.memory import MemoryBroker, MemoryBus
from tests.integration.test_datasets_export import open_with_datasets
from tests.unit.making import START, Maker, assessed, lines, question, said

ANCHORS = 2
ADD = ToolDefinition(
    name="add", description="Adds.", parameters={"type": "object", "properties": {"a": {"type": "integer", "default": 1}}}
)
NOW = ToolDefinition(name="now", parameters={"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}})


def anchored(folder: Path) -> Sets:
    """Rows of an operator's own."""
    folder.mkdir(parents=True)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Would you kindly sing song number {number} for us tonight?"}],
            "completion": [{"role": "assistant", "content": "Gladly.", "reasoning_content": "They ask politely."}],
            "chat_template_kwargs": {"enable_thinking": True},
        }
        for number in range(ANCHORS)
    ]
    (folder / "anchors.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Sets(anchors=read_anchors({"manners": folder / "anchors.jsonl"}))


def records(first: int) -> Iterator[ReasoningAssessed]:
    """What gives something of everything: rows in both modes, tool calls, written thinking, pairs, questions for practice."""
    for number in range(first, first + 16):
        yield assessed(number, thinks=number % 4 > 0, domain="law" if number % 2 else None, reference_answer=str(number))
    for number in range(first + 30, first + 46):
        call = Message(role="assistant", tool_calls=(ToolCall(name="add", arguments={"a": 1}),))
        asked = (Message(role="user", content=question(number)), call, Message(role="tool", content="2"))
        yield assessed(number, messages=asked, tools=(ADD, NOW), reference_answer="2" if number % 2 else None)
    yield assessed(first + 21, thinks=False, evidence=[said(first + 21, "thinking", "writer", thinking="So be it.", model="m")])
    yield assessed(first + 22, keep=False, evidence=[said(first + 22, correction="Two miles.")])
    for number in range(first + 50, first + 58, 2):
        same = (Message(role="user", content=question(number)),)
        yield assessed(number, evidence=[said(number, thumb="up")], messages=same)
        yield assessed(number + 1, keep=False, evidence=[said(number + 1, thumb="down")], messages=same)
    yield assessed(first + 25, keep=False, answer_check=AnswerCheck(kind="python_tests", content="assert answer() == 1"))


class Sealed:
    """A chain of two batches that hold everything, as `datasets` finds it."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.maker = Maker(
            folder, sets=anchored(folder / "anchors"), holdout_ratio=0.25, anchor_ratio=0.1, generated_most_ratio=0.5, **values
        )
        for first in (0, 100):
            self.maker.batch(*records(first))
        self.chain = SealedChain(0, "default", "t", tuple(map(self._announced, self.maker.made)))

    def _announced(self, made: Made) -> TrainingBatchSealed:
        dataset = self.maker.datasets[made.manifest.number]
        return _announcement(made.manifest, Seal("count", "enough"), dataset, START)

    @property
    def made(self) -> Made:
        return self.maker.made[-1]

    def export(self, to: Path, *, kinds: tuple[Any, ...] = ("parquet", "jsonl")) -> str:
        """Write the last batch with its card, which is given back."""
        to.mkdir()
        batch = self.chain.batches[-1]

        async def work() -> str:
            async with MemoryBus(MemoryBroker(), reader="test") as bus, fetched(self.maker.store, batch.dataset) as dataset:
                generated = await versions._generated(self.maker.store, self.chain, dataset)
                writer = Export(dataset, batch_id=batch.batch_id, with_origin=True, generated=generated)
                there = [file.name for file in DATA_FILES.values() if versions._is_written(file, dataset)]
                files: list[Written] = [writer.write(name, kind, to) for kind in kinds for name in there]
                asked = versions.Asked(files, [name for name in DATA_FILES if name not in there])
                card = await versions._card(bus, self.maker.store, batch, dataset, asked, lambda _: None)
                versions.write_card(card, to)
                return markdown(card)

        return asyncio.run(work())


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sealed, Path, str]:
    """A chain, its last batch as it was exported, and the card."""
    folder = tmp_path_factory.mktemp("exported")
    sealed = Sealed(folder / "made")
    return sealed, folder / "out", sealed.export(folder / "out")


def opened(folder: Path, cache: Path, kinds: str) -> dict[str, Any]:
    """Each file by its name, as the library gives it: `folder` by its card, else by the files of a kind."""
    found: dict[str, Any] = {}
    for config in ("default", "preferences", "verifiable"):
        of_config: list[DataFile] = [file for file in DATA_FILES.values() if file.config == config]
        if kinds == "folder":
            splits = open_with_datasets(str(folder), config, cache_dir=str(cache))
        else:
            paths = {file.split: str(folder / f"{file.name}.{kinds}") for file in of_config}
            splits = open_with_datasets("json" if kinds == "jsonl" else kinds, data_files=paths, cache_dir=str(cache))
        assert set(splits) == {file.split for file in of_config}
        found |= {file.name: splits[file.split] for file in of_config}
    return found


def spoken(row: dict[str, Any]) -> Any:
    """The texts of a line, whichever format it was in."""
    columns = [name for name in ("prompt", "completion", "chosen", "rejected") if name in row]
    return [[(turn["role"], turn["content"], turn.get("reasoning_content") or None) for turn in row[name]] for name in columns]


@pytest.mark.parametrize("kinds", ["folder", "parquet", "jsonl"])
def test_every_config_opens_as_it_is_and_has_every_line(kinds: str, exported: tuple[Sealed, Path, str], tmp_path: Path) -> None:
    sealed, out, _ = exported
    found = opened(out, tmp_path, kinds)
    for name, file in DATA_FILES.items():
        rows = sorted(found[name], key=lambda row: row["origin"]["line"])
        assert [spoken(row) for row in rows] == [spoken(row) for row in lines(sealed.made, file.path)], name
        assert rows, name
        assert {row["origin"]["batch"] for row in rows} == {"t-2"}
    practised = sorted(found["verifiable"], key=lambda row: row["origin"]["line"])
    assert [row["check"] for row in practised] == [row["check"] for row in lines(sealed.made, "verifiable.jsonl")]


def test_a_row_says_where_it_comes_from_and_a_rehearsed_one_where_it_was_fresh(
    exported: tuple[Sealed, Path, str], tmp_path: Path
) -> None:
    sealed, out, _ = exported
    found = opened(out, tmp_path, "folder")
    first, second = sealed.maker.made
    earlier = lines(first, "train.jsonl")
    rehearsed = [row for row in found["replay"] if row["origin"]["origin"] == "replay"]
    for row in rehearsed:
        assert row["origin"]["fresh_batch"] == "t-1"
        assert spoken(row) == spoken(earlier[row["origin"]["fresh_line"] - 1])
    written = {str(row.recorded_id) for row in first.manifest.rows if row.generated_thinking}
    assert written
    for row in rehearsed:
        told = row["origin"]
        thinks = "generated" if told["recorded_id"] in written else "captured" if told["reasoning"] else "none"
        assert told["thinking"] == thinks
    anchors = [row["origin"] for row in found["replay"] if row["origin"]["origin"] == "anchor"]
    assert [(told["fresh_batch"], told["thinking"], told["recorded_id"]) for told in anchors] == [
        ("manners", "unknown", None)
    ] * ANCHORS
    assert {pair.kind for pair in second.manifest.pairs} == {"correction", "thumbs"}
    recorded_ids = {row.offset: str(row.recorded_id) for row in second.manifest.rows}
    recorded_ids |= {aside.offset: str(aside.recorded_id) for aside in second.manifest.aside}
    for row, pair in zip(found["preferences"], second.manifest.pairs, strict=True):
        assert row["origin"]["kind"] == pair.kind
        assert row["origin"]["rejected_recorded_id"] == recorded_ids[pair.rejected]
        chosen = None if pair.chosen is None else recorded_ids[pair.chosen]
        assert row["origin"]["chosen_recorded_id"] == chosen
    assert {row["origin"]["domain"] for row in found["train"]} == {"law", "general"}


def test_where_the_batch_of_a_rehearsed_row_is_gone_its_thinking_is_not_known(tmp_path: Path) -> None:
    sealed = Sealed(tmp_path / "made")
    Path(sealed.chain.batches[0].dataset.uri.removeprefix("file://")).unlink()
    sealed.export(tmp_path / "out")
    replay = opened(tmp_path / "out", tmp_path / "cache", "folder")["replay"]
    assert {row["origin"]["thinking"] for row in replay if row["origin"]["reasoning"]} == {"unknown"}


def test_what_has_no_line_has_no_file_and_the_rest_opens(tmp_path: Path) -> None:
    maker = Maker(tmp_path / "made")
    maker.batch(*(assessed(number) for number in range(8)))
    sealed = Sealed.__new__(Sealed)
    sealed.maker = maker
    sealed.chain = SealedChain(0, "default", "t", (sealed._announced(maker.made[0]),))
    card = sealed.export(tmp_path / "out", kinds=("parquet",))
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {"train.parquet", "holdout.parquet"}
    assert "Not written, for there is no line in it: replay, preferences, verifiable, verifiable-holdout." in card
    assert "No row is in: holdout." in card
    assert set(open_with_datasets(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))) == {"train"}


def test_the_card_declares_every_config_and_says_what_is_in_it(exported: tuple[Sealed, Path, str]) -> None:
    sealed, _, card = exported
    front = yaml.safe_load(card.split("---\n")[1])
    declared = {each["config_name"]: {file["split"]: file["path"] for file in each["data_files"]} for each in front["configs"]}
    assert declared == {
        "default": {"train": "train.parquet", "replay": "replay.parquet", "holdout": "holdout.parquet"},
        "preferences": {"train": "preferences.parquet"},
        "verifiable": {"train": "verifiable.parquet", "holdout": "verifiable-holdout.parquet"},
    }
    counts = sealed.made.manifest.counts
    for says in (
        f"| of these written and verified afterwards | {counts['generated']} (",
        f"| replay: rows of earlier batches | `t-1` | {counts['replay']} |",
        f"| anchor: rows of an operator's own | `manners` | {ANCHORS} |",
        "| correction | a correction, and what it corrects | 1 |",
        "| python_tests | tests in Python | 1 | 0 |",
        "Anchors are rows of an operator's own",
        "| law/simple/thinking |",
        "| leaks | yes |",
        "questions of this chain, ",
    ):
        assert says in card, says


def test_trl_takes_rows_pairs_and_questions_as_they_are(exported: tuple[Sealed, Path, str], tmp_path: Path) -> None:
    """By the functions with which its trainers read a dataset, and the template that it ships for Qwen3."""
    import transformers
    from tokenizers import Tokenizer, models
    from trl import data_utils

    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))
    tokenizer.chat_template = resources("trl").joinpath("chat_templates/qwen3.jinja").read_text(encoding="utf-8")
    _, out, _ = exported
    wanted: dict[FileName, set[str]] = {
        "train": {"prompt", "completion"},
        "replay": {"prompt", "completion"},
        "holdout": {"prompt", "completion"},
        "preferences": {"prompt", "chosen", "rejected"},
        "verifiable": {"prompt"},
        "verifiable-holdout": {"prompt"},
    }
    texts: dict[str, list[list[dict[str, str]]]] = {}
    for kinds in ("parquet", "jsonl"):
        found = opened(out, tmp_path, kinds)
        for name, columns in wanted.items():
            rows = sorted(found[name], key=lambda row: row["origin"]["line"])
            assert all(data_utils.is_conversational(row) for row in rows)
            assert all(data_utils.maybe_extract_prompt(row) == row for row in rows)
            # Its trainers read the text of the tools so.
            offered = [json.loads(row["tools"]) if isinstance(row["tools"], str) else row["tools"] for row in rows]
            written = [
                data_utils.maybe_apply_chat_template(row, tokenizer, tools) for row, tools in zip(rows, offered, strict=True)
            ]
            assert all(set(each) == columns for each in written)
            for each, tools in zip(written, offered, strict=True):
                names = re.findall(r'"function": {"name": "(\w+)"', each["prompt"])
                assert names == [tool["function"]["name"] for tool in tools or ()]
            texts.setdefault(name, []).append(written)
    assert all(parquet == jsonl for parquet, jsonl in texts.values())
    pair = next(each for each in texts["preferences"][0] if "Two miles." in each["chosen"])
    assert pair["chosen"].endswith("Two miles.<|im_end|>\n")
    assert pair["rejected"].endswith("It lies 122 miles off.<|im_end|>\n")
    assert all(each["prompt"].endswith("<|im_start|>assistant\n") for each in texts["verifiable"][0])
    assert all(any("<tools>" in each["prompt"] for each in texts[name][0]) for name in ("train", "replay", "verifiable"))
