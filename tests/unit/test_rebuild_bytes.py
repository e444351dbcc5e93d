"""The bytes of a dataset are a promise: what was sealed by an earlier release must come out of this one alike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import orjson

from ruminate.accumulator.chain import Fold, Link, Sealed, item_of
from ruminate.accumulator.dataset import POLICY_VERSION, describe, write_dataset
from ruminate.accumulator.decide import candidate_of, seed_of, select
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.accumulator.spool import Spool
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.flow import REASONING_ASSESSED

KEPT = Path(__file__).parents[2] / "schemas" / "examples" / REASONING_ASSESSED.name / "valid" / "kept.json"
SETTINGS = AccumulatorSettings.written_down({"holdout_ratio": 0.4, "min_reasoning_ratio": 0.9, "shuffle_seed": 3})
BATCH_1 = {
    "train.jsonl": "ae911dadae425e786955e00ba9d756478b53deba3efa5f4a4061a021c40a0a51",
    "holdout.jsonl": "501965dba17db5076e798018c376f6de177d1b77666f303e506df8717b14ffaa",
    "manifest.json": "3524be0cdde6736866e7a13b7db234a63c053a42aab1df62357f34af281108b0",
}
"""Of `batch-1`. Who has reason to change them gives POLICY_VERSION a new value: datasets of the old one are refused then."""


def assessed(number: int) -> ReasoningAssessed:
    """The example that people read, as interaction `number`: some direct, some without consent, some continued."""
    example = ReasoningAssessed.model_validate_json(orjson.dumps(orjson.loads(KEPT.read_bytes())["value"]))
    response = example.interaction.response.model_copy(update={"content": f"Größe {number} — “ok”\u2028\t\\", "tool_calls": ()})
    interaction = example.interaction.model_copy(
        update={
            "interaction_id": f"i-{number}",
            "conversation_id": f"c-{number}",
            "continues_interaction": f"i-{number - 1}" if number % 6 == 5 else None,
            "recorded_id": UUID(int=number),
            "training_allowed": number % 7 != 3,
            "response": response.model_copy(update={"thinking": "Weil\x001 + 1 = 2." if number % 3 else None}),
            "source": "/golden",
            "target_model": "golden:1b",
            "tenant": "default",
        }
    )
    own = {"recorded_id": UUID(int=number), "revision": 0, "target_model": "golden:1b", "tenant": "default"}
    return example.model_copy(update=own | {"interaction": interaction, "policy_version": "p", "scorer_version": "s"})


def test_the_bytes_of_a_dataset_are_those_that_batch_1_has_always_had(tmp_path: Path) -> None:
    records = {offset: assessed(number) for offset, number in enumerate([*range(24), 3, 8])}
    fold = Fold(sealed=Sealed(), holdout_ratio=SETTINGS.holdout_ratio)
    for offset, record in records.items():
        moment, event_id = record.interaction.occurred_at, f"event-{record.recorded_id.int}"
        fold.add(item_of(record, event_id=event_id, assessed_at=moment, offset=offset, row_max_bytes=SETTINGS.row_max_bytes))
    seed = seed_of("golden_1b-000002", SETTINGS.shuffle_seed)
    selection = select(fold, SETTINGS.policy, seed=seed)
    candidates = [
        candidate_of(
            records[item.offset],
            item,
            event_id=f"event-{records[item.offset].recorded_id.int}",
            held_out=held_out,
            row_max_bytes=SETTINGS.row_max_bytes,
        )
        for item, held_out in selection.rows()
    ]
    manifest = describe(
        candidates,
        selection,
        batch_id="golden_1b-000002",
        seed=seed,
        tenant="default",
        target="golden:1b",
        partition=4,
        link=Link(1, "golden_1b-000001", -1),
        to_offset=25,
        settings=SETTINGS,
    )
    assert {"duplicate", "not_allowed", "continued", "over_ratio"} <= manifest.left_out_counts.keys()
    assert manifest.counts["holdout"] > 0
    write_dataset(tmp_path, manifest, candidates)
    assert POLICY_VERSION == "batch-1"
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == BATCH_1


def test_an_entry_of_the_spool_is_what_the_fold_would_have_kept_and_its_row_what_the_cut_would_have_read() -> None:
    with Spool() as spool:
        for number in range(12):
            record = assessed(number)
            moment, event_id = record.interaction.occurred_at, f"event-{number}"
            entry = spool.add(record, event_id=event_id, assessed_at=moment, offset=number)
            for row_max_bytes in (200, 1_048_576):
                item = item_of(record, event_id=event_id, assessed_at=moment, offset=7, row_max_bytes=row_max_bytes)
                assert entry.item(offset=7, row_max_bytes=row_max_bytes) == item
                if item.why_not is None:
                    wanted = candidate_of(record, item, event_id=event_id, held_out=True, row_max_bytes=row_max_bytes)
                    assert spool.candidate(entry, item, held_out=True) == wanted
