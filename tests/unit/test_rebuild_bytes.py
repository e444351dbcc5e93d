"""The bytes of a dataset are a promise: what was sealed by an earlier release must come out of this one alike."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from uuid import UUID

import orjson

from ruminate.accumulator.making.candidate import candidate_of
from ruminate.accumulator.making.choose import interval_of, seed_of
from ruminate.accumulator.making.dataset import Made, write_files
from ruminate.accumulator.making.describe import Cut
from ruminate.accumulator.making.make import Sets, make
from ruminate.accumulator.making.manifest import POLICY_VERSION
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Spool
from ruminate.accumulator.records.rows import NO_LIMITS, RowLimits
from ruminate.accumulator.sealing.chain import Fold, Link, Sealed, item_of
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.flow import REASONING_ASSESSED
from ruminate.shared.store import FileStore

KEPT = Path(__file__).parents[2] / "schemas" / "examples" / REASONING_ASSESSED.name / "valid" / "kept.json"
SETTINGS = AccumulatorSettings.written_down(
    {"holdout_ratio": 0.4, "min_reasoning_ratio": 0.9, "shuffle_seed": 3, "cluster_most_rows": 1}
)
BATCH_4 = {
    "train.jsonl": "300db209733a0e6724e4f77ec003ac43afc4e0693f4b9db79652b36cefeec81c",
    "replay.jsonl": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "holdout.jsonl": "433d09d2336dac54dc1902484a482393cc5720416a51a16b291c1c3db022e62f",
    "preferences.jsonl": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "verifiable.jsonl": "43fb45c01a8d4a364311fcae53c58c39d9fcaa138cd6de491f55295166edd412",
    "verifiable-holdout.jsonl": "9a2e3e7d66f4ae446d811976d41c3f18839d9d6e3ffa5a9fe2155cd26d76b809",
    "signatures.bin": "a51f65eb28cf36e2f0986e0cba90278dbc9737285429569484f9bd5ba93f9e6e",
    "report.json": "06e2205dbb1c7729ac85975b4a1ee47967b446fbf51c0d2b5ccd7307be2508ca",
    "manifest.json": "85986636ae12c492c856d4766aac66edf5895edf76f6d5cd90a4f7676628a2db",
}
"""Of `batch-4`. Who has reason to change them gives POLICY_VERSION a new value: datasets of the old one are refused then."""


def assessed(number: int) -> ReasoningAssessed:
    """The example that people read, as interaction `number`: some direct, some without consent, some continued."""
    example = ReasoningAssessed.model_validate_json(orjson.dumps(orjson.loads(KEPT.read_bytes())["value"]))
    question = example.interaction.messages[-1].model_copy(update={"content": f"How large is number {number % 9}, in words?"})
    response = example.interaction.response.model_copy(update={"content": f"Größe {number} — “ok”\u2028\t\\", "tool_calls": ()})
    interaction = example.interaction.model_copy(
        update={
            "interaction_id": f"i-{number}",
            "conversation_id": f"c-{number}",
            "continues_interaction": f"i-{number - 1}" if number % 6 == 5 else None,
            "recorded_id": UUID(int=number),
            "training_allowed": number % 7 != 3,
            "messages": (*example.interaction.messages[:-1], question),
            "response": response.model_copy(update={"thinking": "Weil\x001 + 1 = 2." if number % 3 else None}),
            "source": "/golden",
            "target_model": "golden:1b",
            "tenant": "default",
        }
    )
    own = {"recorded_id": UUID(int=number), "revision": 0, "target_model": "golden:1b", "tenant": "default"}
    return example.model_copy(update=own | {"interaction": interaction, "policy_version": "p", "scorer_version": "s"})


def test_the_bytes_of_a_dataset_are_those_that_batch_4_has_always_had(tmp_path: Path) -> None:
    records = {offset: assessed(number) for offset, number in enumerate([*range(24), 3, 8])}
    fold = Fold(sealed=Sealed())
    for offset, record in records.items():
        moment, event_id = record.interaction.occurred_at, f"event-{record.recorded_id.int}"
        fold.add(item_of(record, event_id=event_id, assessed_at=moment, offset=offset, limits=SETTINGS.row_limits))
    seed = seed_of("golden_1b-000002", SETTINGS.shuffle_seed)
    interval, known = interval_of(fold), fold.sealed.known
    with Spool() as spool:
        entries = {
            offset: spool.add(
                record,
                event_id=f"event-{record.recorded_id.int}",
                assessed_at=record.interaction.occurred_at,
                offset=offset,
            )
            for offset, record in records.items()
        }
        cut = Cut("golden_1b-000002", seed, "default", "golden:1b", 4, Link(1, "golden_1b-000001", -1), 25)
        shelf = Shelf(FileStore(tmp_path / "store"), spool, {})
        made = asyncio.run(make(interval, entries, spool, cut=cut, known=known, shelf=shelf, sets=Sets(), settings=SETTINGS))
    assert isinstance(made, Made)
    manifest = made.manifest
    assert {"duplicate", "not_allowed", "continued", "over_ratio", "over_cluster_limit"} <= manifest.left_out_counts.keys()
    assert manifest.counts["holdout"] > 0
    assert made.report is not None
    assert made.report.problems == ()
    write_files(tmp_path, made.files())
    assert POLICY_VERSION == "batch-4"
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == BATCH_4


def test_an_entry_of_the_spool_is_what_the_fold_would_have_kept_and_its_row_what_the_cut_would_have_read() -> None:
    with Spool() as spool:
        for number in range(12):
            record = assessed(number)
            moment, event_id = record.interaction.occurred_at, f"event-{number}"
            entry = spool.add(record, event_id=event_id, assessed_at=moment, offset=number)
            for limits in (RowLimits(max_bytes=200), RowLimits(context_tokens=20), RowLimits(images=False), NO_LIMITS):
                item = item_of(record, event_id=event_id, assessed_at=moment, offset=7, limits=limits)
                assert entry.item(offset=7, limits=limits) == item
                if item.why_not is None:
                    wanted = candidate_of(record, item, event_id=event_id, held_out=True)
                    assert spool.candidate(entry, item, held_out=True) == wanted
