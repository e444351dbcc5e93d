"""A chain that an earlier release began goes on: what it holds is neither trained again nor ever on the other side."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from ruminate.accumulator.curation.rehearsal import Pick
from ruminate.accumulator.making.holdings import account, load_holdings
from ruminate.accumulator.making.manifest import KIND
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Spool
from ruminate.accumulator.sealing.chain import Sealed, digest_of
from ruminate.shared.store import FileStore

BATCH_1 = Path(__file__).parents[1] / "data" / "batch-1"
"""A dataset as the first release wrote it."""


def test_a_dataset_of_the_first_release_is_taken_over_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = FileStore(tmp_path / "store")
        dataset = await store.put_tree(BATCH_1, kind=KIND, name="default/golden:1b/1")
        holdings = await load_holdings(store, dataset)
        sealed = Sealed()
        account(holdings, sealed)
        known, rows = sealed.known, holdings.manifest.rows
        assert {row.split for row in rows} == {"train", "holdout"}
        for row in rows:
            held_out = row.split == "holdout"
            assert digest_of(row.event_id) in sealed.events
            assert row.recorded_id.bytes in sealed.interactions
            assert bytes.fromhex(row.content) in known.contents
            assert known.conversations.get(bytes.fromhex(row.conversation)) is held_out
        assert known.held_out_rows == sum(row.split == "holdout" for row in rows)
        asked = [turn["content"] for turn in json.loads(holdings.held_out[0])["prompt"] if turn["role"] == "user"]
        assert known.protected.touches(["\n".join(asked)]) is not None
        # Its rows can be rehearsed, too.
        with Spool() as spool:
            (shelved,) = await Shelf(store, spool, {2: dataset}).find([Pick(2, rows[0].recorded_id.bytes)])
            assert spool.read(shelved.line) == (BATCH_1 / "train.jsonl").read_bytes().splitlines(keepends=True)[0]
        assert sum(known.buffer.counts()) == sum(row.split == "train" for row in rows)

    asyncio.run(scenario())
