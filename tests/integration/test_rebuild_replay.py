"""Another policy over the same interactions: the same bytes in whatever order they came, and nothing leaks across."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruminate.accumulator.curation.wording import digest_of_normalised, normalised
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.rebuilding.replay import ReplayManifest, ReplayOmission, ReplayRow
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.assessor.judging.decide import judge
from ruminate.assessor.learning.classroom import snapshot_of
from ruminate.assessor.policy import Policy
from ruminate.command.datasets.policy import ReplayPolicy
from ruminate.command.datasets.replay import Replay, replay
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    EVIDENCE_RECORDED,
    INTERACTION_RECORDED,
    REASONING_ASSESSED,
    SCORER_TAUGHT,
    TRAINING_BATCH_SEALED,
)
from ruminate.schemas.interaction import InteractionRecorded, Response
from ruminate.schemas.payload import ArtifactReference, Payload
from ruminate.schemas.scoring import ScorerTaught
from ruminate.schemas.topic import Topic
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.store import FileStore, StoreError
from tests.integration.recorded_log import LENIENT, SETTINGS, START, TARGET, Pieces, assess, chain_of, interaction, record, seal

SMALL = {"seal_at_rows": 4, "seal_after_min_rows": 2, "seal_after_seconds": 20.0}


def policy_of(assessment: Policy = LENIENT, **batch: Any) -> ReplayPolicy:
    return ReplayPolicy(assessment, AccumulatorSettings.written_down(SMALL | batch), given_name="test")


def of_live(**changed: Any) -> ReplayPolicy:
    """The policy that the chain of `sealed_world` is cut by."""
    values = {name: getattr(SETTINGS, name) for name in ("seal_at_rows", "seal_after_min_rows", "holdout_ratio")}
    return ReplayPolicy(LENIENT, AccumulatorSettings.written_down(values | changed), given_name="live")


class AddressesAlone(FileStore):
    """Hashes as ever and writes nothing, for many runs in a row."""

    async def put_tree(self, folder: Path, *, kind: str, name: str) -> ArtifactReference:
        return await self.address_tree(folder, kind=kind, name=name)


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[InteractionRecorded], list[InteractionRecorded]]:
    """The same records in two orders, some of them repeated, some with the id of another and other bytes."""
    records = []
    for number in range(draw(st.integers(1, 14))):
        conversation = draw(st.integers(0, 3))
        changed: dict[str, Any] = {
            "conversation_id": f"c-{conversation}",
            # Few moments, so that the event id has to decide.
            "occurred_at": START + timedelta(seconds=draw(st.integers(0, 3)) * 10),
            "training_allowed": draw(st.booleans()) or draw(st.booleans()),
            "target_model": draw(st.sampled_from([TARGET, "other"])),
            "continues_interaction": draw(st.sampled_from([None, None, "i-0", "i-1"])),
        }
        one = interaction(number, thinks=draw(st.booleans()) or draw(st.booleans()), **changed)
        records += [one] * draw(st.integers(1, 2))
        if draw(st.integers(0, 5)) == 0:
            records.append(
                one.model_copy(update={"response": Response(content="It is another answer.", thinking="Since 1 + 1 = 2.")})
            )
    return draw(st.permutations(records)), draw(st.permutations(records))


@given(arrivals())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_the_bytes_do_not_depend_on_the_order_of_arrival(
    tmp_path: Path, orders: tuple[list[InteractionRecorded], list[InteractionRecorded]]
) -> None:
    async def run(order: Sequence[InteractionRecorded]) -> Replay:
        bus = MemoryBus(MemoryBroker(), reader="command")
        await record(bus, *order)
        return await replay(bus, AddressesAlone(tmp_path), policy_of())

    one, again, other = (asyncio.run(run(order)) for order in (orders[0], orders[0], orders[1]))
    assert one == again
    assert (one.chains, one.datasets, one.report) == (other.chains, other.datasets, other.report)


def some(begin: int, end: int) -> list[InteractionRecorded]:
    """Interactions in the order in which they occurred, some without consent, some continued."""
    return [
        interaction(
            number,
            thinks=number % 5 != 0,
            training_allowed=number % 7 != 3,
            **({"conversation_id": f"c-{number - 1}", "continues_interaction": f"i-{number - 1}"} if number % 6 == 5 else {}),
        )
        for number in range(begin, end)
    ]


async def sealed_world(folder: Path, *interactions: InteractionRecorded) -> tuple[MemoryBus, FileStore]:
    """Recorded, assessed and sealed into all the batches that there are: four of the first 64."""
    broker, store = MemoryBroker(), FileStore(folder / "store")
    bus = MemoryBus(broker, SETTINGS, reader="accumulator")
    await record(bus, *interactions)
    await assess(bus, *interactions)
    await seal(bus, store, 4)
    return MemoryBus(broker, reader="command"), store


async def manifests_of(store: FileStore, made: Replay, target: str = TARGET) -> list[ReplayManifest]:
    references = made.datasets["default", target]
    return [ReplayManifest.model_validate_json(await store.read_file(reference, "manifest.json")) for reference in references]


def test_the_chains_own_policy_in_the_chains_own_order_gives_its_own_rows(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus, store = await sealed_world(tmp_path, *some(0, 64))
        made = await replay(bus, store, of_live())
        for batch, reference in zip((await chain_of(bus)).batches, made.datasets["default", TARGET], strict=True):
            for file in ("train.jsonl", "holdout.jsonl"):
                assert await store.read_file(reference, file) == await store.read_file(batch.dataset, file)
        (chain,) = made.chains
        assert chain.differing_rows == {"gained": {}, "lost": {}, "changed": {}}
        assert chain.same_rows == chain.chain.rows + chain.chain.holdout_rows > 24

    asyncio.run(scenario())


def test_a_replay_publishes_nothing_moves_no_chain_and_lies_apart(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus, store = await sealed_world(tmp_path, *some(0, 64))
        broker = bus._broker
        topics = (INTERACTION_RECORDED, REASONING_ASSESSED, TRAINING_BATCH_SEALED, ADAPTER_TRAINED)
        before = {topic.name: len(broker.records(topic.name)) for topic in topics}
        datasets = sorted((tmp_path / "store" / "datasets").rglob("*.json"))
        made = await replay(bus, store, policy_of(min_reasoning_ratio=0.5))
        assert {topic.name: len(broker.records(topic.name)) for topic in topics} == before
        assert sorted((tmp_path / "store" / "datasets").rglob("*.json")) == datasets
        assert all("/store/replays/test-default-qwen3-8b-" in each.uri for each in made.datasets["default", TARGET])
        assert "/store/replays/test/" in made.summary.uri

    asyncio.run(scenario())


@pytest.mark.parametrize("holdout_ratio", [0.0, 0.25, 0.5])
def test_what_the_chain_holds_out_stays_held_out_and_what_it_trains_stays_trained(tmp_path: Path, holdout_ratio: float) -> None:
    async def scenario() -> None:
        interactions = some(0, 64)
        bus, store = await sealed_world(tmp_path, *interactions)
        taught = [row for batch in (await chain_of(bus)).batches for row in (await load_manifest(store, batch.dataset)).rows]
        # More of the same conversations, and new ones, that no batch holds yet.
        later = [
            each.model_copy(
                update={
                    "interaction_id": f"later-{n}",
                    "recorded_id": interaction(1000 + n).recorded_id,
                    "response": each.response.model_copy(update={"content": f"That makes {n + 1}."}),
                }
            )
            for n, each in enumerate(interactions)
        ]
        await record(bus, *later, *some(100, 160))
        made = await replay(bus, store, of_live(holdout_ratio=holdout_ratio))
        sides = {row.conversation: row.split for row in taught}
        assert set(sides.values()) == {"train", "holdout"}
        asked = {
            each.recorded_id: digest_of_normalised(normalised(each.messages[-1].content))
            for each in (*interactions, *later, *some(100, 160))
        }
        replayed = [row for manifest in await manifests_of(store, made) for row in manifest.rows]
        known = [row for row in replayed if row.conversation in sides]
        assert len(known) > len(taught)
        assert all(row.split == sides[row.conversation] for row in known)
        # What no batch holds yet is held out at least as the chain is going to do.
        would_hold = int(max(holdout_ratio, SETTINGS.holdout_ratio) * 2**64)
        for row in replayed:
            if row.conversation not in sides:
                assert (row.split == "holdout") == (int.from_bytes(asked[row.recorded_id][:8], "big") < would_hold)

    asyncio.run(scenario())


@pytest.mark.parametrize(("least_evidence", "rejected"), [(0.6, 14), (0.9, 64)])
def test_a_stricter_policy_says_which_rows_are_lost_and_why(tmp_path: Path, least_evidence: float, rejected: int) -> None:
    async def scenario() -> None:
        bus, store = await sealed_world(tmp_path, *some(0, 64))
        strict = Policy(keep_overall_at_least=0, keep_evidence_at_least=least_evidence)
        made = await replay(bus, store, replace(of_live(), assessment=strict))
        (chain,) = made.chains
        assert chain.rejected_for == {"little_evidence": rejected}
        lost = chain.differing_rows["lost"]
        assert lost["rejected"] > 0
        assert sum(lost.values()) + chain.same_rows == chain.chain.rows + chain.chain.holdout_rows
        lines = [json.loads(line) for line in (await store.read_file(made.summary, "differences.jsonl")).splitlines()]
        assert len(lines) == sum(sum(whys.values()) for whys in chain.differing_rows.values())
        assert f"rejected {lost['rejected']}" in made.report
        assert f"little_evidence {rejected}" in made.report
        assert ("more: `differences.jsonl` has all of them" in made.report) == (sum(lost.values()) > 10)
        summary = orjson.loads(await store.read_file(made.summary, "replay.json"))
        assert summary["policy"]["assessment"]["keep_evidence_at_least"] == least_evidence

    asyncio.run(scenario())


def test_what_was_erased_is_in_no_replay(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus, store = await sealed_world(tmp_path, *some(0, 64))
        erased = (await load_manifest(store, (await chain_of(bus)).batches[0].dataset)).rows[0].recorded_id
        broker = MemoryBroker()
        for topic in (INTERACTION_RECORDED, TRAINING_BATCH_SEALED):
            for kept in bus._broker.records(topic.name):
                value = None if kept.key == str(erased).encode() else kept.value
                broker.append(topic.name, value, key=kept.key, headers=kept.headers, partition=kept.partition)
        made = await replay(MemoryBus(broker, reader="command"), store, of_live())
        assert all(row.recorded_id != erased for manifest in await manifests_of(store, made) for row in manifest.rows)
        (chain,) = made.chains
        assert chain.differing_rows["lost"]["not_recorded"] == 1

    asyncio.run(scenario())


def test_every_row_names_its_interaction_and_every_interaction_its_place_in_the_log(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus, store = await sealed_world(tmp_path, *some(0, 64))
        made = await replay(bus, store, policy_of())
        sources = {
            source["event_id"]: source
            for source in map(json.loads, (await store.read_file(made.summary, "sources.jsonl")).splitlines())
        }
        assert len(sources) == 64
        log = {(r.partition, r.offset): r.value for r in bus._broker.records(INTERACTION_RECORDED.name)}
        ranks: list[int] = []
        for manifest in await manifests_of(store, made):
            listed: list[ReplayRow | ReplayOmission] = [*manifest.rows, *manifest.left_out]
            for each in listed:
                source = sources[each.event_id]
                assert (source["rank"], source["sha256"]) == (each.rank, each.interaction_sha256)
                found = InteractionRecorded.model_validate_json(log[source["partition"], source["offset"]] or b"")
                assert found.recorded_id == each.recorded_id
                ranks.append(each.rank)
            assert sorted(ranks) == list(range(manifest.to_rank + 1))

    asyncio.run(scenario())


def test_every_interaction_is_assessed_anew_and_the_verdicts_do_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    strict = replace(of_live(), assessment=Policy(keep_overall_at_least=0, keep_evidence_at_least=0.6))
    interactions = [*some(0, 32), *(each.model_copy(update={"target_model": "other"}) for each in some(32, 40))]

    async def verdicts(arrived: Sequence[InteractionRecorded], store: FileStore) -> bytes:
        bus = MemoryBus(MemoryBroker(), reader="command")
        await record(bus, *arrived)
        return await store.read_file((await replay(bus, store, strict)).summary, "assessments.jsonl")

    async def scenario() -> None:
        store = FileStore(tmp_path)
        found = await verdicts(interactions, store)
        assert found == await verdicts([*reversed(interactions), *interactions[::3]], store)
        lines = [json.loads(line) for line in found.splitlines()]
        by_chain = sorted(interactions, key=lambda each: (each.target_model != "other", each.occurred_at, str(each.recorded_id)))
        assert [line["recorded_id"] for line in lines] == [str(each.recorded_id) for each in by_chain]
        for line, each in zip(lines, by_chain, strict=True):
            assert line["verdict"] == judge(each, strict.assessment, policy_version="p").verdict.model_dump(mode="json")
        assert {line["verdict"]["decision"] for line in lines} == {"keep", "reject"}

    asyncio.run(scenario())


def test_what_people_said_counts_in_any_order_and_each_is_judged_by_the_snapshot_that_judged_it(
    tmp_path: Path,
) -> None:
    one, other = interaction(1), interaction(2)
    taught = ScorerTaught(
        number=1,
        combiner="1-0123456789ab",
        lessons=20,
        to_offset=19,
        effective_at=START,
        bias=-3.0,
        corrections={},
        names=(),
        exact=(-3.0,),
        covariance="",
        taught={},
        reliability_lessons=20,
        brier=0.2,
        calibration_error=0.05,
    )
    thumbs: dict[int, Literal["up", "down"]] = {1: "up", 2: "down"}
    said = [
        EvidenceRecorded(
            recorded_id=one.recorded_id,
            conversation_id=one.conversation_id,
            kind="feedback",
            said_by="anna",
            said_at=START + timedelta(hours=hour),
            thumb=thumb,
        )
        for hour, thumb in thumbs.items()
    ]
    others = EvidenceRecorded(
        recorded_id=one.recorded_id,
        conversation_id=one.conversation_id,
        kind="agreement",
        said_by="/ruminate/assessor",
        said_at=START,
        agreeing=9,
        disagreeing=0,
    )

    async def verdicts(evidence: Sequence[EvidenceRecorded], folder: Path) -> list[dict[str, Any]]:
        bus, store = MemoryBus(MemoryBroker(), reader="command"), FileStore(folder)
        await record(bus, one, other)
        assessed = judge(other, LENIENT, policy_version="p")
        named = assessed.model_copy(update={"verdict": assessed.verdict.model_copy(update={"combiner": taught.combiner})})
        events: list[tuple[Topic[Any], Payload]] = [(SCORER_TAUGHT, taught), (REASONING_ASSESSED, named)]
        for topic, payload in events:
            envelope = bus.begin(topic, payload)._replace(cause=str(other.recorded_id))
            await bus.publish(topic, payload, envelope)
        for each in evidence:
            event_id = str(UUID(int=100 + said.index(each) if each in said else 99))
            await bus.publish(EVIDENCE_RECORDED, each, bus.begin(EVIDENCE_RECORDED, each, event_id=event_id))
        found = await store.read_file((await replay(bus, store, policy_of())).summary, "assessments.jsonl")
        return [json.loads(line)["verdict"] for line in found.splitlines()]

    async def scenario() -> None:
        first = await verdicts([*said, others], tmp_path / "one")
        assert first == await verdicts([others, *reversed(said), said[0]], tmp_path / "other")
        plain = await verdicts([], tmp_path / "plain")
        assert [verdict["combiner"] for verdict in first] == ["0", snapshot_of(taught).version]
        assert first[0]["overall"]["value"] < plain[0]["overall"]["value"]
        assert "thumb down" in first[0]["overall"]["evidence"]
        assert first[1]["overall"]["value"] == plain[1]["overall"]["value"] < plain[0]["overall"]["value"]

    asyncio.run(scenario())


def test_an_old_batch_is_cut_by_age_before_what_came_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = MemoryBus(MemoryBroker(), reader="command")
        await record(bus, *some(0, 3), interaction(200), interaction(201))
        store = FileStore(tmp_path)
        made = await replay(bus, store, policy_of(holdout_ratio=0.0))
        (manifest,) = await manifests_of(store, made)
        assert (manifest.reason, manifest.counts["train"], manifest.to_rank) == ("age", 2, 2)
        (chain,) = made.chains
        assert chain.waiting == {"rows": 2}
        assert chain.waiting_explanation.endswith("Waiting.")

    asyncio.run(scenario())


def test_nothing_is_replayed_beside_a_chain_whose_holdout_is_unknown(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus, store = await sealed_world(tmp_path, *some(0, 64))
        Pieces(tmp_path / "store").blob_of((await chain_of(bus)).batches[1], "manifest.json").unlink()
        with pytest.raises(StoreError, match=r"what qwen3_8b-000002 holds out is not known.*ruminate datasets rebuild"):
            await replay(bus, store, of_live())
        assert not (tmp_path / "store" / "replays").exists()

    asyncio.run(scenario())
