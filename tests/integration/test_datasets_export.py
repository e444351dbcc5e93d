"""`ruminate datasets diff`, `export` and `card`: versions of a dataset, opened by the library that people open them with."""

from __future__ import annotations

import asyncio
import json
import os
import tracemalloc
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

os.environ["HF_DATASETS_OFFLINE"] = "1"

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.command.datasets import versions
from ruminate.command.datasets.card import Card, markdown
from ruminate.command.datasets.export import Export, Written
from ruminate.command.datasets.fetched import Fetched, fetched
from ruminate.command.datasets.files import FileName
from ruminate.command.datasets.measure import lengths_of
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, ToolCall
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.store import ArtifactDamaged, FileStore
from tests.integration.recorded_log import SETTINGS, assess, chain_of, interaction, record, seal

SPLITS: tuple[FileName, FileName] = ("train", "holdout")
ALL_TRAINED = SETTINGS.model_copy(update={"holdout_ratio": 0.0})


def open_with_datasets(*words: Any, **named: Any) -> Any:
    """`datasets.load_dataset`, whose own warnings are none of ours."""
    import datasets

    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return datasets.load_dataset(*words, **named)


def calling(number: int) -> InteractionRecorded:
    """An interaction that called a tool before it answered, and calls one in its answer."""
    call = ToolCall(name="add", arguments={"a": number, "note": {"deep": [1, None]}}, id=f"call-{number}")
    return interaction(
        number,
        messages=(
            Message(role="system", content="Use the tool."),
            Message(role="user", content=f"What is {number} plus 1?"),
            Message(role="assistant", thinking="Let us call it.", tool_calls=(call,)),
            Message(role="tool", content=str(number + 1), tool_name="add", tool_call_id=f"call-{number}"),
        ),
        response=Response(content="", thinking="Once more.", tool_calls=(ToolCall(name="add", arguments={"b": "x"}),)),
    )


def one_batch(
    folder: Path,
    work: Callable[[MemoryBus, FileStore, TrainingBatchSealed], Any],
    *,
    settings: AccumulatorSettings = SETTINGS,
) -> Any:
    """Seal the first batch of a chain, and let `work` have it."""
    given = [calling(n) if n == 4 else interaction(n, thinks=n % 5 != 0, agent=f"agent-{n % 3}") for n in range(14)]

    async def scenario() -> Any:
        bus, store = MemoryBus(MemoryBroker(), reader="test"), FileStore(folder / ".store")
        async with bus:
            await record(bus, *given)
            await assess(bus, *given)
            await seal(bus, store, 1, settings.model_copy(update={"seal_at_rows": len(given) - 6}))
            return await work(bus, store, (await chain_of(bus)).batches[0])

    return asyncio.run(scenario())


async def export(store: FileStore, batch: TrainingBatchSealed, to: Path, *, with_origin: bool = True) -> list[Written]:
    async with fetched(store, batch.dataset) as dataset:
        writer = Export(dataset, batch_id=batch.batch_id, with_origin=with_origin)
        return [writer.write(split, kind, to) for kind in ("parquet", "jsonl") for split in SPLITS]


async def card_of(
    bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed, files: list[Written], *, names: bool = False
) -> Card:
    async with fetched(store, batch.dataset) as dataset:
        return await versions._card(bus, store, batch, dataset, versions.Asked(files, names=names), lambda _: None)


def expected(manifest: Manifest, split: str) -> list[str]:
    return [row.sha256 for row in manifest.rows if row.split == split]


def test_every_file_opens_as_it_is_and_has_the_rows_in_their_order(tmp_path: Path) -> None:
    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> Manifest:
        files = await export(store, batch, tmp_path)
        versions.write_card(await card_of(bus, store, batch, files), tmp_path)
        return await load_manifest(store, batch.dataset)

    manifest = one_batch(tmp_path, work)
    cache = str(tmp_path / "cache")
    parquet = {split: str(tmp_path / f"{split}.parquet") for split in SPLITS}
    jsonl = {split: str(tmp_path / f"{split}.jsonl") for split in SPLITS}
    for opened in (
        open_with_datasets("parquet", data_files=parquet, cache_dir=cache),
        open_with_datasets("json", data_files=jsonl, cache_dir=cache),
        open_with_datasets(str(tmp_path), cache_dir=cache),
    ):
        assert set(opened) == {"train", "holdout"}
        for split in SPLITS:
            rows = sorted(opened[split], key=lambda row: row["origin"]["line"])
            assert [row["origin"]["sha256"] for row in rows] == expected(manifest, split)
            assert {row["origin"]["batch"] for row in rows} == {manifest.batch_id}
            assert all(row["chat_template_kwargs"]["enable_thinking"] == row["origin"]["reasoning"] for row in rows)
            assert all(bool(row["completion"][0]["reasoning_content"]) == row["origin"]["reasoning"] for row in rows)
        calls = [row for split in SPLITS for row in opened[split] if row["completion"][0]["tool_calls"]]
        ((called,),) = [row["prompt"][2]["tool_calls"] for row in calls]
        assert json.loads(called["function"]["arguments"]) == {"a": 4, "note": {"deep": [1, None]}}
    from_folder = open_with_datasets(str(tmp_path), cache_dir=cache)
    assert [row["origin"]["line"] for row in from_folder["train"]] == list(range(1, manifest.counts["train"] + 1))


def test_without_the_origin_there_is_what_is_trained(tmp_path: Path) -> None:
    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> None:
        del bus
        await export(store, batch, tmp_path, with_origin=False)

    one_batch(tmp_path, work)
    for kind, name in (("parquet", "train.parquet"), ("json", "train.jsonl")):
        opened = open_with_datasets(kind, data_files={"train": str(tmp_path / name)}, cache_dir=str(tmp_path / "cache"))
        assert opened["train"].column_names == ["prompt", "completion", "chat_template_kwargs", "tools"]


def test_an_empty_split_has_its_columns_and_the_folder_opens_beside_it(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> Card:
        return await card_of(bus, store, batch, await export(store, batch, tmp_path))

    card = one_batch(tmp_path, work, settings=ALL_TRAINED)
    versions.write_card(card, tmp_path)
    assert pq.read_schema(tmp_path / "holdout.parquet") == pq.read_schema(tmp_path / "train.parquet")
    assert pq.read_table(tmp_path / "holdout.parquet").num_rows == 0
    files = {"holdout": str(tmp_path / "holdout.parquet")}
    assert list(open_with_datasets("parquet", data_files=files, streaming=True)["holdout"]) == []
    assert set(open_with_datasets(str(tmp_path), cache_dir=str(tmp_path / "cache"))) == {"train"}
    assert "No row is in: holdout." in markdown(card)


def test_the_same_batch_gives_the_same_files(tmp_path: Path) -> None:
    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> list[dict[str, bytes]]:
        made = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            files = await export(store, batch, tmp_path / name)
            versions.write_card(await card_of(bus, store, batch, files), tmp_path / name)
            made.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()})
        return made

    one, two = one_batch(tmp_path, work)
    assert one == two
    assert "card/overall-score.svg" in one


def test_the_card_says_what_is_in_it_and_names_no_agent_unless_asked(tmp_path: Path) -> None:
    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> tuple[TrainingBatchSealed, Card, Card]:
        files = await export(store, batch, tmp_path)
        return batch, await card_of(bus, store, batch, files), await card_of(bus, store, batch, files, names=True)

    batch, card, named = one_batch(tmp_path, work)
    said = markdown(card)
    front = yaml.safe_load(said.split("---\n")[1])
    assert front["license"] == "other"
    assert [each["path"] for each in front["configs"][0]["data_files"]] == ["train.parquet", "holdout.parquet"]
    assert [each["name"] for each in front["dataset_info"][0]["features"]] == [
        *("prompt", "completion", "chat_template_kwargs", "tools", "origin"),
    ]
    assert f"| to train on | {batch.rows} |" in said
    assert batch.dataset.sha256 in said
    assert "ruminate datasets rebuild --tenant default --target qwen3:8b --batch 1" in said
    assert (card.judged.rows, card.judged.missing) == (batch.rows + batch.holdout_rows, 0)
    assert "agent-1" not in said
    assert "* Agents: 4 (names are not shown)" in said
    assert "agent-1" in markdown(named)
    for plot in card.plots.values():
        root = ET.fromstring(plot)
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme: dark" in plot


def test_the_card_says_so_where_the_log_no_longer_has_the_records(tmp_path: Path) -> None:
    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> Card:
        del bus
        async with MemoryBus(MemoryBroker(), reader="test") as empty:
            return await card_of(empty, store, batch, [])

    card = one_batch(tmp_path, work)
    assert card.judged.rows == 0
    assert "**Scores, domains, modes and agents are not known**" in markdown(card)
    assert "overall-score.svg" not in card.plots
    assert sum(histogram.values for histogram in card.lengths.by_text.values()) > 0


def test_tool_calls_at_the_end_of_a_large_file_have_their_type_from_its_beginning(tmp_path: Path) -> None:
    plain = _line([{"role": "user", "content": "q" * 20_000}])
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    late = _line([{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": calls}])
    _write_dataset(tmp_path, [plain] * 600 + [late])
    (made,) = [Export(Fetched(tmp_path, _reference()), batch_id="b", with_origin=True).write("train", "jsonl", tmp_path / "out")]
    assert (made.tool_calls_in, made.size_bytes > 10 << 20) == (("prompt",), True)
    opened = open_with_datasets("json", data_files=str(tmp_path / "out" / "train.jsonl"), cache_dir=str(tmp_path / "cache"))
    lines = [each["line"] for each in opened["train"]["origin"]]
    assert (lines[:2], sorted(lines)) == ([601, 1], list(range(1, 602)))


def test_tool_calls_in_the_second_split_alone_open_as_a_folder(tmp_path: Path) -> None:
    plain = _line([{"role": "user", "content": "q"}])
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]
    calling = _line([{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": calls}])
    dataset, to = Fetched(tmp_path, _reference()), tmp_path / "out"
    _write_dataset(tmp_path, [plain], held_out=[calling])
    files = [Export(dataset, batch_id="b", with_origin=True).write(split, "jsonl", to) for split in SPLITS]

    async def work(bus: MemoryBus, store: FileStore, batch: TrainingBatchSealed) -> Card:
        return await card_of(bus, store, batch, files)

    card = one_batch(tmp_path, work)
    versions.write_card(card, to)
    opened = open_with_datasets(str(to), cache_dir=str(tmp_path / "cache"))
    assert opened["holdout"][0]["prompt"][1]["tool_calls"][0]["function"]["name"] == "f"
    assert "In JSONL, prompt has tool calls in a later split and none in the first" in markdown(card)


def test_a_line_that_is_not_the_one_that_was_sealed_is_not_exported(tmp_path: Path) -> None:
    _write_dataset(tmp_path, [_line([{"role": "user", "content": "q"}])])
    (tmp_path / "train.jsonl").write_bytes(_line([{"role": "user", "content": "x"}]))
    with pytest.raises(ArtifactDamaged, match=r"line 1 of train\.jsonl is not the one"):
        Export(Fetched(tmp_path, _reference()), batch_id="b", with_origin=True).write("train", "parquet", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        folder = tmp_path / str(rows)
        folder.mkdir()
        _write_dataset(folder, [_line([{"role": "user", "content": "q" * 20_000}])] * rows)
        dataset = Fetched(folder, _reference())
        tracemalloc.start()
        export = Export(dataset, batch_id="b", with_origin=True)
        assert [export.write("train", kind, folder / "out").rows for kind in ("parquet", "jsonl")] == [rows, rows]
        assert lengths_of(dataset).by_text["prompt"].values == rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(4000) < peak(1000) * 1.5


def _line(prompt: list[dict[str, Any]]) -> bytes:
    answer = {"role": "assistant", "content": "a"}
    row = {"prompt": prompt, "completion": [answer], "chat_template_kwargs": {"enable_thinking": False}}
    return orjson.dumps(row) + b"\n"


def _write_dataset(folder: Path, lines: list[bytes], *, held_out: list[bytes] | None = None) -> None:
    import hashlib
    from uuid import UUID

    held_out = held_out or []
    origin = {
        **{"origin": "fresh", "partition": 0, "revision": 0, "conversation": "c" * 32, "reasoning": False},
        **{"indicators": [], "thinking_called_for": False, "score": 0.9, "thing": None},
        **dict.fromkeys(("cluster", "question", "content"), "d" * 32),
    }
    splits = [("train", line) for line in lines] + [("holdout", line) for line in held_out]
    manifest = {
        **{"batch_id": "b", "number": 1, "previous": None, "tenant": "t", "target_model": "m", "partition": 0, "after_offset": -1},
        **{"to_offset": len(splits), "policy_version": "batch-2", "policy": {}, "seed": "0", "scorer_versions": []},
        **{"assessor_policy_versions": [], "left_out_counts": {}, "left_out": []},
        "counts": {"train": len(lines), "holdout": len(held_out)},
        "rows": [
            origin
            | {"split": split, "sha256": hashlib.sha256(line).hexdigest()}
            | {"offset": n, "event_id": f"e-{n}", "recorded_id": str(UUID(int=n))}
            for n, (split, line) in enumerate(splits)
        ],
    }
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    (folder / "train.jsonl").write_bytes(b"".join(lines))
    (folder / "holdout.jsonl").write_bytes(b"".join(held_out))


def _reference() -> Any:
    from ruminate.schemas.payload import ArtifactReference

    return ArtifactReference(uri="file:///nowhere", sha256="0" * 64, size_bytes=0)
